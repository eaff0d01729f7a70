//! Choosing: which lanes a node that asks for work is given tasks of, and how many of each.
//!
//! One pass over the lanes finds those that the node may take of; then, level by level, grants go to the flow whose next
//! one has been due for longest, several at a time where no other flow is due in between. What one grant uses up (slots,
//! limits, rates, processors, memory) is counted at once, so the answer holds as a whole.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap};

use super::asker::Asker;
use super::fairness::{Fairness, Found, Seat};
use super::lane::{Capacity, Flow, Line};
use super::level::level;
use super::obstacle::{Moment, group_gates, namespace_gate, node_gates, queue_gates, room};
use super::settings::QueueRules;

/// Where both wait in one flow, this many grants go to tasks of the level's own priority before one goes to a task that
/// only time has lifted there. So a long backlog of lesser work cannot hold up what is urgent, and is still worked off.
const OWN_TURNS: u32 = 3;

/// The most lanes that one claim is given of: each is a look-up in the database.
pub(super) const LANES: usize = 64;

/// Take tasks from the head of one lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pick {
    /// The lane's id.
    pub(crate) lane: i32,
    /// At most so many; at least 1.
    pub(crate) most: u32,
}

/// What `asker` is given of `lines`, best first; each lane at most once, and at most [`LANES`] of them.
///
/// `lines` must hold every lane of the namespace and role that has something in line: a flow that is missing counts as
/// idle. The answer as a whole keeps every limit. Grants are charged to the flows at once, taken or not: what was gone
/// from a lane by the time it was looked for, another coordinator has granted.
pub(crate) fn choose<'a>(
    fairness: &mut Fairness,
    asker: &Asker,
    lines: &'a [Line],
    moment: &Moment<'a>,
) -> Vec<Pick> {
    fairness.begin();
    let mut round = Round {
        slots: asker.slots.min(room(namespace_gate(moment))),
        free: asker.free.unwrap_or(Capacity { millicpus: u64::MAX, memory: u64::MAX }),
        queues: Vec::new(),
        flows: Vec::new(),
        picks: Vec::new(),
    };
    let mut candidates = round.candidates(fairness, asker, lines, moment);
    candidates.sort_unstable_by_key(|candidate| {
        (Reverse(candidate.level), candidate.flow, candidate.lifted, candidate.since_us, candidate.lane)
    });
    for level in candidates.chunk_by_mut(|one, other| one.level == other.level) {
        if round.slots == 0 || round.picks.len() >= LANES {
            break;
        }
        round.serve_level(fairness, level);
    }
    fairness.end();
    round.picks
}

/// One claim under way: what is left of everything.
struct Round<'a> {
    slots: u32,
    free: Capacity,
    queues: Vec<QueueRoom<'a>>,
    flows: Vec<FlowRoom<'a>>,
    picks: Vec<Pick>,
}

struct QueueRoom<'a> {
    rules: Option<&'a QueueRules>,
    left: u32,
    ageing_us: i64,
}

struct FlowRoom<'a> {
    key: &'a Flow,
    queue: usize,
    left: u32,
    weight: f64,
    at: usize,
}

/// A lane that the node may take of.
struct Candidate {
    lane: i32,
    flow: usize,
    base: i16,
    level: i16,
    lifted: bool,
    since_us: i64,
    left: u32,
    needs: Capacity,
    pick: Option<usize>,
}

/// A flow that competes on a level, with its lanes there: those of the level's own priority, and those that time lifted.
struct Contender<'c> {
    flow: usize,
    weight: f64,
    seat: Seat,
    since_us: i64,
    served: u32,
    /// Whether it could take more.
    competes: bool,
    own: &'c mut [Candidate],
    lifted: &'c mut [Candidate],
}

/// A place in the order of service: the earliest start, then the oldest head.
struct Due {
    starts: f64,
    since_us: i64,
    contender: usize,
}

impl<'a> Round<'a> {
    fn candidates(
        &mut self,
        fairness: &mut Fairness,
        asker: &Asker,
        lines: &'a [Line],
        moment: &Moment<'a>,
    ) -> Vec<Candidate> {
        let mut queues: HashMap<&str, usize> = HashMap::new();
        let mut candidates = Vec::with_capacity(lines.len());
        let mut last: Option<usize> = None;
        for line in lines {
            let key = &line.lane.flow;
            let flow = match last.filter(|flow| self.flows.get(*flow).is_some_and(|last| last.key == key)) {
                Some(flow) => flow,
                None => self.flow(fairness, key, &mut queues, moment),
            };
            last = Some(flow);
            let closed = self.slots == 0 || line.waiting == 0 || self.room_of(flow) == 0;
            if closed || room(node_gates(&line.lane, line.head_since_us, asker, moment)) == 0 {
                continue;
            }
            candidates.push(Candidate {
                lane: line.id,
                flow,
                base: line.lane.priority,
                level: line.lane.priority,
                lifted: false,
                since_us: line.head_since_us,
                left: u32::try_from(line.waiting).unwrap_or(u32::MAX),
                needs: line.lane.needs,
                pick: None,
            });
        }
        let top = candidates.iter().map(|candidate| candidate.base).max().unwrap_or_default();
        for candidate in &mut candidates {
            let ageing_us = self
                .flows
                .get(candidate.flow)
                .and_then(|flow| self.queues.get(flow.queue))
                .map_or(0, |queue| queue.ageing_us);
            let waited_us = moment.now_us.saturating_sub(candidate.since_us);
            candidate.level = level(candidate.base, waited_us, ageing_us, top);
            candidate.lifted = candidate.level > candidate.base;
        }
        candidates
    }

    /// The flow's place in this round.
    fn flow(
        &mut self,
        fairness: &mut Fairness,
        key: &'a Flow,
        queues: &mut HashMap<&'a str, usize>,
        moment: &Moment<'a>,
    ) -> usize {
        let at = match fairness.find(key, self.flows.len()) {
            Found::Noted(flow) => return flow,
            Found::New(at) => at,
        };
        let queue = match self.flows.last().filter(|last| last.key.queue() == key.queue()) {
            Some(last) => last.queue,
            None => *queues.entry(key.queue()).or_insert_with(|| {
                self.queues.push(QueueRoom {
                    rules: moment.settings.queues.get(key.queue()),
                    left: room(queue_gates(key.queue(), moment)),
                    ageing_us: moment.settings.ageing_us(key.queue()),
                });
                self.queues.len() - 1
            }),
        };
        let rules = self.queues.get(queue).and_then(|queue| queue.rules?.group(key));
        let left = room(group_gates(key, rules, moment));
        let weight = f64::from(rules.map_or(1, |rules| rules.settings.weight.max(1)));
        self.flows.push(FlowRoom { key, queue, left, weight, at });
        self.flows.len() - 1
    }

    /// How many more tasks the limits of the flow and its queue allow.
    fn room_of(&self, flow: usize) -> u32 {
        self.flows
            .get(flow)
            .map_or(0, |flow| flow.left.min(self.queues.get(flow.queue).map_or(0, |queue| queue.left)))
    }

    /// Grants what the lanes of one level give, until nothing is left of them or of the node.
    fn serve_level(&mut self, fairness: &mut Fairness, level: &mut [Candidate]) {
        let mut contenders: Vec<Contender<'_>> = level
            .chunk_by_mut(|one, other| one.flow == other.flow)
            .filter_map(|lanes| self.contender(fairness, lanes))
            .collect();
        let mut competing: f64 = contenders.iter().map(|contender| contender.weight).sum();
        let mut order: BinaryHeap<Reverse<Due>> =
            contenders.iter().enumerate().map(|(at, contender)| Reverse(contender.due(at))).collect();
        let mut clock = 0.0;
        let mut narrowed = false;
        while self.slots > 0
            && let Some(Reverse(due)) = order.pop()
            && let Some(contender) = contenders.get_mut(due.contender)
        {
            let run = match order.peek() {
                Some(Reverse(next)) => whole((next.starts - due.starts) * contender.weight).saturating_add(1),
                None => u32::MAX,
            };
            let run = run.min(self.slots);
            let served = self.serve(contender, run);
            contender.served += served;
            clock += f64::from(served) / competing;
            if served == run {
                order.push(Reverse(contender.due(due.contender)));
            } else {
                competing -= contender.weight;
                contender.competes = false;
                self.settle(fairness, contender, clock);
            }
            if self.picks.len() >= LANES && !narrowed {
                narrowed = true;
                // The others are out of this claim, and gain on those that are served in their stead.
                let in_it = |due: &Due| contenders.get(due.contender).is_some_and(|flow| flow.served > 0);
                order.retain(|Reverse(due)| in_it(due));
            }
        }
        for contender in contenders.iter().filter(|contender| contender.competes) {
            self.settle(fairness, contender, clock);
        }
    }

    fn contender<'c>(&self, fairness: &Fairness, lanes: &'c mut [Candidate]) -> Option<Contender<'c>> {
        let flow = lanes.first()?.flow;
        let room = self.flows.get(flow)?;
        let since_us = lanes.iter().map(|lane| lane.since_us).min()?;
        let (own, lifted) = lanes.split_at_mut(lanes.partition_point(|lane| !lane.lifted));
        let seat = fairness.seat(room.at);
        Some(Contender { flow, weight: room.weight, seat, since_us, served: 0, competes: true, own, lifted })
    }

    fn settle(&self, fairness: &mut Fairness, contender: &Contender<'_>, clock: f64) {
        if let Some(flow) = self.flows.get(contender.flow) {
            let seat = contender.seat.settled(clock, contender.weight, contender.served);
            fairness.remember(flow.at, seat);
        }
    }

    /// Grants `run` tasks of one flow, or as many as it has and may; answers how many.
    fn serve(&mut self, contender: &mut Contender<'_>, run: u32) -> u32 {
        let mut served = 0;
        while served < run {
            let most = (run - served).min(self.slots).min(self.room_of(contender.flow));
            if most == 0 {
                break;
            }
            let all_picked = self.picks.len() >= LANES;
            let own = first(&mut contender.own, self.free, all_picked);
            let lifted = first(&mut contender.lifted, self.free, all_picked);
            let turn = contender.seat.turn;
            let taken = match (own, lifted) {
                (None, None) => break,
                (Some(lane), None) | (None, Some(lane)) => self.take(contender.flow, lane, most),
                (Some(lane), Some(_)) if turn < OWN_TURNS => {
                    let taken = self.take(contender.flow, lane, most.min(OWN_TURNS - turn));
                    contender.seat.turn += taken;
                    taken
                }
                (Some(_), Some(lane)) => {
                    contender.seat.turn = 0;
                    self.take(contender.flow, lane, 1)
                }
            };
            served += taken;
        }
        served
    }

    /// Takes up to `most` tasks of a lane that has at least one that fits.
    fn take(&mut self, flow: usize, lane: &mut Candidate, most: u32) -> u32 {
        let count = most.min(lane.left).min(self.free.holds(lane.needs));
        lane.left -= count;
        self.slots -= count;
        self.free = self.free.less(lane.needs, count);
        if let Some(flow) = self.flows.get_mut(flow) {
            flow.left -= count;
            if let Some(queue) = self.queues.get_mut(flow.queue) {
                queue.left -= count;
            }
        }
        match lane.pick.and_then(|at| self.picks.get_mut(at)) {
            Some(pick) => pick.most += count,
            None => {
                lane.pick = Some(self.picks.len());
                self.picks.push(Pick { lane: lane.lane, most: count });
            }
        }
        count
    }
}

/// The first of the lanes that still has a task that fits into `free` and, where `all_picked`, was picked before. Those in
/// front of it are dropped: what stands in their way does not go away during a claim.
fn first<'l>(lanes: &'l mut &mut [Candidate], free: Capacity, all_picked: bool) -> Option<&'l mut Candidate> {
    let passed_over = |lane: &&Candidate| {
        lane.left == 0 || (all_picked && lane.pick.is_none()) || free.holds(lane.needs) == 0
    };
    let skipped = lanes.iter().take_while(passed_over).count();
    let rest = std::mem::take(lanes);
    *lanes = rest.get_mut(skipped..).unwrap_or_default();
    lanes.first_mut()
}

impl Contender<'_> {
    fn due(&self, contender: usize) -> Due {
        let starts = self.seat.starts(self.served, self.weight);
        Due { starts, since_us: self.since_us, contender }
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        self.starts
            .total_cmp(&other.starts)
            .then(self.since_us.cmp(&other.since_us))
            .then(self.contender.cmp(&other.contender))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Due {}

/// The whole part of an amount that is not negative; what no `u32` holds is the most that one does.
fn whole(amount: f64) -> u32 {
    let floor = amount.floor().clamp(0.0, f64::from(u32::MAX));
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole, and clamped to the range of u32"
    )]
    let whole = floor as u32;
    whole
}
