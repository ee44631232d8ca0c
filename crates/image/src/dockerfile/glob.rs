//! One matcher for every kind of pattern that a Dockerfile and its context have.
//!
//! A pattern is a list of steps of a small automaton that walks over the text once, so that no pattern takes more than
//! its length times the text's length, however it was chosen.

/// One step of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token {
    /// This character.
    Character(char),
    /// Any one character that is no separator.
    One,
    /// Any number of characters that are no separators.
    Many,
    /// Any number of any characters.
    Deep,
    /// Nothing, or anything that ends in a slash: stands for itself and the [`Token::Inside`] that follows it.
    Folders,
    /// Inside of what [`Token::Folders`] began.
    Inside,
    /// One character of a set, or none of it.
    Class {
        /// Whether the set says what does not match.
        negated: bool,
        /// From and to.
        ranges: Vec<(char, char)>,
    },
}

/// A pattern ready to match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Glob {
    tokens: Vec<Token>,
    separator: char,
}

/// Why a text is no pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GlobError {
    /// `[` without its end, an empty set, or a backslash at the end.
    #[error("the pattern has a \"[\" without its \"]\", an empty set, or ends in a backslash")]
    Syntax,
    /// A backslash before something that needs none.
    #[error("in a substitution, a backslash may stand before * ? \\ }} and / only, and not before \"{character}\"")]
    Escape {
        /// The character after it.
        character: char,
    },
}

/// Whether `**` has its meaning of "any number of folders".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stars {
    /// As in Go's `filepath.Match`: two stars are as one.
    Plain,
    /// As in `.dockerignore`.
    Double,
}

impl Glob {
    /// A pattern for paths.
    ///
    /// # Errors
    /// [`GlobError::Syntax`].
    ///
    /// # Source
    /// Go's `path/filepath.Match`; Docker's "`.dockerignore` files" for `**`.
    pub(crate) fn path(pattern: &str, stars: Stars) -> Result<Self, GlobError> {
        let mut tokens = Vec::new();
        let mut rest = pattern.chars().peekable();
        while let Some(c) = rest.next() {
            match c {
                '*' if stars == Stars::Double && rest.peek() == Some(&'*') => {
                    rest.next();
                    rest.next_if_eq(&'/');
                    match rest.peek() {
                        None => tokens.push(Token::Deep),
                        Some(_) => tokens.extend([Token::Folders, Token::Inside]),
                    }
                }
                '*' => {
                    if tokens.last() != Some(&Token::Many) {
                        tokens.push(Token::Many);
                    }
                }
                '?' => tokens.push(Token::One),
                '[' => tokens.push(class(&mut rest)?),
                '\\' => tokens.push(Token::Character(rest.next().ok_or(GlobError::Syntax)?)),
                c => tokens.push(Token::Character(c)),
            }
        }
        Ok(Self { tokens, separator: '/' })
    }

    /// A pattern of a substitution such as `${name#pattern}`: stars, question marks, no sets.
    ///
    /// # Errors
    /// [`GlobError::Escape`].
    pub(crate) fn substitution(pattern: &str) -> Result<Self, GlobError> {
        let mut tokens = Vec::new();
        let mut rest = pattern.chars().peekable();
        while let Some(c) = rest.next() {
            match c {
                '*' => {
                    if tokens.last() != Some(&Token::Many) {
                        tokens.push(Token::Many);
                    }
                }
                '?' => tokens.push(Token::One),
                '\\' => match rest.next() {
                    Some(c @ ('}' | '/' | '*' | '?' | '\\')) => tokens.push(Token::Character(c)),
                    other => return Err(GlobError::Escape { character: other.unwrap_or(' ') }),
                },
                c => tokens.push(Token::Character(c)),
            }
        }
        // what stands for anything stands for anything of one line
        Ok(Self { tokens, separator: '\n' })
    }

    /// The same from the end to the start; for patterns without [`Token::Folders`].
    pub(crate) fn reversed(mut self) -> Self {
        self.tokens.reverse();
        self
    }

    /// Whether the whole text matches.
    pub(crate) fn matches(&self, text: &str) -> bool {
        self.run(text.chars(), |_| {}).is_some_and(|ended| ended)
    }

    /// The lengths, in characters, of the shortest and the longest start of `text` that matches, and how many steps it took.
    pub(crate) fn prefix(&self, text: &[char]) -> (Option<(usize, usize)>, usize) {
        let mut found: Option<(usize, usize)> = None;
        let mut steps = 0;
        let mut note = |length: usize| {
            found = Some((found.map_or(length, |(shortest, _)| shortest), length));
        };
        self.run(text.iter().copied().inspect(|_| steps += self.tokens.len() + 1), &mut note);
        (found, steps)
    }

    /// Walks over the text; tells each length at which the pattern is complete. The end is `None` when nothing can
    /// match any more, and otherwise whether the pattern is complete at the text's end.
    fn run(&self, text: impl Iterator<Item = char>, mut complete: impl FnMut(usize)) -> Option<bool> {
        let end = self.tokens.len();
        let mut now = vec![false; end + 1];
        let mut next = vec![false; end + 1];
        now[0] = true;
        self.skip(&mut now);
        if now[end] {
            complete(0);
        }
        for (length, c) in text.enumerate() {
            next.fill(false);
            let mut alive = false;
            for (at, token) in self.tokens.iter().enumerate().filter(|(at, _)| now[*at]) {
                alive = true;
                let (stays, goes) = match token {
                    Token::Character(expected) => (false, *expected == c),
                    Token::One => (false, c != self.separator),
                    Token::Many => (c != self.separator, false),
                    Token::Deep => (true, false),
                    Token::Folders => (false, false),
                    Token::Inside => (true, c == '/'),
                    Token::Class { negated, ranges } => {
                        let within = ranges.iter().any(|(from, to)| (*from..=*to).contains(&c));
                        (false, within != *negated && c != self.separator)
                    }
                };
                next[at] |= stays;
                next[at + 1] |= goes;
            }
            if !alive {
                return None;
            }
            std::mem::swap(&mut now, &mut next);
            self.skip(&mut now);
            if now[end] {
                complete(length + 1);
            }
        }
        Some(now[end])
    }

    /// Goes on over tokens that may stand for nothing.
    fn skip(&self, states: &mut [bool]) {
        for (at, token) in self.tokens.iter().enumerate() {
            if states[at] {
                match token {
                    Token::Many | Token::Deep => states[at + 1] = true,
                    Token::Folders => (states[at + 1], states[at + 2]) = (true, true),
                    _ => {}
                }
            }
        }
    }
}

/// What stands between brackets; the opening one is read already.
fn class(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Token, GlobError> {
    let negated = rest.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    let one = |rest: &mut std::iter::Peekable<std::str::Chars<'_>>| match rest.next() {
        Some('\\') => rest.next().ok_or(GlobError::Syntax),
        None | Some('-' | ']') => Err(GlobError::Syntax),
        Some(c) => Ok(c),
    };
    loop {
        if rest.peek() == Some(&']') && !ranges.is_empty() {
            rest.next();
            return Ok(Token::Class { negated, ranges });
        }
        let from = one(rest)?;
        let to = if rest.next_if_eq(&'-').is_some() { one(rest)? } else { from };
        ranges.push((from, to));
    }
}

/// Whether Go would call it a pattern and not a plain name.
pub(crate) fn has_wildcard(text: &str) -> bool {
    text.contains(['*', '?', '[', '\\'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let check = |pattern: &str, text: &str, stars| Glob::path(pattern, stars).unwrap().matches(text);
        for (pattern, text, expected) in [
            ("*.go", "a.go", true),
            ("*.go", "a/b.go", false),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[^a]b", "/b", false),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("", "", true),
            ("*", "", true),
            ("ä?", "äö", true),
        ] {
            assert_eq!(check(pattern, text, Stars::Plain), expected, "{pattern} {text}");
        }
        for (pattern, text, expected) in [
            ("**", "a/b", true),
            ("**/a", "a", true),
            ("**/a", "x/y/a", true),
            ("**/a", "ba", false),
            ("a/**", "a/b/c", true),
            ("a/**", "a", false),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/x/y/b", true),
            ("a**b", "axb", false),
            ("a**b", "ax/b", true),
            ("**/*.txt", "d/x.txt", true),
        ] {
            assert_eq!(check(pattern, text, Stars::Double), expected, "{pattern} {text}");
        }
        for bad in ["[", "[]", "a\\", "[a", "[-]", "[a-]"] {
            assert_eq!(Glob::path(bad, Stars::Plain), Err(GlobError::Syntax), "{bad}");
        }
    }

    #[test]
    fn a_hostile_pattern_ends_soon() {
        let pattern = "*a".repeat(200);
        assert!(!Glob::path(&pattern, Stars::Plain).unwrap().matches(&"a".repeat(20_000).replace('a', "ab")));
    }
}
