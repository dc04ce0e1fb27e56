//! Mapping files: one row-local SQL query for each target, run over records as they were and as they are, and the
//! difference of the two.
//!
//! A mapping is [read](file), then [compiled](compile) against the Silver tables' schemas: each query is planned by
//! DataFusion, [held to be row-local](rowlocal), its columns traced to the Silver key. A compiled [`Projection`] turns
//! records into rows; [`diff`] compares the rows of before and after. Nothing here knows Delta, an engine or a model.

pub mod compile;
pub mod diff;
pub mod file;
mod names;
pub mod project;
mod reads;
mod rowlocal;
pub mod target;

use std::path::PathBuf;

pub use compile::{Compiled, compile};
pub use file::{MappingFile, Place};
pub use project::{Projection, RowFault};
pub use reads::FieldPath;

/// Why a mapping cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MappingError {
    /// The file cannot be read.
    #[error("cannot read the mapping {}: {source}; name it under `mapping` in the configuration", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file is not a mapping.
    #[error("{}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        message: String,
    },
    /// A projection is refused.
    #[error("{place}: {message}")]
    Refused {
        /// The projection.
        place: Place,
        /// What is wrong with it, naming the expression, column or name, and what would help.
        message: String,
    },
    /// DataFusion or Arrow failed on something that the mapping allows.
    #[error("{place}: {source}")]
    Engine {
        /// The projection.
        place: Place,
        /// The cause.
        source: datafusion::error::DataFusionError,
    },
}
