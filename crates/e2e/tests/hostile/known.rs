//! What the distribution's runtimes are known not to hold.

/// A runtime, a test, and why it fails there.
const KNOWN: &[(&str, &str, &str)] = &[
    ("crun", "/", "an escaped NUL ends the string"),
    ("crun", "a string for a user", "is taken for 0"),
    ("crun", "cve_2019_16884_mount_over_proc", "is let through where no label is asked for"),
    ("crun", "cve_2024_21626_leaked_fd_cwd", "versions before 1.14.3 go where a descriptor leads"),
    ("crun", "cve_2025_31133_masked_path_dev_null_swap", "needs a /dev/null also where nothing is masked"),
    (
        "crun",
        "ids_that_are_paths_are_refused",
        "1.8.1 opens an absolute id as a path, and a removal removes what is there",
    ),
    ("crun", "thousands_of_mounts", "holds a descriptor open for each"),
    ("runc", "cve_2024_45310_mkdir_race", "versions before 1.1.14 make folders where a swapped link leads"),
    ("runc", "cve_2025_31133_masked_path_dev_null_swap", "versions before 1.2.8 mask with whatever /dev/null leads to"),
    ("runc", "cve_2025_31133_dev_null_race", "versions before 1.2.8 mask with whatever /dev/null leads to"),
    ("runc", "null", "a null pointer panic"),
    ("runc", "something after it", "is not looked at"),
];

/// Whether the runtime under test is known to fail here; prints the reason.
pub(crate) fn is_known(test: &str) -> bool {
    let name = testkit::bundle::runtime_name();
    let found = KNOWN
        .iter()
        .find(|(runtime, known, _)| *runtime == name && (*known == test || *known == "/" && test.starts_with('/')));
    if let Some((runtime, _, why)) = found {
        println!("known: {runtime}, {test}: {why}");
    }
    found.is_some()
}
