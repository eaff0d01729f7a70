//! Nodes' verbs about themselves, and operators' view of them.

use orca_proto::ids::NodeId;
use orca_proto::node::{ClaimRequest, Claimed, Node, Registered, Registration, RenewRequest, Renewed};
use orca_proto::page::Page;

use super::{App, Error, Principal};

impl App {
    /// All nodes of the namespace, by name.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn node_list(&self, who: &Principal) -> Result<Page<Node>, Error> {
        let _ = (who,);
        Err(Error::Unavailable("not built yet"))
    }

    /// One node.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn node_get(&self, who: &Principal, id: NodeId) -> Result<Node, Error> {
        let _ = (who, id);
        Err(Error::Unavailable("not built yet"))
    }

    /// Makes a node known.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn node_register(
        &self,
        who: &Principal,
        registration: Registration,
    ) -> Result<Registered, Error> {
        let _ = (who, registration);
        Err(Error::Unavailable("not built yet"))
    }

    /// Grants work, or waits for some.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn node_claim(
        &self,
        who: &Principal,
        node: NodeId,
        request: ClaimRequest,
    ) -> Result<Claimed, Error> {
        let _ = (who, node, request);
        Err(Error::Unavailable("not built yet"))
    }

    /// Renews leases, then waits for cancels.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn node_renew(
        &self,
        who: &Principal,
        node: NodeId,
        request: RenewRequest,
    ) -> Result<Renewed, Error> {
        let _ = (who, node, request);
        Err(Error::Unavailable("not built yet"))
    }
}
