//! What a process's links have carried: `/proc/PID/net/dev`.

use std::path::PathBuf;

use crate::{NetError, Result};

/// The counters of one link.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LinkStatistics {
    /// The link's name, such as `eth0`.
    pub name: String,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Receptions that failed.
    pub rx_errors: u64,
    /// Packets that arrived and were given up.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Sendings that failed.
    pub tx_errors: u64,
    /// Packets that were given up before they were sent.
    pub tx_dropped: u64,
}

/// The counters of the links in the network namespace of process `pid`.
///
/// # Errors
/// When the process is gone or its file can't be read.
pub fn link_statistics(pid: u32) -> Result<Vec<LinkStatistics>> {
    let path = PathBuf::from(format!("/proc/{pid}/net/dev"));
    let text = std::fs::read_to_string(&path).map_err(|source| NetError::Statistics { path, source })?;
    Ok(parse_link_statistics(&text))
}

/// Reads the text of a `net/dev` file; lines without sixteen numbers, such as the two of the heading, are left out.
///
/// # Source
/// proc_pid_net(5).
#[must_use]
pub fn parse_link_statistics(text: &str) -> Vec<LinkStatistics> {
    let parse = |line: &str| {
        let (name, numbers) = line.rsplit_once(':')?;
        let numbers: Vec<u64> =
            numbers.split_whitespace().map(str::parse).collect::<std::result::Result<_, _>>().ok()?;
        let [rx_bytes, rx_packets, rx_errors, rx_dropped, _, _, _, _, tx_bytes, tx_packets, tx_errors, tx_dropped, ..] =
            *numbers.as_slice()
        else {
            return None;
        };
        Some(LinkStatistics {
            name: name.trim().to_owned(),
            rx_bytes,
            rx_packets,
            rx_errors,
            rx_dropped,
            tx_bytes,
            tx_packets,
            tx_errors,
            tx_dropped,
        })
    };
    text.lines().filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_is_read() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
            face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
            lo:     100       2    0    0    0     0          0         0      100       2    0    0    0     0       0          0\n  \
            eth0:1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n bad: 1 2 x\n short: 1 2\n";
        let links = parse_link_statistics(text);
        assert_eq!(links.iter().map(|link| link.name.as_str()).collect::<Vec<_>>(), ["lo", "eth0"]);
        assert_eq!((links[0].rx_bytes, links[0].tx_packets), (100, 2));
        assert_eq!((links[1].rx_dropped, links[1].tx_bytes, links[1].tx_dropped), (4, 9, 12));
        assert!(!link_statistics(std::process::id()).unwrap().is_empty());
    }
}
