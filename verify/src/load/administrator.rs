//! Whoever sets the limits of a tenant's queues, changes them while they are worked on, pauses and resumes.

use std::time::Duration;

use anyhow::Result;
use orca_proto::client::{Client, ClientError};
use orca_proto::duration::Span;
use orca_proto::queue::{GroupSettings, Pause, QueueSettings, Rate};
use tokio_util::sync::CancellationToken;

use crate::history::{Answer, Call, Recorder};
use crate::node::{Coordinators, patiently};
use crate::system::System;

/// Tries until something is done.
const TRIES: u32 = 40;
/// The rate of the queue `rated`: so many tasks in so many milliseconds.
const RATE: (u32, u32) = (25, 1_000);

pub(super) struct Administrator {
    who: String,
    namespace: &'static str,
    recorder: Recorder,
    coordinators: Coordinators,
}

impl Administrator {
    pub(super) fn new(
        system: &System,
        recorder: &Recorder,
        namespace: &'static str,
        number: usize,
    ) -> Result<Self> {
        Ok(Self {
            who: format!("{namespace}-administrator"),
            namespace,
            recorder: recorder.clone(),
            coordinators: system.operator(namespace, number)?,
        })
    }

    /// The limits to begin with.
    pub(super) async fn set_all(&self) -> Result<()> {
        self.see_to(Wish::Limit(3)).await?;
        self.see_to(Wish::LimitGroup).await?;
        self.see_to(Wish::Rate).await
    }

    /// Changes the limit of one queue and pauses another, now and then. Nothing is paused when it returns.
    pub(super) async fn work(&self, mut rng: fastrand::Rng, stop: &CancellationToken) -> Result<()> {
        loop {
            let pause = tokio::time::sleep(Duration::from_millis(rng.u64(300..2_000)));
            if stop.run_until_cancelled(pause).await.is_none() {
                return Ok(());
            }
            if rng.bool() {
                self.see_to(Wish::Limit(rng.u32(1..5))).await?;
                continue;
            }
            self.see_to(Wish::Pause).await?;
            let pause = tokio::time::sleep(Duration::from_millis(rng.u64(200..900)));
            stop.run_until_cancelled(pause).await;
            self.see_to(Wish::Resume).await?;
        }
    }

    /// Asks until the answer says that it is done.
    async fn see_to(&self, wish: Wish) -> Result<()> {
        let (queue, group, max_running, rate) = match wish {
            Wish::Limit(most) => ("limited", None, Some(most), None),
            Wish::LimitGroup => ("grouped", Some("narrow".to_owned()), Some(1), None),
            Wish::Rate => ("rated", None, None, Some(RATE)),
            Wish::Pause => ("grouped", None, Some(0), None),
            Wish::Resume => ("grouped", None, None, None),
        };
        let call = Call::Limit {
            namespace: self.namespace.to_owned(),
            queue: queue.to_owned(),
            group,
            max_running,
            rate,
        };
        let mut tries = 0;
        loop {
            tries += 1;
            let request = patiently(Duration::ZERO, ask(self.coordinators.current(), wish));
            match self.recorder.call(&self.who, call.clone(), request, |()| Answer::Done).await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_transient() && tries < TRIES => {
                    self.coordinators.turn();
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// What an administrator wants.
#[derive(Clone, Copy)]
enum Wish {
    /// So many of the queue `limited` at once.
    Limit(u32),
    /// One of the group `narrow` at once.
    LimitGroup,
    /// The rate of the queue `rated`.
    Rate,
    /// Nothing of the queue `grouped` for now.
    Pause,
    /// The queue `grouped` again.
    Resume,
}

async fn ask(client: &Client, wish: Wish) -> Result<(), ClientError> {
    match wish {
        Wish::Limit(most) => {
            let settings = QueueSettings { max_running: Some(most), ..QueueSettings::default() };
            client.set_queue("limited", &settings).await.map(drop)
        }
        Wish::LimitGroup => {
            let settings = GroupSettings { max_running: Some(1), ..GroupSettings::default() };
            client.set_group("grouped", "narrow", &settings).await.map(drop)
        }
        Wish::Rate => {
            let rate = Rate { tasks: RATE.0, per: Span::millis(u64::from(RATE.1)) };
            let settings = QueueSettings { rate: Some(rate), ..QueueSettings::default() };
            client.set_queue("rated", &settings).await.map(drop)
        }
        Wish::Pause => client.pause_queue("grouped", &Pause::default()).await.map(drop),
        Wish::Resume => client.resume_queue("grouped").await.map(drop),
    }
}
