//! Tracing, and the names of metrics.
