//! An embedder on a thread of its own, asked through a bounded queue. Knows nothing of models.

use std::any::Any;
use std::collections::HashMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::sync::{mpsc, oneshot};

use super::{EmbedError, Embedder};

/// How many requests may wait. Each is a batch of a lane, so a few keep the thread busy without holding much memory.
const QUEUE: usize = 4;

type Made = Result<Box<dyn Embedder>, EmbedError>;
type Answer<T> = oneshot::Sender<Result<T, EmbedError>>;

enum Request {
    Embed(Vec<String>, Kind, Answer<Vec<Vec<f32>>>),
    Chunk(Vec<String>, Answer<Vec<Vec<Range<usize>>>>),
    Tokens(Vec<String>, Answer<u64>),
}

/// What the texts are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Stored,
    Query,
}

/// The way to an embedder that lives on its own thread. The thread ends when the worker is dropped.
#[derive(Debug)]
pub struct Worker {
    identity: String,
    dimensions: usize,
    requests: mpsc::Sender<Request>,
}

impl Worker {
    /// Starts the thread; `make` is called on it by the first request. `identity` and `dimensions` are those of the embedder that it
    /// makes, which are known before it is made.
    ///
    /// # Errors
    /// [`EmbedError::Failed`] when the thread cannot be started.
    pub fn spawn(identity: String, dimensions: usize, make: impl FnOnce() -> Made + Send + 'static) -> Result<Self, EmbedError> {
        let (requests, queue) = mpsc::channel(QUEUE);
        std::thread::Builder::new()
            .name("embed".to_owned())
            .spawn(move || serve(State::New(Box::new(make)), queue))
            .map_err(|e| EmbedError::Failed(format!("no thread for the model: {e}")))?;
        Ok(Self { identity, dimensions, requests })
    }

    /// See [`Embedder::identity`]. Needs no weights.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// See [`Embedder::dimensions`]. Needs no weights.
    #[must_use]
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// One vector for each text, in the same order. Texts that are equal are embedded once.
    ///
    /// # Errors
    /// [`EmbedError`] when the model cannot be made, fails or panics. After a panic every further request fails.
    pub async fn embed(&self, texts: Vec<String>) -> Result<Vec<Vec<f32>>, EmbedError> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        self.ask(|answer| Request::Embed(texts, Kind::Stored, answer)).await
    }

    /// As [`Worker::embed`], for texts that are looked for: see [`Embedder::embed_queries`].
    ///
    /// # Errors
    /// As [`Worker::embed`].
    pub async fn embed_queries(&self, texts: Vec<String>) -> Result<Vec<Vec<f32>>, EmbedError> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        self.ask(|answer| Request::Embed(texts, Kind::Query, answer)).await
    }

    /// The pieces of each text, in the same order: see [`Embedder::chunk`].
    ///
    /// # Errors
    /// As [`Worker::embed`].
    pub async fn chunk(&self, texts: Vec<String>) -> Result<Vec<Vec<Range<usize>>>, EmbedError> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        self.ask(|answer| Request::Chunk(texts, answer)).await
    }

    /// How many tokens these texts are together: see [`Embedder::count_tokens`].
    ///
    /// # Errors
    /// As [`Worker::embed`].
    pub async fn tokens(&self, texts: Vec<String>) -> Result<u64, EmbedError> {
        if texts.is_empty() {
            return Ok(0);
        }
        self.ask(|answer| Request::Tokens(texts, answer)).await
    }

    async fn ask<T>(&self, request: impl FnOnce(Answer<T>) -> Request) -> Result<T, EmbedError> {
        let gone = || EmbedError::Failed("the model's thread has ended".to_owned());
        let (answer, answered) = oneshot::channel();
        self.requests.send(request(answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

enum State {
    New(Box<dyn FnOnce() -> Made + Send>),
    Ready(Box<dyn Embedder>),
    Broken(EmbedError),
}

fn serve(mut state: State, mut queue: mpsc::Receiver<Request>) {
    while let Some(request) = queue.blocking_recv() {
        // Nobody waits for the answer of a request that was cancelled.
        match request {
            Request::Embed(_, _, answer) if answer.is_closed() => {}
            Request::Chunk(_, answer) if answer.is_closed() => {}
            Request::Tokens(_, answer) if answer.is_closed() => {}
            Request::Embed(texts, kind, answer) => {
                let done = work(&mut state, |embedder| embed_once(embedder, &texts, kind));
                drop(answer.send(done));
            }
            Request::Chunk(texts, answer) => {
                let done = work(&mut state, |embedder| embedder.chunk_all(&texts));
                drop(answer.send(done));
            }
            Request::Tokens(texts, answer) => {
                let sum = |embedder: &mut dyn Embedder| {
                    texts.iter().try_fold(0, |sum, text| Ok(sum + embedder.count_tokens(text)? as u64))
                };
                drop(answer.send(work(&mut state, sum)));
            }
        }
    }
}

/// Lets the embedder do something, making it first if need be. One that could not be made or has panicked is not asked again.
fn work<T>(state: &mut State, task: impl FnOnce(&mut dyn Embedder) -> Result<T, EmbedError>) -> Result<T, EmbedError> {
    if matches!(state, State::New(_))
        && let State::New(make) =
            std::mem::replace(state, State::Broken(EmbedError::Failed("the model is being made".to_owned())))
    {
        *state = match catch_unwind(AssertUnwindSafe(make)).unwrap_or_else(|panic| Err(panicked(panic.as_ref()))) {
            Ok(embedder) => State::Ready(embedder),
            Err(error) => State::Broken(error),
        };
    }
    match state {
        State::Ready(embedder) => match catch_unwind(AssertUnwindSafe(|| task(embedder.as_mut()))) {
            Ok(done) => done,
            Err(panic) => {
                let error = panicked(panic.as_ref());
                *state = State::Broken(error.clone());
                Err(error)
            }
        },
        State::Broken(error) => Err(error.clone()),
        State::New(_) => Err(EmbedError::Failed("the model was not made".to_owned())),
    }
}

fn panicked(panic: &(dyn Any + Send)) -> EmbedError {
    let said = panic.downcast_ref::<&str>().map(|s| (*s).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
    EmbedError::Failed(format!("the model panicked: {}", said.unwrap_or_default()))
}

fn embed_once(embedder: &mut dyn Embedder, texts: &[String], kind: Kind) -> Result<Vec<Vec<f32>>, EmbedError> {
    let mut distinct: Vec<&str> = Vec::new();
    let mut place: HashMap<&str, usize> = HashMap::new();
    let places: Vec<usize> = texts
        .iter()
        .map(|text| {
            *place.entry(text).or_insert_with(|| {
                distinct.push(text);
                distinct.len() - 1
            })
        })
        .collect();
    let vectors = match kind {
        Kind::Stored => embedder.embed(&distinct)?,
        Kind::Query => embedder.embed_queries(&distinct)?,
    };
    if vectors.len() != distinct.len() || vectors.iter().any(|v| v.len() != embedder.dimensions()) {
        return Err(EmbedError::Failed(format!("{} did not answer one vector for each text", embedder.identity())));
    }
    Ok(places.into_iter().map(|i| vectors[i].clone()).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::HashEmbedder;
    use super::*;

    /// The hash embedder, which counts texts and panics when told to.
    struct Watched(HashEmbedder, Arc<AtomicUsize>);

    impl Embedder for Watched {
        fn identity(&self) -> &str {
            self.0.identity()
        }

        fn dimensions(&self) -> usize {
            self.0.dimensions()
        }

        fn chunk(&self, text: &str) -> Result<Vec<Range<usize>>, EmbedError> {
            self.0.chunk(text)
        }

        fn count_tokens(&self, text: &str) -> Result<usize, EmbedError> {
            self.0.count_tokens(text)
        }

        fn embed(&mut self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
            self.1.fetch_add(texts.len(), Ordering::SeqCst);
            assert!(!texts.contains(&"panic"), "told to");
            self.0.embed(texts)
        }
    }

    fn watched() -> (Worker, Arc<AtomicUsize>) {
        let count = Arc::new(AtomicUsize::new(0));
        let inner = count.clone();
        let worker =
            Worker::spawn("hash-64@1".to_owned(), 64, move || Ok(Box::new(Watched(HashEmbedder::new(), inner)))).unwrap();
        (worker, count)
    }

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[tokio::test]
    async fn equal_texts_are_embedded_once_and_answers_keep_their_order() {
        let (worker, count) = watched();
        let vectors = worker.embed(strings(&["a", "b", "a", "a", "c"])).await.unwrap();
        assert_eq!(count.load(Ordering::SeqCst), 3);
        let alone = HashEmbedder::new().embed(&["a", "b", "a", "a", "c"]).unwrap();
        assert_eq!(vectors, alone);
        assert!(worker.embed(Vec::new()).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn chunks_come_one_list_a_text() {
        let (worker, _) = watched();
        let long = "w ".repeat(300);
        let pieces = worker.chunk(vec!["a b".to_owned(), " ".to_owned(), long]).await.unwrap();
        assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), [1, 0, 2]);
    }

    #[tokio::test]
    async fn an_embedder_that_cannot_be_made_is_an_error_each_time_and_is_made_once() {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let worker = Worker::spawn("m@1".to_owned(), 3, move || {
            counted.fetch_add(1, Ordering::SeqCst);
            Err(EmbedError::model("m", "is broken"))
        })
        .unwrap();
        assert_eq!((worker.identity(), worker.dimensions(), calls.load(Ordering::SeqCst)), ("m@1", 3, 0));
        for _ in 0..2 {
            assert_eq!(worker.embed(strings(&["a"])).await, Err(EmbedError::model("m", "is broken")));
            assert_eq!(worker.chunk(strings(&["a"])).await, Err(EmbedError::model("m", "is broken")));
        }
        assert_eq!(calls.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_the_model_is_not_asked_again() {
        let (worker, count) = watched();
        let error = worker.embed(strings(&["panic"])).await.unwrap_err().to_string();
        assert!(error.contains("panicked") && error.contains("told to"), "{error}");
        assert!(worker.embed(strings(&["a"])).await.is_err());
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn many_askers_are_all_answered() {
        let (worker, _) = watched();
        let worker = Arc::new(worker);
        let tasks: Vec<_> = (0..50)
            .map(|i| {
                let worker = worker.clone();
                tokio::spawn(async move { (i, worker.embed(vec![format!("text {i}")]).await.unwrap()) })
            })
            .collect();
        for task in tasks {
            let (i, vectors) = task.await.unwrap();
            assert_eq!(vectors, HashEmbedder::new().embed(&[&format!("text {i}")]).unwrap());
        }
    }
}
