//! Log drivers' options: what each takes, and what the helper is told.
//!
//! Output that a driver cannot give back (a journal's, a syslog server's) is also kept in a file of bounded size, from which it is read.

use crate::config::{Config, Paths};
use crate::error::{EngineError, Result};
use crate::model::{Container, LogDriver, LogKind};
use control::{Compress, Log, LogFile, LogService, Syslog, SyslogAddress, SyslogFormat};
use regex_lite::Regex;
use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

/// A file's size and number where nothing is said: bounded, so that no container can fill a disk with its output.
const FILE: (u64, u32) = (20 << 20, 5);
/// systemd's journal listens here.
const JOURNAL: &str = "/run/systemd/journal/socket";
/// Where programs of the host find its syslog server.
const SYSLOG_SOCKET: &str = "/dev/log";
const SYSLOG_PORT: u16 = 514;
/// Facilities in the order of their numbers. RFC 5424, 6.2.1.
const FACILITIES: &[&str] = &[
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "", "", "",
    "", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
];

/// What every driver takes.
const COMMON: &[&str] =
    &["cache-compress", "cache-disabled", "cache-max-file", "cache-max-size", "max-buffer-size", "mode"];
const FIELDS: &[&str] = &["env", "env-regex", "labels", "labels-regex", "tag"];

fn known(kind: LogKind) -> (&'static str, &'static [&'static str]) {
    match kind {
        LogKind::None => ("none", &[]),
        LogKind::JsonFile => ("json-file", &["compress", "max-file", "max-size"]),
        LogKind::Local => ("local", &["compress", "max-file", "max-size"]),
        LogKind::Journald => ("journald", &[]),
        LogKind::Syslog => ("syslog", &["syslog-address", "syslog-facility", "syslog-format"]),
    }
}

/// Checks driver and options.
///
/// # Errors
/// [`crate::ErrorClass::Invalid`].
pub(crate) fn check(driver: &LogDriver) -> Result<()> {
    let options = &driver.options;
    let (name, own) = known(driver.driver);
    if driver.driver == LogKind::None {
        return Ok(());
    }
    let fields = if driver.driver == LogKind::Local { &[] } else { FIELDS };
    for key in options.keys() {
        if key.starts_with("syslog-tls-") && driver.driver == LogKind::Syslog {
            return Err(EngineError::invalid(format!(
                "log opt '{key}': syslog over TLS is not supported; use udp, tcp or unix"
            )));
        }
        if ![own, COMMON, fields].iter().any(|list| list.contains(&key.as_str())) {
            let driver = if name == "local" { "log driver local".to_owned() } else { format!("{name} log driver") };
            return Err(EngineError::invalid(format!("unknown log opt '{key}' for {driver}")));
        }
    }
    match options.get("mode").map(String::as_str) {
        None | Some("" | "blocking") if options.contains_key("max-buffer-size") => {
            return Err(EngineError::invalid(
                "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
            ));
        }
        None | Some("" | "blocking" | "non-blocking") => {}
        Some(other) => return Err(EngineError::invalid(format!("logger: logging mode not supported: {other}"))),
    }
    if let Some(size) = options.get("max-buffer-size") {
        bytes(size).ok_or_else(|| {
            EngineError::invalid(format!("error parsing option max-buffer-size: invalid size: '{size}'"))
        })?;
    }
    limits(options, "", FILE)?;
    limits(options, "cache-", FILE)?;
    switch(options, "cache-disabled")?;
    for key in ["env-regex", "labels-regex"] {
        pattern(options, key)?;
    }
    tag_fields(tag_of(options), |_| Some(String::new()))?;
    if driver.driver == LogKind::Syslog {
        address_form(options.get("syslog-address").map_or("", String::as_str))?;
        facility(options)?;
        format(options)?;
    }
    Ok(())
}

fn tag_of(options: &BTreeMap<String, String>) -> &str {
    options.get("tag").map(String::as_str).filter(|tag| !tag.is_empty()).unwrap_or("{{.ID}}")
}

fn switch(options: &BTreeMap<String, String>, key: &str) -> Result<Option<bool>> {
    match options.get(key).map(String::as_str) {
        None => Ok(None),
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(Some(true)),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(Some(false)),
        Some(other) => {
            Err(EngineError::invalid(format!("invalid value {other:?} for log opt '{key}': give true or false")))
        }
    }
}

fn pattern(options: &BTreeMap<String, String>, key: &str) -> Result<Option<Regex>> {
    let Some(text) = options.get(key).filter(|text| !text.is_empty()) else { return Ok(None) };
    let bad = |error| EngineError::invalid(format!("invalid value {text:?} for log opt '{key}': {error}"));
    Regex::new(text).map(Some).map_err(bad)
}

/// A size with a unit, as in `10m`.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Size and number of files, and whether they are compressed, from the options that begin with `prefix`.
fn limits(
    options: &BTreeMap<String, String>,
    prefix: &str,
    (default_bytes, default_files): (u64, u32),
) -> Result<(u64, u32, Option<Compress>)> {
    let option = |name: &str| options.get(&format!("{prefix}{name}")).map(|value| value.trim());
    let (max_bytes, bounded) = match option("max-size") {
        None => (default_bytes, false),
        Some("-1") => (0, false),
        Some(size) => match bytes(size) {
            Some(0) | None => {
                return Err(EngineError::invalid(format!(
                    "invalid value {size:?} for log opt '{prefix}max-size': give a size as in 10m, or -1 for no bound"
                )));
            }
            Some(size) => (size, true),
        },
    };
    let max_files = match option("max-file") {
        None => default_files,
        Some(count) => match count.parse::<u32>() {
            Ok(0) => return Err(EngineError::invalid(format!("{prefix}max-file cannot be less than 1"))),
            Ok(count) => count,
            Err(_) => {
                return Err(EngineError::invalid(format!(
                    "invalid value {count:?} for log opt '{prefix}max-file': give a number"
                )));
            }
        },
    };
    let compress = switch(options, &format!("{prefix}compress"))?;
    let alone = max_files < 2 || (max_bytes == 0 && !bounded);
    if compress == Some(true) && alone {
        return Err(EngineError::invalid(format!(
            "{prefix}compress cannot be true when max-file is less than 2 or max-size is not set"
        )));
    }
    let compress = compress.map(|on| if on && !alone { Compress::Gzip } else { Compress::No });
    Ok((max_bytes, max_files, compress))
}

/// The file that output is kept in, if it is kept.
pub(crate) fn file(container: &Container, paths: &Paths) -> Option<PathBuf> {
    let driver = &container.spec.log;
    let cached = || switch(&driver.options, "cache-disabled").ok().flatten() != Some(true);
    match driver.driver {
        LogKind::None => None,
        LogKind::JsonFile => Some(paths.log.clone()),
        LogKind::Local => Some(paths.local_log.clone()),
        LogKind::Journald | LogKind::Syslog => cached().then(|| paths.local_log.clone()),
    }
}

/// What the helper is told. Names of servers are looked up here: this may take a while.
///
/// # Errors
/// As [`check`]; [`crate::ErrorClass::Invalid`] for a server whose name is not known.
pub(crate) fn plan(container: &Container, config: &Config) -> Result<Log> {
    let driver = &container.spec.log;
    let options = &driver.options;
    let paths = config.paths(&container.id);
    let prefix = if matches!(driver.driver, LogKind::JsonFile | LogKind::Local) { "" } else { "cache-" };
    let (max_bytes, max_files, compress) = limits(options, prefix, FILE)?;
    let compress = compress.unwrap_or(match driver.driver {
        // the driver's own word for files of a size
        LogKind::Local | LogKind::Journald | LogKind::Syslog if max_files > 1 => Compress::Gzip,
        _ => Compress::No,
    });
    let extra = extra(container)?;
    let tag = tag_fields(tag_of(options), |field| tag_field(container, field))?;
    let mut attributes = BTreeMap::new();
    if driver.driver == LogKind::JsonFile {
        attributes.clone_from(&extra);
        if options.get("tag").is_some_and(|tag| !tag.is_empty()) {
            attributes.insert("tag".to_owned(), tag.clone());
        }
    }
    let file = file(container, &paths).map(|path| LogFile { path, max_bytes, max_files, compress, attributes });
    let service = match driver.driver {
        LogKind::None | LogKind::JsonFile | LogKind::Local => None,
        LogKind::Journald => {
            Some(LogService::Journald { socket: JOURNAL.into(), fields: journal_fields(container, &tag, &extra) })
        }
        LogKind::Syslog => Some(LogService::Syslog(Syslog {
            address: address(options.get("syslog-address").map_or("", String::as_str))?,
            facility: facility(options)?,
            format: format(options)?,
            tag,
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        })),
    };
    Ok(Log { file, service })
}

/// Labels and variables that go with every line.
fn extra(container: &Container) -> Result<BTreeMap<String, String>> {
    let options = &container.spec.log.options;
    let named = |key: &str| -> Vec<&str> {
        options
            .get(key)
            .map(|list| list.split(',').map(str::trim).filter(|name| !name.is_empty()).collect())
            .unwrap_or_default()
    };
    let mut extra = BTreeMap::new();
    let (names, pattern_) = (named("labels"), pattern(options, "labels-regex")?);
    for (key, value) in &container.spec.labels {
        if names.contains(&key.as_str()) || pattern_.as_ref().is_some_and(|pattern| pattern.is_match(key)) {
            extra.insert(key.clone(), value.clone());
        }
    }
    let (names, pattern_) = (named("env"), pattern(options, "env-regex")?);
    for (key, value) in container.process.env.iter().filter_map(|pair| pair.split_once('=')) {
        if names.contains(&key) || pattern_.as_ref().is_some_and(|pattern| pattern.is_match(key)) {
            extra.insert(key.to_owned(), value.to_owned());
        }
    }
    Ok(extra)
}

fn tag_field(container: &Container, field: &str) -> Option<String> {
    let short = |id: &str| id.strip_prefix("sha256:").unwrap_or(id).chars().take(12).collect::<String>();
    Some(match field {
        "ID" => short(container.id.as_str()),
        "FullID" => container.id.to_string(),
        "Name" => container.name.clone(),
        "ImageID" => short(&container.image_id),
        "ImageFullID" => container.image_id.clone(),
        "ImageName" => container.spec.image.clone(),
        "DaemonName" => "insula".to_owned(),
        "Command" => container.process.args.join(" "),
        "Hostname" => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        _ => return None,
    })
}

/// Fills a tag's fields in, `{{.Name}}`.
fn tag_fields(tag: &str, field: impl Fn(&str) -> Option<String>) -> Result<String> {
    const FIELDS: &[&str] =
        &["Command", "DaemonName", "FullID", "Hostname", "ID", "ImageFullID", "ImageID", "ImageName", "Name"];
    let bad = || {
        EngineError::invalid(format!(
            "invalid log opt 'tag' {tag:?}: it takes text and {{{{.X}}}} with X one of {}",
            FIELDS.join(", ")
        ))
    };
    let (mut out, mut rest) = (String::new(), tag);
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, behind) = after.split_once("}}").ok_or_else(bad)?;
        let name = name.trim().strip_prefix('.').filter(|name| FIELDS.contains(name)).ok_or_else(bad)?;
        out.push_str(before);
        out.push_str(&field(name).ok_or_else(bad)?);
        rest = behind;
    }
    out.push_str(rest);
    Ok(out)
}

/// # Source
/// systemd.journal-fields(7); the names are those of dockerd's journald driver.
fn journal_fields(container: &Container, tag: &str, extra: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let id = container.id.as_str();
    let mut fields = vec![
        ("CONTAINER_ID".to_owned(), id.get(..12).unwrap_or(id).to_owned()),
        ("CONTAINER_ID_FULL".to_owned(), id.to_owned()),
        ("CONTAINER_NAME".to_owned(), container.name.clone()),
        ("CONTAINER_TAG".to_owned(), tag.to_owned()),
        ("IMAGE_NAME".to_owned(), container.spec.image.clone()),
        ("SYSLOG_IDENTIFIER".to_owned(), tag.to_owned()),
    ];
    for (key, value) in extra {
        let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
        let name: String = key.chars().map(letter).collect();
        fields.push((name.trim_start_matches(|c: char| c == '_' || c.is_ascii_digit()).to_owned(), value.clone()));
    }
    fields.retain(|(name, _)| !name.is_empty());
    fields
}

fn facility(options: &BTreeMap<String, String>) -> Result<u8> {
    let text = match options.get("syslog-facility").map(String::as_str) {
        None | Some("") => "daemon",
        Some(text) => text,
    };
    let by_name = FACILITIES.iter().position(|name| *name == text);
    by_name
        .and_then(|number| u8::try_from(number).ok())
        .or_else(|| text.parse().ok().filter(|number| *number <= 23))
        .ok_or_else(|| EngineError::invalid("invalid syslog facility"))
}

fn format(options: &BTreeMap<String, String>) -> Result<SyslogFormat> {
    match options.get("syslog-format").map_or("", String::as_str) {
        "" => Ok(SyslogFormat::Local),
        "rfc3164" => Ok(SyslogFormat::Rfc3164),
        "rfc5424" => Ok(SyslogFormat::Rfc5424),
        "rfc5424micro" => Ok(SyslogFormat::Rfc5424Micro),
        _ => Err(EngineError::invalid("Invalid syslog format")),
    }
}

/// Scheme and the rest of a server's address.
fn address_form(text: &str) -> Result<(&str, &str)> {
    if text.is_empty() {
        return Ok(("unix", SYSLOG_SOCKET));
    }
    let bad = || EngineError::invalid(format!("syslog-address should be in form proto://address, got {text}"));
    let (scheme, rest) = text.split_once("://").ok_or_else(bad)?;
    match scheme {
        "unix" | "unixgram" => match std::fs::symlink_metadata(rest) {
            Ok(_) => Ok(("unix", rest)),
            Err(error) => Err(EngineError::invalid(format!("syslog-address {text}: {error}"))),
        },
        "udp" | "tcp" if !rest.trim_end_matches('/').is_empty() => Ok((scheme, rest.trim_end_matches('/'))),
        "udp" | "tcp" => Err(bad()),
        "tcp+tls" => Err(EngineError::invalid("syslog over TLS is not supported; use udp, tcp or unix")),
        _ => Err(EngineError::invalid(format!("unsupported scheme: '{scheme}'"))),
    }
}

fn address(text: &str) -> Result<SyslogAddress> {
    let (scheme, rest) = address_form(text)?;
    if scheme == "unix" {
        return Ok(SyslogAddress::Unix(Path::new(rest).to_owned()));
    }
    let ported = rest
        .rsplit_once(':')
        .is_some_and(|(host, port)| port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']')));
    let found: std::io::Result<Option<SocketAddr>> = if ported {
        rest.to_socket_addrs().map(|mut all| all.next())
    } else {
        let host = rest.trim_start_matches('[').trim_end_matches(']');
        (host, SYSLOG_PORT).to_socket_addrs().map(|mut all| all.next())
    };
    let found = found.map_err(|error| {
        EngineError::invalid(format!("failed to initialize logging driver: dial {scheme}: lookup {rest}: {error}"))
    })?;
    let found = found
        .ok_or_else(|| EngineError::invalid(format!("failed to initialize logging driver: {rest} has no address")))?;
    Ok(if scheme == "udp" { SyslogAddress::Udp(found) } else { SyslogAddress::Tcp(found) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ContainerId, ContainerSpec, Process};

    fn driver(kind: LogKind, options: &[(&str, &str)]) -> LogDriver {
        let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        LogDriver { driver: kind, options }
    }

    fn planned(kind: LogKind, options: &[(&str, &str)]) -> Log {
        let labels = BTreeMap::from([("tier".into(), "db".into()), ("com.x".into(), "1".into())]);
        let spec =
            ContainerSpec { log: driver(kind, options), labels, image: "web:1".into(), ..ContainerSpec::default() };
        let process =
            Process { env: vec!["A_B=c".into(), "SECRET=s".into()], args: vec!["run".into()], ..Process::default() };
        let container = Container::passing(ContainerId::known(&"ab".repeat(32)), "web", spec, process, 1);
        check(&container.spec.log).unwrap();
        plan(&container, &Config::for_tests()).unwrap()
    }

    #[test]
    fn files_are_bounded_unless_asked() {
        let of = |kind, options: &[(&str, &str)]| {
            let file = planned(kind, options).file.unwrap();
            (file.max_bytes, file.max_files, file.compress)
        };
        assert_eq!(of(LogKind::JsonFile, &[]), (20 << 20, 5, Compress::No));
        assert_eq!(of(LogKind::JsonFile, &[("max-size", "-1")]), (0, 5, Compress::No));
        let all = [("max-size", "10k"), ("max-file", "3"), ("compress", "true")];
        assert_eq!(of(LogKind::JsonFile, &all), (10 << 10, 3, Compress::Gzip));
        assert_eq!(of(LogKind::Local, &[]), (20 << 20, 5, Compress::Gzip));
        assert_eq!(of(LogKind::Syslog, &[("syslog-address", "udp://127.0.0.1"), ("cache-max-size", "1m")]).0, 1 << 20);
        assert!(
            planned(LogKind::Syslog, &[("syslog-address", "udp://127.0.0.1"), ("cache-disabled", "true")])
                .file
                .is_none()
        );
        assert!(planned(LogKind::None, &[("anything", "goes")]).file.is_none());
    }

    #[test]
    fn lines_are_marked() {
        let options = [("tag", "{{.Name}}/{{ .ID }}"), ("labels", "tier"), ("labels-regex", "^com"), ("env", "A_B")];
        let attributes = planned(LogKind::JsonFile, &options).file.unwrap().attributes;
        let expect = [("A_B", "c"), ("com.x", "1"), ("tag", "web/abababababab"), ("tier", "db")];
        assert_eq!(attributes.into_iter().collect::<Vec<_>>(), expect.map(|(k, v)| (k.to_owned(), v.to_owned())));
        let Some(LogService::Journald { fields, .. }) = planned(LogKind::Journald, &options).service else { panic!() };
        for (name, value) in
            [("CONTAINER_TAG", "web/abababababab"), ("TIER", "db"), ("COM_X", "1"), ("IMAGE_NAME", "web:1")]
        {
            assert!(fields.contains(&(name.to_owned(), value.to_owned())), "{name} in {fields:?}");
        }
    }

    #[test]
    fn syslog_servers_have_addresses() {
        let of = |options: &[(&str, &str)]| match planned(LogKind::Syslog, options).service {
            Some(LogService::Syslog(syslog)) => syslog,
            other => panic!("{other:?}"),
        };
        let udp =
            of(&[("syslog-address", "udp://127.0.0.1"), ("syslog-facility", "local3"), ("syslog-format", "rfc5424")]);
        assert_eq!(udp.address, SyslogAddress::Udp("127.0.0.1:514".parse().unwrap()));
        assert_eq!((udp.facility, udp.format, udp.tag.as_str()), (19, SyslogFormat::Rfc5424, "abababababab"));
        let tcp = of(&[("syslog-address", "tcp://[::1]:7")]);
        assert_eq!((tcp.address, tcp.facility), (SyslogAddress::Tcp("[::1]:7".parse().unwrap()), 3));
    }

    #[test]
    fn mistakes_are_named() {
        let wrong = |kind, options: &[(&str, &str)], part: &str| {
            let error = check(&driver(kind, options)).unwrap_err().to_string();
            assert!(error.contains(part), "{options:?}: {error}");
        };
        use LogKind::{Journald, JsonFile, Local, Syslog};
        wrong(JsonFile, &[("x", "1")], "unknown log opt 'x' for json-file log driver");
        wrong(Local, &[("tag", "1")], "unknown log opt 'tag' for log driver local");
        wrong(Journald, &[("max-size", "1")], "unknown log opt 'max-size' for journald log driver");
        wrong(JsonFile, &[("max-file", "0")], "max-file cannot be less than 1");
        wrong(JsonFile, &[("max-size", "much")], "max-size");
        wrong(JsonFile, &[("compress", "true"), ("max-file", "1"), ("max-size", "1m")], "compress cannot be true");
        wrong(JsonFile, &[("mode", "fast")], "logging mode not supported: fast");
        wrong(JsonFile, &[("max-buffer-size", "1m")], "only supported with 'mode=non-blocking'");
        wrong(JsonFile, &[("labels-regex", "(")], "labels-regex");
        wrong(JsonFile, &[("tag", "{{.Nope}}")], "tag");
        wrong(Syslog, &[("syslog-facility", "kitchen")], "invalid syslog facility");
        wrong(Syslog, &[("syslog-format", "rfc1")], "syslog format");
        wrong(Syslog, &[("syslog-address", "here")], "should be in form proto://address, got here");
        wrong(Syslog, &[("syslog-address", "sctp://a")], "unsupported scheme: 'sctp'");
        wrong(Syslog, &[("syslog-address", "unix:///nonexistent/log")], "/nonexistent/log");
        wrong(Syslog, &[("syslog-address", "tcp+tls://a")], "TLS");
    }
}
