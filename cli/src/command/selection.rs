//! Which tasks an order for many is about, from flags.

use jiff::Timestamp;
use orca_proto::ids::TaskId;
use orca_proto::selector::Selector;
use orca_proto::task::State;

use super::census::Census;
use super::{argument, moment};
use crate::error::Failure;
use crate::output::Output;

/// Filters; a task must pass all that are given.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Which tasks")]
pub(super) struct SelectionArgs {
    /// Those in this queue
    #[arg(long, short)]
    queue: Option<String>,
    /// Those in this group
    #[arg(long)]
    group: Option<String>,
    /// Those with exactly this name
    #[arg(long)]
    name: Option<String>,
    /// Those in these states, separated by commas
    #[arg(long, short, value_delimiter = ',', value_name = "STATE")]
    state: Vec<State>,
    /// Those with this label; given again, with all of them
    #[arg(long, short, value_name = "KEY=VALUE", value_parser = argument::pair)]
    label: Vec<(String, String)>,
    /// Those enqueued before this instant (RFC 3339), or longer ago than this, such as 2d
    #[arg(long, value_name = "TIME", value_parser = moment::past, allow_hyphen_values = true)]
    before: Option<Timestamp>,
    /// Really all of them, where nothing else is given
    #[arg(long)]
    all: bool,
    /// Do not ask
    #[arg(long, short, help_heading = None)]
    yes: bool,
    /// Say how many it is about, and do nothing
    #[arg(long, help_heading = None, conflicts_with = "yes")]
    dry_run: bool,
}

impl SelectionArgs {
    /// Whether there is a filter, or `--all`.
    pub(super) fn is_given(&self) -> bool {
        let selector = self.unchecked(&[]);
        selector.all || !selector.is_empty()
    }

    /// Whether not to ask.
    pub(super) fn yes(&self) -> bool {
        self.yes
    }

    /// Whether only the number is wanted.
    pub(super) fn dry_run(&self) -> bool {
        self.dry_run
    }

    fn unchecked(&self, ids: &[TaskId]) -> Selector {
        Selector {
            ids: ids.to_vec(),
            queue: self.queue.clone(),
            group: self.group.clone(),
            name: self.name.clone(),
            states: self.state.clone(),
            labels: self.label.iter().cloned().collect(),
            created_before: self.before,
            all: self.all,
        }
    }

    /// The tasks among `ids` (all where there are none) that pass the filters.
    ///
    /// # Errors
    /// A [`Failure`] if nothing in particular is meant, or a filter is not valid.
    pub(super) fn selector(&self, ids: &[TaskId]) -> Result<Selector, Failure> {
        argument::each_once("--label", &self.label)?;
        let selector = self.unchecked(ids);
        if selector.is_empty() && !selector.all {
            return Err(Failure::invalid("which tasks?")
                .hint("give ids, or a filter such as --queue or --label, or --all for all of them"));
        }
        let mut errors = Vec::new();
        selector.validate("", &mut errors);
        if errors.is_empty() {
            Ok(selector)
        } else {
            Err(Failure::invalid("the filters are not valid").fields(errors))
        }
    }
}

/// Tells how many tasks an order would be about.
///
/// # Errors
/// A [`Failure`] if standard output cannot be written.
pub(super) fn would(census: &Census, what: &str, output: Output) -> Result<(), Failure> {
    if output.is_json() { output.json(census) } else { output.line(&format!("{census} {what}")) }
}

/// A selection in words, such as `all in queue slow with label a=b`.
pub(super) fn in_words(selector: &Selector) -> String {
    let Selector { ids, queue, group, name, states, labels, created_before, all: _ } = selector;
    let mut words = vec![match ids.len() {
        0 => "all".to_owned(),
        count => format!("those of {count} given"),
    }];
    let mut add = |text: String| words.push(text);
    if let Some(queue) = queue {
        add(format!("in queue {queue}"));
    }
    if let Some(group) = group {
        add(format!("in group {group}"));
    }
    if let Some(name) = name {
        add(format!("named {name:?}"));
    }
    if !states.is_empty() {
        let states: Vec<&str> = states.iter().map(|state| state.as_str()).collect();
        add(format!("that are {}", states.join(" or ")));
    }
    for (key, value) in labels {
        add(format!("with label {key}={value}"));
    }
    if let Some(before) = created_before {
        add(format!("enqueued before {before:.0}"));
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        selection: SelectionArgs,
    }

    fn parse(line: &[&str]) -> SelectionArgs {
        Line::try_parse_from(std::iter::once("orca").chain(line.iter().copied())).unwrap().selection
    }

    #[test]
    fn a_selection_is_told_as_it_was_meant() {
        let args = parse(&[
            "-q",
            "slow",
            "--group",
            "g",
            "-s",
            "ready,blocked",
            "-l",
            "a=b",
            "--before",
            "2026-01-01T00:00:00Z",
        ]);
        assert_eq!(
            in_words(&args.selector(&[]).unwrap()),
            "all in queue slow in group g that are ready or blocked with label a=b enqueued before 2026-01-01T00:00:00Z"
        );
    }

    #[test]
    fn nothing_in_particular_is_not_everything() {
        assert!(parse(&["--yes"]).selector(&[]).is_err());
        assert!(parse(&["--all"]).selector(&[]).unwrap().all);
        assert!(parse(&[]).selector(&[TaskId::new()]).is_ok());
        assert!(parse(&["--queue", "a b"]).selector(&[]).is_err(), "no queue has such a name");
    }
}
