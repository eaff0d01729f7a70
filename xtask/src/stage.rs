//! One line per stage: its name, dots while it runs, and how long it took.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// The stages so far.
pub(crate) struct Stages {
    begun: Instant,
    done: Vec<(String, Duration)>,
}

impl Stages {
    /// No stage yet.
    pub(crate) fn new() -> Self {
        Self { begun: Instant::now(), done: Vec::new() }
    }

    /// Runs `work` as the stage `name`.
    ///
    /// # Errors
    /// That of `work`, with the stage's name.
    pub(crate) async fn run<T>(&mut self, name: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        print!("{name:<34} ");
        flush();
        let begun = Instant::now();
        let mut dots = tokio::time::interval(Duration::from_secs(20));
        dots.tick().await;
        tokio::pin!(work);
        let outcome = loop {
            tokio::select! {
                outcome = &mut work => break outcome,
                _ = dots.tick() => {
                    print!(".");
                    flush();
                }
            }
        };
        let took = begun.elapsed();
        println!(" {} {:>7.1} s", if outcome.is_ok() { "ok    " } else { "FAILED" }, took.as_secs_f64());
        self.done.push((name.to_owned(), took));
        outcome.with_context(|| format!("the stage \"{name}\" failed"))
    }

    /// What the stages took, slowest first, in one paragraph.
    pub(crate) fn summary(&self) -> String {
        let mut slowest = self.done.clone();
        slowest.sort_by_key(|(_, took)| std::cmp::Reverse(*took));
        let slowest: Vec<String> = slowest
            .iter()
            .take(3)
            .map(|(name, took)| format!("{name} {:.0} s", took.as_secs_f64()))
            .collect();
        let all = self.begun.elapsed();
        format!(
            "{} stages passed in {} min {:02} s (longest: {})",
            self.done.len(),
            all.as_secs() / 60,
            all.as_secs() % 60,
            slowest.join(", ")
        )
    }
}

/// Says something inside a stage, on a line of its own.
pub(crate) fn note(text: &str) {
    println!("\n    {text}");
}

fn flush() {
    let _ = std::io::stdout().flush();
}
