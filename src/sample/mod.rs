//! Writes sample lakes: the small catalogue of `sample/`, the changes that a crawl makes to it, and generated lakes of any size.
//!
//! The one room that knows films. It writes Silver tables and knows nothing of who reads them: no mapping, no sink, no checkpoint.

mod catalogue;
mod crawl;
mod distributions;
mod generate;
mod invent;
mod rows;
mod schema;
mod words;
mod write;

pub use catalogue::{Catalogue, Vocabulary};
pub use crawl::{crawl, mend, write_lake};
pub use generate::{GenerateOptions, generate, touch};
pub use rows::{
    Cast, Country, Creator, Crew, Language, Movie, MovieDetail, Named, Network, Person, PersonDetail, Season, Series,
    SeriesDetail,
};
pub use schema::Table;
pub use write::{Changes, Row, apply, create, read};

/// One commit to a table of a sample lake.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Commit {
    /// Which table.
    pub table: Table,
    /// The Delta version that the commit made.
    pub version: u64,
    /// What was done, for people: `popularity of 58 films`.
    pub what: String,
    /// What it did to the records.
    pub counts: Counts,
}

/// What one commit did to the records of its table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Records that the commit was given: upserts and deletes.
    pub given: u64,
    /// Records that were not there before.
    pub inserted: u64,
    /// Records whose content is different now.
    pub updated: u64,
    /// Records that are gone.
    pub deleted: u64,
    /// Records that were given and changed nothing: rewritten with equal content, or deleted when they were not there.
    pub unchanged: u64,
}

/// Why a sample lake could not be written or changed.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// The directory already holds a table.
    #[error("{path} already holds the table {table}: choose another directory, or remove this one first")]
    Exists {
        /// Which table.
        table: Table,
        /// Where.
        path: String,
    },
    /// The path cannot be made a table's address.
    #[error("cannot use {path} as the directory of a lake: check that it can be created and is an ordinary path")]
    Path {
        /// Where.
        path: String,
        /// What the system said, if it was asked.
        source: Option<std::io::Error>,
    },
    /// Delta refused.
    #[error("table {table}: cannot {doing}; if the lake is not a sample lake, write a new one with `distributary sample`")]
    Delta {
        /// Which table.
        table: Table,
        /// What was tried.
        doing: &'static str,
        /// The cause.
        source: Box<deltalake::DeltaTableError>,
    },
    /// Rows could not be made columns, or columns rows.
    #[error("table {table}: cannot turn its rows into columns or back")]
    Arrow {
        /// Which table.
        table: Table,
        /// The cause.
        source: arrow::error::ArrowError,
    },
    /// A row has another form than the sample's.
    #[error("table {table}: a row is not of the sample's form; was the table written by something else?")]
    Row {
        /// Which table.
        table: Table,
        /// The cause.
        source: serde_json::Error,
    },
    /// The catalogue that is built in does not parse.
    #[error("sample/{file} is not of the expected form: correct the file and build again")]
    Catalogue {
        /// Which file.
        file: &'static str,
        /// The cause.
        source: serde_json::Error,
    },
    /// The catalogue that is built in names something that `vocabulary.json` lacks.
    #[error("sample/{file} names the {kind} `{name}`, which sample/vocabulary.json lacks: add it there")]
    Unknown {
        /// Which file.
        file: &'static str,
        /// Genre, keyword, company …
        kind: &'static str,
        /// What it is called.
        name: String,
    },
    /// The record that is to be changed is not in the lake.
    #[error("table {table} has no {what}: this lake was not made by `distributary sample`, or has been crawled already")]
    Missing {
        /// Which table.
        table: Table,
        /// Which record or part of it.
        what: String,
    },
    /// The thread that invents records was stopped.
    #[error("table {table}: generating was interrupted; remove the directory and run it again")]
    Interrupted {
        /// Which table.
        table: Table,
    },
    /// An option is out of its range.
    #[error("{name} is {value}, and must be {range}")]
    Option {
        /// Which option.
        name: &'static str,
        /// What was given.
        value: String,
        /// What is allowed.
        range: &'static str,
    },
}
