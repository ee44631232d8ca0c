//! Whether a bind may travel as it was asked to: mounts travel only from where they are shared.

use crate::error::{EngineError, Result};
use crate::model::Propagation;
use std::path::Path;

/// Checks that the mount that `source` is on is shared, or a slave, as `wanted` needs.
///
/// # Errors
/// [`crate::ErrorClass::Invalid`].
///
/// # Source
/// `mount_namespaces(7)`; `proc_pid_mountinfo(5)`, the optional fields.
pub(crate) fn check(source: &Path, wanted: Propagation) -> Result<()> {
    let needs_shared = match wanted {
        Propagation::Unsaid | Propagation::Private | Propagation::Rprivate => return Ok(()),
        Propagation::Shared | Propagation::Rshared => true,
        Propagation::Slave | Propagation::Rslave => false,
    };
    let failed = |error: std::io::Error| EngineError::internal("cannot look up the propagation of mounts", &error);
    let table = std::fs::read_to_string("/proc/self/mountinfo").map_err(failed)?;
    let source = source.canonicalize().map_err(failed)?;
    let Some((place, fields)) = mount_of(&table, &source) else { return Ok(()) };
    let shared = fields.iter().any(|field| field.starts_with("shared:"));
    let slave = fields.iter().any(|field| field.starts_with("master:"));
    if shared || (slave && !needs_shared) {
        return Ok(());
    }
    let kind = if needs_shared { "shared" } else { "shared or slave" };
    Err(EngineError::invalid(format!(
        "path {} is mounted on {place} but it is not a {kind} mount; make it one with: mount --make-rshared {place}",
        source.display()
    )))
}

/// The mount that a path is on: where it is, and its optional fields.
fn mount_of<'t>(table: &'t str, path: &Path) -> Option<(String, Vec<&'t str>)> {
    let lines = table.lines().filter_map(|line| {
        let (mount, _) = line.split_once(" - ")?;
        let fields: Vec<&str> = mount.split(' ').collect();
        let place = crate::explain::unescape(fields.get(4)?);
        path.starts_with(&place).then(|| (place, fields.get(6..).unwrap_or_default().to_vec()))
    });
    // the last of those that are as deep as the deepest lies on top
    lines.max_by_key(|(place, _)| place.trim_end_matches('/').len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_and_last_mount_counts() {
        let table = "1 0 8:1 / / rw shared:1 - ext4 /dev/sda rw\n\
                     2 1 8:2 / /mnt/a\\040b rw master:1 - ext4 /dev/sdb rw\n\
                     3 1 8:3 / /mnt/a\\040b rw - ext4 /dev/sdc rw\n";
        let fields = |path: &str| mount_of(table, Path::new(path)).unwrap();
        assert_eq!(fields("/mnt/x"), ("/".into(), vec!["shared:1"]));
        assert_eq!(fields("/mnt/a b/c"), ("/mnt/a b".into(), vec![]));
        assert_eq!(fields("/mnt/a bc").0, "/");
    }
}
