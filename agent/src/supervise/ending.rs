//! How a program ends, without any process in sight: what was asked of it, when it must be killed, and what its end means.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use orca_proto::task::{Outcome, Timeout};
use rustix::process::Signal;
use tokio::time::Instant;

use crate::contact::Gone;
use crate::oom::Kills;

/// The exit code with which a shell passes on that its last command was killed by SIGKILL.
const SHELL_SAW_KILL: i32 = 128 + 9;

/// Why the agent ends the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// Somebody asked for it.
    Cancelled,
    /// A limit was reached.
    Limit(Timeout),
    /// The node is gone, or the lease.
    Gone(Gone),
}

/// A program that is being ended.
#[derive(Clone, Copy, Debug)]
struct Stop {
    why: Why,
    kill_at: Instant,
}

/// What the agent has asked of the program so far.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    stop: Option<Stop>,
}

impl Ending {
    /// Asks for the program's end, `grace` after a SIGTERM. Whether the SIGTERM is to be sent now: the first reason stays
    /// the reason, but a later wish can bring SIGKILL nearer.
    pub(crate) fn ask(&mut self, why: Why, now: Instant, grace: Duration) -> bool {
        let kill_at = now + grace;
        match &mut self.stop {
            None => {
                self.stop = Some(Stop { why, kill_at });
                true
            }
            Some(stop) => {
                stop.kill_at = stop.kill_at.min(kill_at);
                // Nobody is left to hear of a cancellation or a limit.
                if matches!(why, Why::Gone(_)) {
                    stop.why = why;
                }
                false
            }
        }
    }

    /// When to send SIGKILL.
    pub(crate) fn kill_at(&self) -> Option<Instant> {
        self.stop.map(|stop| stop.kill_at)
    }

    /// Why the program was ended, if it was.
    pub(crate) fn why(&self) -> Option<Why> {
        self.stop.map(|stop| stop.why)
    }

    /// What to report of a program that ended with `status`; `kills` is what the kernel killed of this container for memory
    /// meanwhile. `Err` where there is nobody to report to.
    pub(crate) fn outcome(&self, status: ExitStatus, kills: Kills) -> Result<Outcome, Gone> {
        match self.why() {
            Some(Why::Gone(gone)) => Err(gone),
            Some(Why::Cancelled) => Ok(Outcome::Cancelled),
            Some(Why::Limit(which)) => Ok(Outcome::TimedOut { which }),
            None => Ok(by_itself(status, kills)),
        }
    }
}

fn by_itself(status: ExitStatus, kills: Kills) -> Outcome {
    let lately = kills == Kills::Lately;
    if let Some(signal) = status.signal() {
        if lately && signal == Signal::KILL.as_raw() {
            return Outcome::OutOfMemory;
        }
        return Outcome::Killed { signal };
    }
    match status.code() {
        Some(0) => Outcome::Succeeded,
        Some(SHELL_SAW_KILL) if lately => Outcome::OutOfMemory,
        code => Outcome::Failed {
            exit_code: code.unwrap_or(-1),
            reason: (kills != Kills::None)
                .then(|| "the kernel killed one of its processes for going over the memory limit".to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    fn exited(code: i32) -> ExitStatus {
        ExitStatus::from_raw(code << 8)
    }

    fn killed(signal: i32) -> ExitStatus {
        ExitStatus::from_raw(signal)
    }

    #[test]
    fn a_program_that_ends_by_itself_is_told_by_its_status() {
        let ending = Ending::default();
        let failed = |exit_code| Outcome::Failed { exit_code, reason: None };
        assert_eq!(ending.outcome(exited(0), Kills::None), Ok(Outcome::Succeeded));
        assert_eq!(ending.outcome(exited(7), Kills::None), Ok(failed(7)));
        assert_eq!(ending.outcome(exited(137), Kills::None), Ok(failed(137)));
        assert_eq!(ending.outcome(killed(11), Kills::None), Ok(Outcome::Killed { signal: 11 }));
        assert_eq!(ending.outcome(killed(9), Kills::None), Ok(Outcome::Killed { signal: 9 }));
    }

    #[test]
    fn memory_is_the_reason_only_where_a_kill_and_the_counter_agree() {
        let ending = Ending::default();
        assert_eq!(ending.outcome(killed(9), Kills::Lately), Ok(Outcome::OutOfMemory));
        assert_eq!(ending.outcome(exited(137), Kills::Lately), Ok(Outcome::OutOfMemory));
        assert_eq!(ending.outcome(killed(11), Kills::Lately), Ok(Outcome::Killed { signal: 11 }));
        assert_eq!(ending.outcome(exited(0), Kills::Lately), Ok(Outcome::Succeeded));
        assert!(matches!(
            ending.outcome(exited(1), Kills::Lately),
            Ok(Outcome::Failed { exit_code: 1, reason: Some(reason) }) if reason.contains("memory")
        ));
    }

    #[test]
    fn a_process_that_the_kernel_killed_earlier_is_not_why_the_program_ends_now() {
        let ending = Ending::default();
        assert_eq!(ending.outcome(killed(9), Kills::Earlier), Ok(Outcome::Killed { signal: 9 }));
        assert_eq!(ending.outcome(exited(0), Kills::Earlier), Ok(Outcome::Succeeded));
        assert!(matches!(
            ending.outcome(exited(137), Kills::Earlier),
            Ok(Outcome::Failed { exit_code: 137, reason: Some(reason) }) if reason.contains("memory")
        ));
    }

    #[test]
    fn the_first_reason_stays_and_the_shortest_grace_counts() {
        let now = Instant::now();
        let mut ending = Ending::default();
        assert!(ending.ask(Why::Limit(Timeout::StartToClose), now, GRACE));
        assert!(!ending.ask(Why::Cancelled, now, Duration::ZERO));
        assert_eq!(ending.kill_at(), Some(now));
        assert!(!ending.ask(Why::Cancelled, now, GRACE));
        assert_eq!(ending.kill_at(), Some(now));
        assert_eq!(
            ending.outcome(exited(0), Kills::None),
            Ok(Outcome::TimedOut { which: Timeout::StartToClose })
        );
    }

    #[test]
    fn nothing_is_reported_once_the_lease_is_lost() {
        let now = Instant::now();
        let mut ending = Ending::default();
        assert!(ending.ask(Why::Cancelled, now, GRACE));
        assert!(!ending.ask(Why::Gone(Gone::LeaseLost), now, Duration::ZERO));
        assert_eq!(ending.outcome(killed(9), Kills::None), Err(Gone::LeaseLost));
    }
}
