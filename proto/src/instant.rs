//! Points in time that people give: what is wrong with one is told by an example.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, de};

const EXPECTED: &str = "must be a point in time with its offset, such as 2026-03-01T10:00:00Z or 2026-03-01T11:00:00+01:00 (RFC 3339)";

/// Reads a point in time.
pub(crate) fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(|_| de::Error::custom(EXPECTED))
}

/// Reads a point in time, or none.
pub(crate) fn perhaps<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| text.parse().map_err(|_| de::Error::custom(EXPECTED))).transpose()
}
