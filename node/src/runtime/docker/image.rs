//! Images: look, pull by the task's policy, and tell a wrong reference from a network that fails.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::TryStreamExt;
use orca_proto::spec::{ContainerSpec, Pull};

use super::{CallError, Docker, LOOK, within};
use crate::runtime::{Fault, Image};

/// The longest that one pull may take.
const PULL: Duration = Duration::from_secs(20 * 60);
/// Waits before another try of a pull that the network broke. Few: the coordinator tries again too, with longer waits.
const BACKOFF: [Duration; 1] = [Duration::from_millis(500)];

impl Docker {
    pub(super) async fn ensure_image(&self, spec: &ContainerSpec) -> Result<Image, Fault> {
        let image = spec.image.as_str();
        if spec.pull != Pull::Always
            && let Some(found) = self.inspect_image(image).await?
        {
            return Ok(found);
        }
        if spec.pull == Pull::Never {
            return Err(Fault::Rejected(format!(
                "this node does not hold the image {image}, and the task says never to pull it"
            )));
        }
        let turn = self.pull_turn(image);
        let pulled = {
            let _turn = turn.lock().await;
            // Whoever had the turn before may have pulled it.
            match self.inspect_image(image).await? {
                Some(found) if spec.pull == Pull::Missing => Ok(found),
                _ => self.pull(image).await,
            }
        };
        drop(turn);
        self.end_pull_turn(image);
        pulled
    }

    fn pull_turn(&self, image: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut pulls = self.pulls.lock().unwrap_or_else(PoisonError::into_inner);
        pulls.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(pulls.entry(image.to_owned()).or_default())
    }

    fn end_pull_turn(&self, image: &str) {
        let mut pulls = self.pulls.lock().unwrap_or_else(PoisonError::into_inner);
        if pulls.get(image).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            pulls.remove(image);
        }
    }

    async fn pull(&self, image: &str) -> Result<Image, Fault> {
        let mut waits = BACKOFF.into_iter();
        loop {
            tracing::info!(image, "pulling");
            let Err(error) = within(PULL, "the pull", self.pull_once(image)).await else { break };
            let fault = pull_fault(image, &error);
            match (&fault, waits.next()) {
                (Fault::Engine(why), Some(wait)) => {
                    tracing::warn!(image, why, "the pull failed; trying again");
                    tokio::time::sleep(wait).await;
                }
                _ => return Err(fault),
            }
        }
        self.inspect_image(image)
            .await?
            .ok_or_else(|| Fault::Engine(format!("the engine pulled {image}, but does not hold it")))
    }

    async fn pull_once(&self, image: &str) -> Result<(), bollard::errors::Error> {
        let mut options = CreateImageOptionsBuilder::new().from_image(image);
        // Without a tag an engine would fetch every tag that there is.
        if !has_tag_or_digest(image) {
            options = options.tag("latest");
        }
        self.api.create_image(Some(options.build()), None, None).try_for_each(|_| async { Ok(()) }).await
    }

    async fn inspect_image(&self, image: &str) -> Result<Option<Image>, Fault> {
        let found = match within(LOOK, "image inspect", self.api.inspect_image(image)).await {
            Ok(found) => found,
            Err(error) if error.code() == Some(404) => return Ok(None),
            Err(error) if error.code() == Some(400) => {
                return Err(Fault::Rejected(format!("{image} is no image: {error}")));
            }
            Err(error) => return Err(error.into()),
        };
        let config = found.config.unwrap_or_default();
        let mut command = config.entrypoint.unwrap_or_default();
        command.extend(config.cmd.unwrap_or_default());
        Ok(Some(Image {
            id: found.id.unwrap_or_else(|| image.to_owned()),
            command,
            volumes: config.volumes.unwrap_or_default(),
        }))
    }
}

fn has_tag_or_digest(image: &str) -> bool {
    let name = image.rsplit('/').next().unwrap_or(image);
    name.contains(':') || name.contains('@')
}

/// A pull that cannot succeed anywhere is the task's fault; one that the network or the registry broke is not.
fn pull_fault(image: &str, error: &CallError) -> Fault {
    const NETWORK: [&str; 13] = [
        "dial tcp",
        "no such host",
        "timeout",
        "timed out",
        "deadline",
        "refused",
        "reset",
        "tls:",
        "eof",
        "x509",
        "misbehaving",
        "toomanyrequests",
        "unavailable",
    ];
    const WRONG: [&str; 10] = [
        "not found",
        "manifest unknown",
        "name unknown",
        "name invalid",
        "access denied",
        "unauthorized",
        "denied:",
        "invalid reference",
        "no matching manifest",
        "unsupported",
    ];
    let CallError::Status { code, message } = error else {
        return Fault::Engine(format!("cannot pull {image}: {error}"));
    };
    let text = message.to_lowercase();
    let network = NETWORK.iter().any(|sign| text.contains(sign));
    let wrong = matches!(code, 400 | 401 | 403 | 404) || WRONG.iter().any(|sign| text.contains(sign));
    let why = format!("cannot pull {image}: {message}");
    if wrong && !network { Fault::Rejected(why) } else { Fault::Engine(why) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(code: u16, message: &str) -> Fault {
        pull_fault("a/b:c", &CallError::Status { code, message: message.into() })
    }

    #[test]
    fn a_wrong_reference_is_rejected_and_a_broken_network_is_not() {
        for (code, message) in [
            (404, "pull access denied for a/b, repository does not exist or may require 'docker login'"),
            (404, "manifest for a/b:c not found: manifest unknown: manifest unknown"),
            (500, "Head https://r/v2/a/b/manifests/c: unauthorized: authentication required"),
            (500, "no matching manifest for linux/arm64 in the manifest list entries"),
        ] {
            assert!(matches!(fault(code, message), Fault::Rejected(_)), "{message}");
        }
        for (code, message) in [
            (
                500,
                "Get \"https://registry-1.docker.io/v2/\": dial tcp: lookup registry-1.docker.io: no such host",
            ),
            (500, "Get \"https://r/v2/\": net/http: TLS handshake timeout"),
            (500, "toomanyrequests: You have reached your pull rate limit"),
            (500, "something new"),
        ] {
            assert!(matches!(fault(code, message), Fault::Engine(_)), "{message}");
        }
    }

    #[test]
    fn a_port_is_not_a_tag() {
        assert!(!has_tag_or_digest("localhost:5000/tool"));
        assert!(has_tag_or_digest("localhost:5000/tool:1"));
        assert!(has_tag_or_digest("tool@sha256:0"));
        assert!(!has_tag_or_digest("debian"));
    }
}
