//! What can be done to a queue, and how a random life is put together of it.
//!
//! A step names tasks, leases and nodes by numbers that are counted round what there is when it is taken: so a step stays
//! possible when those before it are left out, and a life that broke something shrinks to the few steps that matter.

use proptest::prelude::*;
use proptest::strategy::Union;
use proptest_state_machine::ReferenceStateMachine;

/// Nodes of a life.
pub(crate) const NODES: usize = 3;

/// What a task is wished to be like.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) priority: i16,
    /// Of two queues, the one that has limits in some lives.
    pub(crate) other_queue: bool,
    pub(crate) grouped: bool,
    /// One of three unique keys, and whether it is given back at the grant.
    pub(crate) unique: Option<(u8, bool)>,
    pub(crate) needs: Vec<usize>,
    /// Runs also where what it needs did not succeed.
    pub(crate) run_anyway: bool,
    /// Waits 50 s for an approval that never comes; goes on then, or is cancelled.
    pub(crate) gate: Option<bool>,
    /// Not before 70 s.
    pub(crate) delayed: bool,
    /// Must have begun within 150 s.
    pub(crate) deadline: bool,
    /// Must be taken within 100 s of being ready.
    pub(crate) start_limit: bool,
    pub(crate) max_attempts: i32,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    Success,
    Failure,
    /// By the engine's fault.
    RuntimeError,
    Rejected,
}

/// One thing done to the queue. `at` says by which of the two coordinators.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Enqueue {
        at: usize,
        wish: Wish,
        repeat: bool,
    },
    EnqueueMany {
        at: usize,
        count: usize,
    },
    Claim {
        at: usize,
        node: usize,
        slots: u32,
    },
    Start {
        at: usize,
        lease: usize,
    },
    Report {
        at: usize,
        lease: usize,
        how: How,
        together: bool,
    },
    ReportAgain {
        at: usize,
        lease: usize,
        same: bool,
    },
    ReportLost {
        at: usize,
        lease: usize,
    },
    Spawn {
        at: usize,
        lease: usize,
        count: usize,
    },
    Cancel {
        at: usize,
        task: usize,
    },
    /// Renews the leases of a node whose bit is set.
    Renew {
        at: usize,
        node: usize,
        mask: u32,
    },
    /// Another daemon takes over the node's name.
    Replace {
        node: usize,
    },
    Advance {
        seconds: u64,
    },
    Pause {
        other_queue: bool,
        paused: bool,
    },
}

impl Step {
    /// Whether something follows from it that a reconciler has to do.
    pub(crate) const fn has_consequences(&self) -> bool {
        matches!(
            self,
            Self::Report { .. }
                | Self::Spawn { .. }
                | Self::Cancel { .. }
                | Self::Replace { .. }
                | Self::Advance { .. }
        )
    }
}

/// What the next step is chosen by.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    /// Whether the other queue runs two at a time at most.
    pub(crate) limited: bool,
    /// Tasks enqueued so far, about.
    tasks: usize,
    /// Claims so far.
    claims: usize,
}

impl ReferenceStateMachine for Life {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        any::<bool>().prop_map(|limited| Self { limited, tasks: 0, claims: 0 }).boxed()
    }

    fn transitions(life: &Self) -> BoxedStrategy<Step> {
        let (tasks, claims) = (u32::from(life.tasks > 0), u32::from(life.claims > 0));
        let (at, pick) = (0..2_usize, 0..1_000_usize);
        let all: Vec<(u32, BoxedStrategy<Step>)> = vec![
            (
                6,
                (at.clone(), wish(), prop::bool::weighted(0.2))
                    .prop_map(|(at, wish, repeat)| Step::Enqueue { at, wish, repeat })
                    .boxed(),
            ),
            (
                2,
                (at.clone(), prop_oneof![5 => 1..8_usize, 1 => 118..130_usize])
                    .prop_map(|(at, count)| Step::EnqueueMany { at, count })
                    .boxed(),
            ),
            (
                1 + 7 * tasks,
                (at.clone(), 0..NODES, 1..8_u32)
                    .prop_map(|(at, node, slots)| Step::Claim { at, node, slots })
                    .boxed(),
            ),
            (
                2 * claims,
                (at.clone(), pick.clone()).prop_map(|(at, lease)| Step::Start { at, lease }).boxed(),
            ),
            (
                8 * claims,
                (at.clone(), pick.clone(), how(), any::<bool>())
                    .prop_map(|(at, lease, how, together)| Step::Report { at, lease, how, together })
                    .boxed(),
            ),
            (
                claims,
                (at.clone(), pick.clone(), any::<bool>())
                    .prop_map(|(at, lease, same)| Step::ReportAgain { at, lease, same })
                    .boxed(),
            ),
            (
                claims,
                (at.clone(), pick.clone()).prop_map(|(at, lease)| Step::ReportLost { at, lease }).boxed(),
            ),
            (
                2 * claims,
                (at.clone(), pick.clone(), 1..4_usize)
                    .prop_map(|(at, lease, count)| Step::Spawn { at, lease, count })
                    .boxed(),
            ),
            (2 * tasks, (at.clone(), pick).prop_map(|(at, task)| Step::Cancel { at, task }).boxed()),
            (
                2 * claims,
                (at, 0..NODES, any::<u32>())
                    .prop_map(|(at, node, mask)| Step::Renew { at, node, mask })
                    .boxed(),
            ),
            (claims, (0..NODES).prop_map(|node| Step::Replace { node }).boxed()),
            (
                3,
                prop_oneof![3 => 20..100_u64, 1 => 300..400_u64, 1 => 601..700_u64]
                    .prop_map(|seconds| Step::Advance { seconds })
                    .boxed(),
            ),
            (
                1,
                (any::<bool>(), any::<bool>())
                    .prop_map(|(other_queue, paused)| Step::Pause { other_queue, paused })
                    .boxed(),
            ),
        ];
        // Nothing may have the weight 0.
        Union::new_weighted(all.into_iter().filter(|(weight, _)| *weight > 0).collect()).boxed()
    }

    fn apply(mut life: Self, step: &Step) -> Self {
        match step {
            Step::Enqueue { .. } => life.tasks += 1,
            Step::EnqueueMany { count, .. } => life.tasks += count,
            Step::Claim { .. } if life.tasks > 0 => life.claims += 1,
            _ => {}
        }
        life
    }
}

fn how() -> impl Strategy<Value = How> {
    prop_oneof![
        6 => Just(How::Success),
        3 => Just(How::Failure),
        2 => Just(How::RuntimeError),
        1 => Just(How::Rejected),
    ]
}

fn wish() -> impl Strategy<Value = Wish> {
    let seldom = || prop::bool::weighted(0.15);
    let places = (0..3_i16, prop::bool::weighted(0.3), any::<bool>());
    let waits = (
        prop::option::weighted(0.15, any::<bool>()),
        seldom(),
        seldom(),
        seldom(),
        prop::collection::vec(0..1_000_usize, 0..3),
        any::<bool>(),
    );
    (places, prop::option::weighted(0.2, (0..3_u8, any::<bool>())), waits, 1..4_i32).prop_map(
        |(
            (priority, other_queue, grouped),
            unique,
            (gate, delayed, deadline, start_limit, needs, run_anyway),
            max_attempts,
        )| {
            Wish {
                priority,
                other_queue,
                grouped,
                unique,
                needs,
                run_anyway,
                gate,
                delayed,
                deadline,
                start_limit,
                max_attempts,
            }
        },
    )
}
