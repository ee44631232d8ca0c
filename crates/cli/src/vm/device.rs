//! The devices of `insula vm run`: what stands behind their flags becomes a part of the machine's specification.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde_json::{Map, Value, json};

/// The file's whole path: the machine's process runs in another folder.
pub(super) fn absolute(path: &str) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|error| error.to_string())
}

/// `FILE[,ro][,qcow2][,backing][,direct]`. An image is known by its name's end, never by its content, which the guest writes.
pub(super) fn disk(text: &str) -> Result<Value, String> {
    let mut words = text.split(',');
    let path = words.next().unwrap_or_default();
    let mut disk = Map::new();
    if path.is_empty() {
        return Err("give a file, as in disk.img or disk.qcow2,ro".to_owned());
    }
    let by_name = path.ends_with(".qcow2");
    disk.insert("path".to_owned(), json!(absolute(path)?));
    disk.insert("format".to_owned(), json!(if by_name { "qcow2" } else { "raw" }));
    for word in words {
        let (key, value) = match word {
            "ro" => ("read_only", json!(true)),
            "rw" => ("read_only", json!(false)),
            "raw" | "qcow2" => ("format", json!(word)),
            "backing" | "direct" => (word, json!(true)),
            _ => return Err(format!("{word:?} says nothing about a disk; give ro, raw, qcow2, backing or direct")),
        };
        disk.insert(key.to_owned(), value);
    }
    Ok(disk.into())
}

/// `[ADDRESS:]HOST-PORT:GUEST-PORT[/udp]`, on the host's loopback if no address is given.
fn forward(text: &str) -> Result<Value, String> {
    let bad = || format!("{text:?} is no forwarded port; give [ADDRESS:]PORT:GUEST-PORT[/udp], as in 8080:80");
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let udp = match protocol {
        "tcp" => false,
        "udp" => true,
        _ => return Err(bad()),
    };
    let (host, guest) = ports.rsplit_once(':').ok_or_else(bad)?;
    let (address, port) = host.rsplit_once(':').unwrap_or(("", host));
    let address = match address.trim_start_matches('[').trim_end_matches(']') {
        "" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        address => address.parse().map_err(|_| bad())?,
    };
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(bad);
    Ok(json!({ "udp": udp, "host": SocketAddr::new(address, number(port)?), "guest_port": number(guest)? }))
}

/// `tap=NAME[,mac=ADDRESS][,queues=N]`, or `user[,mac=ADDRESS][,forward=PORT:PORT]...[,host]`.
pub(super) fn card(text: &str) -> Result<Value, String> {
    let bad = || "give tap=NAME[,mac=ADDRESS][,queues=N] or user[,mac=ADDRESS][,forward=PORT:PORT][,host]".to_owned();
    let (mut card, mut forwards, mut user) = (Map::new(), Vec::new(), false);
    for part in text.split(',') {
        match part.split_once('=') {
            Some((key @ ("tap" | "mac"), value)) if !value.is_empty() => {
                card.insert(key.to_owned(), value.into());
            }
            Some(("queues", value)) => {
                let queues: u16 = value.parse().map_err(|_| bad())?;
                card.insert("queues".to_owned(), queues.into());
            }
            Some(("forward", value)) => forwards.push(forward(value)?),
            None if part == "user" => user = true,
            None if part == "host" => {
                card.insert("host_loopback".to_owned(), true.into());
            }
            _ => return Err(bad()),
        }
    }
    let own = !forwards.is_empty() || card.contains_key("host_loopback");
    if user == card.contains_key("tap") || own && !user || user && card.contains_key("queues") {
        return Err(bad());
    }
    card.insert("forwards".to_owned(), forwards.into());
    Ok(card.into())
}

/// `FOLDER:TAG[:ro]`.
pub(super) fn share(text: &str) -> Result<Value, String> {
    let (text, read_only) = text.strip_suffix(":ro").map_or((text, false), |text| (text, true));
    match text.rsplit_once(':') {
        Some((folder, tag)) if !folder.is_empty() && !tag.is_empty() => {
            Ok(json!({ "path": absolute(folder)?, "tag": tag, "read_only": read_only }))
        }
        _ => Err("give FOLDER:TAG or FOLDER:TAG:ro; the guest mounts it with: mount -t virtiofs TAG PLACE".to_owned()),
    }
}

/// `FILE[,ro]`.
pub(super) fn pmem(text: &str) -> Result<Value, String> {
    let (path, read_only) = text.strip_suffix(",ro").map_or((text, false), |path| (path, true));
    if path.is_empty() {
        Err("give a file".to_owned())
    } else {
        Ok(json!({ "path": absolute(path)?, "read_only": read_only }))
    }
}

/// A guest's address for sockets.
pub(super) fn cid(text: &str) -> Result<u32, String> {
    let cid = text.parse().ok().filter(|cid| (3..u32::MAX).contains(cid));
    cid.ok_or_else(|| "give a number from 3 to 4294967294".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_read() {
        let check = |text: &str, format: &str, read_only: Option<bool>| {
            let disk = disk(text).unwrap();
            assert_eq!((&disk["format"], disk["read_only"].as_bool()), (&json!(format), read_only), "{text}");
            assert!(disk["path"].as_str().unwrap().starts_with('/'), "{text}");
        };
        check("a.img", "raw", None);
        check("a.img,ro", "raw", Some(true));
        check("a.qcow2", "qcow2", None);
        check("a.qcow2,raw,rw,direct", "raw", Some(false));
        check("a,qcow2,backing", "qcow2", None);
        assert!(disk("").is_err() && disk("a,b").is_err() && disk(",ro").is_err());
    }

    #[test]
    fn cards_are_read() {
        assert_eq!(card("tap=t0,queues=2").unwrap(), json!({"tap": "t0", "queues": 2, "forwards": []}));
        let user = card("user,host,forward=8080:80,forward=0.0.0.0:53:53/udp,forward=[::1]:22:2").unwrap();
        let hosts: Vec<_> =
            user["forwards"].as_array().unwrap().iter().map(|forward| forward["host"].clone()).collect();
        assert_eq!(hosts, ["127.0.0.1:8080", "0.0.0.0:53", "[::1]:22"]);
        assert_eq!((&user["forwards"][1]["udp"], &user["host_loopback"]), (&json!(true), &json!(true)));
        for bad in [
            "",
            "tap=",
            "user,tap=t0",
            "tap=t0,host",
            "mac=02:0:0:0:0:1",
            "user,forward=80",
            "user,forward=0:1",
            "user,x",
        ] {
            assert!(card(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn shares_files_and_addresses_are_read() {
        let read = share("a:b:tag:ro").unwrap();
        assert!(read["path"].as_str().unwrap().ends_with("/a:b") && read["tag"] == "tag" && read["read_only"] == true);
        assert!(share("a").is_err() && share(":tag").is_err() && share("a:").is_err());
        assert_eq!(pmem("p,ro").unwrap()["read_only"], true);
        assert!(pmem(",ro").is_err());
        assert_eq!((cid("3"), cid("2").is_err(), cid("4294967295").is_err()), (Ok(3), true, true));
    }
}
