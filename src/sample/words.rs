//! Invented words: names of people and things, titles, sentences. Knows no record.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::distributions::{chance, long_tail, zipf};

/// Words of titles and texts, the common ones first: they are drawn by Zipf's law.
const WORDS: [&str; 96] = [
    "the",
    "a",
    "of",
    "and",
    "to",
    "in",
    "his",
    "her",
    "with",
    "who",
    "is",
    "on",
    "from",
    "for",
    "an",
    "young",
    "but",
    "old",
    "man",
    "woman",
    "life",
    "love",
    "town",
    "night",
    "family",
    "house",
    "finds",
    "city",
    "war",
    "when",
    "world",
    "must",
    "secret",
    "friend",
    "lost",
    "murder",
    "father",
    "daughter",
    "island",
    "train",
    "winter",
    "journey",
    "stranger",
    "river",
    "truth",
    "letter",
    "doctor",
    "village",
    "sea",
    "dream",
    "soldier",
    "mother",
    "thief",
    "returns",
    "mountain",
    "summer",
    "ghost",
    "detective",
    "singer",
    "escape",
    "garden",
    "last",
    "money",
    "promise",
    "storm",
    "brother",
    "theatre",
    "forest",
    "machine",
    "wedding",
    "clock",
    "shadow",
    "robot",
    "harbour",
    "painter",
    "queen",
    "prison",
    "mirror",
    "circus",
    "comet",
    "teacher",
    "bridge",
    "desert",
    "orchestra",
    "widow",
    "lighthouse",
    "gambler",
    "violin",
    "factory",
    "masquerade",
    "wolf",
    "balloon",
    "archive",
    "glacier",
    "puppet",
    "labyrinth",
];

const SYLLABLES: [&str; 32] = [
    "an", "bel", "cor", "da", "el", "fen", "gar", "hol", "ir", "jo", "ka", "lin", "mar", "nel", "or", "pe", "quin", "ros", "sta",
    "tor", "ul", "ver", "wen", "xan", "yor", "zel", "ba", "mi", "ro", "su", "ti", "lo",
];

pub(super) fn keyword(number: u64) -> String {
    let n = number as usize;
    let one = WORDS[15 + n % 81];
    match n / 81 {
        0 => one.to_owned(),
        other => format!("{one} {}", syllables(other as u64 - 1)),
    }
}

pub(super) fn company(number: u64) -> String {
    let mut name = syllables(number);
    name[..1].make_ascii_uppercase();
    name.push_str(" Pictures");
    name
}

/// A word that is different for every number.
fn syllables(mut number: u64) -> String {
    let mut word = String::new();
    loop {
        word.push_str(SYLLABLES[(number % 32) as usize]);
        number /= 32;
        if number == 0 {
            return word;
        }
        number -= 1;
    }
}

pub(super) fn name(rng: &mut ChaCha8Rng) -> String {
    let mut name = String::with_capacity(12);
    for _ in 0..rng.random_range(2..4_u32) {
        name.push_str(SYLLABLES[rng.random_range(0..SYLLABLES.len())]);
    }
    name[..1].make_ascii_uppercase();
    name
}

fn word(rng: &mut ChaCha8Rng) -> &'static str {
    WORDS[zipf(rng, WORDS.len() as u64) as usize]
}

pub(super) fn title(rng: &mut ChaCha8Rng) -> String {
    let mut title = format!("The {} {}", name(rng), WORDS[rng.random_range(15..WORDS.len())]);
    if chance(rng, 0.2) {
        title.push_str(" of ");
        title.push_str(&name(rng));
    }
    title
}

pub(super) fn sentence(rng: &mut ChaCha8Rng, words: u64) -> String {
    let mut sentence = name(rng);
    for _ in 1..words {
        sentence.push(' ');
        sentence.push_str(word(rng));
    }
    sentence.push('.');
    sentence
}

/// Sentences that make about so many words, with a long tail.
pub(super) fn text(rng: &mut ChaCha8Rng, median_words: f64) -> String {
    let mut left = long_tail(rng, median_words, 0.5, 400).max(5);
    let mut text = String::with_capacity(left as usize * 6);
    while left > 0 {
        let words = rng.random_range(6..18).min(left);
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&sentence(rng, words));
        left -= words;
    }
    text
}
