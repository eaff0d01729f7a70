//! `orca-planner`: a node that runs planners' containers, which turn goals into plans.

use std::process::ExitCode;

use orca_proto::spec::Role;

fn main() -> ExitCode {
    orca_node::arguments::main(Role::Plan)
}
