//! Variables in texts: `$NAME`, `${NAME}` and the operators of the Compose specification.
//!
//! | form | gives |
//! |---|---|
//! | `${V:-word}`, `${V-word}` | `word` if `V` is not set (with `:`: or empty) |
//! | `${V:?word}`, `${V?word}` | an error that says `word` if `V` is not set (or empty) |
//! | `${V:+word}`, `${V+word}` | `word` if `V` is set (and not empty) |
//! | `$$` | `$` |
//!
//! Words may hold variables themselves.

use std::collections::{BTreeMap, BTreeSet};

use crate::node::{FileError, Node, Value};

/// The deepest nesting of words.
const MAX_DEPTH: usize = 32;

/// What is wrong with a text's variables.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InterpolationError {
    /// A `${` that nothing closes, or with something else than a name.
    #[error("bad variable in {0:?}; write a \"$\" that is meant as such as \"$$\"")]
    Form(String),
    /// `${V:?word}` without `V`.
    #[error("required variable {0} is missing a value{colon}{1}; set it in the environment or an env file", colon = if .1.is_empty() { "" } else { ": " })]
    Required(String, String),
    /// Words within words beyond reason.
    #[error("variables nested deeper than {MAX_DEPTH} levels")]
    Depth,
}

/// What a text's variables are looked up in, and what was seen of them.
pub struct Scope<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    /// Variables without a value that nothing stands in for.
    pub missing: BTreeSet<String>,
    /// The variables with their forms: what `config --variables` lists.
    pub seen: BTreeMap<String, Variable>,
}

/// How a variable is used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Variable {
    /// Whether it has to have a value.
    pub required: bool,
    /// What stands in for it.
    pub default: String,
    /// What stands for it when it is set.
    pub alternate: String,
}

impl<'a> Scope<'a> {
    /// A scope with the variables that `lookup` knows.
    #[must_use]
    pub fn new(lookup: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { lookup, missing: BTreeSet::new(), seen: BTreeMap::new() }
    }

    /// The text with its variables' values.
    ///
    /// # Errors
    /// [`InterpolationError`].
    pub fn text(&mut self, text: &str) -> Result<String, InterpolationError> {
        if !text.contains('$') {
            return Ok(text.to_owned());
        }
        self.expand(text, 0)
    }

    fn expand(&mut self, text: &str, depth: usize) -> Result<String, InterpolationError> {
        if depth > MAX_DEPTH {
            return Err(InterpolationError::Depth);
        }
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out.push_str(rest.get(..at).unwrap_or_default());
            let after = rest.get(at + 1..).unwrap_or_default();
            rest = if let Some(tail) = after.strip_prefix('$') {
                out.push('$');
                tail
            } else if let Some(inner) = after.strip_prefix('{') {
                let end = closing(inner).ok_or_else(|| InterpolationError::Form(text.to_owned()))?;
                let body = inner.get(..end).unwrap_or_default();
                out.push_str(&self.braced(body, text, depth)?);
                inner.get(end + 1..).unwrap_or_default()
            } else {
                let length = name_length(after);
                if length == 0 {
                    // not a variable: it stands for itself
                    out.push('$');
                } else {
                    out.push_str(&self.value(after.get(..length).unwrap_or_default()));
                }
                after.get(length..).unwrap_or_default()
            };
        }
        out.push_str(rest);
        Ok(out)
    }

    fn value(&mut self, name: &str) -> String {
        self.seen.entry(name.to_owned()).or_default();
        (self.lookup)(name).unwrap_or_else(|| {
            self.missing.insert(name.to_owned());
            String::new()
        })
    }

    fn braced(&mut self, body: &str, whole: &str, depth: usize) -> Result<String, InterpolationError> {
        let bad = || InterpolationError::Form(whole.to_owned());
        let length = name_length(body);
        let (name, rest) = body.split_at_checked(length).filter(|(name, _)| !name.is_empty()).ok_or_else(bad)?;
        if rest.is_empty() {
            return Ok(self.value(name));
        }
        let (colon, rest) = rest.strip_prefix(':').map_or((false, rest), |rest| (true, rest));
        let mut letters = rest.chars();
        let operator = letters.next().ok_or_else(bad)?;
        let word = letters.as_str();
        let value = (self.lookup)(name).filter(|value| !colon || !value.is_empty());
        let seen = self.seen.entry(name.to_owned()).or_default();
        match operator {
            '-' => word.clone_into(&mut seen.default),
            '?' => seen.required = true,
            '+' => word.clone_into(&mut seen.alternate),
            _ => return Err(bad()),
        }
        match (operator, value) {
            ('-' | '?', Some(value)) => Ok(value),
            ('-', None) | ('+', Some(_)) => self.expand(word, depth + 1),
            ('+', None) => Ok(String::new()),
            (_, _) => {
                let word = self.expand(word, depth + 1)?;
                Err(InterpolationError::Required(name.to_owned(), word))
            }
        }
    }

    /// Replaces the variables of every text of a tree; names stay as they are.
    ///
    /// # Errors
    /// [`FileError`] with the place of the text.
    pub fn tree(&mut self, node: &mut Node, path: &str) -> Result<(), FileError> {
        match &mut node.value {
            Value::Text(text) => {
                if text.contains('$') {
                    let replaced = self.expand(text, 0).map_err(|why| FileError::at(node, path, why.to_string()))?;
                    node.value = Value::Text(replaced);
                }
                Ok(())
            }
            Value::List(list) => {
                list.iter_mut().enumerate().try_for_each(|(index, node)| self.tree(node, &format!("{path}[{index}]")))
            }
            Value::Map(map) => map.iter_mut().try_for_each(|(name, node)| self.tree(node, &join(path, name))),
            _ => Ok(()),
        }
    }
}

/// `a.b`.
pub(crate) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// How long the name at the beginning is.
fn name_length(text: &str) -> usize {
    if !text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_') {
        return 0;
    }
    text.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').unwrap_or(text.len())
}

/// Where the brace closes that was opened before the text.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'$' if bytes.get(at + 1) == Some(&b'{') => {
                depth += 1;
                at += 1;
            }
            b'}' if depth == 0 => return Some(at),
            b'}' => depth -= 1,
            _ => {}
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "A" => Some("a".to_owned()),
            "EMPTY" => Some(String::new()),
            "DOLLAR" => Some("$A".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn every_operator() {
        let check = |text: &str, expect: &str| assert_eq!(Scope::new(&lookup).text(text).unwrap(), expect, "{text}");
        check("$A ${A} $A-b ${A}b $$A $$$A", "a a a-b ab $A $a");
        check("${A:-x} ${EMPTY:-x} ${EMPTY-x} ${NO:-x} ${NO-x} ${NO-}", "a x  x x ");
        check("${A:+x} ${EMPTY:+x} ${EMPTY+x} ${NO:+x} ${NO+x}", "x  x  ");
        check("${A:?e} ${EMPTY?e}", "a ");
        check("${NO:-${A}} ${NO:-${NO2-${A}b}c} ${NO:-$A/}", "a abc a/");
        check("$1 $ a$ $NO.", "$1 $ a$ .");
        check("${NO:-{\"x\":1}}", "{\"x\":1}");
        check("${DOLLAR} ${NO:-a:b?c}", "$A a:b?c");
    }

    #[test]
    fn mistakes_say_what_to_do() {
        let check = |text: &str, expect: &str| {
            assert_eq!(Scope::new(&lookup).text(text).unwrap_err().to_string(), expect, "{text}");
        };
        check("${A", "bad variable in \"${A\"; write a \"$\" that is meant as such as \"$$\"");
        check("${}", "bad variable in \"${}\"; write a \"$\" that is meant as such as \"$$\"");
        check("${A!b}", "bad variable in \"${A!b}\"; write a \"$\" that is meant as such as \"$$\"");
        check(
            "${NO:?need $A}",
            "required variable NO is missing a value: need a; set it in the environment or an env file",
        );
        check("${EMPTY:?}", "required variable EMPTY is missing a value; set it in the environment or an env file");
    }

    #[test]
    fn what_is_missing_is_known() {
        let mut scope = Scope::new(&lookup);
        scope.text("$NO ${NO2} ${NO3:-x} $A").unwrap();
        assert_eq!(scope.missing.into_iter().collect::<Vec<_>>(), ["NO", "NO2"]);
        assert_eq!(scope.seen["NO3"].default, "x");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_text_ends(text in "[${}A:?+-]{0,40}|\\PC{0,40}") {
            let _ = Scope::new(&lookup).text(&text);
        }
    }
}
