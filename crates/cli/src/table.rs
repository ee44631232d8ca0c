//! Lists: as a table, as lines of a template, as JSON.

use serde_json::{Map, Value};

use crate::failure::Failure;
use crate::output;
use crate::template::Template;

/// The least width of a column, and the space between two, as Docker's lists have them.
const LEAST_WIDTH: usize = 10;
const BETWEEN: usize = 3;

/// Columns beside each other; the last is as wide as it likes.
pub(crate) fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            let widest = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
            (widest.unwrap_or(0) + BETWEEN).max(LEAST_WIDTH)
        })
        .collect();
    let mut text = String::new();
    for row in rows {
        for (index, (cell, width)) in row.iter().zip(&widths).enumerate() {
            if index + 1 == row.len() {
                text.push_str(cell);
            } else {
                text.push_str(&format!("{cell:<width$}"));
            }
        }
        text.push('\n');
    }
    text
}

/// One column: its name in templates, and its title.
pub(crate) type Column = (&'static str, &'static str);

/// Prints rows, each an object of the columns' values.
///
/// `format` is the user's: none or `table` for the default table, `table {{.A}}\t{{.B}}`, a template, or `json`.
///
/// # Errors
/// A template that is wrong.
pub(crate) fn list(columns: &[Column], shown: &str, rows: &[Value], format: Option<&str>) -> Result<(), Failure> {
    output::print(&lines(columns, shown, rows, format).map_err(Failure::new)?);
    Ok(())
}

fn lines(columns: &[Column], shown: &str, rows: &[Value], format: Option<&str>) -> Result<String, String> {
    let format = format.map(|format| format.replace("\\t", "\t").replace("\\n", "\n"));
    let table = match format.as_deref() {
        None | Some("table" | "") => Some(shown.to_owned()),
        Some(format) => format.strip_prefix("table ").map(str::to_owned),
    };
    if let Some(table) = table {
        let template = Template::parse(&table)?;
        let titles: Map<String, Value> =
            columns.iter().map(|(name, title)| ((*name).to_owned(), Value::String((*title).to_owned()))).collect();
        let head = template.fill(&Value::Object(titles))?;
        let cells = |line: String| line.split('\t').map(str::to_owned).collect::<Vec<_>>();
        let mut filled = vec![cells(head)];
        for row in rows {
            filled.push(cells(template.fill(row)?));
        }
        return Ok(align(&filled));
    }
    let template = Template::parse(&format.unwrap_or_default())?;
    let mut text = String::new();
    for row in rows {
        text.push_str(&template.fill(row)?);
        text.push('\n');
    }
    Ok(text)
}

/// The value as text, or nothing.
pub(crate) fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

/// The value as a number, or 0.
pub(crate) fn number(value: &Value, path: &str) -> i64 {
    value.pointer(path).and_then(Value::as_i64).unwrap_or_default()
}

/// The value as a switch, or off.
pub(crate) fn switch(value: &Value, path: &str) -> bool {
    value.pointer(path).and_then(Value::as_bool).unwrap_or_default()
}

/// The elements of a list, or none.
pub(crate) fn elements<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    value.pointer(path).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// A size with powers of 1000, in so many digits: `12.3MB`.
pub(crate) fn decimal_size(bytes: i64, digits: usize) -> String {
    scaled(bytes, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB"], digits)
}

/// A size with powers of 1024: `12.3MiB`.
pub(crate) fn binary_size(bytes: i64, digits: usize) -> String {
    scaled(bytes, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB"], digits)
}

#[expect(clippy::cast_precision_loss, reason = "a size is shown with four digits at the most")]
fn scaled(bytes: i64, base: f64, units: &[&str], digits: usize) -> String {
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= base && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    let unit = units.get(unit).copied().unwrap_or_default();
    // As Go's %.4g: so many digits in all, without zeros at the end.
    let whole = format!("{value:.0}").len();
    let mut number = format!("{value:.*}", digits.saturating_sub(whole));
    if number.contains('.') {
        number.truncate(number.trim_end_matches('0').trim_end_matches('.').len());
    }
    format!("{number}{unit}")
}

/// JSON with every line break and space as the user likes to read it, the members in the order that they came in.
pub(crate) fn pretty(raw: &[u8]) -> String {
    let text = String::from_utf8_lossy(raw);
    let mut out = String::with_capacity(text.len() * 2);
    let mut depth = 0_usize;
    let mut quoted = false;
    let mut escaped = false;
    let mut chars = text.trim().chars().peekable();
    let newline = |out: &mut String, depth: usize| {
        out.push('\n');
        out.push_str(&"    ".repeat(depth));
    };
    while let Some(c) = chars.next() {
        if quoted {
            out.push(c);
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => quoted = false,
                _ => {}
            }
            continue;
        }
        match c {
            c if c.is_whitespace() => {}
            '{' | '[' => {
                out.push(c);
                while chars.next_if(|c| c.is_whitespace()).is_some() {}
                if let Some(close) = chars.next_if(|c| *c == '}' || *c == ']') {
                    out.push(close);
                } else {
                    depth += 1;
                    newline(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                newline(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                newline(&mut out, depth);
            }
            ':' => out.push_str(": "),
            other => {
                quoted = other == '"';
                out.push(other);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_are_aligned() {
        let rows =
            [vec!["A".to_owned(), "LONGER TITLE".to_owned(), "Z".to_owned()], vec!["1".into(), "2".into(), "3".into()]];
        assert_eq!(align(&rows), "A         LONGER TITLE   Z\n1         2              3\n");
    }

    #[test]
    fn formats() {
        let columns: &[Column] = &[("ID", "CONTAINER ID"), ("Names", "NAMES")];
        let rows = [json!({"ID": "abc", "Names": "web"})];
        let check = |format: Option<&str>, expect: &str| {
            assert_eq!(lines(columns, "{{.ID}}\t{{.Names}}", &rows, format).as_deref(), Ok(expect), "{format:?}");
        };
        check(None, "CONTAINER ID   NAMES\nabc            web\n");
        check(Some("table {{.Names}}"), "NAMES\nweb\n");
        check(Some("{{.Names}}\\t{{.ID}}"), "web\tabc\n");
        check(Some("json"), "{\"ID\":\"abc\",\"Names\":\"web\"}\n");
        assert!(lines(columns, "", &rows, Some("{{.Name}}")).unwrap_err().contains("no field \"Name\""));
    }

    #[test]
    fn sizes() {
        assert_eq!(decimal_size(0, 3), "0B");
        assert_eq!(decimal_size(12_345_678, 3), "12.3MB");
        assert_eq!(decimal_size(117_000_000, 3), "117MB");
        assert_eq!(binary_size(536_870_912, 4), "512MiB");
        assert_eq!(binary_size(1_234_567, 4), "1.177MiB");
    }

    #[test]
    fn json_is_laid_out_in_its_own_order() {
        let text = pretty(br#"[{"b":1,"a":{"x":"{,:\"}"},"e":[],"l":[1,2]}]"#);
        let expect = "[\n    {\n        \"b\": 1,\n        \"a\": {\n            \"x\": \"{,:\\\"}\"\n        },\n        \"e\": [],\n        \"l\": [\n            1,\n            2\n        ]\n    }\n]";
        assert_eq!(text, expect);
    }
}
