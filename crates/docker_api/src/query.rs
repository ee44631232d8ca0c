//! Query strings with Docker's rules for booleans, times and filters.

use crate::error::ApiError;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

/// A request's parameters.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

/// Decodes `%41` and, in queries, `+`. Bytes that are not UTF-8 become replacement characters; a stray `%` stays.
pub(crate) fn percent_decode(text: &str, plus_is_space: bool) -> String {
    if !text.bytes().any(|byte| byte == b'%' || (plus_is_space && byte == b'+')) {
        return text.to_owned();
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        match (byte, tail) {
            (b'%', [high, low, after @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                out.push(hex(*high) << 4 | hex(*low));
                rest = after;
            }
            (b'+', _) if plus_is_space => out.push(b' '),
            _ => out.push(*byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit.saturating_sub(b'A').saturating_add(10) & 15,
    }
}

impl Query {
    pub(crate) fn parse(text: Option<&str>) -> Self {
        let pairs = text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (percent_decode(name, true), percent_decode(value, true))
        });
        Self(pairs.collect())
    }

    /// The first value of a parameter, empty ones included.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The first value of a parameter that is not empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    /// All values of a parameter.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Docker's boolean: everything is true but nothing, `0`, `no`, `false` and `none`.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.flag_or(name, false)
    }

    /// As [`Self::flag`], for parameters that are on when they are missing.
    pub(crate) fn flag_or(&self, name: &str, missing: bool) -> bool {
        self.get(name).map_or(missing, |value| {
            !matches!(value.trim().to_ascii_lowercase().as_str(), "" | "0" | "no" | "false" | "none")
        })
    }

    pub(crate) fn number<T: FromStr>(&self, name: &str) -> Result<Option<T>, ApiError> {
        self.text(name)
            .map(|value| {
                value
                    .trim()
                    .parse()
                    .map_err(|_| ApiError::invalid(format!("invalid value {value:?} for parameter {name}")))
            })
            .transpose()
    }

    /// A time as nanoseconds since the Unix epoch: `1700000000`, `1700000000.000000001` or RFC 3339.
    pub(crate) fn time_ns(&self, name: &str) -> Result<Option<u64>, ApiError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        parse_time_ns(text).map(|ns| Some(ns).filter(|ns| *ns > 0)).ok_or_else(|| {
            ApiError::invalid(format!(
                "invalid time {text:?} for parameter {name}: give seconds since 1970 or RFC 3339"
            ))
        })
    }

    /// The `filters` parameter; its keys must be among `known`.
    pub(crate) fn filters(&self, known: &[&str]) -> Result<Filters, ApiError> {
        let filters = Filters::parse(self.text("filters").unwrap_or("{}"))?;
        match filters.0.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(ApiError::invalid(format!("invalid filter '{key}'"))),
            None => Ok(filters),
        }
    }
}

fn parse_time_ns(text: &str) -> Option<u64> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return u64::try_from(time.as_nanosecond()).ok();
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.bytes().any(|byte| !byte.is_ascii_digit()) {
        return None;
    }
    let seconds: u64 = seconds.parse().ok()?;
    let nanoseconds: u64 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds)
}

/// A length of time as Go writes it, with days: `1h30m`, `1.5h`, `300ms`, `7d`.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| c.is_ascii_alphabetic())?;
        let (number, tail) = rest.split_at(end);
        let unit_end = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let factor = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86400.0,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok().filter(|number| *number >= 0.0)? * factor;
        rest = tail;
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(seconds).ok() }
}

/// What a listing is narrowed to: values of one key are alternatives, keys all have to match.
#[derive(Debug, Default)]
pub(crate) struct Filters(BTreeMap<String, Vec<String>>);

impl Filters {
    /// Reads both of Docker's forms: `{"name":{"x":true}}` and the older `{"name":["x"]}`.
    pub(crate) fn parse(text: &str) -> Result<Self, ApiError> {
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum Values {
            Set(BTreeMap<String, bool>),
            List(Vec<String>),
        }
        let filters: BTreeMap<String, Values> = serde_json::from_str(text)
            .map_err(|error| ApiError::invalid(format!("invalid filters {text:?}: {error}")))?;
        let values = |values| match values {
            Values::Set(set) => set.into_iter().filter(|(_, on)| *on).map(|(value, _)| value).collect(),
            Values::List(list) => list,
        };
        Ok(Self(filters.into_iter().map(|(key, set)| (key, values(set))).collect()))
    }

    /// The values of a key; `None` if it is not filtered by.
    pub(crate) fn values(&self, key: &str) -> Option<&[String]> {
        self.0.get(key).map(Vec::as_slice).filter(|values| !values.is_empty())
    }

    /// One more value of a key.
    pub(crate) fn add(&mut self, key: &str, value: &str) {
        self.0.entry(key.to_owned()).or_default().push(value.to_owned());
    }

    /// True if the key is not filtered by, or any of its values satisfies `test`.
    pub(crate) fn matches(&self, key: &str, test: impl Fn(&str) -> bool) -> bool {
        self.values(key).is_none_or(|values| values.iter().any(|value| test(value)))
    }

    /// True if every `key` or `key=value` of the label filter is among `labels`, and none of the filter `label!`.
    pub(crate) fn match_labels<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        let has = |want: &String| match want.split_once('=') {
            Some((key, value)) => label(key) == Some(value),
            None => label(want).is_some(),
        };
        self.values("label").is_none_or(|wanted| wanted.iter().all(has))
            && self.values("label!").is_none_or(|unwanted| !unwanted.iter().any(has))
    }

    /// The moment that `until` names, in nanoseconds since 1970: a time, or how long before `now_ns`.
    pub(crate) fn until(&self, now_ns: u64) -> Result<Option<u64>, ApiError> {
        if self.values("until").is_some_and(|texts| texts.len() > 1) {
            return Err(ApiError::invalid("more than one until filter specified"));
        }
        self.earliest_until(now_ns)
    }

    /// The same where there may be several, which then all hold.
    pub(crate) fn earliest_until(&self, now_ns: u64) -> Result<Option<u64>, ApiError> {
        let mut earliest = None;
        for text in self.values("until").unwrap_or_default() {
            let moment = Self::moment(text, now_ns)?;
            earliest = Some(earliest.map_or(moment, |other: u64| other.min(moment)));
        }
        Ok(earliest)
    }

    fn moment(text: &str, now_ns: u64) -> Result<u64, ApiError> {
        let ago = || u64::try_from(parse_duration(text)?.as_nanos()).ok().map(|ago| now_ns.saturating_sub(ago));
        let moment = ago().or_else(|| parse_time_ns(text));
        moment.ok_or_else(|| {
            ApiError::invalid(format!("invalid filter 'until={text}': give a time, or a length as in 24h or 1h30m"))
        })
    }

    /// A boolean filter as `dangling=true`.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, ApiError> {
        match self.values(key) {
            None => Ok(None),
            Some([value]) if matches!(value.as_str(), "1" | "true" | "True" | "TRUE") => Ok(Some(true)),
            Some([value]) if matches!(value.as_str(), "0" | "false" | "False" | "FALSE") => Ok(Some(false)),
            Some(values) => Err(ApiError::invalid(format!("invalid filter '{key}={}'", values.join(",")))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_are_dockers() {
        let check =
            |value: &str, expect| assert_eq!(Query::parse(Some(&format!("a={value}"))).flag("a"), expect, "{value}");
        for yes in ["1", "true", "True", "yes", "anything"] {
            check(yes, true);
        }
        for no in ["", "0", "false", "False", "no", "none"] {
            check(no, false);
        }
        assert!(!Query::parse(None).flag("a"));
        assert!(Query::parse(Some("a=0")).flag_or("b", true));
    }

    #[test]
    fn escapes_are_decoded_and_never_panic() {
        assert_eq!(percent_decode("a%2Fb+c%zz%", true), "a/b c%zz%");
        assert_eq!(percent_decode("a+b", false), "a+b");
        assert_eq!(percent_decode("%ff%", false), "\u{fffd}%");
        let query = Query::parse(Some("name=a%3Db&flag&x=1&x=2"));
        assert_eq!(query.get("name"), Some("a=b"));
        assert_eq!(query.get("flag"), Some(""));
        assert_eq!(query.all("x").collect::<Vec<_>>(), ["1", "2"]);
    }

    #[test]
    fn times_have_nanoseconds() {
        let check = |text: &str, expect| assert_eq!(parse_time_ns(text), expect, "{text}");
        check("1700000000", Some(1_700_000_000_000_000_000));
        check("1700000000.000000001", Some(1_700_000_000_000_000_001));
        check("1.5", Some(1_500_000_000));
        check("1970-01-01T00:00:02Z", Some(2_000_000_000));
        check("yesterday", None);
        check("1.x", None);
        check("99999999999999999999", None);
    }

    #[test]
    fn lengths_of_time_are_gos() {
        let check = |text: &str, expect: Option<f64>| {
            assert_eq!(parse_duration(text).map(|length| length.as_secs_f64()), expect, "{text}");
        };
        check("90m", Some(5400.0));
        check("1h30m", Some(5400.0));
        check("1.5h", Some(5400.0));
        check("2d", Some(172_800.0));
        check("300ms", Some(0.3));
        for wrong in ["", "5", "xh", "-1h", "1y", "1h5", "nanh"] {
            check(wrong, None);
        }
        let filters = |text: &str| Filters::parse(text).unwrap();
        let now = 10_000_000_000_000;
        assert_eq!(filters(r#"{"until":["1h"]}"#).until(now).unwrap(), Some(now - 3_600_000_000_000));
        assert_eq!(filters(r#"{"until":["5.5"]}"#).until(now).unwrap(), Some(5_500_000_000));
        assert!(filters("{}").until(now).unwrap().is_none());
        assert!(filters(r#"{"until":["a"]}"#).until(now).is_err());
        assert!(filters(r#"{"until":["1h","2h"]}"#).until(now).is_err());
    }

    #[test]
    fn labels_are_wanted_and_unwanted() {
        let labels = |key: &str| (key == "a").then_some("1");
        for (text, expect) in [
            (r#"{"label":["a"]}"#, true),
            (r#"{"label":["a=1"],"label!":["b"]}"#, true),
            (r#"{"label":["a=2"]}"#, false),
            (r#"{"label!":["a"]}"#, false),
            (r#"{"label!":["a=2"]}"#, true),
        ] {
            assert_eq!(Filters::parse(text).unwrap().match_labels(labels), expect, "{text}");
        }
    }

    #[test]
    fn both_filter_forms_are_read() {
        for text in [r#"{"name":{"x":true,"y":false}}"#, r#"{"name":["x"]}"#] {
            let filters = Filters::parse(text).unwrap();
            assert_eq!(filters.values("name"), Some(&["x".to_owned()][..]));
            assert!(filters.matches("name", |v| v == "x") && !filters.matches("name", |v| v == "z"));
            assert!(filters.matches("other", |_| false));
        }
        assert!(Filters::parse("[1]").is_err());
        let query = Query::parse(Some("filters=%7B%22nope%22%3A%5B%22a%22%5D%7D"));
        assert_eq!(query.filters(&["name"]).unwrap_err().message, "invalid filter 'nope'");
    }
}
