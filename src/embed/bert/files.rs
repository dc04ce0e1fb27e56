//! The files of a model, held against its manifest. Where the manifest has digests the files are what it says to the last byte; where it
//! has none, everything that can be compared is, and the digests of what was found become part of the model's identity.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokenizers::{ModelWrapper, PostProcessor, Tokenizer};
use xxhash_rust::xxh3::Xxh3;

use crate::embed::EmbedError;
use crate::embed::manifest::{Manifest, Pieces, Pooling};

pub(super) const CONFIG: &str = "config.json";
pub(super) const TOKENIZER: &str = "tokenizer.json";
pub(super) const WEIGHTS: &str = "model.safetensors";

/// What sentence-transformers keeps of the pooling. Not every copy of a model has it.
const POOLING: &str = "1_Pooling/config.json";

/// `[CLS]` and `[SEP]`, or `<s>` and `</s>`.
pub(super) const SPECIAL_TOKENS: usize = 2;

/// A model's files.
#[derive(Debug)]
pub(super) struct Files {
    manifest: Manifest,
    dir: PathBuf,
    /// Of what was found when they were opened, where the manifest has none.
    digests: BTreeMap<String, String>,
}

/// What `config.json` says that the forward pass needs.
#[derive(Debug, Deserialize)]
pub(super) struct Config {
    pub(super) hidden_size: usize,
    pub(super) num_hidden_layers: usize,
    pub(super) num_attention_heads: usize,
    pub(super) intermediate_size: usize,
    pub(super) vocab_size: usize,
    pub(super) max_position_embeddings: usize,
    pub(super) type_vocab_size: usize,
    pub(super) layer_norm_eps: f32,
    #[serde(default = "gelu")]
    hidden_act: String,
    #[serde(default = "absolute")]
    position_embedding_type: String,
}

fn gelu() -> String {
    "gelu".to_owned()
}

fn absolute() -> String {
    "absolute".to_owned()
}

impl Config {
    /// Where it differs from the manifest: key, value here, value there.
    fn differences(&self, manifest: &Manifest) -> Vec<String> {
        let layout = &manifest.layout;
        let numbers = [
            ("hidden_size", self.hidden_size, manifest.dimensions),
            ("num_hidden_layers", self.num_hidden_layers, layout.layers),
            ("num_attention_heads", self.num_attention_heads, layout.heads),
            ("intermediate_size", self.intermediate_size, layout.inner),
            ("vocab_size", self.vocab_size, layout.vocabulary),
            ("max_position_embeddings", self.max_position_embeddings, layout.positions),
        ];
        let numbers = numbers.into_iter().map(|(key, found, wanted)| (key, found.to_string(), wanted.to_string()));
        let words = [
            ("hidden_act", self.hidden_act.clone(), layout.activation.clone()),
            ("position_embedding_type", self.position_embedding_type.clone(), absolute()),
        ];
        let all = numbers.chain(words).filter(|(_, found, wanted)| found != wanted);
        all.map(|(key, found, wanted)| format!("{key} is {found}, the manifest says {wanted}")).collect()
    }
}

impl Files {
    /// The files of the manifest's model in `dir`. Where it has digests, only their sizes are looked at: they are read when the model is
    /// loaded. Where it has none, all are read once, which takes some hundredths of a second for the weights of a small model.
    pub(super) fn open(manifest: &Manifest, dir: &Path) -> Result<Self, EmbedError> {
        let mut files = Self { manifest: manifest.clone(), dir: dir.to_owned(), digests: BTreeMap::new() };
        for (file, pin) in &manifest.files {
            let path = dir.join(file);
            let found = std::fs::metadata(&path).map_err(|e| files.unreadable(&path, &e))?.len();
            if found != pin.bytes {
                let message = format!("{} has {found} bytes, the manifest says {}; {}", path.display(), pin.bytes, files.mend());
                return Err(files.wrong(message));
            }
        }
        if manifest.files.is_empty() {
            files.config()?;
            for name in manifest.file_names() {
                files.digests.insert(name.to_owned(), files.digest(name)?);
            }
        }
        files.pooling()?;
        Ok(files)
    }

    /// Digests of what was found, where the manifest has none.
    pub(super) fn digests(&self) -> &BTreeMap<String, String> {
        &self.digests
    }

    pub(super) fn weights(&self) -> PathBuf {
        self.dir.join(WEIGHTS)
    }

    /// What `config.json` says, which is what the manifest says.
    pub(super) fn config(&self) -> Result<Config, EmbedError> {
        let content = self.content(CONFIG)?;
        let config: Config = serde_json::from_slice(&content).map_err(|e| self.wrong(format!("{CONFIG} cannot be used: {e}")))?;
        let differences = config.differences(&self.manifest);
        if differences.is_empty() {
            return Ok(config);
        }
        let path = self.dir.join(CONFIG);
        Err(self.wrong(format!("{} is of another model: {}; {}", path.display(), differences.join("; "), self.mend())))
    }

    /// Compares the pooling, where the files tell it.
    fn pooling(&self) -> Result<(), EmbedError> {
        let path = self.dir.join(POOLING);
        let content = match std::fs::read(&path) {
            Ok(content) => content,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(self.unreadable(&path, &e)),
        };
        let told: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&content).map_err(|e| self.wrong(format!("{} cannot be used: {e}", path.display())))?;
        let on = told.iter().filter(|(key, value)| key.starts_with("pooling_mode_") && value.as_bool() == Some(true));
        let found: Vec<&str> = on.map(|(key, _)| key.as_str()).collect();
        let (wanted, named) = match self.manifest.pooling {
            Pooling::Mean => ("pooling_mode_mean_tokens", "mean"),
            Pooling::Cls => ("pooling_mode_cls_token", "cls"),
        };
        if !found.is_empty() && found != [wanted] {
            let found = found.join(" and ");
            return Err(self.wrong(format!("{} says {found}, the manifest says pooling {named}", path.display())));
        }
        match told.get("word_embedding_dimension").and_then(serde_json::Value::as_u64) {
            Some(found) if found != self.manifest.dimensions as u64 => {
                let message =
                    format!("{} has {found} dimensions, the manifest says {}", path.display(), self.manifest.dimensions);
                Err(self.wrong(message))
            }
            _ => Ok(()),
        }
    }

    /// The tokenizer, which neither cuts nor fills up.
    pub(super) fn tokenizer(&self) -> Result<Tokenizer, EmbedError> {
        let content = self.content(TOKENIZER)?;
        self.compare(TOKENIZER, &self.digest_of(TOKENIZER, content.as_slice())?)?;
        let unusable = |e| self.wrong(format!("{TOKENIZER} cannot be used: {e}"));
        let mut tokenizer = Tokenizer::from_bytes(content).map_err(unusable)?;
        // Some files ask for padding and for cutting at 128 tokens; here nothing is cut and nothing is padded.
        tokenizer.with_truncation(None).map_err(unusable)?;
        tokenizer.with_padding(None);
        let layout = &self.manifest.layout;
        let found = match tokenizer.get_model() {
            ModelWrapper::WordPiece(_) => "wordpiece",
            ModelWrapper::Unigram(_) => "unigram",
            ModelWrapper::BPE(_) => "bpe",
            ModelWrapper::WordLevel(_) => "wordlevel",
        };
        let wanted = match layout.tokenizer {
            Pieces::Wordpiece => "wordpiece",
            Pieces::Unigram => "unigram",
        };
        if found != wanted {
            return Err(self.wrong(format!("{TOKENIZER} parts words by {found}, the manifest says {wanted}; {}", self.mend())));
        }
        let size = tokenizer.get_vocab_size(true);
        if size > layout.vocabulary {
            let wanted = layout.vocabulary;
            return Err(self.wrong(format!("{TOKENIZER} has {size} pieces, the manifest says {wanted} at most; {}", self.mend())));
        }
        let added = tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(false));
        if added != SPECIAL_TOKENS {
            return Err(self.wrong(format!("{TOKENIZER} adds {added} tokens to a text; this program counts on {SPECIAL_TOKENS}")));
        }
        Ok(tokenizer)
    }

    /// Holds a file against its digest without keeping its content.
    pub(super) fn verify(&self, file: &str) -> Result<(), EmbedError> {
        self.compare(file, &self.digest(file)?)
    }

    /// Refuses a tensor whose numbers are of another kind than the manifest says.
    pub(super) fn compare_dtype(&self, tensor: &str, found: &str) -> Result<(), String> {
        let wanted = &self.manifest.layout.dtype;
        if found == wanted { Ok(()) } else { Err(format!("{tensor} is {found}, the manifest says {wanted}")) }
    }

    fn content(&self, file: &str) -> Result<Vec<u8>, EmbedError> {
        let path = self.dir.join(file);
        std::fs::read(&path).map_err(|e| self.unreadable(&path, &e))
    }

    fn digest(&self, file: &str) -> Result<String, EmbedError> {
        let path = self.dir.join(file);
        let open = std::fs::File::open(&path).map_err(|e| self.unreadable(&path, &e))?;
        self.digest_of(file, open)
    }

    /// SHA-256 where the manifest has one; else XXH3-128, which is as fast as reading, and of `config.json` what matters of it.
    fn digest_of(&self, file: &str, mut from: impl Read) -> Result<String, EmbedError> {
        let fail = |e: std::io::Error| self.unreadable(&self.dir.join(file), &e);
        if self.manifest.files.contains_key(file) {
            let mut digest = Sha256::new();
            std::io::copy(&mut from, &mut digest).map_err(fail)?;
            return Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        if file == CONFIG {
            return Ok(format!("{:?}", self.config()?));
        }
        let mut digest = Xxh3::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            match from.read(&mut buffer).map_err(fail)? {
                0 => return Ok(format!("{:032x}", digest.digest128())),
                count => digest.update(&buffer[..count]),
            }
        }
    }

    fn compare(&self, file: &str, found: &str) -> Result<(), EmbedError> {
        let path = self.dir.join(file);
        match (self.manifest.files.get(file), self.digests.get(file)) {
            (Some(pin), _) if pin.sha256 != found => {
                let (path, wanted) = (path.display(), &pin.sha256);
                Err(self.wrong(format!("{path} has the SHA-256 {found}, the manifest says {wanted}; {}", self.mend())))
            }
            (None, Some(before)) if before != found => {
                Err(self.wrong(format!("{} was changed while it was in use: start again", path.display())))
            }
            _ => Ok(()),
        }
    }

    fn mend(&self) -> String {
        if self.manifest.package.is_some() {
            return "run `distributary fetch` again, or give a directory with the right files".to_owned();
        }
        format!("give a directory with the files of {}", self.manifest.source)
    }

    fn unreadable(&self, path: &Path, error: &std::io::Error) -> EmbedError {
        self.wrong(format!("{} cannot be read ({error}); {}", path.display(), self.mend()))
    }

    fn wrong(&self, message: String) -> EmbedError {
        EmbedError::model(&self.manifest.name, message)
    }
}
