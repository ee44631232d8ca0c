//! What the distribution's runtimes are known not to hold.

/// A runtime, a test, and why it fails there.
const KNOWN: &[(&str, &str, &str)] = &[
    ("runc", "cve_2025_31133_masked_path_dev_null_swap", "versions before 1.2.8 mask with whatever /dev/null leads to"),
    ("runc", "cve_2025_31133_dev_null_race", "versions before 1.2.8 mask with whatever /dev/null leads to"),
    ("runc", "null", "a null pointer panic"),
    ("runc", "something after it", "is not looked at"),
];

/// Whether the runtime under test is known to fail here; prints the reason.
pub(crate) fn is_known(test: &str) -> bool {
    let name = testkit::bundle::runtime_name();
    let found = KNOWN.iter().find(|(runtime, known, _)| *runtime == name && *known == test);
    if let Some((runtime, _, why)) = found {
        println!("known: {runtime}, {test}: {why}");
    }
    found.is_some()
}
