//! Errors that point at a place in a Dockerfile.

use std::error::Error;
use std::fmt;

/// How much of a source line a message shows, in characters.
const SHOWN: usize = 160;

/// Where something stands in a file: everything counts from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span {
    /// The line where it begins.
    pub line: u32,
    /// The column where it begins.
    pub column: u32,
    /// How many characters of that line it takes, at least one.
    pub width: u32,
    /// The line where it ends.
    pub last_line: u32,
}

/// A span with the line's text, as messages show it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// The file's name as the user knows it.
    pub file: String,
    /// Where in the file.
    pub span: Span,
    /// The source line.
    pub text: String,
}

/// An error with the place that it is about and, where there is one, what to do.
///
/// The message has four parts: `file:line:column: what is wrong: why`, the source line, a caret below the place, and a hint.
#[derive(Debug)]
pub struct Pointed<E> {
    /// Where.
    pub place: Box<Place>,
    /// What.
    pub fault: Box<E>,
    /// What to do.
    pub hint: Option<String>,
}

impl<E: Error> fmt::Display for Pointed<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { file, span, text } = &*self.place;
        write!(f, "{file}:{}:{}: {}", span.line, span.column, self.fault)?;
        // the reasons belong in front of the source line, so this error has no source of its own
        let mut next = self.fault.source();
        while let Some(reason) = next {
            write!(f, ": {reason}")?;
            next = reason.source();
        }
        if !text.is_empty() {
            let number = span.line.to_string();
            let (shown, before, width) = window(text, *span);
            write!(f, "\n  {number} | {shown}\n  {:blank$} | {before}^", "", blank = number.len())?;
            for _ in 1..width {
                f.write_str("~")?;
            }
        }
        match &self.hint {
            Some(hint) => write!(f, "\n  help: {hint}"),
            None => Ok(()),
        }
    }
}

impl<E: Error> Error for Pointed<E> {}

/// The part of a line that is shown, what stands before the caret (tabs stay tabs), and the caret's width.
fn window(text: &str, span: Span) -> (String, String, usize) {
    let at = (span.column.max(1) - 1) as usize;
    let skip = at.saturating_sub(SHOWN / 2);
    let clean = |c: char| if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c };
    let shown: String = text.chars().skip(skip).take(SHOWN).map(clean).collect();
    let length = shown.chars().count();
    let before: String = shown.chars().take(at - skip).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
    let room = length.saturating_sub(at - skip).max(1);
    (shown, before, (span.width.max(1) as usize).min(room))
}

/// The word of `known` that is nearest to `word`, if one is near enough to be meant.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word: Vec<char> = word.chars().take(64).flat_map(char::to_lowercase).collect();
    let close = known.into_iter().map(|name| {
        let name_characters: Vec<char> = name.chars().flat_map(char::to_lowercase).collect();
        (distance(&word, &name_characters), name)
    });
    close.min().filter(|(distance, name)| *distance <= (name.chars().count() / 3).max(1)).map(|(_, name)| name)
}

/// How many letters have to be added, removed, changed or swapped with their neighbour.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for (i, from) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, to) in b.iter().enumerate() {
            let mut best = (rows[i][j] + usize::from(from != to)).min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i - 1] == *to && b[j - 1] == *from {
                best = best.min(rows[i - 1][j - 1] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_the_one_meant() {
        let known = ["ADD", "RUN", "ENTRYPOINT", "ENV", "COPY"];
        assert_eq!(nearest("RNU", known), Some("RUN"));
        assert_eq!(nearest("entripoint", known), Some("ENTRYPOINT"));
        assert_eq!(nearest("CPY", known), Some("COPY"));
        assert_eq!(nearest("XYZZY", known), None);
    }

    #[test]
    fn a_message_shows_line_and_caret() {
        let span = Span { line: 12, column: 3, width: 3, last_line: 12 };
        let place = Place { file: "Dockerfile".into(), span, text: "a bcd e".into() };
        let error = Pointed { place: Box::new(place), fault: Box::new(fmt::Error), hint: Some("drop it".into()) };
        let expected = format!("Dockerfile:12:3: {}\n  12 | a bcd e\n     |   ^~~\n  help: drop it", fmt::Error);
        assert_eq!(error.to_string(), expected);
    }
}
