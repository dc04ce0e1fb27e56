//! One index: its requests, and reads that see what was written. It knows records and namespaces, neither points nor collections.
//!
//! A read that must see something is repeated until the number that it answers, up to which it sees the namespace's log, has reached
//! the number of the write that is to be seen. A service that answers no numbers (the vendor's emulator) is one that does not lag.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use super::client::{Client, Method, Request};
use super::encode::{self, ANSWERS_A_QUERY, IDS_A_DELETE, IDS_A_FETCH, RECORDS_A_PAGE, Record};
use crate::sinks::SinkError;
use crate::sinks::vectors::config::SINK;

/// Requests of one call under way at once: with 50 ms for each, below the 100 a second that an index takes.
const CONCURRENT: usize = 4;
/// The service promises no time; seconds are usual. After this long the caller is told, and may try again.
const FRESH_WITHIN: Duration = Duration::from_secs(60);
/// The pause before a read is repeated, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// An id that no record has: to delete it is a write that changes nothing.
const NOBODY: &str = "_nobody";

/// What a read must see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fresh {
    /// What this process wrote.
    Own,
    /// That, and what anybody wrote before this process first asked.
    Begun,
    /// What anybody wrote before it.
    Now,
}

/// What is known of a namespace's log.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    written: u64,
    begun: bool,
}

/// An index that can be asked.
#[derive(Debug)]
pub(super) struct Index {
    client: Arc<Client>,
    base: Url,
    /// Its name.
    pub(super) name: String,
    /// Length of its vectors.
    pub(super) dimensions: usize,
    seen: Mutex<HashMap<String, Seen>>,
}

#[derive(Debug, Deserialize)]
struct Fetched {
    #[serde(default)]
    vectors: HashMap<String, Record>,
    #[serde(default)]
    pagination: Option<Next>,
}

#[derive(Debug, Deserialize)]
struct Listed {
    #[serde(default)]
    vectors: Vec<Item>,
    #[serde(default)]
    pagination: Option<Next>,
}

#[derive(Debug, Deserialize)]
struct Item {
    id: String,
}

#[derive(Debug, Default, Deserialize)]
struct Next {
    #[serde(default)]
    next: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Matched {
    #[serde(default)]
    matches: Vec<Record>,
}

fn following(next: Option<Next>) -> Option<String> {
    next.unwrap_or_default().next.filter(|token| !token.is_empty())
}

impl Index {
    /// The index at an address.
    pub(super) fn new(client: Arc<Client>, base: Url, name: String, dimensions: usize) -> Self {
        Self { client, base, name, dimensions, seen: Mutex::default() }
    }

    fn place(&self, namespace: &str) -> String {
        format!("namespace {namespace} of index {}", self.name)
    }

    fn seen(&self, namespace: &str) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(namespace).copied().unwrap_or_default()
    }

    fn see(&self, namespace: &str, change: impl FnOnce(&mut Seen)) {
        change(self.seen.lock().unwrap_or_else(PoisonError::into_inner).entry(namespace.to_owned()).or_default());
    }

    fn forget(&self, namespace: &str) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).remove(namespace);
    }

    /// Sends a write. Answers false when there is no such namespace.
    async fn change(&self, namespace: &str, request: &Request) -> Result<bool, SinkError> {
        let answer = match self.client.send(&self.base, request).await {
            Err(failed) if failed.status == Some(404) => return Ok(false),
            other => other?,
        };
        let number = answer.written.unwrap_or(0);
        self.see(namespace, |seen| seen.written = seen.written.max(number));
        Ok(true)
    }

    /// The number that a read must reach; none when there is no such namespace.
    async fn goal(&self, namespace: &str, fresh: Fresh) -> Result<Option<u64>, SinkError> {
        let asks = fresh == Fresh::Now || (fresh == Fresh::Begun && !self.seen(namespace).begun);
        if asks {
            let request = Request::new(format!("read {}", self.place(namespace)), Method::Post, &["vectors", "delete"])
                .with(json!({"namespace": namespace, "ids": [NOBODY]}).to_string());
            match self.client.send(&self.base, &request).await {
                Ok(answer) => {
                    let number = answer.written.unwrap_or(0);
                    self.see(namespace, |seen| seen.written = seen.written.max(number));
                }
                // A key that may read alone sees what the service shows it.
                Err(failed) if failed.status == Some(403) => {}
                Err(failed) if failed.status == Some(404) => {
                    self.forget(namespace);
                    return Ok(None);
                }
                Err(failed) => return Err(failed.into()),
            }
            self.see(namespace, |seen| seen.begun = true);
        }
        Ok(Some(self.seen(namespace).written))
    }

    /// From now on reads see what anybody wrote before now.
    pub(super) async fn catch_up(&self, namespace: &str) -> Result<(), SinkError> {
        self.goal(namespace, Fresh::Now).await.map(drop)
    }

    /// Sends a read until it sees what it must; none when there is no such namespace.
    async fn read<T: serde::de::DeserializeOwned>(
        &self,
        namespace: &str,
        fresh: Fresh,
        request: &Request,
    ) -> Result<Option<T>, SinkError> {
        let Some(goal) = self.goal(namespace, fresh).await? else { return Ok(None) };
        let deadline = Instant::now() + FRESH_WITHIN;
        let mut is_probed = false;
        let mut pause = PAUSES.0;
        loop {
            match self.client.send(&self.base, request).await {
                Err(failed) if failed.status == Some(404) && goal == 0 => return Ok(None),
                Err(failed) if failed.status == Some(404) => {}
                Err(failed) => return Err(failed.into()),
                Ok(answer) => match answer.indexed {
                    Some(number) if number < goal => {}
                    None if goal > 0 && !is_probed => {
                        // Only answers to queries are promised to tell it: when one does, what is read after it is fresh.
                        is_probed = self.is_indexed(namespace, goal).await?;
                        if is_probed {
                            continue;
                        }
                    }
                    _ => return answer.json(&request.what).map(Some),
                },
            }
            if Instant::now() > deadline {
                let message = format!(
                    "{} does not yet show what was written to it, for {} s now: try again later",
                    self.place(namespace),
                    FRESH_WITHIN.as_secs()
                );
                return Err(SinkError::transient(SINK, message));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    async fn is_indexed(&self, namespace: &str, goal: u64) -> Result<bool, SinkError> {
        let what = format!("read {}", self.place(namespace));
        let body = json!({"namespace": namespace, "vector": encode::constant(self.dimensions), "topK": 1});
        let request = Request::new(what, Method::Post, &["query"]).with(body.to_string());
        Ok(self.client.send(&self.base, &request).await?.indexed.is_none_or(|number| number >= goal))
    }

    /// Inserts or replaces records, in as few requests as the limits allow, one after the other.
    pub(super) async fn upsert(&self, namespace: &str, records: Vec<String>) -> Result<(), SinkError> {
        for body in encode::upserts(namespace, records) {
            let what = format!("write to {}", self.place(namespace));
            let request = Request::new(what, Method::Post, &["vectors", "upsert"]).with(body);
            if !self.change(namespace, &request).await? {
                return Err(SinkError::permanent(SINK, format!("{} is gone: run again to fill it anew", self.place(namespace))));
            }
        }
        Ok(())
    }

    /// Deletes records; one that is not there is no error.
    pub(super) async fn delete(&self, namespace: &str, ids: &[String]) -> Result<(), SinkError> {
        for ids in ids.chunks(IDS_A_DELETE) {
            let what = format!("delete from {}", self.place(namespace));
            let body = json!({"namespace": namespace, "ids": ids}).to_string();
            self.change(namespace, &Request::new(what, Method::Post, &["vectors", "delete"]).with(body)).await?;
        }
        Ok(())
    }

    /// Those of the records that are there.
    pub(super) async fn fetch(&self, namespace: &str, fresh: Fresh, ids: &[String]) -> Result<Vec<Record>, SinkError> {
        if self.goal(namespace, fresh).await?.is_none() {
            return Ok(Vec::new());
        }
        let asked: Vec<_> = ids.chunks(IDS_A_FETCH).map(|ids| self.fetch_some(namespace, ids)).collect();
        let found: Vec<Vec<Record>> = stream::iter(asked).buffer_unordered(CONCURRENT).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn fetch_some(&self, namespace: &str, ids: &[String]) -> Result<Vec<Record>, SinkError> {
        let mut request = Request::new(format!("read {}", self.place(namespace)), Method::Get, &["vectors", "fetch"]);
        request.query.push(("namespace", namespace.to_owned()));
        request.query.extend(ids.iter().map(|id| ("ids", id.clone())));
        let found: Option<Fetched> = self.read(namespace, Fresh::Own, &request).await?;
        Ok(found.into_iter().flat_map(|found| found.vectors.into_values()).collect())
    }

    /// All records whose entry is one of the values, in one table or in all.
    pub(super) async fn any_of(
        &self,
        namespace: &str,
        fresh: Fresh,
        field: &str,
        values: &[String],
        table: Option<&str>,
    ) -> Result<Vec<Record>, SinkError> {
        if self.goal(namespace, fresh).await?.is_none() {
            return Ok(Vec::new());
        }
        let filters = values.chunks(RECORDS_A_PAGE).map(|values| encode::any_of(field, values, table));
        let asked: Vec<_> = filters.map(|filter| self.matching(namespace, filter)).collect();
        let found: Vec<Vec<Record>> = stream::iter(asked).buffer_unordered(CONCURRENT).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn matching(&self, namespace: &str, filter: Value) -> Result<Vec<Record>, SinkError> {
        let (mut all, mut token) = (Vec::new(), None);
        loop {
            let mut body = json!({"namespace": namespace, "filter": filter, "limit": RECORDS_A_PAGE});
            if let Some(token) = token {
                body["paginationToken"] = Value::String(token);
            }
            let what = format!("search {}", self.place(namespace));
            let request = Request::new(what, Method::Post, &["vectors", "fetch_by_metadata"]).with(body.to_string());
            let found: Option<Fetched> = self.read(namespace, Fresh::Own, &request).await?;
            let Some(found) = found else { return Ok(all) };
            all.extend(found.vectors.into_values());
            token = following(found.pagination);
            if token.is_none() {
                return Ok(all);
            }
        }
    }

    /// A page of ids in their order, and where the next one begins.
    pub(super) async fn list(
        &self,
        namespace: &str,
        fresh: Fresh,
        limit: usize,
        token: Option<&str>,
    ) -> Result<(Vec<String>, Option<String>), SinkError> {
        let mut request = Request::new(format!("list {}", self.place(namespace)), Method::Get, &["vectors", "list"]);
        request.query.extend([("namespace", namespace.to_owned()), ("limit", limit.to_string())]);
        request.query.extend(token.map(|token| ("paginationToken", token.to_owned())));
        let found: Option<Listed> = self.read(namespace, fresh, &request).await?;
        let Some(found) = found else { return Ok((Vec::new(), None)) };
        Ok((found.vectors.into_iter().map(|item| item.id).collect(), following(found.pagination)))
    }

    /// The records nearest to the vector, best first, without vectors. Sees what this process wrote.
    pub(super) async fn nearest(
        &self,
        namespace: &str,
        vector: &[f32],
        filter: Option<Value>,
        top: usize,
    ) -> Result<Vec<Record>, SinkError> {
        let mut body =
            json!({"namespace": namespace, "vector": vector, "topK": top.clamp(1, ANSWERS_A_QUERY), "includeMetadata": true});
        if let Some(filter) = filter {
            body["filter"] = filter;
        }
        let request = Request::new(format!("search {}", self.place(namespace)), Method::Post, &["query"]).with(body.to_string());
        let found: Option<Matched> = self.read(namespace, Fresh::Own, &request).await?;
        Ok(found.map(|found| found.matches).unwrap_or_default())
    }

    /// Whether there is such a namespace.
    pub(super) async fn has(&self, namespace: &str) -> Result<bool, SinkError> {
        let request = Request::new(format!("describe {}", self.place(namespace)), Method::Get, &["namespaces", namespace]);
        match self.client.send(&self.base, &request).await {
            Ok(_) => Ok(true),
            Err(failed) if failed.status == Some(404) => Ok(false),
            Err(failed) => Err(failed.into()),
        }
    }

    /// Makes a namespace, if it is not there.
    pub(super) async fn make(&self, namespace: &str) -> Result<(), SinkError> {
        let request = Request::new(format!("make {}", self.place(namespace)), Method::Post, &["namespaces"])
            .with(json!({"name": namespace}).to_string());
        match self.client.send(&self.base, &request).await {
            Ok(_) => Ok(()),
            Err(failed) if failed.status == Some(409) => Ok(()),
            Err(failed) => Err(failed.into()),
        }
    }

    /// Deletes a namespace with everything in it; one that is not there is no error.
    pub(super) async fn remove(&self, namespace: &str) -> Result<(), SinkError> {
        let request = Request::new(format!("delete {}", self.place(namespace)), Method::Delete, &["namespaces", namespace]);
        match self.client.send(&self.base, &request).await {
            Err(failed) if failed.status != Some(404) => return Err(failed.into()),
            _ => {}
        }
        self.forget(namespace);
        Ok(())
    }
}
