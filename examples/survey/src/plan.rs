//! `survey plan`: from a tree to a plan.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Failure, orca, tree};

/// Files of one part, about.
const FILES_PER_PART: u64 = 400;
/// Bytes of one part, about.
const BYTES_PER_PART: u64 = 32 << 20;
/// Most parts.
const MOST_PARTS: u64 = 64;
/// What a file costs beside its bytes, for parts that take about equally long.
const BYTES_PER_FILE: u64 = 64 << 10;

#[derive(Debug, Deserialize)]
struct Input {
    tree: String,
    #[serde(default)]
    parts: Option<u64>,
}

/// Plans the survey of `$ORCA_FILES/tree`.
///
/// # Errors
/// When the tree cannot be read, or the node refuses the plan.
pub(crate) fn run() -> Result<(), Failure> {
    let input: Input = orca::input()?;
    let root = orca::artifact_dir("tree")?;
    let files = tree::files(&root)?;
    let sizes = files.iter().map(|file| size(&root.join(file))).collect::<Result<Vec<u64>, Failure>>()?;
    let parts = split(&sizes, input.parts);
    println!("{} files, {} bytes: {} parts", files.len(), sizes.iter().sum::<u64>(), parts.len());
    let image = orca::variable("ORCA_IMAGE")?.into_string().map_err(|_| "ORCA_IMAGE is not UTF-8")?;
    // By the path that this very process was started from, so it is right in every image, and in none.
    let program = std::env::current_exe()?.into_os_string().into_string().map_err(|_| "odd program path")?;
    orca::set_plan(&plan(&parts, &image, &program, &input.tree))
}

fn size(path: &Path) -> Result<u64, Failure> {
    let metadata =
        path.symlink_metadata().map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    Ok(metadata.len())
}

/// The first file of a part, and how many there are in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    first: usize,
    count: usize,
}

/// Cuts a list of files, known by their sizes, into about `wanted` runs of about equal weight; none is empty.
fn split(sizes: &[u64], wanted: Option<u64>) -> Vec<Part> {
    let bytes: u64 = sizes.iter().sum();
    let by_size = (sizes.len() as u64).div_ceil(FILES_PER_PART).max(bytes.div_ceil(BYTES_PER_PART));
    let wanted = u128::from(wanted.unwrap_or(by_size).clamp(1, MOST_PARTS));
    let weight = |size: u64| u128::from(size) + u128::from(BYTES_PER_FILE);
    let whole: u128 = sizes.iter().map(|size| weight(*size)).sum();
    let mut parts: Vec<Part> = Vec::new();
    let (mut first, mut seen) = (0, 0);
    for (index, size) in sizes.iter().enumerate() {
        seen += weight(*size);
        let is_due = seen * wanted >= whole * (parts.len() as u128 + 1);
        if is_due || index + 1 == sizes.len() {
            parts.push(Part { first, count: index + 1 - first });
            first = index + 1;
        }
    }
    parts
}

fn plan(parts: &[Part], image: &str, program: &str, tree: &str) -> Value {
    let key = |index: usize| format!("part-{}", index + 1);
    let mut tasks: Vec<Value> = parts
        .iter()
        .enumerate()
        .map(|(index, part)| {
            json!({
                "key": key(index),
                "name": format!("files {} to {}", part.first + 1, part.first + part.count),
                "container": {"image": image, "command": [program, "part"]},
                "input": {"first": part.first, "count": part.count},
                "artifacts": [{"id": tree, "name": "tree", "unpack": true}],
            })
        })
        .collect();
    tasks.push(json!({
        "key": "total",
        "container": {"image": image, "command": [program, "total"]},
        "depends_on": (0..parts.len()).map(key).collect::<Vec<_>>(),
    }));
    json!({"tasks": tasks})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(sizes: &[u64], parts: &[Part]) {
        let mut next = 0;
        for part in parts {
            assert!(part.first == next && part.count > 0, "{parts:?}");
            next += part.count;
        }
        assert_eq!(next, sizes.len());
    }

    #[test]
    fn parts_cover_all_files_once_and_follow_the_wish() {
        for (sizes, wanted, most) in [
            (vec![10; 1_000], None, 3),
            (vec![10; 1_000], Some(7), 7),
            (vec![10; 20_000], None, 50),
            (vec![10; 100_000], None, 64),
            (vec![10; 3], Some(64), 3),
            (vec![10; 3], Some(0), 1),
            (vec![1 << 40, 1, 1, 1, 1 << 40], Some(4), 4),
            (vec![u64::MAX / 4, 1, 1], Some(u64::MAX), 3),
        ] {
            let parts = split(&sizes, wanted);
            covers(&sizes, &parts);
            assert!(parts.len() <= most, "{} of {most}", parts.len());
        }
        assert_eq!(split(&vec![10; 1_000], Some(7)).len(), 7);
        assert_eq!(split(&vec![10; 20_000], None).len(), 50);
    }

    #[test]
    fn large_files_make_more_parts() {
        let parts = split(&[64 << 20, 64 << 20], None);
        assert_eq!(parts, [Part { first: 0, count: 1 }, Part { first: 1, count: 1 }]);
    }

    #[test]
    fn an_empty_tree_is_planned_as_a_total_alone() {
        assert_eq!(split(&[], None), []);
        let plan = plan(&[], "image", "/survey", "id");
        assert_eq!(
            plan,
            json!({"tasks": [{"key": "total", "container": {"image": "image", "command": ["/survey", "total"]}, "depends_on": []}]})
        );
    }
}
