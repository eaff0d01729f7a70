//! What one principal may have of what all share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::app::Principal;

/// Bodies beyond [`orca_proto::limits::BODY`] that are in memory at once; more of them wait their turn.
const LARGE_BODIES: usize = 4;
/// Those of them that are one principal's: whoever sends slowly holds up nobody else.
const OWN_LARGE_BODIES: usize = 1;
/// Event streams and followed logs of one principal.
pub(super) const STREAMS: usize = 256;

/// A principal: namespace and subject.
pub(super) type Key = (String, String);

/// The shares of all principals.
pub(crate) struct Shares {
    large_bodies: Arc<Semaphore>,
    own_large_bodies: PerPrincipal,
    streams: PerPrincipal,
}

/// A place among the large bodies that may be in memory.
pub(super) struct LargeBody {
    _own: Option<OwnedSemaphorePermit>,
    _all: Option<OwnedSemaphorePermit>,
}

impl Shares {
    pub(super) fn new() -> Self {
        Self {
            large_bodies: Arc::new(Semaphore::new(LARGE_BODIES)),
            own_large_bodies: PerPrincipal::new(OWN_LARGE_BODIES),
            streams: PerPrincipal::new(STREAMS),
        }
    }

    /// Waits for a place for a large body.
    pub(super) async fn large_body(&self, key: Option<&Key>) -> LargeBody {
        let own = match key {
            Some(key) => self.own_large_bodies.of(key).acquire_owned().await.ok(),
            None => None,
        };
        LargeBody { _own: own, _all: Arc::clone(&self.large_bodies).acquire_owned().await.ok() }
    }

    /// A place for a stream; nothing if the principal has as many as it may.
    pub(super) fn stream(&self, who: &Principal) -> Option<OwnedSemaphorePermit> {
        let key = (who.namespace.clone(), who.subject.clone());
        self.streams.of(&key).try_acquire_owned().ok()
    }
}

/// So many places for each.
struct PerPrincipal {
    each: usize,
    taken: Mutex<HashMap<Key, Weak<Semaphore>>>,
}

impl PerPrincipal {
    fn new(each: usize) -> Self {
        Self { each, taken: Mutex::default() }
    }

    fn of(&self, key: &Key) -> Arc<Semaphore> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = taken.get(key).and_then(Weak::upgrade) {
            return known;
        }
        taken.retain(|_, places| places.strong_count() > 0);
        let places = Arc::new(Semaphore::new(self.each));
        taken.insert(key.clone(), Arc::downgrade(&places));
        places
    }
}

#[cfg(test)]
mod tests {
    use orca_proto::token::Access;

    use super::*;

    #[test]
    fn a_principal_has_so_many_streams_and_no_more_and_another_its_own() {
        let shares = Shares::new();
        let who = |subject: &str| Principal {
            namespace: "default".into(),
            subject: subject.into(),
            access: Access::Operator,
        };
        let mut held: Vec<_> = (0..STREAMS).map(|_| shares.stream(&who("ann")).unwrap()).collect();
        assert!(shares.stream(&who("ann")).is_none());
        assert!(shares.stream(&who("bob")).is_some());
        held.pop();
        assert!(shares.stream(&who("ann")).is_some());
    }
}
