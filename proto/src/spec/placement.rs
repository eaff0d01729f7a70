//! Which nodes' labels suit a task.

use std::collections::BTreeMap;

/// The label of nodes that offer so many GPUs or more. A node with two has this one for 1 and for 2; a task that asks for GPUs
/// requires the one with its number, so that none with fewer takes it.
#[must_use]
pub fn gpu_label(gpus: u32) -> String {
    format!("gpus.{gpus}")
}

/// Whether a node with `labels` has what `wanted` (a task's `requires` or `prefers`) asks for.
///
/// A wish is a value (the label has it), `*` (the label is there), `!value` (the label has another value or is absent) or
/// `!*` (the label is absent).
#[must_use]
pub fn meets(wanted: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, wish)| {
        let (value, negated) = match wish.strip_prefix('!') {
            Some(value) => (value, true),
            None => (wish.as_str(), false),
        };
        let there = labels.get(key).is_some_and(|label| value == "*" || label == value);
        there != negated
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_wish_is_a_value_or_any_value_or_not_a_value_or_no_value() {
        let labels = map(&[("gpu", "a100"), ("os", "linux")]);
        for met in [
            ("gpu", "a100"),
            ("gpu", "*"),
            ("gpu", "!h100"),
            ("os", "!windows"),
            ("arch", "!arm"),
            ("arch", "!*"),
        ] {
            assert!(meets(&map(&[met]), &labels), "{met:?}");
        }
        for unmet in [("gpu", "h100"), ("arch", "*"), ("arch", "arm"), ("gpu", "!a100"), ("gpu", "!*")] {
            assert!(!meets(&map(&[unmet]), &labels), "{unmet:?}");
        }
        assert!(meets(&map(&[]), &labels));
        assert!(!meets(&map(&[("gpu", "a100"), ("arch", "*")]), &labels), "all of them, not one");
    }
}
