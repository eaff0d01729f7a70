//! The payload: the same 200 bytes of JSON for every system.

use serde::{Deserialize, Serialize};

/// Bytes of the payload's compact JSON text.
pub(crate) const SIZE: usize = 200;

/// A payload as a task carries it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Payload {
    /// Nothing in particular.
    pub(crate) data: String,
}

impl Payload {
    /// The payload whose JSON text is [`SIZE`] bytes long.
    pub(crate) fn new() -> Self {
        const FRAME: usize = r#"{"data":""}"#.len();
        // Letters that change, so that no compression makes less of it.
        let letters = (0..SIZE - FRAME).map(|at| char::from(b'a' + ((at * 7 + at / 26) % 26) as u8));
        Self { data: letters.collect() }
    }

    /// As JSON.
    pub(crate) fn json() -> serde_json::Value {
        serde_json::json!({ "data": Self::new().data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_is_two_hundred_bytes_of_json() {
        assert_eq!(serde_json::to_string(&Payload::new()).unwrap().len(), SIZE);
        assert_eq!(Payload::json().to_string().len(), SIZE);
    }
}
