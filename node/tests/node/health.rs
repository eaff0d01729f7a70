//! A node that cannot do its work takes none, says why, and comes back by itself; what runs on it goes on.

use std::path::{Path, PathBuf};
use std::time::Duration;

use orca_node::RuntimeKind;
use orca_proto::task::Outcome;
use tokio::io::copy_bidirectional;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use crate::docker::Bench;
use crate::rig::{Rig, shell};

/// The engine's socket at another place, where it can be made to hang.
struct Engine {
    hangs: watch::Sender<bool>,
    path: PathBuf,
}

impl Engine {
    fn start(dir: &Path) -> Self {
        let path = dir.join("engine.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let hangs = watch::Sender::new(false);
        let hanging = hangs.clone();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut hangs = hanging.subscribe();
                tokio::spawn(async move {
                    let mut far = UnixStream::connect("/var/run/docker.sock").await.unwrap();
                    loop {
                        tokio::select! {
                            biased;
                            // Nothing goes through, and nothing is closed.
                            Ok(_) = hangs.wait_for(|hangs| *hangs) => {}
                            _ended = copy_bidirectional(&mut near, &mut far) => return,
                        }
                        let _hangs_no_more = hangs.wait_for(|hangs| !*hangs).await;
                    }
                });
            }
        });
        Self { hangs, path }
    }
}

#[tokio::test]
async fn a_node_whose_disk_is_nearly_full_takes_no_work_and_says_so() {
    let lease = Duration::from_secs(30);
    let rig = Rig::with(RuntimeKind::Process, lease, |settings| settings.runtime.min_disk = u64::MAX).await;
    let why = rig.fake.until("the node's word", |book| book.unwell.clone()).await;
    assert!(why.contains("--min-disk"), "{why}");
    let claims = rig.fake.book().claims.len();
    rig.grant(shell("true"));
    let renewals = rig.fake.book().renewals;
    rig.fake.until("more renewals", |book| (book.renewals > renewals + 1).then_some(())).await;
    assert_eq!(rig.fake.book().claims.len(), claims, "it claimed all the same");
    assert_eq!(rig.fake.book().queue.len(), 1);
    rig.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_engine_hangs_takes_no_work_loses_none_and_comes_back() {
    let place = tempfile::tempdir().unwrap();
    let engine = Engine::start(place.path());
    let host = format!("unix://{}", engine.path.display());
    let bench =
        Bench::with(Duration::from_secs(30), |settings| settings.runtime.docker_host = Some(host)).await;
    let running = bench.rig.grant(bench.task(&["count", "60"]));
    bench.rig.said(running, "line 1").await;

    engine.hangs.send_replace(true);
    let why = bench.rig.fake.until("the node's word", |book| book.unwell.clone()).await;
    assert!(why.contains("the engine does not answer"), "{why}");
    // Unknown is not dead: its agent speaks with the node all the while.
    bench.rig.said(running, "line 59").await;

    engine.hangs.send_replace(false);
    bench.rig.fake.until("its recovery", |book| book.unwell.is_none().then_some(())).await;
    assert_eq!(bench.rig.fake.report_of(running).await.outcome, Outcome::Succeeded);
    let next = bench.rig.grant(bench.task(&["result", "1"]));
    assert_eq!(bench.rig.fake.report_of(next).await.outcome, Outcome::Succeeded);
    bench.end().await;
}
