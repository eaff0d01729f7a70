//! A link between two processes: a small TCP proxy that delays, stalls, refuses, cuts and half-closes.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

/// How a link carries bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As they come.
    Pass,
    /// Each piece so much later.
    Delay(Duration),
    /// Not at all, for now.
    Stall,
    /// New connections are closed at once.
    Refuse,
}

/// What happens to open connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// They are closed.
    Cut,
    /// One direction is closed, the other goes on.
    HalfClose,
}

/// A link. Dropping it closes it.
pub struct Link {
    /// Such as `node-1>coordinator-2`.
    pub name: String,
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    breaks: broadcast::Sender<Break>,
    _guard: DropGuard,
}

impl Link {
    /// Opens a link to a port of this machine.
    ///
    /// # Errors
    /// If there is no free port.
    pub async fn open(name: impl Into<String>, target: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("there is no free port")?;
        let address = listener.local_addr()?;
        let (mode, seen) = watch::channel(Mode::Pass);
        let (breaks, _) = broadcast::channel(16);
        let stop = CancellationToken::new();
        let accept = accept(listener, target, seen, breaks.clone(), stop.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(accept));
        Ok(Self { name: name.into(), address, mode, breaks, _guard: stop.drop_guard() })
    }

    /// The port to connect to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// From now on.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Breaks what is open.
    pub fn break_open(&self, how: Break) {
        // Nobody hears it where nothing is open.
        let _ = self.breaks.send(how);
    }
}

async fn accept(
    listener: TcpListener,
    target: u16,
    mode: watch::Receiver<Mode>,
    breaks: broadcast::Sender<Break>,
    stop: CancellationToken,
) {
    loop {
        let Ok((near, _)) = listener.accept().await else { continue };
        if *mode.borrow() == Mode::Refuse {
            continue;
        }
        let (mode, breaks) = (mode.clone(), breaks.subscribe());
        tokio::spawn(stop.clone().run_until_cancelled_owned(carry(near, target, mode, breaks)));
    }
}

async fn carry(
    near: TcpStream,
    target: u16,
    mode: watch::Receiver<Mode>,
    mut breaks: broadcast::Receiver<Break>,
) {
    let Ok(far) = TcpStream::connect(("127.0.0.1", target)).await else { return };
    let _ = near.set_nodelay(true);
    let _ = far.set_nodelay(true);
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let half = CancellationToken::new();
    let there = pump(near_read, far_write, mode.clone(), CancellationToken::new());
    let back = pump(far_read, near_write, mode, half.clone());
    let both = async { tokio::join!(there, back) };
    tokio::pin!(both);
    loop {
        tokio::select! {
            _ = &mut both => return,
            how = breaks.recv() => match how {
                Ok(Break::HalfClose) => half.cancel(),
                Ok(Break::Cut) | Err(_) => return,
            },
        }
    }
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
    stop: CancellationToken,
) {
    let mut bytes = vec![0; 16 << 10];
    let work = async {
        while let Ok(count @ 1..) = from.read(&mut bytes).await {
            let now = *mode.borrow_and_update();
            match now {
                Mode::Delay(by) => tokio::time::sleep(by).await,
                Mode::Stall => {
                    if mode.wait_for(|mode| *mode != Mode::Stall).await.is_err() {
                        break;
                    }
                }
                Mode::Pass | Mode::Refuse => {}
            }
            let Some(piece) = bytes.get(..count) else { break };
            if to.write_all(piece).await.is_err() {
                break;
            }
        }
    };
    stop.run_until_cancelled(work).await;
    let _ = to.shutdown().await;
}
