//! Pulls: one per image at a time however many tasks want it, tried again with growing waits while a registry fails, and given
//! up when nothing moves or it takes too long.
//!
//! A pull is a task of its own. Whoever wants its image waits for it; once nobody does, it is broken off. The waits belong
//! to the image and outlast the pull: what failed a moment ago is not asked for again at once because another task comes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::StreamExt;
use orca_proto::image::ImageReference;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::image_store::ImageStore;
use super::pull_news::{Layers, News};
use super::registry_auth::RegistryAuth;
use super::{CallError, look_up};
use crate::runtime::Fault;
use crate::settings::PullSettings;

/// The first wait after a pull that failed; each is twice as long as the one before.
const FIRST: Duration = Duration::from_secs(1);
/// The longest.
const LONGEST: Duration = Duration::from_secs(60);
/// How long a registry's "there is no such image" is believed without asking again.
const REFUSED: Duration = Duration::from_secs(5);

/// All pulls of one engine.
pub(super) struct Pulls {
    puller: Arc<Puller>,
    images: Mutex<HashMap<String, Known>>,
}

/// What pulls need.
struct Puller {
    api: bollard::Docker,
    auth: RegistryAuth,
    limits: PullSettings,
    store: Arc<ImageStore>,
}

/// What is known of one image's pulls.
#[derive(Default)]
struct Known {
    flight: Weak<Flight>,
    trouble: Arc<Mutex<Trouble>>,
}

/// How the last pulls of an image failed; nothing after one that did not.
#[derive(Default)]
struct Trouble {
    failures: u32,
    last: Option<Fault>,
    /// Not again before this.
    until: Option<Instant>,
}

/// One pull that is under way, or over.
pub(super) struct Flight {
    /// How it ended; nothing yet.
    ended: watch::Receiver<Option<Result<(), Fault>>>,
    /// How far it is.
    pub(super) news: watch::Receiver<News>,
    _task: AbortOnDropHandle<()>,
}

impl Flight {
    /// Returns once it has ended.
    pub(super) async fn end(&self) -> Result<(), Fault> {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await.map(|end| end.clone()) {
            Ok(Some(end)) => end,
            _ => Err(Fault::Engine("the pull broke off".to_owned())),
        }
    }
}

impl Trouble {
    fn is_over(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() >= until + LONGEST)
    }

    /// Counts a failure; answers how long to wait.
    fn failed(&mut self, fault: Fault) -> Duration {
        let wait = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        self.until = Some(Instant::now() + wait);
        self.last = Some(fault);
        wait
    }

    fn refused(&mut self, fault: Fault) {
        *self = Self { failures: 0, until: Some(Instant::now() + REFUSED), last: Some(fault) };
    }

    /// The refusal that still counts.
    fn refusal(&self) -> Option<Fault> {
        let counts = self.until.is_some_and(|until| Instant::now() < until);
        self.last.clone().filter(|fault| counts && matches!(fault, Fault::Rejected(_)))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pulls {
    pub(super) fn new(
        api: bollard::Docker,
        auth: RegistryAuth,
        limits: PullSettings,
        store: Arc<ImageStore>,
    ) -> Self {
        let api = api.with_timeout(limits.total).with_request_modifier(|mut request| {
            // Engines read this header by the URL's alphabet, and pass over what does not fit it.
            if let Some(value) = request.headers_mut().get_mut("X-Registry-Auth")
                && let Ok(text) = value.to_str()
                && let Ok(safe) = text.replace('+', "-").replace('/', "_").parse()
            {
                *value = safe;
                value.set_sensitive(true);
            }
            request
        });
        Self { puller: Arc::new(Puller { api, auth, limits, store }), images: Mutex::default() }
    }

    /// The pull of `image` that is under way, or else a new one.
    ///
    /// # Errors
    /// What the registry said a moment ago, if it was that there is no such image.
    pub(super) fn join(&self, image: &ImageReference) -> Result<Arc<Flight>, Fault> {
        let mut images = lock(&self.images);
        images.retain(|_, known| known.flight.strong_count() > 0 || !lock(&known.trouble).is_over());
        let known = images.entry(image.to_string()).or_default();
        if let Some(flight) = known.flight.upgrade()
            && flight.ended.borrow().is_none()
        {
            return Ok(flight);
        }
        if let Some(refusal) = lock(&known.trouble).refusal() {
            return Err(refusal);
        }
        let (end, ended) = watch::channel(None);
        let (tell, news) = watch::channel(News::default());
        let (puller, image, trouble) = (Arc::clone(&self.puller), image.clone(), Arc::clone(&known.trouble));
        let task = tokio::spawn(async move {
            let result = puller.fly(&image, &trouble, &tell).await;
            end.send_replace(Some(result));
        });
        let flight = Arc::new(Flight { ended, news, _task: AbortOnDropHandle::new(task) });
        known.flight = Arc::downgrade(&flight);
        Ok(flight)
    }
}

impl Puller {
    /// Pulls until it is there, cannot be, or is given up.
    async fn fly(
        &self,
        image: &ImageReference,
        trouble: &Mutex<Trouble>,
        news: &watch::Sender<News>,
    ) -> Result<(), Fault> {
        let name = image.to_string();
        let begun = Instant::now();
        let before = look_up(&self.api, &name).await?;
        loop {
            let (until, last) = {
                let trouble = lock(trouble);
                (trouble.until, trouble.last.clone())
            };
            if let (Some(until), Some(last)) = (until, last) {
                if until > begun + self.limits.patience.min(self.limits.total) {
                    return Err(last);
                }
                tokio::time::sleep_until(until).await;
            }
            tracing::info!(image = name, "pulling");
            news.send_replace(News::default());
            let limit = self.limits.total.saturating_sub(begun.elapsed());
            let tried = tokio::time::timeout(limit, self.try_once(image, news)).await;
            let fault = match tried {
                Ok(Ok(())) => break,
                Ok(Err(fault)) => fault,
                Err(_) => Fault::Engine(format!(
                    "cannot pull {name}: it took longer than {} s (--pull-timeout)",
                    self.limits.total.as_secs()
                )),
            };
            if matches!(fault, Fault::Rejected(_)) {
                lock(trouble).refused(fault.clone());
                return Err(fault);
            }
            let wait = lock(trouble).failed(fault.clone());
            tracing::warn!(image = name, why = %fault, ?wait, "the pull failed");
            news.send_replace(News::Failed { why: fault.to_string(), wait });
        }
        *lock(trouble) = Trouble::default();
        match look_up(&self.api, &name).await? {
            Some(after) => {
                self.store.pulled(&name, before.map(|before| before.id).as_deref(), &after.id).await;
                Ok(())
            }
            None => Err(Fault::Engine(format!("the engine pulled {name}, but does not hold it"))),
        }
    }

    async fn try_once(&self, image: &ImageReference, news: &watch::Sender<News>) -> Result<(), Fault> {
        let credentials = self.auth.of(&image.host);
        let is_known = credentials.is_some();
        // The name is in full, with its tag or digest: without one an engine would fetch every tag that there is.
        let options = CreateImageOptionsBuilder::new().from_image(&image.to_string()).build();
        let mut stream = self.api.create_image(Some(options), None, credentials);
        let mut layers = Layers::default();
        let mut idle = Instant::now() + self.limits.idle;
        loop {
            match tokio::time::timeout_at(idle, stream.next()).await {
                Ok(None) => return Ok(()),
                Ok(Some(Ok(step))) => {
                    if layers.note(&step) {
                        idle = Instant::now() + self.limits.idle;
                    }
                    news.send_replace(layers.news());
                }
                Ok(Some(Err(error))) => return Err(pull_fault(image, is_known, &error.into())),
                Err(_) => {
                    return Err(Fault::Engine(format!(
                        "cannot pull {image}: nothing moved for {} s (--pull-idle-timeout)",
                        self.limits.idle.as_secs_f32()
                    )));
                }
            }
        }
    }
}

/// A pull that cannot succeed anywhere is the task's fault; one that the network or the registry broke is not.
fn pull_fault(image: &ImageReference, has_credentials: bool, error: &CallError) -> Fault {
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
    const DENIED: [&str; 4] = ["access denied", "unauthorized", "denied:", "no basic auth"];
    const WRONG: [&str; 6] = [
        "not found",
        "manifest unknown",
        "name unknown",
        "name invalid",
        "invalid reference",
        "no matching manifest",
    ];
    let CallError::Status { code, message } = error else {
        return Fault::Engine(format!("cannot pull {image}: {error}"));
    };
    let text = without_names(&message.to_lowercase(), image);
    let holds = |signs: &[&str]| signs.iter().any(|sign| text.contains(sign));
    let denied = matches!(code, 401 | 403) || holds(&DENIED);
    let mut why = format!("cannot pull {image}: {message}");
    if denied && image.host != orca_proto::image::DEFAULT_HOST {
        why.push_str(if has_credentials {
            "; the node showed the registry the credentials of its --registry-auth"
        } else {
            "; the node has no credentials for this registry (--registry-auth)"
        });
    }
    let wrong = denied || matches!(code, 400 | 404) || holds(&WRONG);
    if wrong && !holds(&NETWORK) { Fault::Rejected(why) } else { Fault::Engine(why) }
}

/// What was said, without the words that name the image or an address: one may be called `geofence`, and that is no broken
/// connection.
fn without_names(text: &str, image: &ImageReference) -> String {
    let short = image.path.strip_prefix("library/").unwrap_or(&image.path);
    let tag = image.tag.as_deref().unwrap_or_default().to_lowercase();
    let tagged = format!("{short}:{tag}");
    let is_name = |word: &&str| {
        let bare = word.trim_matches(|letter: char| "\"',:.;()".contains(letter));
        bare.contains('/') || [short, &tag, &tagged].contains(&bare)
    };
    text.split_whitespace().filter(|word| !is_name(word)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(code: u16, message: &str) -> Fault {
        pull_fault(&"a/b:c".parse().unwrap(), false, &CallError::Status { code, message: message.into() })
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
            (500, "received unexpected HTTP status: 500 Internal Server Error"),
            (500, "something new"),
        ] {
            assert!(matches!(fault(code, message), Fault::Engine(_)), "{message}");
        }
    }

    #[test]
    fn what_an_image_is_called_says_nothing_of_the_network() {
        let image: ImageReference = "me/geofence:timeout".parse().unwrap();
        let message = "manifest for me/geofence:timeout not found: manifest unknown".to_owned();
        let fault = pull_fault(&image, false, &CallError::Status { code: 404, message });
        assert!(matches!(fault, Fault::Rejected(_)), "{fault:?}");
        let official: ImageReference = "timeout:reset".parse().unwrap();
        let message = "manifest for timeout:reset not found: manifest unknown: timeout".to_owned();
        let fault = pull_fault(&official, false, &CallError::Status { code: 404, message });
        assert!(matches!(fault, Fault::Rejected(_)), "{fault:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_waits_grow_up_to_a_minute_and_a_refusal_is_believed_for_a_moment() {
        let mut trouble = Trouble::default();
        let waits: Vec<u64> =
            (0..9).map(|_| trouble.failed(Fault::Engine(String::new())).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(trouble.refusal(), None);
        trouble.refused(Fault::Rejected("no".into()));
        assert!(trouble.refusal().is_some());
        tokio::time::advance(REFUSED).await;
        assert_eq!(trouble.refusal(), None);
    }
}
