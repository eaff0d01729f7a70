//! `orca-agent progress 40 --message "half the files"`.

use clap::Args;
use hyper::Method;
use orca_proto::agent::routes;
use orca_proto::task;

use super::{VerbError, call, source};
use crate::attempt_dir::AttemptDir;

#[derive(Args)]
pub(crate) struct Progress {
    /// 0 to 100
    #[arg(required_unless_present = "message")]
    percent: Option<f64>,
    /// A few words
    #[arg(long)]
    message: Option<String>,
}

impl Progress {
    pub(super) async fn run(self, dir: &AttemptDir) -> Result<(), VerbError> {
        if self.percent.is_some_and(|percent| !(0.0..=100.0).contains(&percent)) {
            return Err(VerbError::Usage("the percentage must lie between 0 and 100".to_owned()));
        }
        let body = source::text(&task::Progress { percent: self.percent, message: self.message })?;
        call(dir, Method::POST, routes::PROGRESS, body).await.map(|_| ())
    }
}
