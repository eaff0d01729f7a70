//! Images: what a node may run, whether the engine holds it, and by the task's policy where it comes from.

use orca_proto::image::ImageReference;
use orca_proto::spec::{ContainerSpec, Pull};

use super::pull::Flight;
use super::{Docker, LOOK, within};
use crate::runtime::{Fault, Image, News};

impl Docker {
    pub(super) async fn ensure_image(&self, spec: &ContainerSpec, news: &News) -> Result<Image, Fault> {
        let text = spec.image.as_str();
        let reference: ImageReference =
            text.parse().map_err(|error| Fault::Rejected(format!("the image {text:?} {error}")))?;
        if !self.allowed.allows(&reference) {
            return Err(Fault::Rejected(format!(
                "this node runs none but certain images, and {reference} is not among them (--allow-image)"
            )));
        }
        // Always the name in full: an engine reads a short one as the beginning of an id, too.
        let name = reference.to_string();
        let hold = self.store.hold(&name).await;
        let mut image = if spec.pull == Pull::Always { None } else { look_up(&self.api, &name).await? };
        if image.is_none() {
            if spec.pull == Pull::Never {
                return Err(Fault::Rejected(format!(
                    "this node does not hold the image {text}, and the task says never to pull it"
                )));
            }
            let flight = self.pulls.join(&reference)?;
            follow(&flight, text, news).await?;
            image = look_up(&self.api, &name).await?;
        }
        let mut image = image
            .ok_or_else(|| Fault::Engine(format!("{text} was pulled, and somebody removed it at once")))?;
        image.digest = Some(digest(&reference, &image));
        image.hold = Some(hold);
        Ok(image)
    }
}

/// Waits for a pull and passes on how far it is.
async fn follow(flight: &Flight, text: &str, news: &News) -> Result<(), Fault> {
    let mut heard = flight.news.clone();
    let telling = async {
        loop {
            let how_far = heard.borrow_and_update().to_string();
            news.send_replace(format!("pulling {text}: {how_far}"));
            if heard.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        ended = flight.end() => ended,
        () = telling => Ok(()),
    }
}

/// What the registry calls exactly this image, or else what the engine calls it.
fn digest(reference: &ImageReference, image: &Image) -> String {
    let of_this = |digest: &&String| {
        digest.parse::<ImageReference>().is_ok_and(|known| {
            (&known.host, &known.path) == (&reference.host, &reference.path)
                && (reference.digest.is_none() || known.digest == reference.digest)
        })
    };
    image.digests.iter().find(of_this).cloned().unwrap_or_else(|| image.id.clone())
}

/// What the engine holds under this name, if anything.
pub(super) async fn look_up(api: &bollard::Docker, name: &str) -> Result<Option<Image>, Fault> {
    let found = match within(LOOK, "image inspect", api.inspect_image(name)).await {
        Ok(found) => found,
        Err(error) if error.code() == Some(404) => return Ok(None),
        Err(error) if error.code() == Some(400) => {
            return Err(Fault::Rejected(format!("{name} is no image: {error}")));
        }
        Err(error) => return Err(error.into()),
    };
    let config = found.config.unwrap_or_default();
    let mut command = config.entrypoint.unwrap_or_default();
    command.extend(config.cmd.unwrap_or_default());
    Ok(Some(Image {
        id: found.id.unwrap_or_else(|| name.to_owned()),
        command,
        volumes: config.volumes.unwrap_or_default(),
        digests: found.repo_digests.unwrap_or_default(),
        digest: None,
        hold: None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registrys_digest_of_the_very_repository_is_told_before_the_engines_id() {
        let digest_of = |letter: &str| format!("sha256:{}", letter.repeat(64));
        let (a, b) = (digest_of("a"), digest_of("b"));
        let image = Image {
            id: digest_of("c"),
            digests: vec![format!("mirror.example/debian@{b}"), format!("debian@{a}")],
            ..Image::default()
        };
        let told = |text: &str| digest(&text.parse().unwrap(), &image);
        assert_eq!(told("debian:12"), format!("debian@{a}"));
        assert_eq!(told("mirror.example/debian"), format!("mirror.example/debian@{b}"));
        assert_eq!(told("other/debian"), image.id);
    }
}
