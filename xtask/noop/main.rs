//! The smallest task there is: notes when it was started, in nanoseconds since 1970 by this machine's clock, and ends.
//! With an argument it first sleeps that many seconds. Compiled by `cargo xtask bench` into a static binary.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

fn main() {
    let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let place = std::env::var_os("ORCA_RESULT").unwrap_or_else(|| "/orca/out/result.json".into());
    let next = std::path::Path::new(&place).with_extension("next");
    // Whole or not at all: somebody may be looking.
    let written = std::fs::write(&next, started.to_string()).and_then(|()| std::fs::rename(&next, &place));
    if let Err(error) = written {
        eprintln!("cannot write {}: {error}", place.to_string_lossy());
        std::process::exit(1);
    }
    if let Some(seconds) = std::env::args().nth(1).and_then(|text| text.parse().ok()) {
        std::thread::sleep(Duration::from_secs(seconds));
    }
}
