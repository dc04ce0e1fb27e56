//! What is known of an embedding model before its files are here: names, digests and how vectors are made of its output.
//! Pure data; it reads no file but the manifests built into the program.

use std::collections::BTreeMap;

use kernels::Precision;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::EmbedError;

/// The model that is used unless the configuration names another.
pub const DEFAULT_MODEL: &str = "all-MiniLM-L6-v2";

/// The built-in manifests, by name.
const BUILT_IN: [(&str, &str); 4] = [
    (DEFAULT_MODEL, include_str!("../../models/all-MiniLM-L6-v2.yaml")),
    ("bge-small-en-v1.5", include_str!("../../models/bge-small-en-v1.5.yaml")),
    ("e5-small-v2", include_str!("../../models/e5-small-v2.yaml")),
    ("multilingual-e5-small", include_str!("../../models/multilingual-e5-small.yaml")),
];

/// The files that every model needs.
pub const FILES: [&str; 3] = ["config.json", "model.safetensors", "tokenizer.json"];

/// An embedding model.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The name in configuration, payloads and reports.
    pub name: String,
    /// Who made it, and under what name.
    pub source: String,
    /// Which of the source's versions it is.
    pub revision: String,
    /// The licence of the weights (SPDX).
    pub licence: String,
    /// How its layers are put together.
    pub architecture: Architecture,
    /// Length of a vector.
    pub dimensions: usize,
    /// How the vectors of the tokens become one.
    pub pooling: Pooling,
    /// Whether vectors are scaled to length 1.
    pub normalize: bool,
    /// Most tokens of one text, special tokens included.
    pub max_tokens: usize,
    /// How many tokens two neighbouring chunks of one text share at most.
    pub overlap_tokens: usize,
    /// What is put before texts.
    pub prompts: Prompts,
    /// What its files must say of it.
    pub layout: Layout,
    /// The files it needs, by name, where they are known to the last byte. Where they are not, whoever gives them answers for them:
    /// they are held against everything else that the manifest says, and their content is part of the model's identity.
    #[serde(default)]
    pub files: BTreeMap<String, Pin>,
    /// The package that brings the files. Without one they come by path alone.
    #[serde(default)]
    pub package: Option<Package>,
}

/// What the files of a model must say of it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// Layers.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Numbers a token between the two products of a layer's second half.
    pub inner: usize,
    /// Entries of the vocabulary.
    pub vocabulary: usize,
    /// Most tokens that there are positions for.
    pub positions: usize,
    /// The activation, as `config.json` calls it.
    pub activation: String,
    /// What the weights are numbers of, as the file calls it.
    pub dtype: String,
    /// How texts are parted.
    pub tokenizer: Pieces,
}

/// How a tokenizer parts words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pieces {
    /// The longest piece first, as BERT does.
    Wordpiece,
    /// The likeliest pieces together, as SentencePiece does.
    Unigram,
}

/// How a model's layers are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// BERT with absolute positions.
    Bert,
}

/// How the vectors of the tokens become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// Their mean, special tokens included, padding left out.
    Mean,
    /// The first, of the token `[CLS]`.
    Cls,
}

/// What is put before texts, for models that were trained so.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prompts {
    /// Before a text that is stored.
    pub document: String,
    /// Before a text that is searched for.
    pub query: String,
}

/// A file's size and digest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, 64 hexadecimal digits.
    pub sha256: String,
}

/// A package of the Python package index.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The file that the package client brings.
    pub archive: String,
    /// The archive's size.
    pub bytes: u64,
    /// The archive's SHA-256.
    pub sha256: String,
    /// Where in the archive the files lie.
    pub folder: String,
}

/// The built-in model of this name.
///
/// # Errors
/// [`EmbedError::Model`] when there is none; the message names those that there are.
pub fn builtin(name: &str) -> Result<Manifest, EmbedError> {
    let Some((_, text)) = BUILT_IN.iter().find(|(known, _)| *known == name) else {
        let known: Vec<&str> = BUILT_IN.iter().map(|(known, _)| *known).collect();
        return Err(EmbedError::model(name, format!("is not known; use `off`, `hash` or one of: {}", known.join(", "))));
    };
    Manifest::parse(name, text)
}

impl Manifest {
    /// Reads a manifest and checks that it can be used.
    ///
    /// # Errors
    /// [`EmbedError::Model`] with line and column, or with what cannot be used. `name` is for the message.
    pub fn parse(name: &str, text: &str) -> Result<Self, EmbedError> {
        let manifest: Self =
            serde_saphyr::from_str(text).map_err(|e| EmbedError::model(name, format!("its manifest is wrong: {e}")))?;
        manifest.check().map_err(|message| EmbedError::model(name, format!("its manifest is wrong: {message}")))?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if self.name.is_empty() || self.name.starts_with('.') || !self.name.chars().all(plain) {
            return Err(format!("name `{}` is no plain name of letters, digits, `-`, `_` and `.`", self.name));
        }
        let pinned = !self.files.is_empty() || self.package.is_some();
        for needed in FILES.into_iter().filter(|_| pinned) {
            if !self.files.contains_key(needed) {
                return Err(format!("files: `{needed}` is missing; a package needs the digests of what it brings"));
            }
        }
        let pins = self.files.iter().map(|(name, pin)| (name.as_str(), pin.sha256.as_str()));
        let archive = self.package.iter().map(|package| (package.archive.as_str(), package.sha256.as_str()));
        for (file, digest) in pins.chain(archive) {
            if file.is_empty() || file.starts_with('.') || !file.chars().all(plain) {
                return Err(format!("file `{file}` is no plain name"));
            }
            if digest.len() != 64 || !digest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
                return Err(format!("sha256 of `{file}` is not 64 lower-case hexadecimal digits"));
            }
        }
        if self.dimensions == 0 {
            return Err("dimensions is 0".to_owned());
        }
        if self.layout.activation != "gelu" {
            return Err(format!("layout: this program has no activation `{}`, it has gelu", self.layout.activation));
        }
        // Below this the special tokens and the overlap leave no room for text.
        if self.max_tokens < 16 || self.overlap_tokens > self.max_tokens / 4 {
            return Err("max_tokens must be at least 16 and overlap_tokens at most a quarter of it".to_owned());
        }
        if self.max_tokens > self.layout.positions {
            let (most, positions) = (self.max_tokens, self.layout.positions);
            return Err(format!("max_tokens is {most}, and layout.positions {positions}: a token needs a position"));
        }
        // A prompt takes its tokens from the text's.
        if self.prompts.document.len().max(self.prompts.query.len()) > self.max_tokens / 4 {
            return Err("prompts: a prompt has at most a quarter as many bytes as max_tokens".to_owned());
        }
        Ok(())
    }

    /// Names of the files it needs.
    #[must_use]
    pub fn file_names(&self) -> Vec<&str> {
        if self.files.is_empty() { FILES.to_vec() } else { self.files.keys().map(String::as_str).collect() }
    }

    /// The model's name and eight hexadecimal digits of a digest over everything that changes a vector or what gets one: the
    /// files' digests, pooling, normalisation, limits and prompts; behind it a precision other than `f32`. Where the files came from
    /// is no part of it, nor is the kernel: those of one precision differ by the order of sums alone. `found` are digests of
    /// the files that are here, and matters where the manifest has none.
    #[must_use]
    pub fn identity(&self, precision: Precision, found: &BTreeMap<String, String>) -> String {
        let mut digest = Sha256::new();
        let mut part = |text: &str| {
            digest.update((text.len() as u64).to_le_bytes());
            digest.update(text.as_bytes());
        };
        part(&self.name);
        part(&format!("{:?} {:?} {}", self.architecture, self.pooling, self.normalize));
        part(&format!("{} {} {}", self.dimensions, self.max_tokens, self.overlap_tokens));
        part(&self.prompts.document);
        part(&self.prompts.query);
        for (file, pin) in &self.files {
            part(file);
            part(&pin.sha256);
        }
        for (file, digest) in found.iter().filter(|_| self.files.is_empty()) {
            part(file);
            part(digest);
        }
        let digest = digest.finalize();
        let suffix = suffix(precision);
        format!("{}@{:02x}{:02x}{:02x}{:02x}{suffix}", self.name, digest[0], digest[1], digest[2], digest[3])
    }

    /// The precision that an identity of this model names. Where the manifest has digests, the identity must have them too.
    #[must_use]
    pub fn precision_of(&self, identity: &str) -> Option<Precision> {
        Precision::ALL.into_iter().find(|precision| {
            if !self.files.is_empty() {
                return self.identity(*precision, &BTreeMap::new()) == identity;
            }
            let digest = identity.strip_prefix(&self.name).and_then(|rest| rest.strip_prefix('@'));
            digest.and_then(|digest| digest.strip_suffix(&suffix(*precision))).is_some_and(is_short_digest)
        })
    }
}

/// What an identity has behind the digest.
fn suffix(precision: Precision) -> String {
    if precision == Precision::F32 { String::new() } else { format!("-{}", precision.name()) }
}

fn is_short_digest(text: &str) -> bool {
    text.len() == 8 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> String {
        BUILT_IN[0].1.to_owned()
    }

    fn refused(text: &str) -> String {
        Manifest::parse("m", text).unwrap_err().to_string()
    }

    #[test]
    fn every_built_in_manifest_is_whole_and_bears_its_name() {
        for (name, _) in BUILT_IN {
            assert_eq!(builtin(name).unwrap().name, name);
        }
    }

    #[test]
    fn identity_follows_what_changes_a_vector_and_nothing_else() {
        let manifest = builtin(DEFAULT_MODEL).unwrap();
        let none = BTreeMap::new();
        let identity = manifest.identity(Precision::F32, &none);
        assert_eq!(identity, "all-MiniLM-L6-v2@b54ed0ba", "stored vectors bear it");
        let commented = Manifest::parse("m", &format!("# a comment\n{}", text())).unwrap();
        assert_eq!(identity, commented.identity(Precision::F32, &found("weights", "1")), "its files are pinned");

        let change = |edit: fn(&mut Manifest)| {
            let mut other = manifest.clone();
            edit(&mut other);
            other.identity(Precision::F32, &BTreeMap::new())
        };
        assert_eq!(identity, change(|m| m.package = None));
        assert_eq!(manifest.identity(Precision::Bf16, &none), format!("{identity}-bf16"));
        assert_ne!(identity, change(|m| m.max_tokens = 128));
        assert_ne!(identity, change(|m| m.overlap_tokens = 16));
        assert_ne!(identity, change(|m| m.normalize = false));
        assert_ne!(identity, change(|m| m.dimensions = 383));
        assert_ne!(identity, change(|m| m.prompts.document = "passage: ".to_owned()));
        assert_ne!(identity, change(|m| m.files.get_mut("model.safetensors").unwrap().sha256 = "0".repeat(64)));
    }

    fn found(file: &str, digest: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(file.to_owned(), digest.to_owned())])
    }

    #[test]
    fn other_files_by_path_are_another_model() {
        let manifest = builtin("e5-small-v2").unwrap();
        assert_eq!(manifest.file_names(), FILES);
        let one = manifest.identity(Precision::Int8, &found("model.safetensors", "1"));
        assert_ne!(one, manifest.identity(Precision::Int8, &found("model.safetensors", "2")));
        for precision in Precision::ALL {
            let identity = manifest.identity(precision, &found("model.safetensors", "1"));
            assert_eq!(manifest.precision_of(&identity), Some(precision), "{identity}");
        }
        for other in ["e5-small-v2@1234567", "e5-small-v2@1234567g", "e5-small-v2@12345678-f16", "e5-small-v3@12345678"] {
            assert_eq!(manifest.precision_of(other), None, "{other}");
        }
    }

    #[test]
    fn a_wrong_manifest_is_refused_by_name() {
        let good = text();
        for (from, to, says) in [
            ("licence:", "license:", "license"),
            ("pooling: mean", "pooling: max", "pooling"),
            ("dimensions: 384", "dimensions: 0", "dimensions"),
            ("max_tokens: 256", "max_tokens: 8", "max_tokens"),
            ("overlap_tokens: 32", "overlap_tokens: 200", "overlap_tokens"),
            ("query: \"\"", "query: \"0123456789012345678901234567890123456789012345678901234567890123456789\"", "prompts"),
            ("  config.json:", "  ../config.json:", "config.json"),
            ("953f9c0d", "953F9C0D", "sha256"),
            ("name: all-MiniLM-L6-v2", "name: a/b", "a/b"),
            ("positions: 512", "positions: 128", "positions 128"),
            ("tokenizer: wordpiece", "tokenizer: bytes", "tokenizer"),
            ("activation: gelu", "activation: relu", "`relu`"),
            ("  model.safetensors:", "  weights.safetensors:", "model.safetensors"),
        ] {
            assert!(good.contains(from), "{from}");
            let error = refused(&good.replacen(from, to, 1));
            assert!(error.contains(says), "{from}: {error}");
        }
        assert!(refused("").contains("manifest"));
    }
}
