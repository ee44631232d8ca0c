//! Images that move: between stores, archives and registries, by our client and the stock ones.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use sha2::Digest as _;

use crate::peers::{Registry, docker, tool};
use crate::subject::{IMAGE, Kind, Run, Subject, finish, kind};

/// Whether the subject cannot reach a registry on this machine's loopback; prints the reason.
fn skip_without_loopback() -> bool {
    let skip = kind() == Kind::Dockerd;
    if skip {
        println!("skipped: dockerd runs in a network of its own here");
    }
    skip
}

/// All files in a folder with their digests.
fn content(folder: &Path) -> Vec<(String, String)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let digest = hex::encode(sha2::Sha256::digest(fs::read(&path).unwrap()));
            (path.file_name().unwrap().to_string_lossy().into_owned(), digest)
        })
        .collect();
    files.sort();
    files
}

fn json(run: Run) -> Value {
    serde_json::from_str(&run.expect(0).out).unwrap()
}

/// Makes an image of three layers out of the one that every subject has.
fn three_layers(subject: &Subject, name: &str) {
    subject.insula(&["run", "--name", "one", "--network", "none", IMAGE, "sh", "-c", "echo 1 > /one; rm -r /bin/true"]);
    subject.insula(&["commit", "one", "half:1"]).expect(0);
    let words = ["run", "--name", "two", "--network", "none", "half:1", "sh", "-c", "mkdir -p /d/e; echo 2 > /d/e/two"];
    subject.insula(&words).expect(0);
    subject.insula(&["commit", "-c", "ENV THREE=3", "-m", "a remark", "-a", "anna", "two", name]).expect(0);
    subject.insula(&["rm", "one", "two"]).expect(0);
}

#[test]
fn an_image_goes_to_a_registry_and_comes_back() {
    if skip_without_loopback() {
        return;
    }
    let Some(subject) = Subject::start() else { return };
    let registry = Registry::start(&subject, &[]);
    let name = registry.name("team/web:1");
    three_layers(&subject, &name);
    let id = docker(&subject, &["inspect", "-f", "{{.Id}}", &name]).expect(0).text().to_owned();
    let pushed = docker(&subject, &["push", &name]).expect(0);
    let digest = pushed.out.split_whitespace().find(|word| word.starts_with("sha256:")).unwrap().to_owned();
    assert_eq!(pushed.out.matches(": Pushed").count(), 3, "{}", pushed.out);
    let again = docker(&subject, &["push", &name]).expect(0);
    assert!(again.out.contains(&digest) && again.out.matches("Layer already exists").count() == 3, "{}", again.out);
    docker(&subject, &["rmi", &name, "half:1", IMAGE]).expect(0);
    assert_eq!(docker(&subject, &["images", "-q"]).expect(0).text(), "");
    let pulled = docker(&subject, &["pull", &name]).expect(0);
    assert_eq!(pulled.out.matches(": Pull complete").count(), 3, "{}", pulled.out);
    for word in ["1: Pulling from team/web", &digest, "Status: Downloaded newer image"] {
        assert!(pulled.out.contains(word), "{word} in {}", pulled.out);
    }
    assert_eq!(docker(&subject, &["inspect", "-f", "{{.Id}}", &name]).expect(0).text(), id);
    assert!(docker(&subject, &["pull", &name]).expect(0).out.contains("Status: Image is up to date"));
    let seen =
        subject.insula(&["run", "--rm", "--network", "none", &name, "sh", "-c", "cat /one /d/e/two; echo $THREE"]);
    assert_eq!(seen.expect(0).text(), "1\n2\n3");
    // By digest there is no tag; with the tag gone the image is found by its digest alone.
    let pinned = registry.name(&format!("team/web@{digest}"));
    docker(&subject, &["rmi", &name]).expect(0);
    docker(&subject, &["pull", &pinned]).expect(0);
    let listed = docker(&subject, &["images", "--digests", "--format", "{{.Tag}} {{.Digest}}"]).expect(0);
    assert_eq!(listed.text(), format!("<none> {digest}"));
    subject.insula(&["pull", "-q", &registry.name(&format!("team/web:1@{digest}"))]).expect(0);
    subject.insula(&["run", "--rm", "--network", "none", &pinned, "test", "-f", "/one"]).expect(0);
    assert!(docker(&subject, &["search", &registry.name("team")]).expect(0).out.contains("team/web"));
    let manifest = json(subject.insula(&["manifest", "inspect", &name]));
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 3);
    let missing = docker(&subject, &["pull", &registry.name("team/none:1")]).expect(1);
    assert!(missing.err.contains("manifest unknown"), "{}", missing.err);
    let missing = docker(&subject, &["push", &registry.name("team/none:1")]).expect(1);
    assert!(missing.err.contains("does not exist locally"), "{}", missing.err);
    docker(&subject, &["rmi", &pinned]).expect(0);
    let check = subject.insula(&["system", "check"]).expect(0);
    assert_eq!(check.text(), "all images are as they should be");
    drop(registry);
    subject.finish();
}

#[test]
fn copies_are_byte_identical() {
    if skip_without_loopback() {
        return;
    }
    let Some(subject) = Subject::start() else { return };
    let registry = Registry::start(&subject, &[]);
    let first = registry.name("first:1");
    three_layers(&subject, &first);
    docker(&subject, &["push", &first]).expect(0);
    for (number, how) in [
        &["--format", "v2s2"][..],
        &["--format", "oci"],
        &["--format", "oci", "--dest-compress-format", "zstd", "--dest-compress"],
    ]
    .iter()
    .enumerate()
    {
        // What another program made of it is what goes in.
        let (from, source) = (registry.name(&format!("in{number}:1")), format!("docker://{first}"));
        let target = format!("docker://{from}");
        let tls = ["--src-tls-verify=false", "--dest-tls-verify=false"];
        let Some(copied) = tool(&subject, "skopeo", &[&["copy"][..], &tls, how, &[&source, &target]].concat()) else {
            return;
        };
        copied.expect(0);
        let copy = |image: &str, folder: &str| {
            let (source, target) = (format!("docker://{image}"), format!("dir:{folder}"));
            tool(&subject, "skopeo", &["copy", tls[0], &source, &target]).unwrap().expect(0);
            content(&subject.island.path(folder))
        };
        let before = copy(&from, &format!("before{number}"));
        docker(&subject, &["rmi", "-f", &first]);
        docker(&subject, &["pull", &from]).expect(0);
        let out = registry.name(&format!("out{number}:1"));
        docker(&subject, &["tag", &from, &out]).expect(0);
        docker(&subject, &["push", &out]).expect(0);
        assert_eq!(copy(&out, &format!("after{number}")), before, "{how:?}");
        // The same by an archive, which another store takes.
        docker(&subject, &["save", "-o", &subject.island.path("saved.tar").display().to_string(), &out]).expect(0);
        docker(&subject, &["rmi", &from, &out]).expect(0);
        docker(&subject, &["load", "-i", &subject.island.path("saved.tar").display().to_string()]).expect(0);
        docker(&subject, &["push", &out]).expect(0);
        assert_eq!(copy(&out, &format!("loaded{number}")), before, "{how:?} by an archive");
        docker(&subject, &["rmi", &out]).expect(0);
    }
    drop(registry);
    subject.finish();
}

#[test]
fn other_stores_take_our_images_and_we_theirs() {
    if skip_without_loopback() {
        return;
    }
    let Some(subject) = Subject::start() else { return };
    let registry = Registry::start(&subject, &[]);
    let ours = registry.name("ours:1");
    three_layers(&subject, &ours);
    docker(&subject, &["push", &ours]).expect(0);
    let Some(pulled) = tool(&subject, "podman", &["pull", "--tls-verify=false", &ours]) else { return };
    pulled.expect(0);
    let podman = |words: &[&str]| tool(&subject, "podman", words).unwrap().expect(0);
    let theirs = registry.name("theirs:1");
    podman(&["tag", &ours, &theirs]);
    podman(&["push", "--tls-verify=false", &theirs]);
    for format in ["docker-archive", "oci-archive"] {
        let file = subject.island.path(&format!("{format}.tar")).display().to_string();
        podman(&["save", "--format", format, "-o", &file, &theirs]);
        subject.insula(&["load", "-i", &file]).expect(0);
        subject.insula(&["run", "--rm", "--network", "none", &theirs, "test", "-f", "/d/e/two"]).expect(0);
        subject.insula(&["rmi", &theirs]).expect(0);
    }
    docker(&subject, &["pull", &theirs]).expect(0);
    let seen = subject.insula(&["run", "--rm", "--network", "none", &theirs, "cat", "/d/e/two"]).expect(0);
    assert_eq!(seen.text(), "2");
    let file = subject.island.path("saved.tar").display().to_string();
    subject.insula(&["save", "-o", &file, &ours]).expect(0);
    podman(&["rmi", "-f", &ours, &theirs]);
    assert!(podman(&["load", "-i", &file]).out.contains("ours:1"));
    podman(&["rmi", "-af"]);
    drop(registry);
    subject.finish();
}

#[test]
fn a_container_becomes_an_image() {
    let Some(subject) = Subject::start() else { return };
    let script = "echo new > /new; rm -r /etc/passwd; mkdir /empty; sleep 1000";
    subject.background("box", &["-e", "A=1", "-w", "/tmp"], &["sh", "-c", script]);
    let changed = testkit::wait_for(crate::subject::SOON, || {
        let changes = docker(&subject, &["diff", "box"]).expect(0).out;
        changes.contains("A /empty").then_some(changes)
    });
    let changes = changed.unwrap();
    for line in ["C /etc", "D /etc/passwd", "A /new", "A /empty"] {
        assert!(changes.lines().any(|one| one == line), "{line} in {changes}");
    }
    let words =
        ["commit", "-m", "a remark", "-a", "anna", "-c", "ENV B=2", "-c", "CMD [\"cat\",\"/new\"]", "box", "made:1"];
    assert!(docker(&subject, &words).expect(0).out.starts_with("sha256:"));
    assert_eq!(subject.field("box", "{{.State.Status}}"), "running");
    let run = subject.insula(&["run", "--rm", "--network", "none", "made:1"]).expect(0);
    assert_eq!(run.text(), "new");
    let seen = subject.insula(&["run", "--rm", "--network", "none", "made:1", "sh", "-c", "echo $A $B; pwd; ls /etc"]);
    let seen = seen.expect(0).out;
    assert!(seen.starts_with("1 2\n/tmp\n") && !seen.contains("passwd"), "{seen}");
    let inspected = json(docker(&subject, &["inspect", "made:1"]));
    assert_eq!((&inspected[0]["Author"], &inspected[0]["Comment"]), (&"anna".into(), &"a remark".into()));
    let history = docker(&subject, &["history", "--no-trunc", "--format", "{{.CreatedBy}}", "made:1"]).expect(0).out;
    assert!(history.lines().count() >= 2 && history.contains("sleep 1000"), "{history}");
    let file = subject.island.path("export.tar").display().to_string();
    docker(&subject, &["export", "-o", &file, "box"]).expect(0);
    let listed = tool(&subject, "tar", &["-tf", &file]).unwrap().expect(0).out;
    let names: Vec<&str> = listed.lines().map(|line| line.trim_start_matches("./").trim_end_matches('/')).collect();
    assert!(names.contains(&"new") && names.contains(&"empty") && !names.contains(&"etc/passwd"), "{listed}");
    docker(&subject, &["rm", "-f", "box"]).expect(0);
    assert!(docker(&subject, &["rmi", "made:1"]).expect(0).out.contains("Untagged: made:1"));
    subject.finish();
}

#[test]
fn archives_hold_several_images() {
    let Some(subject) = Subject::start() else { return };
    subject.insula(&["tag", IMAGE, "b:2"]).expect(0);
    let words = ["run", "--name", "box", "--network", "none", IMAGE, "sh", "-c", "echo x > /x"];
    subject.insula(&words).expect(0);
    docker(&subject, &["commit", "box", "c:1"]).expect(0);
    docker(&subject, &["rm", "box"]).expect(0);
    let file = subject.island.path("saved.tar").display().to_string();
    docker(&subject, &["save", "-o", &file, IMAGE, "b:2", "c:1"]).expect(0);
    let id = docker(&subject, &["inspect", "-f", "{{.Id}}", "c:1"]).expect(0).text().to_owned();
    docker(&subject, &["rmi", "c:1", "b:2", IMAGE]).expect(0);
    let loaded = docker(&subject, &["load", "-i", &file]).expect(0).out;
    for name in [IMAGE, "b:2", "c:1"] {
        assert!(loaded.contains(&format!("Loaded image: {name}")), "{loaded}");
    }
    assert_eq!(docker(&subject, &["inspect", "-f", "{{.Id}}", "c:1"]).expect(0).text(), id);
    subject.insula(&["run", "--rm", "--network", "none", "c:1", "test", "-f", "/x"]).expect(0);
    let bad = subject.island.path("bad.tar");
    fs::write(&bad, b"this is no archive of images").unwrap();
    docker(&subject, &["load", "-i", &bad.display().to_string()]).expect(1);
    docker(&subject, &["save", "-o", &file, "none:1"]).expect(1);
    docker(&subject, &["rmi", "c:1", "b:2"]).expect(0);
    subject.finish();
}

#[test]
fn a_registry_with_a_password() {
    if skip_without_loopback() {
        return;
    }
    let Some(subject) = Subject::start() else { return };
    let users = subject.island.path("users");
    // anna, geheim
    fs::write(&users, "anna:$2b$04$y8kWk5zSF1b.G4mR4MkHRODKLfCuLaCz/ACcNW95jQm9XH6.5gkBu\n").unwrap();
    let registry = Registry::start(&subject, &["--htpasswd", users.to_str().unwrap()]);
    let name = registry.name("private:1");
    subject.insula(&["tag", IMAGE, &name]).expect(0);
    let refused = docker(&subject, &["push", &name]).expect(1);
    assert!(!refused.err.is_empty());
    let log_in = |words: &[&str], password: &[u8]| {
        let words = [&["login", "-u", "anna", "--password-stdin", &registry.address][..], words].concat();
        match subject.docker_command(&words) {
            Some(mut command) => finish(&mut command, password),
            None => subject.insula_with(&words, password),
        }
    };
    log_in(&[], b"falsch").expect(1);
    assert!(log_in(&[], b"geheim").expect(0).out.contains("Login Succeeded"));
    docker(&subject, &["push", &name]).expect(0);
    docker(&subject, &["rmi", &name]).expect(0);
    // What the stock client has stored is ours, and the reverse.
    subject.insula(&["pull", &name]).expect(0);
    subject.insula(&["logout", &registry.address]).expect(0);
    subject.insula(&["rmi", &name]).expect(0);
    subject.insula(&["pull", &name]).expect(1);
    let words = ["login", "-u", "anna", "--password-stdin", &registry.address];
    subject.insula_with(&words, b"falsch\n").expect(1);
    subject.insula_with(&words, b"geheim\n").expect(0);
    docker(&subject, &["pull", &name]).expect(0);
    docker(&subject, &["rmi", &name]).expect(0);
    drop(registry);
    subject.finish();
}

/// What the store's content takes, and what `system df` says of it.
fn room(subject: &Subject) -> (u64, String) {
    let blobs = fs::read_dir(subject.island.path("state/images/blobs/sha256")).unwrap();
    let bytes = blobs.map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    (
        bytes,
        subject
            .insula(&["system", "df", "--format", "{{.Type}} {{.Size}}"])
            .expect(0)
            .out
            .lines()
            .next()
            .unwrap()
            .to_owned(),
    )
}

#[test]
fn reduced_layers_go_out_as_they_came() {
    if crate::subject::skip_unless_insula() {
        return;
    }
    let Some(mut subject) = Subject::bare_with(|_| vec!["--reduce-after=2".to_owned()]) else { return };
    let registry = Registry::start(&subject, &[]);
    let first = registry.name("first:1");
    let context = subject.island.dir("context");
    fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY numbers /\nCOPY squares /\nCMD [\"/none\"]\n").unwrap();
    let lines = |of: &dyn Fn(u64) -> u64| (0..60_000).map(|number| format!("{}\n", of(number))).collect::<String>();
    fs::write(context.join("numbers"), lines(&|number| number)).unwrap();
    fs::write(context.join("squares"), lines(&|number| number * number)).unwrap();
    subject.insula(&["build", "-q", "-t", &first, context.to_str().unwrap()]).expect(0);
    subject.insula(&["push", "-q", &first]).expect(0);
    let tls = ["--src-tls-verify=false", "--dest-tls-verify=false"];
    let copy = |subject: &Subject, from: &str, to: &str| tool(subject, "skopeo", &["copy", tls[0], tls[1], from, to]);
    // Another program's compression is what comes in.
    let (from, out) = (registry.name("in:1"), registry.name("out:1"));
    let plain =
        tool(&subject, "skopeo", &["copy", tls[0], "--dest-decompress", &format!("docker://{first}"), "dir:plain"]);
    let Some(plain) = plain else { return };
    plain.expect(0);
    let there = format!("docker://{from}");
    copy(&subject, "dir:plain", &there).unwrap().expect(0);
    copy(&subject, &there, "dir:before").unwrap().expect(0);
    let before = content(&subject.island.path("before"));
    subject.insula(&["rmi", "-f", &first]).expect(0);
    subject.insula(&["pull", "-q", &from]).expect(0);
    let whole = room(&subject);
    let parts = |subject: &Subject| {
        let blobs = fs::read_dir(subject.island.path("state/images/blobs/sha256")).unwrap();
        blobs.filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|kind| kind == "parts")).count()
    };
    let reduced = testkit::wait_for(Duration::from_secs(60), || (parts(&subject) == 2).then_some(()));
    assert!(reduced.is_some(), "{} of 2 layers are reduced", parts(&subject));
    // What the parts stand for goes a moment after they have come.
    let smaller = |less: &(u64, String)| less.0 * 4 < whole.0 && less.1 != whole.1;
    let less = testkit::wait_for(Duration::from_secs(60), || Some(room(&subject)).filter(smaller));
    assert!(less.is_some(), "{whole:?}, then {:?}", room(&subject));
    // What has gone and comes again is as good as new.
    subject.insula(&["rmi", &from]).expect(0);
    subject.insula(&["pull", "-q", &from]).expect(0);
    let less = testkit::wait_for(Duration::from_secs(60), || Some(room(&subject)).filter(smaller));
    assert!(less.is_some(), "{whole:?}, then {:?}", room(&subject));
    // Also by a daemon that did not see it happen.
    subject.end_daemon(Signal::KILL);
    subject.start_daemon();
    assert_eq!(subject.insula(&["system", "check"]).expect(0).text(), "all images are as they should be");
    subject.insula(&["tag", &from, &out]).expect(0);
    subject.insula(&["push", "-q", &out]).expect(0);
    copy(&subject, &format!("docker://{out}"), "dir:after").unwrap().expect(0);
    assert_eq!(content(&subject.island.path("after")), before);
    let saved = subject.island.path("saved.tar").display().to_string();
    subject.insula(&["save", "-o", &saved, &out]).expect(0);
    copy(&subject, &format!("oci-archive:{saved}"), "dir:saved").unwrap().expect(0);
    assert_eq!(content(&subject.island.path("saved")), before);
    drop(registry);
    subject.finish();
}
