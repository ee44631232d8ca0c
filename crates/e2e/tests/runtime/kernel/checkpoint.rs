//! `checkpoint` and `restore`, where CRIU is installed and the kernel lets it.

use std::process::Command;

use crate::machine::program_or_skip;
use crate::subject::{Subject, test};

/// Whether CRIU works on this machine; prints why if not.
fn works_or_skip(s: &Subject) -> bool {
    let Some(criu) = program_or_skip("criu") else { return false };
    let run = s.finish(Command::new(criu).arg("check").current_dir(s.island.root()));
    if run.code != 0 {
        println!("skipped: criu check says: {}{}", run.out.trim(), run.err.trim());
    }
    run.code == 0
}

#[test]
fn a_container_goes_on_after_checkpoint_and_restore() {
    test(|s| {
        if !works_or_skip(s) {
            return;
        }
        let bundle = s.sh("i=0; while :; do i=$((i+1)); echo $i > /etc/count; sleep 0.05; done");
        let container = bundle.start();
        let file = s.rootfs().join("etc/count");
        container.await_file(&file);
        let images = s.island.dir("images").display().to_string();
        let run = container.call("checkpoint", &["--image-path", &images]);
        if run.code != 0 && run.err.contains("criu") {
            return println!("skipped: criu can't dump here: {}", run.err.trim());
        }
        run.expect(0);
        let count =
            || std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0);
        let before = count();
        let folder = bundle.folder().display().to_string();
        let words = ["restore", "--detach", "--image-path", &images, "--bundle", &folder, &bundle.id];
        s.call(&words).expect(0);
        let on = testkit::wait_for(crate::subject::SOON, || (count() > before).then_some(()));
        assert!(on.is_some(), "it stands at {before}");
        assert_eq!(container.status(), "running");
    });
}

#[test]
fn a_checkpoint_of_an_unknown_container_is_refused() {
    test(|s| {
        s.call(&["checkpoint", "--image-path", s.island.root().to_str().unwrap(), "nobody"]).fails();
    });
}

#[test]
fn a_restore_without_images_is_refused_and_leaves_nothing() {
    test(|s| {
        let bundle = s.sh("sleep 60");
        let folder = bundle.write().display().to_string();
        let images = s.island.dir("none").display().to_string();
        s.call(&["restore", "--detach", "--image-path", &images, "--bundle", &folder, &bundle.id]).fails();
        s.call(&["state", &bundle.id]).fails();
    });
}

#[test]
fn memory_written_down_before_is_named_from_the_images() {
    test(|s| {
        if program_or_skip("criu").is_none() {
            return;
        }
        let container = s.sh("sleep 60").start();
        let (images, before) = (s.island.dir("images"), s.island.dir("before").display().to_string());
        for parent in [before.as_str(), "../nothing"] {
            let words = ["--parent-path", parent, "--image-path", images.to_str().unwrap()];
            let run = container.call("checkpoint", &words).fails();
            assert!(run.err.contains("--parent-path"), "{parent}: {}", run.err);
        }
        assert_eq!(container.status(), "running");
    });
}
