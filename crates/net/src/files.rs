//! `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of a container.

use std::fmt;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::dns::{Upstream, Via};

/// The text of `/etc/hostname`.
#[must_use]
pub fn hostname_file(hostname: &str) -> String {
    format!("{hostname}\n")
}

/// The text of `/etc/hosts`: the loopback names, the container's own when it has an address, and `extra` in its order.
#[must_use]
pub fn hosts_file(hostname: &str, address: Option<IpAddr>, extra: &[(String, IpAddr)]) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n",
    );
    let mut line = |address: IpAddr, names: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{address}\t{names}");
    };
    for (name, address) in extra {
        line(*address, name);
    }
    match (address, hostname) {
        (_, "") => {}
        // A host name with a domain is known by its first part too.
        (Some(address), name) => match name.split_once('.') {
            Some((short, _)) if !short.is_empty() => line(address, &format!("{name} {short}")),
            _ => line(address, name),
        },
        // Without any network, programs still look their own name up.
        (None, name) => line(IpAddr::V4(Ipv4Addr::new(127, 0, 1, 1)), name),
    }
    text
}

/// What `--add-host` and its like may name in place of an address: the host, as the container reaches it.
pub const HOST_GATEWAY: &str = "host-gateway";

/// Reads `NAME:ADDRESS` or `NAME=ADDRESS`, where the address may stand in brackets or be [`HOST_GATEWAY`], which means
/// each of `gateways`. Nothing for what is neither.
#[must_use]
pub fn extra_host(line: &str, gateways: &[IpAddr]) -> Option<Vec<(String, IpAddr)>> {
    let (name, address) = line.split_once(['=', ':']).filter(|(name, _)| !name.is_empty())?;
    if address == HOST_GATEWAY {
        return Some(gateways.iter().map(|gateway| (name.to_owned(), *gateway)).collect());
    }
    let address = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    Some(vec![(name.to_owned(), address.parse().ok()?)])
}

/// As [`hosts_file`], for a container with several addresses: each has the container's name, and `aliases` follow it.
#[must_use]
pub fn hosts_file_for(hostname: &str, addresses: &[IpAddr], aliases: &[String], extra: &[(String, IpAddr)]) -> String {
    let Some((first, others)) = addresses.split_first() else { return hosts_file(hostname, None, extra) };
    let text = hosts_file(hostname, Some(*first), extra);
    let names = text.lines().last().and_then(|line| line.split_once('\t')).map(|(_, names)| names.to_owned());
    let names = names.filter(|_| !hostname.is_empty()).unwrap_or_default();
    let mut all = names.clone();
    for alias in aliases.iter().filter(|alias| !names.split(' ').any(|name| name == alias.as_str())) {
        all = format!("{all} {alias}");
    }
    let mut text = text.strip_suffix(&format!("{names}\n")).map_or(text.clone(), |rest| format!("{rest}{all}\n"));
    for address in others {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{address}\t{all}");
    }
    text
}

/// Who named the servers of a [`Resolver`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The host's own file: its servers are asked from the host, its loopback included.
    Host,
    /// The user: a server is asked from the container, whose loopback is meant.
    User,
}

/// Where names are looked up: the content of `/etc/resolv.conf`.
///
/// # Source
/// resolv.conf(5).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resolver {
    /// The servers, in order; as written, since an address may name a link (`fe80::1%eth0`).
    pub nameservers: Vec<String>,
    /// The domains to try for short names.
    pub search: Vec<String>,
    /// Options such as `ndots:2`.
    pub options: Vec<String>,
}

impl Resolver {
    /// Reads the text of a `resolv.conf`; lines that mean nothing to a resolver are left out.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let Some(keyword) = words.next() else { continue };
            let words: Vec<String> = words.map(str::to_owned).collect();
            match keyword {
                "nameserver" => resolver.nameservers.extend(words.into_iter().take(1)),
                // The last of several counts.
                "search" => resolver.search = words,
                "domain" => resolver.search = words.into_iter().take(1).collect(),
                "options" => resolver.options.extend(words),
                _ => {}
            }
        }
        resolver
    }

    /// The same without servers on the host's own loopback link, which a container with its own network can't reach.
    #[must_use]
    pub fn without_loopback(mut self) -> Self {
        self.nameservers.retain(|server| {
            let address = server.split('%').next().unwrap_or_default();
            match address.parse::<IpAddr>() {
                Ok(IpAddr::V4(address)) => !address.is_loopback(),
                Ok(IpAddr::V6(address)) => address != Ipv6Addr::LOCALHOST,
                Err(_) => false,
            }
        });
        self
    }

    /// The same with what the user asked for in place of the host's, where the user asked.
    ///
    /// A search domain of `.` means none.
    #[must_use]
    pub fn with(mut self, nameservers: &[String], search: &[String], options: &[String]) -> Self {
        let replace = |own: &mut Vec<String>, given: &[String]| {
            if !given.is_empty() {
                *own = given.to_vec();
            }
        };
        replace(&mut self.nameservers, nameservers);
        replace(&mut self.search, search);
        replace(&mut self.options, options);
        self.search.retain(|domain| domain != ".");
        self
    }
}

impl Resolver {
    /// The file of a container whose names we resolve ourselves, and the servers to ask for all others.
    ///
    /// The file names [`crate::dns::ADDRESS`] only, and tells programs to ask for short names as they are (`ndots:0`)
    /// unless somebody has said otherwise.
    #[must_use]
    pub fn embedded(mut self, origin: Origin) -> (Self, Vec<Upstream>) {
        let via = match origin {
            Origin::Host => Via::Host,
            Origin::User => Via::Inside,
        };
        let parse = |server: &String| Some(SocketAddr::new(server.split('%').next()?.parse().ok()?, 53));
        let upstreams = self.nameservers.iter().filter_map(parse);
        let upstreams = upstreams.map(|address| Upstream { address, via }).collect();
        self.nameservers = vec![crate::dns::ADDRESS.to_string()];
        if !self.options.iter().any(|option| option.starts_with("ndots:")) {
            self.options.push("ndots:0".to_owned());
        }
        (self, upstreams)
    }
}

impl fmt::Display for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for server in &self.nameservers {
            writeln!(f, "nameserver {server}")?;
        }
        for (keyword, words) in [("search", &self.search), ("options", &self.options)] {
            if !words.is_empty() {
                writeln!(f, "{keyword} {}", words.join(" "))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_name_the_container_and_what_was_added() {
        let extra = [("db".to_owned(), "10.0.0.9".parse().unwrap())];
        let text = hosts_file("web.example", Some("10.0.0.2".parse().unwrap()), &extra);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("10.0.0.9\tdb\n10.0.0.2\tweb.example web\n"), "{text}");
        assert!(hosts_file("web", None, &[]).ends_with("127.0.1.1\tweb\n"));
        assert!(hosts_file("", None, &[]).ends_with("ip6-allrouters\n"));
        assert_eq!(hostname_file("web"), "web\n");
    }

    #[test]
    fn containers_with_several_addresses_and_aliases() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let aliases = ["shop".to_owned(), "web".to_owned()];
        let text = hosts_file_for("web.example", &[ip("10.0.0.2"), ip("fd00::2")], &aliases, &[]);
        assert!(text.ends_with("10.0.0.2\tweb.example web shop\nfd00::2\tweb.example web shop\n"), "{text}");
        assert_eq!(hosts_file_for("web", &[], &aliases, &[]), hosts_file("web", None, &[]));
        let gateways = [ip("172.17.0.1"), ip("fd00::1")];
        let both = gateways.map(|gateway| ("host".to_owned(), gateway)).to_vec();
        assert_eq!(extra_host("host:host-gateway", &gateways), Some(both));
        assert_eq!(extra_host("db:[fd00::9]", &[]), Some(vec![("db".to_owned(), ip("fd00::9"))]));
        assert_eq!(extra_host("db=fd00::9", &[]), Some(vec![("db".to_owned(), ip("fd00::9"))]));
        for wrong in ["db", ":1.2.3.4", "db:", "db:nowhere"] {
            assert_eq!(extra_host(wrong, &gateways), None, "{wrong}");
        }
    }

    #[test]
    fn our_own_resolver_stands_in_front_of_the_others() {
        let host = Resolver::parse("nameserver 127.0.0.53\nnameserver fe80::1%eth0\nsearch a.example\noptions edns0\n");
        let (file, upstreams) = host.clone().embedded(Origin::Host);
        assert_eq!(file.to_string(), "nameserver 127.0.0.11\nsearch a.example\noptions edns0 ndots:0\n");
        assert_eq!((upstreams[0].address.to_string().as_str(), upstreams[0].via), ("127.0.0.53:53", Via::Host));
        let asked = host.with(&["127.0.0.1".to_owned()], &[], &["ndots:3".to_owned()]);
        let (file, upstreams) = asked.embedded(Origin::User);
        assert!(file.to_string().ends_with("options ndots:3\n"));
        assert_eq!((upstreams.len(), upstreams[0].via), (1, Via::Inside));
    }

    #[test]
    fn resolvers_are_read_changed_and_written() {
        let host = Resolver::parse(
            "# made by hand\nnameserver 127.0.0.53\nnameserver 9.9.9.9 # two\nnameserver fe80::1%eth0\n\
             nameserver ::1\ndomain old\nsearch a.example b.example\noptions ndots:2\noptions edns0\nsortlist x\nnameserver\n",
        );
        assert_eq!(host.nameservers.len(), 4);
        let own = host.clone().without_loopback();
        assert_eq!(
            own.to_string(),
            "nameserver 9.9.9.9\nnameserver fe80::1%eth0\nsearch a.example b.example\noptions ndots:2 edns0\n"
        );
        let asked = own.with(&["1.1.1.1".to_owned()], &[".".to_owned()], &[]);
        assert_eq!(asked.to_string(), "nameserver 1.1.1.1\noptions ndots:2 edns0\n");
        assert_eq!(Resolver::parse("").to_string(), "");
    }
}
