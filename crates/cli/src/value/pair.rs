//! Names with values: environment, labels, options, kernel parameters, hosts.

use std::collections::HashMap;

/// Looks up a variable of the user's own environment.
pub(crate) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads one `-e`: `NAME=VALUE`, or `NAME` to take the user's own value; `None` if there is none.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn variable(text: &str, lookup: Lookup<'_>) -> Result<Option<String>, String> {
    match text.split_once('=') {
        Some(("", _)) => Err("the variable has no name".to_owned()),
        Some(_) => Ok(Some(text.to_owned())),
        None if text.is_empty() => Err("the variable has no name".to_owned()),
        None => Ok(lookup(text).map(|value| format!("{text}={value}"))),
    }
}

/// Reads a file of variables, one a line; empty lines and those that begin with `#` are left out.
///
/// # Errors
/// What is wrong with which line.
pub(crate) fn variables(file: &str, lookup: Lookup<'_>) -> Result<Vec<String>, String> {
    let mut found = Vec::new();
    for (index, line) in file.strip_prefix('\u{feff}').unwrap_or(file).lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = line.split('=').next().unwrap_or_default();
        if name.contains(char::is_whitespace) {
            return Err(format!("line {}: the variable's name {name:?} has a space in it", index + 1));
        }
        found.extend(variable(line, lookup).map_err(|why| format!("line {}: {why}", index + 1))?);
    }
    Ok(found)
}

/// Reads a label: `NAME=VALUE` or `NAME`.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    if name.is_empty() {
        return Err("the label has no name".to_owned());
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// Reads `NAME=VALUE`.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn option(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("give NAME=VALUE".to_owned()),
    }
}

/// Reads a tmpfs: `PATH[:OPTIONS]`.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn tmpfs(text: &str) -> Result<(String, String), String> {
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    if !path.starts_with('/') {
        return Err(format!("the mount point {path:?} does not begin with /"));
    }
    Ok((path.to_owned(), options.to_owned()))
}

/// Reads a line for the hosts file: `NAME:ADDRESS` or `NAME=ADDRESS`.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn host(text: &str) -> Result<String, String> {
    let (name, address) = match (text.split_once('='), text.split_once(':')) {
        (Some((name, address)), _) if !name.contains(':') => (name, address),
        (_, Some((name, address))) => (name, address),
        _ => return Err("give NAME:ADDRESS".to_owned()),
    };
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    if name.is_empty() {
        return Err("the host has no name".to_owned());
    }
    if bare != "host-gateway" && bare.parse::<std::net::IpAddr>().is_err() {
        return Err(format!("{address:?} is not an IP address"));
    }
    Ok(format!("{name}:{bare}"))
}

/// Reads the address of a name server.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn address(text: &str) -> Result<String, String> {
    match text.parse::<std::net::IpAddr>() {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("it is not an IP address".to_owned()),
    }
}

/// Gathers pairs; a later one replaces an earlier one of the same name.
pub(crate) fn map(pairs: Option<Vec<(String, String)>>) -> Option<HashMap<String, String>> {
    pairs.map(|pairs| pairs.into_iter().collect())
}

/// Reads a namespace mode: one of `words`, or `container:NAME` where that makes sense.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn namespace(text: &str, words: &[&str]) -> Result<String, String> {
    let known = words.iter().any(|word| match word.strip_suffix(':') {
        Some(_) => text.strip_prefix(word).is_some_and(|name| !name.is_empty()),
        None => *word == text,
    });
    if known {
        return Ok(text.to_owned());
    }
    let choices: Vec<String> = words
        .iter()
        .filter(|word| !word.is_empty())
        .map(|word| if word.ends_with(':') { format!("{word}NAME") } else { (*word).to_owned() })
        .collect();
    Err(format!("give {}", choices.join(" or ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(name: &str) -> Option<String> {
        (name == "HOME").then(|| "/root".to_owned())
    }

    #[test]
    fn environment() {
        assert_eq!(variable("A=b=c", &home), Ok(Some("A=b=c".to_owned())));
        assert_eq!(variable("HOME", &home), Ok(Some("HOME=/root".to_owned())));
        assert_eq!(variable("UNSET", &home), Ok(None));
        assert!(variable("=x", &home).is_err() && variable("", &home).is_err());
        let file = "\u{feff}# comment\n\nA=1\n  B=two words \nHOME\nUNSET\n";
        assert_eq!(variables(file, &home).unwrap(), ["A=1", "B=two words ", "HOME=/root"]);
        assert_eq!(
            variables("A=1\nb c=2", &home).unwrap_err(),
            "line 2: the variable's name \"b c\" has a space in it"
        );
    }

    #[test]
    fn pairs() {
        assert_eq!(label("a=b=c").unwrap(), ("a".to_owned(), "b=c".to_owned()));
        assert_eq!(label("a").unwrap(), ("a".to_owned(), String::new()));
        assert!(label("=x").is_err() && option("x").is_err());
        assert_eq!(tmpfs("/run:size=1m").unwrap(), ("/run".to_owned(), "size=1m".to_owned()));
        assert!(tmpfs("run").is_err());
    }

    #[test]
    fn hosts() {
        assert_eq!(host("a:1.2.3.4").unwrap(), "a:1.2.3.4");
        assert_eq!(host("a=1.2.3.4").unwrap(), "a:1.2.3.4");
        assert_eq!(host("a:::1").unwrap(), "a:::1");
        assert_eq!(host("a=[::1]").unwrap(), "a:::1");
        assert!(host("a").is_err() && host("a:b").is_err() && host(":1.2.3.4").is_err());
        assert!(address("1.1.1.1").is_ok() && address("dns").is_err());
    }

    #[test]
    fn namespaces() {
        assert!(namespace("host", &["", "host", "container:"]).is_ok());
        assert!(namespace("container:web", &["", "host", "container:"]).is_ok());
        let error = namespace("hots", &["", "host", "container:"]).unwrap_err();
        assert_eq!(error, "give host or container:NAME");
        assert!(namespace("container:", &["host", "container:"]).is_err());
    }
}
