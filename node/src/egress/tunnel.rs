//! Carries the bytes of one tunnel, in both directions.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::allowance::Traffic;

/// Bytes under way in one direction.
const BUFFER: usize = 8 << 10;
/// How long a tunnel may stay open in which nothing moves, and how often that is looked at.
const IDLE: Duration = Duration::from_secs(600);
const LOOK: Duration = Duration::from_secs(60);

/// Carries until both sides have ended, one has failed, or nothing moved for [`IDLE`]. One side may end before the other.
pub(super) async fn carry(
    inside: impl AsyncRead + AsyncWrite,
    outside: impl AsyncRead + AsyncWrite,
    traffic: &Traffic,
) {
    let (from_inside, to_inside) = tokio::io::split(inside);
    let (from_outside, to_outside) = tokio::io::split(outside);
    let moved = AtomicU64::new(0);
    let sent = pump(from_inside, to_outside, [&traffic.sent, &moved]);
    let received = pump(from_outside, to_inside, [&traffic.received, &moved]);
    let both = async { tokio::try_join!(sent, received) };
    tokio::select! {
        ended = both => if let Err(error) = ended {
            tracing::debug!(%error, "a tunnel broke");
        },
        () = idle(&moved) => tracing::debug!("a tunnel was idle for too long"),
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    counts: [&AtomicU64; 2],
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(buffer.get(..read).unwrap_or_default()).await?;
        for count in counts {
            count.fetch_add(read as u64, Ordering::Relaxed);
        }
    }
}

/// Returns once `moved` has not changed for [`IDLE`].
async fn idle(moved: &AtomicU64) {
    let (mut before, mut quiet) = (0, Duration::ZERO);
    while quiet < IDLE {
        tokio::time::sleep(LOOK).await;
        let now = moved.load(Ordering::Relaxed);
        quiet = if now == before { quiet + LOOK } else { Duration::ZERO };
        before = now;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};
    use tokio::time::Instant;

    use super::*;

    /// A tunnel: the program's end, the host's end, the task that carries, what it counted.
    fn tunnel() -> (DuplexStream, DuplexStream, tokio::task::JoinHandle<Traffic>) {
        let (program, inside) = duplex(16);
        let (host, outside) = duplex(16);
        let carried = tokio::spawn(async move {
            let traffic = Traffic::default();
            carry(inside, outside, &traffic).await;
            traffic
        });
        (program, host, carried)
    }

    #[tokio::test]
    async fn one_side_may_end_before_the_other_and_every_byte_is_counted() {
        let (mut program, mut host, carried) = tunnel();
        let asked = async {
            program.write_all(&[1; 50_000]).await.unwrap();
            program.shutdown().await.unwrap();
            let mut answer = Vec::new();
            program.read_to_end(&mut answer).await.unwrap();
            answer
        };
        let answered = async {
            let mut question = Vec::new();
            host.read_to_end(&mut question).await.unwrap();
            host.write_all(&[2; 70_000]).await.unwrap();
            host.shutdown().await.unwrap();
            question
        };
        let (answer, question) = tokio::join!(asked, answered);
        assert_eq!((question, answer), (vec![1; 50_000], vec![2; 70_000]));
        let traffic = carried.await.unwrap();
        assert_eq!((traffic.sent.into_inner(), traffic.received.into_inner()), (50_000, 70_000));
    }

    #[tokio::test(start_paused = true)]
    async fn a_tunnel_in_which_nothing_moves_is_cut_and_one_in_which_little_moves_is_not() {
        let (mut program, mut host, carried) = tunnel();
        let begin = Instant::now();
        for _ in 0..4 {
            tokio::time::sleep(IDLE - LOOK * 2).await;
            program.write_all(b"x").await.unwrap();
            host.read_u8().await.unwrap();
        }
        let last = Instant::now();
        assert!(!carried.is_finished() && last - begin > IDLE * 3);
        carried.await.unwrap();
        assert!((IDLE - LOOK..=IDLE + LOOK).contains(&last.elapsed()), "{:?}", last.elapsed());
        assert_eq!(host.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_side_that_does_not_read_is_idle_too() {
        let (mut program, _host, carried) = tunnel();
        let filled = tokio::time::timeout(IDLE * 2, program.write_all(&[0; 1 << 20])).await.unwrap();
        assert!(filled.is_err());
        carried.await.unwrap();
    }
}
