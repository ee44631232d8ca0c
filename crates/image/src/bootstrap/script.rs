//! The script that configures the unpacked packages, and what it needs in the tree.
//!
//! The order is the one that a tree without any configured package allows: first the users and the base files, then what
//! maintainer scripts are written in, then everything at once.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::BootstrapError;
use super::apt::{self, file_error, write};

/// Where the script is in the tree.
pub(super) const PATH: &str = "/var/cache/insula-bootstrap/configure";
/// Its folder, with the packages.
pub(super) const FOLDER: &str = "var/cache/insula-bootstrap";
/// The file that the script leaves when all is done.
pub(super) const DONE: &str = "var/cache/insula-bootstrap/done";
/// Services do not start while packages are configured.
pub(super) const POLICY: &str = "usr/sbin/policy-rc.d";

const SCRIPT: &str = r#"#!/bin/sh
# Configures the packages beside this script. Runs inside a container whose root is the new tree.
set -e
cd /var/cache/insula-bootstrap
umask 022
options="--force-unsafe-io --force-depends --force-overwrite --force-confold --no-debsig"

one() {
	for package in "$1"_*.deb; do
		if [ -e "$package" ]; then dpkg $options --install "$package"; fi
	done
}

ln -sf mawk /usr/bin/awk
one base-passwd
one base-files
one dpkg
[ -e /etc/localtime ] || ln -s /usr/share/zoneinfo/UTC /etc/localtime
one libc6
one perl-base
rm -f /usr/bin/awk
one mawk
one debconf
dpkg $options --skip-same-version --unpack ./*.deb
# Some scripts need others' to have run; a second pass takes what the first had to leave.
dpkg $options --configure --pending || dpkg $options --configure --pending
unfinished=$(dpkg-query --show --showformat='${db:Status-Status} ${Package}\n' | grep -v '^installed ' || true)
if [ -n "$unfinished" ]; then
	echo "not configured: $unfinished" >&2
	exit 1
fi
: > done
"#;

/// Puts the script, the packages and an empty package database into the tree.
pub(super) fn install(root: &Path, packages: &[PathBuf]) -> Result<(), BootstrapError> {
    for folder in
        [FOLDER, "var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers", "var/lib/dpkg/alternatives"]
    {
        apt::folder(root, folder)?;
    }
    for file in ["var/lib/dpkg/status", "var/lib/dpkg/available"] {
        write(&root.join(file), "")?;
        apt::set_mode(&root.join(file), 0o644)?;
    }
    let shell = root.join("usr/bin/sh");
    if fs::symlink_metadata(&shell).is_err() {
        symlink("dash", &shell).map_err(file_error("create", &shell))?;
    }
    for package in packages {
        let name = package.file_name().unwrap_or_default();
        let to = root.join(FOLDER).join(name);
        fs::rename(package, &to)
            .or_else(|_| fs::copy(package, &to).map(|_| ()))
            .map_err(file_error("move", package))?;
    }
    write(&root.join(&PATH[1..]), SCRIPT)?;
    let policy = root.join(POLICY);
    write(&policy, "#!/bin/sh\nexit 101\n")?;
    apt::set_mode(&policy, 0o755)
}
