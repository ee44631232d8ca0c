//! Whose table it is: several daemons may live in one network namespace, each with a table of its own.
//!
//! The plain name belongs to one of them, as the table's comment says, which names its helper's socket. The others have
//! names of their own, made of their sockets' paths. While a helper runs it holds an abstract Unix socket for the plain
//! name, of which there is one in each network namespace; when none does, the comment still keeps the name for the
//! helper that will be back, unless the folder of its socket is gone.

use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::table::TABLE;
use super::{Firewall, wire};
use crate::{NetError, Result};

/// What the helper with the plain name holds.
const LOCK: &[u8] = b"insula/table";
/// How long a helper of the same daemon may be on its way out.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(10);
/// The longest comment that `nft` shows, in bytes, with its zero.
const MARK_MAX: usize = 127;

/// A table of a daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    /// The table's name, in family inet.
    pub table: String,
    /// The socket of its helper, or the end of a long one.
    pub owner: String,
}

impl Firewall {
    /// The table of the daemon whose helper listens at `socket`: the one with the plain name, or one of its own where
    /// another daemon has that; nothing is changed yet.
    ///
    /// Waits some seconds for a helper of the same daemon that is on its way out.
    ///
    /// # Errors
    /// As [`Self::open`], or when the kernel does not tell whose table there is.
    pub fn claim(socket: &Path) -> Result<Self> {
        let own = own_name(socket);
        let mut firewall = Self::open()?;
        let mark = mark(socket);
        let deadline = Instant::now() + PATIENCE;
        let name = SocketAddr::from_abstract_name(LOCK).map_err(|error| NetError::Refused(error.to_string()))?;
        firewall.lock = loop {
            let held = UnixDatagram::bind_addr(&name);
            let owner = firewall.owner_of_plain()?;
            let (ours, gone) = (owner.as_ref() == Some(&mark), owner.as_deref().is_none_or(is_gone));
            match held {
                Ok(lock) => break (ours || gone).then_some(lock),
                Err(error) if error.kind() == ErrorKind::AddrInUse && ours && Instant::now() < deadline => {
                    std::thread::sleep(PAUSE);
                }
                Err(_) => break None,
            }
        };
        if firewall.lock.is_some() {
            firewall.stale = Some(own);
        } else {
            firewall.table = own;
        }
        firewall.mark = Some(mark);
        Ok(firewall)
    }

    /// The tables of daemons in this namespace.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn daemons(&self) -> Result<Vec<Owned>> {
        self.owned(None)
    }

    fn owner_of_plain(&self) -> Result<Option<String>> {
        Ok(self.owned(Some(TABLE))?.pop().map(|owned| owned.owner))
    }

    fn owned(&self, name: Option<&str>) -> Result<Vec<Owned>> {
        let mut found = Vec::new();
        let ask = self.socket.ask(&wire::get_tables(name), &mut |message| {
            let attributes = message.attributes(4);
            if let (Some(table), Some(owner)) = (attributes.text(1), attributes.get(6).and_then(wire::read_comment))
                && table.starts_with(TABLE)
            {
                found.push(Owned { table, owner });
            }
        });
        match ask {
            Err(refusal) if refusal.errno() != Errno::NOENT => Err(NetError::Firewall { source: refusal }),
            _ => Ok(found),
        }
    }
}

/// The table's name for whoever does not get the plain one: the same always, so that it is found again.
///
/// # Source
/// The hash is FNV-1a with 32 bits: RFC 9923, section 2.
fn own_name(socket: &Path) -> String {
    let step = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    let hash = socket.as_os_str().as_encoded_bytes().iter().fold(0x811c_9dc5, step);
    format!("{TABLE}_{hash:08x}")
}

/// The comment: the socket, or the end of a path that is too long.
fn mark(socket: &Path) -> String {
    let text = socket.to_string_lossy();
    let from = (text.len().saturating_sub(MARK_MAX)..=text.len()).find(|at| text.is_char_boundary(*at));
    text[from.unwrap_or_default()..].to_owned()
}

/// Whether an owner will not be back: its folder is gone. Of one whose path is not known nobody can say.
fn is_gone(owner: &str) -> bool {
    let path = Path::new(owner);
    path.is_absolute() && path.parent().is_some_and(|folder| !folder.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_marks_follow_the_socket() {
        let (one, other) = (Path::new("/run/a/netd.sock"), Path::new("/run/b/netd.sock"));
        assert_eq!(own_name(one), own_name(one));
        assert_ne!(own_name(one), own_name(other));
        assert_eq!(own_name(Path::new("a")), "insula_e40c292c", "the value of the RFC for \"a\"");
        assert_eq!(mark(one), "/run/a/netd.sock");
        let long = format!("/{}/é{}", "x".repeat(40), "y".repeat(MARK_MAX - 1));
        assert_eq!(mark(Path::new(&long)), "y".repeat(MARK_MAX - 1), "no half of a letter");
        assert!(is_gone("/nowhere/at/all/netd.sock") && !is_gone("/netd.sock") && !is_gone("unknown/netd.sock"));
    }
}
