//! Percent signs in addresses.

use std::fmt::Write as _;

/// Decodes `%41`. Bytes that are not UTF-8 become replacement characters, which no name has; a stray `%` stays.
pub(crate) fn percent_decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        let pair = tail.get(..2).filter(|_| *byte == b'%').and_then(|pair| hex::decode(pair).ok());
        match pair.as_deref() {
            Some([decoded]) => {
                out.push(*decoded);
                rest = &tail[2..];
            }
            _ => out.push(*byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Escapes what a query does not carry as it is.
pub(crate) fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/:,".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn damaged_escapes_stay() {
        assert_eq!(percent_decode("a%3Ab%%zz%4"), "a:b%%zz%4");
        assert_eq!(percent_decode("%ff"), "\u{fffd}");
    }

    proptest! {
        #[test]
        fn escapes_round_trip(text in ".*") {
            prop_assert_eq!(percent_decode(&percent_encode(&text)), text);
        }
    }
}
