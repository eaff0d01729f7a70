//! Starting the task's program: finding it, its environment, its input and its output.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use orca_proto::agent::{Brief, env, files};
use orca_proto::task::Step;
use rustix::fs::Access;
use rustix::process::Pid;
use tokio::net::unix::pipe;

use crate::attempt_dir::AttemptDir;
use crate::oom::Scapegoat;

/// Where programs are looked for when the image does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program that was started, in a process group of its own.
pub(crate) struct Program {
    /// Its process and its group.
    pub(crate) pid: Pid,
    /// Reads its standard output.
    pub(crate) stdout: pipe::Receiver,
    /// Reads its standard error.
    pub(crate) stderr: pipe::Receiver,
}

/// Why a program could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// It can start nowhere as it is.
    #[error("{0}")]
    Rejected(String),
    /// The machine could not, this time.
    #[error("{what}: {source}")]
    Failed {
        /// What could not be done.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// Starts the program of `brief`, which finds `proxy` in its environment.
///
/// # Errors
/// [`StartError`].
pub(crate) fn start(
    brief: &Brief,
    dir: &AttemptDir,
    proxy: Option<SocketAddr>,
) -> Result<Program, StartError> {
    let Some((name, arguments)) = brief.command.split_first() else {
        return Err(StartError::Rejected("the task has no command, and the image none either".to_owned()));
    };
    let agent = agent_path(dir);
    let path = search_path(brief, &agent);
    let workdir = workdir(brief)?;
    let file = find(name, &path, &workdir)?;
    let input = File::open(dir.path(files::INPUT))
        .map_err(|source| StartError::Failed { what: "cannot open the task's input", source })?;
    let mut command = Command::new(&file);
    command
        .arg0(name)
        .args(arguments)
        .current_dir(&workdir)
        .envs(proxy.map(|proxy| proxy_variables(brief, proxy)).unwrap_or_default())
        .envs(&brief.env)
        .envs(variables(brief, dir, &agent))
        .env("PATH", &path)
        // A file cannot make the agent wait for a program that does not read.
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let scapegoat = Scapegoat::designate();
    let child = command.spawn().map_err(|error| not_started(name, error));
    drop(scapegoat);
    let mut child = child?;
    let failed = |source| StartError::Failed { what: "cannot read the program's output", source };
    let output = |fd: Option<OwnedFd>| {
        let fd = fd.ok_or_else(|| failed(io::Error::other("there is no pipe")))?;
        pipe::Receiver::from_owned_fd(fd).map_err(failed)
    };
    let stdout = output(child.stdout.take().map(OwnedFd::from))?;
    let stderr = output(child.stderr.take().map(OwnedFd::from))?;
    Ok(Program { pid: Pid::from_child(&child), stdout, stderr })
}

/// The variables that [`mod@env`] promises.
fn variables(brief: &Brief, dir: &AttemptDir, agent: &Path) -> Vec<(&'static str, OsString)> {
    let mut variables: Vec<(&'static str, OsString)> = vec![
        (env::DIR, dir.root().into()),
        (env::AGENT, agent.into()),
        (env::SOCKET, dir.path(files::NODE_SOCKET).into()),
        (env::TASK_ID, brief.task.to_string().into()),
        (env::ATTEMPT, brief.attempt.to_string().into()),
        (env::IMAGE, brief.image.clone().into()),
        (env::INPUT, dir.path(files::INPUT).into()),
        (env::FILES, dir.path(files::FILES).into()),
        (env::RESULT, dir.path(files::RESULT).into()),
        (env::PLAN, dir.path(files::PLAN).into()),
    ];
    if let Some(step) = brief.step {
        let step = match step {
            Step::Plan => "plan",
            Step::Finish => "finish",
        };
        variables.push((env::STEP, step.into()));
    }
    if brief.has_secrets {
        variables.push((env::SECRETS, dir.path(files::SECRETS).into()));
    }
    if brief.has_dependencies {
        variables.push((env::DEPENDENCIES, dir.path(files::DEPENDENCIES).into()));
    }
    variables
}

/// The variables by which HTTP clients find a proxy, in both spellings, without those of which the task itself sets one.
fn proxy_variables(brief: &Brief, proxy: SocketAddr) -> Vec<(String, String)> {
    let url = format!("http://{proxy}");
    let none = "localhost,127.0.0.1,::1";
    [("HTTP_PROXY", url.as_str()), ("HTTPS_PROXY", &url), ("ALL_PROXY", &url), ("NO_PROXY", none)]
        .into_iter()
        .filter(|(name, _)| !brief.env.keys().any(|own| own.eq_ignore_ascii_case(name)))
        .flat_map(|(name, value)| {
            [name.to_owned(), name.to_ascii_lowercase()].map(|name| (name, value.to_owned()))
        })
        .collect()
}

/// The agent in the attempt's directory, or, where the runtime puts none there, this very program.
fn agent_path(dir: &AttemptDir) -> PathBuf {
    let mounted = dir.path(files::AGENT);
    if mounted.exists() { mounted } else { std::env::current_exe().unwrap_or(mounted) }
}

fn search_path(brief: &Brief, agent: &Path) -> OsString {
    let rest = brief.env.get("PATH").map(OsString::from).or_else(|| std::env::var_os("PATH"));
    let rest = rest.filter(|path| !path.is_empty()).unwrap_or_else(|| DEFAULT_PATH.into());
    let mut path = agent.parent().map(|bin| bin.as_os_str().to_owned()).unwrap_or_default();
    path.push(":");
    path.push(rest);
    path
}

fn workdir(brief: &Brief) -> Result<PathBuf, StartError> {
    let Some(workdir) = &brief.workdir else {
        return std::env::current_dir()
            .map_err(|source| StartError::Failed { what: "there is no working directory", source });
    };
    match std::fs::metadata(workdir) {
        Ok(metadata) if metadata.is_dir() => Ok(workdir.into()),
        Ok(_) => Err(StartError::Rejected(format!(
            "the working directory {workdir:?} is not a directory in the image"
        ))),
        Err(error) => {
            Err(StartError::Rejected(format!("the working directory {workdir:?} cannot be used: {error}")))
        }
    }
}

/// As `execvp` does it, but with a reason when it comes to nothing.
fn find(name: &str, path: &OsStr, workdir: &Path) -> Result<PathBuf, StartError> {
    if name.contains('/') {
        let file = workdir.join(name);
        return match std::fs::metadata(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(StartError::Rejected(format!("there is no program {name:?} in the image")))
            }
            Ok(metadata) if metadata.is_dir() => {
                Err(StartError::Rejected(format!("the program {name:?} is a directory")))
            }
            _ => Ok(file),
        };
    }
    let candidates = std::env::split_paths(path).map(|place| workdir.join(place).join(name));
    let mut present = candidates.filter(|file| file.is_file()).peekable();
    if present.peek().is_none() {
        let reason = format!("there is no program {name:?} in the image's PATH ({})", path.display());
        return Err(StartError::Rejected(reason));
    }
    present
        .find(|file| rustix::fs::access(file, Access::EXEC_OK).is_ok())
        .ok_or_else(|| StartError::Rejected(format!("the program {name:?} is not executable for this user")))
}

/// What is wrong with the program itself is wrong everywhere; what the machine lacks may be there next time.
fn not_started(name: &str, error: io::Error) -> StartError {
    use io::ErrorKind as Is;
    let why = match error.kind() {
        Is::NotFound => "its interpreter or loader is not in the image".to_owned(),
        Is::PermissionDenied => "it is not executable for this user".to_owned(),
        _ if error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => {
            "it is neither a program for this machine nor a script with a #! line".to_owned()
        }
        Is::ArgumentListTooLong => "its arguments and environment are too long".to_owned(),
        Is::InvalidInput | Is::NotADirectory | Is::IsADirectory | Is::InvalidFilename => error.to_string(),
        _ => return StartError::Failed { what: "cannot start the program", source: error },
    };
    StartError::Rejected(format!("the program {name:?} cannot be started: {why}"))
}
