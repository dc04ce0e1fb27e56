//! The model against its reference and against itself. Fetches the weights when they are not in the cache.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

use proptest::prelude::*;

use super::super::DEFAULT_PRECISION;
use super::super::manifest::{DEFAULT_MODEL, builtin};
use super::*;
use crate::fetch;

fn model_dir() -> PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let wanted = fetch::Wanted { library: false, model: Some(DEFAULT_MODEL.to_owned()) };
        fetch::ensure(&wanted, &fetch::Options::from_env(), &mut |_| {}).unwrap().model_dir.unwrap()
    })
    .clone()
}

fn open_in(precision: Precision) -> Bert {
    Bert::open(builtin(DEFAULT_MODEL).unwrap(), precision, &model_dir()).unwrap()
}

fn open() -> Bert {
    open_in(DEFAULT_PRECISION)
}

/// The reference: 200 texts and what sentence-transformers makes of them.
fn reference() -> (Vec<String>, Vec<Vec<f32>>) {
    let document: serde_json::Value =
        serde_json::from_str(include_str!("../../../tests/reference/all-MiniLM-L6-v2.json")).unwrap();
    let texts: Vec<String> = serde_json::from_value(document["texts"].clone()).unwrap();
    let bytes = include_bytes!("../../../tests/reference/all-MiniLM-L6-v2.f32");
    let floats: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    (texts, floats.chunks(384).map(<[f32]>::to_vec).collect())
}

/// A single piece.
fn one(piece: Range<usize>) -> Vec<Range<usize>> {
    std::iter::once(piece).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
}

fn farthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}

#[test]
fn the_same_text_gives_the_same_bits_alone_in_any_batch_in_any_order_and_on_any_number_of_threads() {
    let (texts, _) = reference();
    let texts: Vec<&str> = texts.iter().map(String::as_str).step_by(4).collect();
    for precision in Precision::ALL {
        let mut model = open_in(precision).with_threads(NonZeroUsize::new(2).unwrap());
        let together = model.embed(&texts).unwrap();
        let mut backwards: Vec<&str> = texts.clone();
        backwards.reverse();
        let mut turned = model.embed(&backwards).unwrap();
        turned.reverse();
        assert_eq!(turned, together, "{precision:?}");
        let short_with_long = model.embed(&[texts[0], texts[49], texts[1]]).unwrap();
        assert_eq!((&short_with_long[0], &short_with_long[1]), (&together[0], &together[49]), "{precision:?}");
        let mut model = open_in(precision).with_threads(NonZeroUsize::MIN);
        assert_eq!(model.embed(&texts).unwrap(), together, "{precision:?}");
        for (text, together) in texts.iter().zip(&together) {
            let alone = model.embed(&[text]).unwrap().remove(0);
            assert_eq!(&alone, together, "{precision:?} {text:?}");
        }
    }
}

#[test]
fn vectors_are_those_of_sentence_transformers_as_near_as_the_precision_is() {
    let (texts, wanted) = reference();
    assert_eq!((texts.len(), wanted.len()), (200, 200));
    let refs: Vec<&str> = texts.iter().map(String::as_str).collect();
    for (precision, each, mean) in
        [(Precision::F32, 0.999_999, 0.999_999_9), (Precision::Bf16, 0.999, 0.999_8), (Precision::Int8, 0.97, 0.99)]
    {
        let mut model = open_in(precision);
        let begun = Instant::now();
        model.load().unwrap();
        let loaded = begun.elapsed();
        let begun = Instant::now();
        let vectors = model.embed(&refs).unwrap();
        let embedded = begun.elapsed();
        let (mut least, mut most, mut sum) = (1.0_f64, 0.0_f32, 0.0);
        for ((text, vector), wanted) in texts.iter().zip(&vectors).zip(&wanted) {
            let cosine = dot(vector, wanted) / (dot(vector, vector) * dot(wanted, wanted)).sqrt();
            (least, sum) = (least.min(cosine), sum + cosine);
            most = most.max(farthest(vector, wanted));
            assert!(cosine >= each, "{precision:?}: {cosine} for {text:?}");
            assert!((dot(vector, vector) - 1.0).abs() < 1e-5);
        }
        assert!(sum / 200.0 >= mean, "{precision:?}: mean {}", sum / 200.0);
        println!("{precision:?}: loaded in {loaded:?}, 200 texts in {embedded:?}, least cosine {least:.9}, farthest {most:.2e}");
        if precision == Precision::F32 {
            assert!(most < 1e-5, "{most}");
            let cat = &vectors[texts.iter().position(|t| t == "The cat sits outside").unwrap()];
            assert!(farthest(&cat[..4], &[0.139_191_12, 0.003_029_11, 0.047_014_75, 0.039_573_8]) < 1e-5);
        }
    }
}

#[test]
fn odd_texts_have_one_piece_or_none_and_a_vector() {
    let mut model = open();
    for text in ["", " \n\t", "\u{200b}\u{200d}\u{feff}", "\0\0", "\u{ad}"] {
        assert!(model.chunk(text).unwrap().is_empty(), "{text:?}");
    }
    for text in ["\u{301}", "a\u{200b}b", "a\0b\u{7}c", "日本語 и русский, עברית عربي", "👨‍👩‍👧‍👦", "[CLS][SEP][PAD]", "ﷺ", "a"]
    {
        assert_eq!(model.chunk(text).unwrap(), one(0..text.len()), "{text:?}");
        let vector = model.embed(&[text]).unwrap().remove(0);
        assert!(vector.iter().all(|x| x.is_finite()) && (dot(&vector, &vector) - 1.0).abs() < 1e-5, "{text:?}");
    }
    assert!(model.embed(&[]).unwrap().is_empty());
}

/// What every cut must keep: order, cover, the limit, and what the pieces may share.
fn check_pieces(model: &Bert, text: &str) {
    let pieces = model.chunk(text).unwrap();
    let limit = model.chunk_limit() + SPECIAL_TOKENS;
    let count = |text: &str| model.count_tokens(text).unwrap();
    if chunk::blank(text) {
        assert!(pieces.is_empty());
        return;
    }
    if count(text) <= limit && text.len() <= BLOCK_BYTES {
        assert_eq!(pieces, one(0..text.len()));
        return;
    }
    assert!(pieces.len() > 1);
    assert_eq!((pieces[0].start, pieces[pieces.len() - 1].end), (0, text.len()));
    for piece in &pieces {
        assert!(count(&text[piece.clone()]) <= limit);
    }
    let places = model.places(text).unwrap();
    for pair in pieces.windows(2) {
        assert!(pair[0].start < pair[1].start && pair[0].end < pair[1].end);
        if pair[1].start < pair[0].end {
            // What is shared is counted as the text has it: a part of a word can have more tokens than it had there. Those that begin
            // with the same character are one, because no piece parts them.
            let begun = places.iter().map(|place| (place.end - text[place.clone()].trim_start().len(), place.end));
            let (from, to) = (pair[1].start, pair[0].end);
            let shared = begun.filter(|(start, end)| *start >= from && *end > from && *end <= to);
            let shared: BTreeSet<usize> = shared.map(|(start, _)| start).collect();
            assert!(shared.len() <= model.manifest.overlap_tokens, "{pair:?} share {} tokens", shared.len());
        } else {
            assert!(text[pair[0].end..pair[1].start].trim().is_empty());
        }
    }
}

const UNITS: [&str; 14] = [
    "word ",
    "日本",
    "a.",
    "\u{200b}x",
    "ﷺ ",
    "ﷺ",
    "é\u{301}\u{302} ",
    "👍",
    "[SEP]",
    "İΐᾢ한 ",
    "(\"x.\") ",
    "한글",
    "\0y\u{7} ",
    "river",
];

#[test]
fn long_texts_are_cut_within_the_limit_and_nothing_is_lost() {
    let model = open();
    let (texts, _) = reference();
    check_pieces(&model, &texts.join(" "));
    check_pieces(&model, &texts.join("\n"));
    check_pieces(&model, &texts.concat());
    for unit in UNITS {
        check_pieces(&model, &unit.repeat(700));
    }
}

#[test]
fn huge_texts_are_cut_whole() {
    let model = open();
    let unit = "It was said, not without reason, that rivers remember. ";
    for times in [20_000, 80_000] {
        let text = unit.repeat(times);
        let begun = Instant::now();
        let pieces = model.chunk(&text).unwrap();
        println!("{} bytes cut in {:?}", text.len(), begun.elapsed());
        assert_eq!((pieces[0].start, pieces[pieces.len() - 1].end), (0, text.len()));
        for pair in pieces.windows(2) {
            // Every cut is before a sentence, and neighbours share two of them.
            assert!(text[pair[1].start..].starts_with("It was") && text[..pair[0].end].ends_with("remember."));
            assert_eq!(text[pair[1].start..pair[0].end].matches("rivers").count(), 2);
        }
    }
    // No token ends these: one piece, though they go through the tokenizer in blocks.
    assert_eq!(model.chunk(&"x".repeat(1 << 20)).unwrap(), one(0..1 << 20));
    let marks = "\u{301}".repeat(1 << 17);
    assert_eq!(model.chunk(&marks).unwrap(), one(0..marks.len()));
}

#[test]
fn a_text_over_the_limit_is_refused_not_cut() {
    let mut model = open();
    let error = model.embed(&[&"word ".repeat(300)]).unwrap_err().to_string();
    assert!(error.contains("302 tokens") && error.contains("256"), "{error}");
}

#[test]
fn damaged_files_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let manifest = builtin(DEFAULT_MODEL).unwrap();
    let error = Bert::open(manifest.clone(), Precision::F32, dir.path()).unwrap_err().to_string();
    assert!(error.contains("config.json") && error.contains("distributary fetch"), "{error}");

    for file in manifest.files.keys() {
        std::fs::copy(model_dir().join(file), dir.path().join(file)).unwrap();
    }
    let weights = dir.path().join("model.safetensors");
    let mut content = std::fs::read(&weights).unwrap();
    *content.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, &content).unwrap();
    let mut model = Bert::open(manifest.clone(), Precision::F32, dir.path()).unwrap();
    let error = model.embed(&["a"]).unwrap_err().to_string();
    assert!(error.contains("model.safetensors") && error.contains("SHA-256") && error.contains("53aa5117"), "{error}");

    content.pop();
    std::fs::write(&weights, &content).unwrap();
    let error = Bert::open(manifest, Precision::F32, dir.path()).unwrap_err().to_string();
    assert!(error.contains("90868375") && error.contains("90868376"), "{error}");
}

fn tiny_dir(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/tiny").join(kind)
}

/// The manifest of a tiny model: random weights, made by `tests/reference/make_tiny.py`.
fn tiny_manifest(kind: &str, pooling: &str, normalize: bool, document: &str, query: &str) -> Manifest {
    let text = format!(
        "name: tiny-{kind}\nsource: make_tiny.py\nrevision: \"1\"\nlicence: Apache-2.0\narchitecture: bert\ndimensions: 32\n\
         pooling: {pooling}\nnormalize: {normalize}\nmax_tokens: 96\noverlap_tokens: 12\n\
         prompts: {{ document: {document:?}, query: {query:?} }}\n\
         layout: {{ layers: 2, heads: 4, inner: 64, vocabulary: 400, positions: 96, activation: gelu, dtype: F32, tokenizer: {kind} }}\n"
    );
    Manifest::parse("tiny", &text).unwrap()
}

fn plain(kind: &str) -> Manifest {
    tiny_manifest(kind, "mean", true, "", "")
}

fn tiny(manifest: Manifest, kind: &str) -> Bert {
    Bert::open(manifest, Precision::F32, &tiny_dir(kind)).unwrap()
}

#[derive(serde::Deserialize)]
struct Rule {
    pooling: String,
    normalize: bool,
    document: String,
    query: String,
}

#[test]
fn every_rule_of_a_manifest_gives_the_vectors_of_transformers() {
    let told: serde_json::Value = serde_json::from_str(include_str!("../../../tests/reference/tiny/tiny.json")).unwrap();
    let texts: Vec<String> = serde_json::from_value(told["texts"].clone()).unwrap();
    let rules: Vec<Rule> = serde_json::from_value(told["rules"].clone()).unwrap();
    let kinds: Vec<String> = serde_json::from_value(told["models"].clone()).unwrap();
    let bytes = include_bytes!("../../../tests/reference/tiny/tiny.f32");
    let numbers: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let mut wanted = numbers.chunks_exact(32);
    let refs: Vec<&str> = texts.iter().map(String::as_str).collect();
    assert_eq!((kinds.len(), rules.len(), wanted.len()), (2, 12, 2 * 12 * 2 * texts.len()));
    for kind in &kinds {
        for Rule { pooling, normalize, document, query } in &rules {
            let mut model = tiny(tiny_manifest(kind, pooling, *normalize, document, query), kind);
            for vectors in [model.embed(&refs).unwrap(), model.embed_queries(&refs).unwrap()] {
                for (text, vector) in texts.iter().zip(vectors) {
                    let wanted = wanted.next().unwrap();
                    let cosine = dot(&vector, wanted) / (dot(&vector, &vector) * dot(wanted, wanted)).sqrt();
                    let off = farthest(&vector, wanted);
                    assert!(
                        cosine >= 0.999_99 && off < 1e-4,
                        "{kind} {pooling} {normalize} {document:?}: {cosine}, {off} for {text:?}"
                    );
                    assert_eq!((dot(&vector, &vector) - 1.0).abs() < 1e-5, *normalize);
                }
            }
        }
    }
}

#[test]
fn both_kinds_of_tokenizer_cut_within_the_limit() {
    for kind in ["wordpiece", "unigram"] {
        let mut model = tiny(tiny_manifest(kind, "mean", true, "passage: ", "query: "), kind);
        for text in ["", " \n\t", "\u{200b}\u{200d}\u{feff}", "\0\0", "\u{ad}"] {
            assert!(model.chunk(text).unwrap().is_empty(), "{kind} {text:?}");
        }
        for unit in UNITS {
            check_pieces(&model, &unit.repeat(700));
            // What is cut can be embedded, behind the prompt too.
            let text = unit.repeat(150);
            let pieces: Vec<&str> = model.chunk(&text).unwrap().into_iter().map(|piece| &text[piece]).collect();
            assert_eq!(model.embed(&pieces).unwrap().len(), pieces.len(), "{kind} {unit:?}");
        }
        // Short enough that one fits into what neighbours share.
        let text = "The river was very old. ".repeat(100);
        let pieces = model.chunk(&text).unwrap();
        assert!(pieces.len() > 5, "{kind}");
        for pair in pieces.windows(2) {
            assert!(text[pair[1].start..].starts_with("The river") && text[..pair[0].end].ends_with("old."), "{kind} {pair:?}");
        }
    }
}

#[test]
fn a_text_of_ten_megabytes_is_cut_whole_by_both_kinds_of_tokenizer() {
    for kind in ["wordpiece", "unigram"] {
        let model = tiny(plain(kind), kind);
        let units = [("The river was very old. ", 10), ("東京は夜の七時。", 1), ("the \u{200b}\u{301}\0 мир ", 1), ("۱ . ) ", 1)];
        for (unit, megabytes) in units {
            let text = unit.repeat((megabytes << 20) / unit.len());
            let begun = Instant::now();
            let pieces = model.chunk(&text).unwrap();
            println!("{kind}: {} bytes of {unit:?} in {} pieces in {:?}", text.len(), pieces.len(), begun.elapsed());
            assert_eq!((pieces[0].start, pieces[pieces.len() - 1].end), (0, text.len()));
            for pair in pieces.windows(2) {
                let parted = pair[0].end..pair[1].start.max(pair[0].end);
                assert!(pair[0].start < pair[1].start && text[parted].trim().is_empty(), "{kind} {unit:?} {pair:?}");
            }
        }
    }
}

/// A tiny model's files, some of them changed, and what opening and loading them with a manifest says.
fn refusal(change: impl Fn(&Path), edit: impl Fn(&mut Manifest)) -> String {
    let dir = tempfile::tempdir().unwrap();
    for file in crate::embed::manifest::FILES {
        std::fs::copy(tiny_dir("wordpiece").join(file), dir.path().join(file)).unwrap();
    }
    change(dir.path());
    let mut manifest = plain("wordpiece");
    edit(&mut manifest);
    let loaded = Bert::open(manifest, Precision::F32, dir.path()).and_then(|mut model| model.load());
    loaded.err().map_or_else(|| "it was taken".to_owned(), |error| error.to_string())
}

fn replaced(file: &'static str, from: &'static str, to: &'static str) -> impl Fn(&Path) {
    move |dir| {
        let text = std::fs::read_to_string(dir.join(file)).unwrap();
        assert!(text.contains(from), "{from}");
        std::fs::write(dir.join(file), text.replace(from, to)).unwrap();
    }
}

fn pooling(text: &'static str) -> impl Fn(&Path) {
    move |dir| {
        std::fs::create_dir(dir.join("1_Pooling")).unwrap();
        std::fs::write(dir.join("1_Pooling/config.json"), text).unwrap();
    }
}

#[test]
fn files_that_are_not_the_manifests_are_refused_with_both_values() {
    let same = |_: &Path| {};
    let as_is = |_: &mut Manifest| {};
    let says = |found: String, wanted: &[&str]| {
        for part in wanted {
            assert!(found.contains(part), "{part}: {found}");
        }
    };
    says(refusal(same, as_is), &["it was taken"]);
    let config = |from, to| refusal(replaced("config.json", from, to), as_is);
    let twice = refusal(replaced("config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3"), |m| m.layout.heads = 8);
    says(twice, &["config.json", "num_hidden_layers is 3", "the manifest says 2", "num_attention_heads is 4", "make_tiny.py"]);
    says(config("\"gelu\"", "\"relu\""), &["hidden_act is relu", "the manifest says gelu"]);
    says(config("\"absolute\"", "\"relative_key\""), &["position_embedding_type is relative_key", "absolute"]);
    says(config("\"hidden_size\": 32", "\"hidden_size\": 64"), &["hidden_size is 64", "the manifest says 32"]);
    says(refusal(same, |m| m.layout.vocabulary = 500), &["vocab_size is 400", "the manifest says 500"]);
    says(refusal(same, |m| m.layout.positions = 512), &["max_position_embeddings is 96", "512"]);
    says(refusal(same, |m| m.layout.dtype = "F16".to_owned()), &["is F32", "the manifest says F16"]);
    let mean = "{\"pooling_mode_cls_token\": false, \"pooling_mode_mean_tokens\": true, \"word_embedding_dimension\": 32}";
    says(refusal(pooling(mean), as_is), &["it was taken"]);
    let cls = "{\"pooling_mode_cls_token\": true, \"pooling_mode_mean_tokens\": false}";
    says(refusal(pooling(cls), as_is), &["1_Pooling/config.json", "pooling_mode_cls_token", "the manifest says pooling mean"]);
    says(refusal(pooling("{\"word_embedding_dimension\": 768}"), as_is), &["768 dimensions", "the manifest says 32"]);
    let other = |dir: &Path| {
        std::fs::copy(tiny_dir("unigram").join("tokenizer.json"), dir.join("tokenizer.json")).unwrap();
    };
    says(refusal(other, as_is), &["tokenizer.json", "unigram", "the manifest says wordpiece"]);
    says(refusal(|dir| std::fs::remove_file(dir.join("config.json")).unwrap(), as_is), &["config.json", "make_tiny.py"]);
    says(refusal(|dir| std::fs::write(dir.join("model.safetensors"), "x").unwrap(), as_is), &["model.safetensors"]);
}

#[test]
fn the_content_of_files_by_path_is_part_of_the_identity() {
    let dir = tempfile::tempdir().unwrap();
    for file in crate::embed::manifest::FILES {
        std::fs::copy(tiny_dir("wordpiece").join(file), dir.path().join(file)).unwrap();
    }
    let open = || Bert::open(plain("wordpiece"), Precision::Bf16, dir.path()).unwrap();
    let mut before = open();
    assert_eq!(plain("wordpiece").precision_of(before.identity()), Some(Precision::Bf16));
    assert_eq!(before.identity(), Bert::open(plain("wordpiece"), Precision::Bf16, &tiny_dir("wordpiece")).unwrap().identity());
    // What says nothing about vectors changes nothing.
    replaced("config.json", "\"transformers_version\"", "\"some_version\"")(dir.path());
    assert_eq!(before.identity(), open().identity());
    let weights = dir.path().join("model.safetensors");
    let mut content = std::fs::read(&weights).unwrap();
    *content.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, &content).unwrap();
    let after = open();
    assert_ne!(before.identity(), after.identity());
    let error = before.load().unwrap_err().to_string();
    assert!(error.contains("model.safetensors") && error.contains("changed"), "{error}");
    replaced("tokenizer.json", "\"river\"", "\"brook\"")(dir.path());
    assert_ne!(after.identity(), open().identity());
}

#[test]
fn batches_keep_every_text_once_within_the_budget() {
    assert_eq!(batches(&[], 100), Vec::<Vec<usize>>::new());
    assert_eq!(batches(&[300], 100), [[0]]);
    assert_eq!(batches(&[10, 50, 40, 5], 100), [vec![1, 2, 0], vec![3]]);
}

proptest! {
    #[test]
    fn batches_hold_for_any_lengths(lengths in prop::collection::vec(0_usize..300, 0..60), budget in 0_usize..600) {
        let made = batches(&lengths, budget);
        let mut seen: Vec<usize> = made.concat();
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
        for batch in &made {
            prop_assert!(batch.len() == 1 || batch.iter().map(|i| lengths[*i]).sum::<usize>() <= budget);
        }
    }

    #[test]
    fn any_text_is_cut_within_the_limit_by_unigrams_too(units in prop::collection::vec("\\PC{1,12}|[a-z]{1,60}|[ .\n\"!。]{1,3}|[\u{0}-\u{1f}\u{200b}\u{301}]{1,3}", 1..80)) {
        static MODEL: OnceLock<Bert> = OnceLock::new();
        check_pieces(MODEL.get_or_init(|| tiny(plain("unigram"), "unigram")), &units.concat());
    }

    #[test]
    fn any_text_is_cut_within_the_limit(units in prop::collection::vec("\\PC{1,12}|[a-z]{1,60}|[ .\n\"!。]{1,3}|[\u{0}-\u{1f}\u{200b}\u{301}]{1,3}", 1..400)) {
        static MODEL: OnceLock<Bert> = OnceLock::new();
        check_pieces(MODEL.get_or_init(open), &units.concat());
    }
}
