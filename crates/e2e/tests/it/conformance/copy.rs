//! `docker cp` and its routes: both ways, every form of a path.

use crate::subject::{IMAGE, Kind, Run, Subject, finish};
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

struct Copies {
    subject: Subject,
}

impl Copies {
    fn start() -> Option<Self> {
        let subject = Subject::start()?;
        subject.docker_command(&[])?;
        Some(Self { subject })
    }

    fn cp(&self, words: &[&str]) -> Run {
        self.subject.docker(&[&["cp"][..], words].concat())
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.subject.island.path(name)).unwrap()
    }

    fn sh(&self, line: &str) -> String {
        self.subject.docker(&["exec", "box", "sh", "-c", line]).expect(0).text().to_owned()
    }
}

#[test]
fn files_go_both_ways_in_every_form() {
    let Some(copies) = Copies::start() else { return };
    let subject = &copies.subject;
    let here = subject.island.root().to_owned();
    fs::create_dir_all(here.join("src/sub")).unwrap();
    fs::write(here.join("src/one"), "1\n").unwrap();
    std::os::unix::fs::chown(here.join("src/one"), Some(12), Some(34)).unwrap();
    fs::write(here.join("src/sub/two"), "2\n").unwrap();
    symlink("one", here.join("src/link")).unwrap();
    let words = ["run", "-d", "--network", "none", "--name", "box", "-v", "data:/data", "-v", "fixed:/fixed:ro"];
    subject.docker(&[&words[..], &[IMAGE, "sleep", "1000"]].concat()).expect(0);
    // to a running one: a folder into a folder, its contents, a file under a new name, through a link of the container
    copies.sh("mkdir -p /in /deep/real && ln -s /deep/real /deep/door && ln -s /../../../etc /deep/out");
    copies.cp(&["src", "box:/in"]).expect(0);
    copies.cp(&["src/.", "box:/in/contents/"]).expect(0);
    copies.cp(&["src", "box:/in/renamed"]).expect(0);
    copies.cp(&["src/one", "box:in/uno"]).expect(0);
    copies.cp(&["src/one", "box:/deep/door"]).expect(0);
    copies.cp(&["src/one", "box:/deep/out/copied"]).expect(0);
    copies.cp(&["src/one", "box:/data/"]).expect(0);
    copies.cp(&["-L", "src/link", "box:/in/followed"]).expect(0);
    copies.cp(&["src/link", "box:/in/kept"]).expect(0);
    assert_eq!(
        copies.sh("cat /in/src/sub/two /in/contents/one /in/renamed/one /in/uno /deep/real/one /etc/copied /data/one"),
        "2\n1\n1\n1\n1\n1\n1"
    );
    assert_eq!(copies.sh("readlink /in/kept; cat /in/followed; readlink /in/src/link"), "one\n1\none");
    // what cannot be is said
    let fails = |words: &[&str], part: &str| {
        let run = copies.cp(words);
        assert!(run.code != 0 && run.err.contains(part), "{words:?}: {}", run.err);
    };
    fails(&["src/one", "box:/nowhere/"], "");
    fails(&["box:/nowhere", "."], "Could not find the file /nowhere in container box");
    fails(&["src", "box:/in/uno"], "cannot copy directory");
    fails(&["src/one", "box:/fixed/"], "read-only");
    fails(&["nothing:/x", "."], "No such container");
    // and back
    copies.sh("chmod 640 /in/uno");
    fs::create_dir(here.join("back")).unwrap();
    copies.cp(&["box:/in/src", "back"]).expect(0);
    copies.cp(&["box:/in/src/.", "back/contents"]).expect(0);
    copies.cp(&["box:/in/uno", "back/dos"]).expect(0);
    copies.cp(&["box:/etc/hostname", "back/"]).expect(0);
    copies.cp(&["-L", "box:/deep/door", "back/"]).expect(0);
    assert_eq!(
        copies.text("back/src/sub/two") + &copies.text("back/contents/one") + &copies.text("back/dos"),
        "2\n1\n1\n"
    );
    assert_eq!(fs::metadata(here.join("back/dos")).unwrap().mode() & 0o777, 0o640);
    assert_eq!(copies.text("back/hostname").trim().len(), 12);
    assert_eq!(copies.text("back/door/one"), "1\n");
    // as streams
    let tar = subject.docker_command(&["cp", "box:/in/uno", "-"]).unwrap().output().unwrap().stdout;
    let mut command = subject.docker_command(&["cp", "-", "box:/in/streamed"]).unwrap();
    copies.sh("mkdir /in/streamed");
    finish(&mut command, &tar).expect(0);
    assert_eq!(copies.sh("stat -c '%u:%g %a' /in/streamed/uno"), "12:34 640");
    stopped(&copies);
    if subject.kind == Kind::Insula {
        ours(&copies);
    }
    copies.subject.finish();
}

/// A container that does not run has the same files, those of its volumes included, and runs as before afterwards.
fn stopped(copies: &Copies) {
    let subject = &copies.subject;
    subject.docker(&["stop", "-t", "0", "box"]).expect(0);
    copies.cp(&["src/one", "box:/in/late"]).expect(0);
    copies.cp(&["src/one", "box:/data/late"]).expect(0);
    copies.cp(&["box:/data/late", "back/late"]).expect(0);
    assert_eq!(copies.text("back/late"), "1\n");
    subject.docker(&["start", "box"]).expect(0);
    assert_eq!(copies.sh("cat /in/late /data/late /in/src/one"), "1\n1\n1");
    // one that never ran, whose volume it fills
    subject
        .docker(&[
            "create",
            "--network",
            "none",
            "--name",
            "fresh",
            "-v",
            "data:/srv/deep",
            IMAGE,
            "cat",
            "/srv/deep/never",
        ])
        .expect(0);
    copies.cp(&["src/one", "fresh:/srv/deep/never"]).expect(0);
    assert_eq!(subject.docker(&["start", "-a", "fresh"]).expect(0).text(), "1");
}

/// The same by our own client, and in a container with ids of its own.
fn ours(copies: &Copies) {
    let subject = &copies.subject;
    let cp = |words: &[&str]| subject.insula(&[&["cp"][..], words].concat());
    let run = ["run", "-d", "--network", "none", "--name", "own", "--userns", "auto", "--user", "7:8"];
    subject.insula(&[&run[..], &[IMAGE, "sleep", "1000"]].concat()).expect(0);
    cp(&["src", "own:/tmp/"]).expect(0);
    cp(&["-a", "src/one", "own:/tmp/mine"]).expect(0);
    let seen =
        subject.insula(&["exec", "own", "stat", "-c", "%u:%g", "/tmp/src/sub", "/tmp/src/one", "/tmp/mine"]).expect(0);
    assert_eq!(seen.text(), "0:0\n12:34\n7:8");
    cp(&["own:/tmp/src/", "mirror"]).expect(0);
    assert_eq!(copies.text("mirror/sub/two"), "2\n");
    cp(&["box:/deep/door/.", "spread"]).expect(0);
    assert_eq!(copies.text("spread/one"), "1\n");
    let tar = subject.command(&["cp", "-q", "own:/tmp/mine", "-"]).output().unwrap().stdout;
    subject.insula_with(&["cp", "-", "box:/in"], &tar).expect(0);
    assert_eq!(copies.sh("stat -c '%u:%g' /in/mine"), "7:8");
    assert!(cp(&["src", "mirror"]).err.contains("at least one container"));
    assert!(cp(&["src/one", "own:/none/"]).err.contains("no such directory"));
    // links of the container lead nowhere here
    subject
        .insula(&[
            "exec",
            "--user",
            "0",
            "own",
            "sh",
            "-c",
            "mkdir /trap && ln -s /etc /trap/etc && ln -s ../../../.. /trap/up",
        ])
        .expect(0);
    cp(&["own:/trap", "."]).expect(0);
    assert!(fs::symlink_metadata(subject.island.path("trap/etc")).unwrap().is_symlink());
    subject.insula(&["rm", "-f", "own", "fresh"]).expect(0);
}
