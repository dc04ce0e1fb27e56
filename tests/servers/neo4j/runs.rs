//! Whole runs of the real binary into a Neo4j server that are disturbed or killed.

use std::sync::Arc;

use async_trait::async_trait;
use distributary::sinks::{Sink, SinkKind, graph};

use super::{address, emptied, end_leases, graph_of, options, password, take_turn};
use crate::support::server::{Server, Step};
use crate::support::spoilt::server_runs;
use crate::support::wait_for;

/// The server's one database, with nothing in it.
struct Neo4j;

#[async_trait]
impl Server for Neo4j {
    const KIND: SinkKind = SinkKind::Graph;
    const HTTP: bool = false;
    const RECONNECTS: bool = true;
    const STEPS: &'static [Step] = &[
        Step { name: "prepare: a constraint", sends: "CREATE CONSTRAINT `distributary_4Book", first: true },
        Step { name: "prepare: what is there", sends: "SHOW CONSTRAINTS", first: false },
        Step { name: "lease", sends: "l.locked", first: false },
        Step { name: "write: nodes", sends: "SET n = ", first: false },
        Step { name: "write: relationships", sends: "CREATE (a)-[r:", first: false },
        Step { name: "checkpoint", sends: "SET c.`checkpoint`", first: false },
    ];

    fn start() -> Self {
        take_turn();
        wait_for(async {
            emptied(&address()).await;
            // A first sync makes it.
            let constraint = neo4rs::query("DROP CONSTRAINT `distributary_4Book_7book_id` IF EXISTS");
            graph_of(&address()).run(constraint).await.unwrap();
        });
        Self
    }

    fn address(&self) -> String {
        address().split("://").last().unwrap().to_owned()
    }

    fn entry(&self, address: &str) -> String {
        format!("graph: {{url: \"bolt://{address}\", user: neo4j, password: {}}}", password())
    }

    fn entry_with_tls(&self, address: &str) -> Option<String> {
        Some(format!("graph: {{url: \"bolt+s://{address}\", user: neo4j, password: {}}}", password()))
    }

    async fn open(&self) -> Arc<dyn Sink> {
        Arc::new(graph::open_server(options(&address())).await.unwrap())
    }

    async fn end_leases(&self) {
        end_leases(&address()).await;
    }
}

server_runs!(server, Neo4j);
