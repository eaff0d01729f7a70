//! The way out of containers that have no network: which hosts an attempt may reach, and the connections to them.
//!
//! A container asks for a host by name, over its attempt's socket. Everything is decided here, and nothing in the container:
//! the name must be in the task's list ([`allowance`]), it is resolved once per attempt, and every address that it has must be
//! one that tasks may reach ([`address`], [`gate`]), before the node itself connects to it and carries the bytes ([`tunnel`]).

mod address;
mod allowance;
mod coordinator;
mod gate;
mod lookup;
mod tunnel;

use std::io;
use std::net::IpAddr;

use orca_proto::spec::Destination;

pub(crate) use allowance::{Allowance, Opened};
pub(crate) use gate::Gate;

/// Why a host was not reached. The texts go into the container, so no address that only the node knows is in them.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// The task does not name it.
    #[error("{0} is not among the hosts that the task names in network.egress")]
    Unnamed(Destination),
    /// It is where tasks may not go.
    #[error("{to} {}: tasks reach public addresses only{}", .why.text, .why.hint())]
    Address {
        /// What was asked for.
        to: Destination,
        /// Its address. Not for the container to know.
        at: IpAddr,
        /// What that is.
        why: address::Closed,
    },
    /// It is the coordinator.
    #[error("{0} is at an address of Orca's coordinator, which no task may reach")]
    Coordinator(Destination),
    /// Something is used up.
    #[error("{0}")]
    TooMany(String),
    /// The name has no address.
    #[error("the node cannot resolve {to}: {source}")]
    Unresolved {
        /// What was asked for.
        to: Destination,
        /// Why not.
        source: io::Error,
    },
    /// It takes no connection.
    #[error("the node cannot connect to {to}: {source}")]
    Unreachable {
        /// What was asked for.
        to: Destination,
        /// Why not.
        source: io::Error,
    },
    /// It does not answer.
    #[error("{what} {to} took longer than the node waits")]
    Slow {
        /// What was asked for.
        to: Destination,
        /// What was tried.
        what: &'static str,
    },
    /// Without knowing where the coordinator is, nothing can be said not to be it.
    #[error("the node cannot tell just now where its coordinator is, and so connects to nothing; try again")]
    Blind,
}

impl Refusal {
    /// The address for which a host was refused.
    pub(crate) const fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Address { at, .. } => Some(*at),
            _ => None,
        }
    }
}
