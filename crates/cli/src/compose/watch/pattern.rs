//! Patterns of paths as `.dockerignore` has them: `*`, `?`, `**`, and `!` for what is not meant after all.

use std::path::Path;

/// Patterns, of which the last that matches counts.
pub(super) struct Patterns(Vec<(Vec<String>, bool)>);

impl Patterns {
    pub(super) fn new(lines: &[String]) -> Self {
        let patterns = lines.iter().filter_map(|line| {
            let (text, wanted) = line.strip_prefix('!').map_or((line.as_str(), true), |text| (text, false));
            let parts: Vec<String> =
                text.split('/').filter(|part| !part.is_empty() && *part != ".").map(str::to_owned).collect();
            (!parts.is_empty()).then_some((parts, wanted))
        });
        Self(patterns.collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a path, or a folder that it is in, is meant.
    pub(super) fn matches(&self, path: &Path) -> bool {
        let parts: Vec<String> =
            path.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
        let mut matched = false;
        for (pattern, wanted) in &self.0 {
            if (1..=parts.len()).any(|length| fits(pattern, parts.get(..length).unwrap_or_default())) {
                matched = *wanted;
            }
        }
        matched
    }
}

fn fits(pattern: &[String], parts: &[String]) -> bool {
    match (pattern, parts) {
        ([], []) => true,
        ([first, rest @ ..], _) if first == "**" => {
            fits(rest, parts) || parts.split_first().is_some_and(|(_, tail)| fits(pattern, tail))
        }
        ([first, rest @ ..], [part, tail @ ..]) => fits_part(first.as_bytes(), part.as_bytes()) && fits(rest, tail),
        _ => false,
    }
}

fn fits_part(pattern: &[u8], text: &[u8]) -> bool {
    // where to go on after the last star, if what follows it does not fit
    let (mut at, mut from, mut back) = (0, 0, None);
    while from < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                back = Some((at + 1, from));
                at += 1;
            }
            Some(letter) if *letter == b'?' || Some(letter) == text.get(from) => {
                at += 1;
                from += 1;
            }
            _ => match back {
                Some((star, begun)) => {
                    at = star;
                    from = begun + 1;
                    back = Some((star, begun + 1));
                }
                None => return false,
            },
        }
    }
    pattern.get(at..).unwrap_or_default().iter().all(|letter| *letter == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_dockerignore() {
        let check = |lines: &[&str], path: &str, expect: bool| {
            let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
            assert_eq!(Patterns::new(&lines).matches(Path::new(path)), expect, "{lines:?} {path}");
        };
        check(&["node_modules/"], "node_modules/a/b.js", true);
        check(&["node_modules/"], "src/node_modules/a", false);
        check(&["**/node_modules"], "src/node_modules/a", true);
        check(&["*.log"], "a.log", true);
        check(&["*.log"], "d/a.log", false);
        check(&["**/*.log"], "d/a.log", true);
        check(&["d/*", "!d/keep"], "d/keep", false);
        check(&["d/?"], "d/ab", false);
        check(&["a*c*e"], "abcde", true);
        check(&["a*c*e"], "abcd", false);
        check(&[], "a", false);
    }
}
