//! Invariant 11: nobody does what the token does not allow; another namespace's things look exactly like things that do not
//! exist.

use std::collections::{BTreeMap, HashMap};

use super::Check;
use super::view::{View, asked};
use crate::history::{Answer, Call, Trespass};

pub(super) fn check(view: &View<'_>) -> Vec<Check> {
    vec![refused(view), alike(view), apart(view)]
}

fn refused(view: &View<'_>) -> Check {
    let mut check = Check::of("what a token does not allow is refused");
    for op in &view.history.ops {
        let (Call::Probe { verb, why, .. }, Some(answer)) = (&op.call, op.answer()) else { continue };
        let wanted: &[(u16, &str)] = match why {
            Trespass::Absent | Trespass::Foreign => &[(404, "not-found"), (409, "lease-lost")],
            Trespass::Role => &[(403, "forbidden")],
            Trespass::Anonymous => &[(401, "unauthenticated")],
            Trespass::OthersLease => &[(409, "lease-lost"), (403, "forbidden"), (404, "not-found")],
        };
        let broken = match answer {
            Answer::Refused { status, problem, .. } => (!wanted.contains(&(*status, problem.as_str())))
                .then(|| format!("{verb} ({why:?}) was refused as {status} {problem}")),
            _ => Some(format!("{verb} ({why:?}) was allowed")),
        };
        check.fact(broken.map(|what| (what, op.lines())));
    }
    check
}

/// Answers about another namespace's thing and about none differ in nothing but the id.
fn alike(view: &View<'_>) -> Check {
    let mut check = Check::of("a foreign thing looks like an absent one");
    let mut absent: BTreeMap<&str, (String, Vec<usize>)> = BTreeMap::new();
    for pass in [Trespass::Absent, Trespass::Foreign] {
        for op in &view.history.ops {
            let (Call::Probe { verb, why, thing }, Some(Answer::Refused { status, problem, detail })) =
                (&op.call, op.answer())
            else {
                continue;
            };
            if *why != pass {
                continue;
            }
            let detail = thing.as_ref().map_or(detail.clone(), |thing| detail.replace(thing.as_str(), "…"));
            let told = format!("{status} {problem} {detail}");
            if pass == Trespass::Absent {
                absent.entry(verb).or_insert((told, op.lines()));
            } else if let Some((expected, lines)) = absent.get(verb.as_str()) {
                let what = || format!("{verb}: an absent thing is {expected:?}, a foreign one {told:?}");
                check.fact((told != *expected).then(|| (what(), [lines.clone(), op.lines()].concat())));
            }
        }
    }
    check
}

fn apart(view: &View<'_>) -> Check {
    let mut check = Check::of("tasks, grants and events stay in their namespace");
    let mut home: HashMap<&str, &str> = HashMap::new();
    for op in &view.history.ops {
        if let Call::Enqueue { namespace, .. } = &op.call {
            home.extend(asked(&op.call).iter().map(|asked| (asked.ask.as_str(), namespace.as_str())));
        }
    }
    for (id, dumped) in &view.tasks {
        let Some(home) = dumped.ask().and_then(|ask| home.get(ask)) else { continue };
        let what = || format!("{id} was enqueued in {home} and found in {}", dumped.namespace);
        check.fact((*home != dumped.namespace).then(|| (what(), vec![dumped.line])));
    }
    for seen in &view.grants {
        let Some(home) = seen.granted.ask.as_deref().and_then(|ask| home.get(ask)) else { continue };
        let what = || format!("{} of {home} was granted to a node of {}", seen.granted.task, seen.namespace);
        check.fact((*home != seen.namespace).then(|| (what(), seen.op.lines())));
    }
    for (id, events) in &view.events {
        let Some(dumped) = view.tasks.get(id) else { continue };
        for (line, namespace, _) in events {
            let what = || format!("an event of {id} of {} was told in {namespace}", dumped.namespace);
            check.fact((*namespace != dumped.namespace).then(|| (what(), vec![dumped.line, *line])));
        }
    }
    check
}
