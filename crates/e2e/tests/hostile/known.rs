//! What the distribution's runtimes are known not to hold.

/// A runtime, a test, and why it fails there.
const KNOWN: &[(&str, &str, &str)] = &[];

/// Whether the runtime under test is known to fail here; prints the reason.
pub(crate) fn is_known(test: &str) -> bool {
    let name = testkit::bundle::runtime_name();
    let found = KNOWN.iter().find(|(runtime, known, _)| *runtime == name && *known == test);
    if let Some((runtime, _, why)) = found {
        println!("known: {runtime}, {test}: {why}");
    }
    found.is_some()
}
