//! A question to a collection in words: embedded by the model that made the collection, and answered by one generation of it.

use serde_json::{Map, Value};

use super::lanes::{Place, Places};
use super::open::Setup;
use crate::embed::Worker;
use crate::sinks::{Query, SinkError, SinkKind};

/// What is asked.
#[derive(Debug, Clone)]
pub struct Question {
    /// The collection.
    pub collection: String,
    /// What to look for, in words.
    pub text: String,
    /// Conditions on the payload, all of which hold.
    pub conditions: Vec<(String, String)>,
    /// How many answers at most.
    pub top: usize,
}

/// The answers, best first.
#[derive(Debug, Clone, PartialEq)]
pub struct Answers {
    /// The identity of the model whose generation answered.
    pub model: String,
    /// One object an answer.
    pub rows: Vec<Map<String, Value>>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// There is nothing to ask.
    #[error("there is nothing to search: `vectors` is not configured, or `embed` is off")]
    Nothing,
    /// Nothing can embed the question as the collection was embedded.
    #[error("{0}")]
    Model(String),
    /// The model failed.
    #[error(transparent)]
    Embed(#[from] crate::embed::EmbedError),
    /// The question has no words.
    #[error("there are no words to look for")]
    Blank,
    /// The engine refused the question.
    #[error(transparent)]
    Sink(#[from] SinkError),
}

/// Asks the generation that is in service when it is asked. One that is taken away between the embedding and the search is not missed:
/// the question is then asked of the one that came instead.
///
/// # Errors
/// [`SearchError`], with what to do.
pub async fn search(setup: &Setup, question: &Question) -> Result<Answers, SearchError> {
    let mut place = serving(setup, &question.collection).await?;
    loop {
        let failed = match ask(&place, question).await {
            Ok(rows) => return Ok(Answers { model: place.model.unwrap_or_default(), rows }),
            Err(error) => error,
        };
        let now = serving(setup, &question.collection).await?;
        if now.model == place.model {
            return Err(failed);
        }
        place = now;
    }
}

async fn serving(setup: &Setup, collection: &str) -> Result<Place, SearchError> {
    let sink = setup.sinks.iter().find(|sink| sink.kind() == SinkKind::Vectors).ok_or(SearchError::Nothing)?;
    let places = Places::of(setup, sink).await?;
    places.of_collection(collection).into_iter().next().ok_or(SearchError::Nothing)
}

/// Asks one generation, whether it is in service or not.
pub(super) async fn ask(place: &Place, question: &Question) -> Result<Vec<Map<String, Value>>, SearchError> {
    let Some(embedder) = &place.embedder else {
        let why = place.lacks.clone().unwrap_or_else(|| SearchError::Nothing.to_string());
        return Err(SearchError::Model(format!("collection {}: {why}", question.collection)));
    };
    let vector = vector_of(embedder, &question.text).await?;
    let (collection, conditions, top) = (question.collection.clone(), question.conditions.clone(), question.top);
    Ok(place.sink.query(&Query::Nearest { collection, vector, conditions, top }).await?)
}

/// A question longer than the model takes is asked by its first piece.
async fn vector_of(embedder: &Worker, words: &str) -> Result<Vec<f32>, SearchError> {
    let pieces = embedder.chunk(vec![words.to_owned()]).await?.pop().unwrap_or_default();
    let text = pieces.first().and_then(|piece| words.get(piece.clone())).ok_or(SearchError::Blank)?;
    Ok(embedder.embed_queries(vec![text.to_owned()]).await?.pop().unwrap_or_default())
}
