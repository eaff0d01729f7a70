//! Namespaces: what they hold and may hold. For admins.

use super::segment;
use crate::client::{Client, ClientError};
use crate::namespace::{Namespace, Quota};

fn path(namespace: &str) -> Result<String, ClientError> {
    // Namespaces may be named after people; a path can hold that sign too.
    segment("the namespace's name", &namespace.replace('@', "-"))?;
    Ok(format!("/v1/namespaces/{namespace}"))
}

impl Client {
    /// A namespace.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn namespace(&self, namespace: &str) -> Result<Namespace, ClientError> {
        self.get(&path(namespace)?, &()).await
    }

    /// Sets how much a namespace may hold. What is left out has no limit any more.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn set_quota(&self, namespace: &str, quota: &Quota) -> Result<Namespace, ClientError> {
        self.put(&path(namespace)?, quota).await
    }
}
