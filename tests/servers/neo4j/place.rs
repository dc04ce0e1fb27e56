//! The conformance suite on a Neo4j server.

use std::sync::Arc;

use async_trait::async_trait;
use distributary::sinks::{Lease, Sink, SinkError, SinkKind, graph};

use super::{address, emptied, end_leases, options, take_turn};
use crate::conformance::{Others, Place, conformance};

/// The server's one database, emptied.
struct Server;

#[async_trait]
impl Place for Server {
    const KIND: SinkKind = SinkKind::Graph;
    const OTHERS: Others = Others::Leased;

    async fn fresh() -> Self {
        take_turn();
        emptied(&address()).await;
        Self
    }

    async fn try_open(&self) -> Result<Arc<dyn Sink>, SinkError> {
        Ok(Arc::new(graph::open_server(options(&address())).await?))
    }

    async fn outlive(&self, _holder: &Arc<dyn Sink>, _lease: &Lease) {
        end_leases(&address()).await;
    }
}

conformance!(server, Server);
