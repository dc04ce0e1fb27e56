//! The texts of a batch are embedded while the batch before is written: one batch ahead and no further. What the sink does not hold yet is
//! not embedded a second time for that.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use distributary::embed::{EmbedError, Embedder, HashEmbedder, Worker};
use distributary::sinks::SinkKind;
use distributary::sync::{self, Options, Progress};
use tokio::sync::Semaphore;

use crate::support::engines::Bench;
use crate::support::faults::{Faults, Operation};
use crate::support::lake::{Author, Book};
use crate::support::{tests_dir, wait_for};

const BATCHES: usize = 6;
const BATCH_ROWS: usize = 4;
/// Only a run that waits for ever takes so long.
const FOR_EVER: Duration = Duration::from_secs(120);

/// What was embedded and written so far, in batches.
#[derive(Debug)]
struct Seen {
    embedded: AtomicUsize,
    written: AtomicUsize,
    texts: Mutex<Vec<String>>,
    /// Writes that may go on.
    writes: Arc<Semaphore>,
}

impl Progress for Seen {
    fn table(&self, _: &str, _: &str, _: Option<u64>) {}
    fn records(&self, _: &str, _: u64) {}
    fn done(&self, _: &str) {}

    fn texts(&self, _: u64, _: u64) {
        self.written.fetch_add(1, Ordering::SeqCst);
    }
}

/// The hash embedder, which lets a batch be written when it is asked for the next one.
struct Watched(HashEmbedder, Arc<Seen>);

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
        let seen = &self.1;
        let number = seen.embedded.fetch_add(1, Ordering::SeqCst) + 1;
        let written = seen.written.load(Ordering::SeqCst);
        if number > written + 2 {
            return Err(EmbedError::Failed(format!("batch {number} is embedded when {written} are written")));
        }
        seen.texts.lock().unwrap().extend(texts.iter().map(|text| (*text).to_owned()));
        // The one before; behind the last there is none.
        seen.writes.add_permits(usize::from(number > 1) + usize::from(number == BATCHES));
        self.0.embed(texts)
    }
}

fn book(id: usize) -> Book {
    // One text is in every batch.
    let title = if id.is_multiple_of(BATCH_ROWS) { "Untitled".to_owned() } else { format!("Book {id}") };
    let book_id = i64::try_from(id).ok();
    Book { book_id, title: Some(title), blurb: None, popularity: Some(1.0), tags: Vec::new(), credits: None }
}

#[test]
fn a_batch_is_embedded_while_the_one_before_is_written() {
    wait_for(async {
        let mut bench = Bench::new(tests_dir().join("mappings/library.yaml"));
        bench.more = format!("limits: {{batch_rows: {BATCH_ROWS}}}\n");
        bench.lake.create(&(1..=BATCHES * BATCH_ROWS).map(book).collect::<Vec<_>>(), true).await;
        bench.lake.create(&[Author { author_id: Some(1), name: None, bio: None, visits: None }], true).await;
        let faults = Faults::default();
        let mut setup = bench.open_faulty(&faults).await;
        setup.sinks.retain(|sink| sink.kind() == SinkKind::Vectors);
        let seen = Arc::new(Seen {
            embedded: AtomicUsize::new(0),
            written: AtomicUsize::new(0),
            texts: Mutex::default(),
            writes: faults.hold(SinkKind::Vectors, Operation::Write),
        });
        // The author's batch is written first and has no text.
        seen.writes.add_permits(1);
        let watched = seen.clone();
        let make = move || Ok(Box::new(Watched(HashEmbedder::new(), watched)) as Box<dyn Embedder>);
        setup.embedder = Some(Arc::new(Worker::spawn("hash-64@1".to_owned(), 64, make).unwrap()));

        let options = Options { progress: Some(seen.clone()), ..Options::default() };
        let run = tokio::time::timeout(FOR_EVER, sync::sync(&setup, &options)).await;
        let report = run.expect("a write waits for the next batch to be embedded, which waits for the write").unwrap();
        assert!(report.ok(), "{report:?}");
        assert_eq!((seen.embedded.load(Ordering::SeqCst), seen.written.load(Ordering::SeqCst)), (BATCHES, BATCHES));
        let texts = seen.texts.lock().unwrap().clone();
        assert_eq!(texts.iter().collect::<BTreeSet<_>>().len(), texts.len(), "{texts:?}");
        let distinct = (BATCHES * (BATCH_ROWS - 1) + 1) as u64;
        let sums = report.targets().fold((0, 0, 0), |sums, (_, target)| {
            (sums.0 + target.texts_embedded, sums.1 + target.texts_reused, sums.2 + target.upserts)
        });
        let rows = (BATCHES * BATCH_ROWS) as u64;
        assert_eq!((texts.len() as u64, sums), (distinct, (distinct, rows - distinct, rows)));
        faults.release(SinkKind::Vectors, Operation::Write);
        assert!(sync::verify(&setup).await.unwrap().targets.iter().all(|target| target.ok()));
    });
}
