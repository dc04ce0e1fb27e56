//! BERT models on the CPU, by Candle. The only file that uses `candle` and `tokenizers`.
//!
//! A vector is the mean over the tokens of the model's last layer, padding left out, scaled to length 1: what
//! sentence-transformers makes of the same files.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{D, DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use sha2::{Digest, Sha256};
use tokenizers::Tokenizer;

use super::chunk;
use super::manifest::{Architecture, Manifest, Pooling};
use super::{EmbedError, Embedder};

/// Most tokens of a batch, padding included. Small enough that the activations of a layer stay near the processor, large enough
/// that the matrices are worth multiplying; a text longer than this is a batch of its own.
const BATCH_TOKENS: usize = 512;

/// `[CLS]` and `[SEP]`.
const SPECIAL_TOKENS: usize = 2;

/// A BERT model whose files lie in a directory. Weights are loaded by the first [`Embedder::embed`].
#[derive(Debug)]
pub struct Candle {
    manifest: Manifest,
    identity: String,
    dir: PathBuf,
    tokenizer: OnceLock<Tokenizer>,
    model: Option<Bert>,
}

struct Bert(BertModel);

impl std::fmt::Debug for Bert {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bert")
    }
}

impl Candle {
    /// The model of this manifest, from the files in `dir`. Reads none of them yet.
    ///
    /// # Errors
    /// [`EmbedError::Model`] when a file is missing or its size is not the manifest's.
    pub fn open(manifest: Manifest, dir: &Path) -> Result<Self, EmbedError> {
        for (file, pin) in &manifest.files {
            let path = dir.join(file);
            let found = std::fs::metadata(&path).map_err(|e| unreadable(&manifest, &path, &e))?.len();
            if found != pin.bytes {
                let path = path.display();
                let message = format!("{path} has {found} bytes, the manifest says {}; {MEND}", pin.bytes);
                return Err(EmbedError::model(&manifest.name, message));
            }
        }
        let identity = manifest.identity();
        Ok(Self { manifest, identity, dir: dir.to_owned(), tokenizer: OnceLock::new(), model: None })
    }

    /// The content of a file, which is what the manifest says.
    fn read(&self, file: &str) -> Result<Vec<u8>, EmbedError> {
        let path = self.dir.join(file);
        let content = std::fs::read(&path).map_err(|e| unreadable(&self.manifest, &path, &e))?;
        let found = hex(&Sha256::digest(&content));
        let wanted = self.manifest.files.get(file).map_or("", |pin| pin.sha256.as_str());
        if found == wanted {
            return Ok(content);
        }
        let path = path.display();
        let message = format!("{path} has the SHA-256 {found}, the manifest says {wanted}; {MEND}");
        Err(EmbedError::model(&self.manifest.name, message))
    }

    fn tokenizer(&self) -> Result<&Tokenizer, EmbedError> {
        if let Some(tokenizer) = self.tokenizer.get() {
            return Ok(tokenizer);
        }
        let content = self.read("tokenizer.json")?;
        let wrong = |e| EmbedError::model(&self.manifest.name, format!("tokenizer.json cannot be used: {e}"));
        let mut tokenizer = Tokenizer::from_bytes(content).map_err(wrong)?;
        // The file asks for padding and for cutting at 128 tokens; here nothing is cut, and a batch is padded to its longest.
        tokenizer.with_truncation(None).map_err(wrong)?;
        tokenizer.with_padding(None);
        Ok(self.tokenizer.get_or_init(|| tokenizer))
    }

    fn load(&self) -> Result<Bert, EmbedError> {
        let name = &self.manifest.name;
        let Architecture::Bert = self.manifest.architecture;
        let config: Config = serde_json::from_slice(&self.read("config.json")?)
            .map_err(|e| EmbedError::model(name, format!("config.json cannot be used: {e}")))?;
        if config.hidden_size != self.manifest.dimensions || config.max_position_embeddings < self.manifest.max_tokens {
            let message = format!(
                "config.json has {} dimensions and {} positions, the manifest says {} and at least {}",
                config.hidden_size, config.max_position_embeddings, self.manifest.dimensions, self.manifest.max_tokens
            );
            return Err(EmbedError::model(name, message));
        }
        let weights = self.read("model.safetensors")?;
        let wrong = |e| EmbedError::model(name, format!("model.safetensors cannot be used: {e}"));
        let builder = VarBuilder::from_buffered_safetensors(weights, DType::F32, &Device::Cpu).map_err(wrong)?;
        BertModel::load(builder, &config).map(Bert).map_err(wrong)
    }
}

const MEND: &str = "run `distributary fetch` again, or give a directory with the right files";

fn unreadable(manifest: &Manifest, path: &Path, error: &std::io::Error) -> EmbedError {
    EmbedError::model(&manifest.name, format!("{} cannot be read ({error}); {MEND}", path.display()))
}

impl Embedder for Candle {
    fn identity(&self) -> &str {
        &self.identity
    }

    fn dimensions(&self) -> usize {
        self.manifest.dimensions
    }

    fn chunk(&self, text: &str) -> Result<Vec<Range<usize>>, EmbedError> {
        let limit = self.manifest.max_tokens - SPECIAL_TOKENS;
        // A token covers at least one byte, so a short text need not be asked for its tokens.
        if text.len() <= limit {
            return Ok(chunk::split(text, &[], limit, 0));
        }
        let encoding = self.tokenizer()?.encode(text, false).map_err(|e| EmbedError::Failed(format!("tokenizer: {e}")))?;
        let places = encoding.get_offsets().iter().map(|(start, end)| *start..*end);
        let tokens = chunk::tokens(text, places.zip(encoding.get_word_ids().iter().copied()));
        Ok(chunk::split(text, &tokens, limit, self.manifest.overlap_tokens))
    }

    fn tokens(&self, text: &str) -> Result<usize, EmbedError> {
        let encoding = self.tokenizer()?.encode_fast(text, true).map_err(|e| EmbedError::Failed(format!("tokenizer: {e}")))?;
        Ok(encoding.len())
    }

    fn embed(&mut self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let encodings = self
            .tokenizer()?
            .encode_batch_fast(texts.to_vec(), true)
            .map_err(|e| EmbedError::Failed(format!("tokenizer: {e}")))?;
        let tokens: Vec<&[u32]> = encodings.iter().map(tokenizers::Encoding::get_ids).collect();
        let longest = tokens.iter().map(|ids| ids.len()).max().unwrap_or(0);
        if longest > self.manifest.max_tokens {
            let limit = self.manifest.max_tokens;
            let message = format!("a text has {longest} tokens, {} takes {limit}: cut it into chunks first", self.identity);
            return Err(EmbedError::Failed(message));
        }
        if self.model.is_none() {
            self.model = Some(self.load()?);
        }
        let Some(Bert(model)) = &self.model else {
            return Err(EmbedError::Failed("the model is not loaded".to_owned()));
        };
        let Pooling::Mean = self.manifest.pooling;
        let batches = batches(&tokens.iter().map(|ids| ids.len()).collect::<Vec<_>>(), BATCH_TOKENS);
        let normalize = self.manifest.normalize;
        let answers = in_parallel(&batches, |batch| {
            let ids: Vec<&[u32]> = batch.iter().map(|i| tokens[*i]).collect();
            forward(model, &ids, normalize).map_err(|e| EmbedError::Failed(format!("{}: {e}", self.identity)))
        })?;
        let mut vectors = vec![Vec::new(); texts.len()];
        for (batch, answer) in batches.iter().zip(answers) {
            for (i, vector) in batch.iter().zip(answer) {
                vectors[*i] = vector;
            }
        }
        Ok(vectors)
    }
}

/// Batches of indices: sorted by length, longest first, so that little is padding and the last to finish are short; at most
/// `budget` tokens each, counted as longest × count. The first of a batch is always taken, so packing cannot spin.
fn batches(lengths: &[usize], budget: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(lengths[*i]));
    let mut out: Vec<Vec<usize>> = Vec::new();
    let mut longest = 0;
    for i in order {
        match out.last_mut() {
            Some(batch) if longest * (batch.len() + 1) <= budget => batch.push(i),
            _ => {
                longest = lengths[i];
                out.push(vec![i]);
            }
        }
    }
    out
}

/// Does `work` on every batch, on as many threads as there are cores: matrix products use all of them by themselves, the
/// element-wise steps between use one.
fn in_parallel<T: Send>(
    batches: &[Vec<usize>],
    work: impl Fn(&[usize]) -> Result<T, EmbedError> + Sync,
) -> Result<Vec<T>, EmbedError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(batches.len());
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

/// One vector for each list of token ids.
fn forward(model: &BertModel, tokens: &[&[u32]], normalize: bool) -> Result<Vec<Vec<f32>>, candle_core::Error> {
    let rows = tokens.len();
    let width = tokens.iter().map(|ids| ids.len()).max().unwrap_or(0);
    let mut ids = vec![0_u32; rows * width];
    let mut mask = vec![0_f32; rows * width];
    for (row, text) in tokens.iter().enumerate() {
        let start = row * width;
        ids[start..start + text.len()].copy_from_slice(text);
        mask[start..start + text.len()].fill(1.0);
    }
    let ids = Tensor::from_vec(ids, (rows, width), &Device::Cpu)?;
    let mask = Tensor::from_vec(mask, (rows, width), &Device::Cpu)?;
    let states = model.forward(&ids, &ids.zeros_like()?, Some(&mask))?;
    let sums = states.broadcast_mul(&mask.unsqueeze(D::Minus1)?)?.sum(1)?;
    let mut vectors = sums.broadcast_div(&mask.sum_keepdim(1)?)?;
    if normalize {
        vectors = vectors.broadcast_div(&vectors.sqr()?.sum_keepdim(1)?.sqrt()?)?;
    }
    vectors.to_vec2()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
