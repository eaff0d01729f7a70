//! Where the tests find what they try, by environment variable:
//!
//! | variable | what | default |
//! |---|---|---|
//! | `ORCA_BIN_DIR` | directory with all of Orca's binaries | `dist/dev` in the workspace |
//! | `ORCA_TEST_POSTGRES_IMAGE` | image made from `compose/postgres/` | `orca-postgres:15` |
//! | `ORCA_TEST_BASE_IMAGE` | image with a shell, `awk` and `tail` | `debian:bookworm-slim` |

use std::path::{Path, PathBuf};

/// The root of the workspace.
#[must_use]
pub fn workspace() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().expect("the workspace is where it was when the tests were built")
}

/// The directory of binaries.
#[must_use]
pub fn binaries() -> PathBuf {
    std::env::var_os("ORCA_BIN_DIR").map_or_else(|| workspace().join("dist/dev"), PathBuf::from)
}

/// The binary called `name`.
///
/// # Panics
/// If it has not been built.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let path = binaries().join(name);
    assert!(
        path.is_file(),
        "{} is not there: build it with `cargo xtask dist --profile dev`, or set ORCA_BIN_DIR",
        path.display()
    );
    path
}

/// The image of Postgres.
#[must_use]
pub fn postgres_image() -> String {
    std::env::var("ORCA_TEST_POSTGRES_IMAGE").unwrap_or_else(|_| "orca-postgres:15".to_owned())
}

/// An image with a shell.
#[must_use]
pub fn base_image() -> String {
    std::env::var("ORCA_TEST_BASE_IMAGE").unwrap_or_else(|_| "debian:bookworm-slim".to_owned())
}

/// A port of the loopback that nothing listens on, below those that the kernel gives to outgoing connections, and not given
/// to another test of this process.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    const FIRST: u16 = 12_000;
    const SPAN: u16 = 18_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test binaries may run side by side: each begins elsewhere.
    let start = u16::try_from(std::process::id().wrapping_mul(211) % u32::from(SPAN)).unwrap_or(0);
    for _ in 0..SPAN {
        let offset = (u32::from(start) + u32::from(NEXT.fetch_add(1, Ordering::Relaxed))) % u32::from(SPAN);
        let port = FIRST + u16::try_from(offset).unwrap_or(0);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port of the loopback is free between {FIRST} and {}", FIRST + SPAN);
}
