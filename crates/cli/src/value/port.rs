//! Ports: `8080:80`, `127.0.0.1:8000-8010:80-90/udp`, `[::1]::53`.

/// One published port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port {
    /// The container's port.
    pub(crate) container: u16,
    /// `tcp`, `udp` or `sctp`.
    pub(crate) protocol: String,
    /// The host's address, empty for every one.
    pub(crate) address: String,
    /// The host's port or range of ports, empty for any.
    pub(crate) host: String,
}

fn protocol(text: &str) -> Result<(&str, String), String> {
    let (rest, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if ["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        Ok((rest, protocol))
    } else {
        Err(format!("{protocol:?} is neither tcp, udp nor sctp"))
    }
}

fn range(text: &str) -> Result<(u16, u16), String> {
    let wrong = || format!("{text:?} is no port or range of ports, as in 80 or 8000-8010");
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().map_err(|_| wrong())?, last.parse().map_err(|_| wrong())?);
    if first == 0 || first > last { Err(wrong()) } else { Ok((first, last)) }
}

/// Reads what `--publish` names: Docker's short form, or `target=80,published=8080,protocol=tcp,host-ip=…`.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn published(text: &str) -> Result<Vec<Port>, String> {
    if text.contains('=') {
        return long(text);
    }
    let (rest, protocol) = protocol(text)?;
    let (address, rest) = match rest.strip_prefix('[').and_then(|rest| rest.split_once("]:")) {
        Some((address, rest)) => (address.to_owned(), rest),
        None => {
            let mut parts = rest.rsplitn(3, ':');
            let (last, middle, first) = (parts.next(), parts.next(), parts.next());
            match (first, middle, last) {
                (Some(address), Some(middle), Some(last)) => {
                    (address.to_owned(), &rest[rest.len() - middle.len() - last.len() - 1..])
                }
                _ => (String::new(), rest),
            }
        }
    };
    if !address.is_empty() && address.parse::<std::net::IpAddr>().is_err() {
        return Err(format!("{address:?} is no IP address"));
    }
    let (host, container) = match rest.rsplit_once(':') {
        Some((host, container)) => (host, container),
        None => ("", rest),
    };
    pair(&address, host, range(container)?, &protocol)
}

fn pair(address: &str, host: &str, (first, last): (u16, u16), protocol: &str) -> Result<Vec<Port>, String> {
    let one = |container: u16, host: String| Port {
        container,
        protocol: protocol.to_owned(),
        address: address.to_owned(),
        host,
    };
    if host.is_empty() || host == "0" {
        return Ok((first..=last).map(|port| one(port, String::new())).collect());
    }
    let (host_first, host_last) = range(host)?;
    if first == last && host_first != host_last {
        // any of these
        return Ok(vec![one(first, host.to_owned())]);
    }
    if host_last - host_first != last - first {
        return Err("the two ranges of ports are not of the same length".to_owned());
    }
    Ok((first..=last).map(|port| one(port, (host_first + (port - first)).to_string())).collect())
}

fn long(text: &str) -> Result<Vec<Port>, String> {
    let (mut target, mut host, mut kind, mut address) = (None, "", "tcp", "");
    for part in text.split(',') {
        match part.split_once('=') {
            Some(("target", value)) => target = Some(range(value)?),
            Some(("published", value)) => host = value,
            Some(("protocol", value)) => kind = value,
            Some(("host-ip", value)) => address = value,
            // how a swarm's port is published; here there is one way
            Some(("mode", _)) => {}
            _ => return Err(format!("unknown field {part:?}; there are target, published, protocol and host-ip")),
        }
    }
    let (_, kind) = protocol(&format!("0/{kind}"))?;
    pair(address, host, target.ok_or("it has no target=")?, &kind)
}

/// Reads what `--expose` names.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn exposed(text: &str) -> Result<Vec<String>, String> {
    let (rest, protocol) = protocol(text)?;
    let (first, last) = range(rest)?;
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_are_read() {
        let check = |text: &str, expect: &[(&str, &str, u16, &str)]| {
            let shown: Vec<_> = published(text).unwrap();
            let shown: Vec<_> = shown
                .iter()
                .map(|one| (one.address.as_str(), one.host.as_str(), one.container, one.protocol.as_str()))
                .collect();
            assert_eq!(shown, expect, "{text}");
        };
        check("80", &[("", "", 80, "tcp")]);
        check("8080:80", &[("", "8080", 80, "tcp")]);
        check("8080:80/UDP", &[("", "8080", 80, "udp")]);
        check("127.0.0.1:8080:80", &[("127.0.0.1", "8080", 80, "tcp")]);
        check("127.0.0.1::80", &[("127.0.0.1", "", 80, "tcp")]);
        check("[::1]:8080:80/sctp", &[("::1", "8080", 80, "sctp")]);
        check("8000-8001:80-81", &[("", "8000", 80, "tcp"), ("", "8001", 81, "tcp")]);
        check("8000-8010:80", &[("", "8000-8010", 80, "tcp")]);
        check("80-81", &[("", "", 80, "tcp"), ("", "", 81, "tcp")]);
        check("target=80,published=8080,host-ip=127.0.0.1", &[("127.0.0.1", "8080", 80, "tcp")]);
        for bad in ["", "x", "0", "80:x", "1:2:3:4", "9-8", "1-3:1-2", "80/ip", "here:1:2", "published=80"] {
            assert!(published(bad).is_err(), "{bad}");
        }
        assert_eq!(exposed("90-91/udp").unwrap(), ["90/udp", "91/udp"]);
    }
}
