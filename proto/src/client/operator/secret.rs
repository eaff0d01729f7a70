//! Secrets: set, look at their names, remove, encrypt anew. No call reads a value.

use reqwest::Method;

use super::segment;
use crate::client::{Client, ClientError, send};
use crate::page::Page;
use crate::secret::{Rotated, Secret, SecretFilter, SecretPut};

fn path(name: &str) -> Result<String, ClientError> {
    Ok(format!("/v1/secrets/{}", segment("the secret's name", name)?))
}

impl Client {
    /// A page of the namespace's secrets, by name, without their values.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn secrets(&self, filter: &SecretFilter) -> Result<Page<Secret>, ClientError> {
        self.get("/v1/secrets", filter).await
    }

    /// Sets a secret, whether there was one of that name or not.
    ///
    /// # Errors
    /// Any [`ClientError`]; `conflict` if the coordinator has no key to encrypt it with.
    pub async fn set_secret(&self, name: &str, put: &SecretPut) -> Result<Secret, ClientError> {
        self.put(&path(name)?, put).await
    }

    /// Forgets a secret. Attempts that run keep what they have.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn remove_secret(&self, name: &str) -> Result<(), ClientError> {
        send(self.request(Method::DELETE, &path(name)?)).await.map(drop)
    }

    /// Encrypts the secrets of all namespaces with the coordinator's newest key. For admins.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn rotate_secrets(&self) -> Result<Rotated, ClientError> {
        self.post_many("/v1/secret-rotations", &serde_json::json!({})).await
    }
}
