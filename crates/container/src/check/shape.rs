//! Where the specification has an object, a list is no configuration.
//!
//! The derived structures take a list of their members' values for an object, and an empty list for one without members. Nobody
//! means that; what was written would be dropped without a word.

use serde_json::Value;

/// The objects of a configuration, by the names that lead to them; `[]` stands for each item of a list, `*` for each member. Sorted.
const OBJECTS: [&str; 53] = [
    "annotations",
    "hooks",
    "hooks.*[]",
    "linux",
    "linux.devices[]",
    "linux.gidMappings[]",
    "linux.intelRdt",
    "linux.memoryPolicy",
    "linux.namespaces[]",
    "linux.netDevices",
    "linux.netDevices.*",
    "linux.personality",
    "linux.resources",
    "linux.resources.blockIO",
    "linux.resources.blockIO.throttleReadBpsDevice[]",
    "linux.resources.blockIO.throttleReadIOPSDevice[]",
    "linux.resources.blockIO.throttleWriteBpsDevice[]",
    "linux.resources.blockIO.throttleWriteIOPSDevice[]",
    "linux.resources.blockIO.weightDevice[]",
    "linux.resources.cpu",
    "linux.resources.devices[]",
    "linux.resources.hugepageLimits[]",
    "linux.resources.memory",
    "linux.resources.network",
    "linux.resources.network.priorities[]",
    "linux.resources.pids",
    "linux.resources.rdma",
    "linux.resources.rdma.*",
    "linux.resources.unified",
    "linux.seccomp",
    "linux.seccomp.syscalls[]",
    "linux.seccomp.syscalls[].args[]",
    "linux.sysctl",
    "linux.timeOffsets",
    "linux.timeOffsets.*",
    "linux.uidMappings[]",
    "mounts[]",
    "mounts[].gidMappings[]",
    "mounts[].uidMappings[]",
    "process",
    "process.capabilities",
    "process.consoleSize",
    "process.execCPUAffinity",
    "process.ioPriority",
    "process.rlimits[]",
    "process.scheduler",
    "process.user",
    "root",
    "solaris",
    "vm",
    "windows",
    "zos",
    "zos.namespaces[]",
];

/// The first place of a configuration, or of the part of it that `within` names, where a list stands in place of an object.
///
/// Most texts are let through by a look at their brackets; only where one stands at an odd place is the text read.
pub(crate) fn odd_list(text: &[u8], within: &str) -> Option<String> {
    if !suspicious(text) {
        return None;
    }
    let value: Value = serde_json::from_slice(text).ok()?;
    if within.is_empty() && value.is_array() {
        return Some("the configuration".to_owned());
    }
    find(&value, within, within)
}

/// The lists of a configuration, by their own names. Sorted.
const LISTS: [&str; 35] = [
    "additionalGids",
    "ambient",
    "architectures",
    "args",
    "bounding",
    "createContainer",
    "createRuntime",
    "devices",
    "effective",
    "env",
    "flags",
    "gidMappings",
    "hugepageLimits",
    "inheritable",
    "maskedPaths",
    "mounts",
    "names",
    "namespaces",
    "options",
    "permitted",
    "poststart",
    "poststop",
    "prestart",
    "priorities",
    "readonlyPaths",
    "rlimits",
    "schemata",
    "startContainer",
    "syscalls",
    "throttleReadBpsDevice",
    "throttleReadIOPSDevice",
    "throttleWriteBpsDevice",
    "throttleWriteIOPSDevice",
    "uidMappings",
    "weightDevice",
];

/// Whether a list is somewhere else than behind the name of one. May be wrong about brackets in strings.
fn suspicious(text: &[u8]) -> bool {
    let mut rest = text;
    while let Some(at) = rest.iter().rposition(|byte| *byte == b'[') {
        let before = rest.get(..at).unwrap_or_default().trim_ascii_end();
        match before.split_last() {
            Some((b':', name)) if names_list(name.trim_ascii_end()) => rest = before,
            _ => return true,
        }
    }
    false
}

/// Whether text ends with the quoted name of one of [`LISTS`].
fn names_list(text: &[u8]) -> bool {
    let Some(text) = text.strip_suffix(b"\"") else { return false };
    let start = text.iter().rposition(|byte| *byte == b'"').map_or(0, |at| at + 1);
    let name = text.get(start..).unwrap_or_default();
    LISTS.binary_search_by(|list| list.as_bytes().cmp(name)).is_ok()
}

fn find(value: &Value, pattern: &str, shown: &str) -> Option<String> {
    let belongs = OBJECTS.contains(&pattern);
    match value {
        Value::Array(_) if belongs => Some(shown.to_owned()),
        Value::Array(items) => {
            let pattern = format!("{pattern}[]");
            let mut each = items.iter().enumerate();
            each.find_map(|(at, item)| find(item, &pattern, &format!("{shown}[{at}]")))
        }
        Value::Object(members) => members.iter().find_map(|(name, member)| {
            let below =
                |path: &str, name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
            let own = below(pattern, name);
            let any = below(pattern, "*");
            // of a name that is not known nothing below can be either
            let known = |pattern: &str| OBJECTS.iter().any(|object| object.starts_with(pattern));
            let pattern = if known(&own) { own } else { any };
            if known(&pattern) { find(member, &pattern, &below(shown, name)) } else { None }
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_sorted() {
        assert!(LISTS.is_sorted() && OBJECTS.is_sorted());
    }

    #[test]
    fn lists_in_place_of_objects_are_found() {
        let check = |text: &str| odd_list(text.as_bytes(), "");
        for (text, place) in [
            (r#"{"hooks": []}"#, "hooks"),
            (r#"{"hooks": {"poststop": [ ["/bin/true"] ]}}"#, "hooks.poststop[0]"),
            (r#"{"linux": {"resources" : []}}"#, "linux.resources"),
            (r#"{"linux": {"resources": {"rdma": {"mlx": [1, 2]}}}}"#, "linux.resources.rdma.mlx"),
            (r#"{"mounts": [{"destination": "/a"}, ["/a"]]}"#, "mounts[1]"),
            (
                r#"{"linux": {"seccomp": {"syscalls": [{"args": [[0, 1, "SCMP_CMP_EQ"]]}]}}}"#,
                "linux.seccomp.syscalls[0].args[0]",
            ),
            (r#"[1]"#, "the configuration"),
            (r#"{"h\u006foks": []}"#, "hooks"),
        ] {
            assert_eq!(check(text).as_deref(), Some(place), "{text}");
        }
        assert_eq!(odd_list(b"{\"memory\": []}", "linux.resources").as_deref(), Some("linux.resources.memory"));
    }

    #[test]
    fn lists_where_they_belong_and_what_is_not_known_are_let_through() {
        for text in [
            r#"{"mounts": [{"options": ["a[b"]}], "process": {"args": ["[", "\"root\": ["]}}"#,
            r#"{"unknown": [[1], {"root": []}], "hooks": {"prestart": []}}"#,
            r#"{"linux": {"unknown": {"resources": []}}}"#,
        ] {
            assert_eq!(odd_list(text.as_bytes(), ""), None, "{text}");
        }
    }
}
