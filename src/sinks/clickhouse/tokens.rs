//! Names for inserts, by which a server that keeps them knows one that it is sent again.
//!
//! A name must never stand for two inserts, or the second one is left out and lost. So it is not made of what an insert holds: a row that
//! went and came back is written twice with equal content. It names this sink, the table, rows or tombstones, and the number of the
//! insert. Only an insert that failed and is sent again, with none into the table begun since it failed, gets the name it had, and only if
//! it holds the same bytes.
//!
//! Names spare the server work; that a row sent twice changes nothing is held by `_version`, also where names are not kept. To name
//! every insert also keeps replicated tables from what they do otherwise: leaving out rows that equal earlier ones.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_128;

use super::gather::Place;

/// The names that one sink gives.
pub(super) struct Tokens {
    sink: String,
    next: AtomicU64,
    /// The last insert into a table that was not answered well: whether it was of tombstones, a hash of its bytes, its name.
    failed: Mutex<HashMap<String, (bool, u128, String)>>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("sink", &self.sink).finish_non_exhaustive()
    }
}

/// The name of an insert that is being sent. Dropped before it is [`Token::done`], the insert failed.
#[derive(Debug)]
pub(super) struct Token {
    tokens: Arc<Tokens>,
    table: String,
    deleted: bool,
    hash: u128,
    name: String,
    done: bool,
}

impl Tokens {
    /// Names that no other sink gives.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { sink: Uuid::new_v4().simple().to_string(), next: AtomicU64::new(0), failed: Mutex::default() })
    }

    /// The name of the insert that is sent next.
    pub(super) fn begin(self: &Arc<Self>, place: &Place, rows: &[u8]) -> Token {
        let hash = xxh3_128(rows);
        let before = self.failed.lock().unwrap_or_else(PoisonError::into_inner).remove(&place.table);
        let name = match before {
            Some((deleted, failed, name)) if (deleted, failed) == (place.deleted, hash) => name,
            _ => {
                let number = self.next.fetch_add(1, Ordering::Relaxed);
                let what = if place.deleted { "tombstones" } else { "rows" };
                format!("{}/{}/{what}/{number}", self.sink, place.table)
            }
        };
        Token { tokens: self.clone(), table: place.table.clone(), deleted: place.deleted, hash, name, done: false }
    }
}

impl Token {
    /// The name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The insert was answered.
    pub(super) fn done(mut self) {
        self.done = true;
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        if !self.done {
            let mut failed = self.tokens.failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed.insert(self.table.clone(), (self.deleted, self.hash, self.name.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(tokens: &Arc<Tokens>, table: &str, deleted: bool, rows: &[u8], done: bool) -> String {
        let token = tokens.begin(&Place { table: table.into(), deleted }, rows);
        let name = token.name().to_owned();
        if done {
            token.done();
        }
        name
    }

    #[test]
    fn no_two_inserts_have_one_name() {
        let tokens = Tokens::new();
        let mut names = Vec::new();
        for _ in 0..2 {
            for (table, deleted) in [("a", false), ("a", true), ("b", false)] {
                names.push(send(&tokens, table, deleted, b"same", true));
            }
        }
        names.push(send(&Tokens::new(), "a", false, b"same", true));
        let all: std::collections::HashSet<&String> = names.iter().collect();
        assert_eq!(all.len(), names.len());
        assert!(names[1].ends_with("/a/tombstones/1"), "{}", names[1]);
    }

    #[test]
    fn an_insert_that_failed_keeps_its_name_when_it_is_sent_again() {
        let tokens = Tokens::new();
        let first = send(&tokens, "a", false, b"x", false);
        // Another table has nothing to do with it; a second failure changes nothing.
        send(&tokens, "b", false, b"x", true);
        assert_eq!(send(&tokens, "a", false, b"x", false), first);
        assert_eq!(send(&tokens, "a", false, b"x", true), first);
        // Answered, it is another insert when it comes once more.
        let second = send(&tokens, "a", false, b"x", false);
        assert_ne!(second, first);
        // More rows, or tombstones, are another insert; and after them what failed before is new, because it may have to win over them.
        assert_ne!(send(&tokens, "a", false, b"xy", true), second);
        assert_ne!(send(&tokens, "a", false, b"x", false), second);
        let third = send(&tokens, "a", true, b"x", true);
        assert!(third.contains("/tombstones/"));
    }
}
