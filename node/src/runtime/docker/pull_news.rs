//! How far a pull is, from what the engine says of each layer.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use bollard::models::CreateImageInfo;

/// Layers that are counted; an engine has a limit of its own, and this one is above it.
const LAYERS: usize = 512;
/// Most of a failure's reason that is told, in bytes.
const REASON: usize = 512;
const MEGABYTE: u64 = 1_000_000;

/// How far a pull is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum News {
    /// The registry was asked.
    #[default]
    Asked,
    /// Bytes that came, of those that are known to come.
    Coming { done: u64, of: u64 },
    /// All came; the engine unpacks them.
    Unpacking { of: u64 },
    /// It failed and is tried again.
    Failed { why: String, wait: Duration },
}

impl fmt::Display for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megabytes = |bytes: &u64| bytes.div_ceil(MEGABYTE);
        match self {
            Self::Asked => f.write_str("waiting for the registry"),
            Self::Coming { done, of } => write!(f, "{} of {} MB", done / MEGABYTE, megabytes(of)),
            Self::Unpacking { of } => write!(f, "unpacking {} MB", megabytes(of)),
            Self::Failed { why, wait } => {
                let end = why.floor_char_boundary(REASON);
                let why = why.get(..end).unwrap_or_default();
                write!(f, "failed, next try in {} s: {why}", wait.as_secs())
            }
        }
    }
}

/// What is known of the layers.
#[derive(Debug, Default)]
pub(super) struct Layers(HashMap<String, Layer>);

#[derive(Clone, Copy, Debug, Default)]
struct Layer {
    done: u64,
    of: u64,
    has_come: bool,
}

impl Layers {
    /// Takes in one word of the engine; answers whether it shows that something moves.
    pub(super) fn note(&mut self, step: &CreateImageInfo) -> bool {
        let status = step.status.as_deref().unwrap_or_default();
        // The engine waits for a registry that does not answer, and says so every second.
        if status.starts_with("Retrying") {
            return false;
        }
        let Some(id) = &step.id else { return true };
        if !self.0.contains_key(id) && self.0.len() >= LAYERS {
            return true;
        }
        let bytes = |amount: Option<i64>| amount.and_then(|bytes| u64::try_from(bytes).ok());
        let detail = step.progress_detail.as_ref();
        let amounts = detail.and_then(|detail| Some((bytes(detail.current)?, bytes(detail.total)?)));
        match (status, amounts) {
            ("Downloading", Some((done, of))) => {
                self.0.insert(id.clone(), Layer { done, of, has_come: false });
            }
            ("Verifying Checksum" | "Download complete" | "Pull complete", _) | ("Extracting", _) => {
                if let Some(layer) = self.0.get_mut(id) {
                    *layer = Layer { done: layer.of, of: layer.of, has_come: true };
                }
            }
            _ => {}
        }
        true
    }

    pub(super) fn news(&self) -> News {
        let (done, of) = self.0.values().fold((0_u64, 0_u64), |(done, of), layer| {
            (done.saturating_add(layer.done), of.saturating_add(layer.of))
        });
        match () {
            () if of == 0 => News::Asked,
            () if self.0.values().all(|layer| layer.has_come) => News::Unpacking { of },
            () => News::Coming { done, of },
        }
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::ProgressDetail;

    use super::*;

    fn step(id: &str, status: &str, amounts: Option<(i64, i64)>) -> CreateImageInfo {
        let detail =
            amounts.map(|(current, total)| ProgressDetail { current: Some(current), total: Some(total) });
        CreateImageInfo {
            id: Some(id.into()),
            status: Some(status.into()),
            progress_detail: detail,
            ..CreateImageInfo::default()
        }
    }

    #[test]
    fn the_bytes_of_all_layers_are_told_together() {
        let mut layers = Layers::default();
        assert_eq!(layers.news().to_string(), "waiting for the registry");
        assert!(layers.note(&step("1.0", "Pulling from library/debian", None)));
        assert!(layers.note(&step("a", "Downloading", Some((2_000_000, 30_000_000)))));
        assert!(layers.note(&step("b", "Downloading", Some((10_000_000, 43_500_000)))));
        assert_eq!(layers.news().to_string(), "12 of 74 MB");
        for id in ["a", "b"] {
            assert!(layers.note(&step(id, "Download complete", None)));
        }
        assert_eq!(layers.news().to_string(), "unpacking 74 MB");
    }

    #[test]
    fn an_engine_that_only_tries_again_does_not_move() {
        let mut layers = Layers::default();
        assert!(!layers.note(&step("a", "Retrying in 5 seconds", None)));
    }
}
