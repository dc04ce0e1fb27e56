//! Engines of servers, each behind the protocol that its servers speak: the conformance suite, and whole runs of the real binary that are
//! disturbed, killed, or find the server gone.

pub(crate) mod engines;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use distributary::sinks::{Lease, Sink, SinkError, SinkKind, vectors};

use crate::conformance::subject::{DIMENSIONS, MODEL};
use crate::conformance::{Others, Place, conformance};
use crate::fronts::qdrant;
use crate::support::server::Server as _;
use crate::support::spoilt::server_runs;

/// A machine that tests many things at once may be slow.
const PATIENCE: Duration = Duration::from_secs(600);

/// A database of a ClickHouse server.
pub(crate) struct Clickhouse(engines::Clickhouse);

#[async_trait]
impl Place for Clickhouse {
    const KIND: SinkKind = SinkKind::Clickhouse;
    const OTHERS: Others = Others::Leased;

    async fn fresh() -> Self {
        Self(engines::Clickhouse::new())
    }

    async fn try_open(&self) -> Result<Arc<dyn Sink>, SinkError> {
        self.0.try_open().await
    }

    async fn outlive(&self, holder: &Arc<dyn Sink>, _lease: &Lease) {
        engines::end_leases(holder).await;
    }
}

async fn open_qdrant(front: &qdrant::Front) -> Result<Arc<dyn Sink>, SinkError> {
    let options = vectors::QdrantOptions { timeout: PATIENCE, ..vectors::QdrantOptions::at(front.address().parse().unwrap()) };
    Ok(Arc::new(vectors::open_qdrant(options, MODEL.to_owned(), DIMENSIONS).await?))
}

/// A Qdrant server.
pub(crate) struct Qdrant(qdrant::Front);

#[async_trait]
impl Place for Qdrant {
    const KIND: SinkKind = SinkKind::Vectors;
    const OTHERS: Others = Others::Leased;

    async fn fresh() -> Self {
        Self(qdrant::Front::start())
    }

    async fn try_open(&self) -> Result<Arc<dyn Sink>, SinkError> {
        open_qdrant(&self.0).await
    }
}

/// A Qdrant server in strict mode: filters over indexed entries only, small requests.
pub(crate) struct StrictQdrant(qdrant::Front);

#[async_trait]
impl Place for StrictQdrant {
    const KIND: SinkKind = SinkKind::Vectors;
    const OTHERS: Others = Others::Leased;

    async fn fresh() -> Self {
        Self(qdrant::Front::with(qdrant::Rules { strict: true, ..qdrant::Rules::default() }))
    }

    async fn try_open(&self) -> Result<Arc<dyn Sink>, SinkError> {
        open_qdrant(&self.0).await
    }
}

/// A project of Pinecone.
pub(crate) struct Pinecone(engines::Pinecone);

#[async_trait]
impl Place for Pinecone {
    const KIND: SinkKind = SinkKind::Vectors;
    const OTHERS: Others = Others::Leased;

    async fn fresh() -> Self {
        Self(engines::Pinecone::start())
    }

    async fn try_open(&self) -> Result<Arc<dyn Sink>, SinkError> {
        Ok(Arc::new(vectors::open_pinecone(self.0.options(), MODEL.to_owned(), DIMENSIONS).await?))
    }
}

conformance!(clickhouse_http, Clickhouse);
conformance!(qdrant_grpc, Qdrant);
conformance!(qdrant_strict, StrictQdrant);
conformance!(pinecone_rest, Pinecone);

server_runs!(clickhouse_runs, engines::Clickhouse);
server_runs!(qdrant_runs, engines::Qdrant);
server_runs!(pinecone_runs, engines::Pinecone);
