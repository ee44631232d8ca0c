//! Which capabilities a container's processes have.

use super::Host;
use crate::error::{EngineError, Result};
use crate::model::ContainerSpec;
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};
use std::str::FromStr;

/// The names, `CAP_CHOWN` and so on, in the kernel's order: the default set, plus what was added, less what was dropped.
///
/// # Errors
/// [`crate::ErrorClass::Invalid`] for a name that is no capability.
pub(crate) fn effective(spec: &ContainerSpec, host: &Host) -> Result<Vec<&'static str>> {
    let add = names(&spec.cap_add, "--cap-add")?;
    let drop = names(&spec.cap_drop, "--cap-drop")?;
    let all = |list: &Wanted| list.all || spec.privileged;
    let chosen = oci::caps::ALL.iter().copied().filter(|name| {
        let wanted = if all(&add) {
            host.capabilities.contains(name)
        } else {
            (!drop.all && oci::caps::DEFAULT.contains(name)) || add.names.contains(name)
        };
        wanted && (add.names.contains(name) || spec.privileged || !drop.names.contains(name)) && !(drop.all && add.all)
    });
    Ok(chosen.collect())
}

struct Wanted {
    all: bool,
    names: Vec<&'static str>,
}

fn names(given: &[String], flag: &str) -> Result<Wanted> {
    let mut wanted = Wanted { all: false, names: Vec::new() };
    for name in given {
        let upper = name.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if bare == "ALL" {
            wanted.all = true;
            continue;
        }
        let known = oci::caps::ALL.iter().find(|known| known.strip_prefix("CAP_") == Some(bare)).ok_or_else(|| {
            EngineError::invalid(format!(
                "{flag} {name}: no such capability; capabilities(7) lists them, for example NET_ADMIN"
            ))
        })?;
        wanted.names.push(known);
    }
    Ok(wanted)
}

/// The five sets: an unprivileged user has none effective until a program gives it some, as execve(2) rules.
pub(crate) fn sets(names: &[&'static str]) -> LinuxCapabilities {
    let all: Capabilities =
        names.iter().filter_map(|name| Capability::from_str(name.strip_prefix("CAP_")?).ok()).collect();
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(all.clone()))
        .set_permitted(Some(all.clone()))
        .set_effective(Some(all))
        .set_inheritable(Some(Capabilities::new()))
        .set_ambient(Some(Capabilities::new()));
    sets
}
