//! Makes bundles: a complete configuration that tests change by JSON pointer.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::container::Container;
use crate::subject::{Run, Subject};

/// A folder with a `config.json` that is written when the bundle is used.
#[derive(Debug)]
pub(crate) struct Bundle<'a> {
    pub(crate) subject: &'a Subject,
    pub(crate) id: String,
    pub(crate) config: Value,
    /// More words between `run` or `create` and the id.
    pub(crate) flags: Vec<String>,
}

impl<'a> Bundle<'a> {
    pub(crate) fn new(subject: &'a Subject) -> Self {
        let id = subject.new_id();
        let config = base(&subject.rootfs().to_string_lossy(), &format!("{}/{id}", subject.group));
        Self { subject, id, config, flags: Vec::new() }
    }

    /// Sets the value at a JSON pointer, and makes the objects above it.
    pub(crate) fn set(mut self, pointer: &str, value: Value) -> Self {
        let mut at = &mut self.config;
        for word in pointer.trim_start_matches('/').split('/') {
            let word = word.replace("~1", "/");
            at = match word.parse::<usize>() {
                Ok(index) if at.is_array() => &mut at[index],
                _ => &mut at[word],
            };
        }
        *at = value;
        self
    }

    /// Removes the field at a JSON pointer.
    pub(crate) fn without(mut self, pointer: &str) -> Self {
        let (above, name) = pointer.rsplit_once('/').unwrap();
        let object = self.config.pointer_mut(above).unwrap().as_object_mut().unwrap();
        object.remove(name).unwrap_or_else(|| panic!("no {pointer} to remove"));
        self
    }

    /// Adds to the array at a JSON pointer, which is made if needed.
    pub(crate) fn push(mut self, pointer: &str, value: Value) -> Self {
        if self.config.pointer(pointer).is_none() {
            self = self.set(pointer, json!([]));
        }
        self.config.pointer_mut(pointer).unwrap().as_array_mut().unwrap().push(value);
        self
    }

    /// The program and its arguments.
    pub(crate) fn args(self, args: &[&str]) -> Self {
        self.set("/process/args", json!(args))
    }

    /// Runs a shell script.
    pub(crate) fn sh(self, script: &str) -> Self {
        self.args(&["sh", "-c", script])
    }

    /// Adds a mount with options.
    pub(crate) fn mount(self, kind: &str, source: &str, destination: &str, options: &[&str]) -> Self {
        let mount = json!({ "type": kind, "source": source, "destination": destination, "options": options });
        self.push("/mounts", mount)
    }

    /// Leaves out the mount at a destination.
    pub(crate) fn no_mount(mut self, destination: &str) -> Self {
        let mounts = self.config["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| mount["destination"] != destination);
        self
    }

    /// Adds a namespace.
    pub(crate) fn namespace(self, kind: &str) -> Self {
        self.push("/linux/namespaces", json!({ "type": kind }))
    }

    /// Leaves out a namespace.
    pub(crate) fn no_namespace(mut self, kind: &str) -> Self {
        let all = self.config["linux"]["namespaces"].as_array_mut().unwrap();
        all.retain(|namespace| namespace["type"] != kind);
        self
    }

    /// A user namespace whose ids start at `first` on the machine.
    pub(crate) fn user_namespace(self, first: u32) -> Self {
        let map = json!([{ "containerID": 0, "hostID": first, "size": 65536 }]);
        self.namespace("user").set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map)
    }

    /// The same capabilities in the four sets that matter for root.
    pub(crate) fn capabilities(self, names: &[&str]) -> Self {
        let set = json!(names);
        self.set("/process/capabilities", json!({ "bounding": set, "effective": set, "permitted": set }))
    }

    /// Another root file system.
    pub(crate) fn rootfs(self, path: &std::path::Path) -> Self {
        self.set("/root/path", json!(path))
    }

    /// More flags of `run` and `create`.
    pub(crate) fn flags(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(ToString::to_string));
        self
    }

    /// The bundle's folder.
    pub(crate) fn folder(&self) -> PathBuf {
        self.subject.island.path(&format!("bundle-{}", self.id))
    }

    /// Writes `config.json`.
    pub(crate) fn write(&self) -> PathBuf {
        self.write_text(&serde_json::to_string_pretty(&self.config).unwrap())
    }

    /// Writes any text as `config.json`.
    pub(crate) fn write_text(&self, text: &str) -> PathBuf {
        let folder = self.folder();
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("config.json"), text).unwrap();
        fs::set_permissions(folder.join("config.json"), fs::Permissions::from_mode(0o644)).unwrap();
        folder
    }

    /// The words that make a container of the bundle.
    pub(crate) fn words(&self, verb: &str) -> Vec<String> {
        let folder = self.write().to_string_lossy().into_owned();
        let mut words = vec![verb.to_owned(), "--bundle".to_owned(), folder];
        words.extend(self.flags.iter().cloned());
        words.push(self.id.clone());
        words
    }

    /// Runs the container in the foreground.
    pub(crate) fn run(&self) -> Run {
        let words = self.words("run");
        self.subject.call(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Runs the container, which must end well, and gives what it has printed.
    #[track_caller]
    pub(crate) fn out(&self) -> String {
        self.run().expect(0).text().to_owned()
    }

    /// Checks that the runtime does not run this: it must fail with a word, the program must not have run, and the
    /// name must be free afterwards.
    #[track_caller]
    pub(crate) fn refused(&self) -> Run {
        let run = self.run().fails();
        assert!(!run.out.contains("RAN"), "{} failed after the program ran", run.words);
        let state = self.subject.call(&["state", &self.id]);
        assert_ne!(state.code, 0, "a container is left of {}: {}", run.words, state.out);
        run
    }

    /// Makes the container; this gives the command's result, good or bad.
    pub(crate) fn try_create(&self) -> (Container<'a>, Run) {
        let words = self.words("create");
        let run = self.subject.call(&words.iter().map(String::as_str).collect::<Vec<_>>());
        (Container { subject: self.subject, id: self.id.clone(), group: self.group() }, run)
    }

    /// Makes the container.
    #[track_caller]
    pub(crate) fn create(&self) -> Container<'a> {
        let (container, run) = self.try_create();
        run.expect(0);
        container
    }

    /// Makes and starts the container.
    #[track_caller]
    pub(crate) fn start(&self) -> Container<'a> {
        let container = self.create();
        container.call("start", &[]).expect(0);
        container
    }

    /// The container's control group.
    pub(crate) fn group(&self) -> String {
        self.config["linux"]["cgroupsPath"].as_str().unwrap_or_default().to_owned()
    }
}

/// What `runc spec` gives, without the terminal and the mount of the control groups.
fn base(rootfs: &str, group: &str) -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mount = |kind: &str, source: &str, destination: &str, options: &[&str]| json!({ "type": kind, "source": source, "destination": destination, "options": options });
    json!({
        "ociVersion": "1.0.2",
        "root": { "path": rootfs },
        "hostname": "conf",
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "args": ["sh", "-c", "echo RAN"],
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities },
            "noNewPrivileges": true
        },
        "mounts": [
            { "type": "proc", "source": "proc", "destination": "/proc" },
            mount("tmpfs", "tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("devpts", "devpts", "/dev/pts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("tmpfs", "shm", "/dev/shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("mqueue", "mqueue", "/dev/mqueue", &["nosuid", "noexec", "nodev"]),
            mount("sysfs", "sysfs", "/sys", &["nosuid", "noexec", "nodev", "ro"])
        ],
        "linux": {
            "cgroupsPath": group,
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": [
                { "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }
            ]
        }
    })
}
