//! What must be refused: another tenant's things, things that are not there, another role's verbs, no token at all.

use std::time::Duration;

use orca_proto::client::{Client, ClientError};
use orca_proto::duration::Span;
use orca_proto::ids::{InstanceId, NodeId, TaskId};
use orca_proto::log::LogQuery;
use orca_proto::node::ClaimRequest;
use orca_proto::spec::NewTask;
use orca_proto::task::{Cancellation, TaskFilter};

use super::operator::Operator;
use crate::history::{Answer, Call, Trespass};
use crate::node::patiently;

impl Operator {
    pub(super) async fn probe(&mut self) {
        match self.rng.u8(0..6) {
            0 => self.by_role().await,
            1 => self.by_nobody().await,
            _ => self.abroad().await,
        }
    }

    async fn tried<T>(
        &self,
        verb: &str,
        why: Trespass,
        thing: Option<TaskId>,
        request: impl Future<Output = Result<T, ClientError>>,
    ) {
        let call = Call::Probe { verb: verb.to_owned(), why, thing: thing.map(|id| id.to_string()) };
        let request = patiently(Duration::ZERO, request);
        let _ = self.recorder.call(&self.who, call, request, |_| Answer::Done).await;
    }

    /// The other tenant's operator asks for a task of this one, and in the same words for one that is nowhere.
    async fn abroad(&mut self) {
        let Some(theirs) = self.any() else { return };
        let verb = self.rng.u8(0..4);
        let client = self.foreigner.current().clone();
        for (id, why) in [(TaskId::new(), Trespass::Absent), (theirs, Trespass::Foreign)] {
            match verb {
                0 => self.tried("read", why, Some(id), client.task(id)).await,
                1 => {
                    let cancellation = Cancellation::default();
                    self.tried("cancel", why, Some(id), client.cancel(id, &cancellation)).await;
                }
                2 => self.tried("retry", why, Some(id), client.retry(id)).await,
                _ => {
                    let query = LogQuery::default();
                    self.tried("logs", why, Some(id), client.logs(id, &query)).await;
                }
            }
        }
    }

    async fn by_role(&mut self) {
        let worker = self.worker.current().clone();
        // It is not to be there, so it has no name in the history.
        let task = NewTask::new("pretend");
        self.tried("enqueue", Trespass::Role, None, worker.enqueue(&task, None)).await;
        if let Some(id) = self.any() {
            let cancellation = Cancellation::default();
            self.tried("cancel", Trespass::Role, None, worker.cancel(id, &cancellation)).await;
        }
        let operator: Client = self.coordinators.current().clone();
        let request = ClaimRequest {
            instance: InstanceId::new(),
            slots: 1,
            wait: Span::secs(0),
            queues: Vec::new(),
            free: None,
        };
        self.tried("claim", Trespass::Role, None, operator.claim::<NewTask>(NodeId::new(), &request)).await;
    }

    async fn by_nobody(&mut self) {
        let nobody = self.nobody.current().clone();
        let filter = TaskFilter::default();
        self.tried("list", Trespass::Anonymous, None, nobody.tasks(&filter)).await;
        if let Some(id) = self.any() {
            self.tried("read", Trespass::Anonymous, None, nobody.task(id)).await;
        }
    }
}
