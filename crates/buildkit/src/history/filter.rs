//! Conditions on records: `status==error`, `startedAt>24h`.

use crate::rpc::Status;
use crate::wire::Timestamp;
use crate::wire::history::Record;
use std::cmp::Ordering;

/// How a value is compared, the longer words first.
const OPERATORS: [&str; 8] = ["==", "!=", "~=", "<=", ">=", "=", "<", ">"];

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Condition {
    field: Field,
    operator: &'static str,
    value: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Reference,
    Repository,
    Status,
    Started,
    Completed,
    Duration,
}

/// Reads conditions, of each of whose groups all have to hold.
pub(super) fn read(texts: &[String]) -> Result<Vec<Vec<Condition>>, Status> {
    let one = |text: &String| text.split(',').map(condition).collect::<Result<_, _>>();
    texts.iter().map(one).collect()
}

fn condition(text: &str) -> Result<Condition, Status> {
    let text = text.trim().trim_matches('"');
    let wrong = || {
        let fields = "ref, repository, status, startedAt, completedAt and duration";
        Status::invalid(format!("no filter {text:?} of builds; there are {fields}"))
    };
    let at = text.find(['=', '!', '~', '<', '>']).ok_or_else(wrong)?;
    let (name, rest) = text.split_at(at);
    let operator = OPERATORS.into_iter().find(|operator| rest.starts_with(operator)).ok_or_else(wrong)?;
    let field = match name {
        "ref" => Field::Reference,
        "repository" => Field::Repository,
        "status" => Field::Status,
        "startedAt" => Field::Started,
        "completedAt" => Field::Completed,
        "duration" => Field::Duration,
        _ => return Err(wrong()),
    };
    Ok(Condition { field, operator, value: rest[operator.len()..].trim_matches('"').to_owned() })
}

/// Whether a record fits one of the groups, if there are any.
pub(super) fn fits(groups: &[Vec<Condition>], record: &Record, now: i64) -> bool {
    groups.is_empty() || groups.iter().any(|group| group.iter().all(|one| one.holds(record, now)))
}

impl Condition {
    fn holds(&self, record: &Record, now: i64) -> bool {
        let seconds = |time: &Option<Timestamp>| time.as_ref().map(|time| time.seconds);
        let word = |text: &str| match self.operator {
            "!=" => text != self.value,
            "~=" => text.contains(&self.value),
            _ => text == self.value,
        };
        match self.field {
            Field::Reference => word(&record.reference),
            Field::Repository => {
                let attrs = &record.frontend_attrs;
                word(attrs.get("vcs:source").or_else(|| attrs.get("context")).map_or("", String::as_str))
            }
            Field::Status => word(status(record)),
            Field::Started => self.when(seconds(&record.created_at), now),
            Field::Completed => self.when(seconds(&record.completed_at), now),
            Field::Duration => {
                let end = seconds(&record.completed_at).unwrap_or(now);
                let took = seconds(&record.created_at).map(|begin| end - begin);
                took.zip(span(&self.value)).is_some_and(|(took, value)| self.compares(took.cmp(&value)))
            }
        }
    }

    /// Compares a time with one that is given as such, or as how long it is ago.
    fn when(&self, time: Option<i64>, now: i64) -> bool {
        let Some(time) = time else { return false };
        if let Ok(value) = self.value.parse::<jiff::Timestamp>() {
            return self.compares(time.cmp(&value.as_second()));
        }
        span(&self.value).is_some_and(|ago| self.compares((now - time).cmp(&ago)))
    }

    fn compares(&self, order: Ordering) -> bool {
        match self.operator {
            "<" => order.is_lt(),
            "<=" => order.is_le(),
            ">" => order.is_gt(),
            ">=" => order.is_ge(),
            "!=" => order.is_ne(),
            _ => order.is_eq(),
        }
    }
}

fn status(record: &Record) -> &'static str {
    match (&record.error, &record.completed_at) {
        (Some(error), _) if error.code == crate::rpc::Code::CANCELLED.0 => "canceled",
        (Some(_), _) => "error",
        (None, Some(_)) => "completed",
        (None, None) => "running",
    }
}

/// Seconds of `1h30m`, `45s`, `2.5h`.
fn span(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let (unit, factor) = [("ms", 0.001), ("h", 3600.0), ("m", 60.0), ("s", 1.0)]
            .into_iter()
            .find(|(unit, _)| rest.starts_with(unit))?;
        seconds += number * factor;
        rest = &rest[unit.len()..];
    }
    #[expect(clippy::cast_possible_truncation, reason = "whole seconds are enough, and the cast saturates")]
    let whole = seconds as i64;
    Some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::RpcStatus;

    #[test]
    fn conditions_hold_or_not() {
        let time = |seconds| Some(Timestamp { seconds, nanos: 0 });
        let record = Record {
            reference: "abc".to_owned(),
            created_at: time(1000),
            completed_at: time(1090),
            error: Some(RpcStatus { code: 2, ..RpcStatus::default() }),
            ..Record::default()
        };
        let check = |text: &str| fits(&read(&[text.to_owned()]).unwrap(), &record, 5000);
        for text in ["ref==abc", "ref~=b", "status==error,ref!=x", "startedAt>1h", "duration>=1m30s", "completedAt<2h"]
        {
            assert!(check(text), "{text}");
        }
        for text in ["ref~=d", "status!=error", "status==error,ref==x", "startedAt<1h", "duration<90s"] {
            assert!(!check(text), "{text}");
        }
        assert!(check("startedAt<2026-01-01T00:00:00Z") && fits(&[], &record, 0));
        for text in ["weather==fine", "ref", "ref^x"] {
            assert!(read(&[text.to_owned()]).is_err(), "{text}");
        }
    }
}
