//! A tree as text: JSON as Go writes it, and YAML that any reader reads as the same.

use crate::node::{Node, Value, number};
use crate::yaml;

/// The tree with every `$` doubled, so that it is read again as it is.
#[must_use]
pub fn escaped(node: &Node) -> Node {
    let value = match &node.value {
        Value::Text(text) => Value::Text(text.replace('$', "$$")),
        Value::List(list) => Value::List(list.iter().map(escaped).collect()),
        Value::Map(map) => Value::Map(map.iter().map(|(name, node)| (name.clone(), escaped(node))).collect()),
        other => other.clone(),
    };
    node.with(value)
}

/// JSON on one line, with what HTML could take for its own escaped, as Go's encoder does it.
#[must_use]
pub fn compact(node: &Node) -> String {
    let mut out = String::new();
    json(node, None, 0, &mut out);
    out
}

/// JSON with two spaces a level.
#[must_use]
pub fn pretty(node: &Node) -> String {
    let mut out = String::new();
    json(node, Some(2), 0, &mut out);
    out
}

fn json(node: &Node, indent: Option<usize>, depth: usize, out: &mut String) {
    let newline = |depth: usize, out: &mut String| {
        if let Some(width) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', width * depth));
        }
    };
    match &node.value {
        Value::Null => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Int(value) => out.push_str(&value.to_string()),
        Value::Float(value) if value.is_finite() => out.push_str(&number(*value)),
        Value::Float(_) => out.push_str("null"),
        Value::Text(text) => json_text(text, out),
        Value::List(list) if list.is_empty() => out.push_str("[]"),
        Value::List(list) => {
            out.push('[');
            for (index, node) in list.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                newline(depth + 1, out);
                json(node, indent, depth + 1, out);
            }
            newline(depth, out);
            out.push(']');
        }
        Value::Map(map) if map.is_empty() => out.push_str("{}"),
        Value::Map(map) => {
            out.push('{');
            for (index, (name, node)) in map.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                newline(depth + 1, out);
                json_text(name, out);
                out.push_str(if indent.is_some() { ": " } else { ":" });
                json(node, indent, depth + 1, out);
            }
            newline(depth, out);
            out.push('}');
        }
    }
}

fn json_text(text: &str, out: &mut String) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(letter)));
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

/// YAML in block style.
#[must_use]
pub fn yaml(node: &Node) -> String {
    let mut out = String::new();
    match &node.value {
        Value::Map(map) if !map.is_empty() => block(node, 0, &mut out),
        Value::List(list) if !list.is_empty() => block(node, 0, &mut out),
        _ => {
            inline(node, 0, &mut out);
            out.push('\n');
        }
    }
    out
}

fn pad(depth: usize, out: &mut String) {
    out.extend(std::iter::repeat_n("  ", depth));
}

fn block(node: &Node, depth: usize, out: &mut String) {
    match &node.value {
        Value::Map(map) => {
            for (index, (name, value)) in map.iter().enumerate() {
                // the first line of a map in a list stands behind its dash
                if index > 0 || !out.ends_with("- ") {
                    pad(depth, out);
                }
                out.push_str(&quoted(name));
                out.push(':');
                below(value, depth, out);
            }
        }
        Value::List(list) => {
            for (index, value) in list.iter().enumerate() {
                if index > 0 || !out.ends_with("- ") {
                    pad(depth, out);
                }
                out.push_str("- ");
                match &value.value {
                    Value::Map(map) if !map.is_empty() => block(value, depth + 1, out),
                    Value::List(inner) if !inner.is_empty() => block(value, depth + 1, out),
                    _ => {
                        inline(value, depth, out);
                        out.push('\n');
                    }
                }
            }
        }
        _ => {}
    }
}

fn below(value: &Node, depth: usize, out: &mut String) {
    match &value.value {
        Value::Map(map) if !map.is_empty() => {
            out.push('\n');
            block(value, depth + 1, out);
        }
        Value::List(list) if !list.is_empty() => {
            out.push('\n');
            block(value, depth + 1, out);
        }
        _ => {
            out.push(' ');
            inline(value, depth, out);
            out.push('\n');
        }
    }
}

fn inline(node: &Node, depth: usize, out: &mut String) {
    match &node.value {
        Value::Null => out.push_str("null"),
        Value::Bool(_) | Value::Int(_) => out.push_str(&node.scalar().unwrap_or_default()),
        Value::Float(value) if value.is_nan() => out.push_str(".nan"),
        Value::Float(value) if value.is_infinite() => out.push_str(if *value > 0.0 { ".inf" } else { "-.inf" }),
        Value::Float(value) => out.push_str(&number(*value)),
        Value::List(_) => out.push_str("[]"),
        Value::Map(_) => out.push_str("{}"),
        Value::Text(text) if is_literal(text) => literal(text, depth, out),
        Value::Text(text) => out.push_str(&quoted(text)),
    }
}

/// Whether a text of several lines can stand as it is below a `|`.
fn is_literal(text: &str) -> bool {
    let sound = |letter: char| letter == '\n' || (!letter.is_control() && letter != '\u{feff}');
    text.trim_end_matches('\n').contains('\n')
        && !text.starts_with([' ', '\n'])
        && text.chars().all(sound)
        && text.lines().all(|line| !line.ends_with(' '))
}

fn literal(text: &str, depth: usize, out: &mut String) {
    let body = text.trim_end_matches('\n');
    out.push_str(match text.len() - body.len() {
        0 => "|-",
        1 => "|",
        _ => "|+",
    });
    for line in body.split('\n') {
        out.push('\n');
        if !line.is_empty() {
            pad(depth + 1, out);
            out.push_str(line);
        }
    }
    // the line's own end is written by the caller
    out.extend(std::iter::repeat_n('\n', (text.len() - body.len()).saturating_sub(1)));
}

/// A text as a scalar that is read as this text.
fn quoted(text: &str) -> String {
    let old_truth = ["y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "n", "N", "no", "No", "NO", "off", "Off", "OFF"];
    if text.chars().any(|letter| letter.is_control() || letter == '\u{feff}') {
        let mut out = String::new();
        json_text(text, &mut out);
        return out;
    }
    if !matches!(yaml::plain(text), Value::Text(_)) || old_truth.contains(&text) || is_sexagesimal(text) {
        return format!("\"{text}\"");
    }
    let special = |first: char| "-?:,[]{}#&*!|>'\"%@`".contains(first);
    let first_two = text.get(..2).unwrap_or_default();
    let led = text.starts_with(special)
        && !(text.starts_with(['-', '?', ':'])
            && text.len() > 1
            && !first_two.ends_with([' ', ',', '[', ']', '{', '}']));
    let inner = text.contains(": ") || text.contains(" #") || text.ends_with(':');
    let edges = text.starts_with(' ') || text.ends_with(' ') || text == "---" || text == "..." || text == "<<";
    if led || inner || edges { format!("'{}'", text.replace('\'', "''")) } else { text.to_owned() }
}

/// `22:22`, which readers of YAML 1.1 take for a number, and what looks like another of their numbers or a date.
fn is_sexagesimal(text: &str) -> bool {
    let numeric = text.starts_with(|first: char| first.is_ascii_digit() || "+-.".contains(first));
    let parts_are_digits =
        text.split(':').all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
    let date = text.len() >= 8
        && text.split('-').count() == 3
        && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    let parts = text.split(':').count();
    numeric
        && ((parts_are_digits && parts > 1)
            || date
            || (text.contains('_') && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn yaml_reads_as_it_was() {
        let check = |text: &str, expect: &str| {
            let node = yaml::parse(text, "f").unwrap().remove(0);
            assert_eq!(yaml(&node), expect);
        };
        check("a: [1, {b: c, d: [e]}]\nf: {}\ng: []", "a:\n  - 1\n  - b: c\n    d:\n      - e\nf: {}\ng: []\n");
        check("a: 'N'\nb: '5'\nc: '::1'\nd: ': x'\ne: '22:22'", "a: \"N\"\nb: \"5\"\nc: ::1\nd: ': x'\ne: \"22:22\"\n");
        check("a: \"x\\ny\\n\"\nb: \"x\\n y\"", "a: |\n  x\n  y\nb: |-\n  x\n   y\n");
    }

    #[test]
    fn json_is_escaped_as_go_does_it() {
        let node = yaml::parse("a: \"<&>\\u2028\\x01\"\nb: 0.5", "f").unwrap().remove(0);
        assert_eq!(compact(&node), r#"{"a":"\u003c\u0026\u003e\u2028\u0001","b":0.5}"#);
        assert_eq!(pretty(&node).lines().count(), 4);
    }

    fn tree() -> impl Strategy<Value = Node> {
        let place = crate::node::Place::nowhere();
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i32>().prop_map(|value| Value::Int(value.into())),
            "[ -~\n]{0,12}".prop_map(Value::Text),
            "(yes|0x1|1:2|- a|a: b|#|\\| |\\.5|~|'|\"|&a|\\*a|!t|%|@|`|\\{|\\[)[ -~]{0,3}".prop_map(Value::Text),
        ];
        let at = place.clone();
        leaf.prop_map(move |value| Node::new(value, &at)).prop_recursive(3, 24, 4, move |inner| {
            let (one, two) = (place.clone(), place.clone());
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(move |list| Node::new(Value::List(list), &one)),
                proptest::collection::vec(("[ -~]{1,8}", inner), 0..4).prop_map(move |pairs| {
                    let pairs = pairs.into_iter().filter(|(name, _)| name != "<<");
                    Node::new(Value::Map(pairs.collect()), &two)
                }),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_written_is_read_again(node in tree()) {
            let text = yaml(&node);
            let read = yaml::parse(&text, "f").map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
            prop_assert_eq!(&read, &vec![node], "{}", text);
        }
    }
}
