//! The Dockerfiles of `corpus/dockerfiles`, which more than one crate tries. The folder's README says how the cases look.

use serde_json::{Map, Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// The fields of an image's configuration that a Dockerfile can set.
pub const CONFIG: [&str; 12] = [
    "Cmd",
    "Entrypoint",
    "Env",
    "ExposedPorts",
    "Healthcheck",
    "Labels",
    "OnBuild",
    "Shell",
    "StopSignal",
    "User",
    "Volumes",
    "WorkingDir",
];

/// Where the cases lie.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../corpus/dockerfiles")
}

/// The folders of the cases, sorted.
///
/// # Panics
/// If they cannot be read.
#[must_use]
pub fn folders() -> Vec<PathBuf> {
    let entries = fs::read_dir(root()).expect("the corpus can be read");
    let mut folders: Vec<_> = entries.map(|entry| entry.expect("an entry of the corpus").path()).collect();
    folders.retain(|path| path.is_dir());
    folders.sort();
    folders
}

/// The content of a file of JSON; an empty object where there is none.
///
/// # Panics
/// If it is no JSON.
#[must_use]
pub fn json_file(path: &Path) -> Value {
    fs::read(path).map_or_else(|_| json!({}), |bytes| serde_json::from_slice(&bytes).expect("a file of JSON"))
}

/// The texts of a list.
///
/// # Panics
/// If something else is in it.
#[must_use]
pub fn strings(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().map(|value| value.as_str().expect("a text")).collect()
}

/// Makes a case's context in the folder `context`, which is there: version control keeps neither modes nor empty folders, so its options
/// name them.
///
/// # Panics
/// If it cannot be made.
pub fn lay_out(case: &Path, options: &Value, context: &Path) {
    copy_tree(&case.join("context"), context);
    for path in strings(&options["directories"]) {
        fs::create_dir_all(context.join(path)).expect("a folder of the context");
    }
    for (path, mode) in options["modes"].as_object().into_iter().flatten() {
        let mode = mode.as_str().and_then(|mode| u32::from_str_radix(mode, 8).ok()).expect("a mode in octal");
        fs::set_permissions(context.join(path), fs::Permissions::from_mode(mode)).expect("a mode of the context");
    }
}

fn copy_tree(from: &Path, to: &Path) {
    let Ok(entries) = fs::read_dir(from) else { return };
    for entry in entries {
        let entry = entry.expect("an entry of the context");
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        let metadata = entry.metadata().expect("a file of the context");
        let mode = if metadata.is_dir() {
            fs::create_dir(&to).expect("a folder of the context");
            copy_tree(&from, &to);
            0o755
        } else if metadata.is_symlink() {
            symlink(fs::read_link(&from).expect("a link's target"), &to).expect("a link of the context");
            continue;
        } else {
            fs::copy(&from, &to).expect("a file of the context");
            if metadata.permissions().mode() & 0o100 == 0 { 0o644 } else { 0o755 }
        };
        fs::set_permissions(&to, fs::Permissions::from_mode(mode)).expect("a mode of the context");
    }
}

/// The configuration's fields that are not empty.
#[must_use]
pub fn config_facts(config: &Value) -> Value {
    let mut out = Map::new();
    for name in CONFIG {
        let mut value = config[name].clone();
        if let Some(labels) = value.as_object_mut() {
            labels.remove("io.buildah.version");
        }
        let empty = value.is_null()
            || value == ""
            || value.as_array().is_some_and(Vec::is_empty)
            || value.as_object().is_some_and(Map::is_empty);
        if !empty {
            out.insert(name.to_owned(), value);
        }
    }
    Value::Object(out)
}
