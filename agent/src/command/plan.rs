//! `orca-agent plan plan.json`, `plan @plan.json`, `plan -`.

use clap::Args;
use hyper::Method;
use orca_proto::agent::routes;
use orca_proto::limits;
use serde::de::IgnoredAny;

use super::source::{self, Inline};
use super::{VerbError, call};
use crate::attempt_dir::AttemptDir;

#[derive(Args)]
pub(crate) struct SetPlan {
    /// A file, or @FILE, with {"tasks": […]}; - reads standard input
    #[arg(value_name = "FILE|@FILE|-")]
    plan: String,
}

impl SetPlan {
    pub(super) async fn run(self, dir: &AttemptDir) -> Result<(), VerbError> {
        let text = source::read(&self.plan, Inline::IfBracketed, limits::PLAN_BODY)?;
        // The node checks the plan itself, and names every field that is wrong.
        source::parse::<IgnoredAny>(&text, "JSON")?;
        call(dir, Method::PUT, routes::PLAN, text).await.map(|_| ())
    }
}
