//! Reports in batches: results that can be read again, and repeats that are known however they were written.

use orca_proto::attempt::{AttemptReport, RefusedKind, Reports, Settled};
use orca_proto::node::Grant;
use orca_proto::task::{Outcome, State};
use serde_json::json;
use serde_json::value::RawValue;

use super::support::{TestApp, TestNode, after, task};

impl TestNode {
    /// Reports these results, each as the text that it is, in one batch.
    async fn report_texts(&self, reports: &[(&Grant, &str)]) -> Vec<Settled> {
        let report = |(grant, text): &(&Grant, &str)| AttemptReport::<Box<RawValue>> {
            task: grant.task,
            token: grant.token,
            outcome: Outcome::Succeeded,
            result: Some(RawValue::from_string((*text).to_owned()).unwrap()),
        };
        let reports = Reports { instance: self.instance, reports: reports.iter().map(report).collect() };
        self.app.node_reports(&self.who, self.id, reports).await.unwrap().settled
    }
}

fn refusal(settled: &Settled) -> Option<RefusedKind> {
    match settled {
        Settled::Refused(refused) => Some(refused.kind),
        Settled::State(_) => None,
    }
}

#[tokio::test]
async fn a_result_that_cannot_be_read_is_refused_and_the_others_of_its_batch_are_not() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let mut ids = Vec::new();
    for name in ["a", "b", "c"] {
        ids.push(test.enqueue(task(name)).await);
    }
    let behind = test.enqueue(after("behind", &[&ids[2].to_string()])).await;
    let grants = node.claim(3).await;
    let texts = ["1e999", r#""\ud800""#, "[1e9]"];
    let reports: Vec<(&Grant, &str)> = grants.iter().zip(texts).collect();
    let settled = node.report_texts(&reports).await;
    assert_eq!(refusal(&settled[0]), Some(RefusedKind::Validation));
    assert_eq!(refusal(&settled[1]), Some(RefusedKind::Validation));
    assert_eq!(settled[2], Settled::State(State::Succeeded));
    let task = test.task(ids[2]).await;
    assert_eq!((task.summary.state, task.result), (State::Succeeded, Some(json!([1e9]))));
    for id in &ids[..2] {
        assert_eq!(test.state(*id).await, State::Running);
    }
    assert_eq!(node.report_texts(&[(&grants[0], "1")]).await, [Settled::State(State::Succeeded)]);
    let grant = node.claim_one().await;
    assert_eq!(grant.task, behind);
    test.app.attempt_dependencies(&node.who, super::support::lease(&grant)).await.unwrap();
    test.stop().await;
}

#[tokio::test]
async fn the_same_result_again_is_answered_the_same_however_it_is_written() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let texts = [
        [r#"{"b":2,"a":1}"#, r#"{"a":1,"b":2}"#],
        [r#"{"a": 1}"#, r#"{"a":1}"#],
        ["1.0e2", "100.0"],
        ["-0", "-0.0"],
        [r#""\u0061""#, r#""a""#],
    ];
    test.fill(texts.len(), |n| task(&format!("t{n}"))).await;
    let grants = node.claim(10).await;
    for (grant, [first, again]) in grants.iter().zip(texts) {
        for text in [first, first, again] {
            let settled = node.report_texts(&[(grant, text)]).await;
            assert_eq!(settled, [Settled::State(State::Succeeded)], "{first} and then {text}");
        }
        let value = serde_json::from_str(first).unwrap();
        assert_eq!(node.succeed(grant, value).await, State::Succeeded);
        let other = node.report_texts(&[(grant, "[7]")]).await;
        assert_eq!(refusal(&other[0]), Some(RefusedKind::ResultConflict));
    }
    test.stop().await;
}
