//! The vector index: points, payloads and chunks.
