//! Containers: create and start, wait, look, kill, remove, sweep.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::errors::Error;
use bollard::models::{ContainerStateStatusEnum, ContainerSummary, EventMessage};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, EventsOptionsBuilder, InspectContainerOptions,
    KillContainerOptionsBuilder, ListContainersOptionsBuilder, LogsOptionsBuilder,
    RemoveContainerOptionsBuilder, StartContainerOptions, WaitContainerOptions,
};
use futures_util::{StreamExt, TryStreamExt};
use orca_proto::spec::Network;

use super::host_config::{Sources, body, wrong_volume};
use super::{ACT, CallError, Docker, LOOK, within};
use crate::runtime::{Exit, Fault, Launch, PostMortem, Signal, last_words};

/// The label by which a daemon knows its own.
const STATE: &str = "orca.state";
/// Exit codes above this tell of a signal.
const SIGNALLED: i64 = 128;
/// How long a removal that is already under way is followed.
const REMOVAL: Duration = Duration::from_secs(60);
/// How long ago a signal may have been sent that ended a container just now.
const KILL: Duration = Duration::from_secs(60);

impl Docker {
    pub(super) async fn start_container(&self, launch: &Launch) -> Result<(), Fault> {
        if launch.network == Network::Open && !self.allow_network {
            return Err(Fault::Rejected(
                "it asks for an open network, which this node does not allow (--allow-network)".into(),
            ));
        }
        if let Some(why) = wrong_volume(&launch.image.volumes) {
            return Err(Fault::Rejected(why));
        }
        let place = |path: &std::path::Path| {
            self.paths
                .translate(path)
                .ok_or_else(|| Fault::Engine(format!("{} cannot be seen by the engine", path.display())))
        };
        let artifacts = launch.artifacts.iter();
        let sources = Sources {
            directory: place(&launch.directory)?,
            agent_dir: place(&self.agent_dir)?,
            artifacts: artifacts
                .map(|shown| Ok((shown.name.clone(), place(&shown.source)?)))
                .collect::<Result<_, Fault>>()?,
        };
        let mut body = body(launch, &sources);
        body.labels.get_or_insert_default().insert(STATE.into(), self.state_id.clone());
        let _turn = self.creates.acquire().await;
        let options = || Some(CreateContainerOptionsBuilder::new().name(&launch.name).build());
        let created = within(ACT, "create", self.api.create_container(options(), body.clone())).await;
        match created {
            Err(error) if error.code() == Some(409) => {
                // Left of a create that was thought to have failed.
                self.remove_container(&launch.name).await?;
                within(ACT, "create", self.api.create_container(options(), body))
                    .await
                    .map_err(start_fault)?;
            }
            created => {
                created.map_err(start_fault)?;
            }
        }
        within(ACT, "start", self.api.start_container(&launch.name, None::<StartContainerOptions>))
            .await
            .map_err(start_fault)
    }

    pub(super) async fn wait_for_exit(&self, name: &str) -> Exit {
        let mut pause = Duration::from_millis(200);
        loop {
            let mut stream = Box::pin(self.api.wait_container(name, None::<WaitContainerOptions>));
            match stream.next().await {
                Some(Ok(ended)) => return exit(ended.status_code),
                Some(Err(Error::DockerContainerWaitError { code, .. })) => return exit(code),
                Some(Err(Error::DockerResponseServerError { status_code: 404, .. })) => return Exit::Gone,
                Some(Err(error)) => {
                    tracing::warn!(name, %error, "lost sight of a container; looking again");
                }
                None => tracing::warn!(name, "the engine broke off; looking again"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }

    pub(super) async fn examine(&self, name: &str) -> PostMortem {
        let look = self.api.inspect_container(name, None::<InspectContainerOptions>);
        let state = within(LOOK, "inspect", look).await.ok().and_then(|found| found.state);
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).tail("20").build();
        let lines =
            self.api.logs(name, Some(options)).map_ok(|line| line.to_string()).try_collect::<String>();
        let said = within(LOOK, "logs", lines).await.unwrap_or_default();
        let said = last_words(&said);
        let out_of_memory = state.and_then(|state| state.oom_killed).unwrap_or_default();
        // The engine says that the kernel killed something for memory, but not that this ended the container.
        let killed_by = if out_of_memory { self.sent_kill(name).await } else { None };
        PostMortem { out_of_memory, killed_by, said }
    }

    /// SIGKILL, if the engine remembers that somebody had it sent. It remembers its last few hundred events.
    async fn sent_kill(&self, name: &str) -> Option<i32> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
        let kills = HashMap::from([
            ("container".to_owned(), vec![name.to_owned()]),
            ("event".to_owned(), vec!["kill".to_owned()]),
        ]);
        let since = now.saturating_sub(KILL.as_secs()).to_string();
        let options =
            EventsOptionsBuilder::new().since(&since).until(&(now + 1).to_string()).filters(&kills).build();
        let events = self.api.events(Some(options)).try_collect::<Vec<_>>();
        let events = within(LOOK, "events", events).await.ok()?;
        let is_kill = |event: &EventMessage| {
            let sent = event.actor.as_ref()?.attributes.as_ref()?.get("signal")?;
            matches!(sent.as_str(), "9" | "SIGKILL" | "KILL").then_some(9)
        };
        events.iter().find_map(is_kill)
    }

    pub(super) async fn kill_container(&self, name: &str, signal: Signal) -> Result<(), Fault> {
        let signal = match signal {
            Signal::Term => "SIGTERM",
            Signal::Kill => "SIGKILL",
        };
        let options = KillContainerOptionsBuilder::new().signal(signal).build();
        match within(LOOK, "kill", self.api.kill_container(name, Some(options))).await {
            Ok(()) => Ok(()),
            // 404: gone; 409: not running.
            Err(error) if matches!(error.code(), Some(404 | 409)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn remove_container(&self, name: &str) -> Result<(), Fault> {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        match within(ACT, "remove", self.api.remove_container(name, Some(options))).await {
            Ok(()) => Ok(()),
            Err(error) if error.code() == Some(404) => Ok(()),
            // Already being removed by an earlier call.
            Err(error) if error.code() == Some(409) => self.await_absence(name, error).await,
            Err(error) => Err(error.into()),
        }
    }

    async fn await_absence(&self, name: &str, cause: CallError) -> Result<(), Fault> {
        let gone = async {
            loop {
                let look = self.api.inspect_container(name, None::<InspectContainerOptions>);
                if let Err(error) = within(LOOK, "inspect", look).await
                    && error.code() == Some(404)
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(REMOVAL, gone).await.map_err(|_| Fault::from(cause))
    }

    async fn ours(&self) -> Result<Vec<ContainerSummary>, Fault> {
        let ours = HashMap::from([("label".to_owned(), vec![format!("{STATE}={}", self.state_id)])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&ours).build();
        Ok(within(ACT, "list", self.api.list_containers(Some(options))).await?)
    }

    pub(super) async fn container_names(&self) -> Result<Vec<String>, Fault> {
        let names =
            self.ours().await?.into_iter().filter_map(|container| container.names?.into_iter().next());
        Ok(names.map(|name| name.trim_start_matches('/').to_owned()).collect())
    }

    pub(super) async fn sweep_containers(&self, but: &HashSet<String>) -> Result<usize, Fault> {
        let kept = |container: &ContainerSummary| {
            let mut names = container.names.iter().flatten();
            names.any(|name| but.contains(name.trim_start_matches('/')))
        };
        let doomed = self.ours().await?.into_iter().filter(|container| !kept(container));
        let mut count = 0;
        for id in doomed.filter_map(|container| container.id) {
            self.remove_container(&id).await?;
            count += 1;
        }
        Ok(count)
    }

    pub(super) async fn start_created(&self, name: &str) -> Result<(), Fault> {
        let look = self.api.inspect_container(name, None::<InspectContainerOptions>);
        let found = within(LOOK, "inspect", look).await?;
        let status = found.state.and_then(|state| state.status);
        if status != Some(ContainerStateStatusEnum::CREATED) {
            return Ok(());
        }
        within(ACT, "start", self.api.start_container(name, None::<StartContainerOptions>))
            .await
            .map_err(start_fault)
    }
}

fn exit(code: i64) -> Exit {
    let small = i32::try_from(code).unwrap_or(i32::MAX);
    if (SIGNALLED + 1..=SIGNALLED + 64).contains(&code) {
        Exit::Signal(small - 128)
    } else {
        Exit::Code(small)
    }
}

/// A container that the engine would refuse on any node is the task's fault.
fn start_fault(error: CallError) -> Fault {
    const WRONG: [&str; 3] = ["unable to find user", "unable to find group", "no matching entries in"];
    match error {
        CallError::Status { code, message } => {
            let text = message.to_lowercase();
            if WRONG.iter().any(|sign| text.contains(sign)) || code == 400 {
                Fault::Rejected(message)
            } else {
                Fault::Engine(message)
            }
        }
        silent @ CallError::Silent(_) => silent.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_told_from_an_exit_code() {
        assert_eq!(exit(0), Exit::Code(0));
        assert_eq!(exit(128), Exit::Code(128));
        assert_eq!(exit(137), Exit::Signal(9));
        assert_eq!(exit(255), Exit::Code(255));
    }
}
