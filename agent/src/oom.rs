//! Memory: finding out whether the kernel killed something of this container for it, and making sure that it is the
//! program and not the agent.
//!
//! The counters are those of the container's own cgroup, as version 1 and version 2 mount them. Where the agent is not
//! process 1 the mounted files are the whole machine's, so they say nothing about this attempt and are not read.

use std::fs;

/// Counters of `oom_kill` in the container's cgroup: version 2, version 1.
const COUNTERS: [&str; 2] = ["/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"];
const OWN_SCORE: &str = "/proc/self/oom_score_adj";
/// How much likelier than the agent the kernel should find the program.
const RAISE: i32 = 500;
const HIGHEST_SCORE: i32 = 1_000;

/// How many of this container's processes the kernel has killed for memory so far.
#[derive(Debug)]
pub(crate) struct KillCount {
    before: Option<u64>,
}

impl KillCount {
    /// Remembers the count before the program starts.
    pub(crate) fn begin() -> Self {
        Self { before: current() }
    }

    /// Whether the kernel has killed one since.
    pub(crate) fn rose(&self) -> bool {
        match (self.before, current()) {
            (Some(before), Some(now)) => now > before,
            _ => false,
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
    fn both_versions_of_the_counter_are_read() {
        assert_eq!(oom_kills("low 0\nhigh 0\nmax 7\noom 3\noom_kill 2\noom_group_kill 0\n"), Some(2));
        assert_eq!(oom_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 41\n"), Some(41));
        assert_eq!(oom_kills("oom_kill_disable 0\nunder_oom 0\n"), None);
    }
}
