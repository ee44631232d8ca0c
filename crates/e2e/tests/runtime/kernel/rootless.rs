//! Containers of an unprivileged user.

use std::os::unix::fs::chown;
use std::process::Command;

use serde_json::{Value, json};

use crate::bundle::Bundle;
use crate::machine::program_or_skip;
use crate::subject::{Run, Subject, test};

/// The user that everything is run as.
const USER: u32 = 65534;

/// A bundle such as `spec --rootless` makes it: no network, no resources, one id.
fn bundle<'a>(s: &'a Subject, script: &str) -> Bundle<'a> {
    let one = json!([{ "containerID": 0, "hostID": USER, "size": 1 }]);
    let bundle = s
        .sh(script)
        .no_namespace("network")
        .namespace("user")
        .without("/linux/resources")
        .without("/linux/cgroupsPath");
    let bundle = bundle.set("/linux/uidMappings", one.clone()).set("/linux/gidMappings", one);
    let bundle = bundle.no_mount("/sys").mount("none", "/sys", "/sys", &["rbind", "nosuid", "noexec", "nodev", "ro"]);
    let bundle = bundle.no_mount("/dev/pts");
    bundle.mount("devpts", "devpts", "/dev/pts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"])
}

/// The runtime's command line as the user.
fn command(s: &Subject, words: &[&str]) -> Option<Command> {
    let setpriv = program_or_skip("setpriv")?;
    let home = s.island.dir("home");
    for path in [&home, &s.rootfs(), &s.rootfs().join("etc"), &s.rootfs().join("tmp")] {
        chown(path, Some(USER), Some(USER)).unwrap();
    }
    let mut command = Command::new(setpriv);
    command.args([&format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups"]);
    command.arg(&s.program).arg("--root").arg(home.join("state")).args(words);
    command.env("XDG_RUNTIME_DIR", &home).env("HOME", &home).current_dir(&home);
    Some(command)
}

fn call(s: &Subject, words: &[&str]) -> Option<Run> {
    Some(s.finish(&mut command(s, words)?))
}

fn run(bundle: &Bundle) -> Option<Run> {
    let folder = bundle.write().display().to_string();
    call(bundle.subject, &["run", "--bundle", &folder, &bundle.id])
}

#[test]
fn a_user_runs_a_container() {
    test(|s| {
        let bundle = bundle(s, "id -u; id -g; echo x > /tmp/made; cat /proc/self/uid_map; cat /proc/self/setgroups");
        let Some(run) = run(&bundle) else { return };
        let run = run.expect(0);
        let words: Vec<&str> = run.text().split_whitespace().collect();
        assert_eq!(words, ["0", "0", "0", "65534", "1", "deny"]);
        let meta = std::fs::metadata(s.rootfs().join("tmp/made")).unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&meta), USER);
    });
}

#[test]
fn a_user_has_the_whole_life_of_a_container() {
    test(|s| {
        let bundle = bundle(s, "echo x > /tmp/started; sleep 60");
        let folder = bundle.write().display().to_string();
        let id = &*bundle.id;
        let Some(created) = call(s, &["create", "--bundle", &folder, id]) else { return };
        created.expect(0);
        let state = || call(s, &["state", id]).unwrap().expect(0).json();
        assert_eq!(state()["status"], "created");
        call(s, &["start", id]).unwrap().expect(0);
        assert_eq!(state()["status"], "running");
        assert_eq!(call(s, &["exec", id, "id", "-u"]).unwrap().expect(0).text(), "0");
        assert!(call(s, &["list", "-q"]).unwrap().expect(0).out.contains(id));
        call(s, &["kill", id, "KILL"]).unwrap().expect(0);
        let stopped = testkit::wait_for(crate::subject::SOON, || (state()["status"] == "stopped").then_some(()));
        assert!(stopped.is_some(), "{}", state());
        call(s, &["delete", id]).unwrap().expect(0);
        call(s, &["state", id]).unwrap().fails();
    });
}

#[test]
fn a_user_gets_further_ids_by_the_machines_leave() {
    test(|s| {
        if program_or_skip("newuidmap").is_none() {
            return;
        }
        // Over the machine's own, in this test's mounts only.
        for name in ["subuid", "subgid"] {
            let file = s.island.file(name, "nobody:200000:1000\n");
            let place = std::path::Path::new("/etc").join(name);
            if !place.exists() {
                return println!("skipped: no {}", place.display());
            }
            rustix::mount::mount_bind(&file, &place).unwrap();
        }
        let map: Value = json!([
            { "containerID": 0, "hostID": USER, "size": 1 }, { "containerID": 1, "hostID": 200_000, "size": 1000 }
        ]);
        let bundle = bundle(s, "id -u; id -g; cat /proc/self/uid_map");
        let bundle = bundle.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
        let bundle = bundle.set("/process/user", json!({ "uid": 5, "gid": 6 }));
        let ran = run(&bundle);
        for name in ["subuid", "subgid"] {
            rustix::mount::unmount(std::path::Path::new("/etc").join(name), rustix::mount::UnmountFlags::DETACH)
                .unwrap();
        }
        let Some(run) = ran else { return };
        let run = run.expect(0);
        let words: Vec<&str> = run.text().split_whitespace().collect();
        assert_eq!(words, ["5", "6", "0", "65534", "1", "1", "200000", "1000"]);
    });
}

#[test]
fn ids_that_the_user_was_not_given_are_refused() {
    test(|s| {
        let map = json!([{ "containerID": 0, "hostID": 0, "size": 1 }]);
        let bundle = bundle(s, "echo RAN").set("/linux/uidMappings", map);
        let Some(run) = run(&bundle) else { return };
        assert!(!run.fails().out.contains("RAN"));
    });
}

#[test]
fn a_user_without_a_user_namespace_is_refused() {
    test(|s| {
        let bundle =
            bundle(s, "echo RAN").no_namespace("user").without("/linux/uidMappings").without("/linux/gidMappings");
        let Some(run) = run(&bundle) else { return };
        assert!(!run.fails().out.contains("RAN"));
    });
}

#[test]
fn limits_that_a_user_can_not_set_are_refused_and_missing_groups_are_not() {
    test(|s| {
        let limited = bundle(s, "echo RAN").set("/linux/resources", json!({ "memory": { "limit": 64 << 20 } }));
        let Some(run) = run(&limited) else { return };
        assert!(!run.fails().out.contains("RAN"));
    });
}

#[test]
fn files_of_others_stay_closed() {
    test(|s| {
        use std::os::unix::fs::PermissionsExt as _;
        let secret = s.island.file("secret", "secret");
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
        let bundle = bundle(s, "cat /etc/secret || echo closed");
        let Some(run) = run(&bundle.mount("bind", secret.to_str().unwrap(), "/etc/secret", &["bind"])) else { return };
        assert!(!run.out.contains("secret\n") && !run.text().starts_with("secret"), "{run:?}");
    });
}
