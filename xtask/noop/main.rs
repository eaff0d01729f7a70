//! The smallest task there is: notes when it was started, in nanoseconds since 1970 by this machine's clock, and ends.
//! `N` sleeps so many seconds first, `lines N` prints N numbered lines of 100 bytes as fast as it can, `ticks N` prints one every
//! 100 ms. Compiled by `cargo xtask bench` into a static binary.

use std::io::{BufWriter, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

fn main() {
    let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let place = std::env::var_os("ORCA_RESULT").unwrap_or_else(|| "/orca/out/result.json".into());
    let next = std::path::Path::new(&place).with_extension("next");
    // Whole or not at all: somebody may be looking.
    let written = std::fs::write(&next, started.to_string()).and_then(|()| std::fs::rename(&next, &place));
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
    let done = written.and_then(|()| match arguments.first().map(String::as_str) {
        None => Ok(()),
        Some("lines") => print(number(1), Duration::ZERO),
        Some("ticks") => print(number(1), Duration::from_millis(100)),
        Some(_) => {
            std::thread::sleep(Duration::from_secs(number(0)));
            Ok(())
        }
    });
    if let Err(error) = done {
        eprintln!("cannot write: {error}");
        std::process::exit(1);
    }
}

fn print(lines: u64, pause: Duration) -> std::io::Result<()> {
    let mut out = BufWriter::with_capacity(64 << 10, std::io::stdout().lock());
    for number in 0..lines {
        writeln!(out, "{number:>9} {:.<89}", "")?;
        if !pause.is_zero() {
            out.flush()?;
            std::thread::sleep(pause);
        }
    }
    out.flush()
}
