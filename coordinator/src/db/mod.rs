//! All SQL, one noun per file, checked against the schema at build time.
//!
//! Functions take a connection and do one thing; transactions are opened by [`crate::app`], and nothing but the database
//! happens inside one. Locks are taken in one order, so that transactions wait for each other but never in a circle: the
//! settlement lock, or that of a namespace's dead letters, then tasks (parents before what is under them, else by id), then
//! the row of a node that claims, then the heads of lanes (by id), then the settings that bound them, then grants (by token,
//! all parts of one in their order), then attempts, then unique keys (by key), then the quota of a namespace, and at the end
//! the tails of lanes (by id). What ends gives its keys back, and what becomes ready comes in line, when the transaction
//! ends: [`apply::Effects::conclude`]. Who takes keys has locked before what depends on whose they are, and looks again. What
//! still collides is given up by Postgres and tried again by [`crate::app`].

use jiff::Timestamp;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgTypeInfo, PgValueRef, Postgres};

pub(crate) mod apply;
pub(crate) mod artifact;
pub(crate) mod attempt;
pub(crate) mod dead_letter;
pub(crate) mod dependency;
pub(crate) mod event;
pub(crate) mod gate;
pub(crate) mod idempotency;
pub(crate) mod inbox;
pub(crate) mod insert;
pub(crate) mod lane;
pub(crate) mod lease;
pub(crate) mod leftover;
pub(crate) mod log;
pub(crate) mod node;
pub(crate) mod partition;
pub(crate) mod queue;
pub(crate) mod queue_settings;
pub(crate) mod quota;
pub(crate) mod retention;
pub(crate) mod rules;
#[cfg(feature = "sabotage")]
mod sabotage;
pub(crate) mod schedule;
pub(crate) mod secret;
pub(crate) mod selection;
pub(crate) mod session;
pub(crate) mod settlement;
pub(crate) mod signal;
pub(crate) mod snapshot;
pub(crate) mod task;
pub(crate) mod timer;
pub(crate) mod trim;
pub(crate) mod unique;
pub(crate) mod why;

/// Microseconds from 1970 to Postgres' own epoch, 2000-01-01.
const EPOCH: i64 = 946_684_800_000_000;

/// An instant as `timestamptz`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time(pub(crate) Timestamp);

impl sqlx::Type<Postgres> for Time {
    fn type_info() -> PgTypeInfo {
        // Fixed in the server's catalogue: timestamptz.
        PgTypeInfo::with_oid(Oid(1184))
    }
}

impl sqlx::Encode<'_, Postgres> for Time {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let micros = self.0.as_microsecond().saturating_sub(EPOCH);
        sqlx::Encode::<Postgres>::encode_by_ref(&micros, buffer)
    }
}

impl sqlx::Decode<'_, Postgres> for Time {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        let micros = <i64 as sqlx::Decode<Postgres>>::decode(value)?;
        Ok(Self(Timestamp::from_microsecond(micros.saturating_add(EPOCH))?))
    }
}

/// What a row holds that the code cannot have written.
pub(crate) fn corrupt(what: &'static str, error: impl std::fmt::Display) -> sqlx::Error {
    sqlx::Error::Decode(format!("{what}: {error}").into())
}

/// JSON text of a column as a value.
pub(crate) fn from_json<T: serde::de::DeserializeOwned>(text: &str, what: &'static str) -> sqlx::Result<T> {
    serde_json::from_str(text).map_err(|error| corrupt(what, error))
}

/// A value as the JSON text of a column.
pub(crate) fn to_json<T: serde::Serialize>(value: &T) -> sqlx::Result<String> {
    serde_json::to_string(value).map_err(|error| sqlx::Error::Encode(Box::new(error)))
}

/// A text column that holds one of a few words.
pub(crate) fn word<T: serde::de::DeserializeOwned>(text: &str, what: &'static str) -> sqlx::Result<T> {
    use serde::de::IntoDeserializer;
    use serde::de::value::{Error, StrDeserializer};
    let deserializer: StrDeserializer<'_, Error> = text.into_deserializer();
    T::deserialize(deserializer).map_err(|error| corrupt(what, error))
}

/// A unit-variant enum as the word of a text column.
pub(crate) fn as_word<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// The millisecond count of a duration.
pub(crate) fn millis(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
