//! From bytes to logical lines: directives, comments, continuation lines, here-documents.

use std::collections::BTreeMap;

use super::error::{Place, Pointed, Span};
use super::expand::{Expander, Quotes};
use super::fault::{DockerfileError, Fault};
use super::limits;

/// The parser directives at the top of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directives {
    /// The front end that the file asks for, such as `docker/dockerfile:1`; we are always the front end ourselves.
    pub syntax: Option<String>,
    /// The escape character, `\` or a backtick.
    pub escape: char,
    /// What stands after `check=`.
    pub check: Option<String>,
}

impl Default for Directives {
    fn default() -> Self {
        Self { syntax: None, escape: '\\', check: None }
    }
}

/// A here-document.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Heredoc {
    /// Its delimiter without quotes; for COPY and ADD the file's name.
    pub name: String,
    /// Its lines as they stand there, each with its end.
    pub contents: String,
    /// Whether variables are replaced in it: its delimiter had no quotes.
    pub expand: Expansion,
    /// Whether leading tabs go (`<<-`).
    pub tabs: Tabs,
}

/// Whether variables are replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Expansion {
    /// They are.
    Yes,
    /// They are not.
    No,
}

/// What happens to tabs in front of a here-document's lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tabs {
    /// They stay.
    Keep,
    /// They go.
    Strip,
}

impl Heredoc {
    /// The contents as a program sees them.
    #[must_use]
    pub fn text(&self) -> String {
        match self.tabs {
            Tabs::Keep => self.contents.clone(),
            Tabs::Strip => self.contents.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect(),
        }
    }
}

/// The file's lines, for messages.
#[derive(Debug, Clone, Default)]
pub(crate) struct Source {
    file: String,
    lines: Vec<String>,
    /// Lines with bytes that are no UTF-8.
    broken: Vec<bool>,
}

/// One instruction's text, continuation lines joined.
#[derive(Debug, Clone)]
pub(crate) struct Logical {
    pub(crate) text: String,
    /// Where in `text` which physical place begins: offset, line, column.
    pieces: Vec<(usize, u32, u32)>,
    pub(crate) last_line: u32,
    pub(crate) heredocs: Vec<Heredoc>,
    /// The first empty line among those that continue it.
    pub(crate) gap: Option<u32>,
}

impl Logical {
    /// The place of `width` bytes at this offset.
    pub(crate) fn span(&self, offset: usize, width: usize) -> Span {
        let offset = offset.min(self.text.len());
        let after = self.pieces.partition_point(|(at, ..)| *at <= offset);
        let (at, line, column) = self.pieces.get(after.saturating_sub(1)).copied().unwrap_or((0, 1, 1));
        let count = |from: usize, to: usize| {
            let characters = self.text.get(from..to).map_or(0, |text| text.chars().count());
            u32::try_from(characters).unwrap_or(u32::MAX)
        };
        // a caret stays on its line
        let end = self.pieces.get(after).map_or(self.text.len(), |(at, ..)| *at);
        let to = (offset + width).min(end).max(offset);
        Span { line, column: column + count(at, offset), width: count(offset, to).max(1), last_line: self.last_line }
    }
}

impl Source {
    pub(crate) fn new(file: &str, bytes: &[u8]) -> Result<Self, DockerfileError> {
        let mut source = Self { file: file.to_owned(), ..Self::default() };
        if bytes.len() > limits::FILE_BYTES {
            let fault = Fault::Limit { what: "the file's bytes", limit: limits::FILE_BYTES };
            return Err(source.error(Span { line: 1, column: 1, width: 1, last_line: 1 }, fault));
        }
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        for line in bytes.split(|byte| *byte == b'\n') {
            source.broken.push(std::str::from_utf8(line).is_err());
            source.lines.push(String::from_utf8_lossy(line).into_owned());
            if line.len() > limits::LINE_BYTES {
                let line = u32::try_from(source.lines.len()).unwrap_or(u32::MAX);
                let fault = Fault::Limit { what: "the line's bytes", limit: limits::LINE_BYTES };
                return Err(source.error(Span { line, column: 1, width: 1, last_line: line }, fault));
            }
        }
        Ok(source)
    }

    pub(crate) fn place(&self, span: Span) -> Place {
        let text = self.lines.get(span.line.saturating_sub(1) as usize).map_or("", |line| line.trim_end());
        Place { file: self.file.clone(), span, text: text.to_owned() }
    }

    /// How many lines there are; what stands behind the last line end is none if it is empty.
    pub(crate) fn count(&self) -> u32 {
        let last = self.lines.last().is_some_and(String::is_empty);
        u32::try_from(self.lines.len() - usize::from(last)).unwrap_or(u32::MAX)
    }

    pub(crate) fn error(&self, span: Span, fault: Fault) -> DockerfileError {
        Pointed { place: Box::new(self.place(span)), fault: Box::new(fault), hint: None }
    }

    /// Where in an instruction this word stands, if it can be found there.
    pub(crate) fn find(&self, span: Span, word: &str) -> Option<Span> {
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        if word.is_empty() {
            return None;
        }
        (span.line..=span.last_line).find_map(|line| {
            let text = self.lines.get((line - 1) as usize)?;
            // not within the instruction's own name
            let from = if line == span.line { text.trim_start().find(char::is_whitespace)? } else { 0 };
            let from = from + if line == span.line { text.len() - text.trim_start().len() } else { 0 };
            let at = from + text[from..].find(word)?;
            let (column, width) = (number(text[..at].chars().count() + 1), number(word.chars().count()));
            Some(Span { line, column, width, last_line: span.last_line })
        })
    }

    fn line_error(&self, line: usize, fault: Fault) -> DockerfileError {
        let text = self.lines.get(line).map_or("", |line| line.trim_end());
        let blank = text.chars().take_while(|c| c.is_whitespace()).count();
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let width = number(text.chars().count().saturating_sub(blank)).max(1);
        let span = Span { line: number(line + 1), column: number(blank + 1), width, last_line: number(line + 1) };
        self.error(span, fault)
    }

    /// The directives, and how many lines they take.
    pub(crate) fn directives(&self) -> Result<(Directives, usize), DockerfileError> {
        let mut directives = Directives::default();
        let mut seen: BTreeMap<String, String> = BTreeMap::new();
        for (number, line) in self.lines.iter().enumerate() {
            let Some((name, value)) = directive(line) else { return Ok((directives, number)) };
            let name = name.to_ascii_lowercase();
            if !["check", "escape", "syntax"].contains(&name.as_str()) {
                return Ok((directives, number));
            }
            if seen.insert(name.clone(), value.to_owned()).is_some() {
                return Err(self.line_error(number, Fault::DirectiveTwice { name }));
            }
            match (name.as_str(), value) {
                ("escape", "\\" | "`") => directives.escape = if value == "`" { '`' } else { '\\' },
                ("escape", _) => return Err(self.line_error(number, Fault::Escape { value: value.to_owned() })),
                ("syntax", _) => directives.syntax = Some(value.to_owned()),
                _ => directives.check = Some(value.to_owned()),
            }
        }
        Ok((directives, self.lines.len()))
    }

    /// The logical lines after the first `skip` lines.
    pub(crate) fn logical(&self, skip: usize, escape: char) -> Result<Vec<Logical>, DockerfileError> {
        let mut out = Vec::new();
        let mut heredocs = 0;
        let mut number = skip;
        while number < self.lines.len() {
            let line = self.lines[number].trim_end_matches('\r');
            let text = line.trim_start();
            if text.is_empty() || text.starts_with('#') {
                number += 1;
                continue;
            }
            let mut logical = self.joined(&mut number, escape)?;
            if logical.text.trim().is_empty() {
                continue;
            }
            self.take_heredocs(&mut logical, &mut number, escape)?;
            heredocs += logical.heredocs.len();
            if heredocs > limits::HEREDOCS {
                let fault = Fault::Limit { what: "here-documents of the file", limit: limits::HEREDOCS };
                return Err(self.error(logical.span(0, 1), fault));
            }
            out.push(logical);
            if out.len() > limits::INSTRUCTIONS {
                let fault = Fault::Limit { what: "instructions of the file", limit: limits::INSTRUCTIONS };
                return Err(self.line_error(number - 1, fault));
            }
        }
        Ok(out)
    }

    /// One line and those that continue it; `number` goes behind them.
    fn joined(&self, number: &mut usize, escape: char) -> Result<Logical, DockerfileError> {
        let mut logical =
            Logical { text: String::new(), pieces: Vec::new(), last_line: 0, heredocs: Vec::new(), gap: None };
        while let Some(raw) = self.lines.get(*number) {
            let line = raw.trim_end_matches('\r');
            let first = logical.pieces.is_empty();
            *number += 1;
            if !first && line.trim_start().starts_with('#') {
                continue;
            }
            if !first && line.trim().is_empty() {
                // what stands behind the file's last line end is no line
                if *number < self.lines.len() {
                    logical.gap.get_or_insert(u32::try_from(*number).unwrap_or(u32::MAX));
                }
                continue;
            }
            if self.broken[*number - 1] {
                return Err(self.line_error(*number - 1, Fault::NotText));
            }
            let blank = if first { line.len() - line.trim_start().len() } else { 0 };
            let count = |text: &str| u32::try_from(text.chars().count()).unwrap_or(u32::MAX);
            let line_number = u32::try_from(*number).unwrap_or(u32::MAX);
            logical.pieces.push((logical.text.len(), line_number, count(&line[..blank]) + 1));
            logical.last_line = line_number;
            match continued(&line[blank..], escape) {
                Some(text) => logical.text.push_str(text),
                None => {
                    logical.text.push_str(&line[blank..]);
                    break;
                }
            }
        }
        Ok(logical)
    }

    fn take_heredocs(&self, logical: &mut Logical, number: &mut usize, escape: char) -> Result<(), DockerfileError> {
        let mut words = logical.text.split_whitespace().map(str::to_ascii_uppercase);
        let first = words.next().unwrap_or_default();
        let instruction = if first == "ONBUILD" { words.next().unwrap_or_default() } else { first };
        if !["ADD", "COPY", "RUN"].contains(&instruction.as_str()) || !logical.text.contains("<<") {
            return Ok(());
        }
        let open = number.saturating_sub(1);
        for (name, expand, tabs) in delimiters(&logical.text, escape) {
            let mut contents = String::new();
            loop {
                let Some(line) = self.lines.get(*number) else {
                    let mut error = self.line_error(open, Fault::HeredocOpen { name: name.clone() });
                    error.hint = Some(format!("a line with nothing but {name} ends it"));
                    return Err(error);
                };
                if self.broken[*number] {
                    return Err(self.line_error(*number, Fault::NotText));
                }
                *number += 1;
                let bare = line.trim_end_matches('\r');
                if name == if tabs == Tabs::Strip { bare.trim_start_matches('\t') } else { bare } {
                    break;
                }
                contents.push_str(line);
                contents.push('\n');
            }
            logical.heredocs.push(Heredoc { name, contents, expand, tabs });
            if logical.heredocs.len() > limits::HEREDOCS {
                let fault = Fault::Limit { what: "here-documents of the file", limit: limits::HEREDOCS };
                return Err(self.line_error(open, fault));
            }
        }
        logical.last_line = u32::try_from(*number).unwrap_or(u32::MAX);
        Ok(())
    }
}

/// `# name = value`.
fn directive(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.trim().strip_prefix('#')?.split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    let word = name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(|c| c.is_ascii_alphanumeric());
    (word && !value.is_empty()).then_some((name, value))
}

/// The line without its escape character at the end, if the next line continues it. Two of them escape each other.
fn continued(line: &str, escape: char) -> Option<&str> {
    let text = line.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    (!text.ends_with(escape)).then_some(text)
}

/// The here-documents that a line opens.
fn delimiters(text: &str, escape: char) -> Vec<(String, Expansion, Tabs)> {
    let nothing = BTreeMap::new();
    let mut expander = Expander { variables: &nothing, escape, quotes: Quotes::Keep };
    // what cannot be split is no here-document; the instruction's own parser says what is wrong with it
    let words = expander.words(&text.replace('$', "_")).unwrap_or_default();
    expander.quotes = Quotes::Remove;
    let mut out = Vec::new();
    for word in words {
        if let Some((raw, tabs)) = opening(&word)
            && let Ok(names) = expander.words(raw)
            && let [name] = &names[..]
        {
            let expand = if raw.contains(['"', '\'', escape]) { Expansion::No } else { Expansion::Yes };
            out.push((name.clone(), expand, tabs));
        }
    }
    out
}

/// `<<NAME` or `<<-NAME`, perhaps behind a file descriptor's number.
pub(crate) fn opening(word: &str) -> Option<(&str, Tabs)> {
    let rest = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
    let (raw, tabs) = rest.strip_prefix('-').map_or((rest, Tabs::Keep), |raw| (raw, Tabs::Strip));
    (!raw.is_empty() && !raw.contains('<')).then_some((raw, tabs))
}
