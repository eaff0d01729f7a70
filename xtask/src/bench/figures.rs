//! Figures: one measure of one system, with its unit; written as a list of JSON objects.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

/// One figure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Figure {
    /// What was measured.
    pub(crate) measure: String,
    /// Of what.
    pub(crate) system: String,
    /// How much.
    pub(crate) value: f64,
    /// Of which unit.
    pub(crate) unit: &'static str,
}

impl Figure {
    pub(crate) fn new(measure: impl Into<String>, system: &str, value: f64, unit: &'static str) -> Self {
        Self { measure: measure.into(), system: system.to_owned(), value, unit }
    }
}

/// Prints the figures, and writes them where asked to.
///
/// # Errors
/// If the file cannot be written.
pub(crate) fn put(figures: &[Figure], file: Option<&Path>) -> Result<()> {
    println!();
    for figure in figures {
        println!("{:<28} {:<18} {:>12.3} {}", figure.measure, figure.system, figure.value, figure.unit);
    }
    if let Some(path) = file {
        let mut text = serde_json::to_vec_pretty(figures)?;
        text.push(b'\n');
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The value below which the share `part` (0 to 1) of the samples lies: the nearest rank. 0 of no samples.
pub(crate) fn percentile(samples: &[f64], part: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank within the samples")]
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).or(sorted.last()).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_of_the_nearest_rank() {
        let samples: Vec<f64> = (1..=20).rev().map(f64::from).collect();
        assert_eq!([0.0, 0.5, 0.95, 1.0].map(|part| percentile(&samples, part)), [1.0, 10.0, 19.0, 20.0]);
        assert_eq!(percentile(&[], 0.5), 0.0);
    }
}
