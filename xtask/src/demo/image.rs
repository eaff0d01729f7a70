//! The image of the demo's tasks: nothing but one static binary, so that no registry is needed.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::engine::Engine;
use crate::engine::build::{Build, BuildContext};
use crate::workspace;

/// Builds `FROM scratch` with the program at `binary` as `/<name>`, and returns the tag, which names the content.
///
/// # Errors
/// If the binary cannot be read or the engine refuses.
pub(crate) async fn from_scratch(engine: &Engine, binary: &Path, name: &str) -> Result<String> {
    let bytes = std::fs::read(binary).with_context(|| format!("cannot read {}", binary.display()))?;
    let hash = Sha256::digest(&bytes);
    let hash: String = hash.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let tag = format!("orca-{name}:{hash}");
    let mut context = BuildContext::new()?;
    context.text("Dockerfile", &format!("FROM scratch\nCOPY {name} /{name}\nENTRYPOINT [\"/{name}\"]\n"))?;
    context.file(binary, name)?;
    let build = Build {
        tag: &tag,
        dockerfile: "Dockerfile",
        target: "",
        network: "",
        limit: Duration::from_secs(120),
        log: workspace::scratch("logs")?.join(format!("image-{name}.log")),
    };
    engine.build(&build, context).await?;
    Ok(tag)
}
