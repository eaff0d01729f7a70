//! From what was seen of an attempt to what is reported of it. Pure.

use orca_proto::agent::AgentReport;
use orca_proto::attempt::Report;
use orca_proto::limits;
use orca_proto::plan::Plan;
use orca_proto::task::{Outcome, Step, Timeout};
use serde_json::Value;

use super::Interrupted;
use crate::runtime::{Exit, PostMortem};

/// Why an attempt was stopped from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Nothing may be reported any more.
    LeaseOver,
    /// Somebody asked to cancel the task.
    Cancelled,
    /// The node goes down and did not get to drain.
    Evicted,
    /// The task's deadline was reached.
    Deadline,
}

/// How the watch over a container ended.
#[derive(Debug)]
pub(super) enum Ending {
    /// The agent reported.
    Reported(AgentReport),
    /// The container ended without a report.
    Exited(Exit),
    /// The agent did not start its program in time.
    Idle,
    /// The program outlived its time limit, and the agent did not stop it.
    Overdue,
    /// It wrote more into its directory than it may; says how much that is.
    Overfull(String),
    /// From outside. A cancel only when the agent did not carry it out.
    Stopped(Stop),
    /// The engine did not start it.
    Unstarted {
        /// What it said.
        fault: Interrupted,
        /// Whether it may come to life all the same.
        uncertain: bool,
    },
}

/// Everything that bears on the verdict besides the ending.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    /// For planners, which step.
    pub(super) step: Option<Step>,
    /// Whether somebody asked to cancel the task.
    pub(super) cancel_asked: bool,
    /// The limit for which the node had the program stopped, before any cancel.
    pub(super) limit: Option<Timeout>,
    /// The result that the program posted.
    pub(super) result: Option<Value>,
    /// The plan that the program posted.
    pub(super) plan: Option<Plan>,
    /// What the engine knows, where it was asked.
    pub(super) post_mortem: PostMortem,
}

/// Most of a reason that is kept, in bytes; with NUL made visible it still fits what the coordinator takes.
const REASON: usize = 4 << 10;
/// The exit code of a shell whose last command was killed.
const SHELL_KILLED: i32 = 128 + 9;

/// Whether the engine should be asked about memory before the verdict.
pub(super) fn wants_post_mortem(ending: &Ending) -> bool {
    match ending {
        Ending::Exited(_) | Ending::Idle => true,
        Ending::Reported(report) => {
            // An agent that could see for itself has said it.
            !report.memory_watched
                && matches!(
                    report.outcome,
                    Outcome::Killed { signal: 9 } | Outcome::Failed { exit_code: SHELL_KILLED, .. }
                )
        }
        _ => false,
    }
}

/// Whether an agent may say this of its program. The rest is for the node and the coordinator to find out.
pub(super) const fn is_for_agents(outcome: &Outcome) -> bool {
    !matches!(outcome, Outcome::Lost | Outcome::RuntimeError { .. })
}

/// What to report; `None` when nothing may be.
pub(super) fn verdict(ending: Ending, evidence: Evidence) -> Option<Report> {
    let Report { outcome, result, plan } = judge(ending, evidence)?;
    Some(Report { outcome: fit(outcome), result, plan })
}

/// The outcome as the coordinator takes it: containers, engines and registries can say anything, but an outcome that is refused
/// would never be recorded.
pub(super) fn fit(mut outcome: Outcome) -> Outcome {
    match &mut outcome {
        Outcome::Failed { reason: Some(reason), .. }
        | Outcome::Rejected { reason }
        | Outcome::RuntimeError { reason } => make_fit(reason),
        _ => {}
    }
    outcome
}

fn make_fit(reason: &mut String) {
    if reason.len() > REASON {
        reason.truncate(reason.floor_char_boundary(REASON));
        reason.push('…');
    }
    if reason.contains('\0') {
        *reason = reason.replace('\0', "\u{2400}");
    }
}

fn judge(ending: Ending, evidence: Evidence) -> Option<Report> {
    let plain = |outcome| Some(Report { outcome, result: None, plan: None });
    match ending {
        Ending::Reported(report) if report.outcome == Outcome::Succeeded => Some(success(report, evidence)),
        Ending::Reported(report) => plain(reported(report.outcome, &evidence)),
        Ending::Exited(exit) => plain(exited(exit, &evidence)),
        Ending::Idle => plain(Outcome::RuntimeError {
            reason: with_words("the agent did not start the program", &evidence.post_mortem),
        }),
        Ending::Overfull(reason) => plain(Outcome::Failed { exit_code: SHELL_KILLED, reason: Some(reason) }),
        Ending::Overdue => plain(overdue(&evidence)),
        Ending::Stopped(stop) => stopped(stop).and_then(plain),
        Ending::Unstarted { .. } if evidence.cancel_asked => plain(Outcome::Cancelled),
        Ending::Unstarted { fault: Interrupted::Unfit(outcome), .. } => plain(outcome),
        Ending::Unstarted { fault: Interrupted::Stopped(stop), .. } => stopped(stop).and_then(plain),
    }
}

fn overdue(evidence: &Evidence) -> Outcome {
    match evidence.limit {
        Some(which) => Outcome::TimedOut { which },
        None if evidence.cancel_asked => Outcome::Cancelled,
        None => Outcome::TimedOut { which: Timeout::StartToClose },
    }
}

/// What a stop from outside is reported as.
pub(super) fn stopped(stop: Stop) -> Option<Outcome> {
    match stop {
        Stop::LeaseOver => None,
        Stop::Cancelled => Some(Outcome::Cancelled),
        Stop::Deadline => Some(Outcome::TimedOut { which: Timeout::Deadline }),
        Stop::Evicted => Some(Outcome::RuntimeError { reason: "the node was shut down".into() }),
    }
}

fn success(report: AgentReport, evidence: Evidence) -> Report {
    // What a program posted counts before what it left in a file.
    let result = evidence.result.or(report.result);
    let plan = evidence.plan.or(report.plan);
    let failed = |reason: &str| Report {
        outcome: Outcome::Failed { exit_code: 0, reason: Some(reason.to_owned()) },
        result: None,
        plan: None,
    };
    let too_large =
        |value: &Value| serde_json::to_string(value).map_or(usize::MAX, |text| text.len()) > limits::RESULT;
    match (evidence.step, result, plan) {
        (_, Some(_), Some(_)) => {
            failed("the program returned both a plan and a result; it must be one of them")
        }
        (None, None, Some(_)) => failed("the program returned a plan, which only planners may"),
        (Some(_), None, None) => failed("the planner ended without a plan or a result"),
        (_, Some(result), None) if too_large(&result) => {
            failed("the result is larger than 1 MiB; keep it as an artifact")
        }
        (_, result, plan) => Report { outcome: Outcome::Succeeded, result, plan },
    }
}

fn reported(outcome: Outcome, evidence: &Evidence) -> Outcome {
    if let (Some(which), Outcome::Killed { .. } | Outcome::Cancelled) = (evidence.limit, &outcome) {
        return Outcome::TimedOut { which };
    }
    match outcome {
        Outcome::Killed { .. } if evidence.cancel_asked => Outcome::Cancelled,
        Outcome::Killed { signal: 9 } | Outcome::Failed { exit_code: SHELL_KILLED, .. }
            if evidence.post_mortem.out_of_memory =>
        {
            Outcome::OutOfMemory
        }
        // Something else than this node sent the signal.
        Outcome::Cancelled if !evidence.cancel_asked => Outcome::Killed { signal: 15 },
        outcome => outcome,
    }
}

fn exited(exit: Exit, evidence: &Evidence) -> Outcome {
    if let Some(which) = evidence.limit {
        return Outcome::TimedOut { which };
    }
    if evidence.cancel_asked {
        return Outcome::Cancelled;
    }
    if let Some(signal) = evidence.post_mortem.killed_by {
        return Outcome::Killed { signal };
    }
    if evidence.post_mortem.out_of_memory {
        return Outcome::OutOfMemory;
    }
    match exit {
        Exit::Signal(signal) => Outcome::Killed { signal },
        Exit::Gone => Outcome::RuntimeError { reason: "somebody removed the container while it ran".into() },
        Exit::Code(code) => Outcome::RuntimeError {
            reason: with_words(
                &format!("the agent ended with code {code} and without a report"),
                &evidence.post_mortem,
            ),
        },
    }
}

fn with_words(what: &str, post_mortem: &PostMortem) -> String {
    if post_mortem.said.is_empty() { what.to_owned() } else { format!("{what}: {}", post_mortem.said) }
}

#[cfg(test)]
mod tests {
    use orca_proto::spec::NewTask;
    use serde_json::json;

    use super::*;

    fn report(outcome: Outcome) -> Ending {
        Ending::Reported(AgentReport { outcome, result: None, plan: None, memory_watched: false })
    }

    fn outcome(ending: Ending, evidence: Evidence) -> Outcome {
        verdict(ending, evidence).unwrap().outcome
    }

    fn oom() -> PostMortem {
        PostMortem { out_of_memory: true, ..PostMortem::default() }
    }

    #[test]
    fn a_container_that_exits_with_0_and_without_a_report_did_not_succeed() {
        let said = PostMortem { said: "no brief".into(), ..PostMortem::default() };
        let got =
            outcome(Ending::Exited(Exit::Code(0)), Evidence { post_mortem: said, ..Evidence::default() });
        assert_eq!(
            got,
            Outcome::RuntimeError {
                reason: "the agent ended with code 0 and without a report: no brief".into()
            }
        );
    }

    #[test]
    fn a_planner_must_return_a_plan_or_a_result_and_not_both() {
        let planner = || Evidence { step: Some(Step::Plan), ..Evidence::default() };
        let failed =
            |evidence| matches!(outcome(report(Outcome::Succeeded), evidence), Outcome::Failed { .. });
        assert!(failed(planner()));
        let plan = Some(Plan { tasks: vec![NewTask::new("a")] });
        assert!(failed(Evidence { plan: plan.clone(), result: Some(json!(1)), ..planner() }));
        assert!(!failed(Evidence { plan: plan.clone(), ..planner() }));
        assert!(!failed(Evidence { result: Some(json!(null)), ..planner() }));
        assert!(failed(Evidence { plan, ..Evidence::default() }));
    }

    #[test]
    fn what_was_posted_counts_before_what_was_left_in_a_file() {
        let left = AgentReport {
            outcome: Outcome::Succeeded,
            result: Some(json!("left")),
            plan: None,
            memory_watched: true,
        };
        let posted = Evidence { result: Some(json!("posted")), ..Evidence::default() };
        assert_eq!(verdict(Ending::Reported(left.clone()), posted).unwrap().result, Some(json!("posted")));
        assert_eq!(verdict(Ending::Reported(left), Evidence::default()).unwrap().result, Some(json!("left")));
    }

    #[test]
    fn a_result_over_the_limit_is_a_failure_with_a_reason() {
        let large = Evidence { result: Some(json!("x".repeat(limits::RESULT))), ..Evidence::default() };
        assert!(matches!(
            outcome(report(Outcome::Succeeded), large),
            Outcome::Failed { reason: Some(_), .. }
        ));
    }

    #[test]
    fn a_kill_for_memory_is_told_from_other_kills() {
        let killed = || report(Outcome::Killed { signal: 9 });
        assert_eq!(outcome(killed(), Evidence::default()), Outcome::Killed { signal: 9 });
        assert_eq!(
            outcome(killed(), Evidence { post_mortem: oom(), ..Evidence::default() }),
            Outcome::OutOfMemory
        );
        let shell = report(Outcome::Failed { exit_code: 137, reason: None });
        assert_eq!(
            outcome(shell, Evidence { post_mortem: oom(), ..Evidence::default() }),
            Outcome::OutOfMemory
        );
        let other = report(Outcome::Failed { exit_code: 1, reason: None });
        assert_eq!(
            outcome(other, Evidence { post_mortem: oom(), ..Evidence::default() }),
            Outcome::Failed { exit_code: 1, reason: None }
        );
    }

    #[test]
    fn a_container_that_somebody_killed_did_not_run_out_of_memory_whatever_happened_in_it_before() {
        let exited = || Ending::Exited(Exit::Signal(9));
        assert_eq!(
            outcome(exited(), Evidence { post_mortem: oom(), ..Evidence::default() }),
            Outcome::OutOfMemory
        );
        let post_mortem = PostMortem { killed_by: Some(9), ..oom() };
        assert_eq!(
            outcome(exited(), Evidence { post_mortem, ..Evidence::default() }),
            Outcome::Killed { signal: 9 }
        );
    }

    #[test]
    fn an_agent_that_watched_the_memory_is_not_asked_twice() {
        for outcome in [Outcome::Killed { signal: 9 }, Outcome::Failed { exit_code: 137, reason: None }] {
            let report = |memory_watched| AgentReport {
                outcome: outcome.clone(),
                result: None,
                plan: None,
                memory_watched,
            };
            assert!(wants_post_mortem(&Ending::Reported(report(false))));
            assert!(!wants_post_mortem(&Ending::Reported(report(true))));
        }
    }

    #[test]
    fn a_cancel_counts_only_if_somebody_asked_for_it() {
        assert_eq!(outcome(report(Outcome::Cancelled), Evidence::default()), Outcome::Killed { signal: 15 });
        for ending in [
            report(Outcome::Cancelled),
            report(Outcome::Killed { signal: 9 }),
            Ending::Exited(Exit::Signal(9)),
            Ending::Overdue,
            Ending::Stopped(Stop::Cancelled),
        ] {
            assert_eq!(
                outcome(ending, Evidence { cancel_asked: true, ..Evidence::default() }),
                Outcome::Cancelled
            );
        }
        let finished = Evidence { cancel_asked: true, ..Evidence::default() };
        assert_eq!(outcome(report(Outcome::Succeeded), finished), Outcome::Succeeded);
    }

    #[test]
    fn a_limit_that_the_node_found_reached_is_the_reason_however_the_program_ended() {
        for which in [Timeout::Heartbeat, Timeout::Deadline] {
            for ending in [
                report(Outcome::TimedOut { which }),
                report(Outcome::Cancelled),
                report(Outcome::Killed { signal: 9 }),
                Ending::Exited(Exit::Signal(9)),
                Ending::Overdue,
            ] {
                let evidence = Evidence { limit: Some(which), cancel_asked: true, ..Evidence::default() };
                assert_eq!(outcome(ending, evidence), Outcome::TimedOut { which });
            }
            let evidence = Evidence { limit: Some(which), ..Evidence::default() };
            assert_eq!(outcome(report(Outcome::Succeeded), evidence), Outcome::Succeeded);
        }
        let prepared_for_too_long = Ending::Stopped(Stop::Deadline);
        let deadline = Outcome::TimedOut { which: Timeout::Deadline };
        assert_eq!(outcome(prepared_for_too_long, Evidence::default()), deadline);
    }

    #[test]
    fn whatever_a_container_says_becomes_a_reason_that_can_be_recorded() {
        let said = format!("\0{}", "€".repeat(9_000));
        let failed = report(Outcome::Failed { exit_code: 1, reason: Some(said) });
        let Outcome::Failed { reason: Some(reason), .. } = outcome(failed, Evidence::default()) else {
            panic!("another outcome");
        };
        assert!(reason.starts_with("\u{2400}€") && reason.ends_with("€…"), "{reason}");
        assert!(reason.len() < 2 * REASON);
    }

    #[test]
    fn nothing_is_reported_once_the_lease_is_over() {
        assert_eq!(verdict(Ending::Stopped(Stop::LeaseOver), Evidence::default()), None);
    }

    #[test]
    fn an_attempt_that_the_node_gave_up_is_tried_again_without_using_it_up() {
        let got = outcome(Ending::Stopped(Stop::Evicted), Evidence::default());
        assert!(matches!(got, Outcome::RuntimeError { .. }));
    }
}
