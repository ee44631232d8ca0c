//! Intel RDT and its kin: shares of the last cache and of memory bandwidth, by the `resctrl` file system.
//!
//! A container's class of service is a folder there, named by `linux.intelRdt.closID` or by the container. A folder that
//! we made is removed with the container; one that somebody else made is only joined, and must have the schemata that
//! the container asks for. Nothing here happens unless the configuration has `linux.intelRdt`.
//!
//! # Source
//! runtime-spec `config-linux.md`, IntelRdt; Linux `Documentation/filesystems/resctrl.rst`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxIntelRdt;
use serde::{Deserialize, Serialize};

/// What went wrong with a class of service.
#[derive(Debug, thiserror::Error)]
pub enum ResctrlError {
    /// The configuration asks for it and the host has none.
    #[error(
        "linux.intelRdt asks for cache or bandwidth shares, and no resctrl file system is mounted; leave it out, or mount one: mount -t resctrl resctrl /sys/fs/resctrl"
    )]
    NotMounted,
    /// A class that can't be a folder.
    #[error("invalid linux.intelRdt.closID {class:?}: it must be a plain name")]
    Class {
        /// The class as given.
        class: String,
    },
    /// The named class is not there, and nothing says what it should be.
    #[error("linux.intelRdt.closID {class:?} does not exist, and there are no schemata to make it with")]
    NoSuchClass {
        /// The class.
        class: String,
    },
    /// The class is there with other shares.
    #[error(
        "linux.intelRdt.closID {class:?} exists with other shares than {line:?}; use another class, or the same schemata"
    )]
    Differs {
        /// The class.
        class: String,
        /// The line that it does not have.
        line: String,
    },
    /// A line of schemata that can't be one.
    #[error("invalid line {line:?} in linux.intelRdt: {reason}")]
    Line {
        /// The line as given.
        line: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A file or folder could not be used.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was to be done.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

type Result<T> = std::result::Result<T, ResctrlError>;

/// A container's class of service, and what of it is ours to remove. Part of the container's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resctrl {
    /// The class's folder.
    class: PathBuf,
    /// The monitoring group's folder, where one was asked for.
    monitor: Option<PathBuf>,
    owner: Owner,
}

/// Who made the class's folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Owner {
    Container,
    Somebody,
}

/// Where the file system is mounted, from the text of a `mountinfo` file.
#[must_use]
pub fn mounted(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        (right.split(' ').next()? == "resctrl").then(|| left.split(' ').nth(4).map(PathBuf::from))?
    })
}

impl Resctrl {
    /// Makes or joins the class of container `id`; `root` is where resctrl is mounted, if it is.
    ///
    /// # Errors
    /// When there is no resctrl, the class or a line makes no sense, an existing class has other shares, or the kernel
    /// refuses. What was made is removed again.
    pub fn create(root: Option<&Path>, id: &str, asked: &LinuxIntelRdt) -> Result<Self> {
        let root = root.ok_or(ResctrlError::NotMounted)?;
        let name = asked.clos_id().as_deref().unwrap_or(id);
        let plain =
            !matches!(name, "" | "." | ".." | "info" | "mon_groups" | "mon_data") && !name.contains(['/', '\n', '\0']);
        // The class "/" is the root's, which everything is in that has no other.
        if !plain && name != "/" {
            return Err(ResctrlError::Class { class: name.to_owned() });
        }
        let lines = schemata(asked)?;
        let class = if name == "/" { root.to_owned() } else { root.join(name) };
        let owner = match fs::create_dir(&class) {
            Ok(()) => Owner::Container,
            // A class with the container's own name is what an earlier one of that name has left.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && asked.clos_id().is_none() => Owner::Container,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Owner::Somebody,
            Err(source) => return Err(ResctrlError::File { action: "make", path: class, source }),
        };
        let mut own = Self { class, monitor: None, owner };
        match own.fill(id, name, &lines, asked) {
            Ok(()) => Ok(own),
            Err(error) => {
                // The first failure is the one to report.
                let _ = own.remove();
                Err(error)
            }
        }
    }

    fn fill(&mut self, id: &str, name: &str, lines: &[String], asked: &LinuxIntelRdt) -> Result<()> {
        let named = asked.clos_id().is_some();
        if named && self.owner == Owner::Container && lines.is_empty() {
            return Err(ResctrlError::NoSuchClass { class: name.to_owned() });
        }
        let file = self.class.join("schemata");
        if named && self.owner == Owner::Somebody {
            let text = read(&file)?;
            let has = |line: &&String| text.lines().any(|own| same_shares(own, line));
            if let Some(line) = lines.iter().find(|line| !has(line)) {
                return Err(ResctrlError::Differs { class: name.to_owned(), line: line.clone() });
            }
        } else if !lines.is_empty() {
            // The kernel takes all lines in one write, or none of them.
            write(&file, &format!("{}\n", lines.join("\n")))?;
        }
        let monitoring = [asked.enable_monitoring(), asked.enable_cmt(), asked.enable_mbm()];
        if monitoring.iter().any(|wanted| **wanted == Some(true)) {
            let folder = self.class.join("mon_groups").join(id);
            match fs::create_dir(&folder) {
                Ok(()) => self.monitor = Some(folder),
                Err(source) => return Err(ResctrlError::File { action: "make", path: folder, source }),
            }
        }
        Ok(())
    }

    /// Puts a process into the class, and into the monitoring group.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn place(&self, pid: i32) -> Result<()> {
        write(&self.class.join("tasks"), &format!("{pid}\n"))?;
        self.monitor.as_ref().map_or(Ok(()), |folder| write(&folder.join("tasks"), &format!("{pid}\n")))
    }

    /// Changes the shares, as `update` asks for it.
    ///
    /// # Errors
    /// When a line makes no sense or the kernel refuses.
    pub fn apply(&self, asked: &LinuxIntelRdt) -> Result<()> {
        let lines = schemata(asked)?;
        if lines.is_empty() { Ok(()) } else { write(&self.class.join("schemata"), &format!("{}\n", lines.join("\n"))) }
    }

    /// Removes what [`Self::create`] made, and only that. What is gone is removed.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove(&self) -> Result<()> {
        let class = (self.owner == Owner::Container).then_some(&self.class);
        for folder in self.monitor.iter().chain(class) {
            match fs::remove_dir(folder) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(ResctrlError::File { action: "remove", path: folder.clone(), source }),
            }
        }
        Ok(())
    }

    /// The shares in force: the text of the class's `schemata`.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn shares(&self) -> Result<String> {
        read(&self.class.join("schemata"))
    }

    /// The class's folder: `intel_rdt_path` of runc's state.
    #[must_use]
    pub fn class(&self) -> &Path {
        &self.class
    }
}

/// The lines to write: `schemata` as given, or what the two older fields ask for with bandwidth and cache kept apart.
fn schemata(asked: &LinuxIntelRdt) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let given = asked.schemata().iter().flatten().map(String::as_str);
    let cache = asked.l3_cache_schema().as_deref().unwrap_or_default().lines();
    // That a cache schema has no bandwidth in it is the specification's rule.
    let cache = cache.filter(|line| !line.trim_start().starts_with("MB:"));
    let bandwidth = asked.mem_bw_schema().as_deref().unwrap_or_default().lines();
    for line in cache.chain(bandwidth).chain(given) {
        let line = line.trim();
        let bad = |reason| ResctrlError::Line { line: line.to_owned(), reason };
        if line.is_empty() {
            continue;
        }
        if line.contains(['\n', '\0']) {
            return Err(bad("it is one line"));
        }
        let (resource, shares) = line.split_once(':').ok_or_else(|| bad("it is a resource, a colon and its shares"))?;
        let share =
            |part: &str| part.split_once('=').is_some_and(|(domain, value)| !domain.is_empty() && !value.is_empty());
        if resource.is_empty() || !shares.split(';').all(share) {
            return Err(bad("shares are domain=value, with semicolons between them"));
        }
        lines.push(line.to_owned());
    }
    if let Some(line) =
        asked.mem_bw_schema().as_deref().and_then(|text| text.lines().find(|line| !line.trim().is_empty()))
        && !line.trim().starts_with("MB:")
    {
        return Err(ResctrlError::Line { line: line.to_owned(), reason: "memBwSchema starts with MB:" });
    }
    Ok(lines)
}

/// Whether the kernel's line says at least what the other asks for; the kernel pads, and drops leading zeros.
fn same_shares(kernel: &str, asked: &str) -> bool {
    let split = |line: &str| -> Option<(String, Vec<(String, String)>)> {
        let (resource, shares) = line.trim().split_once(':')?;
        let share = |part: &str| {
            let (domain, value) = part.split_once('=')?;
            let value = value.trim().trim_start_matches('0').to_ascii_lowercase();
            Some((domain.trim().trim_start_matches('0').to_owned(), value))
        };
        Some((resource.trim().to_owned(), shares.split(';').map(share).collect::<Option<_>>()?))
    };
    match (split(kernel), split(asked)) {
        (Some((own, have)), Some((other, want))) => own == other && want.iter().all(|share| have.contains(share)),
        _ => false,
    }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|source| ResctrlError::File { action: "read", path: path.to_owned(), source })
}

/// Writes a file that the kernel made; one that is not there means that it lacks the feature.
fn write(path: &Path, text: &str) -> Result<()> {
    let written = fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes()));
    written.map_err(|source| ResctrlError::File { action: "write", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::LinuxIntelRdtBuilder;

    /// A tree as resctrl has it; a class that somebody made before is in it.
    fn tree() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("theirs/mon_groups")).unwrap();
        fs::write(root.path().join("theirs/schemata"), "    L3:0=00ff;1=00ff\n    MB:0=  50;1= 50\n").unwrap();
        fs::write(root.path().join("theirs/tasks"), "").unwrap();
        root
    }

    fn asked(class: Option<&str>, schemata: &[&str]) -> LinuxIntelRdt {
        let mut asked = LinuxIntelRdtBuilder::default().build().unwrap();
        asked.set_clos_id(class.map(str::to_owned));
        asked.set_schemata(Some(schemata.iter().map(|line| (*line).to_owned()).collect()));
        asked
    }

    #[test]
    fn a_class_of_others_is_joined_and_left() {
        let root = tree();
        let mut wanted = asked(Some("theirs"), &["L3:0=ff;1=ff"]);
        wanted.set_enable_monitoring(Some(true));
        let class = Resctrl::create(Some(root.path()), "box", &wanted).unwrap();
        let monitor = root.path().join("theirs/mon_groups/box");
        assert!(monitor.is_dir());
        fs::write(monitor.join("tasks"), "").unwrap();
        class.place(42).unwrap();
        assert_eq!(fs::read_to_string(root.path().join("theirs/tasks")).unwrap(), "42\n");
        assert_eq!(fs::read_to_string(monitor.join("tasks")).unwrap(), "42\n");
        // The kernel's own files go with the folder; here they are plain.
        fs::remove_file(monitor.join("tasks")).unwrap();
        let record = serde_json::to_string(&class).unwrap();
        serde_json::from_str::<Resctrl>(&record).unwrap().remove().unwrap();
        assert!(!monitor.exists() && root.path().join("theirs").exists());
        let error = Resctrl::create(Some(root.path()), "box", &asked(Some("theirs"), &["L3:0=0f"])).unwrap_err();
        assert!(matches!(error, ResctrlError::Differs { .. }), "{error}");
        assert!(root.path().join("theirs").exists());
    }

    #[test]
    fn what_cannot_be_leaves_nothing() {
        let root = tree();
        let at = |wanted: &LinuxIntelRdt| Resctrl::create(Some(root.path()), "box", wanted).unwrap_err();
        assert!(matches!(at(&asked(Some("new"), &[])), ResctrlError::NoSuchClass { .. }));
        assert!(matches!(at(&asked(Some("../up"), &["L3:0=f"])), ResctrlError::Class { .. }));
        assert!(matches!(at(&asked(None, &["nonsense"])), ResctrlError::Line { .. }));
        // A folder of a plain file system has no schemata file, as a kernel without the feature has none.
        assert!(matches!(at(&asked(None, &["L3:0=f"])), ResctrlError::File { action: "write", .. }));
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1, "only the class of others");
        let none = Resctrl::create(None, "box", &asked(None, &[])).unwrap_err();
        assert!(matches!(none, ResctrlError::NotMounted) && none.to_string().contains("mount -t resctrl"));
    }

    #[test]
    fn a_class_of_its_own_goes_with_the_container() {
        let root = tree();
        let class = Resctrl::create(Some(root.path()), "box", &asked(None, &[])).unwrap();
        let folder = root.path().join("box");
        assert_eq!(class.class(), folder);
        fs::write(folder.join("schemata"), "").unwrap();
        class.apply(&asked(None, &["MB:0=70"])).unwrap();
        assert_eq!(class.shares().unwrap(), "MB:0=70\n");
        fs::remove_file(folder.join("schemata")).unwrap();
        class.remove().unwrap();
        class.remove().unwrap();
        assert!(!folder.exists());
    }

    #[test]
    fn older_fields_become_lines() {
        let mut asked = asked(None, &["L2:0=3"]);
        asked
            .set_l3_cache_schema(Some("L3:0=f0\nMB:0=10".to_owned()))
            .set_mem_bw_schema(Some("MB:0=20;1=70".to_owned()));
        assert_eq!(schemata(&asked).unwrap(), ["L3:0=f0", "MB:0=20;1=70", "L2:0=3"]);
        asked.set_mem_bw_schema(Some("L3:0=f".to_owned()));
        assert!(schemata(&asked).is_err());
    }

    #[test]
    fn the_mount_is_found() {
        let table =
            "31 23 0:28 / /sys rw - sysfs sysfs rw\n50 31 0:40 / /sys/fs/resctrl rw shared:1 - resctrl resctrl rw\n";
        assert_eq!(mounted(table).unwrap(), Path::new("/sys/fs/resctrl"));
        assert_eq!(mounted("31 23 0:28 / /sys rw - sysfs sysfs rw\n"), None);
    }
}
