//! `orca token`: signing keys, and tokens made from them. Nothing here talks to a coordinator.

use std::path::PathBuf;

use jiff::Timestamp;
use orca_proto::duration::{Span, SpanError};
use orca_proto::limits;
use orca_proto::token::{Access, DEFAULT_NAMESPACE, SigningKey, TokenError};

use crate::error::{Exit, Failure};
use crate::output::Output;
use crate::secret_file::{self, Existing};

/// Make signing keys, and tokens from them
#[derive(Debug, clap::Subcommand)]
pub(crate) enum TokenCommand {
    /// Make an Ed25519 signing key for a coordinator (its ORCA_SIGNING_KEY_FILE)
    Key {
        /// File to write, with mode 0600; must not be there yet
        #[arg(long, value_name = "PATH")]
        out: PathBuf,
    },
    /// Make a token that the key's coordinator accepts
    Issue(IssueArgs),
}

/// Make a token that the key's coordinator accepts
#[derive(Debug, clap::Args)]
pub(crate) struct IssueArgs {
    /// What the token allows: operator, planner, worker or admin (an operator who also sets quotas)
    #[arg(long)]
    role: Access,
    /// Whose it is: a person's, program's or node's name
    #[arg(long)]
    name: String,
    /// The signing key's file
    #[arg(long, value_name = "PATH", env = "ORCA_SIGNING_KEY_FILE")]
    key: PathBuf,
    /// How long it is good for (a day is 24h)
    #[arg(long, value_name = "DURATION", default_value = "90d", value_parser = ttl, allow_hyphen_values = true)]
    ttl: Span,
    /// The namespace it is good for
    #[arg(long, default_value = DEFAULT_NAMESPACE)]
    namespace: String,
    /// File to write, with mode 0600, instead of standard output; replaced if it is there
    #[arg(long, value_name = "PATH")]
    out: Option<PathBuf>,
}

/// A length of time that a token can be good for.
fn ttl(text: &str) -> Result<Span, String> {
    let span: Span = text.parse().map_err(|error: SpanError| error.to_string())?;
    match span.get().as_secs() {
        0 => Err("must be at least a second".to_owned()),
        secs if secs > 10 * limits::DURATION_SECS => Err("must be at most ten years".to_owned()),
        _ => Ok(span),
    }
}

impl TokenCommand {
    /// Does it.
    pub(crate) fn run(self, output: Output) -> Result<Exit, Failure> {
        match self {
            Self::Key { out } => {
                let key = SigningKey::generate().map_err(unusable)?;
                secret_file::write(&out, key.to_pem(), Existing::Keep)?;
                output.remark(&format!("wrote signing key {} to {}", key.kid(), out.display()));
            }
            Self::Issue(args) => issue(&args, output)?,
        }
        Ok(Exit::Done)
    }
}

fn issue(args: &IssueArgs, output: Output) -> Result<(), Failure> {
    for (flag, value) in [("--name", &args.name), ("--namespace", &args.namespace)] {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-@".contains(c);
        if value.is_empty() || value.len() > limits::NAME || !value.chars().all(plain) {
            return Err(Failure::invalid(format!("{flag} is not valid"))
                .because("it must be 1 to 128 letters, digits or any of ._-@"));
        }
    }
    let key = SigningKey::from_pem(&secret_file::read(&args.key)?).map_err(|error| {
        Failure::invalid(format!("{} is not a signing key", args.key.display()))
            .because(error.to_string())
            .hint("`orca token key --out PATH` makes one")
    })?;
    let token =
        key.issue(&args.name, args.role, &args.namespace, Timestamp::now(), args.ttl).map_err(unusable)?;
    match &args.out {
        Some(path) => secret_file::write(path, &token, Existing::Replace),
        None => output.line(&token),
    }
}

fn unusable(error: TokenError) -> Failure {
    Failure::new(Exit::Other, "cannot make it").because(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_to_live_may_be_told_in_days_and_has_bounds() {
        assert_eq!(ttl("90d").unwrap(), Span::secs(90 * 86_400));
        assert_eq!(ttl("36h").unwrap(), Span::secs(36 * 3_600));
        for text in ["0s", "99999d", "18446744073709551615d", "soon", "-1d"] {
            assert!(ttl(text).is_err(), "{text}");
        }
    }
}
