//! The way out: a task that makes batches of changes, and the stream that hands them on. Dropping the stream ends the task.

use futures::stream::{self, BoxStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::error::ChangesError;

/// Where a task puts what it makes.
#[derive(Debug, Clone)]
pub(super) struct Out<T>(mpsc::Sender<Result<T, ChangesError>>);

impl<T> Out<T> {
    /// Waits until there is room. What nobody wants any more is dropped; the task ends with the stream.
    pub(super) async fn send(&self, item: T) {
        let _ = self.0.send(Ok(item)).await;
    }
}

/// Runs `make` on a task of its own, one batch ahead of the reader.
pub(super) fn produce<T, F, M>(make: M) -> BoxStream<'static, Result<T, ChangesError>>
where
    T: Send + 'static,
    F: Future<Output = Result<(), ChangesError>> + Send + 'static,
    M: FnOnce(Out<T>) -> F + Send + 'static,
{
    // Spawned when the stream is first read, so that making a stream needs no runtime.
    let start = move || {
        let (sender, receiver) = mpsc::channel(1);
        let mut task = JoinSet::new();
        task.spawn(async move {
            if let Err(error) = make(Out(sender.clone())).await {
                let _ = sender.send(Err(error)).await;
            }
        });
        (receiver, task)
    };
    let states = stream::once(async move { start() });
    Box::pin(futures::StreamExt::flat_map(states, |state| {
        stream::unfold(state, |(mut receiver, mut task)| async move {
            if let Some(item) = receiver.recv().await {
                return Some((item, (receiver, task)));
            }
            // The sender is gone: either the task is done, or it panicked, which must not look like the end.
            match task.join_next().await {
                Some(Err(panic)) if panic.is_panic() => std::panic::resume_unwind(panic.into_panic()),
                _ => None,
            }
        })
    }))
}
