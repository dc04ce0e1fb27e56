//! A model's files become an encoder: each file is held against the manifest, the weights are mapped into memory, not read, and
//! packed for the kernel. The word embeddings stay in the mapped file.

use std::path::Path;

use candle_core::safetensors::MmapedSafetensors;
use candle_core::{DType, Device};
use kernels::{Encoder, Shape, Table, Words, Wrong};

use super::files::Config;
use super::{Bert, WEIGHTS};
use crate::embed::EmbedError;
use crate::embed::manifest::Architecture;

/// Loads a model. The digest of the weights is computed beside the packing.
pub(super) fn load(bert: &Bert) -> Result<Encoder, EmbedError> {
    let Architecture::Bert = bert.manifest.architecture;
    bert.files.verify(super::files::CONFIG)?;
    let config = bert.files.config()?;
    std::thread::scope(|scope| {
        let verified = scope.spawn(|| bert.files.verify(WEIGHTS));
        let made = encoder(bert, &config);
        verified.join().unwrap_or_else(|_| Err(EmbedError::Failed("the digest of the weights could not be made".to_owned())))?;
        made
    })
}

fn encoder(bert: &Bert, config: &Config) -> Result<Encoder, EmbedError> {
    let name = &bert.manifest.name;
    let wrong = |e: candle_core::Error| EmbedError::model(name, format!("model.safetensors cannot be used: {e}"));
    let file = map(&bert.files.weights()).map_err(wrong)?;
    let shape = Shape {
        hidden: config.hidden_size,
        layers: config.num_hidden_layers,
        heads: config.num_attention_heads,
        inner: config.intermediate_size,
        vocabulary: config.vocab_size,
        positions: config.max_position_embeddings,
        segments: config.type_vocab_size,
        epsilon: config.layer_norm_eps,
    };
    let kernel =
        kernels::kernel::choose(bert.precision, bert.kernel.as_deref()).map_err(|message| EmbedError::model(name, message))?;
    // Some files name their tensors below the model's own name.
    let prefix = if file.get(WORDS).is_ok() { "" } else { "bert." };
    let tensor = |file: &MmapedSafetensors, tensor: &str, wanted: &[usize]| {
        let name = format!("{prefix}{tensor}");
        let dtype = format!("{:?}", file.get(&name)?.dtype());
        bert.files.compare_dtype(tensor, &dtype).map_err(candle_core::Error::msg)?;
        let found = file.load(&name, &Device::Cpu)?;
        if found.dims() != wanted {
            candle_core::bail!("{tensor} has the shape {:?}, config.json asks for {wanted:?}", found.dims());
        }
        found.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()
    };
    let wanted = [shape.vocabulary, shape.hidden];
    let words = file.get(&format!("{prefix}{WORDS}")).map_err(wrong)?;
    let same = bert.files.compare_dtype(WORDS, &format!("{:?}", words.dtype()));
    same.map_err(|message| EmbedError::model(name, message))?;
    let in_place = words.shape() == wanted && DType::try_from(words.dtype()).is_ok_and(|dtype| dtype == DType::F32);
    let words: Box<dyn Words> = if in_place {
        let file = map(&bert.files.weights()).map_err(wrong)?;
        Box::new(Mapped { file, name: format!("{prefix}{WORDS}"), hidden: shape.hidden })
    } else {
        Box::new(Table { numbers: tensor(&file, WORDS, &wanted).map_err(wrong)?, hidden: shape.hidden })
    };
    Encoder::new(shape, kernel, words, |name, wanted| tensor(&file, name, wanted).map_err(Fault::Tensor)).map_err(|fault| {
        match fault {
            Fault::Tensor(error) => wrong(error),
            Fault::Shape(error) => EmbedError::model(name, format!("config.json cannot be used: {error}")),
        }
    })
}

const WORDS: &str = "embeddings.word_embeddings.weight";

/// Why an encoder cannot be made.
enum Fault {
    Tensor(candle_core::Error),
    Shape(Wrong),
}

impl From<Wrong> for Fault {
    fn from(wrong: Wrong) -> Self {
        Self::Shape(wrong)
    }
}

/// The file in memory, as far as it is looked at.
#[allow(unsafe_code)]
fn map(path: &Path) -> candle_core::Result<MmapedSafetensors> {
    // SAFETY: the file is only read, as bytes. Whoever shortens a model's file while it is in use ends this program, as would
    // be so for a shared library; `fetch` writes a new file and renames it.
    unsafe { MmapedSafetensors::new(path) }
}

/// Word embeddings in the mapped file.
struct Mapped {
    file: MmapedSafetensors,
    name: String,
    hidden: usize,
}

impl Words for Mapped {
    fn look_up(&self, tokens: &[u32], to: &mut [f32]) -> Result<(), Wrong> {
        let missing = Wrong::Token(tokens.first().copied().unwrap_or(0));
        let numbers = self.file.get(&self.name).map_err(|_| missing)?.data();
        let row = self.hidden * size_of::<f32>();
        for (token, to) in tokens.iter().zip(to.chunks_exact_mut(self.hidden)) {
            let start = *token as usize * row;
            let from = numbers.get(start..start + row).ok_or(Wrong::Token(*token))?;
            for (to, bytes) in to.iter_mut().zip(from.as_chunks::<4>().0) {
                *to = f32::from_le_bytes(*bytes);
            }
        }
        Ok(())
    }
}
