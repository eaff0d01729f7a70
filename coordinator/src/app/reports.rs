//! Settling many attempts at once. Those that succeeded and of which nothing else follows take one statement together; the
//! others go the long way one by one. Each is settled or refused by itself.

use std::collections::HashSet;

use orca_proto::attempt::{Refused, RefusedKind, Report, Reports, ReportsSettled, Settled};
use orca_proto::ids::NodeId;
use orca_proto::limits;
use orca_proto::node::LeaseRef;
use orca_proto::problem::Kind;
use orca_proto::task::{Outcome, State};
use serde_json::Value;
use serde_json::value::RawValue;

use super::check::{Check, aside};
use super::claim::superseded;
use super::node::check_owner;
use super::normal::normal;
use super::{App, Error, Principal};
use crate::db::node;

/// The longest result, in bytes, that is read in passing.
const SMALL: usize = 4 << 10;

/// Reports whose results are the text as it came.
pub type RawReports = Reports<Box<RawValue>>;

impl App {
    /// Settles attempts of a node. The answers are in the order of the reports; the same report again is answered the same.
    ///
    /// # Errors
    /// `validation` of the list as a whole, `not-found`, `forbidden`; `conflict` if another instance took over the node's
    /// name: nothing has changed then. The database's: some may have been settled, and it is safe to send them again.
    pub async fn node_reports(
        &self,
        who: &Principal,
        id: NodeId,
        reports: RawReports,
    ) -> Result<ReportsSettled, Error> {
        check(&reports)?;
        let known = {
            let mut connection = self.0.pool.acquire().await?;
            node::get(&mut connection, &who.namespace, id).await?.ok_or_else(Error::not_found)?
        };
        check_owner(who, &known.subject)?;
        if known.instance != reports.instance.0 {
            return Err(superseded());
        }
        let reports = reports.reports;
        let (mut leases, mut results, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for (place, report) in reports.iter().enumerate() {
            if report.outcome != Outcome::Succeeded {
                continue;
            }
            let result = match report.result.as_deref().map(RawValue::get) {
                None => None,
                Some(text) => match normal(text, SMALL) {
                    Some(text) => Some(text),
                    // It is large, or to be refused: looked at by the long way.
                    None => continue,
                },
            };
            leases.push(report.lease());
            results.push(result);
            places.push(place);
        }
        let finished =
            if leases.is_empty() { HashSet::new() } else { self.finish(who, leases, results).await? };
        let finished: HashSet<usize> = finished.iter().filter_map(|at| places.get(*at)).copied().collect();
        let mut settled = Vec::with_capacity(reports.len());
        for (place, report) in reports.into_iter().enumerate() {
            if finished.contains(&place) {
                settled.push(Settled::State(State::Succeeded));
                continue;
            }
            let lease = report.lease();
            settled.push(self.settle_one(who, lease, report.outcome, report.result).await?);
        }
        Ok(ReportsSettled { settled })
    }

    async fn settle_one(
        &self,
        who: &Principal,
        lease: LeaseRef,
        outcome: Outcome,
        result: Option<Box<RawValue>>,
    ) -> Result<Settled, Error> {
        let parse = move || match &result {
            None => Ok(None),
            Some(text) => serde_json::from_str::<Value>(text.get()).map(Some).map_err(|_| {
                Error::field("/result", "cannot be read: it is nested too deeply, or has a number too large")
            }),
        };
        let answer = match aside(parse).await {
            Ok(result) => self.attempt_report(who, lease, Report { outcome, result, plan: None }).await,
            Err(error) => Err(error),
        };
        let refused = match answer {
            Ok(reported) => return Ok(Settled::State(reported.state)),
            Err(Error::Refused(problem)) => problem,
            Err(other) => return Err(other),
        };
        let kind = match refused.kind {
            Kind::LeaseLost => RefusedKind::LeaseLost,
            Kind::ResultConflict => RefusedKind::ResultConflict,
            _ => RefusedKind::Validation,
        };
        let detail = refused
            .errors
            .first()
            .map_or_else(|| refused.detail.clone(), |error| format!("{} {}", error.pointer, error.detail));
        Ok(Settled::Refused(Refused { kind, detail }))
    }
}

fn check(reports: &RawReports) -> Result<(), Error> {
    let mut check = Check::default();
    if !(1..=limits::REPORTS).contains(&reports.reports.len()) {
        check.fail("/reports", "must hold 1 to 1,024 reports");
        return check.done();
    }
    let mut seen = HashSet::with_capacity(reports.reports.len());
    for (index, report) in reports.reports.iter().enumerate() {
        if !seen.insert(report.lease()) {
            check.fail(format!("/reports/{index}"), "reports a lease that stands before it in the list");
        }
    }
    check.done()
}
