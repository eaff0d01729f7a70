//! What was seen, in the order in which it was seen.

mod line;
mod read;
mod recorder;

pub use line::{Answer, Asked, Call, Faults, Granted, Line, Phase, Trespass, What};
pub use read::{History, Op, merge};
pub use recorder::{Recorder, refusal};
