//! The property graph: nodes, relationships and stubs in Cypher.
