//! Sizes, processors, limits and other numbers.

/// Reads a size in bytes: `512m`, `1.5GiB`, `1024`.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn bytes(text: &str) -> Result<i64, String> {
    let expected = || "give a number of bytes, with k, m, g or t for powers of 1024, as in 512m".to_owned();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let unit = unit.strip_suffix('b').unwrap_or(&unit);
    let shift = match unit.strip_suffix('i').unwrap_or(unit) {
        "" if unit.is_empty() => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(expected()),
    };
    let value = decimal(number, 1 << shift).ok_or_else(expected)?;
    i64::try_from(value).map_err(|_| "it is larger than any machine".to_owned())
}

/// Reads a size in bytes, or -1 for no limit.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn bytes_or_unlimited(text: &str) -> Result<i64, String> {
    if text == "-1" { Ok(-1) } else { bytes(text) }
}

/// Reads a number of processors in billionths: `1.5` is 1,500,000,000.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn nano_cpus(text: &str) -> Result<i64, String> {
    let digits = text.split_once('.').map_or(0, |(_, fraction)| fraction.trim_end_matches('0').len());
    if digits > 9 {
        return Err("it is too precise; nine digits after the point are the most".to_owned());
    }
    decimal(text, 1_000_000_000)
        .and_then(|value| i64::try_from(value).ok())
        .ok_or_else(|| "give a number of processors, as in 1.5".to_owned())
}

/// `number * scale`, rounded down; `None` if it is not a plain decimal number.
fn decimal(number: &str, scale: u64) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let plain = |digits: &str| !digits.is_empty() && digits.len() <= 18 && digits.bytes().all(|b| b.is_ascii_digit());
    if !plain(whole) || !plain(fraction) {
        return None;
    }
    let scale = u128::from(scale);
    let denominator = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    Some(whole.parse::<u128>().ok()? * scale + fraction.parse::<u128>().ok()? * scale / denominator)
}

/// Reads a whole number.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn integer(text: &str) -> Result<i64, String> {
    text.parse().map_err(|_| "give a whole number".to_owned())
}

/// Reads a block I/O weight.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn blkio_weight(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(weight @ (0 | 10..=1000)) => Ok(weight),
        _ => Err("give a weight from 10 to 1000, or 0 for none".to_owned()),
    }
}

/// Reads an adjustment of the out-of-memory score.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn oom_score(text: &str) -> Result<i64, String> {
    match text.parse() {
        Ok(score @ -1000..=1000) => Ok(score),
        _ => Err("give a number from -1000 to 1000".to_owned()),
    }
}

/// Reads a list of processors or memory nodes as the kernel writes it: `0-2,4`.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn cpu_list(text: &str) -> Result<String, String> {
    let number = |part: &str| part.trim().parse::<u32>().ok();
    let good = |part: &str| match part.split_once('-') {
        Some((first, last)) => matches!((number(first), number(last)), (Some(first), Some(last)) if first <= last),
        None => number(part).is_some(),
    };
    if text.split(',').all(good) {
        Ok(text.to_owned())
    } else {
        Err("give numbers and ranges with commas between, as in 0-2,4".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let check = |text: &str, expect: i64| assert_eq!(bytes(text), Ok(expect), "{text}");
        check("0", 0);
        check("1024", 1024);
        check("512m", 536_870_912);
        check("512M", 536_870_912);
        check("1g", 1 << 30);
        check("1.5GiB", 3 << 29);
        check("2 kb", 2048);
        check("7b", 7);
        for bad in ["", "m", "-1", "12x", "1.2.3", "1i", "0x10", "99999999p", "1e3"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
        assert_eq!(bytes_or_unlimited("-1"), Ok(-1));
    }

    #[test]
    fn processors() {
        assert_eq!(nano_cpus("1.5"), Ok(1_500_000_000));
        assert_eq!(nano_cpus("2"), Ok(2_000_000_000));
        assert_eq!(nano_cpus("0.01"), Ok(10_000_000));
        for bad in ["", "x", "-1", "1.0000000001", "."] {
            assert!(nano_cpus(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn limits() {
        assert_eq!(blkio_weight("500"), Ok(500));
        assert!(blkio_weight("9").is_err() && blkio_weight("1001").is_err());
        assert_eq!(oom_score("-500"), Ok(-500));
        assert!(oom_score("1001").is_err());
        assert!(cpu_list("0-2,4").is_ok());
        assert!(cpu_list("2-1").is_err() && cpu_list("a").is_err() && cpu_list("").is_err());
        assert!(integer("x").is_err());
    }
}
