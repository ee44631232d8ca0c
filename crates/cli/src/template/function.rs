//! The functions of templates.

use serde_json::Value;

/// How Go prints a value.
pub(super) fn display(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) => format!("[{}]", list.iter().map(display).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let pairs: Vec<String> = map.iter().map(|(name, value)| format!("{name}:{}", display(value))).collect();
            format!("map[{}]", pairs.join(" "))
        }
        other => other.to_string(),
    }
}

/// Whether a value counts as true: it is not empty, zero or absent.
pub(super) fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(on) => *on,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// Calls a function by name.
///
/// # Errors
/// No such function, or arguments that it cannot work on.
pub(super) fn call(name: &str, arguments: &[Value]) -> Result<Value, String> {
    let wrong = || format!("{name} cannot work on {} arguments of these kinds", arguments.len());
    let text = |value: &Value| Value::String(value.as_str().map_or_else(|| display(value), str::to_owned));
    Ok(match (name, arguments) {
        ("json", [value]) => Value::String(serde_json::to_string(value).map_err(|error| error.to_string())?),
        ("len", [Value::Array(list)]) => Value::from(list.len()),
        ("len", [Value::Object(map)]) => Value::from(map.len()),
        ("len", [Value::String(text)]) => Value::from(text.len()),
        ("len", [Value::Null]) => Value::from(0),
        ("index", [value, keys @ ..]) => index(value, keys)?,
        ("slice", [Value::String(text), bounds @ ..]) => Value::String(slice(text, bounds).ok_or_else(wrong)?),
        ("print", values) => Value::String(values.iter().map(display).collect::<Vec<_>>().concat()),
        ("println", values) => Value::String(format!("{}\n", values.iter().map(display).collect::<Vec<_>>().join(" "))),
        ("printf", [Value::String(format), values @ ..]) => Value::String(printf(format, values)?),
        ("join", [Value::Array(list), Value::String(between)]) => {
            Value::String(list.iter().map(display).collect::<Vec<_>>().join(between))
        }
        ("join", [Value::Null, _]) => Value::String(String::new()),
        ("split", [value, Value::String(at)]) => {
            display(value).split(at.as_str()).map(|part| Value::String(part.to_owned())).collect()
        }
        ("lower", [value]) => Value::String(display(&text(value)).to_lowercase()),
        ("upper", [value]) => Value::String(display(&text(value)).to_uppercase()),
        ("title", [value]) => Value::String(title(&display(value))),
        ("truncate", [value, length]) => {
            let length = length.as_u64().and_then(|length| usize::try_from(length).ok()).ok_or_else(wrong)?;
            Value::String(display(value).chars().take(length).collect())
        }
        ("pad", [value, before, after]) => {
            let spaces = |count: &Value| count.as_u64().and_then(|count| usize::try_from(count.min(1000)).ok());
            let (before, after) = (spaces(before).ok_or_else(wrong)?, spaces(after).ok_or_else(wrong)?);
            Value::String(format!("{}{}{}", " ".repeat(before), display(value), " ".repeat(after)))
        }
        ("not", [value]) => Value::Bool(!truth(value)),
        ("and", [first, rest @ ..]) => {
            let values = std::iter::once(first).chain(rest);
            values.clone().find(|value| !truth(value)).or(values.last()).cloned().unwrap_or(Value::Null)
        }
        ("or", [first, rest @ ..]) => {
            let values = std::iter::once(first).chain(rest);
            values.clone().find(|value| truth(value)).or(values.last()).cloned().unwrap_or(Value::Null)
        }
        ("eq", [first, rest @ ..]) if !rest.is_empty() => Value::Bool(rest.iter().any(|value| equal(first, value))),
        ("ne", [left, right]) => Value::Bool(!equal(left, right)),
        ("lt" | "le" | "gt" | "ge", [left, right]) => {
            let order = compare(left, right).ok_or_else(wrong)?;
            Value::Bool(match name {
                "lt" => order.is_lt(),
                "le" => order.is_le(),
                "gt" => order.is_gt(),
                _ => order.is_ge(),
            })
        }
        (
            "json" | "len" | "index" | "slice" | "printf" | "join" | "split" | "lower" | "upper" | "title" | "truncate"
            | "pad" | "not" | "and" | "or" | "eq" | "ne" | "lt" | "le" | "gt" | "ge",
            _,
        ) => return Err(wrong()),
        _ => return Err(format!("no function {name:?}")),
    })
}

fn index(value: &Value, keys: &[Value]) -> Result<Value, String> {
    let mut at = value;
    for key in keys {
        at = match (at, key) {
            (Value::Object(map), Value::String(name)) => match map.get(name) {
                Some(value) => value,
                // Go gives the element type's zero, and most maps here are of strings.
                None => return Ok(Value::String(String::new())),
            },
            (Value::Null, _) => return Ok(Value::String(String::new())),
            (Value::Array(list), Value::Number(number)) => {
                let found = number.as_u64().and_then(|index| list.get(usize::try_from(index).ok()?));
                found.ok_or_else(|| format!("index {number} is out of range; there are {} elements", list.len()))?
            }
            (other, key) => return Err(format!("cannot take {} of {}", display(key), display(other))),
        };
    }
    Ok(at.clone())
}

fn slice(text: &str, bounds: &[Value]) -> Option<String> {
    let bound = |value: Option<&Value>, default: usize| match value {
        Some(value) => usize::try_from(value.as_u64()?).ok(),
        None => Some(default),
    };
    text.get(bound(bounds.first(), 0)?..bound(bounds.get(1), text.len())?).map(str::to_owned)
}

fn title(text: &str) -> String {
    let mut start = true;
    let raise = |c: char| {
        let raised = if start { c.to_uppercase().collect::<String>() } else { c.to_string() };
        start = c.is_whitespace();
        raised
    };
    text.chars().map(raise).collect()
}

fn equal(left: &Value, right: &Value) -> bool {
    left == right || compare(left, right).is_some_and(std::cmp::Ordering::is_eq)
}

fn compare(left: &Value, right: &Value) -> Option<std::cmp::Ordering> {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => match (left.as_i64(), right.as_i64()) {
            (Some(left), Some(right)) => Some(left.cmp(&right)),
            _ => left.as_f64()?.partial_cmp(&right.as_f64()?),
        },
        (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
        _ => None,
    }
}

/// The widest that `printf` pads to.
const MAX_WIDTH: usize = 1000;

fn printf(format: &str, values: &[Value]) -> Result<String, String> {
    let mut out = String::new();
    let mut values = values.iter();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut spec = String::new();
        while let Some(c) = chars.next_if(|c| "-+ #0123456789.".contains(*c)) {
            spec.push(c);
        }
        let verb = chars.next().ok_or("printf: a % stands at the end")?;
        if verb == '%' {
            out.push('%');
            continue;
        }
        let value = values.next().ok_or_else(|| format!("printf: no value for %{verb}"))?;
        let (width, precision) = spec.split_once('.').unwrap_or((&spec, ""));
        let size = |text: &str| text.parse::<usize>().ok().map(|size| size.min(MAX_WIDTH));
        let mut text = match verb {
            's' | 'v' => display(value),
            'q' => format!("{:?}", display(value)),
            'd' | 't' => display(value),
            'x' => value.as_i64().map_or_else(|| display(value), |number| format!("{number:x}")),
            'f' => format!("{:.*}", size(precision).unwrap_or(6), value.as_f64().unwrap_or_default()),
            other => return Err(format!("printf: %{other} is not supported")),
        };
        if let (Some(length), 's' | 'v') = (size(precision), verb) {
            text = text.chars().take(length).collect();
        }
        let wide = size(width.trim_start_matches(['-', '+', ' ', '#', '0'])).unwrap_or(0);
        out.push_str(&match (width.contains('-'), width.starts_with('0')) {
            (true, _) => format!("{text:<wide$}"),
            (_, true) => format!("{text:0>wide$}"),
            _ => format!("{text:>wide$}"),
        });
    }
    Ok(out)
}
