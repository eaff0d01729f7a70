//! Who calls: bearer tokens (RFC 6750), and the four extractors that say in a handler's signature who may.
//!
//! They must be a handler's first arguments, so that nothing of a request is read before its token was.

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use orca_proto::problem::Kind;
use orca_proto::token::{Access, TokenError};

use super::Api;
use super::pipeline::Caller;
use super::refusal::Refusal;
use crate::app::Principal;
use crate::sabotage::{Guard, without};

/// What else a token is made of.
const MAKES: &str = "--name NAME --key FILE";

/// The longest token that is looked at, in bytes.
const TOKEN: usize = 4_096;

/// An admin.
pub(crate) struct AdminAuth(pub(crate) Principal);

/// An operator, or an admin.
pub(crate) struct OperatorAuth(pub(crate) Principal);

/// A planner or a worker node.
pub(crate) struct NodeAuth(pub(crate) Principal);

/// Anybody with a token.
pub(crate) struct AnyAuth(pub(crate) Principal);

impl FromRequestParts<Api> for AnyAuth {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Refusal> {
        authenticate(parts, api).map(Self)
    }
}

impl FromRequestParts<Api> for AdminAuth {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Refusal> {
        let principal = authenticate(parts, api)?;
        match principal.access {
            Access::Admin => Ok(Self(principal)),
            Access::Operator | Access::Planner | Access::Worker => Err(Refusal::new(
                Kind::Forbidden,
                format!(
                    "this needs an admin's token; this one is {}'s; make one with `orca token issue --role admin {MAKES}`",
                    whose(principal.access)
                ),
            )),
        }
    }
}

impl FromRequestParts<Api> for OperatorAuth {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Refusal> {
        let principal = authenticate(parts, api)?;
        match principal.access {
            Access::Operator | Access::Admin => Ok(Self(principal)),
            Access::Planner | Access::Worker => Err(Refusal::new(
                Kind::Forbidden,
                format!(
                    "this needs an operator's token; this one is {}'s; make one with `orca token issue --role operator {MAKES}`",
                    whose(principal.access)
                ),
            )),
        }
    }
}

impl FromRequestParts<Api> for NodeAuth {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Refusal> {
        let principal = authenticate(parts, api)?;
        match principal.access {
            Access::Planner | Access::Worker => Ok(Self(principal)),
            Access::Operator | Access::Admin => Err(Refusal::new(
                Kind::Forbidden,
                format!(
                    "this needs a planner's or worker's token; this one is an operator's; make one with `orca token issue \
                     --role worker {MAKES}`"
                ),
            )),
        }
    }
}

fn whose(access: Access) -> String {
    let article = if matches!(access, Access::Operator | Access::Admin) { "an" } else { "a" };
    format!("{article} {access}")
}

fn authenticate(parts: &Parts, api: &Api) -> Result<Principal, Refusal> {
    let refuse = |detail: &str| Refusal::new(Kind::Unauthenticated, detail);
    let mut headers = parts.headers.get_all(AUTHORIZATION).iter();
    let Some(header) = headers.next() else {
        return Err(refuse("send a token as `Authorization: Bearer …`; make one with `orca token issue`"));
    };
    if headers.next().is_some() {
        return Err(refuse("there is more than one Authorization header"));
    }
    let token = header
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim_start_matches(' '))
        .filter(|token| token.len() <= TOKEN)
        .ok_or_else(|| refuse("the Authorization header is not `Bearer` and a token"))?;
    let claims = api.verifier.verify(token).map_err(|error| match error {
        TokenError::Expired => refuse("the token has expired; make a new one with `orca token issue`"),
        _ => {
            refuse("the token is not valid here; make one with `orca token issue` and this coordinator's key")
        }
    })?;
    if let Some(caller) = parts.extensions.get::<Caller>() {
        caller.name(&claims.ns, &claims.sub);
    }
    // Without the wall all tenants live in one place.
    let namespace = if without(Guard::NamespaceWall) { "everybody".to_owned() } else { claims.ns };
    Ok(Principal { namespace, subject: claims.sub, access: claims.role })
}
