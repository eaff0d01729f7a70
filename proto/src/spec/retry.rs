//! When a task is tried again, and how long things may take.

use serde::{Deserialize, Serialize};

use crate::duration::Span;

/// When a task is tried again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// Attempts in all, the first included; 1 to 100; 3 unless told. A failure of the engine itself does not count.
    #[serde(skip_serializing_if = "Retry::usual_attempts")]
    pub max_attempts: i32,
    /// How long to wait in between.
    #[serde(skip_serializing_if = "Backoff::is_usual")]
    pub backoff: Backoff,
    /// Which outcomes are worth another attempt; all of them unless told.
    #[serde(skip_serializing_if = "Retry::usual_outcomes")]
    pub retry_on: Vec<RetryOn>,
    /// Of `failed`, only these exit codes are; any when empty. 0 to 255; at most 64.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exit_codes: Vec<i32>,
    /// Of `failed`, all but these exit codes are. 0 to 255; at most 64, none of them in `exit_codes`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub except_exit_codes: Vec<i32>,
}

impl Retry {
    const ATTEMPTS: i32 = 3;
    const OUTCOMES: [RetryOn; 5] =
        [RetryOn::Failed, RetryOn::TimedOut, RetryOn::OutOfMemory, RetryOn::Killed, RetryOn::Lost];

    /// Whether everything has its default. Told without making one to compare with: this is asked of every task.
    pub(super) fn is_usual(&self) -> bool {
        Self::usual_attempts(&self.max_attempts)
            && self.backoff.is_usual()
            && Self::usual_outcomes(&self.retry_on)
            && self.exit_codes.is_empty()
            && self.except_exit_codes.is_empty()
    }

    fn usual_attempts(attempts: &i32) -> bool {
        *attempts == Self::ATTEMPTS
    }

    fn usual_outcomes(outcomes: &[RetryOn]) -> bool {
        outcomes == Self::OUTCOMES
    }

    /// Whether a program that exited with `code` is worth another attempt, as far as the lists of codes say.
    #[must_use]
    pub fn retries_exit_code(&self, code: i32) -> bool {
        (self.exit_codes.is_empty() || self.exit_codes.contains(&code))
            && !self.except_exit_codes.contains(&code)
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max_attempts: Self::ATTEMPTS,
            backoff: Backoff::default(),
            retry_on: Self::OUTCOMES.to_vec(),
            exit_codes: Vec::new(),
            except_exit_codes: Vec::new(),
        }
    }
}

/// The wait before attempt n+1: `initial × factor^(n-1)`, at most `max`, less a random part of up to `jitter` of it.
/// With a factor of 1 it is the same every time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Backoff {
    /// Before the second attempt; 1 s unless told; at most `max`.
    #[serde(skip_serializing_if = "Backoff::usual_initial")]
    pub initial: Span,
    /// Growth per attempt; 1 to 10; 2 unless told.
    #[serde(skip_serializing_if = "Backoff::usual_factor")]
    pub factor: f64,
    /// Upper bound; 5 minutes unless told.
    #[serde(skip_serializing_if = "Backoff::usual_max")]
    pub max: Span,
    /// Share of the wait that is random; 0 to 1; 0.1 unless told.
    #[serde(skip_serializing_if = "Backoff::usual_jitter")]
    pub jitter: f64,
}

impl Backoff {
    const USUAL: Self = Self { initial: Span::secs(1), factor: 2.0, max: Span::secs(300), jitter: 0.1 };

    fn is_usual(&self) -> bool {
        *self == Self::USUAL
    }

    fn usual_initial(initial: &Span) -> bool {
        *initial == Self::USUAL.initial
    }

    fn usual_factor(factor: &f64) -> bool {
        *factor == Self::USUAL.factor
    }

    fn usual_max(max: &Span) -> bool {
        *max == Self::USUAL.max
    }

    fn usual_jitter(jitter: &f64) -> bool {
        *jitter == Self::USUAL.jitter
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::USUAL
    }
}

/// An outcome that may be tried again. `rejected` and `cancelled` never are; `runtime_error` always is, within a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum RetryOn {
    /// The program exited with a code other than 0.
    Failed,
    /// A time limit was reached.
    TimedOut,
    /// The kernel killed it for memory.
    OutOfMemory,
    /// A signal that Orca did not send ended it.
    Killed,
    /// Its node went away.
    Lost,
}

/// How long things may take. Absent means no limit, except where a default is named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// From ready to running; the task then expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule_to_start: Option<Span>,
    /// One attempt, from the start of its program; 1 hour unless told.
    #[serde(skip_serializing_if = "Timeouts::usual_start_to_close")]
    pub start_to_close: Span,
    /// Between SIGTERM and SIGKILL when a limit is reached or the task is cancelled; 10 s unless told.
    #[serde(skip_serializing_if = "Timeouts::usual_grace")]
    pub grace: Span,
    /// The program must report progress, whatever it says, at least this often; at least 1 s, at most `start_to_close`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<Span>,
}

impl Timeouts {
    const USUAL: Self = Self {
        schedule_to_start: None,
        start_to_close: Span::secs(3_600),
        grace: Span::secs(10),
        heartbeat: None,
    };

    fn usual_start_to_close(limit: &Span) -> bool {
        *limit == Self::USUAL.start_to_close
    }

    fn usual_grace(grace: &Span) -> bool {
        *grace == Self::USUAL.grace
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self::USUAL
    }
}
