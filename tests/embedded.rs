//! The conformance suite on the engines in this process.

use std::sync::Arc;

use async_trait::async_trait;
use distributary::sinks::{Sink, SinkError, SinkKind, clickhouse, graph, vectors};
use tempfile::TempDir;

use crate::conformance::subject::{DIMENSIONS, MODEL};
use crate::conformance::{Others, Place, conformance};
use crate::support::engines::{Database, directory};

/// A database of the one ClickHouse in this process.
pub(crate) struct Chdb(Database);

#[async_trait]
impl Place for Chdb {
    const KIND: SinkKind = SinkKind::Clickhouse;
    const OTHERS: Others = Others::SameProcess;

    async fn fresh() -> Self {
        Self(Database::new())
    }

    async fn try_open(&self) -> Result<Arc<dyn Sink>, SinkError> {
        Ok(Arc::new(clickhouse::open(self.0.options()).await?))
    }
}

/// A directory of Grafeo.
pub(crate) struct Grafeo(TempDir);

#[async_trait]
impl Place for Grafeo {
    const KIND: SinkKind = SinkKind::Graph;
    const OTHERS: Others = Others::Refused;

    async fn fresh() -> Self {
        Self(directory())
    }

    async fn try_open(&self) -> Result<Arc<dyn Sink>, SinkError> {
        Ok(Arc::new(graph::open(graph::GraphOptions::at(self.0.path())).await?))
    }
}

/// A directory of Qdrant Edge.
pub(crate) struct Edge(TempDir);

#[async_trait]
impl Place for Edge {
    const KIND: SinkKind = SinkKind::Vectors;
    const OTHERS: Others = Others::Refused;

    async fn fresh() -> Self {
        Self(directory())
    }

    async fn try_open(&self) -> Result<Arc<dyn Sink>, SinkError> {
        let (path, model) = (self.0.path().to_owned(), MODEL.to_owned());
        Ok(Arc::new(vectors::open(vectors::VectorsOptions { path, model, dimensions: DIMENSIONS }).await?))
    }
}

conformance!(chdb, Chdb);
conformance!(grafeo, Grafeo);
conformance!(edge, Edge);
