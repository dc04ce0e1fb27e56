//! BERT models on the CPU: files and texts in, vectors out. With `bert/` the only room that uses `tokenizers`, `candle` and the
//! kernels.
//!
//! A vector is what the manifest's pooling makes of the model's last layer: what sentence-transformers makes of the same files.
//! Texts go through the model one after another without padding, and each thread takes the next few of them from tokens to vectors
//! by itself, so that nobody waits for a tokenizer and nothing is handed over.

mod op;
mod weights;

use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use kernels::{Encoder, Precision, Scratch};
use sha2::{Digest, Sha256};
use tokenizers::Tokenizer;

use super::chunk;
use super::manifest::Manifest;
use super::{EmbedError, Embedder};

/// Most tokens that a thread takes at once, by estimate: enough rows that a panel of weights is worth loading, few enough that a
/// layer's rows stay in the second cache. A longer text is taken alone.
const BATCH_TOKENS: usize = 384;

/// Fewer tokens than this are not worth a second thread: they take about a millisecond.
const THREAD_TOKENS: usize = 48;

/// `[CLS]` and `[SEP]`.
const SPECIAL_TOKENS: usize = 2;

/// A BERT model whose files lie in a directory. Weights are loaded by the first [`Embedder::embed`].
#[derive(Debug)]
pub struct Bert {
    manifest: Manifest,
    precision: Precision,
    kernel: Option<String>,
    threads: usize,
    identity: String,
    dir: PathBuf,
    tokenizer: OnceLock<Tokenizer>,
    model: Option<Encoder>,
    scratch: Mutex<Vec<Scratch>>,
    tokens: u64,
}

impl Bert {
    /// The model of this manifest, from the files in `dir`. Reads none of them yet. The kernel is the fastest that the processor
    /// has, or the one that [`kernels::kernel::KERNEL_VARIABLE`] names.
    ///
    /// # Errors
    /// [`EmbedError::Model`] when a file is missing, its size is not the manifest's, or there is no kernel of the name.
    pub fn open(manifest: Manifest, precision: Precision, dir: &Path) -> Result<Self, EmbedError> {
        for (file, pin) in &manifest.files {
            let path = dir.join(file);
            let found = std::fs::metadata(&path).map_err(|e| unreadable(&manifest, &path, &e))?.len();
            if found != pin.bytes {
                let path = path.display();
                let message = format!("{path} has {found} bytes, the manifest says {}; {MEND}", pin.bytes);
                return Err(EmbedError::model(&manifest.name, message));
            }
        }
        let kernel = std::env::var(kernels::kernel::KERNEL_VARIABLE).ok().filter(|name| !name.is_empty());
        kernels::kernel::choose(precision, kernel.as_deref()).map_err(|e| EmbedError::model(&manifest.name, e))?;
        let identity = manifest.identity(precision);
        Ok(Self {
            manifest,
            precision,
            kernel,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            identity,
            dir: dir.to_owned(),
            tokenizer: OnceLock::new(),
            model: None,
            scratch: Mutex::new(Vec::new()),
            tokens: 0,
        })
    }

    /// Uses that many threads instead of as many as there are cores. Vectors do not depend on it.
    #[must_use]
    pub fn with_threads(mut self, threads: NonZeroUsize) -> Self {
        self.threads = threads.get();
        self
    }

    /// Loads tokenizer and weights, which the first [`Embedder::embed`] does otherwise.
    ///
    /// # Errors
    /// [`EmbedError::Model`] when a file is not what the manifest says or cannot be used.
    pub fn load(&mut self) -> Result<(), EmbedError> {
        self.tokenizer()?;
        if self.model.is_none() {
            self.model = Some(weights::load(self)?);
        }
        Ok(())
    }

    /// How many tokens were embedded so far, special tokens included.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// The content of a file, which is what the manifest says.
    fn read(&self, file: &str) -> Result<Vec<u8>, EmbedError> {
        let path = self.dir.join(file);
        let content = std::fs::read(&path).map_err(|e| unreadable(&self.manifest, &path, &e))?;
        self.compare(file, &hex(&Sha256::digest(&content)))?;
        Ok(content)
    }

    /// Holds a file against the manifest without keeping its content.
    fn verify(&self, file: &str) -> Result<(), EmbedError> {
        let path = self.dir.join(file);
        let fail = |e: std::io::Error| unreadable(&self.manifest, &path, &e);
        let mut digest = Sha256::new();
        std::io::copy(&mut std::fs::File::open(&path).map_err(fail)?, &mut digest).map_err(fail)?;
        self.compare(file, &hex(&digest.finalize()))
    }

    fn compare(&self, file: &str, found: &str) -> Result<(), EmbedError> {
        let wanted = self.manifest.files.get(file).map_or("", |pin| pin.sha256.as_str());
        if found == wanted {
            return Ok(());
        }
        let path = self.dir.join(file);
        let message = format!("{} has the SHA-256 {found}, the manifest says {wanted}; {MEND}", path.display());
        Err(EmbedError::model(&self.manifest.name, message))
    }

    fn tokenizer(&self) -> Result<&Tokenizer, EmbedError> {
        if let Some(tokenizer) = self.tokenizer.get() {
            return Ok(tokenizer);
        }
        let content = self.read("tokenizer.json")?;
        let wrong = |e| EmbedError::model(&self.manifest.name, format!("tokenizer.json cannot be used: {e}"));
        let mut tokenizer = Tokenizer::from_bytes(content).map_err(wrong)?;
        // The file asks for padding and for cutting at 128 tokens; here nothing is cut and nothing is padded.
        tokenizer.with_truncation(None).map_err(wrong)?;
        tokenizer.with_padding(None);
        Ok(self.tokenizer.get_or_init(|| tokenizer))
    }
}

const MEND: &str = "run `distributary fetch` again, or give a directory with the right files";

fn unreadable(manifest: &Manifest, path: &Path, error: &std::io::Error) -> EmbedError {
    EmbedError::model(&manifest.name, format!("{} cannot be read ({error}); {MEND}", path.display()))
}

impl Embedder for Bert {
    fn identity(&self) -> &str {
        &self.identity
    }

    fn dimensions(&self) -> usize {
        self.manifest.dimensions
    }

    fn chunk(&self, text: &str) -> Result<Vec<Range<usize>>, EmbedError> {
        // A token covers at least one byte, so a prompt has no more tokens than bytes.
        let limit = self.manifest.max_tokens - SPECIAL_TOKENS - self.manifest.prompts.document.len();
        // For the same reason a short text need not be asked for its tokens.
        if text.len() <= limit {
            return Ok(chunk::split(text, &[], limit, 0));
        }
        let encoding = self.tokenizer()?.encode(text, false).map_err(|e| EmbedError::Failed(format!("tokenizer: {e}")))?;
        let places = encoding.get_offsets().iter().map(|(start, end)| *start..*end);
        let tokens = chunk::tokens(text, places.zip(encoding.get_word_ids().iter().copied()));
        Ok(chunk::split(text, &tokens, limit, self.manifest.overlap_tokens))
    }

    fn count_tokens(&self, text: &str) -> Result<usize, EmbedError> {
        let encoding = self.tokenizer()?.encode_fast(text, true).map_err(|e| EmbedError::Failed(format!("tokenizer: {e}")))?;
        Ok(encoding.len())
    }

    fn embed(&mut self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
        self.with_prompt(texts, &self.manifest.prompts.document.clone())
    }

    fn embed_queries(&mut self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
        self.with_prompt(texts, &self.manifest.prompts.query.clone())
    }
}

impl Bert {
    /// One vector for each text, with the prompt before it.
    fn with_prompt(&mut self, texts: &[&str], prompt: &str) -> Result<Vec<Vec<f32>>, EmbedError> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        self.load()?;
        let (Some(model), tokenizer) = (&self.model, self.tokenizer()?) else {
            return Err(EmbedError::Failed("the model is not loaded".to_owned()));
        };
        let estimates: Vec<usize> = texts.iter().map(|text| estimate(text) + prompt.len() / 4).collect();
        let share = estimates.iter().sum::<usize>().div_ceil(self.threads).clamp(THREAD_TOKENS, BATCH_TOKENS);
        let batches = batches(&estimates, share);
        let done = in_parallel(&batches, self.threads, |batch| {
            let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
            let texts = batch.iter().map(|i| format!("{prompt}{}", texts[*i]));
            let done = self.batch(model, tokenizer, texts, &mut scratch);
            self.scratch.lock().unwrap_or_else(PoisonError::into_inner).push(scratch);
            done
        })?;
        let mut vectors = vec![Vec::new(); texts.len()];
        let mut tokens = 0;
        for (batch, (count, numbers)) in batches.iter().zip(done) {
            tokens += count as u64;
            for (i, vector) in batch.iter().zip(numbers.chunks_exact(self.manifest.dimensions)) {
                vectors[*i] = vector.to_vec();
            }
        }
        self.tokens += tokens;
        Ok(vectors)
    }

    /// The vectors of some texts, one after another, and how many tokens they have.
    fn batch(
        &self,
        model: &Encoder,
        tokenizer: &Tokenizer,
        texts: impl Iterator<Item = String>,
        scratch: &mut Scratch,
    ) -> Result<(usize, Vec<f32>), EmbedError> {
        let limit = self.manifest.max_tokens;
        let (mut tokens, mut lengths) = (Vec::new(), Vec::new());
        for text in texts {
            let encoding = tokenizer.encode_fast(text, true).map_err(|e| EmbedError::Failed(format!("tokenizer: {e}")))?;
            let ids = encoding.get_ids();
            if ids.len() > limit {
                let (found, identity) = (ids.len(), &self.identity);
                let message = format!("a text has {found} tokens, {identity} takes {limit}: cut it into chunks first");
                return Err(EmbedError::Failed(message));
            }
            tokens.extend_from_slice(ids);
            lengths.push(ids.len());
        }
        let count = tokens.len();
        let vectors = op::encode(model, tokens, &lengths, (&self.manifest).into(), scratch);
        Ok((count, vectors.map_err(|e| EmbedError::Failed(format!("{}: {e}", self.identity)))?))
    }
}

/// About how many tokens a text has: English has four to five bytes a token. Too low or too high only makes batches uneven.
fn estimate(text: &str) -> usize {
    SPECIAL_TOKENS + text.len() / 4
}

/// Batches of indices: sorted by length, longest first, so that the last to finish are short; at most `budget` tokens each. The
/// first of a batch is always taken, so packing cannot spin.
fn batches(lengths: &[usize], budget: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(lengths[*i]));
    let mut out: Vec<Vec<usize>> = Vec::new();
    let mut taken = 0;
    for i in order {
        match out.last_mut() {
            Some(batch) if taken + lengths[i] <= budget => {
                taken += lengths[i];
                batch.push(i);
            }
            _ => {
                taken = lengths[i];
                out.push(vec![i]);
            }
        }
    }
    out
}

/// Does `work` on every batch, on up to so many threads, of which this is one: a single batch is handed to nobody.
fn in_parallel<T: Send>(
    batches: &[Vec<usize>],
    threads: usize,
    work: impl Fn(&[usize]) -> Result<T, EmbedError> + Sync,
) -> Result<Vec<T>, EmbedError> {
    let threads = threads.min(batches.len());
    let next = AtomicUsize::new(0);
    let (next, work) = (&next, &work);
    let run = move || {
        let mut done = Vec::new();
        while let Some((number, batch)) = Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|n| Some((n, batches.get(n)?))) {
            done.push((number, work(batch)?));
        }
        Ok::<_, EmbedError>(done)
    };
    let mut done = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(run)).collect();
        let mut done = run();
        for other in others {
            let more = other.join().unwrap_or_else(|_| Err(EmbedError::Failed("a thread of the model panicked".to_owned())));
            done = done.and_then(|mut all| more.map(|more| all.extend(more)).map(|()| all));
        }
        done
    })?;
    done.sort_by_key(|(number, _)| *number);
    Ok(done.into_iter().map(|(_, answer)| answer).collect())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
