//! Memory: finding out whether the kernel killed something of this container for it, and making sure that it is the
//! program and not the agent.
//!
//! The counters are those of the container's own cgroup, as version 1 and version 2 mount them. Where the agent is not
//! process 1 the mounted files are the whole machine's, so they say nothing about this attempt and are not read.

use std::fs;
use std::time::Duration;

use tokio::time::Instant;

/// Counters of `oom_kill` in the container's cgroup: version 2, version 1.
const COUNTERS: [&str; 2] = ["/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"];
const OWN_SCORE: &str = "/proc/self/oom_score_adj";
/// How much likelier than the agent the kernel should find the program.
const RAISE: i32 = 500;
const HIGHEST_SCORE: i32 = 1_000;

/// A process that dies for memory is gone so soon after it was counted; one that dies later died of something else.
const LATELY: Duration = Duration::from_secs(5);
/// Time between two looks at the count.
pub(crate) const LOOK: Duration = Duration::from_secs(1);

/// What is known of the kernel's kills for memory in this container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kills {
    /// None, or nothing is known.
    None,
    /// Some, but longer ago than what ended just now.
    Earlier,
    /// One just now.
    Lately,
}

/// How many of this container's processes the kernel has killed for memory so far, and when the last was.
#[derive(Debug)]
pub(crate) struct KillCount {
    known: Option<u64>,
    last: Option<Instant>,
}

impl KillCount {
    /// Remembers the count before the program starts.
    pub(crate) fn begin() -> Self {
        Self { known: current(), last: None }
    }

    /// Whether the count can be seen.
    pub(crate) const fn is_seen(&self) -> bool {
        self.known.is_some()
    }

    /// Looks whether the count rose.
    pub(crate) fn look(&mut self) {
        self.note(current(), Instant::now());
    }

    fn note(&mut self, count: Option<u64>, now: Instant) {
        if let (Some(known), Some(count)) = (self.known, count)
            && count > known
        {
            (self.known, self.last) = (Some(count), Some(now));
        }
    }

    /// What to say of something that ended at `now`.
    pub(crate) fn kills(&self, now: Instant) -> Kills {
        match self.last {
            None => Kills::None,
            Some(last) if now.saturating_duration_since(last) < LATELY => Kills::Lately,
            Some(_) => Kills::Earlier,
        }
    }
}

fn current() -> Option<u64> {
    if !crate::reap::is_init() {
        return None;
    }
    COUNTERS.iter().find_map(|path| oom_kills(&fs::read_to_string(path).ok()?))
}

fn oom_kills(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// While it lives, a process started by the agent is likelier to be killed for memory than the agent is. A child keeps
/// the score that it was born with; the agent gets its own back on drop.
pub(crate) struct Scapegoat {
    own: Option<String>,
}

impl Scapegoat {
    /// Best effort: without `/proc` the kernel judges by size alone, and the agent is small.
    pub(crate) fn designate() -> Self {
        let own = fs::read_to_string(OWN_SCORE).ok();
        let raised = own.as_deref().and_then(|score| score.trim().parse::<i32>().ok()).is_some_and(|score| {
            fs::write(OWN_SCORE, (score + RAISE).min(HIGHEST_SCORE).to_string()).is_ok()
        });
        Self { own: own.filter(|_| raised) }
    }
}

impl Drop for Scapegoat {
    fn drop(&mut self) {
        if let Some(own) = &self.own {
            // The kernel lets a process go back to the score that it was given; if not, nothing is lost but rank.
            let _ = fs::write(OWN_SCORE, own.trim());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_counts_for_what_ends_soon_after_it_and_not_for_what_ends_later() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut kills = KillCount { known: Some(3), last: None };
        kills.note(Some(3), at(1));
        assert_eq!(kills.kills(at(1)), Kills::None);
        kills.note(Some(4), at(2));
        kills.note(Some(4), at(4));
        assert_eq!((kills.kills(at(4)), kills.kills(at(8))), (Kills::Lately, Kills::Earlier));
        kills.note(Some(6), at(9));
        assert_eq!(kills.kills(at(9)), Kills::Lately);
        let mut blind = KillCount { known: None, last: None };
        blind.note(Some(9), at(1));
        assert_eq!((blind.kills(at(1)), blind.is_seen()), (Kills::None, false));
    }

    #[test]
    fn both_versions_of_the_counter_are_read() {
        assert_eq!(oom_kills("low 0\nhigh 0\nmax 7\noom 3\noom_kill 2\noom_group_kill 0\n"), Some(2));
        assert_eq!(oom_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 41\n"), Some(41));
        assert_eq!(oom_kills("oom_kill_disable 0\nunder_oom 0\n"), None);
    }
}
