//! The column store: tables, views and tombstones in ClickHouse's SQL.
