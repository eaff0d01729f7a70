//! The board: every run's figure, their medians as a table beside the targets, and the list that goes into a file.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::database::Cost;
use crate::measure::Measure;

/// One figure of one run.
#[derive(Clone, Debug)]
struct Run {
    measure: Measure,
    system: &'static str,
    value: f64,
}

/// What goes into the file.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Figure {
    measure: &'static str,
    system: &'static str,
    value: f64,
    unit: &'static str,
}

/// The names of the systems, in the order in which they are shown.
pub(crate) const SYSTEMS: [&str; 4] = ["floor", "graphile_worker", "awa", "orca"];

/// Collects what was measured.
#[derive(Debug, Default)]
pub(crate) struct Board {
    runs: Vec<Run>,
    costs: Vec<(Measure, &'static str, Cost)>,
    wrong: Vec<String>,
}

impl Board {
    /// Takes a figure and prints it.
    pub(crate) fn add(&mut self, measure: Measure, system: &'static str, value: f64) {
        println!("  {:<24} {system:<16} {} {}", measure.name(), number(value), measure.unit());
        self.runs.push(Run { measure, system, value });
    }

    /// Takes what a run cost and prints it.
    pub(crate) fn cost(&mut self, measure: Measure, system: &'static str, cost: Cost) {
        println!("  {:<24} {system:<16} {}", "", describe(&cost));
        self.costs.push((measure, system, cost));
    }

    /// Takes something that must not be.
    pub(crate) fn wrong(&mut self, what: String) {
        println!("  WRONG: {what}");
        self.wrong.push(what);
    }

    /// The median of a measure's runs.
    pub(crate) fn median(&self, measure: Measure, system: &str) -> Option<f64> {
        let values = self.runs.iter().filter(|run| run.measure == measure && run.system == system);
        median(values.map(|run| run.value).collect())
    }

    /// The table of all medians, with the targets and whether they are reached.
    pub(crate) fn table(&self) -> String {
        let mut text = format!("{:<24}", "measure");
        for system in SYSTEMS {
            text += &format!("{system:>16}");
        }
        text += "  target\n";
        for measure in Measure::ALL {
            let medians: Vec<Option<f64>> =
                SYSTEMS.iter().map(|system| self.median(measure, system)).collect();
            if medians.iter().all(Option::is_none) {
                continue;
            }
            text += &format!("{:<24}", measure.name());
            for value in &medians {
                text += &format!("{:>16}", value.map_or_else(|| "–".to_owned(), number));
            }
            let verdict = match measure.reached(self) {
                Some(true) => "reached: ",
                Some(false) => "MISSED: ",
                None => "",
            };
            text += &format!("  {verdict}{}\n", measure.target());
        }
        for (measure, system, cost) in self.medians_of_costs() {
            text += &format!("{:<24}{system:>16}  {}\n", measure.name(), describe(&cost));
        }
        for what in &self.wrong {
            text += &format!("WRONG: {what}\n");
        }
        text
    }

    fn medians_of_costs(&self) -> Vec<(Measure, &'static str, Cost)> {
        let mut found = Vec::new();
        for measure in Measure::ALL {
            for system in SYSTEMS {
                let of = |part: fn(&Cost) -> f64| {
                    let matching = self.costs.iter().filter(|(m, s, _)| *m == measure && *s == system);
                    median(matching.map(|(_, _, cost)| part(cost)).collect())
                };
                let all = (
                    of(|cost| cost.wal),
                    of(|cost| cost.commits),
                    of(|cost| cost.writes),
                    of(|cost| cost.dead),
                );
                if let (Some(wal), Some(commits), Some(writes), Some(dead)) = all {
                    found.push((measure, system, Cost { wal, commits, writes, dead }));
                }
            }
        }
        found
    }

    /// Whether something was wrong, other than slow.
    pub(crate) fn is_wrong(&self) -> bool {
        !self.wrong.is_empty()
    }

    /// Writes the medians as a list of JSON objects.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let mut figures = Vec::new();
        for measure in Measure::ALL {
            for system in SYSTEMS {
                if let Some(value) = self.median(measure, system) {
                    figures.push(Figure { measure: measure.name(), system, value, unit: measure.unit() });
                }
            }
        }
        let mut text = serde_json::to_vec_pretty(&figures)?;
        text.push(b'\n');
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

fn describe(cost: &Cost) -> String {
    format!(
        "per task: {:.0} bytes of WAL, {:.4} commits, {:.2} row writes; {:.0} dead rows in all",
        cost.wal, cost.commits, cost.writes, cost.dead
    )
}

fn number(value: f64) -> String {
    match value {
        value if value.abs() >= 1_000.0 => format!("{value:.0}"),
        value if value.abs() >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.3}"),
    }
}

/// The middle of the values, or the mean of the two in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.get(values.len().saturating_sub(1) / 2)?, values.get(values.len() / 2)?);
    Some(f64::midpoint(*low, *high))
}

/// The value below which the share `part` (0 to 1) of the samples lies: the nearest rank. 0 of no samples.
pub(crate) fn percentile(samples: &[f64], part: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).or(sorted.last()).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_three_is_the_one_in_the_middle_and_of_two_their_mean() {
        assert_eq!(median(vec![9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(vec![1.0, 2.0]), Some(1.5));
        assert_eq!(median(Vec::new()), None);
    }

    #[test]
    fn percentiles_are_samples_of_the_nearest_rank() {
        let samples: Vec<f64> = (1..=20).rev().map(f64::from).collect();
        assert_eq!([0.0, 0.5, 0.95, 1.0].map(|part| percentile(&samples, part)), [1.0, 10.0, 19.0, 20.0]);
        assert_eq!(percentile(&[], 0.5), 0.0);
    }

    #[test]
    fn a_target_beside_the_best_peer_is_judged_by_the_peers_of_the_same_run() {
        let mut board = Board::default();
        board.add(Measure::Drain, "awa", 10.0);
        board.add(Measure::Drain, "graphile_worker", 70.0);
        board.add(Measure::Drain, "orca", 71.0);
        assert_eq!(Measure::Drain.reached(&board), Some(true));
        board.add(Measure::StartP50, "orca", 1.4);
        assert_eq!(Measure::StartP50.reached(&board), None);
        board.add(Measure::StartP50, "graphile_worker", 1.0);
        assert_eq!(Measure::StartP50.reached(&board), Some(false));
    }
}
