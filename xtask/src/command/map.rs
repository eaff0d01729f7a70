//! `cargo xtask map`: the line per file in ARCHITECTURE.md, taken from the head of each file.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use crate::process::capture;
use crate::{interrupt, workspace};

const LISTING: Duration = Duration::from_secs(30);
/// Where the map stands.
const DOCUMENT: &str = "ARCHITECTURE.md";
const BEGIN: &str = "<!-- map: written by `cargo xtask map` -->\n";
const END: &str = "<!-- end of map -->\n";
/// The folders, in the order in which they build on one another.
const FOLDERS: [&str; 10] =
    ["proto", "coordinator", "node", "agent", "cli", "examples", "tests", "verify", "bench", "xtask"];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only say whether the map is up to date.
    #[arg(long)]
    check: bool,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    interrupt::unless_interrupted(write(args.check)).await
}

/// Writes the map, or with `check` fails where it is not what the files say.
pub(crate) async fn write(check: bool) -> Result<()> {
    let root = workspace::root();
    let mut git = Command::new("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard", "*.rs"]).current_dir(root);
    let listed = capture(git, "git ls-files", LISTING).await?;
    let mut files: Vec<&str> = listed.lines().filter(|path| root.join(path).is_file()).collect();
    files.sort_unstable();
    let map = map(root, &files)?;

    let document = root.join(DOCUMENT);
    let text = std::fs::read_to_string(&document).with_context(|| format!("cannot read {DOCUMENT}"))?;
    let fresh =
        replace(&text, &map).with_context(|| format!("{DOCUMENT} has lost the marks around its map"))?;
    if fresh == text {
        return Ok(());
    }
    if check {
        bail!("the map in {DOCUMENT} is not what the files say; run: cargo xtask map");
    }
    std::fs::write(&document, fresh).with_context(|| format!("cannot write {DOCUMENT}"))
}

fn map(root: &Path, files: &[&str]) -> Result<String> {
    let mut map = String::new();
    for folder in FOLDERS {
        write!(map, "\n### {folder}/\n\n| file | what |\n|---|---|\n")?;
        let inside =
            files.iter().filter_map(|path| Some((path, path.strip_prefix(folder)?.strip_prefix('/')?)));
        for (path, short) in inside {
            let text =
                std::fs::read_to_string(root.join(path)).with_context(|| format!("cannot read {path}"))?;
            let head = head(&text).with_context(|| format!("{path} does not begin with a //! paragraph"))?;
            writeln!(map, "| `{short}` | {} |", head.replace('|', "\\|"))?;
        }
    }
    map.push('\n');
    Ok(map)
}

/// The first sentence of a file's head, without its end.
fn head(text: &str) -> Option<String> {
    let paragraph: Vec<&str> = text
        .lines()
        .map_while(|line| line.strip_prefix("//!"))
        .map(str::trim)
        .take_while(|line| !line.is_empty())
        .collect();
    let paragraph = paragraph.join(" ");
    let end = paragraph.find(". ").unwrap_or(paragraph.len());
    let sentence = paragraph[..end].trim_end_matches(['.', ':']);
    (!sentence.is_empty()).then(|| sentence.to_owned())
}

fn replace(text: &str, map: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{map}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_its_first_sentence() {
        let text = "//! Takes v1.2 files: one\n//! by one. And more.\n//!\n//! Later.\nuse x;\n";
        assert_eq!(head(text).unwrap(), "Takes v1.2 files: one by one");
        assert_eq!(head("use x;\n"), None);
    }

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let text = format!("a\n{BEGIN}old\n{END}b\n");
        assert_eq!(replace(&text, "new\n").unwrap(), format!("a\n{BEGIN}new\n{END}b\n"));
        assert_eq!(replace("a", "new"), None);
    }
}
