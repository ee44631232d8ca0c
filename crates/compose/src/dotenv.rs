//! Files of variables, as `.env` and `env_file` are read: quotes, comments, `export`, and variables in values.

use crate::interpolate::Scope;

/// What is wrong in a file of variables.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DotenvError {
    /// A line that is no assignment.
    #[error("line {0}: {1:?} is no name; give NAME=VALUE")]
    Name(usize, String),
    /// A quote that nothing closes.
    #[error("line {0}: the quote {1} is not closed")]
    Quote(usize, char),
    /// A value's variables.
    #[error("line {0}: {1}")]
    Value(usize, String),
}

/// How a file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// With quotes and variables.
    #[default]
    Full,
    /// Values as they stand, as the flag `--env-file` of `run` reads them.
    Raw,
}

/// Reads variables in the order of the file; a name without a value is `None`: the user's own is meant.
///
/// Variables in values are looked up among those above, and then with `lookup`.
///
/// # Errors
/// [`DotenvError`] with the line.
pub fn parse(
    text: &str,
    format: Format,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<(String, Option<String>)>, DotenvError> {
    let mut variables: Vec<(String, Option<String>)> = Vec::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n");
    let mut rest = text.as_str();
    let mut line = 0;
    while !rest.is_empty() {
        line += 1;
        let (this, tail) = rest.split_once('\n').unwrap_or((rest, ""));
        let begun = this.trim_start();
        if begun.is_empty() || begun.starts_with('#') {
            rest = tail;
            continue;
        }
        let begun = match (format, begun.strip_prefix("export")) {
            (Format::Full, Some(after)) if after.starts_with([' ', '\t']) => after.trim_start(),
            _ => begun,
        };
        let separators: &[char] = if format == Format::Raw { &['='] } else { &['=', ':'] };
        let Some(at) = begun.find(separators) else {
            variables.push((name(begun, line)?, None));
            rest = tail;
            continue;
        };
        let name = name(begun.get(..at).unwrap_or_default(), line)?;
        let value = begun.get(at + 1..).unwrap_or_default();
        if format == Format::Raw {
            variables.push((name, Some(value.to_owned())));
            rest = tail;
            continue;
        }
        let known = |asked: &str| {
            // the environment wins over the file, as it does for the file's own names
            let above = || variables.iter().rev().find(|(name, _)| name == asked).and_then(|(_, value)| value.clone());
            lookup(asked).or_else(above)
        };
        let value = value.trim_start_matches([' ', '\t']);
        let quote = value.chars().next().filter(|first| ['"', '\''].contains(first));
        let read = match quote {
            None => {
                rest = tail;
                Scope::new(&known).text(&unquoted(value))
            }
            Some(quote) => {
                // a quoted value may go on over lines
                let whole = rest.get(this.len() - value.len()..).unwrap_or_default();
                let (inner, after) =
                    quoted(whole.get(1..).unwrap_or_default(), quote).ok_or(DotenvError::Quote(line, quote))?;
                let read = if quote == '"' {
                    Scope::new(&known).text(&unescaped(inner))
                } else {
                    Ok(inner.replace("\\'", "'"))
                };
                let begun = line;
                line += inner.matches('\n').count();
                let (trail, next) = after.split_once('\n').unwrap_or((after, ""));
                let trail = trail.trim();
                if !trail.is_empty() && !trail.starts_with('#') {
                    return Err(DotenvError::Value(
                        begun,
                        format!("{trail:?} stands behind the closing quote; remove it"),
                    ));
                }
                rest = next;
                read
            }
        };
        let read = read.map_err(|why| DotenvError::Value(line, why.to_string()))?;
        variables.push((name, Some(read)));
    }
    Ok(variables)
}

fn name(text: &str, line: usize) -> Result<String, DotenvError> {
    let name = text.trim();
    let sound = |letter: char| letter.is_alphanumeric() || "_.-[]".contains(letter);
    if name.is_empty() || !name.chars().all(sound) {
        return Err(DotenvError::Name(line, name.to_owned()));
    }
    Ok(name.to_owned())
}

/// Up to a comment, without white space at the end.
fn unquoted(value: &str) -> String {
    let end = value.find(" #").or_else(|| value.find("\t#")).unwrap_or(value.len());
    let value = if value.starts_with('#') { "" } else { value.get(..end).unwrap_or_default() };
    value.trim_end().to_owned()
}

/// What stands before the closing quote, and behind it.
fn quoted(text: &str, quote: char) -> Option<(&str, &str)> {
    let mut escaped = false;
    for (at, letter) in text.char_indices() {
        if escaped {
            escaped = false;
        } else if letter == '\\' {
            escaped = true;
        } else if letter == quote {
            return Some((text.get(..at)?, text.get(at + 1..)?));
        }
    }
    None
}

fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            out.push(letter);
            continue;
        }
        match letters.next() {
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some('$') => out.push_str("$$"),
            Some(other @ ('"' | '\\')) => out.push(other),
            Some(other) => out.extend(['\\', other]),
            None => out.push('\\'),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<(String, Option<String>)>, DotenvError> {
        parse(text, Format::Full, &|name| (name == "HOME").then(|| "/root".to_owned()))
    }

    #[test]
    fn values_are_read_as_compose_reads_them() {
        let check = |text: &str, name: &str, value: Option<&str>| {
            let read = read(text).unwrap();
            assert_eq!(read.last(), Some(&(name.to_owned(), value.map(str::to_owned))), "{text:?}");
        };
        check("A=1", "A", Some("1"));
        check("# x\n\nexport A = 1 # c", "A", Some("1"));
        check("A=a#b", "A", Some("a#b"));
        check("A='x $HOME # y' # c", "A", Some("x $HOME # y"));
        check("A=\"x $HOME\\n\\\"\\$HOME\"", "A", Some("x /root\n\"$HOME"));
        check("A=1\nB=${A}2\nC=$B-${D:-3}", "C", Some("12-3"));
        check("A=\"one\ntwo\"\nB=3", "B", Some("3"));
        check("A", "A", None);
        check("A=", "A", Some(""));
        check("A: yaml", "A", Some("yaml"));
        check("A=\"k=v; x\"", "A", Some("k=v; x"));
        assert_eq!(read("A='one\ntwo'\nB=3").unwrap()[0].1.as_deref(), Some("one\ntwo"));
        let raw = parse("A=\"$HOME\" # x", Format::Raw, &|_| None).unwrap();
        assert_eq!(raw[0].1.as_deref(), Some("\"$HOME\" # x"));
    }

    #[test]
    fn mistakes_have_lines() {
        assert_eq!(read("A=1\nB C=2").unwrap_err(), DotenvError::Name(2, "B C".to_owned()));
        assert_eq!(read("A=\"x").unwrap_err(), DotenvError::Quote(1, '"'));
        assert!(matches!(read("A=${B").unwrap_err(), DotenvError::Value(1, _)));
    }
}
