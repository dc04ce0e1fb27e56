//! Where a text that is longer than a model takes is cut: at the end of a sentence, else at white space, else between words. Knows
//! tokens by their places alone, so that every embedder cuts by the same rules.

use std::ops::Range;

/// How good a place before a token is for a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Border {
    /// Inside a word.
    Inside,
    /// Between two words that nothing parts, or before a punctuation mark.
    Word,
    /// After white space.
    Space,
    /// Where a sentence or a line begins.
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

/// The tokens of a text from their byte offsets and the number of the word that each is of.
pub(super) fn tokens(text: &str, places: impl Iterator<Item = (Range<usize>, Option<u32>)>) -> Vec<Token> {
    let mut out: Vec<Token> = Vec::new();
    let mut before: Option<(Range<usize>, Option<u32>)> = None;
    for (place, word) in places {
        let floor = before.as_ref().map_or(0, |(previous, _)| previous.start);
        let start = text.floor_char_boundary(place.start).max(floor);
        let border = match &before {
            Some((previous, previous_word)) => {
                let gap = text.floor_char_boundary(previous.end).min(start)..start;
                border(text, gap, word != *previous_word)
            }
            None => Border::Sentence,
        };
        out.push(Token { start, border });
        before = Some((start..place.end.max(start), word));
    }
    out
}

/// Looks back from the end of a gap between two tokens.
fn border(text: &str, gap: Range<usize>, other_word: bool) -> Border {
    let between = &text[gap.clone()];
    if between.contains('\n') {
        return Border::Sentence;
    }
    let spaced = between.contains(char::is_whitespace);
    let closers = |c: char| matches!(c, '"' | '\'' | ')' | ']' | '»' | '”' | '’' | '」' | '』');
    // Few enough characters that a text of nothing but closing quotes stays linear.
    let last = text[..gap.end].trim_end().chars().rev().take(4).find(|c| !closers(*c));
    match last {
        Some('。' | '！' | '？') => Border::Sentence,
        Some('.' | '!' | '?' | '…' | '؟' | '।') if spaced => Border::Sentence,
        _ if spaced => Border::Space,
        _ if other_word => Border::Word,
        _ => Border::Inside,
    }
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
