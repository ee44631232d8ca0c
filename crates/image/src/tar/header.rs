//! One header block: 512 bytes with fixed fields.

/// Everything in an archive is a multiple of this.
pub(crate) const BLOCK: usize = 512;

/// A header block as read.
#[derive(Clone)]
pub(super) struct Header(pub(super) [u8; BLOCK]);

/// Which dialect a header says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Old,
    Ustar,
    Gnu,
}

impl Header {
    pub(super) fn is_zero(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }

    /// Whether the checksum fits, counted with unsigned or (as some old programs did) signed bytes.
    pub(super) fn checksum_fits(&self) -> bool {
        let Some(stored) = number(&self.0[148..156]) else { return false };
        let counted = |range: &[u8]| range.iter().map(|byte| i64::from(*byte)).sum::<i64>();
        let signed = |range: &[u8]| range.iter().map(|byte| i64::from(byte.cast_signed())).sum::<i64>();
        let spaces = 8 * i64::from(b' ');
        let unsigned_sum = counted(&self.0[..148]) + counted(&self.0[156..]) + spaces;
        let signed_sum = signed(&self.0[..148]) + signed(&self.0[156..]) + spaces;
        stored == unsigned_sum || stored == signed_sum
    }

    pub(super) fn dialect(&self) -> Dialect {
        match &self.0[257..265] {
            b"ustar  \0" => Dialect::Gnu,
            other if other.starts_with(b"ustar\0") => Dialect::Ustar,
            _ => Dialect::Old,
        }
    }

    pub(super) fn kind(&self) -> u8 {
        self.0[156]
    }

    /// The name with the prefix of the ustar dialect in front.
    pub(super) fn name(&self) -> Vec<u8> {
        let name = text(&self.0[..100]);
        let prefix = if self.dialect() == Dialect::Ustar { text(&self.0[345..500]) } else { &[] };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub(super) fn link_name(&self) -> &[u8] {
        text(&self.0[157..257])
    }

    pub(super) fn mode(&self) -> Option<i64> {
        number(&self.0[100..108])
    }

    pub(super) fn uid(&self) -> Option<i64> {
        number(&self.0[108..116])
    }

    pub(super) fn gid(&self) -> Option<i64> {
        number(&self.0[116..124])
    }

    pub(super) fn size(&self) -> Option<i64> {
        number(&self.0[124..136])
    }

    pub(super) fn mtime(&self) -> Option<i64> {
        number(&self.0[136..148])
    }

    pub(super) fn device(&self) -> Option<(i64, i64)> {
        Some((number(&self.0[329..337])?, number(&self.0[337..345])?))
    }
}

/// The bytes before the first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    &field[..end]
}

/// A number in octal digits, or in base 256 when the first bit is set. An empty field is 0.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        let negative = first & 0x40 != 0;
        let mut value: i128 = if negative { -1 } else { 0 };
        for (place, byte) in field.iter().enumerate() {
            let byte = if place == 0 && !negative { byte & 0x7f } else { *byte };
            value = value.checked_mul(256)? | i128::from(byte);
            if i64::try_from(value).is_err() {
                return None;
            }
        }
        return i64::try_from(value).ok();
    }
    let digits = field.iter().skip_while(|byte| **byte == b' ');
    let mut value = 0_i64;
    for byte in digits {
        match byte {
            b'0'..=b'7' => value = value.checked_mul(8)?.checked_add(i64::from(byte - b'0'))?,
            b' ' | 0 => break,
            _ => return None,
        }
    }
    Some(value)
}
