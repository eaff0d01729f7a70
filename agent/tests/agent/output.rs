//! The program's output: every line once, in order, as text, and all of it before the report.

use orca_proto::limits::{LOG_LINE, LOG_LINES};
use orca_proto::log::Stream;
use orca_proto::task::Outcome;

use super::fake_node::{FakeNode, runs};

#[tokio::test]
async fn lines_of_both_streams_are_numbered_without_gaps() {
    let node = FakeNode::new("for i in 1 2 3; do echo out $i; echo err $i >&2; done; printf last");
    assert_eq!(node.outcome().await, Outcome::Succeeded);
    assert_eq!(node.text(Stream::Stdout), ["out 1", "out 2", "out 3", "last"]);
    assert_eq!(node.text(Stream::Stderr), ["err 1", "err 2", "err 3"]);
    assert_eq!(node.told(|told| told.lines_at_report), 7);
}

#[tokio::test]
async fn rubbish_becomes_text() {
    let node = FakeNode::new(r"printf 'a\377b\000c\n\nd\r\n'");
    node.run().await;
    assert_eq!(node.text(Stream::Stdout), ["a\u{fffd}b\u{2400}c", "", "d\r"]);
}

#[tokio::test]
async fn a_line_without_an_end_is_split_and_loses_nothing() {
    let node = FakeNode::new("head -c 5000000 /dev/zero | tr '\\0' x");
    node.run().await;
    let lines = node.text(Stream::Stdout);
    assert!(lines.iter().all(|line| line.len() <= LOG_LINE));
    assert_eq!(lines.iter().map(String::len).sum::<usize>(), 5_000_000);
}

#[tokio::test]
async fn many_lines_go_in_batches() {
    let node = FakeNode::new("seq 1 50000");
    node.run().await;
    let expected: Vec<String> = (1..=50_000).map(|n| n.to_string()).collect();
    assert_eq!(node.text(Stream::Stdout), expected);
    node.told(|told| {
        assert_eq!(told.lines_at_report, 50_000);
        assert!(told.batches.len() < 2_000 && told.batches.iter().all(|lines| *lines <= LOG_LINES));
    });
}

#[tokio::test]
async fn a_node_that_takes_part_of_a_batch_gets_the_rest_again() {
    let node = FakeNode::new("seq 1 500");
    node.told(|told| told.lines_per_batch = Some(7));
    node.run().await;
    assert_eq!(node.text(Stream::Stdout).len(), 500);
}

#[tokio::test]
async fn a_line_is_there_while_the_program_still_runs() {
    let node = FakeNode::new("echo ready; exec sleep 60");
    let mut agent = node.start_until_ready().await;
    assert!(node.told(|told| told.reports.is_empty()));
    agent.signal(rustix::process::Signal::TERM);
    agent.ended().await;
}

#[tokio::test]
async fn a_node_that_takes_no_lines_makes_the_program_wait_in_bounded_memory() {
    let node =
        FakeNode::new("echo ready; yes 'a line of the flood' | head -c 6000000; echo done > $ORCA_DIR/done");
    let mut agent = node.start_until_ready().await;
    node.told(|told| told.hold_logs = true);
    // The flood cannot end while nobody takes it: pipes and room hold a small part of it.
    let status = format!("/proc/{}/status", agent.pid.as_raw_nonzero());
    for _ in 0..20 {
        let text = std::fs::read_to_string(&status).unwrap();
        let resident: u64 = text
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.trim().strip_suffix(" kB"))
            .unwrap()
            .parse()
            .unwrap();
        assert!(resident < 40_000, "{resident} kB");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(!node.path("done").exists());
    node.told(|told| told.hold_logs = false);
    assert_eq!(agent.ended().await.code(), Some(0));
    assert!(node.path("done").exists());
    let bytes: usize = node.text(Stream::Stdout).iter().map(|line| line.len() + 1).sum();
    assert!((6_000_000..6_000_020).contains(&bytes), "{bytes}");
}

#[tokio::test]
async fn a_program_that_forks_and_exits_leaves_nothing_behind() {
    let node = FakeNode::new(
        "sleep 300 & echo $!; setsid sleep 301 & echo $!; \
         setsid sh -c 'setsid sleep 302 & echo $! > $ORCA_DIR/inner; wait' & \
         until [ -s $ORCA_DIR/inner ]; do sleep 0.01; done; cat $ORCA_DIR/inner; echo over",
    );
    assert_eq!(node.outcome().await, Outcome::Succeeded);
    let lines = node.text(Stream::Stdout);
    assert_eq!(lines.len(), 4, "{lines:?}");
    for pid in lines.iter().filter(|line| *line != "over") {
        assert!(!runs(pid), "{pid} of {lines:?}");
    }
}
