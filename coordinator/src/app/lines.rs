//! What this process knows of the lanes: their numbers, what waits in them, how their flows shared lately. All of it is a
//! guess that saves looking; the database has the last word at every claim, and the guess is made good from it each second.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use orca_proto::spec::Role;
use tokio::time::Instant;

use super::waiting::Wanting;
use crate::db::lane::Waiting;
use crate::db::queue::Left;
use crate::db::rules::Rules;
use crate::dispatch::{Fairness, Fleet, LaneKey, Line};

/// How long settings and fleets are taken for true.
const FRESH: Duration = Duration::from_secs(1);
/// How long it is taken for true whether a namespace has limits.
const KNOWN_BOUNDS: Duration = Duration::from_secs(5);
/// Lanes whose numbers are kept, beside those in which something waits.
const KNOWN: usize = 100_000;
/// Lanes of a namespace in which something is known to wait. Where there are so many no new ones are made; of those that exist
/// beyond them others are known after each look, and whichever something enters.
pub(crate) const WAITING: usize = 10_000;

/// Everything that is known.
#[derive(Default)]
pub(crate) struct Lines(Mutex<State>);

#[derive(Default)]
struct State {
    ids: HashMap<Arc<LaneKey>, i32>,
    keys: HashMap<i32, Arc<LaneKey>>,
    /// By namespace, so that nobody looks through what others have waiting.
    waiting: HashMap<String, HashMap<i32, Held>>,
    version: u64,
    fairness: HashMap<(String, Role), Fairness>,
    settings: HashMap<String, (Instant, Arc<Rules>)>,
    /// Counts how often settings were forgotten: what was read before does not hold.
    changes: u64,
    fleets: HashMap<(String, Role), (Instant, Arc<Fleet>)>,
}

/// A lane in which something is thought to wait.
struct Held {
    lane: Arc<LaneKey>,
    since_us: i64,
    waiting: u64,
    /// When it was last added to, in [`State::version`]s.
    version: u64,
}

/// A look at what waits, and when that was.
pub(crate) struct Look {
    pub(crate) lines: Vec<Line>,
    namespace: String,
    version: u64,
}

impl Lines {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of a lane, if it is known.
    pub(crate) fn number(&self, key: &LaneKey) -> Option<i32> {
        self.lock().ids.get(key).copied()
    }

    /// The lane of a number, if it is known.
    pub(crate) fn key(&self, id: i32) -> Option<Arc<LaneKey>> {
        self.lock().keys.get(&id).cloned()
    }

    /// Learns a lane's number, which has been committed.
    pub(crate) fn learn(&self, id: i32, key: LaneKey) {
        self.lock().learn(id, key);
    }

    /// Tasks entered a lane just now. Answers whether the lane is known; where it is not, the next refresh finds it.
    pub(crate) fn entered(&self, id: i32, count: u64, now_us: i64) -> bool {
        let mut state = self.lock();
        let Some(lane) = state.keys.get(&id).cloned() else { return false };
        state.version += 1;
        let version = state.version;
        if let Some(held) = state.hold(id, lane, now_us, version) {
            held.waiting = held.waiting.saturating_add(count);
        }
        true
    }

    /// What waits for a role of a namespace.
    pub(crate) fn look(&self, namespace: &str, role: Role) -> Look {
        let state = self.lock();
        let lanes = state.waiting.get(namespace).into_iter().flatten();
        let lines = lanes
            .filter(|(_, held)| held.lane.role == role)
            .map(|(id, held)| Line {
                lane: Arc::clone(&held.lane),
                id: *id,
                waiting: held.waiting.max(1),
                head_since_us: held.since_us,
            })
            .collect();
        Look { lines, namespace: namespace.to_owned(), version: state.version }
    }

    /// Takes in how a claim that was chosen from `look` left its lanes.
    pub(crate) fn left(&self, look: &Look, left: &[Left]) {
        let mut state = self.lock();
        let Some(waiting) = state.waiting.get_mut(&look.namespace) else { return };
        for lane in left {
            let Some(held) = waiting.get_mut(&lane.lane) else { continue };
            match lane.since {
                Some(since) => {
                    held.since_us = since.0.as_microsecond();
                    let granted = u64::try_from(lane.granted).unwrap_or_default();
                    held.waiting = held.waiting.saturating_sub(granted).max(1);
                }
                // What entered it since the look may not have been there for the claim to see.
                None if held.version <= look.version => {
                    waiting.remove(&lane.lane);
                }
                None => {}
            }
        }
        if waiting.is_empty() {
            state.waiting.remove(&look.namespace);
        }
    }

    /// Whether so much waits in a namespace that no further lanes are made for it.
    pub(crate) fn is_full(&self, namespace: &str) -> bool {
        self.lock().waiting.get(namespace).is_some_and(|lanes| lanes.len() >= WAITING)
    }

    /// The version before which a refresh that begins now speaks the truth.
    pub(crate) fn version(&self) -> u64 {
        self.lock().version
    }

    /// Takes in what the database says waits, by a look that began at `version`; `whole` if that is all there is.
    pub(crate) fn refresh(&self, version: u64, waiting: Vec<Waiting>, whole: bool) {
        let mut state = self.lock();
        if whole {
            state.waiting.retain(|_, lanes| {
                lanes.retain(|_, held| held.version > version);
                !lanes.is_empty()
            });
        }
        state.version += 1;
        let seen = state.version;
        for lane in waiting {
            let key = state.learn(lane.id, lane.key);
            // A claim that is under way may have looked before these came in line: it must not take the lane for empty.
            if let Some(held) = state.hold(lane.id, key, lane.since.0.as_microsecond(), seen)
                && held.waiting == 0
            {
                held.waiting = lane.waiting.max(1);
            }
        }
    }

    /// Runs `work` on the memory of how the flows of a role and namespace shared.
    pub(crate) fn with_fairness<T>(
        &self,
        namespace: &str,
        role: Role,
        work: impl FnOnce(&mut Fairness) -> T,
    ) -> T {
        let mut state = self.lock();
        work(state.fairness.entry((namespace.to_owned(), role)).or_default())
    }

    /// A namespace's settings, if they were read a moment ago.
    pub(crate) fn settings(&self, namespace: &str) -> Option<Arc<Rules>> {
        let state = self.lock();
        let (read, settings) = state.settings.get(namespace)?;
        (read.elapsed() < FRESH).then(|| Arc::clone(settings))
    }

    /// Whether a namespace has limits or rates, if that was read lately.
    pub(crate) fn bounded(&self, namespace: &str) -> Option<bool> {
        let state = self.lock();
        let (read, known) = state.settings.get(namespace)?;
        (read.elapsed() < KNOWN_BOUNDS).then(|| known.settings.is_bounded())
    }

    /// Lanes of a namespace in which something is thought to wait and that a limit or a rate applies to; all of its lanes where
    /// its settings are not known.
    pub(crate) fn bounded_lanes(&self, namespace: &str) -> Vec<(i32, Arc<LaneKey>)> {
        let state = self.lock();
        let known = state.settings.get(namespace).map(|(_, known)| Arc::clone(known));
        let lanes = state.waiting.get(namespace).into_iter().flatten();
        lanes
            .filter(|(_, held)| known.as_ref().is_none_or(|known| known.settings.bounds(&held.lane.flow)))
            .map(|(id, held)| (*id, Arc::clone(&held.lane)))
            .collect()
    }

    /// Whether anything is thought to wait in a namespace.
    pub(crate) fn any_waiting(&self, namespace: &str) -> bool {
        self.lock().waiting.contains_key(namespace)
    }

    /// Whether anything is thought to wait that a node could take.
    pub(crate) fn waits_for(&self, asker: &Wanting) -> bool {
        let state = self.lock();
        state.waiting.get(&asker.namespace).into_iter().flatten().any(|(_, held)| asker.takes(&held.lane))
    }

    /// To be asked before settings are read, and told when they are kept.
    pub(crate) fn changes(&self) -> u64 {
        self.lock().changes
    }

    /// Keeps a namespace's settings for a moment, unless some were changed since `changes`.
    pub(crate) fn keep_settings(&self, namespace: &str, settings: Arc<Rules>, changes: u64) {
        let mut state = self.lock();
        if state.changes == changes {
            state.settings.insert(namespace.to_owned(), (Instant::now(), settings));
        }
    }

    /// Forgets all settings: somebody changed some.
    pub(crate) fn forget_settings(&self) {
        let mut state = self.lock();
        state.changes += 1;
        state.settings.clear();
    }

    /// The live nodes of a role and namespace, if they were looked at a moment ago.
    pub(crate) fn fleet(&self, namespace: &str, role: Role) -> Option<Arc<Fleet>> {
        let state = self.lock();
        let (read, fleet) = state.fleets.get(&(namespace.to_owned(), role))?;
        (read.elapsed() < FRESH).then(|| Arc::clone(fleet))
    }

    /// Keeps the live nodes of a role and namespace for a moment.
    pub(crate) fn keep_fleet(&self, namespace: &str, role: Role, fleet: Arc<Fleet>) {
        self.lock().fleets.insert((namespace.to_owned(), role), (Instant::now(), fleet));
    }
}

impl State {
    fn learn(&mut self, id: i32, key: LaneKey) -> Arc<LaneKey> {
        if let Some(known) = self.keys.get(&id) {
            return Arc::clone(known);
        }
        let waiting: usize = self.waiting.values().map(HashMap::len).sum();
        if self.keys.len() >= KNOWN + 2 * waiting {
            // Rather than to keep count of what is used: what is needed is learnt again.
            self.ids.clear();
            self.keys.clear();
            for (id, held) in self.waiting.values().flatten() {
                self.ids.insert(Arc::clone(&held.lane), *id);
                self.keys.insert(*id, Arc::clone(&held.lane));
            }
        }
        let key = Arc::new(key);
        self.ids.insert(Arc::clone(&key), id);
        self.keys.insert(id, Arc::clone(&key));
        key
    }

    /// Notes that something waits in a lane, as of `version`. Where the namespace has too many such already, another is forgotten
    /// for it until a look finds it again.
    fn hold(&mut self, id: i32, lane: Arc<LaneKey>, since_us: i64, version: u64) -> Option<&mut Held> {
        if !self.waiting.contains_key(&lane.namespace) {
            self.waiting.insert(lane.namespace.clone(), HashMap::new());
        }
        let lanes = self.waiting.get_mut(&lane.namespace)?;
        if lanes.len() >= WAITING
            && !lanes.contains_key(&id)
            && let Some(other) = lanes.keys().next().copied()
        {
            lanes.remove(&other);
        }
        let held = lanes.entry(id).or_insert(Held { lane, since_us, waiting: 0, version });
        held.version = version;
        Some(held)
    }
}

#[cfg(test)]
mod tests {
    use orca_proto::spec::NewTask;

    use super::*;
    use crate::app::lane::lane_of;
    use crate::db::Time;

    #[test]
    fn what_waits_in_one_namespace_is_not_forgotten_for_what_waits_in_another() {
        let lines = Lines::default();
        let lane = |namespace: &str, group: usize| {
            lane_of(namespace, &NewTask { group: Some(format!("g{group}")), ..NewTask::new("image") })
        };
        lines.learn(0, lane("quiet", 0));
        assert!(lines.entered(0, 1, 0));
        for id in 1..=(KNOWN + 3 * WAITING) {
            let number = i32::try_from(id).unwrap();
            lines.learn(number, lane("loud", id));
            lines.entered(number, 1, 0);
        }
        assert_eq!(lines.look("quiet", Role::Work).lines.len(), 1);
        assert_eq!(lines.look("loud", Role::Work).lines.len(), WAITING);
        assert!(lines.is_full("loud") && !lines.is_full("quiet"));
        let last = i32::try_from(KNOWN + 3 * WAITING).unwrap();
        assert!(lines.look("loud", Role::Work).lines.iter().any(|line| line.id == last));
        assert!(lines.lock().keys.len() <= KNOWN + 2 * (WAITING + 1));
    }

    #[test]
    fn what_came_in_line_while_a_claim_looked_is_not_taken_for_gone() {
        let lines = Lines::default();
        let key = || lane_of("n", &NewTask::new("image"));
        let seen = || {
            let since = Time(jiff::Timestamp::UNIX_EPOCH);
            vec![Waiting { id: 7, key: key(), since, waiting: 1 }]
        };
        let empty = [Left { lane: 7, granted: 0, since: None, unfinished: false }];
        lines.learn(7, key());
        for whole in [false, true] {
            assert!(lines.entered(7, 1, 0));
            let look = lines.look("n", Role::Work);
            // Meanwhile another coordinator puts a task in, and this one hears of it.
            lines.refresh(lines.version(), seen(), whole);
            lines.left(&look, &empty);
            assert_eq!(lines.look("n", Role::Work).lines.len(), 1);
        }
        let look = lines.look("n", Role::Work);
        lines.left(&look, &empty);
        assert!(lines.look("n", Role::Work).lines.is_empty());
    }
}
