//! Processes other than the program: orphans that fall to the agent, and whatever a program leaves behind when it ends.
//!
//! As process 1 every orphan of the container falls to the agent; elsewhere it asks to be the reaper of its own
//! descendants, so that even a process that left the program's group and session can be found and ended.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions};
use tokio::time::{Instant, sleep};

/// How long killed processes may take to go; longer only when the kernel holds one in an uninterruptible call.
const SWEEP: Duration = Duration::from_secs(2);

/// Whether this is process 1 of a container, so that every process it can see is the attempt's.
pub(crate) fn is_init() -> bool {
    rustix::process::getpid() == Pid::INIT
}

/// Makes orphaned descendants this process's children. Best effort; as process 1 they are in any case.
pub(crate) fn adopt_orphans() {
    if !is_init() {
        let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    }
}

/// Collects every child that has ended. The status of `program`, if it was among them.
pub(crate) fn collect(program: Pid) -> Option<ExitStatus> {
    let mut found = None;
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == program && (status.exited() || status.signaled()) => {
                found = Some(ExitStatus::from_raw(status.as_raw()));
            }
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) | Err(_) => return found,
        }
    }
}

/// Sends `signal` to the program's group, and to the program itself in case it moved to another.
pub(crate) fn signal(program: Pid, signal: Signal) {
    let _ = rustix::process::kill_process_group(program, signal);
    if rustix::process::getpgid(Some(program)).is_ok_and(|group| group != program) {
        let _ = rustix::process::kill_process(program, signal);
    }
}

/// Ends everything that the program left running and waits until it is gone, for at most [`SWEEP`].
///
/// Call it once the program has been collected.
pub(crate) async fn sweep(program: Pid) {
    let end = Instant::now() + SWEEP;
    let mut pause = Duration::from_millis(1);
    loop {
        let _ = rustix::process::kill_process_group(program, Signal::KILL);
        if is_init() {
            // To every process but this one: in a container's own process namespace they are all the attempt's.
            let _ = rustix::process::kill_process_group(Pid::INIT, Signal::KILL);
        } else {
            for child in children() {
                let _ = rustix::process::kill_process(child, Signal::KILL);
            }
        }
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
        if Instant::now() >= end {
            return;
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// This process's children, by `/proc`; none where that is not mounted.
fn children() -> Vec<Pid> {
    let Ok(threads) = fs::read_dir("/proc/self/task") else { return Vec::new() };
    threads
        .filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok())
        .flat_map(|text| {
            text.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect::<Vec<_>>()
        })
        .collect()
}
