//! `orca secret`: values that programs are given and nobody is shown again.

mod value;

use std::path::PathBuf;

use comfy_table::Cell;
use jiff::Timestamp;
use orca_coordinator::Keyring;
use orca_proto::client::Client;
use orca_proto::limits;
use orca_proto::secret::{Secret, SecretFilter, SecretPut, is_valid_name};

use crate::error::{Exit, Failure};
use crate::output::table::Rows;
use crate::output::{Output, escape, time};
use crate::secret_file::{self, Existing};

/// Set secrets that tasks name and their programs find as files
#[derive(Debug, clap::Subcommand)]
pub(crate) enum SecretCommand {
    /// Set a secret; the value comes from standard input, or from the terminal, where it is not shown
    ///
    /// One newline at the end of standard input is no part of the value; a file's is. A value is text of at most 64 KiB; what is not
    /// text goes in as base64. Tasks name it: orca enqueue --secret NAME …
    ///
    /// Examples:
    ///   orca secret set db-password
    ///   pass show db | orca secret set db-password
    ///   orca secret set deploy-key --file id_ed25519
    #[command(verbatim_doc_comment)]
    Set {
        /// Its name: letters, digits, `.`, `_`, `-`
        name: String,
        /// File that holds the value
        #[arg(long, short, value_name = "PATH")]
        file: Option<PathBuf>,
    },
    /// List secrets, without their values
    Ls,
    /// Remove a secret; attempts that run keep it, tasks that still name it are rejected
    Rm {
        /// The secret
        name: String,
    },
    /// Encrypt the secrets of all namespaces with the coordinator's newest key (needs an admin's token)
    Rotate,
    /// Make a key for a coordinator to encrypt secrets with (its ORCA_SECRETS_KEY_FILE)
    Key {
        /// File to write, with mode 0600; must not be there yet
        #[arg(long, value_name = "PATH")]
        out: PathBuf,
    },
}

impl SecretCommand {
    /// Does it. What was given is checked before anything is sent.
    pub(crate) async fn run(
        self,
        client: impl FnOnce() -> Result<Client, Failure>,
        output: Output,
    ) -> Result<Exit, Failure> {
        match self {
            Self::Set { name, file } => {
                if !is_valid_name(&name) {
                    return Err(Failure::invalid("the secret's name is not valid").because(
                        "it must be 1 to 128 letters, digits or any of ._-, and not begin with a dot",
                    ));
                }
                let client = client()?;
                let put = SecretPut { value: value::read(&name, file.as_deref()).await? };
                let mut errors = Vec::new();
                put.validate(&mut errors);
                if !errors.is_empty() {
                    return Err(Failure::invalid("the value cannot be a secret").fields(errors));
                }
                let set = client.set_secret(&name, &put).await;
                let set = set.map_err(|error| Failure::about(error, "secret", &name))?;
                if output.is_json() {
                    output.json(&set)?;
                } else {
                    output.remark(&format!("set {}, version {}", escape::line(&set.name), set.version));
                }
            }
            Self::Ls => list(&all(&client()?).await?, output)?,
            Self::Rm { name } => {
                let removed = client()?.remove_secret(&name).await;
                removed.map_err(|error| Failure::about(error, "secret", &name))?;
                output.remark(&format!("removed {}", escape::line(&name)));
            }
            Self::Rotate => {
                let told = client()?.rotate_secrets().await?;
                if output.is_json() {
                    output.json(&told)?;
                } else {
                    output.remark(&format!("{} encrypted anew", told.rotated));
                }
                if told.unreadable > 0 {
                    let what = format!("{} cannot be decrypted and stay as they are", told.unreadable);
                    return Err(Failure::new(Exit::Conflict, what)
                        .because("they are under a key that the coordinator does not have, or were altered; its log says which")
                        .hint("give it their key too, after the newest one, and rotate again before that is taken away"));
                }
            }
            Self::Key { out } => {
                let key = Keyring::new_key().ok_or_else(|| {
                    Failure::new(Exit::Other, "cannot make a key")
                        .because("the system has no randomness to give")
                })?;
                secret_file::write(&out, &format!("{}\n", key.as_str()), Existing::Keep)?;
                output.remark(&format!("wrote a key to {}", out.display()));
            }
        }
        Ok(Exit::Done)
    }
}

async fn all(client: &Client) -> Result<Vec<Secret>, Failure> {
    let mut filter = SecretFilter::default();
    let mut secrets = Vec::new();
    loop {
        let page = client.secrets(&filter).await?;
        secrets.extend(page.items);
        let most = usize::try_from(limits::SECRETS_PER_NAMESPACE).unwrap_or(usize::MAX);
        match page.next {
            Some(next) if secrets.len() < most => filter.cursor = Some(next),
            _ => return Ok(secrets),
        }
    }
}

fn list(secrets: &[Secret], output: Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(&serde_json::json!({ "items": secrets }));
    }
    let now = Timestamp::now();
    let mut rows = Rows::new(output, &["NAME", "VERSION", "SET", "BY"]);
    for secret in secrets {
        rows.add(vec![
            Cell::new(escape::line(&secret.name)),
            Cell::new(secret.version),
            Cell::new(time::relative(secret.updated_at, now)),
            Cell::new(escape::line(&secret.updated_by)),
        ]);
    }
    rows.print("no secrets; `orca secret set NAME` makes one")
}
