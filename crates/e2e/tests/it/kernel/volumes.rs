//! Volumes and mounts, as users of Docker know them.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::subject::{IMAGE, Run, SOON, Subject, finish, skip_unless_insula};
use testkit::{rootfs, wait_for};

/// An image whose folder `/seed` has files with owners, modes, links and attributes.
const SEEDED: &str = "seeded:1";

/// Makes the image, of two layers, which has a volume at `/kept`, too.
fn seeded() -> Option<Subject> {
    let subject = Subject::bare()?;
    let tree = subject.island.dir("tree");
    rootfs::host_tree(&tree);
    for folder in ["seed/deep", "kept", "bare"] {
        fs::create_dir_all(tree.join(folder)).unwrap();
    }
    fs::write(tree.join("seed/deep/one"), "one\n").unwrap();
    fs::hard_link(tree.join("seed/deep/one"), tree.join("seed/two")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", tree.join("seed/link")).unwrap();
    for (folder, owner, mode) in [("seed", (1000, 1001), 0o1770), ("bare", (7, 7), 0o700)] {
        chown(tree.join(folder), Some(owner.0), Some(owner.1)).unwrap();
        fs::set_permissions(tree.join(folder), fs::Permissions::from_mode(mode)).unwrap();
    }
    let tar = subject.island.path("seed.tar");
    let packed = finish(Command::new("tar").arg("-cf").arg(&tar).arg("-C").arg(&tree).arg("."), b"");
    packed.expect(0);
    subject.insula(&["import", tar.to_str().unwrap(), IMAGE]).expect(0);
    subject.background("seed", &[], &["sh", "-c", "mknod /seed/pipe p && echo kept >/kept/file"]);
    assert_eq!(subject.insula(&["wait", "seed"]).expect(0).text(), "0");
    subject.insula(&["commit", "-c", "VOLUME /kept", "seed", SEEDED]).expect(0);
    subject.insula(&["rm", "seed"]).expect(0);
    Some(subject)
}

/// Runs a throw-away container of the seeded image.
fn once(subject: &Subject, options: &[&str], script: &str) -> Run {
    subject.insula(&[&["run", "--rm", "--network", "none"][..], options, &[SEEDED, "sh", "-c", script]].concat())
}

fn mountpoint(subject: &Subject, volume: &str) -> PathBuf {
    let run = subject.insula(&["volume", "inspect", "-f", "{{.Mountpoint}}", volume]).expect(0);
    // as the daemon sees it, which may have a mount namespace of its own
    let root = format!("/proc/{}/root", subject.daemon_pid().as_raw_nonzero());
    Path::new(&root).join(run.text().trim_start_matches('/'))
}

#[test]
fn a_volume_is_filled_shared_and_kept() {
    let Some(subject) = seeded() else { return };
    let run = |words: &[&str], code: i32| subject.insula(words).expect(code);
    // filled on first use, with everything that the image has there
    let seen = "stat -c '%u:%g %a' /d ; stat -c %h /d/two; cat /d/deep/one; readlink /d/link; stat -c %F /d/pipe";
    let filled = once(
        &subject,
        &["-v", "data:/seed"],
        &seen.replace("/d ", "/seed ").replace("/d;", "/seed;").replace("/d/", "/seed/"),
    )
    .expect(0);
    assert_eq!(filled.out, "1000:1001 1770\n2\none\n/etc/passwd\nfifo\n");
    // and not again
    once(&subject, &["-v", "data:/seed"], "rm -r /seed/deep && echo changed >/seed/two").expect(0);
    assert_eq!(
        once(&subject, &["-v", "data:/other"], "cat /other/two; ls /other").expect(0).out,
        "changed\nlink\npipe\ntwo\n"
    );
    assert_eq!(once(&subject, &["-v", "plain:/seed:nocopy"], "ls -A /seed").expect(0).out, "");
    assert_eq!(once(&subject, &["-v", "bare:/bare"], "stat -c '%u:%g %a' /bare").expect(0).text(), "7:7 700");
    let mount = "type=volume,src=labelled,dst=/x,readonly,volume-label=tier=gold";
    once(&subject, &["--mount", mount], "touch /x/y").expect(1);
    assert_eq!(run(&["volume", "ls", "-q", "-f", "label=tier=gold"], 0).text(), "labelled");
    // two containers at once
    subject.background("one", &["-v", "data:/d"], &["sh", "-c", "until [ -e /d/sign ]; do sleep 0.05; done"]);
    subject.background("two", &["-v", "data:/d:ro"], &["sleep", "100"]);
    let refused = run(&["volume", "rm", "data"], 1);
    assert!(refused.err.contains("volume is in use - ["), "{}", refused.err);
    run(&["exec", "two", "touch", "/d/sign"], 1);
    once(&subject, &["-v", "data:/d"], "touch /d/sign").expect(0);
    assert_eq!(run(&["wait", "one"], 0).text(), "0");
    assert_eq!(run(&["volume", "ls", "-q", "-f", "dangling=true"], 0).text(), "bare\nlabelled\nplain");
    run(&["rm", "-f", "one", "two"], 0);
    // volumes that nobody named go with --rm and with rm -v
    run(&["run", "--network", "none", "--name", "kept", SEEDED, "cat", "/kept/file"], 0);
    let name = subject.field("kept", "{{range .Mounts}}{{.Name}}{{end}}");
    assert_eq!(fs::read_to_string(mountpoint(&subject, &name).join("file")).unwrap(), "kept\n");
    run(&["rm", "-v", "kept"], 0);
    assert!(run(&["volume", "inspect", &name], 1).err.contains(&name));
    // removal, and its words
    run(&["volume", "create", "--label", "a=b", "made"], 0);
    assert_eq!(run(&["volume", "create"], 0).text().len(), 64);
    assert!(run(&["volume", "create", "bad/name"], 1).err.contains("includes invalid characters"));
    assert!(run(&["volume", "create", "-d", "nope", "other"], 1).err.contains("plugin \"nope\" not found"));
    assert!(run(&["volume", "rm", "nope"], 1).err.contains("get nope: no such volume"));
    let place = mountpoint(&subject, "data");
    run(&["volume", "rm", "data", "made"], 0);
    assert!(wait_for(SOON, || (!place.exists()).then_some(())).is_some(), "the files stay");
    let events =
        run(&["events", "--since", "5m", "--until", "0s", "--filter", "volume=data", "--format", "{{.Action}}"], 0);
    for action in ["create", "mount", "unmount", "destroy"] {
        assert!(events.out.lines().any(|line| line == action), "{action} in {}", events.out);
    }
    subject.finish();
}

#[test]
fn the_local_driver_mounts_what_its_options_name() {
    let Some(subject) = seeded() else { return };
    let run = |words: &[&str], code: i32| subject.insula(words).expect(code);
    let create = |options: &[&str], code: i32| run(&[&["volume", "create"][..], options].concat(), code);
    assert!(create(&["-o", "foo=bar", "xx"], 1).err.contains("invalid option: \"foo\""));
    assert!(create(&["-o", "type=tmpfs", "xx"], 1).err.contains("missing required option: \"device\""));
    create(&["-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m,uid=5", "memory"], 0);
    let full =
        once(&subject, &["-v", "memory:/m"], "stat -f -c %T /m; stat -c %u /m; dd if=/dev/zero of=/m/x bs=1M count=2");
    assert_eq!(full.expect(1).out, "tmpfs\n5\n");
    let folder = subject.island.dir("folder");
    let device = format!("device={}", folder.display());
    create(&["-o", "type=none", "-o", &device, "-o", "o=bind", "bound"], 0);
    once(&subject, &["-v", "bound:/b"], "echo here >/b/file").expect(0);
    assert_eq!(fs::read_to_string(folder.join("file")).unwrap(), "here\n");
    // it stays while somebody has it
    subject.background("user", &["-v", "bound:/b"], &["sleep", "100"]);
    once(&subject, &["-v", "bound:/b"], "true").expect(0);
    assert!(mountpoint(&subject, "bound").join("file").exists());
    run(&["rm", "-f", "user"], 0);
    let gone = wait_for(SOON, || (!mountpoint(&subject, "bound").join("file").exists()).then_some(()));
    assert!(gone.is_some(), "it stays mounted");
    create(&["-o", "type=nfs", "-o", "device=:/nowhere", "-o", "o=addr=127.0.0.1,soft,timeo=1,retrans=0", "far"], 0);
    let refused = once(&subject, &["-v", "far:/f"], "true").expect(125);
    assert!(refused.err.contains("failed to mount local volume"), "{}", refused.err);
    run(&["volume", "rm", "memory", "bound", "far"], 0);
    assert!(folder.join("file").exists(), "what was bound is not the volume's to delete");
    subject.finish();
}

#[test]
fn mounts_have_parts_and_depths() {
    if skip_unless_insula() {
        return;
    }
    let Some(subject) = seeded() else { return };
    once(&subject, &["-v", "data:/seed"], "ln -s /etc /seed/out && mkdir -p /seed/in/side && touch /seed/in/side/x")
        .expect(0);
    let part = |subpath: &str| format!("type=volume,src=data,dst=/p,volume-subpath={subpath}");
    assert_eq!(once(&subject, &["--mount", &part("in/side")], "ls /p").expect(0).text(), "x");
    assert_eq!(once(&subject, &["--mount", &part("deep/one")], "cat /p").expect(0).text(), "one");
    // as Docker's client: a path that is missing is told by another code
    for (bad, code) in [("out", 125), ("missing", 127), ("../x", 125), ("/etc", 125)] {
        once(&subject, &["--mount", &part(bad)], "true").expect(code);
    }
    let image = format!("type=image,src={SEEDED},dst=/i,image-subpath=seed");
    let shown = once(&subject, &["--mount", &image], "cat /i/two; touch /i/no").expect(1);
    assert_eq!(shown.out, "one\n");
    let whole = format!("type=image,src={IMAGE},dst=/i");
    once(&subject, &["--mount", &whole], "test -d /i/etc && ! test -e /i/seed/pipe").expect(0);
    // read-only reaches what is mounted below, unless it is told not to
    let outer = subject.island.dir("outer/inner");
    let tmpfs = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", &outer, "tmpfs", tmpfs, None).unwrap();
    let source = outer.parent().unwrap().display().to_string();
    let bind = |more: &str| format!("type=bind,src={source},dst=/o,{more}");
    once(&subject, &["--mount", &bind("readonly")], "touch /o/inner/x").expect(1);
    once(&subject, &["-v", &format!("{source}:/o:ro")], "touch /o/inner/x").expect(1);
    once(&subject, &["--mount", &bind("readonly,bind-recursive=writable")], "touch /o/x").expect(1);
    once(&subject, &["--mount", &bind("readonly,bind-recursive=writable")], "touch /o/inner/x").expect(0);
    once(&subject, &["--mount", &bind("readonly,bind-recursive=readonly")], "touch /o/inner/x").expect(1);
    once(&subject, &["--mount", &bind("bind-recursive=disabled")], "test -e /o/inner/x").expect(1);
    rustix::mount::unmount(&outer, rustix::mount::UnmountFlags::empty()).unwrap();
    // what has a name is never swept along
    let unnamed = subject.insula(&["volume", "create"]).expect(0).text().to_owned();
    let swept = subject.insula(&["system", "prune", "--volumes", "-f"]).expect(0);
    assert!(swept.out.contains(&unnamed), "{}", swept.out);
    assert_eq!(subject.insula(&["volume", "ls", "-q"]).expect(0).text(), "data");
    subject.finish();
}

#[test]
fn a_backup_brings_everything_back() {
    if skip_unless_insula() {
        return;
    }
    let Some(mut subject) = seeded() else { return };
    once(&subject, &["-v", "data:/seed"], "true").expect(0);
    let place = subject.island.path("state/volumes/data/_data");
    let sparse = fs::File::create(place.join("sparse")).unwrap();
    sparse.write_all_at(b"end", 256 << 20).unwrap();
    drop(sparse);
    let archive = subject.island.path("data.tar");
    let archive = archive.to_str().unwrap();
    subject.insula(&["volume", "backup", "-o", archive, "data"]).expect(0);
    assert!(fs::metadata(archive).unwrap().len() < 1 << 20, "holes were written");
    // any tar knows it
    let tar = finish(Command::new("tar").args(["tvf", archive]), b"").expect(0);
    assert!(tar.out.contains("./sparse") || tar.out.contains(" sparse"), "{}", tar.out);
    once(&subject, &["-v", "data:/seed"], "rm -r /seed/* && echo lost >/seed/lost").expect(0);
    // a daemon that dies loses neither the volume nor what it was made with
    subject.end_daemon(rustix::process::Signal::KILL);
    subject.start_daemon();
    subject.insula_with(&["volume", "restore", "data"], b"no archive").expect(1);
    assert!(place.join("lost").exists(), "a damaged archive changed the volume");
    subject.background("user", &["-v", "data:/seed"], &["sleep", "100"]);
    let refused = subject.insula(&["volume", "restore", "-i", archive, "data"]).expect(1);
    assert!(refused.err.contains("volume is in use"), "{}", refused.err);
    subject.insula(&["rm", "-f", "user"]).expect(0);
    subject.insula(&["volume", "restore", "-i", archive, "data"]).expect(0);
    subject.insula(&["volume", "restore", "-i", archive, "copy"]).expect(0);
    for name in ["data", "copy"] {
        let seen =
            "stat -c '%u:%g %a' /d ; stat -c %h /d/two; cat /d/deep/one; readlink /d/link; stat -c %F /d/pipe; ls /d";
        let run = once(&subject, &["-v", &format!("{name}:/d")], seen).expect(0);
        assert_eq!(run.out, "1000:1001 1770\n2\none\n/etc/passwd\nfifo\ndeep\nlink\npipe\nsparse\ntwo\n", "{name}");
        let meta = fs::metadata(mountpoint(&subject, name).join("sparse")).unwrap();
        assert!(meta.len() == (256 << 20) + 3 && meta.blocks() * 512 < 1 << 20, "{name}: {meta:?}");
    }
    let df = subject.insula(&["system", "df", "-v"]).expect(0);
    assert!(df.out.contains("data") && df.out.contains("268.4MB"), "{}", df.out);
    let pruned = subject.insula(&["volume", "prune", "-af"]).expect(0);
    assert!(pruned.out.contains("copy") && pruned.out.contains("Total reclaimed space: 536.9MB"), "{}", pruned.out);
    subject.finish();
}
