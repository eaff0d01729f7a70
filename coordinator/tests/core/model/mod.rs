//! Random lives of the queue: whatever operators, nodes, programs and the clock do to two coordinators on one database, what
//! ARCHITECTURE.md says always holds does so after every step, and a drain leaves every task in exactly one terminal state.
//!
//! Each life has a namespace of its own, so that all of them can share one database. `PROPTEST_CASES` asks for more of them,
//! `PROPTEST_RNG_SEED` for others.

use std::cell::RefCell;
use std::rc::Rc;

use orca_coordinator::app::App;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest};
use tokio::runtime::Runtime;

use super::support::TestApp;
use step::{Life, Step};
use world::World;

mod expected;
mod invariants;
mod record;
mod step;
mod take;
mod world;

/// What all lives share.
pub(crate) struct Rig {
    runtime: Runtime,
    test: TestApp,
    other: App,
}

impl Rig {
    fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (test, other) = runtime.block_on(async {
            let test = TestApp::start().await;
            let other = test.replica().await;
            (test, other)
        });
        Self { runtime, test, other }
    }

    /// One of the two coordinators.
    fn app(&self, at: usize) -> &App {
        if at == 0 { &self.test.app } else { &self.other }
    }
}

thread_local! {
    /// The trait that runs a life takes nothing from outside.
    static RIG: RefCell<Option<Rc<Rig>>> = const { RefCell::new(None) };
}

/// A life, lived on the rig.
struct Lived;

impl StateMachineTest for Lived {
    type SystemUnderTest = World;
    type Reference = Life;

    fn init_test(life: &Life) -> World {
        let rig = RIG.with_borrow(Clone::clone).expect("the test puts a rig there");
        rig.clone().runtime.block_on(World::begin(rig, life.limited))
    }

    fn apply(mut world: World, _: &Life, step: Step) -> World {
        let rig = world.rig();
        rig.runtime.block_on(async {
            let follows = step.has_consequences();
            world.take(step).await;
            world.check(follows).await;
        });
        world
    }

    fn teardown(mut world: World, _: Life) {
        let rig = world.rig();
        rig.runtime.block_on(world.drain());
    }
}

#[test]
fn whatever_happens_to_the_queue_its_promises_hold_after_every_step() {
    let told = |name| std::env::var_os(name).is_some();
    let mut config = Config {
        failure_persistence: None,
        max_shrink_iters: 300,
        max_shrink_time: 120_000,
        ..Config::default()
    };
    if !told("PROPTEST_CASES") {
        config.cases = 24;
    }
    if !told("PROPTEST_RNG_SEED") {
        config.rng_seed = RngSeed::Fixed(20);
    }
    let rig = Rc::new(Rig::start());
    RIG.set(Some(Rc::clone(&rig)));
    let mut runner = TestRunner::new(config.clone());
    let result = runner.run(&Life::sequential_strategy(10..40), |(life, steps, seen)| {
        Lived::test_sequential(config.clone(), life, steps, seen);
        Ok(())
    });
    RIG.set(None);
    rig.runtime.block_on(rig.test.stop());
    result.unwrap_or_else(|failure| panic!("{failure}"));
}
