//! The forward pass of a BERT encoder (Devlin et al. 2018) over sequences that lie one after another, without padding. Knows no
//! files and no tokenizer.

use crate::kernel::{Attention, Kernel, Operand, Packed, Room, Then};
use crate::{Pooling, Precision};

/// The shape of a model, from its `config.json`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Numbers a token.
    pub hidden: usize,
    /// Layers.
    pub layers: usize,
    /// Attention heads; `hidden` is a multiple.
    pub heads: usize,
    /// Numbers a token between the two products of a layer's second half.
    pub inner: usize,
    /// Entries of the vocabulary.
    pub vocabulary: usize,
    /// Most tokens of a sequence.
    pub positions: usize,
    /// Kinds of segments; the first is used.
    pub segments: usize,
    /// What layer normalisation adds to the variance.
    pub epsilon: f32,
}

/// The word embeddings: `vocabulary` rows of `hidden` numbers, wherever they lie.
pub trait Words: Send + Sync {
    /// Copies the row of each token, one after another.
    ///
    /// # Errors
    /// [`Wrong::Token`] for the first that has none.
    fn look_up(&self, tokens: &[u32], to: &mut [f32]) -> Result<(), Wrong>;
}

/// Why there is no encoder or no vector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// The shape cannot be.
    Shape(String),
    /// A token is not in the vocabulary.
    Token(u32),
    /// A sequence is empty or longer than the model's positions.
    Length(usize),
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Shape(message) => f.write_str(message),
            Self::Token(token) => write!(f, "token {token} is not in the vocabulary"),
            Self::Length(length) => write!(f, "a sequence of {length} tokens"),
        }
    }
}

impl std::error::Error for Wrong {}

/// Word embeddings in memory: rows of `hidden` numbers.
#[derive(Debug, Clone)]
pub struct Table {
    /// All rows.
    pub numbers: Vec<f32>,
    /// Numbers a row.
    pub hidden: usize,
}

impl Words for Table {
    fn look_up(&self, tokens: &[u32], to: &mut [f32]) -> Result<(), Wrong> {
        for (token, row) in tokens.iter().zip(to.chunks_exact_mut(self.hidden)) {
            let start = *token as usize * self.hidden;
            row.copy_from_slice(self.numbers.get(start..start + self.hidden).ok_or(Wrong::Token(*token))?);
        }
        Ok(())
    }
}

struct Norm {
    gamma: Vec<f32>,
    beta: Vec<f32>,
}

struct Layer {
    qkv: Packed,
    out: Packed,
    attention_norm: Norm,
    up: Packed,
    down: Packed,
    norm: Norm,
}

/// A model, packed for a kernel. Shared between threads; each brings its own [`Scratch`].
pub struct Encoder {
    shape: Shape,
    kernel: Box<dyn Kernel>,
    words: Box<dyn Words>,
    /// Position embeddings, each with the first segment's added.
    places: Vec<f32>,
    norm: Norm,
    layers: Vec<Layer>,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").field("shape", &self.shape).field("kernel", &self.kernel).finish_non_exhaustive()
    }
}

/// Buffers of one thread, reused from batch to batch.
#[derive(Debug, Default)]
pub struct Scratch {
    x: Vec<f32>,
    y: Vec<f32>,
    wide: Vec<f32>,
    operand: Operand,
    room: Room,
}

/// Rows that go through the second half of a layer at once, so that what lies between its products stays in the second cache.
const INNER_ROWS: usize = 128;

impl Encoder {
    /// A model from its tensors, asked for by the name that they have in the files of `transformers`, with the number of values
    /// each must have.
    ///
    /// # Errors
    /// What `tensor` answers, and [`Wrong::Shape`] for a shape that cannot be.
    pub fn new<E: From<Wrong>>(
        shape: Shape,
        kernel: Box<dyn Kernel>,
        words: Box<dyn Words>,
        mut tensor: impl FnMut(&str, &[usize]) -> Result<Vec<f32>, E>,
    ) -> Result<Self, E> {
        if shape.heads == 0 || shape.hidden == 0 || !shape.hidden.is_multiple_of(shape.heads) || shape.inner == 0 {
            let message = format!("{} numbers cannot be parted among {} heads", shape.hidden, shape.heads);
            return Err(Wrong::Shape(message).into());
        }
        let hidden = shape.hidden;
        let mut places = tensor("embeddings.position_embeddings.weight", &[shape.positions, hidden])?;
        let segments = tensor("embeddings.token_type_embeddings.weight", &[shape.segments, hidden])?;
        for place in places.chunks_exact_mut(hidden) {
            place.iter_mut().zip(&segments).for_each(|(place, segment)| *place += segment);
        }
        let norm = norm(&mut tensor, "embeddings.LayerNorm", hidden)?;
        let layers = (0..shape.layers).map(|i| layer(&mut tensor, kernel.as_ref(), &shape, i)).collect::<Result<_, E>>()?;
        Ok(Self { shape, kernel, words, places, norm, layers })
    }

    /// The shape.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The kernel's name.
    #[must_use]
    pub fn kernel(&self) -> &'static str {
        self.kernel.name()
    }

    /// What products are made in.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.kernel.precision()
    }

    /// Writes a vector of `hidden` numbers for each sequence; `tokens` holds the sequences one after another. A sequence's vector
    /// depends on its tokens alone, to the last bit.
    ///
    /// # Errors
    /// [`Wrong::Token`] and [`Wrong::Length`].
    pub fn encode(
        &self,
        tokens: &[u32],
        lengths: &[usize],
        pooling: Pooling,
        normalize: bool,
        scratch: &mut Scratch,
        out: &mut [f32],
    ) -> Result<(), Wrong> {
        let Shape { hidden, heads, .. } = self.shape;
        if let Some(length) = lengths.iter().find(|length| **length == 0 || **length > self.shape.positions) {
            return Err(Wrong::Length(*length));
        }
        assert_eq!(tokens.len(), lengths.iter().sum::<usize>(), "the sequences are all there is");
        assert_eq!(out.len(), lengths.len() * hidden, "a vector for each sequence");
        if tokens.is_empty() {
            return Ok(());
        }
        let rows = tokens.len();
        let Scratch { x, y, wide, operand, room } = scratch;
        x.resize(rows * hidden, 0.0);
        y.resize(rows * hidden, 0.0);
        wide.resize((rows * 3 * hidden).max(rows.min(INNER_ROWS) * self.shape.inner), 0.0);
        self.look_up(tokens, lengths, x)?;
        for layer in &self.layers {
            let kernel = self.kernel.as_ref();
            kernel.product(x, &layer.qkv, Then::Keep, &mut wide[..rows * 3 * hidden], operand);
            let task = Attention { qkv: &wide[..rows * 3 * hidden], lengths, heads, width: hidden / heads };
            kernel.attention(&task, y, room);
            self.second_half(layer, x, y, wide, operand);
        }
        let mut start = 0;
        for (length, vector) in lengths.iter().zip(out.chunks_exact_mut(hidden)) {
            self.kernel.pool(&x[start * hidden..][..length * hidden], pooling, normalize, vector);
            start += length;
        }
        Ok(())
    }

    /// The sum of each token's embeddings, normalised.
    fn look_up(&self, tokens: &[u32], lengths: &[usize], x: &mut [f32]) -> Result<(), Wrong> {
        let hidden = self.shape.hidden;
        let places = lengths.iter().flat_map(|length| self.places.chunks_exact(hidden).take(*length));
        self.words.look_up(tokens, x)?;
        for (row, place) in x.chunks_exact_mut(hidden).zip(places) {
            row.iter_mut().zip(place).for_each(|(value, place)| *value += place);
        }
        self.kernel.layer_norm(x, &self.norm.gamma, &self.norm.beta, self.shape.epsilon);
        Ok(())
    }

    /// What a layer does behind its attention, some rows at a time. `x` comes in as the layer's input and goes out as its output,
    /// `attended` is what attention made.
    fn second_half(&self, layer: &Layer, x: &mut [f32], attended: &mut [f32], inner: &mut [f32], operand: &mut Operand) {
        let (hidden, kernel, epsilon) = (self.shape.hidden, self.kernel.as_ref(), self.shape.epsilon);
        let gelu = if kernel.precision() == Precision::F32 { Then::Gelu } else { Then::ShortGelu };
        let block = INNER_ROWS * hidden;
        let mut between = [0.0; 0].to_vec();
        for (x, attended) in x.chunks_mut(block).zip(attended.chunks_mut(block)) {
            let inner = &mut inner[..x.len() / hidden * self.shape.inner];
            between.resize(x.len(), 0.0);
            kernel.product(attended, &layer.out, Then::Add(x), &mut between, operand);
            kernel.layer_norm(&mut between, &layer.attention_norm.gamma, &layer.attention_norm.beta, epsilon);
            kernel.product(&between, &layer.up, gelu, inner, operand);
            kernel.product(inner, &layer.down, Then::Add(&between), x, operand);
            kernel.layer_norm(x, &layer.norm.gamma, &layer.norm.beta, epsilon);
        }
    }
}

fn norm<E>(tensor: &mut impl FnMut(&str, &[usize]) -> Result<Vec<f32>, E>, name: &str, width: usize) -> Result<Norm, E> {
    Ok(Norm { gamma: tensor(&format!("{name}.weight"), &[width])?, beta: tensor(&format!("{name}.bias"), &[width])? })
}

fn layer<E>(
    tensor: &mut impl FnMut(&str, &[usize]) -> Result<Vec<f32>, E>,
    kernel: &dyn Kernel,
    shape: &Shape,
    number: usize,
) -> Result<Layer, E> {
    let Shape { hidden, inner, .. } = *shape;
    let at = format!("encoder.layer.{number}");
    let mut linear = |name: &str, outputs: usize, inputs: usize| -> Result<(Vec<f32>, Vec<f32>), E> {
        let weight = tensor(&format!("{at}.{name}.weight"), &[outputs, inputs])?;
        Ok((weight, tensor(&format!("{at}.{name}.bias"), &[outputs])?))
    };
    let (mut weight, mut bias) = (Vec::new(), Vec::new());
    for part in ["query", "key", "value"] {
        let (more_weight, more_bias) = linear(&format!("attention.self.{part}"), hidden, hidden)?;
        weight.extend(more_weight);
        bias.extend(more_bias);
    }
    let qkv = kernel.pack(&weight, &bias, hidden);
    let (weight, bias) = linear("attention.output.dense", hidden, hidden)?;
    let out = kernel.pack(&weight, &bias, hidden);
    let (weight, bias) = linear("intermediate.dense", inner, hidden)?;
    let up = kernel.pack(&weight, &bias, hidden);
    let (weight, bias) = linear("output.dense", hidden, inner)?;
    let down = kernel.pack(&weight, &bias, inner);
    Ok(Layer {
        qkv,
        out,
        attention_norm: norm(tensor, &format!("{at}.attention.output.LayerNorm"), hidden)?,
        up,
        down,
        norm: norm(tensor, &format!("{at}.output.LayerNorm"), hidden)?,
    })
}
