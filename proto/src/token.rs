//! JWT bearer tokens (RFC 7519): signed with Ed25519, checked the same way everywhere.
//!
//! The algorithm is pinned to EdDSA whatever a token's header says; keys are found by `kid` among those configured, and
//! `jku`, `jwk` and `x5u` are never looked at. All of `iss`, `aud`, `sub`, `jti`, `iat`, `nbf` and `exp` are required.

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use pem::Pem;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::duration::Span;

/// The issuer of every token.
pub const ISSUER: &str = "orca";
/// The audience of tokens for the coordinator.
pub const AUDIENCE: &str = "orca-coordinator";
/// The namespace of a token that names none.
pub const DEFAULT_NAMESPACE: &str = "default";
/// Seconds by which clocks may differ.
const LEEWAY_SECS: u64 = 30;

/// What a token allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Set namespaces' quotas, and all that an operator may.
    Admin,
    /// Enqueue, watch, cancel; everything that people and CI do.
    Operator,
    /// Be a planner node.
    Planner,
    /// Be a worker node.
    Worker,
}

impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::Planner => "planner",
            Self::Worker => "worker",
        })
    }
}

impl std::str::FromStr for Access {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "admin" => Ok(Self::Admin),
            "operator" => Ok(Self::Operator),
            "planner" => Ok(Self::Planner),
            "worker" => Ok(Self::Worker),
            _ => Err(TokenError::Role),
        }
    }
}

/// The claims of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Always [`ISSUER`].
    pub iss: String,
    /// Always [`AUDIENCE`].
    pub aud: String,
    /// Who: a person's, program's or node's name.
    pub sub: String,
    /// What it may do.
    pub role: Access,
    /// The namespace it may do it in.
    pub ns: String,
    /// This token's own id.
    pub jti: Uuid,
    /// Issued at, in seconds since 1970.
    pub iat: i64,
    /// Not before.
    pub nbf: i64,
    /// Not after.
    pub exp: i64,
}

/// Why a token or key was refused. Says nothing that helps a forger.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The key's text is not an Ed25519 key in PEM.
    #[error("not an Ed25519 private key in PKCS #8 PEM")]
    Key,
    /// The token could not be signed.
    #[error("cannot sign the token: {0}")]
    Sign(#[source] jsonwebtoken::errors::Error),
    /// Altered, malformed, or signed by another key.
    #[error("the token is not valid")]
    Invalid,
    /// Past its time.
    #[error("the token has expired; make a new one with `orca token`")]
    Expired,
    /// Not a role.
    #[error("not a role; one of operator, planner, worker, admin")]
    Role,
}

/// An Ed25519 key that signs tokens. Its key id is derived from its public half, so nobody has to name keys.
pub struct SigningKey {
    pem: String,
    key: EncodingKey,
    public: Vec<u8>,
    kid: String,
}

impl SigningKey {
    /// A new key.
    ///
    /// # Errors
    /// [`TokenError::Key`] if the system has no randomness to give.
    pub fn generate() -> Result<Self, TokenError> {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| TokenError::Key)?;
        Self::from_pem(&pem::encode(&Pem::new("PRIVATE KEY", document.as_ref())))
    }

    /// The key of a PKCS #8 PEM text.
    ///
    /// # Errors
    /// [`TokenError::Key`] if the text is something else.
    pub fn from_pem(text: &str) -> Result<Self, TokenError> {
        let document = pem::parse(text).map_err(|_| TokenError::Key)?;
        let pair =
            Ed25519KeyPair::from_pkcs8_maybe_unchecked(document.contents()).map_err(|_| TokenError::Key)?;
        let public = pair.public_key().as_ref().to_vec();
        let hash = digest::digest(&digest::SHA256, &public);
        let kid = hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let key = EncodingKey::from_ed_pem(text.as_bytes()).map_err(|_| TokenError::Key)?;
        Ok(Self { pem: text.to_owned(), key, public, kid })
    }

    /// The key as PKCS #8 PEM: a secret, for a file that only its owner can read.
    #[must_use]
    pub fn to_pem(&self) -> &str {
        &self.pem
    }

    /// Its key id.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// A token for `sub` with `role` in `namespace`, valid from `now` for `ttl`.
    ///
    /// # Errors
    /// [`TokenError::Sign`] if the key does not sign.
    pub fn issue(
        &self,
        sub: &str,
        role: Access,
        namespace: &str,
        now: Timestamp,
        ttl: Span,
    ) -> Result<String, TokenError> {
        let iat = now.as_second();
        let ttl_secs = i64::try_from(ttl.get().as_secs()).unwrap_or(i64::MAX);
        let claims = Claims {
            iss: ISSUER.into(),
            aud: AUDIENCE.into(),
            sub: sub.into(),
            role,
            ns: namespace.into(),
            jti: Uuid::now_v7(),
            iat,
            nbf: iat,
            exp: iat.saturating_add(ttl_secs),
        };
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.kid.clone());
        jsonwebtoken::encode(&header, &claims, &self.key).map_err(TokenError::Sign)
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// Checks tokens against the public halves of a set of keys.
pub struct Verifier {
    keys: Vec<(String, DecodingKey)>,
    validation: Validation,
}

impl Verifier {
    /// A verifier of tokens that any of `keys` signed. Keys rotate by an overlap of old and new.
    #[must_use]
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a SigningKey>) -> Self {
        let keys =
            keys.into_iter().map(|key| (key.kid.clone(), DecodingKey::from_ed_der(&key.public))).collect();
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_audience(&[AUDIENCE]);
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "nbf", "aud", "iss", "sub"]);
        validation.validate_nbf = true;
        validation.leeway = LEEWAY_SECS;
        Self { keys, validation }
    }

    /// The claims of `token`, if everything about it is right.
    ///
    /// # Errors
    /// [`TokenError::Expired`] or [`TokenError::Invalid`].
    pub fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Invalid)?;
        let kid = header.kid.ok_or(TokenError::Invalid)?;
        let (_, key) = self.keys.iter().find(|(known, _)| *known == kid).ok_or(TokenError::Invalid)?;
        match jsonwebtoken::decode::<Claims>(token, key, &self.validation) {
            Ok(decoded) => Ok(decoded.claims),
            Err(error) if matches!(error.kind(), jsonwebtoken::errors::ErrorKind::ExpiredSignature) => {
                Err(TokenError::Expired)
            }
            Err(_) => Err(TokenError::Invalid),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(key: &SigningKey, at: Timestamp) -> String {
        key.issue("ann", Access::Operator, "default", at, Span::secs(60)).unwrap()
    }

    #[test]
    fn a_token_is_read_back_with_the_key_that_signed_it() {
        let key = SigningKey::from_pem(SigningKey::generate().unwrap().to_pem()).unwrap();
        let claims = Verifier::new([&key]).verify(&token(&key, Timestamp::now())).unwrap();
        assert_eq!(
            (claims.sub.as_str(), claims.role, claims.ns.as_str()),
            ("ann", Access::Operator, "default")
        );
    }

    #[test]
    fn a_token_of_another_key_is_refused_even_under_a_known_kid() {
        let (known, mut foreign) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        foreign.kid = known.kid.clone();
        let verifier = Verifier::new([&known]);
        assert!(matches!(verifier.verify(&token(&foreign, Timestamp::now())), Err(TokenError::Invalid)));
    }

    #[test]
    fn a_token_past_its_time_is_expired_and_one_before_it_is_invalid() {
        let key = SigningKey::generate().unwrap();
        let verifier = Verifier::new([&key]);
        let at = |secs| Timestamp::from_second(Timestamp::now().as_second() + secs).unwrap();
        assert!(matches!(verifier.verify(&token(&key, at(-3600))), Err(TokenError::Expired)));
        assert!(matches!(verifier.verify(&token(&key, at(3600))), Err(TokenError::Invalid)));
    }

    #[test]
    fn the_header_cannot_choose_the_algorithm() {
        let key = SigningKey::generate().unwrap();
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(key.kid.clone());
        let good = Verifier::new([&key]).verify(&token(&key, Timestamp::now())).unwrap();
        let forged = jsonwebtoken::encode(&header, &good, &EncodingKey::from_secret(&key.public)).unwrap();
        assert!(matches!(Verifier::new([&key]).verify(&forged), Err(TokenError::Invalid)));
    }
}
