//! A TCP port that nobody listens on at the moment.

use std::net::TcpListener;

use anyhow::{Context, Result};

/// A port of 127.0.0.1 that the system says is free.
///
/// # Errors
/// If there is none.
pub(crate) fn free() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("there is no free TCP port on 127.0.0.1")?;
    Ok(listener.local_addr()?.port())
}
