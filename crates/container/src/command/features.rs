//! `features`: what this runtime can do, in the form of the specification's features.md.

use super::flags::{Command, Order, Parsed};
use super::{Context, Outcome, print};

pub(super) static COMMAND: Command = Command {
    name: "features",
    usage: "",
    about: "print what this runtime can do",
    flags: &[],
    order: Order::Mixed,
    arguments: (0, 0),
    failure_code: 1,
    run,
};

/// No host is asked: the document tells what the program knows, not what a kernel offers.
const FEATURES: &str = include_str!("features.json");

fn run(_: &Context, _: &Parsed) -> Outcome {
    print(FEATURES);
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::Features;

    #[test]
    fn the_document_is_of_the_specifications_form() {
        let features: Features = serde_json::from_str(FEATURES).unwrap();
        assert_eq!(features.oci_version_max(), super::super::SPECIFICATION);
        let linux = features.linux().as_ref().unwrap();
        let policy = linux.memory_policy().as_ref().unwrap();
        assert_eq!(policy.modes().as_ref().unwrap().len() + policy.flags().as_ref().unwrap().len(), 10);
        assert_eq!(linux.net_devices().as_ref().unwrap().enabled(), &Some(true));
        assert_eq!(features.hooks().as_ref().unwrap().len(), 6);
        let options = features.mount_options().as_ref().unwrap();
        assert!(options.is_sorted());
    }
}
