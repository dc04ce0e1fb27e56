//! Mapping files: one row-local SQL query for each target, run over records as they were and as they are, and the difference of the two.

pub mod target;
