//! `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of a container.

use std::fmt;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
