//! Extended headers: `length keyword=value` records.

use std::collections::BTreeMap;

use crate::tree::Time;

/// The records of one or more extended headers.
#[derive(Debug, Clone, Default)]
pub(super) struct Records {
    values: BTreeMap<Vec<u8>, Vec<u8>>,
    /// `GNU.sparse.offset` and `GNU.sparse.numbytes` repeat, in pairs.
    pub(super) sparse_pairs: Vec<(u64, u64)>,
    pending_offset: Option<u64>,
}

impl Records {
    /// Adds the records of one extended header; later ones replace earlier ones. `None` when it is malformed.
    pub(super) fn parse(&mut self, mut body: &[u8]) -> Option<()> {
        while !body.is_empty() {
            if body.iter().all(|byte| *byte == 0) {
                break;
            }
            let space = body.iter().take(20).position(|byte| *byte == b' ')?;
            let length = usize::try_from(decimal(&body[..space])?).ok()?;
            if length <= space + 1 || length > body.len() || body[length - 1] != b'\n' {
                return None;
            }
            let record = &body[space + 1..length - 1];
            let equals = record.iter().position(|byte| *byte == b'=')?;
            self.put(&record[..equals], &record[equals + 1..])?;
            body = &body[length..];
        }
        Some(())
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"GNU.sparse.offset" => self.pending_offset = Some(decimal(value)?),
            b"GNU.sparse.numbytes" => self.sparse_pairs.push((self.pending_offset.take()?, decimal(value)?)),
            _ => drop(self.values.insert(key.to_vec(), value.to_vec())),
        }
        Some(())
    }

    /// The records of `self` over those of `base`; an empty value takes the base's away.
    pub(super) fn over(mut self, base: &Self) -> Self {
        for (key, value) in &base.values {
            self.values.entry(key.clone()).or_insert_with(|| value.clone());
        }
        self.values.retain(|key, value| !value.is_empty() || key.starts_with(XATTR));
        self
    }

    pub(super) fn get(&self, key: &str) -> Option<&[u8]> {
        self.values.get(key.as_bytes()).map(Vec::as_slice)
    }

    /// A decimal number; `Some(None)` when it is there and malformed.
    pub(super) fn number(&self, key: &str) -> Option<Option<u64>> {
        self.get(key).map(decimal)
    }

    /// A time; `Some(None)` when it is there and malformed.
    pub(super) fn time(&self, key: &str) -> Option<Option<Time>> {
        self.get(key).map(time)
    }

    pub(super) fn xattrs(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let named =
            self.values.iter().filter_map(|(key, value)| Some((key.strip_prefix(XATTR)?.to_vec(), value.clone())));
        named.filter(|(name, _)| !name.is_empty()).collect()
    }
}

pub(super) const XATTR: &[u8] = b"SCHILY.xattr.";

pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Seconds with an optional sign and fraction.
pub(super) fn time(text: &[u8]) -> Option<Time> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = match text.iter().position(|byte| *byte == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &text[text.len()..]),
    };
    let seconds = i64::try_from(decimal(whole)?).ok()?;
    let mut nanos = 0_u32;
    for place in 0..9 {
        let digit = fraction.get(place).copied().unwrap_or(b'0');
        if !digit.is_ascii_digit() {
            return None;
        }
        nanos = nanos * 10 + u32::from(digit - b'0');
    }
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(match (negative, nanos) {
        (false, _) => Time { seconds, nanos },
        (true, 0) => Time { seconds: -seconds, nanos: 0 },
        (true, _) => Time { seconds: -seconds - 1, nanos: 1_000_000_000 - nanos },
    })
}
