//! `orca-agent result @out.json`, `result -`, `result '{"answer":42}'`.

use clap::Args;
use hyper::Method;
use orca_proto::agent::routes;
use orca_proto::limits;
use serde::de::IgnoredAny;

use super::source::{self, Inline};
use super::{VerbError, call};
use crate::attempt_dir::AttemptDir;

#[derive(Args)]
pub(crate) struct SetResult {
    /// JSON; @FILE reads a file, - standard input
    #[arg(value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    result: String,
}

impl SetResult {
    pub(super) async fn run(self, dir: &AttemptDir) -> Result<(), VerbError> {
        let text = source::read(&self.result, Inline::Always, limits::RESULT)?;
        source::parse::<IgnoredAny>(&text, "JSON")?;
        call(dir, Method::PUT, routes::RESULT, text).await.map(|_| ())
    }
}
