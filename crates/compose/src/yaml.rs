//! YAML as Compose files use it: anchors, merge keys, the tags `!reset` and `!override`, several documents.
//!
//! Plain scalars are what the YAML 1.2 core schema says, and whole numbers that begin with 0 are octal, as Go's YAML reads them.

use std::collections::HashMap;
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};

use crate::node::{FileError, Map, Mark, Node, Place, Value};

/// The deepest nesting; no real file has a third of it.
const MAX_DEPTH: usize = 64;
/// The most values that a file may have once its aliases are written out.
const MAX_NODES: usize = 500_000;

/// Reads a file's documents; `file` is how messages name it.
///
/// # Errors
/// What is no YAML, and where; a name that stands twice; nesting or aliases beyond reason.
pub fn parse(text: &str, file: &str) -> Result<Vec<Node>, FileError> {
    let mut builder =
        Builder { file: Arc::from(file), stack: Vec::new(), anchors: HashMap::new(), documents: Vec::new(), count: 0 };
    for event in Parser::new_from_str(text.strip_prefix('\u{feff}').unwrap_or(text)) {
        let (event, span) = event.map_err(|error| builder.error(error.marker().line(), error.info().to_owned()))?;
        builder.take(event, span.start.line())?;
    }
    Ok(builder.documents)
}

/// A list or map that is not complete.
struct Open {
    anchor: usize,
    tag: Option<Tag>,
    line: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    /// The names so far, values of `<<`, and the name whose value comes next with its line.
    Map {
        map: Map,
        merged: Vec<Node>,
        key: Option<(String, usize)>,
    },
}

struct Builder {
    file: Arc<str>,
    stack: Vec<Open>,
    anchors: HashMap<usize, (Node, usize)>,
    documents: Vec<Node>,
    count: usize,
}

impl Builder {
    fn error(&self, line: usize, why: impl Into<String>) -> FileError {
        let place = Place { file: self.file.clone(), line };
        FileError { place: Some(place), path: String::new(), why: why.into() }
    }

    fn place(&self, line: usize) -> Place {
        Place { file: self.file.clone(), line }
    }

    fn take(&mut self, event: Event<'_>, line: usize) -> Result<(), FileError> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let value = scalar(&text, style, tag.as_deref());
                let node = Node { value, place: self.place(line), mark: mark(tag.as_deref()) };
                self.anchor(anchor, &node, 1);
                self.add(node, line, 1)
            }
            Event::SequenceStart(anchor, tag) => self.open(anchor, tag, line, Content::List(Vec::new())),
            Event::MappingStart(anchor, tag) => {
                let content = Content::Map { map: Map::default(), merged: Vec::new(), key: None };
                self.open(anchor, tag, line, content)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(anchor) => {
                let Some((node, size)) = self.anchors.get(&anchor) else {
                    return Err(self.error(line, "an alias stands within what it names; write it out"));
                };
                let (node, size) = (node.clone(), *size);
                self.add(node, line, size)
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {
                Ok(())
            }
        }
    }

    fn open(
        &mut self,
        anchor: usize,
        tag: Option<std::borrow::Cow<'_, Tag>>,
        line: usize,
        content: Content,
    ) -> Result<(), FileError> {
        if self.stack.len() >= MAX_DEPTH {
            return Err(self.error(line, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        if let Some(Open { content: Content::Map { key: None, .. }, .. }) = self.stack.last() {
            return Err(self.error(line, "a list or map cannot be a name; is a \"{\" or \"[\" meant as text? quote it"));
        }
        self.stack.push(Open { anchor, tag: tag.map(std::borrow::Cow::into_owned), line, content });
        Ok(())
    }

    fn close(&mut self) -> Result<(), FileError> {
        let Some(open) = self.stack.pop() else { return Ok(()) };
        let value = match open.content {
            Content::List(list) => Value::List(list),
            Content::Map { mut map, merged, .. } => {
                for node in merged {
                    self.merge_key(&mut map, node)?;
                }
                Value::Map(map)
            }
        };
        let node = Node { value, place: self.place(open.line), mark: mark(open.tag.as_ref()) };
        let size = if open.anchor == 0 { 1 } else { size(&node) };
        self.anchor(open.anchor, &node, size);
        self.add(node, open.line, 1)
    }

    fn anchor(&mut self, anchor: usize, node: &Node, size: usize) {
        if anchor != 0 {
            let plain = Node { mark: Mark::Merge, ..node.clone() };
            self.anchors.insert(anchor, (plain, size));
        }
    }

    /// `<<`: what the map does not say itself.
    fn merge_key(&self, map: &mut Map, node: Node) -> Result<(), FileError> {
        let line = node.place.line;
        match node.value {
            Value::Map(from) => {
                for (name, node) in from {
                    if map.get(&name).is_none() {
                        map.push(name, node);
                    }
                }
                Ok(())
            }
            Value::List(list) => list.into_iter().try_for_each(|node| match node.value {
                Value::Map(_) => self.merge_key(map, node),
                _ => Err(self.error(line, "\"<<\" takes a map or a list of maps")),
            }),
            _ => Err(self.error(line, "\"<<\" takes a map or a list of maps")),
        }
    }

    fn add(&mut self, mut node: Node, line: usize, size: usize) -> Result<(), FileError> {
        self.count += size;
        if self.count > MAX_NODES {
            return Err(self.error(line, format!("more than {MAX_NODES} values once its aliases are written out")));
        }
        let file = self.file.clone();
        let Some(open) = self.stack.last_mut() else {
            self.documents.push(node);
            return Ok(());
        };
        match &mut open.content {
            Content::List(list) => list.push(node),
            Content::Map { map, merged, key } => match key.take() {
                None => {
                    let name = match &node.value {
                        Value::Null => "null".to_owned(),
                        _ => node.scalar().unwrap_or_default(),
                    };
                    if name != "<<"
                        && let Some(first) = map.get(&name)
                    {
                        let why = format!("the name {name:?} stands already in line {}; remove one", first.place.line);
                        let place = Place { file, line };
                        return Err(FileError { place: Some(place), path: String::new(), why });
                    }
                    *key = Some((name, line));
                }
                Some((name, _)) if name == "<<" => merged.push(node),
                Some((name, line)) => {
                    node.place = Place { file, line };
                    map.push(name, node);
                }
            },
        }
        Ok(())
    }
}

fn size(node: &Node) -> usize {
    match &node.value {
        Value::List(list) => 1 + list.iter().map(size).sum::<usize>(),
        Value::Map(map) => 1 + map.iter().map(|(_, node)| size(node)).sum::<usize>(),
        _ => 1,
    }
}

fn mark(tag: Option<&Tag>) -> Mark {
    match tag {
        Some(tag) if tag.handle == "!" && tag.suffix == "reset" => Mark::Reset,
        Some(tag) if tag.handle == "!" && tag.suffix == "override" => Mark::Override,
        _ => Mark::Merge,
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Value {
    if style != ScalarStyle::Plain || tag.is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str") {
        return Value::Text(text.to_owned());
    }
    plain(text)
}

/// What a plain scalar is.
pub(crate) fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        ".inf" | ".Inf" | ".INF" | "+.inf" => return Value::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Value::Float(f64::NEG_INFINITY),
        ".nan" | ".NaN" | ".NAN" => return Value::Float(f64::NAN),
        _ => {}
    }
    let (sign, digits) = match text.as_bytes().first() {
        Some(b'-') => (-1, text.get(1..).unwrap_or_default()),
        Some(b'+') => (1, text.get(1..).unwrap_or_default()),
        _ => (1, text),
    };
    if !digits.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return Value::Text(text.to_owned());
    }
    let radix = |digits: &str, radix: u32| {
        let sound = !digits.is_empty() && digits.bytes().all(|digit| char::from(digit).is_digit(radix));
        sound.then(|| i64::from_str_radix(digits, radix).ok()).flatten()
    };
    let whole = match digits.as_bytes() {
        [b'0', b'x', ..] => radix(digits.get(2..).unwrap_or_default(), 16),
        [b'0', b'o', ..] => radix(digits.get(2..).unwrap_or_default(), 8),
        [b'0', b'b', ..] => radix(digits.get(2..).unwrap_or_default(), 2),
        [b'0', _, ..] => radix(digits.get(1..).unwrap_or_default(), 8),
        _ => radix(digits, 10),
    };
    if let Some(whole) = whole {
        return Value::Int(sign * whole);
    }
    let float = digits.bytes().all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte));
    match text.parse::<f64>() {
        Ok(value) if float => Value::Float(value),
        _ => Value::Text(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emit;

    fn json(text: &str) -> String {
        let documents = parse(text, "f").unwrap();
        documents.iter().map(emit::compact).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn scalars_are_what_the_core_schema_says() {
        let check = |text: &str, expect: &str| assert_eq!(json(text), expect, "{text}");
        check(
            "[1, -2, 0440, 0x1f, 1.10, 1e3, yes, True, ~, '5', \"a\\n\"]",
            "[1,-2,288,31,1.1,1000,\"yes\",true,null,\"5\",\"a\\n\"]",
        );
        check(
            "[08:80, 1.2.3.4, 2001-01-01, 0o17, 9999999999999999999, 1_000, .5]",
            "[\"08:80\",\"1.2.3.4\",\"2001-01-01\",15,10000000000000000000,\"1_000\",0.5]",
        );
        check("!!str 5", "\"5\"");
        check("a: 1\n---\nb: 2", "{\"a\":1} {\"b\":2}");
    }

    #[test]
    fn anchors_and_merge_keys() {
        let check = |text: &str, expect: &str| assert_eq!(json(text), expect, "{text}");
        check(
            "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: *a",
            "{\"a\":{\"x\":1,\"y\":2},\"b\":{\"y\":3,\"x\":1},\"c\":{\"x\":1,\"y\":2}}",
        );
        check(
            "a: &a {x: 1}\nb: &b {x: 2, z: 3}\nc: {<<: [*a, *b]}",
            "{\"a\":{\"x\":1},\"b\":{\"x\":2,\"z\":3},\"c\":{\"x\":1,\"z\":3}}",
        );
    }

    #[test]
    fn marks_and_places() {
        let document = parse("a: !reset null\nb: !override\n  - x\n", "f").unwrap().remove(0);
        assert_eq!(document.get("a").map(|node| node.mark), Some(Mark::Reset));
        let b = document.get("b").unwrap();
        assert_eq!((b.mark, b.place.line, b.elements()[0].place.line), (Mark::Override, 2, 3));
    }

    #[test]
    fn mistakes_have_lines() {
        let check = |text: &str, expect: &str| {
            let error = parse(text, "f.yaml").unwrap_err().to_string();
            assert!(error.starts_with(expect), "{error}");
        };
        check("a: 1\nb: 2\na: 3", "f.yaml:3: the name \"a\" stands already in line 1");
        check("a: 1\nb: }", "f.yaml:2: ");
        check("a: [1, 2", "f.yaml:");
        check("{a: 1}: 2", "f.yaml:1: ");
        check("<<: 5", "f.yaml:1: \"<<\" takes a map");
        let bomb = (0..9).fold("a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned(), |text, i| {
            text + &format!("a{}: &a{} [{}]\n", i + 1, i + 1, vec![format!("*a{i}"); 9].join(", "))
        });
        check(&bomb, "f.yaml:");
    }
}
