//! Containers that share something with others, and images that come from elsewhere, of whichever subject is chosen.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use serde_json::Value;
use testkit::wait_for;

use crate::kernel::build_remote::Web;
use crate::kernel::compat::answer;
use crate::subject::{IMAGE, Kind, Run, SOON, Subject, image_tar, kind};

/// A container in the default network that sleeps.
fn sleeping(subject: &Subject, name: &str, options: &[&str]) {
    let words = [&["run", "-d", "--name", name][..], options, &[IMAGE, "sleep", "1000"]].concat();
    subject.docker(&words).expect(0);
}

/// What a program in a container that goes with its end says.
fn once(subject: &Subject, options: &[&str], script: &str) -> Run {
    let words = [&["run", "--rm", "--network", "none"][..], options, &[IMAGE, "sh", "-c", script]].concat();
    subject.docker(&words)
}

#[test]
fn memory_processes_and_names_are_shared() {
    let Some(subject) = Subject::start() else { return };
    if subject.docker_command(&[]).is_none() {
        return;
    }
    memory(&subject);
    processes(&subject);
    links(&subject);
    imports(&subject);
    refusals(&subject);
    subject.finish();
}

fn memory(subject: &Subject) {
    let size = "grep ' /dev/shm ' /proc/mounts";
    sleeping(subject, "donor", &["--network", "none", "--ipc", "shareable", "--shm-size", "8m"]);
    subject.docker(&["exec", "donor", "sh", "-c", "echo secret > /dev/shm/note"]).expect(0);
    sleeping(subject, "second", &["--network", "none", "--ipc", "container:donor"]);
    for who in ["donor", "second"] {
        let read = once(subject, &["--ipc", &format!("container:{who}")], "cat /dev/shm/note").expect(0);
        assert_eq!(read.out, "secret\n", "{who}");
    }
    // kept by its id, which stays when the name goes to another
    let id = subject.docker(&["inspect", "-f", "{{.Id}}", "donor"]).expect(0);
    let mode = subject.docker(&["inspect", "-f", "{{.HostConfig.IpcMode}}", "second"]).expect(0);
    assert_eq!(mode.text(), format!("container:{}", id.text()));
    let shown = subject.docker(&["exec", "second", "sh", "-c", size]).expect(0);
    assert!(shown.out.contains("size=8192k"), "{}", shown.out);
    let same = |name: &str| subject.docker(&["exec", name, "readlink", "/proc/self/ns/ipc"]).expect(0).out;
    assert_eq!(same("donor"), same("second"));
    // a new run has new memory
    subject.docker(&["rm", "-f", "second"]).expect(0);
    subject.docker(&["restart", "-t", "0", "donor"]).expect(0);
    let fresh = once(subject, &["--ipc", "container:donor"], "ls /dev/shm; echo > /dev/shm/mine").expect(0);
    assert_eq!(fresh.out, "");
    assert_eq!(subject.docker(&["exec", "donor", "ls", "/dev/shm"]).expect(0).out, "mine\n");
    sleeping(subject, "alone", &["--network", "none", "--ipc", "private"]);
    let refused = once(subject, &["--ipc", "container:alone"], "true");
    assert!(refused.code == 125 && refused.err.contains("non-shareable IPC"), "{}", refused.err);
    let gone = once(subject, &["--ipc", "container:nobody"], "true");
    assert!(gone.code == 125 && gone.err.contains("nobody"), "{}", gone.err);
    assert_eq!(once(subject, &["--ipc", "none"], size).out, "");
    let own = once(subject, &["--ipc", "private", "--shm-size", "4m"], size).expect(0);
    assert!(own.out.contains("size=4096k"), "{}", own.out);
    subject.docker(&["rm", "-f", "alone"]).expect(0);
}

fn processes(subject: &Subject) {
    let seen = once(subject, &["--pid", "container:donor"], "tr '\\0' ' ' < /proc/1/cmdline").expect(0);
    assert!(seen.out.contains("sleep 1000"), "{}", seen.out);
    let host = subject.docker(&["info", "-f", "{{.Name}}"]).expect(0);
    assert_eq!(once(subject, &["--uts", "host"], "cat /proc/sys/kernel/hostname").expect(0).out, host.out);
    let refused = once(subject, &["--uts", "host", "--hostname", "x"], "true");
    assert!(refused.err.contains("conflicting options: hostname and the UTS mode"), "{}", refused.err);
    subject.docker(&["rm", "-f", "donor"]).expect(0);
}

fn links(subject: &Subject) {
    for words in [&["--name", "parent"][..], &["--name", "child", "--link", "parent:p"]] {
        subject.docker(&[&["create"][..], words, &[IMAGE, "sleep", "1000"]].concat()).expect(0);
    }
    let refused = subject.docker(&["start", "child"]).expect(1);
    let words = "Cannot link to a non running container: /parent AS /child/p";
    assert!(refused.err.contains(words), "{}", refused.err);
    subject.docker(&["start", "parent", "child"]).expect(0);
    // another takes the address meanwhile
    subject.docker(&["stop", "-t", "0", "parent"]).expect(0);
    sleeping(subject, "between", &[]);
    subject.docker(&["start", "parent"]).expect(0);
    let line = || {
        let shown = subject.docker(&["inspect", "-f", "{{.NetworkSettings.IPAddress}}", "parent"]).expect(0);
        let hosts = subject.docker(&["exec", "child", "cat", "/etc/hosts"]).expect(0);
        hosts.out.contains(&format!("{}\tp ", shown.text())).then_some(())
    };
    let told = wait_for(SOON, line);
    assert!(told.is_some(), "{}", subject.docker(&["exec", "child", "cat", "/etc/hosts"]).out);
    subject.docker(&["rm", "-f", "parent", "child", "between"]).expect(0);
}

fn imports(subject: &Subject) {
    let tar = fs::read(image_tar()).unwrap();
    // it just ends, without the blocks of zeros that say so
    let end = tar.iter().rposition(|byte| *byte != 0).unwrap() / 512 * 512 + 512;
    fs::write(subject.island.path("cut.tar"), &tar[..end]).unwrap();
    let cut = subject.island.path("cut.tar").display().to_string();
    subject.docker(&["import", &cut, "cut:1"]).expect(0);
    // and goes away and comes back as it was
    let saved = subject.island.path("saved.tar").display().to_string();
    subject.docker(&["save", "-o", &saved, "cut:1"]).expect(0);
    subject.docker(&["rmi", "cut:1"]).expect(0);
    subject.docker(&["load", "-i", &saved]).expect(0);
    subject.docker(&["run", "--rm", "--network", "none", "cut:1", "true"]).expect(0);
    let web = Web::start(BTreeMap::from([("/root.tar", tar[..end].to_vec())]));
    let address = format!("{}/root.tar", web.address);
    let changes = ["-c", "ENV A=b", "-c", "ONBUILD RUN make", "-c", "HEALTHCHECK --interval=7s CMD true"];
    let words =
        [&["import", "-m", "by mail", "--platform", "linux/arm64"][..], &changes, &[&address, "far:1"]].concat();
    let told = subject.docker(&words).expect(0);
    assert!(told.out.contains(&format!("Downloading from {address}")), "{}", told.out);
    let form = "{{.Comment}} {{.Config.Env}} {{.Config.OnBuild}} {{.Config.Healthcheck}}";
    let shown = subject.docker(&["inspect", "-f", form, "far:1"]).expect(0);
    // the time before it counts and how often it is tried are nothing
    let expect = "by mail [A=b] [RUN make] {[CMD-SHELL true] 7s ";
    assert!(shown.text().starts_with(expect), "{}", shown.out);
    if kind() == Kind::Insula {
        // the oldest of the others has the machine's in any case
        let shown = subject.docker(&["inspect", "-f", "{{.Architecture}}", "far:1"]).expect(0);
        assert_eq!(shown.text(), "arm64");
    }
    let missing = subject.docker(&["import", &format!("{}/none", web.address), "none:1"]).expect(1);
    assert!(missing.err.contains("/none"), "{}", missing.err);
    sizes(subject);
    let on = ["commit", "--change", "ONBUILD /usr/bin/build --here", "--change", "HEALTHCHECK NONE"];
    sleeping(subject, "made", &["--network", "none"]);
    subject.docker(&[&on[..], &["made", "made:1"]].concat()).expect(0);
    let shown = subject.docker(&["inspect", "-f", "{{.Config.OnBuild}} {{.Config.Healthcheck.Test}}", "made:1"]);
    assert_eq!(shown.text(), "[/usr/bin/build --here] [NONE]");
    let refused = subject.docker(&["commit", "--change", "RUN make", "made", "made:2"]).expect(1);
    assert!(refused.err.contains("run is not a valid change command"), "{}", refused.err);
    subject.docker(&["rm", "-f", "made"]).expect(0);
    let all = subject.docker(&["run", "--rm", "-v", "/:/host", "--network", "none", IMAGE, "true"]);
    all.expect(0);
    let refused = subject.docker(&["create", "-v", "/:/host:private", IMAGE, "true"]).expect(1);
    assert!(refused.err.contains("must use either propagation mode"), "{}", refused.err);
}

/// What is wrong with a build from the start is an answer of its own.
fn refusals(subject: &Subject) {
    for (text, words) in
        [("", "cannot be empty"), ("\n\n", "file with no instructions"), ("# x", "file with no instructions")]
    {
        let mut stream = UnixStream::connect(subject.socket()).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let folder = subject.island.dir("refused");
        fs::write(folder.join("Dockerfile"), text).unwrap();
        let packed = std::process::Command::new("tar").args(["-cC"]).arg(&folder).arg("Dockerfile").output().unwrap();
        let head = format!(
            "POST /build HTTP/1.0\r\nHost: x\r\nContent-Type: application/x-tar\r\nContent-Length: {}\r\n\r\n",
            packed.stdout.len()
        );
        stream.write_all(&[head.as_bytes(), &packed.stdout].concat()).unwrap();
        let mut answer = Vec::new();
        // one that has seen enough may not read the rest, and closes on it
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.contains(" 400 ") && answer.contains(words), "{text:?}: {answer}");
    }
}

/// What two images have in common is told, and which images were there at a time.
fn sizes(subject: &Subject) {
    let list = |query: &str| answer(subject, "GET", &format!("/v1.41/images/json?{query}"), None).unwrap();
    let sizes = |query: &str| -> BTreeMap<String, i64> {
        let all = list(query);
        let line = |image: &Value| {
            image["RepoTags"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .next()
                .map(|name| (name, image["SharedSize"].as_i64().unwrap()))
        };
        all.as_array().unwrap().iter().filter_map(line).collect()
    };
    sleeping(subject, "base", &["--network", "none"]);
    subject.docker(&["exec", "base", "sh", "-c", "echo more > /more"]).expect(0);
    subject.docker(&["commit", "base", "grown:1"]).expect(0);
    subject.docker(&["rm", "-f", "base"]).expect(0);
    assert_eq!(sizes("")["grown:1"], -1);
    if kind() == Kind::Insula {
        // the oldest of the others has it only in what the disk is used for, and no such filter
        assert!(sizes("shared-size=1")["grown:1"] > 0, "{:?}", sizes("shared-size=1"));
        let old = sizes("filters=%7B%22until%22%3A%5B%221h%22%5D%7D");
        assert!(!old.contains_key("grown:1"), "{old:?}");
    }
    let used = answer(subject, "GET", "/v1.41/system/df", None).unwrap();
    let line = |image: &&Value| image["RepoTags"][0] == "grown:1";
    let grown = used["Images"].as_array().unwrap().iter().find(line).unwrap();
    let (shared, size) = (grown["SharedSize"].as_i64().unwrap(), grown["Size"].as_i64().unwrap());
    assert!(shared > 0 && shared < size, "{shared} of {size}");
}
