//! Where the private cluster's unix socket is: beside its data, or, as a socket's path is short by law, somewhere shorter.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};

use super::account::Account;
use crate::error::Failure;
use crate::profile::directory_of;

/// What the kernel allows for the path of a unix socket, without the NUL at its end.
const LONGEST: usize = 107;
/// The socket's name in its directory.
const NAME: &str = "/.s.PGSQL.5432.lock";

/// Makes (or finds) a directory for the socket of the cluster in `data`, that only its owner can enter.
///
/// # Errors
/// A [`Failure`] if it cannot be made, or somebody else made it.
pub(super) fn prepare(data: &Path, account: Option<&Account>) -> Result<PathBuf, Failure> {
    let directory = choose(data, account.is_none().then(|| directory_of("XDG_RUNTIME_DIR")).flatten());
    let failed = |error: io::Error| Failure::file(format!("cannot make {}", directory.display()), &error);
    match std::fs::DirBuilder::new().mode(0o700).create(&directory) {
        Ok(()) => {
            if let Some(account) = account {
                chown(&directory, Some(account.uid), Some(account.gid)).map_err(failed)?;
            }
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error)),
    }
    let metadata = std::fs::symlink_metadata(&directory).map_err(failed)?;
    let owner = account.map_or_else(|| rustix::process::geteuid().as_raw(), |account| account.uid);
    if !metadata.is_dir() || metadata.uid() != owner || metadata.mode() & 0o077 != 0 {
        return Err(Failure::invalid(format!("{} cannot be trusted", directory.display()))
            .because("it is not a directory that only Postgres's account can enter")
            .hint("remove it, or choose a shorter directory with --data"));
    }
    Ok(directory)
}

fn choose(data: &Path, runtime_dir: Option<PathBuf>) -> PathBuf {
    let beside = data.join("socket");
    if beside.as_os_str().len() + NAME.len() <= LONGEST {
        return beside;
    }
    let mut hasher = DefaultHasher::new();
    data.hash(&mut hasher);
    let name = format!("orca-{:016x}", hasher.finish());
    let short = |parent: &PathBuf| parent.as_os_str().len() + 1 + name.len() + NAME.len() <= LONGEST;
    runtime_dir.filter(short).unwrap_or_else(|| PathBuf::from("/tmp")).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_data_directory_gets_a_short_socket_of_its_own() {
        assert_eq!(choose(Path::new("/var/lib/orca/dev"), None), Path::new("/var/lib/orca/dev/socket"));
        let long = |c: &str| PathBuf::from(format!("/{}", c.repeat(100)));
        let (a, b) = (choose(&long("a"), None), choose(&long("b"), None));
        assert!(a.starts_with("/tmp") && a != b);
        assert_eq!(choose(&long("a"), None), a);
        assert!(choose(&long("a"), Some("/run/user/1000".into())).starts_with("/run/user/1000"));
    }
}
