//! What the sink asks of a ClickHouse, whichever way it is reached, and what its errors mean. The engine inside this process
//! answers in `chdb`, a server in `http`.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use super::NAME;
use crate::sinks::{Class, SinkError};

/// A table that exists for one statement alone.
#[derive(Debug)]
pub(super) struct External {
    /// Its name in the statement.
    pub(super) name: &'static str,
    /// Its columns: names and types, as in a `CREATE TABLE`.
    pub(super) structure: String,
    /// Its rows: an Arrow IPC stream.
    pub(super) rows: Vec<u8>,
}

/// A way to a ClickHouse.
#[async_trait]
pub(super) trait Transport: Send + Sync + fmt::Debug {
    /// Runs a statement of the sink's own; answers its rows in `format`.
    async fn query(&self, sql: String, format: &'static str) -> Result<Vec<u8>, EngineError>;

    /// The same with a table that the statement may read.
    async fn query_with(&self, sql: String, format: &'static str, table: External) -> Result<Vec<u8>, EngineError>;

    /// Runs `INSERT INTO … (…)` with the rows of an Arrow IPC stream. The columns have the names in the statement. On success all
    /// of them are stored, on failure perhaps some.
    ///
    /// `token` names this insert and no other: an engine that remembers it may leave out rows that are sent under it again.
    async fn insert(&self, sql: String, rows: Vec<u8>, token: &str) -> Result<(), EngineError>;

    /// Runs a person's statement in a session of its own, so that its `SET` and `USE` end with it.
    async fn ask(&self, sql: String, format: &'static str) -> Result<Vec<u8>, EngineError>;

    /// Lets go of the engine. Calls after it fail.
    async fn close(&self) -> Result<(), EngineError>;
}

/// What the engine said when it refused, or what became of the way to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(super) struct EngineError {
    /// ClickHouse's number of the error, where it gave one.
    pub(super) code: Option<u32>,
    /// Its text.
    pub(super) message: String,
    /// What it asks of the caller.
    pub(super) class: Class,
    /// How long the engine asked to be left alone.
    pub(super) retry_after: Option<Duration>,
}

/// A table that is not there.
pub(super) const UNKNOWN_TABLE: u32 = 60;
/// A database that is not there.
pub(super) const UNKNOWN_DATABASE: u32 = 81;
/// The user may only read: a statement or a setting was refused.
pub(super) const READONLY: u32 = 164;

/// What an error's number asks of the caller. Those are transient that a later call may not meet: files, threads, memory, sockets,
/// replicas and their coordinator that are busy now. What is not known is permanent.
pub(super) fn class_of(code: u32) -> Class {
    match code {
        // The list of a sink that has met them all.
        3 | 107 | 159 | READONLY | 202 | 203 | 209 | 210 | 241 | 242 | 252 | 285 | 319 | 425 | 999 => Class::Transient,
        // No coordinator; aborted by a server that ends; a quorum that was not reached; a lock that would wait for itself; another
        // change of the table that is not done everywhere.
        225 | 236 | 286 | 289 | 473 | 517 => Class::Transient,
        _ => Class::Permanent,
    }
}

/// The number that opens the engine's text: `Code: 60. DB::Exception: …`.
pub(super) fn code_in(message: &str) -> Option<u32> {
    let rest = message.trim_start().strip_prefix("Code: ")?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..digits].parse().ok()
}

impl EngineError {
    /// Reads the number that opens the engine's text.
    pub(super) fn parse(message: impl Into<String>) -> Self {
        let message = message.into();
        let code = code_in(&message);
        Self { code, class: code.map_or(Class::Permanent, class_of), message, retry_after: None }
    }

    /// One that the engine did not number.
    pub(super) fn said(class: Class, message: impl Into<String>) -> Self {
        Self { code: None, message: message.into(), class, retry_after: None }
    }

    /// Whether it says that the table, or its database, is not there.
    pub(super) fn absent(&self) -> bool {
        matches!(self.code, Some(UNKNOWN_TABLE | UNKNOWN_DATABASE))
    }

    /// The sink's error, saying what was being done.
    pub(super) fn during(self, doing: &str) -> SinkError {
        let message = format!("{doing}: {}", self.message.trim_end());
        SinkError { class: self.class, sink: NAME, message, retry_after: self.retry_after, source: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_decides_the_class() {
        let table = [
            ("Code: 241. DB::Exception: memory", Some(241), Class::Transient),
            ("Code: 252. DB::Exception: too many parts", Some(252), Class::Transient),
            ("Code: 999. Coordination::Exception", Some(999), Class::Transient),
            ("Code: 3. DB::Exception: end of file", Some(3), Class::Transient),
            ("Code: 24. DB::Exception: a prefix of 241", Some(24), Class::Permanent),
            ("Code: 2410. DB::Exception: begins with 241", Some(2410), Class::Permanent),
            ("Code: 60. DB::Exception: no table", Some(60), Class::Permanent),
            ("Code: 53. DB::Exception: about Code: 241.", Some(53), Class::Permanent),
            ("something else: Code: 241.", None, Class::Permanent),
            ("Code: . nothing", None, Class::Permanent),
            ("", None, Class::Permanent),
        ];
        for (text, code, class) in table {
            let error = EngineError::parse(text);
            assert_eq!((error.code, error.class), (code, class), "{text}");
        }
        let transient = [3, 107, 159, 164, 202, 203, 209, 210, 225, 236, 241, 242, 252, 285, 286, 289, 319, 425, 473, 517, 999];
        for code in 0..1100 {
            let class = if transient.contains(&code) { Class::Transient } else { Class::Permanent };
            assert_eq!(EngineError::parse(format!("Code: {code}. x")).class, class, "{code}");
        }
    }

    #[test]
    fn an_absent_table_is_told_from_other_errors() {
        assert!(EngineError::parse("Code: 60. DB::Exception: x").absent());
        assert!(EngineError::parse("Code: 81. DB::Exception: x").absent());
        assert!(!EngineError::parse("Code: 601. DB::Exception: x").absent());
    }
}
