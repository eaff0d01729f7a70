//! Goals: from a planner's container by way of its plan to the result.

use std::time::Duration;

use orca_e2e::{Shape, scenario, settings, survey, tasks};
use orca_proto::duration::Span;
use orca_proto::spec::{InputArtifact, OnChildFailure, Resources, Role};
use orca_proto::task::{State, TaskFilter};
use serde_json::{Value, json};

fn planners_and_workers() -> Shape {
    Shape { planners: 1, workers: 2, ..Shape::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_goal_in_an_image_from_scratch_counts_a_directory_and_its_totals_are_right() {
    scenario(planners_and_workers(), async |system| {
        let tree = system.dir().join("tree");
        std::fs::create_dir_all(tree.join("deep/er")).unwrap();
        for number in 0..120_usize {
            let text = "one two Two three\n".repeat(number) + "no newline at the end";
            std::fs::write(tree.join(format!("deep/file {number}.txt")), text).unwrap();
        }
        std::fs::write(tree.join("empty"), "").unwrap();
        std::fs::write(tree.join("deep/er/a\nnew line"), "x\n").unwrap();
        std::fs::write(tree.join("deep/er/日本語 äöü"), [0xff, b'\n', 0, b'\n']).unwrap();
        std::os::unix::fs::symlink("empty", tree.join("link")).unwrap();
        let expected = survey::count(&tree);

        let mut archive = tar::Builder::new(Vec::new());
        archive.follow_symlinks(false);
        for entry in walkdir::WalkDir::new(&tree).into_iter().map(Result::unwrap) {
            if entry.file_type().is_file() {
                let name = entry.path().strip_prefix(&tree).unwrap();
                archive.append_path_with_name(entry.path(), name).unwrap();
            }
        }
        let archive = archive.into_inner().unwrap();
        let artifact = system.client().upload("tree.tar", archive.into()).await.unwrap();

        let survey_binary = settings::binary("survey");
        let dockerfile = "FROM scratch\nCOPY survey /survey\nENTRYPOINT [\"/survey\"]\n";
        let image = system.image(dockerfile, &[("survey", &survey_binary)]).await;
        let mut goal = tasks::in_image("survey", &image);
        goal.role = Role::Plan;
        goal.container.command = vec!["/survey".into(), "goal".into()];
        goal.input = json!({ "tree": artifact.id, "parts": 5 });
        goal.artifacts = vec![InputArtifact { id: artifact.id, name: "tree".into(), unpack: true }];
        let id = system.enqueue(&goal).await;

        let done = system.succeeded(id, Duration::from_secs(90)).await;
        let result = done.result.unwrap();
        let total = |field: &str| result[field].as_u64();
        assert_eq!(total("files"), Some(expected.files), "{result}");
        assert_eq!(total("bytes"), Some(expected.bytes), "{result}");
        assert_eq!(total("lines"), Some(expected.lines), "{result}");

        let report: orca_proto::ids::ArtifactId = result["report"].as_str().unwrap().parse().unwrap();
        let report = system.json(report).await;
        let hashes: std::collections::BTreeMap<String, String> =
            serde_json::from_value(report["hashes"].clone()).unwrap();
        assert_eq!(hashes, expected.hashes);
        // 0 + 1 + … + 119 lines, with "two" twice in each once case is folded.
        assert_eq!(report["words"][0], json!(["two", 2 * 119 * 120 / 2]), "{}", report["words"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_receive_the_results_of_what_they_depend_on_and_the_finish_step_those_of_all() {
    scenario(planners_and_workers(), async |system| {
        let mut left = tasks::shell("left", &tasks::answer(&json!(20)));
        left.key = Some("left".into());
        let mut right = tasks::shell("right", &tasks::answer(&json!(22)));
        right.key = Some("right".into());
        let mut sum = tasks::shell("sum", "\"$ORCA_AGENT\" result - < \"$ORCA_DEPENDENCIES\"");
        sum.key = Some("sum".into());
        sum.depends_on = vec!["left".into(), "right".into()];
        let plan = json!({ "tasks": [sum, left, right] });
        let script = r#"case $ORCA_STEP in
            plan) cat "$ORCA_INPUT" > "$ORCA_PLAN" ;;
            finish) cat "$ORCA_DEPENDENCIES" > "$ORCA_RESULT" ;;
        esac"#;
        let id = system.enqueue(&tasks::goal("goal", script, plan)).await;

        let done = system.succeeded(id, Duration::from_secs(60)).await;
        let of = |tasks: &Value, key: &str| {
            let tasks = tasks["tasks"].as_array().unwrap();
            tasks.iter().find(|task| task["key"] == key).map(|task| task["result"].clone())
        };
        let seen_by_finish = done.result.unwrap();
        assert_eq!(of(&seen_by_finish, "left"), Some(json!(20)));
        let seen_by_sum = of(&seen_by_finish, "sum").unwrap();
        assert_eq!(of(&seen_by_sum, "left"), Some(json!(20)));
        assert_eq!(of(&seen_by_sum, "right"), Some(json!(22)));
        assert_eq!(of(&seen_by_sum, "sum"), None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_task_fails_its_goal_and_ends_the_rest() {
    scenario(planners_and_workers(), async |system| {
        let mut bad = tasks::shell("the bad one", "exit 3");
        bad.retry.max_attempts = 1;
        let long = tasks::shell("the long one", "sleep 60");
        let mut never = tasks::shell("the one after", "true");
        never.depends_on = vec!["bad".into()];
        bad.key = Some("bad".into());
        let script = r#"cat "$ORCA_INPUT" > "$ORCA_PLAN""#;
        let id = system.enqueue(&tasks::goal("goal", script, json!({ "tasks": [bad, long, never] }))).await;

        let done = system.ended(id, Duration::from_secs(40)).await;
        assert_eq!(done.summary.state, State::Failed);
        let reason = done.summary.reason.unwrap();
        assert!(reason.contains("the bad one") && reason.contains('3'), "{reason}");
        let filter = TaskFilter { parent: Some(id), ..TaskFilter::default() };
        for task in system.client().tasks(&filter).await.unwrap().items {
            let expected: &[State] = match task.name.as_str() {
                "the bad one" => &[State::Failed],
                "the long one" => &[State::Cancelled],
                "the one after" => &[State::Skipped, State::Cancelled],
                _ => &[State::Skipped, State::Cancelled],
            };
            assert!(expected.contains(&task.state), "{} is {}", task.name, task.state);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_goal_that_goes_on_after_failures_sees_them_in_its_finish_step() {
    scenario(planners_and_workers(), async |system| {
        let mut bad = tasks::shell("bad", "exit 3");
        bad.retry.max_attempts = 1;
        let good = tasks::shell("good", "true");
        let script = r#"case $ORCA_STEP in
            plan) "$ORCA_AGENT" plan "$ORCA_INPUT" ;;
            finish) "$ORCA_AGENT" result - < "$ORCA_DEPENDENCIES" ;;
        esac"#;
        let mut goal = tasks::goal("goal", script, json!({ "tasks": [bad, good] }));
        goal.on_child_failure = OnChildFailure::Continue;
        let id = system.enqueue(&goal).await;

        let result = system.succeeded(id, Duration::from_secs(40)).await.result.unwrap();
        let states: Vec<_> = result["tasks"].as_array().unwrap().iter().map(|task| &task["state"]).collect();
        assert_eq!(states, ["failed", "succeeded"], "{result}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_circular_plan_is_refused_whole_and_fails_its_goal() {
    scenario(Shape { planners: 1, workers: 0, ..Shape::default() }, async |system| {
        let mut egg = tasks::shell("egg", "true");
        (egg.key, egg.depends_on) = (Some("egg".into()), vec!["hen".into()]);
        let mut hen = tasks::shell("hen", "true");
        (hen.key, hen.depends_on) = (Some("hen".into()), vec!["egg".into()]);
        let plan = json!({ "tasks": [egg, hen] });
        // Left in a file, and posted: neither gets through.
        for script in [r#"cat "$ORCA_INPUT" > "$ORCA_PLAN""#, r#""$ORCA_AGENT" plan "$ORCA_INPUT""#] {
            let id = system.enqueue(&tasks::goal("goal", script, plan.clone())).await;
            let done = system.ended(id, Duration::from_secs(30)).await;
            assert_eq!(done.summary.state, State::Failed);
            let told = format!("{:?} {:?}", done.summary.reason, system.log(id).await);
            assert!(told.contains("cycle"), "{told}");
            let filter = TaskFilter { parent: Some(id), ..TaskFilter::default() };
            assert_eq!(system.client().tasks(&filter).await.unwrap().items, []);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_of_100_001_tasks_is_refused_whole_and_fails_its_goal() {
    // The lease is the usual one: reading so large a plan takes a busy machine a while.
    let shape = Shape { lease: Span::secs(30), planners: 1, workers: 0, ..Shape::default() };
    scenario(shape, async |system| {
        let script = r#"awk 'BEGIN {
            printf "{\"tasks\":["
            for (i = 0; i < 100001; i++) printf "%s{\"container\":{\"image\":\"x\"}}", i ? "," : ""
            print "]}"
        }' > "$ORCA_PLAN""#;
        let mut goal = tasks::goal("goal", script, Value::Null);
        goal.resources = Resources::default();
        let id = system.enqueue(&goal).await;
        let done = system.ended(id, Duration::from_secs(60)).await;
        assert_eq!(done.summary.state, State::Failed);
        let reason = done.summary.reason.unwrap();
        assert!(reason.contains("100001") && reason.contains("100000"), "{reason}");
        let filter = TaskFilter { parent: Some(id), ..TaskFilter::default() };
        assert_eq!(system.client().tasks(&filter).await.unwrap().items, []);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_spawns_others_keeps_its_result_until_they_have_ended() {
    scenario(Shape::default(), async |system| {
        let child = tasks::shell("child", "sleep 2; \"$ORCA_AGENT\" result 1");
        let script = r#""$ORCA_AGENT" spawn "$ORCA_INPUT"; "$ORCA_AGENT" result 2"#;
        let mut parent = tasks::shell("parent", script);
        parent.input = json!(child);
        let id = system.enqueue(&parent).await;

        let waiting = system.task_when(id, "it waits for its child", Duration::from_secs(20), |task| {
            task.summary.state == State::Waiting
        });
        assert_eq!(waiting.await.result, None);
        let done = system.succeeded(id, Duration::from_secs(20)).await;
        assert_eq!(done.result, Some(json!(2)));
        let filter = TaskFilter { parent: Some(id), ..TaskFilter::default() };
        let children = system.client().tasks(&filter).await.unwrap().items;
        assert_eq!(children.iter().map(|task| task.state).collect::<Vec<_>>(), [State::Succeeded]);
    })
    .await;
}
