//! A cheap embedder that needs no model: a bag of hashed words. For tests of everything around vectors, and for trying a set-up;
//! texts that share words are near each other, meaning it has none.

use std::ops::Range;

use xxhash_rust::xxh3::xxh3_64;

use super::chunk::{self, Token};
use super::{EmbedError, Embedder};

/// One for each bit of a hash.
const DIMENSIONS: usize = 64;
/// Below it unrelated texts are too often near each other to see anything.
const DIMENSIONS_MIN: usize = 8;
/// As many words as the default model takes tokens, so that texts are cut in both.
const MAX_WORDS: usize = 256;
const OVERLAP_WORDS: usize = 32;

/// `embed: hash`: each word adds one or takes one from each of 64 dimensions, by the bits of its XXH3-64. `embed: hash-32` has 32.
#[derive(Debug, Clone)]
pub struct HashEmbedder {
    identity: String,
    dimensions: usize,
}

impl HashEmbedder {
    /// The embedder with 64 dimensions.
    #[must_use]
    pub fn new() -> Self {
        Self { identity: format!("hash-{DIMENSIONS}@1"), dimensions: DIMENSIONS }
    }

    /// The embedder with fewer dimensions: another model, whose vectors cannot be compared with those of the first.
    ///
    /// # Errors
    /// [`EmbedError::Model`] when the number is not from 8 to 64.
    pub fn with_dimensions(dimensions: usize) -> Result<Self, EmbedError> {
        if !(DIMENSIONS_MIN..=DIMENSIONS).contains(&dimensions) {
            let message =
                format!("the hash has from {DIMENSIONS_MIN} to {DIMENSIONS} dimensions: use hash-{DIMENSIONS_MIN} to hash");
            return Err(EmbedError::model(&format!("hash-{dimensions}"), message));
        }
        Ok(Self { identity: format!("hash-{dimensions}@1"), dimensions })
    }
}

impl Default for HashEmbedder {
    fn default() -> Self {
        Self::new()
    }
}

impl Embedder for HashEmbedder {
    fn identity(&self) -> &str {
        &self.identity
    }

    fn dimensions(&self) -> usize {
        self.dimensions
    }

    fn count_tokens(&self, text: &str) -> Result<usize, EmbedError> {
        Ok(text.split_whitespace().count())
    }

    fn chunk(&self, text: &str) -> Result<Vec<Range<usize>>, EmbedError> {
        Ok(chunk::split(text, &words(text), MAX_WORDS, OVERLAP_WORDS))
    }

    fn embed(&mut self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
        texts.iter().map(|text| self.vector(text)).collect()
    }
}

/// The words of a text: what white space parts.
pub(super) fn words(text: &str) -> Vec<Token> {
    let base = text.as_ptr().addr();
    let places = text.split_whitespace().map(|word| {
        let start = word.as_ptr().addr() - base;
        start..start + word.len()
    });
    chunk::tokens(text, places)
}

impl HashEmbedder {
    fn vector(&self, text: &str) -> Result<Vec<f32>, EmbedError> {
        let mut sums = vec![0_i32; self.dimensions];
        let mut add = |word: &str| {
            let hash = xxh3_64(word.as_bytes());
            for (bit, sum) in sums.iter_mut().enumerate() {
                *sum += if hash >> bit & 1 == 1 { 1 } else { -1 };
            }
        };
        let mut count = 0_usize;
        for word in text.split_whitespace() {
            add(&word.to_lowercase());
            count += 1;
        }
        if count > MAX_WORDS {
            let identity = &self.identity;
            return Err(EmbedError::Failed(format!(
                "a text has {count} words, {identity} takes {MAX_WORDS}: cut it into chunks first"
            )));
        }
        // An even number of words can cancel out, and a text without words has nothing to add: the whole text is one more word.
        if count.is_multiple_of(2) {
            add(text);
        }
        let length = sums.iter().map(|sum| f64::from(*sum).powi(2)).sum::<f64>().sqrt();
        // Rounding to the vector's precision is meant.
        Ok(sums.iter().map(|sum| (f64::from(*sum) / length) as f32).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cosine(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(x, y)| x * y).sum()
    }

    #[test]
    fn vectors_are_unit_deterministic_and_near_where_words_are_shared() {
        let mut hash = HashEmbedder::new();
        let texts = ["the cat sits outside", "The cat sits inside", "nobody expects a storm", "", " ", "a"];
        let vectors = hash.embed(&texts).unwrap();
        for (text, vector) in texts.iter().zip(&vectors) {
            assert_eq!(vector.len(), 64);
            assert!((cosine(vector, vector) - 1.0).abs() < 1e-6, "{text:?}");
            assert_eq!(vector, &hash.embed(&[text]).unwrap()[0]);
        }
        assert!(cosine(&vectors[0], &vectors[1]) > cosine(&vectors[0], &vectors[2]) + 0.2);
    }

    #[test]
    fn a_text_over_the_limit_is_refused_and_its_chunks_are_taken() {
        let mut hash = HashEmbedder::new();
        let text = "word ".repeat(257);
        assert!(hash.embed(&[&text]).is_err());
        let pieces = hash.chunk(&text).unwrap();
        assert_eq!(pieces.len(), 2);
        let texts: Vec<&str> = pieces.into_iter().map(|r| &text[r]).collect();
        assert_eq!(hash.embed(&texts).unwrap().len(), 2);
    }

    #[test]
    fn fewer_dimensions_are_another_model() {
        let mut short = HashEmbedder::with_dimensions(32).unwrap();
        assert_eq!((short.identity(), short.dimensions()), ("hash-32@1", 32));
        let vector = short.embed(&["the cat sits outside"]).unwrap().remove(0);
        assert!(vector.len() == 32 && (cosine(&vector, &vector) - 1.0).abs() < 1e-6);
        assert!(HashEmbedder::with_dimensions(7).is_err() && HashEmbedder::with_dimensions(65).is_err());
    }

    #[test]
    fn a_huge_text_without_a_space_is_one_word() {
        let mut hash = HashEmbedder::new();
        let text = "é".repeat(1 << 20);
        assert_eq!(hash.chunk(&text).unwrap(), std::slice::from_ref(&(0..text.len())));
        assert_eq!(hash.embed(&[&text]).unwrap().len(), 1);
    }
}
