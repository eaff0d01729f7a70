//! Base images: pulled, or made on this machine where no registry gives them.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::StreamExt;
use tokio::process::Command;
use tokio_util::io::ReaderStream;

use super::Engine;
use super::build::{Build, BuildContext};
use crate::process::{Output, run};
use crate::{host, stage, workspace};

/// What everything else is built on.
pub(crate) const DEBIAN: &str = "debian:bookworm-slim";
/// What the full build of the images compiles in.
pub(crate) const RUST: &str = "rust:1.95-bookworm";

const PULL: Duration = Duration::from_secs(300);
const BOOTSTRAP: Duration = Duration::from_secs(900);
const IMPORT: Duration = Duration::from_secs(300);
/// A registry that has not begun to answer after this long is taken as none.
const FIRST_WORD: Duration = Duration::from_secs(30);

/// Left out of the image: nobody reads manuals in it, and the package lists would be stale.
const LEFT_OUT: &[&str] = &[
    "./proc/*",
    "./sys/*",
    "./dev/*",
    "./tmp/*",
    "./run/*",
    "./var/cache/apt/*.bin",
    "./var/cache/apt/archives/*.deb",
    "./var/lib/apt/lists/*",
    "./var/log/*.log",
    "./usr/share/doc/*",
    "./usr/share/info/*",
    "./usr/share/man/*",
    "./usr/share/locale/*",
];

impl Engine {
    /// Sees to it that the engine holds `debian:bookworm-slim`: already, by a pull, or by debootstrap and an import.
    ///
    /// # Errors
    /// If none of the three works.
    pub(crate) async fn ensure_debian(&self) -> Result<()> {
        if self.has_image(DEBIAN).await? {
            return Ok(());
        }
        let Err(refused) = self.pull(DEBIAN).await else { return Ok(()) };
        stage::note(&format!("{DEBIAN} cannot be pulled ({refused:#}); making it with debootstrap"));
        self.bootstrap_debian().await.with_context(|| format!("cannot make {DEBIAN} with debootstrap"))
    }

    /// Sees to it that the engine holds `rust:1.95-bookworm`: already, by a pull, or from Debian's image, a C compiler
    /// and the toolchain that runs this.
    ///
    /// # Errors
    /// If none of the three works.
    pub(crate) async fn ensure_rust(&self) -> Result<()> {
        if self.has_image(RUST).await? {
            return Ok(());
        }
        let Err(refused) = self.pull(RUST).await else { return Ok(()) };
        stage::note(&format!(
            "{RUST} cannot be pulled ({refused:#}); making it from this machine's toolchain"
        ));
        self.ensure_debian().await?;
        self.copy_toolchain().await.with_context(|| format!("cannot make {RUST}"))
    }

    async fn pull(&self, reference: &str) -> Result<()> {
        let (name, tag) = reference.split_once(':').context("a reference without a tag")?;
        let options = CreateImageOptionsBuilder::new().from_image(name).tag(tag).build();
        let work = async {
            let mut steps = self.docker.create_image(Some(options), None, None);
            let mut wait = FIRST_WORD;
            while let Some(step) = tokio::time::timeout(wait, steps.next())
                .await
                .with_context(|| format!("the registry said nothing for {} s", wait.as_secs()))?
            {
                step?;
                wait = PULL;
            }
            Ok(())
        };
        tokio::time::timeout(PULL, work)
            .await
            .with_context(|| format!("the pull took longer than {} s", PULL.as_secs()))?
    }

    async fn bootstrap_debian(&self) -> Result<()> {
        if !host::is_root() {
            bail!("debootstrap needs root; allow this machine to pull {DEBIAN}, or run this once as root");
        }
        if host::find_program("debootstrap").is_none() {
            host::install(&["debootstrap"], "making Debian's base image").await?;
        }
        let directory = tempfile::Builder::new()
            .prefix("debian-")
            .tempdir_in(workspace::scratch("images")?)
            .context("cannot make a directory for Debian's files")?;
        let root = directory.path().join("root");
        let log = workspace::scratch("logs")?.join("debootstrap.log");
        let mut debootstrap = Command::new(host::find_program("debootstrap").unwrap_or_default());
        debootstrap.args(["--variant=minbase", "bookworm"]).arg(&root);
        run(debootstrap, "debootstrap", BOOTSTRAP, Output::File(&log)).await?;
        self.import(&root, "debian", "bookworm-slim").await
    }

    /// Makes an image of a directory. Its owners, modes and links are kept by `tar`.
    async fn import(&self, root: &Path, repository: &str, tag: &str) -> Result<()> {
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(root).arg("--numeric-owner");
        for pattern in LEFT_OUT {
            tar.arg(format!("--exclude={pattern}"));
        }
        tar.args(["-c", "."]).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = tar.spawn().context("cannot start tar")?;
        let output = child.stdout.take().context("tar has no output")?;
        let body = bollard::body_try_stream(ReaderStream::with_capacity(output, 256 << 10));
        let options = CreateImageOptionsBuilder::new()
            .from_src("-")
            .repo(repository)
            .tag(tag)
            .changes(vec!["CMD [\"bash\"]".to_owned()])
            .build();
        let patient = self.docker.clone().with_timeout(IMPORT);
        let work = async {
            let mut steps = patient.create_image(Some(options), Some(body), None);
            while let Some(step) = steps.next().await {
                step.context("the engine refused the import")?;
            }
            let status = child.wait().await?;
            if !status.success() {
                bail!("tar failed ({status})");
            }
            Ok(())
        };
        tokio::time::timeout(IMPORT, work).await.context("the import took too long")?
    }

    /// Debian's image with a C compiler and the Rust toolchain of this machine in the places where the official image
    /// has them.
    async fn copy_toolchain(&self) -> Result<()> {
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let mut sysroot = Command::new(rustc);
        sysroot.args(["--print", "sysroot"]).current_dir(workspace::root());
        let sysroot =
            crate::process::capture(sysroot, "rustc --print sysroot", Duration::from_secs(30)).await?;
        let sysroot = Path::new(sysroot.trim());
        let mut context = BuildContext::new()?;
        for part in ["bin", "lib", "libexec"] {
            if sysroot.join(part).is_dir() {
                context.tree(&sysroot.join(part), format!("toolchain/{part}"))?;
            }
        }
        // Where this machine trusts more authorities than Debian does (a registry behind a company's proxy), so must
        // the build.
        let authorities = Path::new("/etc/ssl/certs/ca-certificates.crt");
        if authorities.is_file() {
            context.file(authorities, "ca-certificates.crt")?;
        } else {
            context.text("ca-certificates.crt", "")?;
        }
        context.text(
            "Dockerfile",
            &format!(
                "FROM {DEBIAN}\n\
                 RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates cmake gcc g++ git \
                 libc6-dev make pkg-config && rm -rf /var/lib/apt/lists/*\n\
                 COPY toolchain /usr/local/cargo\n\
                 COPY ca-certificates.crt /tmp/authorities.crt\n\
                 RUN cat /tmp/authorities.crt >> /etc/ssl/certs/ca-certificates.crt && rm /tmp/authorities.crt\n\
                 ENV CARGO_HOME=/usr/local/cargo-home PATH=/usr/local/cargo/bin:$PATH\n"
            ),
        )?;
        let build = Build {
            tag: RUST,
            dockerfile: "Dockerfile",
            target: "",
            network: "",
            limit: Duration::from_secs(1_200),
            log: workspace::scratch("logs")?.join("image-rust.log"),
        };
        self.build(&build, context).await
    }
}
