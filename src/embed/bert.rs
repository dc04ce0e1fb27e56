//! BERT models on the CPU: files and texts in, vectors out. With `bert/` the only room that uses `tokenizers`, `candle` and the
//! kernels.
//!
//! A vector is what the manifest's pooling makes of the model's last layer: what sentence-transformers makes of the same files.
//! Texts go through the model one after another without padding, and each thread takes the next few of them from tokens to vectors
//! by itself, so that nobody waits for a tokenizer and nothing is handed over.

mod files;
mod op;
mod weights;

use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use files::{Files, SPECIAL_TOKENS, WEIGHTS};
use kernels::{Encoder, Precision, Scratch};
use tokenizers::Tokenizer;

use super::chunk;
use super::manifest::{Manifest, Pieces};
use super::{EmbedError, Embedder};

/// Most tokens that a thread takes at once, by estimate: enough rows that a panel of weights is worth loading, few enough that a
/// layer's rows stay in the second cache. A longer text is taken alone.
const BATCH_TOKENS: usize = 384;

/// Fewer tokens than this are not worth a second thread: they take about a millisecond.
const THREAD_TOKENS: usize = 48;

/// Bytes of a long text that go through the tokenizer at once: what it makes of them is a hundred times as large.
const BLOCK_BYTES: usize = 64 << 10;

/// The most tokens that one byte can become where texts are put into a compatible form first: U+FDFA has three bytes and eighteen letters.
const TOKENS_A_BYTE: usize = 6;

/// A BERT model whose files lie in a directory. Weights are loaded by the first [`Embedder::embed`].
#[derive(Debug)]
pub struct Bert {
    manifest: Manifest,
    precision: Precision,
    kernel: Option<String>,
    threads: usize,
    identity: String,
    files: Files,
    tokenizer: OnceLock<Tokenizer>,
    model: Option<Encoder>,
    scratch: Mutex<Vec<Scratch>>,
    tokens: u64,
}

impl Bert {
    /// The model of this manifest, from the files in `dir`. Reads them only where the manifest has no digests. The kernel is the
    /// fastest that the processor has, or the one that [`kernels::kernel::KERNEL_VARIABLE`] names.
    ///
    /// # Errors
    /// [`EmbedError::Model`] when a file is missing or is not what the manifest says, or there is no kernel of the name.
    pub fn open(manifest: Manifest, precision: Precision, dir: &Path) -> Result<Self, EmbedError> {
        let files = Files::open(&manifest, dir)?;
        let kernel = std::env::var(kernels::kernel::KERNEL_VARIABLE).ok().filter(|name| !name.is_empty());
        kernels::kernel::choose(precision, kernel.as_deref()).map_err(|e| EmbedError::model(&manifest.name, e))?;
        let identity = manifest.identity(precision, files.digests());
        Ok(Self {
            manifest,
            precision,
            kernel,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            identity,
            files,
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

    fn tokenizer(&self) -> Result<&Tokenizer, EmbedError> {
        if let Some(tokenizer) = self.tokenizer.get() {
            return Ok(tokenizer);
        }
        let tokenizer = self.files.tokenizer()?;
        Ok(self.tokenizer.get_or_init(|| tokenizer))
    }

    /// How many tokens so many bytes can be.
    fn tokens_at_most(&self, bytes: usize) -> usize {
        match self.manifest.layout.tokenizer {
            // A token covers at least one byte.
            Pieces::Wordpiece => bytes,
            // And one more is what stands for the beginning.
            Pieces::Unigram => bytes.saturating_mul(TOKENS_A_BYTE) + 1,
        }
    }

    /// The most tokens of a chunk, without the prompt and the special ones.
    fn chunk_limit(&self) -> usize {
        let prompt = &self.manifest.prompts.document;
        // Prompts are plain words, which have no more tokens than bytes.
        self.manifest.max_tokens - SPECIAL_TOKENS - prompt.len()
    }

    /// Where the tokens of a text lie, block by block.
    fn places(&self, text: &str) -> Result<Vec<Range<usize>>, EmbedError> {
        let tokenizer = self.tokenizer()?;
        let mut places = Vec::new();
        let mut from = 0;
        while from < text.len() {
            let to = block_end(text, from);
            let encoding = tokenizer.encode(&text[from..to], false).map_err(tokenizer_failed)?;
            places.extend(encoding.get_offsets().iter().map(|(start, end)| from + start..from + end));
            from = to;
        }
        Ok(places)
    }
}

/// Where a block ends that begins at `from`: before white space if there is any in its second half.
fn block_end(text: &str, from: usize) -> usize {
    if text.len() - from <= BLOCK_BYTES {
        return text.len();
    }
    let end = text.floor_char_boundary(from + BLOCK_BYTES);
    let middle = text.ceil_char_boundary(from + BLOCK_BYTES / 2);
    text[middle..end].rfind(char::is_whitespace).map_or(end, |at| middle + at)
}

fn tokenizer_failed(error: tokenizers::Error) -> EmbedError {
    EmbedError::Failed(format!("tokenizer: {error}"))
}

impl Embedder for Bert {
    fn identity(&self) -> &str {
        &self.identity
    }

    fn dimensions(&self) -> usize {
        self.manifest.dimensions
    }

    fn chunk(&self, text: &str) -> Result<Vec<Range<usize>>, EmbedError> {
        let limit = self.chunk_limit();
        // A short text need not be asked for its tokens, and in a blank one there is nothing to cut.
        if self.tokens_at_most(text.len()) <= limit || chunk::blank(text) {
            return Ok(chunk::split(text, &[], limit, 0));
        }
        let places = self.places(text)?;
        if places.len() <= limit && text.len() <= BLOCK_BYTES {
            return Ok(chunk::split(text, &[], limit, 0));
        }
        let tokens = chunk::tokens(text, places.into_iter());
        let mut at_once = limit;
        loop {
            let pieces = chunk::split(text, &tokens, at_once, self.manifest.overlap_tokens.min(at_once / 4));
            // Where a cut goes through a word, its parts can have more tokens than the word had there.
            let mut counts = pieces.iter().map(|piece| self.count_tokens(&text[piece.clone()]));
            let longest = counts.try_fold(0, |most, count| Ok(most.max(count?)))?;
            let over = longest.saturating_sub(limit + SPECIAL_TOKENS);
            if over == 0 {
                return Ok(pieces);
            }
            at_once = at_once.checked_sub(over).filter(|at_once| *at_once >= 4).ok_or_else(|| {
                EmbedError::Failed(format!("{}: a text has a part of {longest} tokens that cannot be cut", self.identity))
            })?;
        }
    }

    fn chunk_all(&self, texts: &[String]) -> Result<Vec<Vec<Range<usize>>>, EmbedError> {
        let lengths: Vec<usize> = texts.iter().map(String::len).collect();
        let batches = batches(&lengths, BLOCK_BYTES);
        let done = in_parallel(&batches, self.threads, |batch| {
            batch.iter().map(|i| self.chunk(&texts[*i])).collect::<Result<Vec<_>, _>>()
        })?;
        let mut pieces = vec![Vec::new(); texts.len()];
        for (batch, done) in batches.iter().zip(done) {
            batch.iter().zip(done).for_each(|(i, of_text)| pieces[*i] = of_text);
        }
        Ok(pieces)
    }

    fn count_tokens(&self, text: &str) -> Result<usize, EmbedError> {
        let encoding = self.tokenizer()?.encode_fast(text, true).map_err(tokenizer_failed)?;
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
            let encoding = tokenizer.encode_fast(text, true).map_err(tokenizer_failed)?;
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

#[cfg(test)]
mod tests;
