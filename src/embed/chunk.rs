//! Where a text that is longer than a model takes is cut: at the end of a sentence, else at white space, else between words. Sentences
//! and words are those of Unicode (UAX 29). Knows tokens by their places alone, so that every embedder cuts by the same rules.

use std::iter::Peekable;
use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation;

/// So many characters on end that are no letters and no digits part sentences, whatever they are. It also keeps a long row of them from
/// being looked through again at each of its characters.
const MARKS: usize = 64;

/// How good a place before a token is for a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Border {
    /// Inside a word.
    Inside,
    /// Between two words that nothing parts, or before a punctuation mark (UAX 29).
    Word,
    /// After white space.
    Space,
    /// Where a sentence or a line begins (UAX 29).
    Sentence,
}

/// One token's place in its text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token {
    start: usize,
    border: Border,
}

/// Whether nothing in the text can be seen: no model can tell such texts apart.
pub(super) fn blank(text: &str) -> bool {
    text.chars().all(|c| {
        c.is_whitespace()
            || c.is_control()
            || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2064}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    })
}

/// The tokens of a text from their byte offsets.
pub(super) fn tokens(text: &str, places: impl Iterator<Item = Range<usize>>) -> Vec<Token> {
    let mut sentences = sentence_starts(text).into_iter().peekable();
    let mut words = text.split_word_bound_indices().map(|(at, _)| at).peekable();
    let mut out: Vec<Token> = Vec::new();
    let (mut floor, mut ended) = (0, 0);
    for place in places {
        let start = text.floor_char_boundary(place.start).max(floor);
        let end = text.floor_char_boundary(place.end).max(start);
        // Some tokenizers count the space before a word to it.
        let start = end - text[start..end].trim_start().len();
        let gap = ended.min(start)..start;
        // Both are asked each time, because they move on.
        let (sentence, word) = (begins_in(&mut sentences, &gap), begins_in(&mut words, &gap));
        let border = if out.is_empty() || sentence {
            Border::Sentence
        } else if text[gap].contains(char::is_whitespace) {
            Border::Space
        } else if word {
            Border::Word
        } else {
            Border::Inside
        };
        out.push(Token { start, border });
        (floor, ended) = (start, end);
    }
    out
}

/// Whether one of the places, which rise, lies in a gap or at its end. Gaps rise too.
fn begins_in(places: &mut Peekable<impl Iterator<Item = usize>>, gap: &Range<usize>) -> bool {
    while places.next_if(|place| *place < gap.start).is_some() {}
    places.peek().is_some_and(|place| *place <= gap.end)
}

/// Where the sentences of a text begin.
fn sentence_starts(text: &str) -> Vec<usize> {
    let mut starts = Vec::new();
    let mut look = |part: Range<usize>| {
        starts.extend(text[part.clone()].split_sentence_bound_indices().map(|(at, _)| part.start + at));
    };
    let (mut from, mut marks) = (0, 0);
    for (at, c) in text.char_indices() {
        if c.is_alphanumeric() {
            if marks >= MARKS {
                from = at;
            }
            marks = 0;
            continue;
        }
        marks += 1;
        if marks == MARKS {
            look(from..at);
        }
    }
    if marks < MARKS {
        look(from..text.len());
    }
    starts
}

/// Cuts a text into pieces of at most `limit` tokens, of which neighbours share at most `overlap`.
pub(super) fn split(text: &str, tokens: &[Token], limit: usize, overlap: usize) -> Vec<Range<usize>> {
    if blank(text) {
        return Vec::new();
    }
    if tokens.len() <= limit {
        return std::iter::once(0..text.len()).collect();
    }
    let mut pieces = Vec::new();
    let mut from = 0;
    loop {
        let start = if from == 0 { 0 } else { tokens[from].start };
        if tokens.len() - from <= limit {
            pieces.push(start..text.len());
            return pieces;
        }
        let cut = best(tokens, from + limit / 2 + 1..from + limit + 1, true).unwrap_or(from + limit);
        pieces.push(start..start + text[start..tokens[cut].start].trim_end().len());
        // The overlap is a quarter of the limit at most and the cut lies behind the middle, so this moves on.
        from = best(tokens, cut.saturating_sub(overlap).max(from + 1)..cut, false).unwrap_or(cut);
    }
}

/// The token of `range` that has the best border before it, the last or the first of equals; none where all are inside words.
fn best(tokens: &[Token], range: Range<usize>, last: bool) -> Option<usize> {
    let better = |a: &usize, b: &usize| {
        let order = tokens[*a].border.cmp(&tokens[*b].border);
        order.then(if last { a.cmp(b) } else { b.cmp(a) })
    };
    range.max_by(better).filter(|i| tokens[*i].border > Border::Inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens as the hash embedder sees them.
    fn words(text: &str) -> Vec<Token> {
        super::super::hash::words(text)
    }

    fn pieces(text: &str, limit: usize, overlap: usize) -> Vec<&str> {
        split(text, &words(text), limit, overlap).into_iter().map(|r| &text[r]).collect()
    }

    #[test]
    fn a_text_within_the_limit_is_one_piece_with_everything() {
        assert_eq!(pieces("  one two\n", 2, 0), ["  one two\n"]);
        assert_eq!(pieces("a\u{301}", 1, 0), ["a\u{301}"]);
    }

    #[test]
    fn blank_texts_have_no_pieces() {
        for text in ["", " ", "\n\t\r\n", "\u{a0}\u{2003}", "\u{200b}\u{feff}", "\0\u{1}", "\u{200e} \u{ad}"] {
            assert!(pieces(text, 4, 1).is_empty(), "{text:?}");
        }
    }

    #[test]
    fn cuts_fall_on_sentences_before_spaces() {
        let text = "One two three. Four five six seven. Eight nine ten eleven twelve.";
        assert_eq!(pieces(text, 8, 0), ["One two three. Four five six seven.", "Eight nine ten eleven twelve."]);
        let lines = "a b c d e\nf g h i j k";
        assert_eq!(pieces(lines, 6, 0), ["a b c d e", "f g h i j k"]);
        assert_eq!(pieces("He said “go on.” Then he went away again", 6, 0)[0], "He said “go on.”");
        // A full stop inside a number or before a small letter ends nothing.
        let text = "We shut on all their days. We open at 9.30 a.m. on none of them, as we said.";
        assert_eq!(pieces(text, 11, 0)[0], "We shut on all their days.");
    }

    #[test]
    fn scripts_without_spaces_are_cut_between_sentences_then_words() {
        let each = |text: &str| -> Vec<Token> { tokens(text, text.char_indices().map(|(at, c)| at..at + c.len_utf8())) };
        let text = "東京は夜の七時。雨が降る。あしたは晴れ";
        let cuts: Vec<&str> = split(text, &each(text), 15, 0).into_iter().map(|r| &text[r]).collect();
        assert_eq!(cuts, ["東京は夜の七時。雨が降る。", "あしたは晴れ"]);
        // No cut goes through a word where there is a border of words in reach.
        let text = "ab-cd_ef/ghij";
        let cuts: Vec<&str> = split(text, &each(text), 10, 0).into_iter().map(|r| &text[r]).collect();
        assert_eq!(cuts, ["ab-cd_ef/", "ghij"]);
    }

    #[test]
    fn a_space_that_is_counted_to_a_word_is_before_it() {
        let text = "One two. Three four";
        let places = [0..3, 3..7, 7..8, 8..14, 14..19];
        let borders: Vec<(usize, Border)> =
            tokens(text, places.into_iter()).into_iter().map(|token| (token.start, token.border)).collect();
        let wanted = [(0, Border::Sentence), (4, Border::Space), (7, Border::Word), (9, Border::Sentence), (15, Border::Space)];
        assert_eq!(borders, wanted);
    }

    #[test]
    fn long_rows_of_marks_part_sentences_and_are_looked_through_once() {
        for mark in [" ", ")", "\u{2329}", "-", "\u{301}", ") "] {
            let text = format!("One. two{}three. Four", mark.repeat(1 << 20));
            let starts = sentence_starts(&text);
            let at = |word: &str| text.find(word).unwrap();
            assert!(starts.contains(&0) && starts.contains(&at("three")) && starts.contains(&at("Four")), "{mark:?}: {starts:?}");
            assert!(!starts.contains(&at("two")), "{mark:?}");
            let full = format!(".{}", mark.repeat(1 << 20));
            assert!(sentence_starts(&full).len() <= 3, "{mark:?}");
        }
    }

    #[test]
    fn neighbours_overlap_and_cover_everything() {
        let text: String = (0..1000).map(|i| format!("w{i} ")).collect();
        let cuts = split(&text, &words(&text), 100, 20);
        assert_eq!(cuts[0].start, 0);
        assert_eq!(cuts[cuts.len() - 1].end, text.len());
        for pair in cuts.windows(2) {
            let shared = text[pair[1].start..pair[0].end].split_whitespace().count();
            assert_eq!(shared, 20, "{pair:?}");
        }
    }
}
