//! The signals that the agent answers to.

use std::io;

use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind};

/// What was heard.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Heard {
    /// A child ended.
    Child,
    /// The program is to end.
    Terminate,
    /// For the program to deal with.
    Forward(Signal),
}

/// Handlers for every signal that matters. Process 1 has no default actions, so the rest is ignored.
pub(crate) struct Signals {
    child: unix::Signal,
    terminate: unix::Signal,
    interrupt: unix::Signal,
    hangup: unix::Signal,
    user1: unix::Signal,
    user2: unix::Signal,
    window: unix::Signal,
}

impl Signals {
    /// Starts to listen; from now on none is lost.
    ///
    /// # Errors
    /// When the process is out of file descriptors.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self {
            child: unix::signal(SignalKind::child())?,
            terminate: unix::signal(SignalKind::terminate())?,
            interrupt: unix::signal(SignalKind::interrupt())?,
            hangup: unix::signal(SignalKind::hangup())?,
            user1: unix::signal(SignalKind::user_defined1())?,
            user2: unix::signal(SignalKind::user_defined2())?,
            window: unix::signal(SignalKind::window_change())?,
        })
    }

    /// The next one. Can be dropped without losing any.
    pub(crate) async fn next(&mut self) -> Heard {
        tokio::select! {
            _ = self.child.recv() => Heard::Child,
            _ = self.terminate.recv() => Heard::Terminate,
            _ = self.interrupt.recv() => Heard::Forward(Signal::INT),
            _ = self.hangup.recv() => Heard::Forward(Signal::HUP),
            _ = self.user1.recv() => Heard::Forward(Signal::USR1),
            _ = self.user2.recv() => Heard::Forward(Signal::USR2),
            _ = self.window.recv() => Heard::Forward(Signal::WINCH),
        }
    }
}
