//! A document as a tree that remembers where everything stood.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Where something stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file, as it was named.
    pub file: Arc<str>,
    /// The line, from 1; 0 for what no line says.
    pub line: usize,
}

impl Place {
    /// A place that no file has: what follows from other settings.
    #[must_use]
    pub fn nowhere() -> Self {
        Self { file: Arc::from(""), line: 0 }
    }
}

/// What is to happen to what an earlier file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mark {
    /// The two are merged.
    #[default]
    Merge,
    /// `!override`: this takes its place.
    Override,
    /// `!reset`: it is taken away.
    Reset,
}

/// A value of the document.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing.
    Null,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Another number.
    Float(f64),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// Names and values.
    Map(Map),
}

/// A value and where it stands; for a map's values, the line of the name.
#[derive(Debug, Clone)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Where it stands.
    pub place: Place,
    /// How it is merged.
    pub mark: Mark,
}

impl PartialEq for Node {
    /// Two nodes are equal if they say the same, wherever they stand.
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

/// Names and values in the order of the document; no name stands twice.
#[derive(Debug, Clone, Default)]
pub struct Map(Vec<(String, Node)>);

impl PartialEq for Map {
    /// The order says nothing.
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len() && self.iter().all(|(name, node)| other.get(name) == Some(node))
    }
}

impl Map {
    /// The value of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Node> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, node)| node)
    }

    /// The value of a name, to be changed.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Node> {
        self.0.iter_mut().find(|(key, _)| key == name).map(|(_, node)| node)
    }

    /// Sets a name's value; it keeps its place if it was there.
    pub fn insert(&mut self, name: impl Into<String>, node: Node) {
        let name = name.into();
        match self.get_mut(&name) {
            Some(old) => *old = node,
            None => self.0.push((name, node)),
        }
    }

    /// Adds a name that is known to be new.
    pub(crate) fn push(&mut self, name: String, node: Node) {
        self.0.push((name, node));
    }

    /// Takes a name out.
    pub fn remove(&mut self, name: &str) -> Option<Node> {
        let at = self.0.iter().position(|(key, _)| key == name)?;
        Some(self.0.remove(at).1)
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Node)> {
        self.0.iter().map(|(name, node)| (name, node))
    }

    /// Names and values in order, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&String, &mut Node)> {
        self.0.iter_mut().map(|(name, node)| (&*name, node))
    }

    /// Keeps what `keep` says.
    pub fn retain(&mut self, keep: impl Fn(&str, &Node) -> bool) {
        self.0.retain(|(name, node)| keep(name, node));
    }

    /// Puts the names in order of their rank, and of their letters where that is equal.
    pub(crate) fn sort_by_rank(&mut self, rank: impl Fn(&str) -> usize) {
        self.0.sort_by(|(a, _), (b, _)| rank(a).cmp(&rank(b)).then_with(|| a.cmp(b)));
    }

    /// The number of names.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl IntoIterator for Map {
    type Item = (String, Node);
    type IntoIter = std::vec::IntoIter<(String, Node)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl FromIterator<(String, Node)> for Map {
    fn from_iter<T: IntoIterator<Item = (String, Node)>>(iter: T) -> Self {
        let mut map = Self::default();
        for (name, node) in iter {
            map.insert(name, node);
        }
        map
    }
}

impl Node {
    /// A value at a place.
    #[must_use]
    pub fn new(value: Value, place: &Place) -> Self {
        Self { value, place: place.clone(), mark: Mark::Merge }
    }

    /// Another value at the same place, merged alike.
    #[must_use]
    pub fn with(&self, value: Value) -> Self {
        Self { value, place: self.place.clone(), mark: self.mark }
    }

    /// A text at this node's place.
    #[must_use]
    pub fn text(&self, text: impl Into<String>) -> Self {
        Self::new(Value::Text(text.into()), &self.place)
    }

    /// A map of the pairs, at this node's place.
    #[must_use]
    pub fn map<const N: usize>(&self, pairs: [(&str, Value); N]) -> Self {
        let pairs = pairs.into_iter().map(|(name, value)| (name.to_owned(), Self::new(value, &self.place)));
        Self::new(Value::Map(pairs.collect()), &self.place)
    }

    /// The text, if it is one.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The list's elements; none if it is no list.
    #[must_use]
    pub fn elements(&self) -> &[Self] {
        match &self.value {
            Value::List(list) => list,
            _ => &[],
        }
    }

    /// The map, if it is one.
    #[must_use]
    pub fn as_map(&self) -> Option<&Map> {
        match &self.value {
            Value::Map(map) => Some(map),
            _ => None,
        }
    }

    /// The map, if it is one, to be changed.
    pub fn as_map_mut(&mut self) -> Option<&mut Map> {
        match &mut self.value {
            Value::Map(map) => Some(map),
            _ => None,
        }
    }

    /// The value of a name, if this is a map that has it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Self> {
        self.as_map()?.get(name)
    }

    /// The text of a name.
    #[must_use]
    pub fn text_of(&self, name: &str) -> Option<&str> {
        self.get(name)?.as_text()
    }

    /// Whether a name's value is true.
    #[must_use]
    pub fn is_on(&self, name: &str) -> bool {
        matches!(self.get(name).map(|node| &node.value), Some(Value::Bool(true)))
    }

    /// A scalar as the text that it would be in an environment: numbers as Go prints them.
    #[must_use]
    pub fn scalar(&self) -> Option<String> {
        match &self.value {
            Value::Bool(value) => Some(value.to_string()),
            Value::Int(value) => Some(value.to_string()),
            Value::Float(value) => Some(number(*value)),
            Value::Text(text) => Some(text.clone()),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        }
    }

    /// What kind of value it is, for messages.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a truth value",
            Value::Int(_) | Value::Float(_) => "a number",
            Value::Text(_) => "a text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }

    /// The same as JSON; places and marks are left out.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Int(value) => (*value).into(),
            Value::Float(value) => serde_json::Number::from_f64(*value).into(),
            Value::Text(text) => text.clone().into(),
            Value::List(list) => list.iter().map(Self::to_json).collect(),
            Value::Map(map) => {
                serde_json::Value::Object(map.iter().map(|(name, node)| (name.clone(), node.to_json())).collect())
            }
        }
    }
}

/// A number without a fraction that says nothing.
pub(crate) fn number(value: f64) -> String {
    format!("{value}")
}

/// What is wrong with a file: where, with what, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct FileError {
    /// Where, if it is known.
    pub place: Option<Place>,
    /// The path of names: `services.web.ports[0]`.
    pub path: String,
    /// What is wrong, and what to do.
    pub why: String,
}

impl fmt::Display for FileError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            match place.line {
                0 => write!(out, "{}: ", place.file)?,
                line => write!(out, "{}:{line}: ", place.file)?,
            }
        }
        if !self.path.is_empty() {
            write!(out, "{}: ", self.path)?;
        }
        out.write_str(&self.why)
    }
}

impl FileError {
    /// A mistake at a node.
    #[must_use]
    pub fn at(node: &Node, path: &str, why: impl Into<String>) -> Self {
        let place = (!node.place.file.is_empty()).then(|| node.place.clone());
        Self { place, path: path.to_owned(), why: why.into() }
    }

    /// A mistake of a whole file.
    #[must_use]
    pub fn file(file: &Path, why: impl Into<String>) -> Self {
        let place = Place { file: file.display().to_string().into(), line: 0 };
        Self { place: Some(place), path: String::new(), why: why.into() }
    }

    /// A mistake of the model that no single place has.
    #[must_use]
    pub fn model(path: impl Into<String>, why: impl Into<String>) -> Self {
        Self { place: None, path: path.into(), why: why.into() }
    }
}
