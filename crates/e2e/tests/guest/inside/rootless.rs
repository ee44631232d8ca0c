//! An unprivileged user who was given a group.

use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use crate::bundle::Bundle;
use crate::subject::{Run, SOON, Subject, test};

/// The user that everything is run as.
const USER: u32 = 65534;

/// Gives the user a group with its controllers, as systemd's `Delegate=` does.
fn delegate(s: &Subject) -> PathBuf {
    let group = s.group_folder("", &s.group);
    std::fs::create_dir(&group).unwrap();
    std::fs::write(group.join("cgroup.subtree_control"), "+cpu +memory +pids").unwrap();
    let own = group.join("user");
    std::fs::create_dir(&own).unwrap();
    chown(&own, Some(USER), Some(USER)).unwrap();
    for name in ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
        chown(own.join(name), Some(USER), Some(USER)).unwrap();
    }
    own
}

/// The runtime's command line as the user, from within the user's group: who moves a process needs both ends.
fn call(s: &Subject, own: &std::path::Path, words: &[&str]) -> Run {
    let home = s.island.dir("home");
    for path in [&home, &s.rootfs(), &s.rootfs().join("etc"), &s.rootfs().join("tmp")] {
        chown(path, Some(USER), Some(USER)).unwrap();
    }
    let login = own.join("login");
    if !login.exists() {
        std::fs::create_dir(&login).unwrap();
        for path in [login.clone(), login.join("cgroup.procs")] {
            chown(path, Some(USER), Some(USER)).unwrap();
        }
    }
    let script = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", login.display());
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &script, "sh", "/bin/setpriv", &format!("--reuid={USER}"), &format!("--regid={USER}")]);
    command.arg("--clear-groups").arg(&s.program).arg("--root").arg(home.join("state")).args(words);
    command.env("XDG_RUNTIME_DIR", &home).env("HOME", &home).current_dir(&home);
    s.finish(&mut command)
}

fn bundle<'a>(s: &'a Subject, script: &str) -> Bundle<'a> {
    let one = json!([{ "containerID": 0, "hostID": USER, "size": 1 }]);
    let bundle = s.sh(script).no_namespace("network").namespace("user").namespace("cgroup").without("/linux/resources");
    let bundle = bundle.set("/linux/cgroupsPath", json!(format!("{}/user/c", s.group)));
    let bundle = bundle.set("/linux/uidMappings", one.clone()).set("/linux/gidMappings", one);
    let bundle = bundle.no_mount("/sys").mount("none", "/sys", "/sys", &["rbind", "nosuid", "noexec", "nodev", "ro"]);
    let bundle = bundle.mount("cgroup", "cgroup", "/sys/fs/cgroup", &["nosuid", "noexec", "nodev", "ro"]);
    let options = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    bundle.no_mount("/dev/pts").mount("devpts", "devpts", "/dev/pts", &options)
}

#[test]
#[ignore = "runs in the guest"]
fn a_user_limits_containers_in_a_group_that_is_the_users() {
    test(|s| {
        let own = delegate(s);
        let resources = json!({ "memory": { "limit": 64 << 20 }, "pids": { "limit": 20 }, "cpu": { "shares": 1024 } });
        let bundle = bundle(s, "cat /sys/fs/cgroup/memory.max; cat /sys/fs/cgroup/pids.max; sleep 60");
        let bundle = bundle.set("/linux/resources", resources);
        let folder = bundle.write().display().to_string();
        let id = &*bundle.id;
        let state = || call(s, &own, &["state", id]).expect(0).json();
        call(s, &own, &["create", "--bundle", &folder, id]).expect(0);
        call(s, &own, &["start", id]).expect(0);
        let read = |name: &str| std::fs::read_to_string(own.join("c").join(name)).unwrap().trim().to_owned();
        assert_eq!((read("memory.max"), read("pids.max")), ((64 << 20).to_string(), "20".to_owned()));
        call(s, &own, &["exec", id, "true"]).expect(0);
        call(s, &own, &["update", "--pids-limit", "9", id]).expect(0);
        assert_eq!(read("pids.max"), "9");
        call(s, &own, &["pause", id]).expect(0);
        assert_eq!(state()["status"], "paused");
        call(s, &own, &["resume", id]).expect(0);
        let stats = call(s, &own, &["events", "--stats", id]).expect(0).json();
        assert_eq!(stats["data"]["pids"]["limit"], 9, "{stats}");
        call(s, &own, &["kill", id, "KILL"]).expect(0);
        let ended = testkit::wait_for(SOON, || (state()["status"] == "stopped").then_some(()));
        assert!(ended.is_some(), "{}", state());
        call(s, &own, &["delete", id]).expect(0);
        assert!(!own.join("c").exists());
        std::fs::remove_dir(own.join("login")).unwrap();
        std::fs::remove_dir(own).unwrap();
    });
}
