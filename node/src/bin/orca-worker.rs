//! `orca-worker`: a node that runs workers' containers, which do the tasks of plans.

use std::process::ExitCode;

use orca_proto::spec::Role;

fn main() -> ExitCode {
    orca_node::arguments::main(Role::Work)
}
