//! The form that a file's values have to have, and their long form: one table-driven walk checks and converts.
//!
//! After it, every short syntax is written out, numbers and sizes are in one form, and paths are absolute. What may stand
//! where is in the tables of [`crate::schema`]; the short forms are read by [`crate::short`].

use std::path::{Component, Path, PathBuf};

use crate::interpolate::join;
use crate::node::{FileError, Map, Mark, Node, Value};
use crate::{unit, yaml};

/// Turns a scalar into what it is short for, or says what it should be.
pub(crate) type Expand = fn(&Node, &Shaper<'_>) -> Result<Vec<Node>, String>;
/// Finishes a value in its long form.
pub(crate) type Finish = fn(&mut Node, &Shaper<'_>) -> Result<(), String>;

/// What a value may be.
pub(crate) enum Type {
    /// Anything.
    Any,
    /// A text.
    Text,
    /// One of these texts.
    Word(&'static [&'static str]),
    /// A scalar, kept as a text.
    Scalar,
    /// A truth value, or its text.
    Bool,
    /// A whole number, or its text.
    Int,
    /// A whole number, or a value of the type.
    IntOr(&'static Type),
    /// A number, or its text.
    Float,
    /// A size in bytes as in `64m`, kept as the text of its number.
    Bytes,
    /// A span of time as in `1m30s`.
    Span,
    /// Microseconds as a number, or a span of time.
    Micros,
    /// A whole number, or `all` for -1.
    Count,
    /// A file mode: a text stays, a number becomes octal digits.
    Mode,
    /// A path, made absolute.
    Path,
    /// The context of a build: a path, made absolute, or an address.
    Source,
    /// A list; texts in it are written once.
    List(&'static Type),
    /// A list in which a scalar may stand for one element or several.
    Shorts(Expand, &'static Type),
    /// A scalar for one element, or a list.
    OneOrMany(&'static Type),
    /// A program and its arguments: a list, or a text in a shell's quoting.
    Words,
    /// What checks health: a list, or a text for a shell.
    Test,
    /// Names and scalars: a map, or a list of `name=value`. Kept as a map.
    Pairs,
    /// Names and scalars as a map only.
    Options,
    /// Host names and addresses, kept as a list of `name=address`.
    Hosts,
    /// Any name, and values of a type.
    Map(&'static Type),
    /// A list of names, or a map of them with values of a type; what a name alone stands for.
    Names(fn(&Node) -> Node, &'static Type),
    /// Certain names.
    Record(&'static Record),
    /// Nothing, or a value of the type.
    Optional(&'static Type),
    /// A scalar stands for a record.
    Short(Expand, &'static Type),
    /// A value of the type, finished by the function.
    Finished(&'static Type, Finish),
}

/// The names that a map may have, in the order in which they are shown.
pub(crate) struct Record {
    pub(crate) fields: &'static [(&'static str, Type)],
    pub(crate) required: &'static [&'static str],
    /// What stands for what is shown even when it says nothing.
    pub(crate) json_always: &'static [(&'static str, Always)],
}

/// What JSON shows in place of nothing, because Go's encoder does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Always {
    Null,
    Empty,
    /// A program without a command.
    Hook,
}

impl Record {
    fn find(&self, name: &str) -> Option<&Type> {
        self.fields.iter().find(|(field, _)| *field == name).map(|(_, kind)| kind)
    }
}

/// What shaping needs to know of where a file is.
pub(crate) struct Shaper<'a> {
    /// What relative paths begin at.
    pub(crate) base: &'a Path,
    /// The user's home folder, for `~`.
    pub(crate) home: Option<&'a Path>,
    /// Whether variables have their values; where they have not, texts that hold one stay as they are.
    pub(crate) variables: Variables,
}

/// What has become of variables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Variables {
    /// They have their values.
    #[default]
    Replaced,
    /// They stand as they were written.
    Kept,
}

impl Shaper<'_> {
    /// A relative path made absolute and free of `.` and `..`; an absolute one stays as it is.
    pub(crate) fn absolute(&self, text: &str) -> String {
        if text.starts_with('/') {
            return text.to_owned();
        }
        let path = match (text.strip_prefix('~'), self.home) {
            (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => {
                home.join(rest.trim_start_matches('/'))
            }
            _ => self.base.join(text),
        };
        clean(&path).display().to_string()
    }

    /// Whether a text is left alone because a variable is in it.
    fn keeps(&self, node: &Node) -> bool {
        self.variables == Variables::Kept && node.as_text().is_some_and(|text| text.contains('$'))
    }

    /// Checks a value and gives its long form.
    pub(crate) fn shape(&self, node: &Node, kind: &Type, path: &str) -> Result<Node, FileError> {
        if node.mark == Mark::Reset {
            return Ok(node.clone());
        }
        if self.keeps(node) {
            return Ok(node.clone());
        }
        let fail = |what: &str| Err(FileError::at(node, path, format!("must be {what}, not {}", shown(node))));
        match kind {
            Type::Optional(inner) => match node.value {
                Value::Null => Ok(node.clone()),
                _ => self.shape(node, inner, path),
            },
            Type::Finished(inner, finish) => {
                let mut shaped = self.shape(node, inner, path)?;
                finish(&mut shaped, self).map_err(|why| FileError::at(node, path, why))?;
                Ok(shaped)
            }
            Type::Short(expand, inner) => {
                if matches!(node.value, Value::Map(_) | Value::List(_)) {
                    return self.shape(node, inner, path);
                }
                let long = expand(node, self).map_err(|why| FileError::at(node, path, why))?;
                match long.into_iter().next() {
                    Some(long) => self.shape(&Node { mark: node.mark, ..long }, inner, path),
                    None => fail("something"),
                }
            }
            _ => self.scalar(node, kind, path),
        }
    }

    /// Texts, numbers and truth values.
    fn scalar(&self, node: &Node, kind: &Type, path: &str) -> Result<Node, FileError> {
        let fail = |what: &str| Err(FileError::at(node, path, format!("must be {what}, not {}", shown(node))));
        let told = |read: Result<Value, String>| {
            read.map(|value| node.with(value)).map_err(|why| FileError::at(node, path, why))
        };
        match kind {
            Type::Any => Ok(node.clone()),
            Type::Text => match node.as_text() {
                Some(_) => Ok(node.clone()),
                None => fail("a text (quote it)"),
            },
            Type::Word(words) => match node.as_text() {
                Some(word) if words.contains(&word) => Ok(node.clone()),
                _ => fail(&format!("one of {}", words.join(", "))),
            },
            Type::Scalar => {
                node.scalar().map_or_else(|| fail("a text or number"), |text| Ok(node.with(Value::Text(text))))
            }
            Type::Bool => match &node.value {
                Value::Bool(_) => Ok(node.clone()),
                Value::Text(text) => told(unit::truth(text).map(Value::Bool)),
                _ => fail("true or false"),
            },
            Type::Int => match &node.value {
                Value::Int(_) => Ok(node.clone()),
                Value::Text(text) => match yaml::plain(text.trim()) {
                    Value::Int(number) => Ok(node.with(Value::Int(number))),
                    _ => fail("a whole number"),
                },
                _ => fail("a whole number"),
            },
            Type::IntOr(inner) => match &node.value {
                Value::Map(_) => self.shape(node, inner, path),
                _ => self.shape(node, &Type::Int, path),
            },
            Type::Float => match &node.value {
                #[expect(clippy::cast_precision_loss, reason = "nobody counts processors beyond 2^52")]
                Value::Int(value) => Ok(node.with(Value::Float(*value as f64))),
                Value::Float(_) => Ok(node.clone()),
                Value::Text(text) => match text.trim().parse::<f64>() {
                    Ok(number) if number.is_finite() => Ok(node.with(Value::Float(number))),
                    _ => fail("a number"),
                },
                _ => fail("a number"),
            },
            _ => self.written(node, kind, path),
        }
    }

    /// Texts that have a form of their own.
    fn written(&self, node: &Node, kind: &Type, path: &str) -> Result<Node, FileError> {
        let fail = |what: &str| Err(FileError::at(node, path, format!("must be {what}, not {}", shown(node))));
        let told = |read: Result<Value, String>| {
            read.map(|value| node.with(value)).map_err(|why| FileError::at(node, path, why))
        };
        match kind {
            Type::Bytes => match node.scalar() {
                Some(text) => told(unit::bytes(&text).map(|bytes| Value::Text(bytes.to_string()))),
                None => fail("a size as in 64m"),
            },
            Type::Span => match node.as_text() {
                Some(text) => told(unit::span(text).map(|nanos| Value::Text(unit::span_text(nanos)))),
                None => fail("a span of time as in 1m30s"),
            },
            Type::Micros => match &node.value {
                Value::Text(text) if text.trim().parse::<i64>().is_err() => {
                    told(unit::span(text).map(|nanos| Value::Int(nanos / 1000)))
                }
                _ => self.shape(node, &Type::Int, path),
            },
            Type::Count => match node.as_text() {
                Some("all") => Ok(node.with(Value::Int(-1))),
                _ => self.shape(node, &Type::Int, path),
            },
            Type::Mode => match &node.value {
                Value::Int(mode) => Ok(node.with(Value::Text(format!("0{mode:o}")))),
                Value::Text(_) => Ok(node.clone()),
                _ => fail("a file mode as in 0440"),
            },
            Type::Path => match node.as_text() {
                Some(text) => Ok(node.with(Value::Text(self.absolute(text)))),
                None => fail("a path"),
            },
            Type::Source => match node.as_text() {
                Some(text) if is_address(text) => Ok(node.clone()),
                Some(text) => Ok(node.with(Value::Text(self.absolute(text)))),
                None => fail("a path or an address"),
            },
            Type::Words => match &node.value {
                Value::Null => Ok(node.clone()),
                Value::Text(text) => {
                    told(words(text).map(|words| Value::List(words.into_iter().map(|word| node.text(word)).collect())))
                }
                _ => self.list(node, &Type::Text, path),
            },
            Type::Test => match &node.value {
                Value::Text(text) => Ok(node.with(Value::List(vec![node.text("CMD-SHELL"), node.text(text.clone())]))),
                _ => self.list(node, &Type::Text, path),
            },
            _ => self.gathered(node, kind, path),
        }
    }

    /// The types of lists and maps.
    fn gathered(&self, node: &Node, kind: &Type, path: &str) -> Result<Node, FileError> {
        let fail = |what: &str| Err(FileError::at(node, path, format!("must be {what}, not {}", shown(node))));
        match kind {
            Type::List(inner) => self.list(node, inner, path),
            Type::Shorts(expand, inner) => {
                let Value::List(list) = &node.value else { return fail("a list") };
                let mut shaped = Vec::new();
                for (index, element) in list.iter().enumerate() {
                    let path = format!("{path}[{index}]");
                    if matches!(element.value, Value::Map(_)) || self.keeps(element) {
                        shaped.push(self.shape(element, inner, &path)?);
                        continue;
                    }
                    let long = expand(element, self).map_err(|why| FileError::at(element, &path, why))?;
                    for long in long {
                        shaped.push(self.shape(&long, inner, &path)?);
                    }
                }
                Ok(node.with(Value::List(shaped)))
            }
            Type::OneOrMany(inner) => match &node.value {
                Value::Text(_) | Value::Int(_) => {
                    let one = Node::new(node.value.clone(), &node.place);
                    Ok(node.with(Value::List(vec![self.shape(&one, inner, path)?])))
                }
                _ => self.list(node, inner, path),
            },
            Type::Pairs => self.pairs(node, path),
            Type::Options => match &node.value {
                Value::Map(_) => self.pairs(node, path),
                _ => fail("a map"),
            },
            Type::Hosts => self.hosts(node, path),
            Type::Map(inner) => match &node.value {
                Value::Map(map) => self.values(node, map, inner, path),
                _ => fail("a map"),
            },
            Type::Names(default, inner) => match &node.value {
                Value::List(list) => {
                    let mut map = Map::default();
                    for (index, element) in list.iter().enumerate() {
                        let Some(name) = element.as_text() else {
                            let path = format!("{path}[{index}]");
                            return Err(FileError::at(
                                element,
                                &path,
                                format!("must be a name, not {}", shown(element)),
                            ));
                        };
                        map.insert(name, default(element));
                    }
                    Ok(node.with(Value::Map(map)))
                }
                Value::Map(map) => self.values(node, map, inner, path),
                _ => fail("a list of names, or a map"),
            },
            Type::Record(record) => self.record(node, record, path),
            _ => fail("something else"),
        }
    }

    fn list(&self, node: &Node, inner: &Type, path: &str) -> Result<Node, FileError> {
        let Value::List(list) = &node.value else {
            return Err(FileError::at(node, path, format!("must be a list, not {}", shown(node))));
        };
        let shaped =
            list.iter().enumerate().map(|(index, element)| self.shape(element, inner, &format!("{path}[{index}]")));
        Ok(node.with(Value::List(shaped.collect::<Result<_, _>>()?)))
    }

    fn values(&self, node: &Node, map: &Map, inner: &Type, path: &str) -> Result<Node, FileError> {
        let shaped = map.iter().map(|(name, value)| Ok((name.clone(), self.shape(value, inner, &join(path, name))?)));
        Ok(node.with(Value::Map(shaped.collect::<Result<_, FileError>>()?)))
    }

    fn record(&self, node: &Node, record: &Record, path: &str) -> Result<Node, FileError> {
        let Value::Map(map) = &node.value else {
            return Err(FileError::at(node, path, format!("must be a map, not {}", shown(node))));
        };
        let mut shaped = Map::default();
        for (name, value) in map.iter() {
            if name.starts_with("x-") {
                shaped.insert(name.as_str(), value.clone());
                continue;
            }
            let Some(kind) = record.find(name) else {
                let near = record.fields.iter().map(|(field, _)| *field).find(|field| near(field, name));
                let hint = near.map_or_else(
                    || "; remove it, or begin its name with \"x-\" if it is your own".to_owned(),
                    |near| format!("; did you mean {near:?}?"),
                );
                return Err(FileError::at(value, path, format!("unknown name {name:?}{hint}")));
            };
            // a name without a value says nothing
            let path = join(path, name);
            if matches!(value.value, Value::Null)
                && value.mark != Mark::Reset
                && !matches!(kind, Type::Optional(_) | Type::Words | Type::Any)
            {
                continue;
            }
            shaped.insert(name.as_str(), self.shape(value, kind, &path)?);
        }
        match record.required.iter().find(|name| map.get(name).is_none()) {
            Some(missing) => Err(FileError::at(node, path, format!("needs {missing:?}"))),
            None => Ok(node.with(Value::Map(shaped))),
        }
    }

    fn pairs(&self, node: &Node, path: &str) -> Result<Node, FileError> {
        let mut map = Map::default();
        match &node.value {
            Value::Map(given) => {
                for (name, value) in given.iter() {
                    let text = match (&value.value, value.scalar()) {
                        (_, Some(text)) => Value::Text(text),
                        (Value::Null, None) => Value::Null,
                        _ => {
                            let path = join(path, name);
                            return Err(FileError::at(
                                value,
                                &path,
                                format!("must be a text or number, not {}", shown(value)),
                            ));
                        }
                    };
                    map.insert(name.as_str(), value.with(text));
                }
            }
            Value::List(list) => {
                for (index, element) in list.iter().enumerate() {
                    let Some(text) = element.scalar() else {
                        let path = format!("{path}[{index}]");
                        return Err(FileError::at(
                            element,
                            &path,
                            format!("must be NAME=VALUE, not {}", shown(element)),
                        ));
                    };
                    let (name, value) = match text.split_once('=') {
                        Some((name, value)) => (name.to_owned(), Value::Text(value.to_owned())),
                        None => (text, Value::Null),
                    };
                    map.insert(name, element.with(value));
                }
            }
            _ => {
                let why = format!("must be a map, or a list of NAME=VALUE, not {}", shown(node));
                return Err(FileError::at(node, path, why));
            }
        }
        Ok(node.with(Value::Map(map)))
    }

    fn hosts(&self, node: &Node, path: &str) -> Result<Node, FileError> {
        let mut lines = Vec::new();
        let bad = |at: &Node, path: &str| FileError::at(at, path, format!("must be NAME=ADDRESS, not {}", shown(at)));
        match &node.value {
            Value::Map(map) => {
                for (name, value) in map.iter() {
                    let addresses = if let Value::List(list) = &value.value {
                        list.as_slice()
                    } else {
                        std::slice::from_ref(value)
                    };
                    for address in addresses {
                        let text = address.as_text().ok_or_else(|| bad(address, &join(path, name)))?;
                        lines.push(address.text(format!("{name}={}", bare(text))));
                    }
                }
            }
            Value::List(list) => {
                for (index, element) in list.iter().enumerate() {
                    let whole = || bad(element, &format!("{path}[{index}]"));
                    let text = element.as_text().ok_or_else(whole)?;
                    // the first colon only: the address may have some of its own
                    let (name, address) = text.split_once('=').or_else(|| text.split_once(':')).ok_or_else(whole)?;
                    lines.push(element.text(format!("{name}={}", bare(address))));
                }
            }
            _ => return Err(bad(node, path)),
        }
        Ok(node.with(Value::List(lines)))
    }
}

/// An address without the brackets that version 6 may have.
fn bare(address: &str) -> &str {
    address.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(address)
}

fn shown(node: &Node) -> String {
    match node.scalar() {
        Some(text) if text.len() <= 60 => format!("{text:?}"),
        _ => node.kind().to_owned(),
    }
}

/// Whether one name is the other with a small mistake.
fn near(left: &str, right: &str) -> bool {
    if left.len().abs_diff(right.len()) > 1 || left.len() < 3 {
        return false;
    }
    let same_front = left.bytes().zip(right.bytes()).take_while(|(a, b)| a == b).count();
    let same_back = left.bytes().rev().zip(right.bytes().rev()).take_while(|(a, b)| a == b).count();
    same_front + same_back + 1 >= left.len().max(right.len())
}

/// Whether a build's context is somewhere in the network, or another image.
pub(crate) fn is_address(text: &str) -> bool {
    text.contains("://") || ["git@", "github.com/", "service:", "target:"].iter().any(|start| text.starts_with(start))
}

/// A path without `.` and `..`, as a shell would follow it without looking.
pub(crate) fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                if !clean.pop() && !clean.has_root() {
                    clean.push("..");
                }
            }
            other => clean.push(other),
        }
    }
    clean
}

/// Splits a text at white space as a shell does: quotes and backslashes keep it together.
///
/// # Errors
/// A quote that nothing closes.
pub fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            ' ' | '\t' | '\n' | '\r' => words.extend(word.take()),
            '\'' | '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match letters.next() {
                        Some(end) if end == letter => break,
                        Some('\\') if letter == '"' => match letters.next() {
                            Some(escaped @ ('"' | '\\' | '$' | '`')) => word.push(escaped),
                            Some(other) => word.extend(['\\', other]),
                            None => return Err(format!("the quote {letter} is not closed in {text:?}")),
                        },
                        Some(other) => word.push(other),
                        None => return Err(format!("the quote {letter} is not closed in {text:?}")),
                    }
                }
            }
            '\\' => {
                let escaped = letters.next().ok_or_else(|| format!("a backslash ends {text:?}"))?;
                word.get_or_insert_default().push(escaped);
            }
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_a_shell_splits_them() {
        let check = |text: &str, expect: &[&str]| assert_eq!(words(text).unwrap(), expect, "{text}");
        check("echo 'a b' \"c \\\" $d\" e\\ f ''", &["echo", "a b", "c \" $d", "e f", ""]);
        check("  a\n b ", &["a", "b"]);
        check("", &[]);
        assert!(words("echo 'a").is_err() && words("a\\").is_err());
    }

    #[test]
    fn paths_are_made_absolute() {
        let shaper = Shaper { base: Path::new("/a/b"), home: Some(Path::new("/root")), variables: Variables::Replaced };
        let check = |text: &str, expect: &str| assert_eq!(shaper.absolute(text), expect, "{text}");
        check("./c", "/a/b/c");
        check("../../../x", "/x");
        check("~/y", "/root/y");
        check("~z", "/a/b/~z");
        check("/q/", "/q/");
    }

    #[test]
    fn mistakes_in_names_are_found() {
        assert!(near("command", "comand") && near("ports", "port") && near("image", "imagf"));
        assert!(!near("ports", "prtso") && !near("tty", "pid"));
    }
}
