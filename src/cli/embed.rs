//! `embed`: texts from stdin, vectors to stdout, by the very model that a sync uses. For applications in other languages, and for
//! measuring.

use std::io::{BufRead, BufWriter, Write};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use super::{BAD_INPUT, DONE, Global, Outcome, fetch, note};
use crate::embed::manifest::{self, DEFAULT_MODEL};
use crate::embed::{Bert, Choice, DEFAULT_PRECISION, Embedder, Precision};

/// Texts that are embedded at once: enough for all threads, and memory stays flat however many come.
const WINDOW_TEXTS: usize = 4096;

/// Bytes of texts that are embedded at once.
const WINDOW_BYTES: usize = 4 << 20;

#[derive(Debug, Args)]
pub(super) struct EmbedArgs {
    /// The model. Without it the configuration's, or else the default one.
    #[arg(long, env = "DISTRIBUTARY_EMBED")]
    model: Option<String>,
    /// What it computes in: f32, bf16 or int8. Without it the configuration's, or else bf16.
    #[arg(long, env = "DISTRIBUTARY_PRECISION")]
    precision: Option<Precision>,
    /// How many threads; as many as there are cores when not given. Vectors do not depend on it.
    #[arg(long, env = "DISTRIBUTARY_THREADS")]
    threads: Option<NonZeroUsize>,
    /// What the texts are for: `query` to look for, `passage` to store. Some models want to be told.
    #[arg(long, default_value = "passage", value_parser = ["query", "passage"], env = "DISTRIBUTARY_PROMPT")]
    prompt: String,
    /// `jsonl`: a JSON array a line, as texts come. `npy`: one NumPy array of 32-bit numbers, when all have come.
    #[arg(long, default_value = "jsonl", value_parser = ["jsonl", "npy"], env = "DISTRIBUTARY_FORMAT")]
    format: String,
    /// Answer each line before the next is read: for a program that asks one question after another.
    #[arg(long)]
    each: bool,
    /// Say on stderr how many texts and tokens there were, and how long loading and embedding took.
    #[arg(long)]
    stats: bool,
}

/// Why a command ended early: what to say.
struct Bad(String);

pub(super) fn embed(global: &Global, args: &EmbedArgs) -> Outcome {
    let (mut model, load) = match open(global, args)? {
        Ok(opened) => opened,
        Err(Bad(message)) => return Ok(refuse(&message)),
    };
    let mut sink = Sink::new(args.format == "npy", model.dimensions());
    let query = args.prompt == "query";
    let (mut texts, mut embed) = (0, Duration::ZERO);
    let most = if args.each { 1 } else { WINDOW_TEXTS };
    let mut lines = std::io::stdin().lock().lines();
    loop {
        let window = match window(&mut lines, texts, most)? {
            Ok(window) if window.is_empty() => break,
            Ok(window) => window,
            Err(Bad(message)) => return Ok(refuse(&message)),
        };
        let refs: Vec<&str> = window.iter().map(String::as_str).collect();
        let begun = Instant::now();
        let vectors = if query { model.embed_queries(&refs) } else { model.embed(&refs) };
        embed += begun.elapsed();
        match vectors {
            Ok(vectors) => sink.write(&vectors)?,
            Err(error) => return Ok(refuse(&format!("lines {} to {}: {error}", texts + 1, texts + window.len()))),
        }
        texts += window.len();
    }
    sink.finish()?;
    if args.stats {
        let ms = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        let stats = json!({"texts": texts, "tokens": model.tokens(), "load_ms": ms(load), "embed_ms": ms(embed)});
        note(&stats.to_string());
    }
    Ok(DONE)
}

/// The model, loaded, and how long that took.
fn open(global: &Global, args: &EmbedArgs) -> Result<Result<(Bert, Duration), Bad>, Box<dyn std::error::Error + Send + Sync>> {
    let config = if global.config.exists() { Some(global.config()?) } else { None };
    let configured = config.as_ref().and_then(|config| config.embed.model()).unwrap_or(DEFAULT_MODEL);
    let name = match args.model.as_deref().map(str::parse::<Choice>) {
        None => configured.to_owned(),
        Some(Ok(Choice::Model(name))) => name,
        Some(Ok(Choice::Off | Choice::Hash | Choice::HashOf(_))) => {
            return Ok(Err(Bad("--model: `off` and `hash` are no models".to_owned())));
        }
        Some(Err(error)) => return Ok(Err(Bad(error.to_string()))),
    };
    let precision = args.precision.or(config.as_ref().map(|config| config.precision)).unwrap_or(DEFAULT_PRECISION);
    let dir = fetch::model(global, config.as_ref(), &name)?;
    let begun = Instant::now();
    let opened = manifest::builtin(&name).and_then(|manifest| {
        let mut model = Bert::open(manifest, precision, &dir)?;
        if let Some(threads) = args.threads {
            model = model.with_threads(threads);
        }
        model.load()?;
        Ok(model)
    });
    Ok(opened.map(|model| (model, begun.elapsed())).map_err(|error| Bad(error.to_string())))
}

/// The next texts, `most` at once; none when all have come. `before` is how many came already.
fn window(
    lines: &mut impl Iterator<Item = std::io::Result<String>>,
    before: usize,
    most: usize,
) -> std::io::Result<Result<Vec<String>, Bad>> {
    let (mut texts, mut bytes) = (Vec::new(), 0);
    while texts.len() < most && bytes < WINDOW_BYTES {
        let Some(line) = lines.next() else { break };
        let line = line?;
        match serde_json::from_str::<String>(&line) {
            Ok(text) => {
                bytes += text.len();
                texts.push(text);
            }
            Err(error) => return Ok(Err(Bad(format!("line {} is no JSON string: {error}", before + texts.len() + 1)))),
        }
    }
    Ok(Ok(texts))
}

/// Where vectors go.
struct Sink {
    out: BufWriter<std::io::StdoutLock<'static>>,
    /// What waits for its header, for `npy`.
    waiting: Option<Vec<u8>>,
    dimensions: usize,
}

impl Sink {
    fn new(npy: bool, dimensions: usize) -> Self {
        Self { out: BufWriter::new(std::io::stdout().lock()), waiting: npy.then(Vec::new), dimensions }
    }

    fn write(&mut self, vectors: &[Vec<f32>]) -> std::io::Result<()> {
        for vector in vectors {
            match &mut self.waiting {
                Some(bytes) => bytes.extend(vector.iter().flat_map(|number| number.to_le_bytes())),
                None => {
                    serde_json::to_writer(&mut self.out, vector)?;
                    self.out.write_all(b"\n")?;
                }
            }
        }
        self.out.flush()
    }

    fn finish(&mut self) -> std::io::Result<()> {
        if let Some(bytes) = self.waiting.take() {
            self.out.write_all(&npy_header(bytes.len() / 4 / self.dimensions, self.dimensions))?;
            self.out.write_all(&bytes)?;
        }
        self.out.flush()
    }
}

/// The header of a NumPy file, version 1.0: `f32`, row after row. It fills 128 bytes, which is a multiple of the 64 that the format asks for.
fn npy_header(rows: usize, columns: usize) -> Vec<u8> {
    const LENGTH: usize = 128;
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    header.extend(((LENGTH - 10) as u16).to_le_bytes());
    header.extend(text.as_bytes());
    header.resize(LENGTH - 1, b' ');
    header.push(b'\n');
    header
}

fn refuse(message: &str) -> u8 {
    note(&format!("error: {message}"));
    BAD_INPUT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_holds_texts_until_it_is_full_and_names_a_bad_line() {
        let given = |lines: &[&str]| {
            let mut lines = lines.iter().map(|line| Ok((*line).to_owned()));
            window(&mut lines, 7, WINDOW_TEXTS).unwrap().map_err(|Bad(message)| message)
        };
        assert_eq!(given(&["\"a\"", "\"\"", "\"\\u00e9\\n\""]), Ok(vec!["a".to_owned(), String::new(), "é\n".to_owned()]));
        assert_eq!(given(&[]), Ok(Vec::new()));
        assert!(given(&["\"a\"", "a"]).unwrap_err().contains("line 9"));
        let mut endless = std::iter::repeat_with(|| Ok("\"a\"".to_owned()));
        assert_eq!(window(&mut endless, 0, WINDOW_TEXTS).unwrap().map(|texts| texts.len()).ok(), Some(WINDOW_TEXTS));
    }

    #[test]
    fn the_header_is_what_numpy_reads() {
        let header = npy_header(1_500, 384);
        assert_eq!((header.len(), header[127]), (128, b'\n'));
        assert_eq!(u16::from_le_bytes([header[8], header[9]]), 118);
        assert!(String::from_utf8_lossy(&header[10..]).contains("(1500, 384)"));
    }
}
