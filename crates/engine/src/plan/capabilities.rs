//! Which capabilities a container's processes have.

use super::Host;
use crate::error::{EngineError, Result};
use crate::model::ContainerSpec;
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};
use std::str::FromStr;

/// The names, `CAP_CHOWN` and so on, in the kernel's order: the default set, plus what was added, less what was dropped. A privileged
/// container has all that this host can give.
///
/// # Errors
/// [`crate::ErrorClass::Invalid`] for a name that is no capability.
pub(crate) fn effective(spec: &ContainerSpec, host: &Host) -> Result<Vec<&'static str>> {
    for (flag, given) in [("--cap-add", &spec.cap_add), ("--cap-drop", &spec.cap_drop)] {
        if let Some(name) = given.iter().find(|name| oci::caps::parse(name).is_err()) {
            let hint = "no such capability; capabilities(7) lists them, for example NET_ADMIN";
            return Err(EngineError::invalid(format!("{flag} {name}: {hint}")));
        }
    }
    if spec.privileged {
        return Ok(host.capabilities.clone());
    }
    oci::caps::adjust(&oci::caps::DEFAULT, &host.capabilities, (&spec.cap_add, &spec.cap_drop))
        .map_err(|error| EngineError::invalid(error.to_string()))
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
