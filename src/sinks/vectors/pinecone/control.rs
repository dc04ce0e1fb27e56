//! The control plane: indexes are found, made and waited for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{Client, Method, Request};
use super::encode::DIMENSIONS_MAX;
use super::index::Index;
use crate::sinks::SinkError;
use crate::sinks::vectors::config::{PineconeOptions, SINK};

/// An index is ready within seconds; after this long the caller is told.
const READY_WITHIN: Duration = Duration::from_secs(300);
/// The pause between two looks at an index that is being made, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Longest name of an index.
const NAME_LENGTH_MAX: usize = 45;

/// An index as the control plane describes it.
#[derive(Debug, Deserialize)]
struct Described {
    #[serde(default)]
    dimension: Option<usize>,
    metric: String,
    #[serde(default)]
    host: String,
    spec: Value,
    status: Status,
    #[serde(default = "dense")]
    vector_type: String,
}

#[derive(Debug, Deserialize)]
struct Status {
    ready: bool,
    state: String,
}

fn dense() -> String {
    "dense".to_owned()
}

/// The name of the index that has the vectors of a length that the configured one has not.
pub(super) fn sibling(name: &str, dimensions: usize) -> String {
    format!("{name}-{dimensions}")
}

/// Whether Pinecone takes the name.
///
/// # Errors
/// What a name has to be.
pub(super) fn check_name(name: &str) -> Result<(), SinkError> {
    let is_plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if is_plain && (1..=NAME_LENGTH_MAX).contains(&name.len()) && !name.starts_with('-') && !name.ends_with('-') {
        return Ok(());
    }
    let message = format!(
        "Pinecone takes no index named '{name}': a name is 1 to {NAME_LENGTH_MAX} lower-case letters, digits and '-', which neither \
         begins nor ends it. Change `vectors.url`"
    );
    Err(SinkError::permanent(SINK, message))
}

/// The index, if it is there, once it is ready. It may have vectors of another length than are to be written.
pub(super) async fn find(client: &Arc<Client>, name: &str) -> Result<Option<Index>, SinkError> {
    let deadline = Instant::now() + READY_WITHIN;
    let mut pause = PAUSES.0;
    loop {
        let request = Request::new(format!("find index {name}"), Method::Get, &["indexes", name]);
        let found: Described = match client.send(client.controller(), &request).await {
            Err(failed) if failed.status == Some(404) => return Ok(None),
            other => other?.json(&request.what)?,
        };
        if found.status.ready && !found.host.is_empty() {
            return opened(client, name, &found).map(Some);
        }
        if ["InitializationFailed", "Terminating", "Disabled"].contains(&found.status.state.as_str()) {
            let message = format!("index {name} is in state {}: see to it in Pinecone's console", found.status.state);
            return Err(SinkError::permanent(SINK, message));
        }
        if Instant::now() > deadline {
            let message = format!("index {name} is still in state {}: try again later", found.status.state);
            return Err(SinkError::transient(SINK, message));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

fn opened(client: &Arc<Client>, name: &str, found: &Described) -> Result<Index, SinkError> {
    let stop =
        |message: String| SinkError::stop(SINK, format!("{message}. Name another index in `vectors.url`, or delete this one"));
    let dimensions = match found.dimension {
        Some(dimensions) if found.vector_type == "dense" => dimensions,
        _ => return Err(stop(format!("index {name} has {} vectors, not dense ones", found.vector_type))),
    };
    if found.metric != "cosine" {
        return Err(stop(format!("index {name} has the metric {}, not cosine", found.metric)));
    }
    if found.spec.get("pod").is_some() {
        return Err(stop(format!("index {name} is made of pods, which have no lists of ids: a serverless one is needed")));
    }
    Ok(Index::new(client.clone(), client.data_plane(&found.host)?, name.to_owned(), dimensions))
}

/// The index, made if it is not there.
pub(super) async fn find_or_make(
    client: &Arc<Client>,
    options: &PineconeOptions,
    name: &str,
    dimensions: usize,
) -> Result<Index, SinkError> {
    check_name(name)?;
    if let Some(found) = find(client, name).await? {
        return Ok(found);
    }
    if dimensions > DIMENSIONS_MAX {
        let message = format!("the model's vectors have {dimensions} components, and Pinecone takes {DIMENSIONS_MAX}");
        return Err(SinkError::stop(SINK, message));
    }
    let body = json!({
        "name": name,
        "dimension": dimensions,
        "metric": "cosine",
        "vector_type": "dense",
        "spec": {"serverless": {"cloud": options.cloud, "region": options.region}},
    });
    let what = format!("make index {name} in {} {}", options.cloud, options.region);
    match client.send(client.controller(), &Request::new(what, Method::Post, &["indexes"]).with(body.to_string())).await {
        // Somebody else was quicker.
        Err(failed) if failed.status == Some(409) => {}
        other => drop(other?),
    }
    let found = find(client, name).await?;
    found.ok_or_else(|| SinkError::transient(SINK, format!("index {name} was made and is not there yet: try again later")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_the_service_takes_them() {
        for name in ["a", "films-2", &"a".repeat(45)] {
            check_name(name).unwrap();
        }
        for name in ["", "-a", "a-", "Films", "a_b", "é", &"a".repeat(46)] {
            assert!(check_name(name).unwrap_err().message.contains("vectors.url"), "{name}");
        }
        assert_eq!(sibling("films", 32), "films-32");
    }

    #[test]
    fn an_index_of_another_kind_is_refused_with_its_name() {
        let client = |controller: &str| {
            let options = PineconeOptions::of("films");
            Arc::new(
                Client::new(&PineconeOptions { api_key: Some("k".into()), controller: controller.to_owned(), ..options })
                    .unwrap(),
            )
        };
        let client = client("https://api.pinecone.io");
        let described = |change: Value| {
            let mut all = json!({
                "name": "films", "dimension": 384, "metric": "cosine", "host": "films-1.svc.pinecone.io", "vector_type": "dense",
                "spec": {"serverless": {"cloud": "aws", "region": "us-east-1"}}, "status": {"ready": true, "state": "Ready"},
            });
            change.as_object().unwrap().iter().for_each(|(key, value)| all[key] = value.clone());
            opened(&client, "films", &serde_json::from_value(all).unwrap())
        };
        assert_eq!(described(json!({})).unwrap().dimensions, 384);
        for (change, says) in [
            (json!({"metric": "euclidean"}), "euclidean"),
            (json!({"vector_type": "sparse", "dimension": null}), "sparse"),
            (json!({"spec": {"pod": {"environment": "us-east1-gcp", "pod_type": "p1.x1"}}}), "pods"),
        ] {
            let error = described(change).unwrap_err();
            assert_eq!(error.class, crate::sinks::Class::Stop);
            assert!(error.message.contains(says) && error.message.contains("films"), "{error}");
        }
    }
}
