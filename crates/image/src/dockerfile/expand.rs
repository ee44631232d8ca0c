//! Variables, quotes and escapes in a word, as the front end of `docker build` understands them.
//!
//! # Source
//! Dockerfile reference, "Environment replacement"; POSIX.1-2017, Shell Command Language, 2.6.2 "Parameter Expansion".

use super::glob::{Glob, GlobError};

/// The longest text that an expansion may give: what one argument of a program may have.
pub const EXPANSION_MAX: usize = 131_072;
/// How deep `${a:-${b:-…}}` may go.
const DEPTH_MAX: usize = 64;
/// How much work one pattern may be.
const STEPS_MAX: usize = 4_000_000;

/// Where the values of variables come from.
pub trait Variables {
    /// The value of `name`, if it is set.
    fn value(&self, name: &str) -> Option<&str>;

    /// Told of `name` where `$name` or `${name}` stands and it is not set.
    fn missed(&self, _name: &str) {}
}

impl Variables for std::collections::BTreeMap<String, String> {
    fn value(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

/// Why a word cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpandError {
    /// A quote without its partner.
    #[error("a {quote} quote is never closed")]
    Quote {
        /// Which.
        quote: &'static str,
    },
    /// `${` without `}`.
    #[error("\"${{\" is never closed with \"}}\"")]
    Open,
    /// `${}` and the like.
    #[error("\"${{\" is not followed by a variable's name")]
    Name,
    /// `${a/b}`.
    #[error("a replacement needs a second \"/\": ${{name/pattern/replacement}}")]
    Slash,
    /// A modifier that is none.
    #[error("\"{modifier}\" is none of the modifiers :- - :+ + :? ? # ## % %% / //")]
    Modifier {
        /// What stands after the name.
        modifier: String,
    },
    /// `${name:?message}` and the variable is not there.
    #[error("{name}: {message}")]
    Required {
        /// The variable.
        name: String,
        /// What the file says about it, or whether it is unset or empty.
        message: String,
    },
    /// A pattern that is none.
    #[error("the pattern \"{pattern}\" cannot be used")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// Why.
        #[source]
        source: GlobError,
    },
    /// Too much of something.
    #[error("{what}: more than the limit of {limit}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How much is allowed.
        limit: usize,
    },
}

/// What to do with quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Quotes {
    /// They group, and go.
    #[default]
    Remove,
    /// They group, and stay, as escapes do.
    Keep,
    /// They are characters as all others: inside of here-documents.
    Ignore,
}

/// Expands words.
#[derive(Debug, Clone, Copy)]
pub struct Expander<'a, V: ?Sized> {
    /// The values.
    pub variables: &'a V,
    /// The escape character, `\` or a backtick.
    pub escape: char,
    /// What to do with quotes.
    pub quotes: Quotes,
}

impl<'a, V: Variables + ?Sized> Expander<'a, V> {
    /// Expands with the usual treatment of quotes.
    pub fn new(variables: &'a V, escape: char) -> Self {
        Self { variables, escape, quotes: Quotes::Remove }
    }

    /// The word with its variables replaced, one text whatever blanks are in it.
    ///
    /// # Errors
    /// [`ExpandError`].
    pub fn word(&self, text: &str) -> Result<String, ExpandError> {
        self.process(text).map(|(word, _)| word)
    }

    /// The words that the text has once variables are replaced; blanks from variables separate, quoted ones do not.
    ///
    /// # Errors
    /// [`ExpandError`].
    pub fn words(&self, text: &str) -> Result<Vec<String>, ExpandError> {
        self.process(text).map(|(_, words)| words)
    }

    fn process(&self, text: &str) -> Result<(String, Vec<String>), ExpandError> {
        let mut walk = Walk { expander: self, text: text.chars().collect(), at: 0, depth: 0, steps: 0 };
        walk.until(None, self.quotes == Quotes::Keep)
    }
}

struct Walk<'a, V: ?Sized> {
    expander: &'a Expander<'a, V>,
    text: Vec<char>,
    at: usize,
    depth: usize,
    steps: usize,
}

/// Words as they grow.
#[derive(Default)]
struct Words {
    word: String,
    words: Vec<String>,
}

impl Words {
    fn character(&mut self, c: char) {
        if !c.is_whitespace() {
            self.word.push(c);
        } else if !self.word.is_empty() {
            self.words.push(std::mem::take(&mut self.word));
        }
    }

    fn finish(mut self) -> Vec<String> {
        if !self.word.is_empty() {
            self.words.push(self.word);
        }
        self.words
    }
}

impl<V: Variables + ?Sized> Walk<'_, V> {
    fn peek(&self) -> Option<char> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        Some(c)
    }

    fn limited(text: &str) -> Result<(), ExpandError> {
        if text.len() > EXPANSION_MAX {
            return Err(ExpandError::Limit { what: "the expanded text's bytes", limit: EXPANSION_MAX });
        }
        Ok(())
    }

    /// Up to `stop`, or to the end.
    fn until(&mut self, stop: Option<char>, raw_escapes: bool) -> Result<(String, Vec<String>), ExpandError> {
        let quotes = self.expander.quotes;
        let (mut result, mut words) = (String::new(), Words::default());
        while let Some(c) = self.next() {
            Self::limited(&result)?;
            match c {
                c if Some(c) == stop => return Ok((result, words.finish())),
                '\'' if quotes != Quotes::Ignore => {
                    let text = self.single_quoted()?;
                    result.push_str(&text);
                    words.word.push_str(&text);
                }
                '"' if quotes != Quotes::Ignore => {
                    let text = self.double_quoted(raw_escapes)?;
                    result.push_str(&text);
                    words.word.push_str(&text);
                }
                '$' => {
                    let text = self.dollar()?;
                    result.push_str(&text);
                    text.chars().for_each(|c| words.character(c));
                }
                c if c == self.expander.escape => {
                    if raw_escapes {
                        result.push(c);
                        words.word.push(c);
                    }
                    if let Some(c) = self.next() {
                        result.push(c);
                        words.word.push(c);
                    }
                }
                c => {
                    result.push(c);
                    words.character(c);
                }
            }
        }
        Self::limited(&result)?;
        if stop.is_some() { Err(ExpandError::Open) } else { Ok((result, words.finish())) }
    }

    fn single_quoted(&mut self) -> Result<String, ExpandError> {
        let keep = self.expander.quotes == Quotes::Keep;
        let mut out = String::from(if keep { "'" } else { "" });
        loop {
            match self.next() {
                None => return Err(ExpandError::Quote { quote: "single" }),
                Some('\'') => {
                    out.push_str(if keep { "'" } else { "" });
                    return Ok(out);
                }
                Some(c) => out.push(c),
            }
        }
    }

    fn double_quoted(&mut self, raw_escapes: bool) -> Result<String, ExpandError> {
        let keep = self.expander.quotes == Quotes::Keep;
        let mut out = String::from(if keep { "\"" } else { "" });
        loop {
            Self::limited(&out)?;
            match self.next() {
                None => return Err(ExpandError::Quote { quote: "double" }),
                Some('"') => {
                    out.push_str(if keep { "\"" } else { "" });
                    return Ok(out);
                }
                Some('$') => out.push_str(&self.dollar()?),
                Some(c) if c == self.expander.escape => {
                    if raw_escapes {
                        out.push(c);
                    }
                    // only what has a meaning here can be escaped; in front of all else the character stays
                    match self.peek() {
                        Some(next) if next == '"' || next == '$' || next == c => {
                            out.push(next);
                            self.at += 1;
                        }
                        Some(_) if !raw_escapes => out.push(c),
                        _ => {}
                    }
                }
                Some(c) => out.push(c),
            }
        }
    }

    /// What stands after a dollar sign.
    fn dollar(&mut self) -> Result<String, ExpandError> {
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok(self.plain(&name));
        }
        self.at += 1;
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(ExpandError::Limit { what: "substitutions inside of substitutions", limit: DEPTH_MAX });
        }
        let out = self.braces();
        self.depth -= 1;
        out
    }

    fn braces(&mut self) -> Result<String, ExpandError> {
        match self.peek() {
            None => return Err(ExpandError::Open),
            Some('{' | '}' | ':') => return Err(ExpandError::Name),
            Some(_) => {}
        }
        let name = self.name();
        let mut modifier = String::new();
        match self.next() {
            None => return Err(ExpandError::Open),
            Some('}') => return Ok(self.plain(&name)),
            Some('/') => return self.replacement(&name),
            Some(c) => modifier.push(c),
        }
        let empty_counts = modifier == ":";
        if empty_counts {
            modifier.extend(self.next());
        }
        let operator = modifier.chars().last().unwrap_or_default();
        if !matches!(operator, '-' | '+' | '?' | '#' | '%') {
            return Err(ExpandError::Modifier { modifier });
        }
        let (word, _) = self.until(Some('}'), matches!(operator, '#' | '%'))?;
        let value = self.value(&name);
        let there = value.as_ref().is_some_and(|value| !(empty_counts && value.is_empty()));
        match operator {
            '-' if there => Ok(value.unwrap_or_default()),
            '-' => Ok(word),
            '+' => Ok(if there { word } else { String::new() }),
            '?' if there => Ok(value.unwrap_or_default()),
            '?' => {
                let state = if value.is_some() { "is empty, and must not be" } else { "is not set, and must be" };
                Err(ExpandError::Required { name, message: if word.is_empty() { state.to_owned() } else { word } })
            }
            end => self.trim(&value.unwrap_or_default(), &word, end),
        }
    }

    /// `#`, `##`, `%`, `%%`.
    fn trim(&mut self, value: &str, word: &str, end: char) -> Result<String, ExpandError> {
        let (longest, pattern) = match word.strip_prefix(end) {
            Some(pattern) => (true, pattern),
            None => (false, word),
        };
        let mut glob = self.pattern(pattern)?;
        let mut text: Vec<char> = value.chars().collect();
        if end == '%' {
            glob = glob.reversed();
            text.reverse();
        }
        let (found, steps) = glob.prefix(&text);
        self.count(steps)?;
        let cut = found.map_or(0, |(short, long)| if longest { long } else { short });
        let mut rest = text.split_off(cut);
        if end == '%' {
            rest.reverse();
        }
        Ok(rest.into_iter().collect())
    }

    /// `/` and `//`; the first slash is read already.
    fn replacement(&mut self, name: &str) -> Result<String, ExpandError> {
        let all = self.peek() == Some('/');
        if all {
            self.at += 1;
        }
        let pattern = match self.until(Some('/'), true) {
            Err(ExpandError::Open) => return Err(ExpandError::Slash),
            other => other?.0,
        };
        let (replacement, _) = self.until(Some('}'), true)?;
        let glob = self.pattern(&pattern)?;
        let text: Vec<char> = self.value(name).unwrap_or_default().chars().collect();
        let (mut out, mut at, mut done) = (String::new(), 0, false);
        while at <= text.len() {
            Self::limited(&out)?;
            let found = if done && !all { None } else { self.at_start(&glob, &text[at..])? };
            match found {
                Some(length) => {
                    out.push_str(&replacement);
                    done = true;
                    // behind an empty match one character goes over as it is
                    if length == 0 {
                        out.extend(text.get(at));
                    }
                    at += length.max(1);
                    if length > 0 && at == text.len() {
                        break;
                    }
                }
                None => {
                    out.extend(text.get(at));
                    at += 1;
                }
            }
        }
        Self::limited(&out)?;
        Ok(out)
    }

    fn at_start(&mut self, glob: &Glob, text: &[char]) -> Result<Option<usize>, ExpandError> {
        let (found, steps) = glob.prefix(text);
        self.count(steps + 1)?;
        Ok(found.map(|(_, longest)| longest))
    }

    fn count(&mut self, steps: usize) -> Result<(), ExpandError> {
        self.steps = self.steps.saturating_add(steps);
        if self.steps > STEPS_MAX {
            return Err(ExpandError::Limit { what: "steps of one pattern", limit: STEPS_MAX });
        }
        Ok(())
    }

    fn pattern(&self, pattern: &str) -> Result<Glob, ExpandError> {
        Glob::substitution(pattern).map_err(|source| ExpandError::Pattern { pattern: pattern.to_owned(), source })
    }

    /// A variable without a word of what it is if it is not set.
    fn plain(&self, name: &str) -> String {
        self.value(name).unwrap_or_else(|| {
            self.expander.variables.missed(name);
            String::new()
        })
    }

    fn value(&self, name: &str) -> Option<String> {
        self.expander.variables.value(name).map(str::to_owned)
    }

    /// A variable's name: letters, digits and underscores; or a number; or one of the shell's special characters.
    fn name(&mut self) -> String {
        let start = self.at;
        match self.peek() {
            Some(c) if c.is_numeric() => {
                while self.peek().is_some_and(char::is_numeric) {
                    self.at += 1;
                }
            }
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => self.at += 1,
            _ => {
                while self.peek().is_some_and(|c| c.is_alphanumeric() || c == '_') {
                    self.at += 1;
                }
            }
        }
        self.text[start..self.at].iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn variables() -> BTreeMap<String, String> {
        [("A", "hello"), ("E", ""), ("P", "/usr/local/lib.tar.gz"), ("S", "two words"), ("Q", "a.b.c")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    }

    fn word(text: &str) -> Result<String, ExpandError> {
        Expander::new(&variables(), '\\').word(text)
    }

    #[test]
    fn every_operator() {
        for (text, expected) in [
            ("$A", "hello"),
            ("${A}x", "hellox"),
            ("$Ax", ""),
            ("$U-$A", "-hello"),
            ("${U:-d}", "d"),
            ("${U-d}", "d"),
            ("${E:-d}", "d"),
            ("${E-d}", ""),
            ("${A:+y}${U:+y}${E:+y}${E+z}", "yz"),
            ("${A:?no}", "hello"),
            ("${E?no}", ""),
            ("${U:-${A}}", "hello"),
            ("${U:-a${V:-b${A}}c}", "abhelloc"),
            ("${P#*/}", "usr/local/lib.tar.gz"),
            ("${P##*/}", "lib.tar.gz"),
            ("${P%.*}", "/usr/local/lib.tar"),
            ("${P%%.*}", "/usr/local/lib"),
            ("${P%/*}", "/usr/local"),
            ("${Q/./-}", "a-b.c"),
            ("${Q//./-}", "a-b-c"),
            ("${Q//[.]/-}", "a.b.c"),
            ("${P//\\//_}", "_usr_local_lib.tar.gz"),
            ("${A/l*/p}", "hep"),
            ("${A/x/p}", "hello"),
            ("${A//l/}", "heo"),
            ("${A#h?l}", "lo"),
            ("'$A'", "$A"),
            ("\"$A's\"", "hello's"),
            ("\\$A", "$A"),
            ("\"\\$A \\x \\\"\"", "$A \\x \""),
            ("a\\ b", "a b"),
            ("$", "$"),
            ("$ {}", "$ {}"),
            ("$1a", "a"),
            ("tail\\", "tail"),
            ("${U:-\\}}", "}"),
        ] {
            assert_eq!(word(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, expected) in [
            ("${", "never closed"),
            ("${A", "never closed"),
            ("${}", "name"),
            ("${:-x}", "name"),
            ("${A:-x", "never closed"),
            ("${A!x}", "modifiers"),
            ("${A:=x}", "modifiers"),
            ("'a", "single quote"),
            ("\"a", "double quote"),
            ("${U:?give it}", "U: give it"),
            ("${U?}", "U: is not set"),
            ("${E:?}", "E: is empty"),
            ("${A/b}", "second \"/\""),
            ("${A#\\x}", "cannot be used"),
        ] {
            assert!(word(text).unwrap_err().to_string().contains(expected), "{text}: {:?}", word(text));
        }
    }

    #[test]
    fn words_split_after_expansion() {
        let words = |text| Expander::new(&variables(), '\\').words(text).unwrap();
        assert_eq!(words("$S x"), ["two", "words", "x"]);
        assert_eq!(words("\"$S\" 'a b'c"), ["two words", "a bc"]);
        assert_eq!(words("  a\\ b  "), ["a b"]);
    }

    #[test]
    fn other_escape_and_heredocs() {
        let variables = variables();
        let mut expander = Expander::new(&variables, '`');
        assert_eq!(expander.word("c:\\dir`$A").as_deref(), Ok("c:\\dir$A"));
        (expander.escape, expander.quotes) = ('\\', Quotes::Ignore);
        assert_eq!(expander.word("it's \"$A\" \\$A").as_deref(), Ok("it's \"hello\" $A"));
        expander.quotes = Quotes::Keep;
        assert_eq!(expander.words("cat <<\"E F\" a\\ b").unwrap(), ["cat", "<<\"E F\"", "a\\ b"]);
    }

    #[test]
    fn bombs_are_refused() {
        let deep = format!("{}{}", "${U:-".repeat(100), "}".repeat(100));
        assert!(matches!(word(&deep), Err(ExpandError::Limit { .. })));
        let wide: BTreeMap<String, String> = [("W".to_owned(), "w".repeat(60_000))].into();
        assert!(matches!(Expander::new(&wide, '\\').word("$W$W$W"), Err(ExpandError::Limit { .. })));
        let pattern = format!("${{W//{}b/x}}", "*w".repeat(100));
        assert!(matches!(Expander::new(&wide, '\\').word(&pattern), Err(ExpandError::Limit { .. })));
    }
}
