//! The keys of one `orca dev`: a signing key and a key for secrets made once, and tokens made anew at each start.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use orca_coordinator::Keyring;
use orca_proto::duration::Span;
use orca_proto::token::{Access, DEFAULT_NAMESPACE, SigningKey};

use crate::error::{Exit, Failure};
use crate::secret_file::{self, Existing};

/// How long the tokens are good for. Made anew at each start, so this bounds one run.
const VALID: Span = Span::secs(365 * 86_400);

/// What the parts need to believe one another.
pub(super) struct Credentials {
    /// The signing key's file.
    pub(super) key_file: PathBuf,
    /// The file of the key that secrets are encrypted with.
    pub(super) secrets_key_file: PathBuf,
    /// The operator's token's file.
    pub(super) operator_file: PathBuf,
    /// The operator's token.
    pub(super) operator: String,
    /// The planner node's token.
    pub(super) planner: String,
    /// The worker node's token.
    pub(super) worker: String,
}

impl Credentials {
    /// Reads the key in `data`, or makes it, and makes tokens.
    ///
    /// # Errors
    /// A [`Failure`] that names the file that cannot be used.
    pub(super) fn open(data: &Path) -> Result<Self, Failure> {
        let (key_file, operator_file) = (data.join("signing-key.pem"), data.join("operator.token"));
        if !key_file.exists() {
            let key = SigningKey::generate().map_err(|error| {
                Failure::new(Exit::Other, "cannot make a signing key").because(error.to_string())
            })?;
            secret_file::write(&key_file, key.to_pem(), Existing::Keep)?;
        }
        let secrets_key_file = data.join("secrets.key");
        if !secrets_key_file.exists() {
            let key = Keyring::new_key()
                .ok_or_else(|| Failure::new(Exit::Other, "cannot make a key for secrets"))?;
            secret_file::write(&secrets_key_file, &key, Existing::Keep)?;
        }
        let key = SigningKey::from_pem(&secret_file::read(&key_file)?).map_err(|error| {
            Failure::invalid(format!("{} is not a signing key", key_file.display()))
                .because(error.to_string())
                .hint("remove it; the next start makes another")
        })?;
        let issue = |sub: &str, access| {
            key.issue(sub, access, DEFAULT_NAMESPACE, Timestamp::now(), VALID)
                .map_err(|error| Failure::new(Exit::Other, "cannot make a token").because(error.to_string()))
        };
        let operator = issue("dev", Access::Operator)?;
        secret_file::write(&operator_file, &operator, Existing::Replace)?;
        Ok(Self {
            operator,
            planner: issue("dev-planner", Access::Planner)?,
            worker: issue("dev-worker", Access::Worker)?,
            key_file,
            secrets_key_file,
            operator_file,
        })
    }
}
