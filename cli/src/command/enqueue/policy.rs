//! What a task asks of the queue, from flags: its group and its nodes, how long it waits and for what, when it is tried again.

use std::str::FromStr;

use jiff::Timestamp;
use orca_proto::duration::Span;
use orca_proto::spec::{Approval, Backoff, NewTask, OnTimeout, RetryOn, Unique, UniqueWhile, WaitFor};
use serde::de::IntoDeserializer;
use serde::de::value::{Error, StrDeserializer};

use crate::command::{argument, moment};
use crate::error::Failure;

/// The policies of a task.
#[derive(Debug, clap::Args)]
#[group(id = "PolicyArgs", multiple = true)]
#[command(next_help_heading = "Waiting and trying again")]
pub(in crate::command) struct PolicyArgs {
    /// Group inside the queue, for fair shares and limits
    #[arg(long)]
    group: Option<String>,
    /// Node label that it needs: a value, * for any, !value for another or none
    #[arg(long, value_name = "KEY=VALUE", value_parser = argument::wish)]
    require: Vec<(String, String)>,
    /// Node label that it would rather have, for its first 3 s in line
    #[arg(long, value_name = "KEY=VALUE", value_parser = argument::wish)]
    prefer: Vec<(String, String)>,
    /// Instant (RFC 3339), or time from now such as 2h, by which it must have begun, and at which it is stopped
    #[arg(long, value_name = "TIME", value_parser = moment::future, allow_hyphen_values = true)]
    deadline: Option<Timestamp>,
    /// How long it may wait for a node before it expires
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    schedule_to_start: Option<Span>,
    /// Stop it when it has not reported progress for this long
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    heartbeat: Option<Span>,
    /// At most one open task has this key; where there is one, that one is answered
    #[arg(long, value_name = "KEY")]
    unique: Option<String>,
    /// For how long it holds its unique key
    #[arg(long, value_enum, value_name = "WHEN", requires = "unique")]
    unique_while: Option<Holds>,
    /// Wait until an operator approves it (`orca approve`); with =TEXT, what they are asked
    #[arg(long, value_name = "TEXT", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    approval: Option<String>,
    /// How long to wait for the approval; then it is cancelled, or with :proceed goes on
    #[arg(
        long,
        value_name = "DURATION[:proceed]",
        value_parser = patience,
        requires = "approval",
        allow_hyphen_values = true
    )]
    approval_timeout: Option<Patience>,
    /// Wait until this signal has arrived (`orca signal`), such as go, go:5m or go:5m:proceed
    #[arg(long, value_name = "NAME[:DURATION[:proceed]]", value_parser = wait_for)]
    wait_for: Vec<WaitFor>,
    /// Outcomes worth another attempt, separated by commas: failed, timed_out, out_of_memory, killed, lost
    #[arg(long, value_delimiter = ',', value_name = "OUTCOME", value_parser = outcome)]
    retry_on: Vec<RetryOn>,
    /// Exit code worth another attempt; the others are not
    #[arg(long, value_name = "CODE", value_parser = argument::number::<i32>, allow_hyphen_values = true)]
    retry_exit_code: Vec<i32>,
    /// Exit code not worth another attempt; the others are
    #[arg(long, value_name = "CODE", value_parser = argument::number::<i32>, allow_hyphen_values = true)]
    no_retry_exit_code: Vec<i32>,
    /// Wait between attempts: `fixed:5s`, or `exponential:FIRST[:FACTOR[:LONGEST]]` such as `exponential:1s:2:300s`
    #[arg(long, value_name = "HOW", value_parser = backoff, allow_hyphen_values = true)]
    backoff: Option<Backoff>,
    /// Carried along and shown, never looked at
    #[arg(long, value_name = "KEY=TEXT", value_parser = argument::pair)]
    annotation: Vec<(String, String)>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Holds {
    /// Until it has ended
    Open,
    /// Until its first attempt begins
    Queued,
}

/// How long to wait for somebody, and what then.
type Patience = (Span, OnTimeout);

impl PolicyArgs {
    /// Puts them into `task`.
    ///
    /// # Errors
    /// A [`Failure`] if flags contradict each other.
    pub(super) fn apply(&self, task: &mut NewTask) -> Result<(), Failure> {
        argument::each_once("--require", &self.require)?;
        argument::each_once("--prefer", &self.prefer)?;
        argument::each_once("--annotation", &self.annotation)?;
        if let Some(code) = self.retry_exit_code.iter().find(|code| self.no_retry_exit_code.contains(code)) {
            let what = format!("exit code {code} cannot be worth another attempt and not");
            return Err(Failure::invalid(what).because("--retry-exit-code and --no-retry-exit-code name it"));
        }
        task.group.clone_from(&self.group);
        task.requires.extend(self.require.iter().cloned());
        task.prefers.extend(self.prefer.iter().cloned());
        task.deadline = self.deadline;
        task.timeouts.schedule_to_start = self.schedule_to_start;
        task.timeouts.heartbeat = self.heartbeat;
        task.unique = self.unique.as_ref().map(|key| Unique {
            key: key.clone(),
            r#while: match self.unique_while {
                None | Some(Holds::Open) => UniqueWhile::Open,
                Some(Holds::Queued) => UniqueWhile::Queued,
            },
        });
        task.approval = self.approval.as_ref().map(|prompt| Approval {
            prompt: Some(prompt.clone()).filter(|prompt| !prompt.is_empty()),
            timeout: self.approval_timeout.map(|(timeout, _)| timeout),
            on_timeout: self.approval_timeout.map_or_else(OnTimeout::default, |(_, then)| then),
        });
        task.wait_for.clone_from(&self.wait_for);
        if !self.retry_on.is_empty() {
            task.retry.retry_on.clone_from(&self.retry_on);
        }
        task.retry.exit_codes.clone_from(&self.retry_exit_code);
        task.retry.except_exit_codes.clone_from(&self.no_retry_exit_code);
        if let Some(backoff) = &self.backoff {
            task.retry.backoff = backoff.clone();
        }
        task.annotations.extend(self.annotation.iter().cloned());
        Ok(())
    }
}

fn patience(text: &str) -> Result<Patience, String> {
    let (timeout, then) = match text.split_once(':') {
        None => (text, OnTimeout::Cancel),
        Some((timeout, "cancel")) => (timeout, OnTimeout::Cancel),
        Some((timeout, "proceed")) => (timeout, OnTimeout::Proceed),
        Some(_) => return Err("must be a duration such as 5m, or 5m:proceed".to_owned()),
    };
    Ok((timeout.parse::<Span>().map_err(|error| error.to_string())?, then))
}

fn wait_for(text: &str) -> Result<WaitFor, String> {
    let (signal, rest) = match text.split_once(':') {
        None => (text, None),
        Some((signal, rest)) => (signal, Some(patience(rest)?)),
    };
    Ok(WaitFor {
        signal: signal.to_owned(),
        timeout: rest.map(|(timeout, _)| timeout),
        on_timeout: rest.map_or_else(OnTimeout::default, |(_, then)| then),
    })
}

fn outcome(text: &str) -> Result<RetryOn, String> {
    let reader: StrDeserializer<'_, Error> = text.into_deserializer();
    serde::Deserialize::deserialize(reader)
        .map_err(|_| "must be failed, timed_out, out_of_memory, killed or lost".to_owned())
}

fn backoff(text: &str) -> Result<Backoff, String> {
    fn part<T: FromStr<Err: std::fmt::Display>>(text: Option<&str>, usual: T) -> Result<T, String> {
        text.map_or(Ok(usual), |text| text.parse().map_err(|error| format!("{text:?}: {error}")))
    }
    let usual = Backoff::default();
    let mut parts = text.split(':');
    let backoff = match (parts.next(), parts.next()) {
        (Some("fixed"), Some(wait)) => {
            let wait = part(Some(wait), usual.initial)?;
            Backoff { initial: wait, factor: 1.0, max: wait, jitter: 0.0 }
        }
        (Some("exponential"), Some(initial)) => {
            let initial = part(Some(initial), usual.initial)?;
            let factor = part(parts.next(), usual.factor)?;
            let max = part(parts.next(), usual.max.max(initial))?;
            Backoff { initial, factor, max, ..usual }
        }
        _ => return Err("must be fixed:5s or exponential:1s:2:300s".to_owned()),
    };
    match parts.next() {
        None => Ok(backoff),
        Some(more) => Err(format!("{more:?} is one part too many")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        policy: Option<PolicyArgs>,
    }

    fn applied(line: &[&str]) -> NewTask {
        let line = Line::try_parse_from(std::iter::once("orca").chain(line.iter().copied())).unwrap();
        let mut task = NewTask::new("debian");
        line.policy.unwrap_or_else(|| panic!("no policy among the flags")).apply(&mut task).unwrap();
        task
    }

    #[test]
    fn flags_become_the_policies_of_a_task() {
        let task = applied(&[
            "--group",
            "g",
            "--require",
            "gpu=a100",
            "--prefer",
            "zone=*",
            "--unique",
            "k",
            "--unique-while",
            "queued",
            "--approval=Deploy?",
            "--approval-timeout",
            "1h:proceed",
            "--wait-for",
            "go",
            "--wait-for",
            "late:5m:proceed",
            "--annotation",
            "ticket=17",
            "--retry-exit-code",
            "75",
            "--no-retry-exit-code",
            "2",
            "--retry-on",
            "failed,lost",
            "--heartbeat",
            "30s",
            "--backoff",
            "fixed:5s",
            "--deadline",
            "2h",
        ]);
        assert_eq!(
            (task.group.as_deref(), task.requires["gpu"].as_str(), task.prefers["zone"].as_str()),
            (Some("g"), "a100", "*")
        );
        assert_eq!(task.unique, Some(Unique { key: "k".into(), r#while: UniqueWhile::Queued }));
        let approval = task.approval.clone().unwrap();
        assert_eq!((approval.prompt.as_deref(), approval.on_timeout), (Some("Deploy?"), OnTimeout::Proceed));
        assert_eq!(task.wait_for[1].timeout, Some(Span::secs(300)));
        assert_eq!((&task.wait_for[0].timeout, task.wait_for[1].on_timeout), (&None, OnTimeout::Proceed));
        assert_eq!((&task.retry.exit_codes[..], &task.retry.except_exit_codes[..]), (&[75][..], &[2][..]));
        assert_eq!(task.retry.retry_on, [RetryOn::Failed, RetryOn::Lost]);
        assert_eq!((task.retry.backoff.factor, task.retry.backoff.max), (1.0, Span::secs(5)));
        assert!(task.deadline.is_some() && task.timeouts.heartbeat.is_some());
        let mut errors = Vec::new();
        task.validate("", &mut errors);
        assert!(errors.is_empty(), "{errors:?}");
    }

    #[test]
    fn an_approval_needs_no_words() {
        assert_eq!(applied(&["--approval"]).approval, Some(Approval::default()));
    }

    #[test]
    fn a_backoff_is_fixed_or_grows() {
        let grows = backoff("exponential:2s:3:1m").unwrap();
        assert_eq!((grows.initial, grows.factor, grows.max), (Span::secs(2), 3.0, Span::secs(60)));
        assert_eq!(backoff("exponential:10m").unwrap().max, Span::secs(600), "never shorter than the first");
        for wrong in [
            "5s",
            "fixed",
            "fixed:soon",
            "fixed:5s:2",
            "exponential:1s:x",
            "exponential:1s:2:3s:4",
            "linear:1s",
        ] {
            assert!(backoff(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_outcome_or_wait_that_is_none_is_refused() {
        for wrong in ["cancelled", "Failed", ""] {
            assert!(outcome(wrong).is_err(), "{wrong}");
        }
        for wrong in ["go:soon", "go:5m:maybe", "go:5m:proceed:x"] {
            assert!(wait_for(wrong).is_err(), "{wrong}");
        }
    }
}
