//! One task from the command line.

use std::path::PathBuf;

use jiff::Timestamp;
use orca_proto::artifact::is_valid_name;
use orca_proto::duration::Span;
use orca_proto::limits;
use orca_proto::quantity::Bytes;
use orca_proto::spec::{
    EgressRule, Network, NewTask, OnChildFailure, OnDependencyFailure, Pull, Resources, Role, SecretFile,
};

use super::policy::PolicyArgs;
use crate::command::{argument, json_argument, moment};
use crate::error::Failure;

/// The task itself.
#[derive(Debug, clap::Args)]
#[group(id = "TaskArgs", multiple = true)]
pub(in crate::command) struct TaskArgs {
    /// Image to run, such as debian:bookworm-slim
    #[arg(required_unless_present = "file")]
    image: Option<String>,
    /// Program and arguments; the image's own unless told
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
    /// Name for people
    #[arg(long)]
    name: Option<String>,
    /// A goal: a planner node runs it, and its container returns a plan
    #[arg(long)]
    plan: bool,
    /// Queue to wait in
    #[arg(long, short)]
    queue: Option<String>,
    /// Higher goes first; -100 to 100
    #[arg(long, value_name = "N", value_parser = argument::number::<i16>, allow_hyphen_values = true)]
    priority: Option<i16>,
    /// Environment variable; not for secrets (see --secret)
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = argument::variable)]
    env: Vec<(String, String)>,
    /// Input for the program: JSON, @FILE that holds JSON, or - for JSON from standard input
    #[arg(long, short)]
    input: Option<String>,
    /// File or directory (unpacked there) to put at $ORCA_FILES/NAME
    #[arg(long, short, value_name = "NAME=PATH", value_parser = file)]
    artifact: Vec<InputFile>,
    /// Secret that the program finds at $ORCA_SECRETS_DIR/NAME, or at $ORCA_SECRETS_DIR/FILE
    #[arg(long, value_name = "NAME[=FILE]", value_parser = argument::secret)]
    secret: Vec<SecretFile>,
    /// Memory, such as 512MiB
    #[arg(long, allow_hyphen_values = true)]
    memory: Option<Bytes>,
    /// Processor cores, such as 0.5
    #[arg(long, value_parser = argument::cpus, allow_hyphen_values = true)]
    cpus: Option<f64>,
    /// Whole GPUs; only a node that offers so many takes it
    #[arg(long, value_name = "N", value_parser = argument::number::<u32>, allow_hyphen_values = true)]
    gpus: Option<u32>,
    /// Processes and threads
    #[arg(long, value_name = "N", value_parser = argument::number::<u32>, allow_hyphen_values = true)]
    pids: Option<u32>,
    /// Files that one process may hold open
    #[arg(long, value_name = "N", value_parser = argument::number::<u32>, allow_hyphen_values = true)]
    open_files: Option<u32>,
    /// Size of /tmp, such as 64MiB; counts as memory
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    tmp: Option<Bytes>,
    /// Size of /dev/shm, such as 64MiB; counts as memory
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    shm: Option<Bytes>,
    /// What it may write into $ORCA_DIR, such as 1GiB
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    disk: Option<Bytes>,
    /// What the container may reach
    #[arg(long, value_enum)]
    network: Option<Reach>,
    /// Host that it may reach without a network, by the proxy in its environment: api.example.com (ports 443 and 80),
    /// api.example.com:8443, *.example.com for all names below; once for each
    #[arg(long, value_name = "HOST[:PORT]", conflicts_with = "network", value_parser = host)]
    egress: Vec<String>,
    /// User inside the container: a name, a uid or uid:gid
    #[arg(long)]
    user: Option<String>,
    /// Working directory inside the container
    #[arg(long)]
    workdir: Option<String>,
    /// When to fetch the image
    #[arg(long, value_enum)]
    pull: Option<Fetch>,
    /// Attempts in all; 1 to 100
    #[arg(long, value_name = "N", value_parser = argument::number::<i32>, allow_hyphen_values = true)]
    max_attempts: Option<i32>,
    /// How long one attempt may run, such as 90s or 2h
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    timeout: Option<Span>,
    /// Time between SIGTERM and SIGKILL when it is stopped
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    grace: Option<Span>,
    /// Not before this instant (RFC 3339), such as 2030-01-31T18:00:00Z
    #[arg(long, value_name = "TIME", value_parser = moment::instant, allow_hyphen_values = true)]
    run_at: Option<Timestamp>,
    /// Not before so long after it was enqueued, such as 10m or 2d
    #[arg(long, value_name = "DURATION", conflicts_with = "run_at", allow_hyphen_values = true)]
    delay: Option<Span>,
    /// Task that must succeed first
    #[arg(long, value_name = "ID")]
    depends_on: Vec<String>,
    /// What becomes of it when a task it depends on does not succeed
    #[arg(long, value_enum, value_name = "WHAT")]
    on_dependency_failure: Option<DependencyFailure>,
    /// What becomes of it when a task under it does not succeed
    #[arg(long, value_enum, value_name = "WHAT")]
    on_child_failure: Option<ChildFailure>,
    /// Label for people and filters
    #[arg(long, short, value_name = "KEY=VALUE", value_parser = argument::pair)]
    label: Vec<(String, String)>,
}

/// A file or directory to upload as an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::command) struct InputFile {
    /// Its name for the program.
    pub(in crate::command) name: String,
    /// Where it is here.
    pub(in crate::command) path: PathBuf,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Reach {
    /// Nothing
    None,
    /// Whatever the node's engine lets it
    Open,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Fetch {
    /// If the node does not hold it
    Missing,
    /// Before every attempt
    Always,
    /// Never
    Never,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum DependencyFailure {
    /// It is skipped
    Skip,
    /// It runs, and finds out
    Run,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum ChildFailure {
    /// The rest is cancelled and it fails
    Fail,
    /// The rest goes on
    Continue,
}

impl TaskArgs {
    /// The task, and the files to upload for it.
    ///
    /// # Errors
    /// A [`Failure`] if the input is not JSON, a file to upload is not there, or flags contradict each other.
    pub(in crate::command) fn to_task(
        &self,
        policy: Option<&PolicyArgs>,
    ) -> Result<(NewTask, Vec<InputFile>), Failure> {
        argument::each_once("--env", &self.env)?;
        argument::each_once("--label", &self.label)?;
        let mut task = NewTask::new(self.image.clone().unwrap_or_default());
        task.name.clone_from(&self.name);
        if self.plan {
            task.role = Role::Plan;
        }
        if let Some(queue) = &self.queue {
            task.queue.clone_from(queue);
        }
        task.priority = self.priority.unwrap_or_default();
        task.run_at = self.run_at;
        task.delay = self.delay;
        self.container(&mut task);
        if let Some(text) = &self.input {
            task.input = json_argument::read(text, "--input", limits::INPUT)?;
        }
        task.secrets.clone_from(&self.secret);
        self.resources(&mut task.resources);
        if matches!(self.network, Some(Reach::Open)) {
            task.network = Network::Open;
        }
        if !self.egress.is_empty() {
            task.network = Network::Egress(self.egress.clone());
        }
        task.retry.max_attempts = self.max_attempts.unwrap_or(task.retry.max_attempts);
        task.timeouts.start_to_close = self.timeout.unwrap_or(task.timeouts.start_to_close);
        task.timeouts.grace = self.grace.unwrap_or(task.timeouts.grace);
        task.depends_on.clone_from(&self.depends_on);
        if matches!(self.on_dependency_failure, Some(DependencyFailure::Run)) {
            task.on_dependency_failure = OnDependencyFailure::Run;
        }
        if matches!(self.on_child_failure, Some(ChildFailure::Continue)) {
            task.on_child_failure = OnChildFailure::Continue;
        }
        task.labels.extend(self.label.iter().cloned());
        if let Some(policy) = policy {
            policy.apply(&mut task)?;
        }
        for file in &self.artifact {
            std::fs::metadata(&file.path)
                .map_err(|error| Failure::file(format!("cannot read {}", file.path.display()), &error))?;
        }
        Ok((task, self.artifact.clone()))
    }

    fn resources(&self, resources: &mut Resources) {
        let Resources { cpus, memory, pids, tmp, disk, shm, open_files, gpus } = resources;
        *cpus = self.cpus.unwrap_or(*cpus);
        *memory = self.memory.unwrap_or(*memory);
        *pids = self.pids.unwrap_or(*pids);
        *tmp = self.tmp.unwrap_or(*tmp);
        *disk = self.disk.unwrap_or(*disk);
        *shm = self.shm.unwrap_or(*shm);
        *open_files = self.open_files.unwrap_or(*open_files);
        *gpus = self.gpus.unwrap_or(*gpus);
    }

    fn container(&self, task: &mut NewTask) {
        let container = &mut task.container;
        container.command.clone_from(&self.command);
        container.env.extend(self.env.iter().cloned());
        container.user.clone_from(&self.user);
        container.workdir.clone_from(&self.workdir);
        container.pull = match self.pull {
            None | Some(Fetch::Missing) => Pull::Missing,
            Some(Fetch::Always) => Pull::Always,
            Some(Fetch::Never) => Pull::Never,
        };
    }
}

fn host(text: &str) -> Result<String, String> {
    EgressRule::parse(text).map(|_| text.to_owned()).map_err(str::to_owned)
}

fn file(text: &str) -> Result<InputFile, String> {
    let (name, path) = argument::pair(text).map_err(|_| "must be NAME=PATH".to_owned())?;
    if !is_valid_name(&name) {
        return Err(
            "the name must be 1 to 128 letters, digits or any of ._- and not begin with a dot".to_owned()
        );
    }
    Ok(InputFile { name, path: path.into() })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        task: Option<TaskArgs>,
        #[arg(long)]
        file: Option<String>,
    }

    fn parse(line: &[&str]) -> Result<TaskArgs, clap::Error> {
        Line::try_parse_from(std::iter::once("orca").chain(line.iter().copied()))
            .map(|line| line.task.unwrap_or_else(|| panic!("no task among the flags")))
    }

    #[test]
    fn flags_become_the_fields_of_a_task() {
        let args = parse(&[
            "--name",
            "n",
            "-q",
            "slow",
            "--priority",
            "-5",
            "-e",
            "A=b=c",
            "--input",
            "{\"x\":1}",
            "--secret",
            "db",
            "--secret",
            "token=token.txt",
            "--memory",
            "64MiB",
            "--cpus",
            "0.5",
            "--gpus",
            "2",
            "--pids",
            "64",
            "--open-files",
            "1024",
            "--tmp",
            "8MiB",
            "--shm",
            "16MiB",
            "--disk",
            "2GiB",
            "--network",
            "open",
            "--max-attempts",
            "2",
            "--timeout",
            "2m",
            "--plan",
            "-l",
            "k=v",
            "--on-child-failure",
            "continue",
            "debian",
            "--",
            "sh",
            "-c",
            "exit 0",
        ])
        .unwrap();
        let (task, _) = args.to_task(None).unwrap();
        assert_eq!((task.role, task.queue.as_str(), task.priority), (Role::Plan, "slow", -5));
        assert_eq!(task.container.command, ["sh", "-c", "exit 0"]);
        assert_eq!(task.container.env.get("A").map(String::as_str), Some("b=c"));
        assert_eq!(task.input, serde_json::json!({"x": 1}));
        let resources = Resources {
            cpus: 0.5,
            memory: Bytes::mib(64),
            pids: 64,
            tmp: Bytes::mib(8),
            disk: Bytes::mib(2048),
            shm: Bytes::mib(16),
            open_files: 1_024,
            gpus: 2,
        };
        assert_eq!((&task.resources, &task.network), (&resources, &Network::Open));
        assert_eq!((task.retry.max_attempts, task.timeouts.start_to_close), (2, Span::secs(120)));
        assert_eq!(task.on_child_failure, OnChildFailure::Continue);
        let secrets: Vec<_> = task.secrets.iter().map(|one| (one.name.as_str(), one.file())).collect();
        assert_eq!(secrets, [("db", "db"), ("token", "token.txt")]);
        let mut errors = Vec::new();
        task.validate("", &mut errors);
        assert!(errors.is_empty(), "{errors:?}");
    }

    #[test]
    fn a_secrets_file_cannot_lie_elsewhere() {
        for text in ["db=../x", "db=/etc/x", "db=a/b", "db=", "=x", "", "db=.x", "../db", "db=a=b"] {
            assert!(parse(&["--secret", text, "debian"]).is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_that_would_leave_the_files_directory_is_refused() {
        for text in ["../x=/tmp", "=/tmp", "noequals", ".hidden=/tmp"] {
            assert!(parse(&["--artifact", text, "debian"]).is_err(), "{text}");
        }
    }

    #[test]
    fn hosts_to_reach_are_a_list_and_no_open_network() {
        let args =
            parse(&["--egress", "api.example.com", "--egress", "*.example.com:8443", "debian"]).unwrap();
        let (task, _) = args.to_task(None).unwrap();
        let hosts = ["api.example.com", "*.example.com:8443"].map(str::to_owned);
        assert_eq!(task.network, Network::Egress(hosts.to_vec()));
        assert!(parse(&["--egress", "a.example", "--network", "open", "debian"]).is_err());
        for text in ["https://a.example", "A.example", "a.example:0", "a.example/x", "10.0.0.0/8", ""] {
            assert!(parse(&["--egress", text, "debian"]).is_err(), "{text}");
        }
    }

    #[test]
    fn task_flags_beside_a_file_are_noticed_and_without_one_an_image_is_needed() {
        let given = |line: &[&str]| {
            let line = Line::try_parse_from(std::iter::once("orca").chain(line.iter().copied()));
            line.map(|line| line.task.is_some())
        };
        assert!(given(&["--file", "x", "debian"]).unwrap());
        assert!(given(&["--file", "x", "--name", "n"]).unwrap());
        assert!(given(&["--file", "x", "--plan"]).unwrap());
        assert!(!given(&["--file", "x"]).unwrap());
        assert!(given(&[]).is_err());
    }

    #[test]
    fn numbers_below_zero_reach_the_rules_that_refuse_them() {
        for flag in ["--cpus", "--max-attempts", "--priority"] {
            assert!(parse(&[flag, "-1", "debian"]).is_ok(), "{flag}");
        }
    }
}
