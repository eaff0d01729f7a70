//! Whom Postgres runs as: it refuses to run as root, so root lends it an unprivileged account.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::error::{Exit, Failure};

/// Accounts that will do, best first.
const NAMES: [&str; 2] = ["postgres", "nobody"];

/// An account other than our own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Account {
    /// Its name.
    pub(super) name: String,
    /// Its user id.
    pub(super) uid: u32,
    /// Its group id.
    pub(super) gid: u32,
}

impl Account {
    /// The account for Postgres, or `None` where our own will do.
    ///
    /// # Errors
    /// A [`Failure`] if we are root and there is no other account.
    pub(super) fn for_postgres() -> Result<Option<Self>, Failure> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let accounts = std::fs::read_to_string("/etc/passwd")
            .map_err(|error| Failure::file("cannot read /etc/passwd", &error))?;
        NAMES.iter().find_map(|name| find(&accounts, name)).map(Some).ok_or_else(|| {
            Failure::new(Exit::Other, "Postgres does not run as root, and there is no other account for it")
                .because(format!("neither {} is in /etc/passwd", NAMES.join(" nor ")))
                .hint("run `orca dev` as an ordinary user, or set DATABASE_URL")
        })
    }

    /// Checks that the account may pass through every directory above `path`.
    ///
    /// # Errors
    /// A [`Failure`] that names the directory that stops it.
    pub(super) fn check_way_to(&self, path: &Path) -> Result<(), Failure> {
        for directory in path.ancestors().skip(1).filter(|directory| !directory.as_os_str().is_empty()) {
            let metadata = std::fs::metadata(directory)
                .map_err(|error| Failure::file(format!("cannot look at {}", directory.display()), &error))?;
            if !self.may_pass(&metadata) {
                return Err(Failure::invalid("Postgres cannot be kept there")
                    .because(format!(
                        "it runs as {}, as root may not, and that account may not enter {}",
                        self.name,
                        directory.display()
                    ))
                    .hint(format!(
                        "choose another directory with --data, or: chmod o+x {}",
                        directory.display()
                    )));
            }
        }
        Ok(())
    }

    fn may_pass(&self, metadata: &Metadata) -> bool {
        let bit = match (metadata.uid() == self.uid, metadata.gid() == self.gid) {
            (true, _) => 0o100,
            (false, true) => 0o010,
            (false, false) => 0o001,
        };
        metadata.mode() & bit != 0
    }
}

/// An account by its name, in the text of `/etc/passwd`.
fn find(accounts: &str, name: &str) -> Option<Account> {
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.next()?;
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        (found == name && uid != 0).then(|| Account { name: name.to_owned(), uid, gid })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_its_whole_name_and_never_root() {
        let text = "root:x:0:0::/root:/bin/sh\nmypostgres:x:1:1::/:\npostgres:x:101:104:,,,:/var:/bin/bash\n";
        assert_eq!(find(text, "postgres").map(|a| (a.uid, a.gid)), Some((101, 104)));
        assert_eq!(find(text, "root"), None);
        assert_eq!(find("broken\n", "broken"), None);
    }
}
