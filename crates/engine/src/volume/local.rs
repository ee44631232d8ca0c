//! The local driver's options: another file system, or another folder, in a volume's place; and a limit of its size.
//!
//! # Source
//! mount(8) for types and words; nfs(5) and mount.cifs(8) for `addr`, which the kernel wants as a number; the words of refusals
//! are those by which users of Docker know them.

use super::{Volume, open_folder};
use crate::error::{EngineError, ErrorClass, Result};
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use rustix::mount::UnmountFlags;
use std::collections::BTreeMap;
use std::net::ToSocketAddrs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use sys::mount::{Depth, FsContext, MountAttr, MountAttrs, OpenTreeFlags};
use sys::mount_options::Options;

/// Limited volumes' projects are numbered from here on, far from those that people choose.
const FIRST_PROJECT: u32 = 0x4900_0000;

/// Options that were looked over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LocalOptions {
    kind: String,
    device: String,
    words: Vec<String>,
    /// The most bytes that it may take.
    pub(crate) limit: Option<u64>,
}

impl LocalOptions {
    /// Looks options over.
    ///
    /// # Errors
    /// [`ErrorClass::Invalid`], naming the option.
    pub(crate) fn parse(options: &BTreeMap<String, String>) -> Result<Self> {
        let mut out = Self::default();
        for (name, value) in options {
            match name.as_str() {
                "type" => out.kind.clone_from(value),
                "device" => out.device.clone_from(value),
                "o" => out.words = value.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect(),
                "size" => out.limit = Some(bytes(value)?).filter(|bytes| *bytes > 0),
                _ => return Err(EngineError::invalid(format!("invalid option: {name:?}"))),
            }
        }
        let needs = [("device", &["type"][..]), ("type", &["device"]), ("o", &["device", "type"])];
        for (name, required) in needs {
            let missing = required.iter().find(|required| !options.contains_key(**required));
            if options.contains_key(name)
                && let Some(missing) = missing
            {
                return Err(EngineError::invalid(format!("missing required option: {missing:?}")));
            }
        }
        if out.limit.is_some() && options.contains_key("type") {
            return Err(EngineError::invalid(
                "option \"size\" limits a folder and does not go with \"type\"; give the file system's own option, such as o=size=1g",
            ));
        }
        Ok(out)
    }

    /// Mounts what they name at the volume's folder.
    ///
    /// # Errors
    /// [`ErrorClass::Internal`] with the kernel's words.
    pub(crate) fn mount(&self, volume: &Volume) -> Result<()> {
        let words = self.resolved()?;
        let options = Options::parse(&words);
        let bound = options.bind.or((self.kind == "bind").then_some(Depth::One));
        let tree = match bound {
            Some(depth) => self.bound(depth, &options),
            None => self.fresh(&options),
        };
        let placed = tree.and_then(|tree| {
            let at = open_folder(&volume.path).map_err(|error| error.to_string())?;
            sys::mount::move_mount_onto(tree.as_fd(), at.as_fd()).map_err(|error| error.to_string())
        });
        placed.map_err(|why| {
            let (device, at, words) = (&self.device, volume.path.display(), words.join(","));
            EngineError::new(
                ErrorClass::Internal,
                format!(
                    "error while mounting volume '{at}': failed to mount local volume: mount {device}:{at}, data: {words}: {why}"
                ),
            )
        })
    }

    fn bound(&self, depth: Depth, options: &Options) -> std::result::Result<OwnedFd, String> {
        let below = if depth == Depth::Recursive { OpenTreeFlags::AT_RECURSIVE } else { OpenTreeFlags::empty() };
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | below;
        let tree =
            sys::mount::open_tree(CWD, Path::new(&self.device), flags).map_err(|error| error.errno.to_string())?;
        let each =
            [(options.set, options.clear, Depth::One), (options.set_below, options.clear_below, Depth::Recursive)];
        for (set, clear, depth) in each.into_iter().filter(|(set, clear, _)| !(*set | *clear).is_empty()) {
            let attrs = MountAttrs { set, clear, ..MountAttrs::default() };
            sys::mount::mount_setattr(tree.as_fd(), depth, &attrs).map_err(|error| error.to_string())?;
        }
        Ok(tree)
    }

    fn fresh(&self, options: &Options) -> std::result::Result<OwnedFd, String> {
        let assemble = || {
            let context = FsContext::open(&self.kind)?;
            context.set_string("source", &self.device)?;
            for word in &options.whole {
                context.set_flag(word)?;
            }
            if options.set.contains(MountAttr::RDONLY) {
                context.set_flag("ro")?;
            }
            for (key, value) in &options.data {
                match value {
                    Some(value) => context.set_string(key, value)?,
                    None => context.set_flag(key)?,
                }
            }
            context.create()?;
            context.mount(options.set | options.set_below)
        };
        assemble().map_err(|error: sys::mount::FsError| match error.errno() {
            rustix::io::Errno::NODEV => format!("no such device: this kernel has no file system {:?}", self.kind),
            _ => error.to_string(),
        })
    }

    /// The words with the addresses of servers as numbers.
    fn resolved(&self) -> Result<Vec<String>> {
        if !self.kind.starts_with("nfs") && !matches!(self.kind.as_str(), "cifs" | "smb3") {
            return Ok(self.words.clone());
        }
        let mut words = self.words.clone();
        if !words.iter().any(|word| word.starts_with("addr="))
            && let Some(server) = server(&self.device)
        {
            words.push(format!("addr={server}"));
        }
        for word in &mut words {
            if let Some(name) = word.strip_prefix("addr=") {
                *word = format!("addr={}", address(name)?);
            }
        }
        Ok(words)
    }

    /// Limits what a new volume's folder may take; the project that it is counted for.
    ///
    /// # Errors
    /// [`ErrorClass::Invalid`] where the file system cannot.
    pub(crate) fn limit(&self, home: &Path, taken: impl Iterator<Item = u32>) -> Result<Option<u32>> {
        let Some(bytes) = self.limit else { return Ok(None) };
        let project = taken.max().map_or(FIRST_PROJECT, |last| last.max(FIRST_PROJECT) + 1);
        let set = || -> std::result::Result<(), sys::SysError> {
            let folder = open_folder(home).map_err(sys::SysError::of("open"))?;
            sys::quota::set_project_limit(folder.as_fd(), project, bytes)?;
            sys::quota::set_project(folder.as_fd(), project)
        };
        set().map_err(|error| {
            EngineError::invalid(format!(
                "quota size requested but no quota support: {} is on a file system without project quotas ({error}); use \
                 ext4 (made with -O project,quota) or XFS, mounted with prjquota",
                home.display()
            ))
        })?;
        Ok(Some(project))
    }
}

/// Takes away a volume's limit.
pub(crate) fn lift_limit(home: &Path, project: u32) {
    let lifted = open_folder(home)
        .map_err(sys::SysError::of("open"))
        .and_then(|folder| sys::quota::set_project_limit(folder.as_fd(), project, 0));
    if let Err(error) = lifted {
        tracing::warn!(home = %home.display(), %error, "the limit of a volume's size stays");
    }
}

/// Whether something is mounted at a volume's folder.
pub(crate) fn is_mounted(volume: &Volume) -> bool {
    rustix::fs::statx(CWD, &volume.path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty())
        .is_ok_and(|stat| stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Takes away what is mounted at a volume's folder.
///
/// # Errors
/// What umount2(2) says.
pub(crate) fn unmount(volume: &Volume) -> sys::Result<()> {
    sys::mount::umount(&volume.path, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
}

/// The server of `server:/path`, `[v6]:/path` or `//server/share`.
fn server(device: &str) -> Option<&str> {
    let name = match device.strip_prefix("//") {
        Some(rest) => rest.split('/').next()?,
        None => device.rsplit_once(":/")?.0.trim_start_matches('[').trim_end_matches(']'),
    };
    (!name.is_empty()).then_some(name)
}

fn address(name: &str) -> Result<String> {
    if name.parse::<std::net::IpAddr>().is_ok() {
        return Ok(name.to_owned());
    }
    let failed = |why: String| {
        EngineError::new(ErrorClass::Internal, format!("error resolving passed in network volume address: {why}"))
    };
    let mut found = (name, 0).to_socket_addrs().map_err(|error| failed(format!("{name}: {error}")))?;
    found.next().map(|address| address.ip().to_string()).ok_or_else(|| failed(format!("{name}: no address")))
}

/// A number with a suffix of 1024: `10g`, `512MiB`.
fn bytes(text: &str) -> Result<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let suffix = suffix.trim().to_ascii_lowercase();
    let shift = match suffix.trim_end_matches('b').trim_end_matches('i') {
        "" => Some(0),
        "k" => Some(10),
        "m" => Some(20),
        "g" => Some(30),
        "t" => Some(40),
        _ => None,
    };
    let value = number.parse::<u64>().ok().zip(shift).and_then(|(number, shift)| number.checked_mul(1 << shift));
    value.ok_or_else(|| EngineError::invalid(format!("invalid size: '{text}'; write it such as 512m or 10g")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn options_are_looked_over() {
        let check = |pairs: &[(&str, &str)], part: &str| {
            let error = LocalOptions::parse(&options(pairs)).unwrap_err();
            assert!(error.to_string().contains(part), "{pairs:?}: {error}");
            assert_eq!(error.class(), ErrorClass::Invalid);
        };
        check(&[("foo", "bar")], "invalid option: \"foo\"");
        check(&[("type", "tmpfs")], "missing required option: \"device\"");
        check(&[("device", "tmpfs")], "missing required option: \"type\"");
        check(&[("o", "size=1m"), ("device", "x")], "missing required option: \"type\"");
        check(&[("size", "lots")], "invalid size");
        check(&[("size", "1m"), ("type", "tmpfs"), ("device", "tmpfs")], "does not go with");
        let good = [("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m,uid=1000,")];
        assert_eq!(LocalOptions::parse(&options(&good)).unwrap().words, ["size=1m", "uid=1000"]);
        assert_eq!(LocalOptions::parse(&options(&[("size", "10G")])).unwrap().limit, Some(10 << 30));
        assert_eq!(LocalOptions::parse(&options(&[])).unwrap(), LocalOptions::default());
    }

    #[test]
    fn servers_are_found_in_devices() {
        for (device, want) in [
            ("host:/export", Some("host")),
            ("[::1]:/export", Some("::1")),
            (":/export", None),
            ("//host/share", Some("host")),
            ("/dev/sda", None),
        ] {
            assert_eq!(server(device), want, "{device}");
        }
    }

    #[test]
    fn addresses_become_numbers() {
        let nfs = options(&[("type", "nfs"), ("device", ":/x"), ("o", "addr=localhost,soft")]);
        let words = LocalOptions::parse(&nfs).unwrap().resolved().unwrap();
        assert!(words[0] == "addr=127.0.0.1" || words[0] == "addr=::1", "{words:?}");
        assert_eq!(words[1], "soft");
        let other = options(&[("type", "tmpfs"), ("device", ":/x"), ("o", "addr=localhost")]);
        assert_eq!(LocalOptions::parse(&other).unwrap().resolved().unwrap(), ["addr=localhost"]);
    }

    mod kernel {
        use super::*;
        use std::process::Command;

        /// A file system of its own on a loop device; goes with the test.
        struct Disk(tempfile::TempDir);

        impl Drop for Disk {
            fn drop(&mut self) {
                let _ = sys::mount::umount(&self.0.path().join("mnt"), UnmountFlags::DETACH);
            }
        }

        #[test]
        fn a_size_is_limited_where_projects_are_counted() {
            let run = |program: &str, words: &[&str]| {
                Command::new(program).args(words).output().is_ok_and(|out| out.status.success())
            };
            let disk = Disk(tempfile::tempdir().unwrap());
            let (file, mnt) = (disk.0.path().join("disk"), disk.0.path().join("mnt"));
            std::fs::create_dir(&mnt).unwrap();
            std::fs::File::create(&file).unwrap().set_len(64 << 20).unwrap();
            let (file, mnt) = (file.to_str().unwrap(), mnt.to_str().unwrap());
            let made = run("mkfs.ext4", &["-q", "-O", "project,quota", "-E", "quotatype=prjquota", file]);
            let limited = LocalOptions::parse(&options(&[("size", "1m")])).unwrap();
            let elsewhere = disk.0.path().join("plain");
            std::fs::create_dir(&elsewhere).unwrap();
            let refused = limited.limit(&elsewhere, std::iter::empty()).unwrap_err();
            assert!(refused.to_string().contains("no quota support"), "{refused}");
            if !made || !run("mount", &["-o", "loop,prjquota", file, mnt]) {
                println!("skipped: no root, no mkfs.ext4, no loop device, or a kernel without project quotas");
                return;
            }
            let home = Path::new(mnt).join("volume");
            std::fs::create_dir(&home).unwrap();
            let project = limited.limit(&home, [FIRST_PROJECT + 6].into_iter()).unwrap();
            assert_eq!(project, Some(FIRST_PROJECT + 7));
            std::fs::create_dir(home.join("_data")).unwrap();
            std::fs::write(home.join("_data/half"), vec![1; 512 << 10]).unwrap();
            let error = std::fs::write(home.join("_data/rest"), vec![1; 1 << 20]).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::QuotaExceeded, "{error}");
            let folder = open_folder(&home).unwrap();
            let quota = sys::quota::project_quota(folder.as_fd(), FIRST_PROJECT + 7).unwrap();
            assert!(quota.limit_bytes == 1 << 20 && quota.used_bytes > 512 << 10, "{quota:?}");
            lift_limit(&home, FIRST_PROJECT + 7);
            std::fs::write(home.join("_data/rest"), vec![1; 1 << 20]).unwrap();
        }
    }
}
