//! The machine's apt sources: which of them belong to the wanted suite.
//!
//! # Source
//! sources.list(5): the one-line and the deb822 style.

use std::fs;
use std::path::Path;

use super::BootstrapError;

/// One repository at one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) uri: String,
    pub(super) suite: String,
    /// A keyring's path, a fingerprint, or a key itself over several lines.
    pub(super) signed_by: Option<String>,
}

impl Source {
    /// The source in deb822 style. Whatever would switch signature checks off is not carried over.
    pub(super) fn to_deb822(&self) -> String {
        let Self { uri, suite, signed_by } = self;
        let signed = signed_by.as_ref().map_or(String::new(), |key| format!("Signed-By: {key}\n"));
        format!("Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\n{signed}")
    }
}

/// The sources below `etc` (`/etc/apt`) whose suite is `suite`, its updates or its security updates, and that have the
/// component `main`, which repositories of others rarely have.
pub(super) fn of_suite(etc: &Path, suite: &str) -> Result<Vec<Source>, BootstrapError> {
    let mut files = vec![etc.join("sources.list")];
    let parts = etc.join("sources.list.d");
    let mut more: Vec<_> = fs::read_dir(&parts).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    more.sort();
    files.extend(more);
    let mut sources = Vec::new();
    for path in files {
        let deb822 = path.extension().is_some_and(|extension| extension == "sources");
        if !deb822 && path.extension().is_none_or(|extension| extension != "list") {
            continue;
        }
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(source) => return Err(BootstrapError::File { operation: "read", path, source }),
        };
        sources.extend(if deb822 { parse_deb822(&text) } else { parse_lines(&text) });
    }
    let wanted =
        [suite.to_owned(), format!("{suite}-updates"), format!("{suite}-security"), format!("{suite}/updates")];
    sources.retain(|source| wanted.contains(&source.suite));
    let mut unique: Vec<Source> = Vec::new();
    for source in sources {
        if !unique.contains(&source) {
            unique.push(source);
        }
    }
    Ok(unique)
}

/// `deb [option=value …] uri suite component…`
fn parse_lines(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or("").trim();
        let Some(rest) = line.strip_prefix("deb").filter(|rest| rest.starts_with([' ', '\t', '['])) else { continue };
        let rest = rest.trim_start();
        let (options, rest) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((options, rest)) => (options, rest),
            None => ("", rest),
        };
        let mut words = rest.split_whitespace();
        let (Some(uri), Some(suite)) = (words.next(), words.next()) else { continue };
        if !words.any(|component| component == "main") {
            continue;
        }
        let signed_by =
            options.split_whitespace().find_map(|option| option.strip_prefix("signed-by=")).map(str::to_owned);
        sources.push(Source { uri: uri.to_owned(), suite: suite.to_owned(), signed_by });
    }
    sources
}

/// Stanzas of `Field: value`, continued on lines that begin with a blank.
fn parse_deb822(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    for stanza in lines.split(|line| line.trim().is_empty()) {
        let mut fields: Vec<(String, String)> = Vec::new();
        for line in stanza {
            if line.starts_with([' ', '\t']) {
                if let Some((_, value)) = fields.last_mut() {
                    value.push('\n');
                    value.push_str(line);
                }
            } else if let Some((name, value)) = line.split_once(':') {
                fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
            }
        }
        let field = |name: &str| fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let words = |name: &str| field(name).unwrap_or("").split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let off = field("enabled").is_some_and(|value| ["no", "false", "off", "0"].contains(&value));
        let has = |name: &str, wanted: &str| words(name).iter().any(|word| word == wanted);
        if off || !has("types", "deb") || !has("components", "main") {
            continue;
        }
        for uri in words("uris") {
            for suite in words("suites") {
                let signed_by = field("signed-by").map(str::to_owned);
                sources.push(Source { uri: uri.clone(), suite, signed_by });
            }
        }
    }
    sources
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_styles() {
        let lines = "# deb http://commented bookworm main\n\
                     deb [arch=amd64 signed-by=/k.gpg trusted=yes] http://a bookworm main contrib # remark\n\
                     deb-src http://a bookworm main\n\
                     deb http://vendor bookworm stable\n\
                     deb\thttp://b bookworm-updates main\n";
        let parsed = parse_lines(lines);
        assert_eq!(parsed.len(), 2);
        assert_eq!(parsed[0].signed_by.as_deref(), Some("/k.gpg"));
        assert!(!parsed[0].to_deb822().contains("trusted"));
        let stanzas = "Types: deb deb-src\nURIs: http://a http://b\nSuites: bookworm bookworm-updates\n\
                       Components: main\nSigned-By:\n -----BEGIN\n .\n KEY\n\n\
                       Types: deb\nURIs: http://c\nSuites: bookworm\nComponents: main\nEnabled: no\n";
        let parsed = parse_deb822(stanzas);
        assert_eq!(parsed.len(), 4);
        assert!(parsed[3].to_deb822().contains("Signed-By: \n -----BEGIN\n .\n KEY\n"));
    }

    #[test]
    fn only_the_suite() {
        let etc = tempfile::tempdir().unwrap();
        fs::create_dir(etc.path().join("sources.list.d")).unwrap();
        fs::write(etc.path().join("sources.list"), "deb http://a bookworm main\ndeb http://a trixie main\n").unwrap();
        fs::write(etc.path().join("sources.list.d/x.list.off"), "deb http://off bookworm main\n").unwrap();
        fs::write(
            etc.path().join("sources.list.d/y.list"),
            "deb http://a bookworm main\ndeb http://s bookworm-security main\n",
        )
        .unwrap();
        let found = of_suite(etc.path(), "bookworm").unwrap();
        assert_eq!(found.iter().map(|source| source.uri.as_str()).collect::<Vec<_>>(), ["http://a", "http://s"]);
    }
}
