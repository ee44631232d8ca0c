//! Addresses: of registries, of what they redirect to, and of proxies on the way.

use std::net::IpAddr;
use std::str::FromStr;

use hyper::Uri;
use hyper::http::uri::Scheme;

use super::ClientError;
use crate::escape::{percent_decode, percent_encode};

/// Where a name's registry is, with scheme: `https://registry-1.docker.io`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub(crate) secure: bool,
    /// In lower case, without the brackets of an IPv6 address.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Origin {
    /// The origin of a URI.
    pub(crate) fn of(uri: &Uri) -> Result<Self, ClientError> {
        let bad = |reason| ClientError::Address { text: uri.to_string(), reason };
        let secure = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return Err(bad("it must begin with https:// or http://")),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| bad("it names no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        Ok(Self { secure, host, port: uri.port_u16().unwrap_or(if secure { 443 } else { 80 }) })
    }

    /// `https://HOST[:PORT]` or with http, of a registry's domain in image names.
    pub(crate) fn of_domain(domain: &str, secure: bool) -> Result<Self, ClientError> {
        let host = if domain == oci::reference::DEFAULT_DOMAIN { "registry-1.docker.io" } else { domain };
        Self::of(&parse(&format!("{}://{host}/", if secure { "https" } else { "http" }))?)
    }

    /// The URI of a path and query here.
    pub(crate) fn uri(&self, path_and_query: &str) -> Result<Uri, ClientError> {
        parse(&format!("{}://{}{path_and_query}", if self.secure { "https" } else { "http" }, self.authority()))
    }

    /// `HOST[:PORT]`, without the scheme's own port.
    pub(crate) fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let default = if self.secure { 443 } else { 80 };
        if self.port == default { host } else { format!("{host}:{}", self.port) }
    }

    /// Whether it is this machine, which may always speak plain HTTP, as with Docker.
    pub(crate) fn is_local(&self) -> bool {
        let local = |address: IpAddr| address.is_loopback();
        self.host == "localhost" || self.host.parse().is_ok_and(local)
    }
}

/// Reads a URI.
pub(crate) fn parse(text: &str) -> Result<Uri, ClientError> {
    // A fragment is for the reader of an answer, not for the server.
    let text = text.split('#').next().unwrap_or_default();
    Uri::from_str(text).map_err(|_| ClientError::Address { text: text.to_owned(), reason: "it is no URI" })
}

/// What a `Location` header means, seen from the URI that was asked for.
pub(crate) fn join(base: &Uri, location: &str) -> Result<Uri, ClientError> {
    if location.contains("://") {
        return parse(location);
    }
    let origin = Origin::of(base)?;
    if location.starts_with("//") {
        return parse(&format!("{}:{location}", if origin.secure { "https" } else { "http" }));
    }
    let path = base.path();
    let whole = match location.chars().next() {
        Some('/') => location.to_owned(),
        Some('?') => format!("{path}{location}"),
        _ => format!("{}/{location}", path.rsplit_once('/').map_or("", |(folder, _)| folder)),
    };
    origin.uri(whole.split('#').next().unwrap_or_default())
}

/// A URI with one more parameter.
pub(crate) fn with_parameter(uri: &Uri, name: &str, value: &str) -> Result<Uri, ClientError> {
    let text = uri.to_string();
    let mark = if uri.query().is_none() { '?' } else { '&' };
    parse(&format!("{text}{mark}{name}={}", percent_encode(value)))
}

/// Proxies for HTTP(S), and for what they are not used.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    /// For `http://`: such as `http://user:password@proxy:3128`.
    pub http: Option<String>,
    /// For `https://`.
    pub https: Option<String>,
    /// Hosts that are reached without: names, `.domain`, addresses, networks, `*`; separated by commas.
    pub none: String,
}

impl Proxies {
    /// From `HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY` or the same in small letters, which win.
    #[must_use]
    pub fn from_environment() -> Self {
        let get = |name: &str| {
            let small = std::env::var(name.to_ascii_lowercase());
            small.or_else(|_| std::env::var(name)).ok().filter(|value| !value.is_empty())
        };
        Self { http: get("HTTP_PROXY"), https: get("HTTPS_PROXY"), none: get("NO_PROXY").unwrap_or_default() }
    }

    /// The proxy on the way to an origin, with its credentials (`user:password`).
    pub(crate) fn way_to(&self, origin: &Origin) -> Result<Option<(Origin, Option<String>)>, ClientError> {
        let proxy = if origin.secure { &self.https } else { &self.http };
        let Some(proxy) = proxy.as_deref().filter(|_| !self.is_direct(origin)) else { return Ok(None) };
        let whole = if proxy.contains("://") { proxy.to_owned() } else { format!("http://{proxy}") };
        let (scheme, rest) = whole.split_once("://").unwrap_or(("http", &whole));
        let (credentials, rest) = match rest.rsplit_once('@') {
            Some((credentials, rest)) => (Some(percent_decode(credentials)), rest),
            None => (None, rest),
        };
        let rest = rest.split('/').next().unwrap_or_default();
        Ok(Some((Origin::of(&parse(&format!("{scheme}://{rest}/"))?)?, credentials)))
    }

    fn is_direct(&self, origin: &Origin) -> bool {
        if origin.is_local() {
            return true;
        }
        let address = origin.host.parse::<IpAddr>().ok();
        self.none.split(',').map(str::trim).filter(|rule| !rule.is_empty()).any(|rule| {
            if rule == "*" {
                return true;
            }
            if let (Some(address), Some((network, bits))) = (address, rule.split_once('/')) {
                return network.parse().is_ok_and(|network| within(address, network, bits.parse().unwrap_or(u32::MAX)));
            }
            let (rule, port) = match rule.rsplit_once(':') {
                Some((host, port)) if !host.contains(':') => (host, port.parse::<u16>().ok()),
                _ => (rule, None),
            };
            let rule = rule.trim_start_matches('*').to_ascii_lowercase();
            let name = rule.trim_start_matches('.');
            let below = origin.host.strip_suffix(name).is_some_and(|front| front.ends_with('.'));
            let same = !rule.starts_with('.') && origin.host == name;
            (same || below) && port.is_none_or(|port| port == origin.port)
        })
    }
}

/// Whether an address is within a network.
pub(crate) fn within(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            bits <= 32 && (address.to_bits() ^ network.to_bits()).checked_shr(32 - bits).unwrap_or(0) == 0
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => {
            bits <= 128 && (address.to_bits() ^ network.to_bits()).checked_shr(128 - bits).unwrap_or(0) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Origin {
        Origin::of(&parse(text).unwrap()).unwrap()
    }

    #[test]
    fn domains_become_origins() {
        assert_eq!(Origin::of_domain("docker.io", true).unwrap().authority(), "registry-1.docker.io");
        assert_eq!(Origin::of_domain("[::1]:5000", false).unwrap().authority(), "[::1]:5000");
        for local in ["localhost:5000", "127.8.0.1", "[::1]:5000"] {
            assert!(Origin::of_domain(local, false).unwrap().is_local(), "{local}");
        }
        assert!(!Origin::of_domain("localhost.example.com", false).unwrap().is_local());
        assert!(!Origin::of_domain("[2001::1]", false).unwrap().is_local());
    }

    #[test]
    fn locations_are_joined() {
        let base = parse("https://a:1/v2/x/blobs/y?z=1").unwrap();
        let check = |location: &str, expect: &str| assert_eq!(join(&base, location).unwrap().to_string(), expect);
        check("/v2/b", "https://a:1/v2/b");
        check("c?d#e", "https://a:1/v2/x/blobs/c?d");
        check("?q=1", "https://a:1/v2/x/blobs/y?q=1");
        check("//h/p", "https://h/p");
        check("http://h/p", "http://h/p");
        assert_eq!(with_parameter(&base, "digest", "sha256:ab+").unwrap().query(), Some("z=1&digest=sha256:ab%2B"));
    }

    #[test]
    fn proxies_have_exceptions() {
        let proxies = Proxies {
            http: None,
            https: Some("http://me:p%40ss@proxy:3128/".into()),
            none: "example.com, .corp ,10.0.0.0/8,other:8443,fd00::/8".into(),
        };
        let way = |text: &str| proxies.way_to(&origin(text)).unwrap().is_some();
        for direct in [
            "https://example.com/",
            "https://a.example.com/",
            "https://x.corp/",
            "https://10.2.3.4/",
            "https://other:8443/",
            "https://127.0.0.1:5000/",
            "https://[fd00::1]/",
            "http://anything/",
        ] {
            assert!(!way(direct), "{direct}");
        }
        for proxied in ["https://corp/", "https://badexample.com/", "https://11.0.0.1/", "https://other/"] {
            assert!(way(proxied), "{proxied}");
        }
        let (proxy, credentials) = proxies.way_to(&origin("https://h/")).unwrap().unwrap();
        assert_eq!((proxy.authority().as_str(), credentials.as_deref()), ("proxy:3128", Some("me:p@ss")));
        assert!(Proxies { none: "*".into(), ..proxies }.way_to(&origin("https://h/")).unwrap().is_none());
    }
}
