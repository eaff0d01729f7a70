//! `survey finish`: the total is the goal's result.

use crate::orca::Dependency;
use crate::{Failure, orca};

/// Returns what `total` returned.
///
/// # Errors
/// When it did not succeed.
pub(crate) fn run() -> Result<(), Failure> {
    let tasks = orca::dependencies()?;
    orca::set_result(&total(&tasks)?.result)
}

fn total(tasks: &[Dependency]) -> Result<&Dependency, Failure> {
    let total =
        tasks.iter().rfind(|task| task.key.as_deref() == Some("total")).ok_or("the plan had no total")?;
    match total.state.as_str() {
        "succeeded" => Ok(total),
        other => Err(format!("the total is {other}").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(key: &str, state: &str) -> Dependency {
        serde_json::from_value(
            serde_json::json!({"key": key, "state": state, "id": "x", "result": {"files": 3}}),
        )
        .unwrap()
    }

    #[test]
    fn the_total_is_found_among_the_parts() {
        let tasks = [task("part-1", "succeeded"), task("total", "succeeded")];
        assert_eq!(total(&tasks).unwrap().result["files"], 3);
    }

    #[test]
    fn a_total_that_failed_is_no_result() {
        let error = total(&[task("total", "failed")]).unwrap_err();
        assert_eq!(error.to_string(), "the total is failed");
        total(&[]).unwrap_err();
    }
}
