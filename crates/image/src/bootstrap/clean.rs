//! Takes out of a tree what tells when, where and how it was made.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::apt::{self, file_error, write};
use super::{BootstrapError, Request, script};

/// Files and folders that go.
const GONE: &[&str] = &[
    script::FOLDER,
    script::POLICY,
    "var/cache/ldconfig/aux-cache",
    "var/lib/dbus/machine-id",
    "var/lib/dpkg/lock",
    "var/lib/dpkg/lock-frontend",
    "var/lib/dpkg/triggers/Lock",
    "var/lib/systemd/random-seed",
    "var/lib/systemd/credential.secret",
    "etc/.pwd.lock",
    "etc/resolv.conf",
    "etc/hostname",
    "root/.bash_history",
];
/// Folders whose contents go.
const EMPTIED: &[&str] =
    &["var/lib/apt/lists", "var/cache/apt/archives", "var/log", "tmp", "var/tmp", "run", "dev", "proc", "sys"];
/// Files that stay, empty.
const BLANK: &[&str] = &["etc/machine-id", "var/lib/dpkg/available"];
/// Folders from which the copies that programs keep of older versions go, by the end of the name.
const BACKUPS: &[(&str, &[&str])] =
    &[("etc", &["-"]), ("var/lib/dpkg", &["-old"]), ("var/cache/debconf", &["-old"]), ("var/cache/apt", &[".bin"])];

/// Cleans the tree and writes the distribution's public sources into it.
pub(super) fn clean(root: &Path, request: &Request, epoch: u64) -> Result<(), BootstrapError> {
    let marker = root.join(script::DONE);
    let cleaned = !root.join(script::FOLDER).exists() && root.join("var/lib/dpkg/status").exists();
    if !marker.exists() && !cleaned {
        return Err(BootstrapError::NotConfigured { root: root.to_owned() });
    }
    for path in GONE {
        remove(&root.join(path))?;
    }
    for folder in EMPTIED {
        for path in entries(&root.join(folder))? {
            remove(&path)?;
        }
    }
    for (folder, ends) in BACKUPS {
        for path in entries(&root.join(folder))? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if ends.iter().any(|end| name.ends_with(end)) && path.is_file() {
                remove(&path)?;
            }
        }
    }
    for file in BLANK {
        let path = root.join(file);
        if path.is_file() {
            write(&path, "")?;
        }
    }
    // Every user's password counts as changed on the day of the newest package.
    let shadow = root.join("etc/shadow");
    if let Ok(text) = fs::read_to_string(&shadow) {
        write(&shadow, &with_change_day(&text, epoch / 86_400))?;
    }
    write_sources(root, request)
}

/// The third field of every line becomes `day`.
fn with_change_day(shadow: &str, day: u64) -> String {
    let mut out = String::new();
    for line in shadow.lines() {
        let mut fields: Vec<&str> = line.split(':').collect();
        let day = day.to_string();
        if let Some(field) = fields.get_mut(2) {
            *field = &day;
        }
        out.push_str(&fields.join(":"));
        out.push('\n');
    }
    out
}

/// The addresses that everybody can reach; whatever mirror this machine uses is its own business.
fn write_sources(root: &Path, request: &Request) -> Result<(), BootstrapError> {
    if !request.distribution.eq_ignore_ascii_case("debian") {
        return Ok(());
    }
    let suite = &request.suite;
    let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let mut text = format!(
        "Types: deb\nURIs: http://deb.debian.org/debian\nSuites: {suite} {suite}-updates\nComponents: main\n\
         Signed-By: {keyring}\n"
    );
    if suite != "sid" && suite != "unstable" {
        text.push_str(&format!(
            "\nTypes: deb\nURIs: http://deb.debian.org/debian-security\nSuites: {suite}-security\nComponents: main\n\
             Signed-By: {keyring}\n"
        ));
    } else {
        text = text.replace(&format!(" {suite}-updates"), "");
    }
    let folder = apt::folder(root, "etc/apt/sources.list.d")?;
    remove(&root.join("etc/apt/sources.list"))?;
    write(&folder.join("debian.sources"), &text)?;
    apt::set_mode(&folder.join("debian.sources"), 0o644)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, BootstrapError> {
    match fs::read_dir(folder) {
        Ok(list) => Ok(list.flatten().map(|entry| entry.path()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(file_error("read", folder)(error)),
    }
}

/// Removes a file, link or folder; links are not followed.
fn remove(path: &Path) -> Result<(), BootstrapError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(stat) if stat.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => Ok(()),
    };
    removed.map_err(file_error("remove", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn change_days_are_fixed() {
        assert_eq!(
            with_change_day("root:*:20001:0:99999:7:::\nx:!:1::::::\n", 19_000),
            "root:*:19000:0:99999:7:::\nx:!:19000::::::\n"
        );
    }
}
