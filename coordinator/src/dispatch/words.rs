//! Amounts as people say them, for the sentences of `why`.

use std::time::Duration;

use jiff::Timestamp;
use orca_proto::duration::Span;
use orca_proto::ids::TaskId;
use orca_proto::quantity::Bytes;

use super::lane::{Capacity, Labels};

/// Names told in one sentence; the rest is counted.
const TOLD: usize = 3;

/// `1,203`.
pub(super) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 task`, `1,203 tasks`.
pub(super) fn tasks(n: u64) -> String {
    if n == 1 { "1 task".to_owned() } else { format!("{} tasks", count(n)) }
}

/// `1 live node`, `3 live nodes`.
pub(super) fn live_nodes(n: usize) -> String {
    if n == 1 { "1 live node".to_owned() } else { format!("{} live nodes", count(n as u64)) }
}

/// How long is left, rounded up to what matters: whole minutes from an hour on, whole seconds from ten seconds on.
pub(super) fn wait(left: Duration) -> String {
    let millis = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
    let step = match millis {
        3_600_000.. => 60_000,
        10_000.. => 1_000,
        _ => 100,
    };
    Span::millis(millis.div_ceil(step).saturating_mul(step)).to_string()
}

/// How long from `now` to `until`; nothing if that is past.
pub(super) fn until(until: Timestamp, now: Timestamp) -> String {
    wait(Duration::try_from(until.duration_since(now)).unwrap_or_default())
}

/// An instant, to the second.
pub(super) fn instant(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// An instant in microseconds since 1970; 1970 itself where there is no such instant.
pub(super) fn timestamp(us: i64) -> Timestamp {
    Timestamp::from_microsecond(us).unwrap_or_default()
}

/// `0.5 cpus and 512MiB`.
pub(super) fn capacity(amount: Capacity) -> String {
    let Capacity { millicpus, memory } = amount;
    let whole = millicpus / 1_000;
    let rest = format!("{:03}", millicpus % 1_000);
    let rest = rest.trim_end_matches('0');
    let cpus = if rest.is_empty() { count(whole) } else { format!("{whole}.{rest}") };
    let mib = memory >> 20 << 20;
    let memory = Bytes(if mib == 0 { memory } else { mib });
    format!("{cpus} {} and {memory}", if millicpus == 1_000 { "cpu" } else { "cpus" })
}

/// What a task asks of labels: `gpu=a100, os other than windows`.
pub(super) fn wishes<'a>(wanted: impl IntoIterator<Item = (&'a String, &'a String)>) -> String {
    let each = wanted.into_iter().map(|(key, wish)| match (wish.as_str(), wish.strip_prefix('!')) {
        ("*", _) => format!("{key} (any value)"),
        (_, Some("*")) => format!("no {key}"),
        (_, Some(value)) => format!("{key} other than {value}"),
        (value, None) => format!("{key}={value}"),
    });
    each.collect::<Vec<_>>().join(", ")
}

/// What nodes have for one label: `h100 on 2, absent on 1`.
pub(super) fn values<'a>(key: &str, nodes: impl Iterator<Item = &'a Labels>) -> String {
    let mut counts: std::collections::BTreeMap<Option<&str>, u64> = std::collections::BTreeMap::new();
    for labels in nodes {
        *counts.entry(labels.get(key).map(String::as_str)).or_default() += 1;
    }
    let mut present: Vec<_> = counts.into_iter().collect();
    present.sort_by_key(|(_, nodes)| std::cmp::Reverse(*nodes));
    let told = present
        .iter()
        .take(TOLD)
        .map(|(value, nodes)| format!("{} on {}", value.unwrap_or("absent"), count(*nodes)))
        .collect::<Vec<_>>()
        .join(", ");
    if present.len() > TOLD { format!("{told}, …") } else { told }
}

/// `, held by A, B, C and 1 more`; nothing where the holders are not known.
pub(super) fn holders(held_by: &[TaskId], running: u64) -> String {
    if held_by.is_empty() {
        return String::new();
    }
    let told = held_by.iter().take(TOLD).map(ToString::to_string).collect::<Vec<_>>();
    let more = running.max(held_by.len() as u64) - told.len() as u64;
    let more = if more > 0 { format!(" and {} more", count(more)) } else { String::new() };
    format!(", held by {}{more}", told.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_as_people_write_them() {
        assert_eq!(
            [0, 999, 1_203, 1_234_567].map(count),
            ["0", "999", "1,203", "1,234,567"].map(str::to_owned)
        );
        assert_eq!(capacity(Capacity { millicpus: 1_500, memory: 512 << 20 }), "1.5 cpus and 512MiB");
        assert_eq!(capacity(Capacity { millicpus: 1_000, memory: (8 << 30) + 1 }), "1 cpu and 8GiB");
        assert_eq!(capacity(Capacity { millicpus: 50, memory: 7 }), "0.05 cpus and 7");
    }

    #[test]
    fn a_wait_is_rounded_up_so_that_it_is_never_over_too_early() {
        let millis = [0, 1, 9_950, 10_001, 239_500, 3_600_001];
        let texts = ["0s", "100ms", "10s", "11s", "4m", "1h1m"];
        assert_eq!(millis.map(|ms| wait(Duration::from_millis(ms))), texts.map(str::to_owned));
    }

    #[test]
    fn each_form_of_a_wish_has_its_words() {
        let wanted = [("a", "1"), ("b", "*"), ("c", "!2"), ("d", "!*")];
        let wanted: Labels = wanted.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert_eq!(wishes(&wanted), "a=1, b (any value), c other than 2, no d");
    }
}
