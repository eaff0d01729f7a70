//! Building images through the Docker API, with the builder that every engine has: a tar archive goes in, a tag comes out.

use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bollard::query_parameters::BuildImageOptionsBuilder;
use futures_util::StreamExt;
use tokio_util::io::ReaderStream;

use super::Engine;

/// What a build sees: an archive on disk that goes away with this value.
pub(crate) struct BuildContext {
    archive: tar::Builder<std::fs::File>,
}

impl BuildContext {
    /// Nothing yet.
    ///
    /// # Errors
    /// If no temporary file can be made.
    pub(crate) fn new() -> Result<Self> {
        let file = tempfile::tempfile().context("cannot make a temporary file")?;
        let mut archive = tar::Builder::new(file);
        // A build should depend on what is in the files only.
        archive.mode(tar::HeaderMode::Deterministic);
        archive.follow_symlinks(false);
        Ok(Self { archive })
    }

    /// A file with this text.
    ///
    /// # Errors
    /// If the archive cannot be written.
    pub(crate) fn text(&mut self, name: &str, text: &str) -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        self.archive.append_data(&mut header, name, text.as_bytes())?;
        Ok(())
    }

    /// A file of the disk, under another name.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn file(&mut self, path: &Path, name: impl AsRef<Path>) -> Result<()> {
        self.archive
            .append_path_with_name(path, name)
            .with_context(|| format!("cannot read {}", path.display()))
    }

    /// A directory of the disk with everything in it, under another name.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn tree(&mut self, path: &Path, name: impl AsRef<Path>) -> Result<()> {
        self.archive.append_dir_all(name, path).with_context(|| format!("cannot read {}", path.display()))
    }

    fn finish(self) -> Result<std::fs::File> {
        let mut file = self.archive.into_inner().context("cannot write the build context")?;
        file.flush()?;
        file.seek(SeekFrom::Start(0))?;
        Ok(file)
    }
}

/// How an image is built.
pub(crate) struct Build<'a> {
    /// What to call it.
    pub(crate) tag: &'a str,
    /// The Dockerfile's path in the context.
    pub(crate) dockerfile: &'a str,
    /// The stage to stop at; the last one when empty.
    pub(crate) target: &'a str,
    /// The network of its `RUN` steps; the engine's default when empty.
    pub(crate) network: &'a str,
    /// How long it may take.
    pub(crate) limit: Duration,
    /// Where the build's own output goes.
    pub(crate) log: PathBuf,
}

impl Engine {
    /// Builds an image.
    ///
    /// # Errors
    /// If a step fails or it takes too long; with the last lines of the build's output.
    pub(crate) async fn build(&self, build: &Build<'_>, context: BuildContext) -> Result<()> {
        let tag = build.tag;
        let file = tokio::fs::File::from_std(context.finish()?);
        let body = bollard::body_try_stream(ReaderStream::with_capacity(file, 256 << 10));
        let mut options =
            BuildImageOptionsBuilder::new().dockerfile(build.dockerfile).t(tag).rm(true).forcerm(true);
        if !build.target.is_empty() {
            options = options.target(build.target);
        }
        if !build.network.is_empty() {
            options = options.networkmode(build.network);
        }
        let mut log = std::fs::File::create(&build.log)
            .with_context(|| format!("cannot write {}", build.log.display()))?;
        let patient = self.docker.clone().with_timeout(build.limit);
        let work = async {
            let mut lines = Box::pin(patient.build_image(options.build(), None, Some(body)));
            while let Some(step) = lines.next().await {
                let step = step?;
                if let Some(text) = step.stream.or(step.status) {
                    log.write_all(text.as_bytes())?;
                    if !text.ends_with('\n') {
                        log.write_all(b"\n")?;
                    }
                }
                if let Some(message) = step.error_detail.and_then(|detail| detail.message) {
                    bail!("{message}");
                }
            }
            Ok(())
        };
        match tokio::time::timeout(build.limit, work).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error).with_context(|| {
                let said = crate::process::tail(&build.log, 20);
                format!("cannot build the image {tag}; the end of {}:\n{said}", build.log.display())
            }),
            Err(_) => bail!("building the image {tag} took longer than {} s", build.limit.as_secs()),
        }
    }
}
