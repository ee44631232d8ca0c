//! Container names: the rule for given ones, and made-up ones for the rest.

use crate::error::{EngineError, Result};

const FIRST: &[&str] = &[
    "amber", "ample", "brisk", "calm", "civil", "clear", "coastal", "deep", "eager", "early", "even", "fair", "fleet",
    "fond", "frank", "glad", "grand", "green", "hardy", "keen", "kind", "late", "level", "light", "lone", "lucid",
    "mellow", "merry", "mild", "neat", "noble", "northern", "open", "plain", "prime", "proud", "quick", "quiet",
    "rapid", "ready", "robust", "round", "serene", "sharp", "silent", "sober", "solid", "southern", "steady", "still",
    "stout", "sunny", "swift", "tidal", "tidy", "true", "vast", "vivid", "warm", "western", "wide", "windy", "wise",
    "young",
];

// Islands, as the project's name asks for.
const SECOND: &[&str] = &[
    "aegina",
    "aland",
    "andros",
    "anglesey",
    "arran",
    "aruba",
    "ascension",
    "bali",
    "borneo",
    "bornholm",
    "burano",
    "capri",
    "chios",
    "corfu",
    "corsica",
    "crete",
    "cuba",
    "cyprus",
    "delos",
    "easter",
    "elba",
    "faial",
    "faroe",
    "flores",
    "fyn",
    "gotland",
    "guam",
    "heligoland",
    "hiiumaa",
    "hydra",
    "ibiza",
    "iceland",
    "iona",
    "ischia",
    "islay",
    "ithaca",
    "java",
    "jersey",
    "jura",
    "kauai",
    "kos",
    "lesbos",
    "lipari",
    "luzon",
    "madeira",
    "malta",
    "maui",
    "menorca",
    "milos",
    "mull",
    "murano",
    "naxos",
    "oahu",
    "oland",
    "paros",
    "patmos",
    "pico",
    "ponza",
    "reunion",
    "rhodes",
    "rugen",
    "saaremaa",
    "samos",
    "sardinia",
    "sark",
    "skye",
    "socotra",
    "sylt",
    "tahiti",
    "tasmania",
    "texel",
    "thasos",
    "timor",
    "tonga",
    "tresco",
    "vis",
    "zanzibar",
];

/// A name from eight random bytes: `steady_naxos`; with a number behind it where the first ones are taken.
pub(crate) fn made_up(random: [u8; 8], attempt: usize) -> String {
    let number = usize::try_from(u64::from_le_bytes(random) >> 1).unwrap_or_default();
    let first = FIRST[number % FIRST.len()];
    let second = SECOND[number / FIRST.len() % SECOND.len()];
    if attempt < 4 { format!("{first}_{second}") } else { format!("{first}_{second}{}", number % 9973) }
}

/// Checks a name that a user gave and takes off the leading slash that some clients send.
///
/// # Errors
/// [`crate::ErrorClass::Invalid`] if it is not `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
pub(crate) fn checked(name: &str) -> Result<&str> {
    let bare = name.strip_prefix('/').unwrap_or(name);
    let starts_well = bare.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let goes_well = bare.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if starts_well && goes_well && (2..=255).contains(&bare.len()) {
        return Ok(bare);
    }
    Err(EngineError::invalid(format!(
        "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed, two to 255 characters"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule() {
        for good in ["web", "/web", "a1", "x.y-z_0"] {
            assert!(checked(good).is_ok(), "{good}");
        }
        for bad in ["", "/", "a", "-a", ".a", "a b", "a/b", "ä1", "//ab"] {
            assert!(checked(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn made_up_names_are_valid_and_vary() {
        let names: std::collections::BTreeSet<_> =
            (0..200_u64).map(|n| made_up(n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes(), 0)).collect();
        assert!(names.len() > 150);
        assert!(names.iter().all(|name| checked(name).is_ok()));
        assert_ne!(made_up([7; 8], 0), made_up([7; 8], 5));
    }
}
