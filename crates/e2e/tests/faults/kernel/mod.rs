mod errors;
mod kills;
mod point;
mod scenario;

use scenario::Scenario;
use testkit::bundle;

/// The reference programs of the distribution are not held to this: each leaves something behind at some step.
fn skip_reference() -> bool {
    let name = bundle::runtime_name();
    let reference = matches!(name.as_str(), "runc" | "crun");
    if reference {
        println!(
            "known: {name}: killed or failing in the middle of create, it leaves groups or its state folder behind"
        );
    }
    reference
}

/// Opens the stage for one scenario, unless the test is to be skipped.
fn open(name: &'static str) -> Option<Scenario> {
    if skip_reference() { None } else { Scenario::open(name) }
}
