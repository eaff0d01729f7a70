//! Tokens that were found good a while ago: a signature takes longer to check than an enqueue takes to write.
//!
//! Kept by their SHA-256, so that no token lies in memory; time limits are looked at each time.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use orca_proto::token::{Claims, TokenError, Verifier};
use sha2::{Digest, Sha256};

/// Tokens remembered. Beyond that all are forgotten, and checked again when they come.
const MOST: usize = 10_000;

/// A verifier that remembers.
pub(crate) struct Verified {
    verifier: Verifier,
    good: Mutex<HashMap<[u8; 32], Claims>>,
}

impl Verified {
    /// Remembers what `verifier` finds good.
    pub(crate) fn new(verifier: Verifier) -> Self {
        Self { verifier, good: Mutex::default() }
    }

    /// As [`Verifier::verify`].
    ///
    /// # Errors
    /// As there.
    pub(crate) fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let now = Timestamp::now().as_second();
        let known = self.good.lock().unwrap_or_else(PoisonError::into_inner).get(&digest).cloned();
        // Within the verifier's leeway it is the verifier's to judge.
        if let Some(claims) = known.filter(|claims| claims.nbf <= now && now < claims.exp) {
            return Ok(claims);
        }
        let claims = self.verifier.verify(token)?;
        let mut good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        if good.len() >= MOST {
            good.clear();
        }
        good.insert(digest, claims.clone());
        Ok(claims)
    }
}

#[cfg(test)]
mod tests {
    use orca_proto::duration::Span;
    use orca_proto::token::{Access, SigningKey};

    use super::*;

    fn verified(key: &SigningKey) -> Verified {
        Verified::new(Verifier::new([key]))
    }

    #[test]
    fn a_good_token_is_good_again_and_a_changed_one_is_not() {
        let key = SigningKey::generate().unwrap();
        let verified = verified(&key);
        let token = key.issue("ann", Access::Operator, "default", Timestamp::now(), Span::secs(60)).unwrap();
        for _ in 0..2 {
            assert_eq!(verified.verify(&token).unwrap().sub, "ann");
        }
        let mut changed = token;
        changed.pop();
        assert!(verified.verify(&changed).is_err());
    }

    #[test]
    fn a_remembered_token_still_ends() {
        let key = SigningKey::generate().unwrap();
        let verified = verified(&key);
        let long_ago = Timestamp::from_second(Timestamp::now().as_second() - 3_600).unwrap();
        let token = key.issue("ann", Access::Operator, "default", long_ago, Span::secs(60)).unwrap();
        let claims = Claims { exp: long_ago.as_second() + 60, ..remembered(&key) };
        let digest = Sha256::digest(token.as_bytes()).into();
        verified.good.lock().unwrap().insert(digest, claims);
        assert!(matches!(verified.verify(&token), Err(TokenError::Expired)));
    }

    fn remembered(key: &SigningKey) -> Claims {
        let token = key.issue("ann", Access::Operator, "default", Timestamp::now(), Span::secs(60)).unwrap();
        Verifier::new([key]).verify(&token).unwrap()
    }
}
