//! Who a process is: `user[:group]` looked up in the container's own /etc/passwd and /etc/group.

use crate::error::{EngineError, Result};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

/// A user as the kernel sees it, ids within the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
    /// For HOME.
    pub(crate) home: String,
}

/// The two files that names are looked up in; empty where a container has none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Accounts {
    pub(crate) passwd: String,
    pub(crate) group: String,
}

/// Longer files are cut: an image must not fill the daemon's memory.
const LONGEST: u64 = 4 << 20;

impl Accounts {
    /// Reads them below the first of `roots` that has them (layers, top first). Links are followed inside the root only.
    pub(crate) fn read<F: AsFd>(roots: &[F]) -> Self {
        let first = |path: &str| roots.iter().find_map(|root| read_inside(root, path)).unwrap_or_default();
        Self { passwd: first("etc/passwd"), group: first("etc/group") }
    }
}

fn read_inside(root: &impl AsFd, path: &str) -> Option<String> {
    use rustix::fs::{Mode, OFlags, ResolveFlags};
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file: OwnedFd = rustix::fs::openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT).ok()?;
    let stat = rustix::fs::fstat(&file).ok()?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
        return None;
    }
    let mut bytes = Vec::new();
    std::fs::File::from(file).take(LONGEST).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Finds a user.
///
/// # Errors
/// [`crate::ErrorClass::Invalid`] for a name that the container does not know; numbers need not be known.
pub(crate) fn resolve(asked: &str, group_add: &[String], accounts: &Accounts) -> Result<User> {
    let (name, group) = match asked.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (asked, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let entry = accounts.passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [login, _, uid, gid, _, home, ..] = fields[..] else { return None };
        (login == name || uid == name).then(|| (login, uid.parse().ok(), gid.parse().ok(), home))
    });
    let (login, uid, primary, home) = match entry {
        Some((login, Some(uid), Some(gid), home)) => (Some(login), uid, gid, home),
        _ => {
            let uid = number(name).ok_or_else(|| {
                EngineError::invalid(if name.parse::<i64>().is_ok() {
                    format!("user {name}: uids and gids must be in range 0-2147483647")
                } else {
                    format!("unable to find user {name}: no matching entries in passwd file")
                })
            })?;
            (None, uid, 0, if uid == 0 { "/root" } else { "/" })
        }
    };
    let gid = match group.filter(|group| !group.is_empty()) {
        Some(group) => find_group(group, accounts)?,
        None => primary,
    };
    let mut groups = Vec::new();
    // as Docker: the memberships count only where no group was named
    if let (Some(login), None) = (login, group) {
        groups.extend(accounts.group.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [_, _, id, members, ..] = fields[..] else { return None };
            let id: u32 = id.parse().ok()?;
            (id != gid && members.split(',').any(|member| member == login)).then_some(id)
        }));
    }
    for group in group_add {
        let id = find_group(group, accounts)?;
        if !groups.contains(&id) {
            groups.push(id);
        }
    }
    Ok(User { uid, gid, groups, home: home.to_owned() })
}

fn find_group(asked: &str, accounts: &Accounts) -> Result<u32> {
    let known = accounts.group.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, id, ..] = fields[..] else { return None };
        (name == asked).then(|| id.parse().ok()).flatten()
    });
    known
        .or_else(|| number(asked))
        .ok_or_else(|| EngineError::invalid(format!("unable to find group {asked}: no matching entries in group file")))
}

/// The kernel keeps the highest id to itself.
fn number(text: &str) -> Option<u32> {
    text.parse::<u32>().ok().filter(|id| *id <= i32::MAX.unsigned_abs())
}
