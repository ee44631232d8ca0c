//! How the arguments of an instruction are taken apart: flags, words, JSON lists.

use std::ops::Range;

use super::lines::Logical;

/// A flag with its value, and where it stands in the logical line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Flag {
    pub(super) name: String,
    pub(super) value: Option<String>,
    pub(super) at: Range<usize>,
}

/// The first word and where the rest begins.
pub(super) fn first_word(text: &str, from: usize) -> (Range<usize>, usize) {
    let rest = &text[from..];
    let start = from + (rest.len() - rest.trim_start().len());
    let end = text[start..].find(char::is_whitespace).map_or(text.len(), |length| start + length);
    let after = &text[end..];
    (start..end, end + (after.len() - after.trim_start().len()))
}

/// The flags at the start of an instruction's arguments, and where what follows them begins. Quotes and escapes in a
/// flag's value are taken away.
pub(super) fn flags(line: &Logical, from: usize, escape: char) -> (Vec<Flag>, usize) {
    let text = &line.text;
    let mut out = Vec::new();
    let mut at = from;
    while text[at..].starts_with("--") {
        let mut word = String::new();
        let mut quote = None;
        let mut end = text.len();
        let mut rest = text[at..].char_indices();
        while let Some((offset, c)) = rest.next() {
            match (quote, c) {
                (None, c) if c.is_whitespace() => {
                    end = at + offset;
                    break;
                }
                (None, '"' | '\'') => quote = Some(c),
                (Some(open), c) if c == open => quote = None,
                (open, c) if c == escape && open != Some('\'') => word.extend(rest.next().map(|(_, c)| c)),
                (_, c) => word.push(c),
            }
        }
        let after = end + (text[end..].len() - text[end..].trim_start().len());
        if word == "--" {
            return (out, after);
        }
        let (name, value) = match word[2..].split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (word[2..].to_owned(), None),
        };
        out.push(Flag { name, value, at: at..end });
        at = after;
    }
    (out, at)
}

/// Words between blanks, quotes and escapes kept in them; a quoted blank separates nothing.
pub(super) fn quoted_words(text: &str, from: usize, escape: char) -> Vec<Range<usize>> {
    let mut out = Vec::new();
    let mut start = None;
    let mut quote = None;
    let mut rest = text[from..].char_indices().map(|(at, c)| (from + at, c));
    while let Some((at, c)) = rest.next() {
        match (quote, c) {
            (None, c) if c.is_whitespace() => out.extend(start.take().map(|start| start..at)),
            (open, c) => {
                start.get_or_insert(at);
                if c == escape && open != Some('\'') {
                    rest.next();
                } else if open == Some(c) {
                    quote = None;
                } else if open.is_none() && matches!(c, '"' | '\'') {
                    quote = Some(c);
                }
            }
        }
    }
    out.extend(start.map(|start| start..text.len()));
    out
}

/// Words between blanks, whatever quotes they have.
pub(super) fn plain_words(text: &str, from: usize) -> Vec<Range<usize>> {
    let mut out = Vec::new();
    let mut at = from;
    while !text[at..].trim_start().is_empty() {
        let (word, next) = first_word(text, at);
        out.push(word);
        at = next;
    }
    out
}

/// What a text in brackets turns out to be.
pub(super) enum List {
    /// A JSON list of texts.
    Texts(Vec<String>),
    /// A JSON list with something else in it.
    Mixed,
    /// No JSON list.
    None,
}

/// Reads a JSON list.
pub(super) fn list(text: &str) -> List {
    let text = text.trim();
    if !text.starts_with('[') {
        return List::None;
    }
    if let Ok(texts) = serde_json::from_str::<Vec<String>>(text) {
        return List::Texts(texts);
    }
    match serde_json::from_str::<Vec<serde::de::IgnoredAny>>(text) {
        Ok(_) => List::Mixed,
        Err(_) => List::None,
    }
}
