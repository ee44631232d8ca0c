//! The systemd driver in a user's own session, without privileges.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use testkit::wait_for;

use super::group_of;
use crate::bundle::Bundle;
use crate::subject::{Run, SOON, Subject, test};

/// The user that everything is run as.
const USER: u32 = 1000;

/// A command as the user, in the user's session.
fn call(s: &Subject, run: &str, words: &[&str]) -> Run {
    let home = s.island.dir("home");
    chown(&home, Some(USER), Some(USER)).unwrap();
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups"]).args(words);
    command.env("XDG_RUNTIME_DIR", run).env("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={run}/bus"));
    command.env("HOME", &home).env("USER", "user").current_dir(&home);
    s.finish(&mut command)
}

/// A container of a user's, and what is known of it.
struct Session<'a> {
    s: &'a Subject,
    run: String,
    bundle: Bundle<'a>,
    unit: String,
}

impl<'a> Session<'a> {
    fn new(s: &'a Subject) -> Self {
        let one = json!([{ "containerID": 0, "hostID": USER, "size": 1 }]);
        let bundle = s.sh("sleep 60").no_namespace("network").namespace("user").without("/linux/resources");
        let bundle = bundle.set("/linux/uidMappings", one.clone()).set("/linux/gidMappings", one);
        let bundle =
            bundle.no_mount("/sys").mount("none", "/sys", "/sys", &["rbind", "nosuid", "noexec", "nodev", "ro"]);
        let options = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
        let bundle = bundle.no_mount("/dev/pts").mount("devpts", "devpts", "/dev/pts", &options);
        let name = format!("{}-{}", s.group.trim_start_matches('/'), bundle.id);
        let bundle = bundle.set("/linux/cgroupsPath", json!(format!("user.slice:conf:{name}")));
        let limits = json!({ "memory": { "limit": 64 << 20 }, "pids": { "limit": 20 } });
        let bundle = bundle.set("/linux/resources", limits);
        for path in [s.rootfs(), s.rootfs().join("etc"), s.rootfs().join("tmp")] {
            chown(&path, Some(USER), Some(USER)).unwrap();
        }
        let folder = bundle.write();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
        // the user has logged in before the tests began
        Self { s, run: format!("/run/user/{USER}"), bundle, unit: format!("conf-{name}.scope") }
    }

    fn oci(&self, words: &[&str]) -> Run {
        let state = format!("{}/state", self.s.island.path("home").display());
        let program = self.s.program.display().to_string();
        call(self.s, &self.run, &[&[&*program, "--systemd-cgroup", "--root", &state], words].concat())
    }

    /// Makes and starts the container, and gives its control group.
    #[track_caller]
    fn start(&self) -> String {
        let (id, folder) = (&*self.bundle.id, self.bundle.folder().display().to_string());
        self.oci(&["create", "--bundle", &folder, id]).expect(0);
        self.oci(&["start", id]).expect(0);
        group_of(i32::try_from(self.state()["pid"].as_i64().unwrap()).unwrap())
    }

    #[track_caller]
    fn state(&self) -> Value {
        self.oci(&["state", &self.bundle.id]).expect(0).json()
    }

    /// Properties of the unit, as the user's systemd tells them.
    #[track_caller]
    fn show(&self, names: &str) -> String {
        call(self.s, &self.run, &["systemctl", "--user", "show", &self.unit, "--property", names]).expect(0).out
    }

    /// Ends and deletes the container, of which nothing is left then.
    #[track_caller]
    fn delete(&self, group: &str) {
        self.oci(&["kill", &self.bundle.id, "KILL"]).expect(0);
        let ended = wait_for(SOON, || (self.state()["status"] == "stopped").then_some(()));
        assert!(ended.is_some(), "{}", self.state());
        self.oci(&["delete", &self.bundle.id]).expect(0);
        let forgotten = wait_for(SOON, || self.show("LoadState").contains("not-found").then_some(()));
        assert!(forgotten.is_some(), "{}", self.show("LoadState,ActiveState"));
        assert!(!Path::new(&format!("/sys/fs/cgroup{group}")).exists());
    }
}

#[test]
#[ignore = "runs in a Debian"]
fn a_users_containers_are_in_the_users_session() {
    test(|s| {
        let own = Session::new(s);
        let group = own.start();
        let expect = format!("/user.slice/user-{USER}.slice/user@{USER}.service/user.slice/{}", own.unit);
        assert!(group.starts_with(&expect), "{group}");
        let told = own.show("MemoryMax,TasksMax,ActiveState");
        assert_eq!(told, "MemoryMax=67108864\nTasksMax=20\nActiveState=active\n");
        let read =
            |name: &str| std::fs::read_to_string(format!("/sys/fs/cgroup{group}/{name}")).unwrap().trim().to_owned();
        assert_eq!((read("memory.max"), read("pids.max")), ((64 << 20).to_string(), "20".to_owned()));
        let id = &*own.bundle.id;
        own.oci(&["update", "--pids-limit", "9", id]).expect(0);
        assert_eq!((read("pids.max"), own.show("TasksMax")), ("9".to_owned(), "TasksMax=9\n".to_owned()));
        own.oci(&["pause", id]).expect(0);
        assert_eq!(own.state()["status"], "paused");
        own.oci(&["resume", id]).expect(0);
        own.delete(&group);
    });
}

#[test]
#[ignore = "runs in a Debian"]
fn another_process_of_a_users_is_in_the_session_too() {
    test(|s| {
        let own = Session::new(s);
        let group = own.start();
        let text = own.oci(&["exec", &own.bundle.id, "cat", "/proc/self/cgroup"]).expect(0).text().to_owned();
        assert_eq!(text, format!("0::{group}"));
        own.delete(&group);
    });
}
