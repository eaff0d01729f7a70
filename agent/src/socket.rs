//! Unix sockets by path, also where the path is longer than a socket's address may be (107 bytes).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// Longest path in a `sockaddr_un`, without its closing zero.
const LONGEST_ADDRESS: usize = 107;

/// A name for the same socket that fits an address; holds its directory open for as long as the name is used.
struct Address {
    path: PathBuf,
    _parent: Option<File>,
}

impl Address {
    fn of(path: &Path) -> io::Result<Self> {
        if path.as_os_str().len() <= LONGEST_ADDRESS {
            return Ok(Self { path: path.to_path_buf(), _parent: None });
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a socket's path needs a file name"));
        };
        let parent = File::open(parent)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd())).join(name);
        Ok(Self { path, _parent: Some(parent) })
    }
}

/// Connects to the socket at `path`.
///
/// # Errors
/// When it is absent, nobody listens there, or this user may not use it.
pub(crate) async fn connect(path: &Path) -> io::Result<UnixStream> {
    let address = Address::of(path)?;
    UnixStream::connect(&address.path).await
}

/// Listens at `path`, in place of whatever socket an earlier process left there, and lets every user connect: the
/// directory around it keeps strangers out, and the node need not be of this container's user.
///
/// # Errors
/// When the directory is not writable.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let address = Address::of(path)?;
    let listener = UnixListener::bind(&address.path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_path_longer_than_an_address_still_connects() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("d".repeat(100)).join("e".repeat(100));
        std::fs::create_dir_all(&deep).unwrap();
        let path = deep.join("node.sock");
        let listener = listen(&path).unwrap();
        let (client, server) = tokio::join!(connect(&path), listener.accept());
        client.unwrap();
        server.unwrap();
        let again = listen(&path).unwrap();
        drop((listener, again));
    }
}
