//! A base image from a distribution's own packages, through the machine's own apt, without any registry.
//!
//! ```text
//! prepare              lists (signatures checked by apt) -> packages -> unpacked into work/root
//! configure_command    what a container with that root has to run: the packages' maintainer scripts
//! finish               traces of the making removed, times clamped -> a layer -> an image
//! ```
//!
//! Nothing of a package runs outside of a container. The same set of packages gives the same image, wherever and
//! whenever it is made: all times are at most that of the newest file in the packages.

mod apt;
mod clean;
mod script;
mod sources;

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, SystemTime};

use oci::reference::Reference;

use crate::error::ImageError;
use crate::export::{self, ExportError};
use crate::import;
use crate::model::{Image, ImportOptions};
use crate::store::Store;
use apt::{Apt, file_error, missing, tool};

/// What base image is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The name that the image gets.
    pub reference: Reference,
    /// The distribution as its `Release` files name it, `debian`.
    pub distribution: String,
    /// The release, `bookworm`.
    pub suite: String,
    /// Packages beyond the essential ones and apt.
    pub include: Vec<String>,
}

/// Why a base image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// A program of the distribution's is missing.
    #[error("{program} cannot be run; a base image is made with the machine's own apt: install the package {package}")]
    Tool {
        /// The program.
        program: &'static str,
        /// The package that has it.
        package: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No source fits.
    #[error(
        "no apt source of this machine is {distribution}'s suite \"{suite}\"; add one to /etc/apt/sources.list.d (component \
         main) and run it again"
    )]
    NoSource {
        /// The distribution.
        distribution: String,
        /// The suite.
        suite: String,
    },
    /// The lists could not be read or are not signed.
    #[error("apt could not get the package lists: {reason}")]
    Update {
        /// What apt said.
        reason: String,
    },
    /// A package that is not there.
    #[error("the distribution has no package \"{package}\"; look for its name with: apt-cache search {package}")]
    UnknownPackage {
        /// Its name.
        package: String,
    },
    /// The packages could not be fetched.
    #[error("apt could not get the packages: {reason}")]
    Download {
        /// What apt said.
        reason: String,
    },
    /// Another command failed.
    #[error("{command} failed: {reason}")]
    Command {
        /// The command.
        command: &'static str,
        /// What it said.
        reason: String,
    },
    /// A package could not be unpacked.
    #[error("cannot unpack {package}: {reason}")]
    Unpack {
        /// The package's file.
        package: String,
        /// What was said.
        reason: String,
    },
    /// The request's suite or distribution is no name.
    #[error("\"{text}\" cannot be the name of a suite or distribution")]
    BadName {
        /// The text.
        text: String,
    },
    /// The packages' scripts did not run to their end.
    #[error("the packages in {root} are not configured; the configure command has to succeed before the image is made")]
    NotConfigured {
        /// The tree.
        root: PathBuf,
    },
    /// A file operation failed.
    #[error("cannot {operation} {path}")]
    File {
        /// What was done.
        operation: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The tree could not be read.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The store did not take the image.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// A tree of unpacked packages that wait to be configured.
#[derive(Debug)]
pub struct Prepared {
    request: Request,
    root: PathBuf,
    /// The newest file in the packages, in seconds since 1970.
    epoch: u64,
    /// The packages' file names, sorted.
    packages: Vec<String>,
}

/// Gets the packages and unpacks them below `work`, which must be empty or missing. `progress` hears what is being done.
///
/// Needs root, for the owners of the files.
///
/// # Errors
/// [`BootstrapError`]; `work` is the caller's to remove.
pub fn prepare(request: &Request, work: &Path, progress: &mut dyn FnMut(&str)) -> Result<Prepared, BootstrapError> {
    for text in [&request.distribution, &request.suite] {
        let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
        if text.is_empty() || !plain || text.starts_with('-') {
            return Err(BootstrapError::BadName { text: text.clone() });
        }
    }
    fs::create_dir_all(work).map_err(file_error("create", work))?;
    let work = fs::canonicalize(work).map_err(file_error("open", work))?;
    let root = work.join("root");
    fs::create_dir(&root).map_err(file_error("create", &root))?;
    apt::set_mode(&root, 0o755)?;
    let apt = Apt::new(&work.join("apt"))?;
    progress(&format!("reading the package lists of {} {}", request.distribution, request.suite));
    apt.update(request)?;
    progress("getting packages");
    let packages = apt.download(&request.include)?;
    progress(&format!("unpacking {} packages", packages.len()));
    merge_usr(&root, &apt.architecture)?;
    for package in &packages {
        unpack(package, &root)?;
    }
    let epoch = newest_file(&root)?;
    script::install(&root, &packages)?;
    let names = packages.iter().filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect();
    fs::remove_dir_all(work.join("apt")).map_err(file_error("remove", &work.join("apt")))?;
    Ok(Prepared { request: request.clone(), root, epoch, packages: names })
}

impl Prepared {
    /// The tree that the container gets as its root, writable.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The packages' file names, sorted.
    #[must_use]
    pub fn packages(&self) -> &[String] {
        &self.packages
    }

    /// What has to run inside a container with [`Prepared::root`] as its root, as user 0 and without a network. It needs
    /// `/proc` and `/dev/null`, and succeeds when every package is configured.
    #[must_use]
    pub fn configure_command(&self) -> Vec<String> {
        ["/bin/sh", script::PATH].map(str::to_owned).to_vec()
    }

    /// The variables that the command needs; it should get no others.
    #[must_use]
    pub fn configure_env(&self) -> Vec<(String, String)> {
        let fixed = [
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("HOME", "/root"),
            ("LC_ALL", "C.UTF-8"),
            ("TZ", "UTC"),
            ("DEBIAN_FRONTEND", "noninteractive"),
            ("DEBCONF_NONINTERACTIVE_SEEN", "true"),
            ("DPKG_MAINTSCRIPT_DEBUG", "0"),
            ("PYTHONHASHSEED", "0"),
        ];
        let mut env: Vec<_> = fixed.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        env.push(("SOURCE_DATE_EPOCH".to_owned(), self.epoch.to_string()));
        env
    }

    /// Makes the image, once the configure command has succeeded. The tree stays where it is, cleaned.
    ///
    /// # Errors
    /// [`BootstrapError::NotConfigured`], [`BootstrapError::File`], [`BootstrapError::Image`].
    pub fn finish(&self, store: &Store) -> Result<Image, BootstrapError> {
        clean::clean(&self.root, &self.request, self.epoch)?;
        let created = SystemTime::UNIX_EPOCH + Duration::from_secs(self.epoch);
        let mut options = ImportOptions {
            reference: Some(self.request.reference.clone()),
            created: Some(created),
            message: Some(format!("{} {} from its packages", self.request.distribution, self.request.suite)),
            ..ImportOptions::default()
        };
        let changes = &mut options.changes;
        changes.cmd = Some(vec!["bash".to_owned()]);
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        changes.env = vec![("PATH".to_owned(), path.to_owned())];
        for (name, value) in [
            ("insula.bootstrap.distribution", self.request.distribution.clone()),
            ("insula.bootstrap.suite", self.request.suite.clone()),
            ("insula.bootstrap.packages", self.packages.len().to_string()),
            ("org.opencontainers.image.created", import::rfc3339(created)),
        ] {
            changes.labels.insert(name.to_owned(), value);
        }
        Ok(export::import_tree(store, &self.root, self.epoch, options)?)
    }
}

/// Directories that are links into `/usr` before anything is unpacked, as every release since bookworm expects.
fn merge_usr(root: &Path, architecture: &str) -> Result<(), BootstrapError> {
    let more: &[&str] = match architecture {
        "amd64" => &["lib32", "lib64", "libx32"],
        "i386" => &["lib64", "libx32"],
        "ppc64el" | "loong64" | "mips64el" | "s390x" => &["lib64"],
        _ => &[],
    };
    for name in ["bin", "sbin", "lib"].iter().chain(more) {
        apt::folder(root, &format!("usr/{name}"))?;
        let link = root.join(name);
        symlink(format!("usr/{name}"), &link).map_err(file_error("create", &link))?;
    }
    Ok(())
}

/// Unpacks one package; links that stand for directories stay.
fn unpack(package: &Path, root: &Path) -> Result<(), BootstrapError> {
    let mut source = tool("dpkg-deb", "dpkg")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(missing("dpkg-deb", "dpkg"))?;
    let archive = source.stdout.take().map_or(Stdio::null(), Stdio::from);
    let target = tool("tar", "tar")
        .args(["--extract", "--file=-", "--preserve-permissions", "--same-owner", "--numeric-owner"])
        .args(["--keep-directory-symlink", "--xattrs", "--xattrs-include=*", "--warning=none", "--directory"])
        .arg(root)
        .stdin(archive)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(missing("tar", "tar"));
    let target = match target {
        Ok(target) => target,
        Err(error) => {
            drop(source.kill());
            drop(source.wait());
            return Err(error);
        }
    };
    let finish = |child: Child| {
        let output = child.wait_with_output().map_err(|error| error.to_string())?;
        if output.status.success() { Ok(()) } else { Err(apt::complaints(&output)) }
    };
    let (unpacked, read) = (finish(target), finish(source));
    read.and(unpacked)
        .map_err(|reason: String| BootstrapError::Unpack { package: package.display().to_string(), reason })
}

/// The time of the newest regular file below `root`.
fn newest_file(root: &Path) -> Result<u64, BootstrapError> {
    let mut newest = 0;
    let mut pending = vec![root.to_owned()];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(&folder).map_err(file_error("read", &folder))? {
            let entry = entry.map_err(file_error("read", &folder))?;
            let stat = entry.metadata().map_err(file_error("read", &folder))?;
            if stat.is_dir() {
                pending.push(entry.path());
            } else if stat.is_file() {
                newest = newest.max(u64::try_from(stat.mtime()).unwrap_or(0));
            }
        }
    }
    Ok(newest)
}
