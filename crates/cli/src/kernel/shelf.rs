//! Where installed kernels are.
//!
//! ```text
//! kernels/lock            held by whoever changes something
//!         default         a link to the one that machines get
//!         NAME/kernel.json  the record: release, source, when, SHA-256 of each file
//!              vmlinux, vmlinuz, initrd, config
//!         .new-PID        one that is being made: renamed when all of it is on the disk
//! ```

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Bootable;
use crate::context::Context;
use crate::failure::{During as _, Failure};

const DEFAULT: &str = "default";
const RECORD: &str = "kernel.json";
/// The longest name.
const MOST_NAME: usize = 100;

/// A file of a kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stored {
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) sha256: String,
}

/// What is known of an installed kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Its folder's name.
    pub(super) name: String,
    /// What it says of itself: `uname -r`.
    pub(super) release: String,
    /// Its package with the version.
    pub(super) source: String,
    /// When it was installed, as RFC 3339 has it.
    pub(super) installed: String,
    /// The file that is booted.
    pub(super) kernel: String,
    /// Its files.
    pub(super) files: Vec<Stored>,
}

/// The folder of kernels.
#[derive(Debug)]
pub(super) struct Shelf {
    folder: PathBuf,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn digest(path: &Path) -> io::Result<(u64, String)> {
    let (mut file, mut hasher) = (File::open(path)?, Sha256::new());
    let (mut buffer, mut size) = (vec![0; 1 << 18], 0);
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok((size, hex(&hasher.finalize())));
        }
        hasher.update(&buffer[..count]);
        size += count as u64;
    }
}

fn check_name(name: &str) -> Result<(), Failure> {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'+');
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if first && name.len() <= MOST_NAME && name.bytes().all(inside) && name != DEFAULT && name != "lock" {
        return Ok(());
    }
    Err(Failure::new(format!("{name:?} is no name of a kernel: use letters, digits, \"_\", \".\", \"+\" and \"-\"")))
}

/// A kernel that is being put together. Dropping it removes what there is of it.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    shelf: &'a Shelf,
    folder: PathBuf,
    _lock: File,
}

impl Draft<'_> {
    /// Where its files and what else is needed meanwhile are written.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// # Errors
    /// The file can't be written.
    pub(super) fn write(&self, name: &str, content: &[u8]) -> Result<(), Failure> {
        let path = self.path(name);
        fs::write(&path, content).during(|| format!("writing {}", path.display()))
    }

    /// Writes the record and puts the kernel on the shelf, in the place of one of the same name.
    ///
    /// # Errors
    /// Something can't be written; nothing has changed then.
    pub(super) fn publish(self, name: &str, release: &str, source: &str, kernel: &str) -> Result<Record, Failure> {
        check_name(name)?;
        let mut files = Vec::new();
        for file in ["config", "initrd", "vmlinux", "vmlinuz"] {
            let path = self.path(file);
            if path.exists() {
                let during = || format!("writing {}", path.display());
                let (size, sha256) = digest(&path).during(during)?;
                File::open(&path).and_then(|file| file.sync_all()).during(during)?;
                files.push(Stored { name: file.to_owned(), size, sha256 });
            }
        }
        let record = Record {
            name: name.to_owned(),
            release: release.to_owned(),
            source: source.to_owned(),
            installed: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            kernel: kernel.to_owned(),
            files,
        };
        let place = self.shelf.folder.join(name);
        let during = || format!("making {}", place.display());
        let text = serde_json::to_vec_pretty(&record).during(during)?;
        let mut file = File::create(self.path(RECORD)).during(during)?;
        file.write_all(&text).and_then(|()| file.sync_all()).during(during)?;
        File::open(&self.folder).and_then(|folder| folder.sync_all()).during(during)?;
        // An older one takes the draft's place, and goes with it.
        let flags = if place.exists() { RenameFlags::EXCHANGE } else { RenameFlags::NOREPLACE };
        renameat_with(CWD, &self.folder, CWD, &place, flags).during(during)?;
        self.shelf.sync().during(during)?;
        Ok(record)
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        // Published, it is not there; what can't be removed is removed by the next one.
        let _gone = fs::remove_dir_all(&self.folder);
    }
}

impl Shelf {
    pub(super) fn of(context: &Context) -> Self {
        Self { folder: context.root.join("kernels") }
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }

    fn lock(&self) -> Result<File, Failure> {
        let during = || format!("opening {}", self.folder.display());
        fs::create_dir_all(&self.folder).during(during)?;
        let lock =
            File::options().create(true).truncate(false).write(true).open(self.folder.join("lock")).during(during)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| Failure::new("another insula installs or removes a kernel; wait until it has ended"))?;
        Ok(lock)
    }

    /// Begins a new kernel, with the name that is asked for, if any. What a killed one has left goes.
    ///
    /// # Errors
    /// It is no name; the folder can't be made, or another program is at it.
    pub(super) fn draft(&self, name: Option<&str>) -> Result<Draft<'_>, Failure> {
        name.map_or(Ok(()), check_name)?;
        let lock = self.lock()?;
        let during = || format!("making a folder in {}", self.folder.display());
        for entry in fs::read_dir(&self.folder).during(during)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(".new-") {
                fs::remove_dir_all(entry.path()).during(during)?;
            }
        }
        let folder = self.folder.join(format!(".new-{}", std::process::id()));
        fs::create_dir(&folder).during(during)?;
        Ok(Draft { shelf: self, folder, _lock: lock })
    }

    /// The installed kernels, sorted by name.
    pub(super) fn list(&self) -> Vec<Record> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut records: Vec<_> =
            names.filter(|name| name != DEFAULT).filter_map(|name| self.find(&name).ok()).collect();
        records.sort_by(|a, b| a.name.cmp(&b.name));
        records
    }

    /// # Errors
    /// There is none of that name.
    pub(super) fn find(&self, name: &str) -> Result<Record, Failure> {
        check_name(name)?;
        let path = self.folder.join(name).join(RECORD);
        let missing = || format!("no kernel {name:?} is installed; see which there are with: insula kernel list");
        let text = fs::read(&path).map_err(|_| Failure::new(missing()))?;
        serde_json::from_slice(&text).during(|| format!("reading {}", path.display()))
    }

    /// A kernel's folder.
    pub(super) fn place(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The name of the one that machines get.
    pub(super) fn default_name(&self) -> Option<String> {
        let target = fs::read_link(self.folder.join(DEFAULT)).ok()?.into_os_string().into_string().ok()?;
        self.find(&target).ok().map(|record| record.name)
    }

    /// Makes one that is there the default.
    ///
    /// # Errors
    /// There is none of that name, or the link can't be made.
    pub(super) fn set_default(&self, name: &str) -> Result<(), Failure> {
        self.find(name)?;
        let during = || format!("making {name:?} the default");
        let next = self.folder.join(format!(".default-{}", std::process::id()));
        symlink(name, &next).during(during)?;
        fs::rename(&next, self.folder.join(DEFAULT)).during(during)?;
        self.sync().during(during)
    }

    /// Removes one. The default is none then, if it was that.
    ///
    /// # Errors
    /// There is none of that name, or it can't be removed.
    pub(super) fn remove(&self, name: &str) -> Result<(), Failure> {
        self.find(name)?;
        let _lock = self.lock()?;
        let during = || format!("removing {name:?}");
        if self.default_name().as_deref() == Some(name) {
            fs::remove_file(self.folder.join(DEFAULT)).during(during)?;
        }
        // Away at once, whatever happens to its files.
        let away = self.folder.join(format!(".new-{}", std::process::id()));
        fs::rename(self.place(name), &away).during(during)?;
        fs::remove_dir_all(&away).during(during)
    }

    /// The files that are not what the record says.
    pub(super) fn damaged(&self, record: &Record) -> Vec<String> {
        let place = self.place(&record.name);
        let whole = |stored: &&Stored| {
            digest(&place.join(&stored.name))
                .is_ok_and(|(size, sha256)| (size, sha256) == (stored.size, stored.sha256.clone()))
        };
        record.files.iter().filter(|stored| !whole(stored)).map(|stored| stored.name.clone()).collect()
    }

    /// What a machine boots: see [`super::choose`].
    pub(super) fn choose(&self, given: Option<&str>) -> Result<Bootable, Failure> {
        if let Some(given) = given {
            let path = std::path::absolute(given).during(|| format!("the kernel {given:?}"))?;
            let named = !given.contains('/') && !path.exists() && self.find(given).is_ok();
            if !named {
                return Ok(Bootable { kernel: path, initrd: None });
            }
        }
        let Some(name) = given.map(str::to_owned).or_else(|| self.default_name()) else {
            let text = match self.list().first() {
                None => "no kernel is installed; install Debian's with: insula kernel install, or give one with --kernel FILE".to_owned(),
                Some(record) => format!("no kernel is the default; choose one with: insula kernel default {}", record.name),
            };
            return Err(Failure::new(text));
        };
        let record = self.find(&name)?;
        let place = self.place(&name);
        let initrd = place.join("initrd");
        Ok(Bootable { kernel: place.join(&record.kernel), initrd: initrd.exists().then_some(initrd) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shelf() -> (tempfile::TempDir, Shelf) {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf { folder: folder.path().join("kernels") };
        (folder, shelf)
    }

    fn install(shelf: &Shelf, name: &str, content: &str) -> Record {
        let draft = shelf.draft(None).unwrap();
        draft.write("vmlinux", content.as_bytes()).unwrap();
        draft.write("initrd", b"initrd").unwrap();
        draft.publish(name, "6.1", "test", "vmlinux").unwrap()
    }

    #[test]
    fn kernels_come_and_go() {
        let (_folder, shelf) = shelf();
        let none = shelf.choose(None).unwrap_err();
        assert!(none.text().contains("insula kernel install"), "{}", none.text());
        let first = install(&shelf, "one", "1");
        assert_eq!(shelf.find("one").unwrap(), first);
        assert!(shelf.choose(None).unwrap_err().text().contains("insula kernel default one"));
        shelf.set_default("one").unwrap();
        install(&shelf, "two", "2");
        assert_eq!(shelf.list().iter().map(|record| record.name.as_str()).collect::<Vec<_>>(), ["one", "two"]);
        let chosen = shelf.choose(None).unwrap();
        assert_eq!(
            (chosen.kernel, chosen.initrd),
            (shelf.place("one").join("vmlinux"), Some(shelf.place("one").join("initrd")))
        );
        assert_eq!(shelf.choose(Some("two")).unwrap().kernel, shelf.place("two").join("vmlinux"));
        assert_eq!(shelf.choose(Some("/a/b")).unwrap(), Bootable { kernel: "/a/b".into(), initrd: None });
        install(&shelf, "one", "another");
        assert_eq!(fs::read(shelf.place("one").join("vmlinux")).unwrap(), b"another");
        shelf.remove("one").unwrap();
        assert_eq!((shelf.default_name(), shelf.list().len()), (None, 1));
        assert!(shelf.remove("one").is_err());
        let left: Vec<_> = fs::read_dir(&shelf.folder).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }

    #[test]
    fn damage_is_found() {
        let (_folder, shelf) = shelf();
        let record = install(&shelf, "one", "1");
        assert!(shelf.damaged(&record).is_empty());
        fs::write(shelf.place("one").join("initrd"), "initrx").unwrap();
        fs::remove_file(shelf.place("one").join("vmlinux")).unwrap();
        assert_eq!(shelf.damaged(&record), ["initrd", "vmlinux"]);
    }

    #[test]
    fn what_a_killed_program_left_goes() {
        let (_folder, shelf) = shelf();
        fs::create_dir_all(shelf.folder.join(".new-1")).unwrap();
        let draft = shelf.draft(None).unwrap();
        assert!(!shelf.folder.join(".new-1").exists());
        assert!(shelf.draft(None).unwrap_err().text().contains("another insula"));
        drop(draft);
        assert!(shelf.draft(None).is_ok());
        assert!(shelf.list().is_empty());
    }

    #[test]
    fn names_are_checked() {
        for bad in ["", "default", "lock", ".x", "a/b", "a b", "-a"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        assert!(check_name("6.1.0-56-cloud-amd64").is_ok());
    }
}
