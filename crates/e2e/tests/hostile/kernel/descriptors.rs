//! Ways out through descriptors, working folders and the runtime's own program.

use std::fs;
use std::time::Duration;

use serde_json::json;
use testkit::Run;
use testkit::stage::{ID, Stage};

use super::{SECRET, stage};

/// Runs the runtime from a shell that holds the machine's root folder open as descriptor 7.
fn with_descriptor(stage: &Stage, words: &[&str]) -> Run {
    let words = stage.words(words);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let words =
        [&["sh", "-c", "exec 3</dev/null 4</dev/null 5</dev/null 6</dev/null 7</; exec \"$@\"", "holder"][..], &words]
            .concat();
    testkit::finish(&mut stage.cell.command_in(stage.bundle.folder(), &words), b"")
}

#[test]
fn cve_2024_21626_leaked_fd_cwd() {
    if crate::known::is_known("cve_2024_21626_leaked_fd_cwd") {
        return;
    }
    let Some((mut stage, secret)) = stage("") else { return };
    let climb = format!("cat ../../../../../../../..{secret} .{secret} 2>/dev/null; :");
    // The trap is live: a descriptor that was asked for leads out.
    let wanted = format!("cd /proc/self/fd/7 && {climb}");
    stage.bundle.set("/process/args", json!(["/bin/sh", "-c", wanted])).write();
    let control = with_descriptor(&stage, &["run", "--preserve-fds", "5", ID]);
    assert!(control.out.contains(SECRET), "the control does not get out: {control:?}");
    stage.bundle.set("/process/args", json!(["/bin/sh", "-c", climb]));
    for link in ["/proc/self/fd", "/proc/1/fd", "/link"] {
        for number in 3..14 {
            let from = stage.bundle.rootfs().join("link");
            let _ = fs::remove_file(&from);
            std::os::unix::fs::symlink(format!("/proc/self/fd/{number}"), &from).unwrap();
            let cwd = if link == "/link" { link.to_owned() } else { format!("{link}/{number}") };
            stage.bundle.set("/process/cwd", json!(cwd)).write();
            let run = with_descriptor(&stage, &["run", ID]);
            assert!(!run.said().contains(SECRET), "cwd {cwd} leads out: {run:?}");
        }
    }
    stage.assert_clean();
    // The same by exec.
    stage.bundle.set("/process/cwd", json!("/")).set("/process/args", json!(["/bin/sleep", "1000"]));
    stage.start();
    for number in 3..14 {
        let cwd = format!("/proc/self/fd/{number}");
        let run = with_descriptor(&stage, &["exec", "--cwd", &cwd, ID, "/bin/sh", "-c", &climb]);
        assert!(!run.said().contains(SECRET), "exec --cwd {cwd} leads out: {run:?}");
    }
    stage.finish();
}

#[test]
fn no_descriptor_but_the_three_streams() {
    let list = "ls /proc/self/fd";
    let Some((stage, _)) = stage(list) else { return };
    let _ = stage.bundle.write();
    // The third is the list's own.
    let inside = |run: Run| run.ok().split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(inside(with_descriptor(&stage, &["run", ID])), ["0", "1", "2", "3"]);
    let asked = inside(with_descriptor(&stage, &["run", "--preserve-fds", "5", ID]));
    assert!(asked.contains(&"7".to_owned()), "the control does not see the descriptor: {asked:?}");
    stage.assert_clean();
    let mut stage = stage;
    stage.bundle.set("/process/args", json!(["/bin/sleep", "1000"]));
    stage.start();
    assert_eq!(inside(with_descriptor(&stage, &["exec", ID, "/bin/ls", "/proc/self/fd"])), ["0", "1", "2", "3"]);
    let links = stage.oci(&["exec", ID, "/bin/sh", "-c", "readlink /dev/fd; readlink /dev/stdin"]).ok();
    assert_eq!(links, "/proc/self/fd\n/proc/self/fd/0");
    stage.finish();
}

#[test]
fn no_hook_of_the_container_gets_a_descriptor_of_the_callers() {
    let Some((mut stage, _)) = stage("") else { return };
    let list =
        json!([{ "path": "/bin/sh", "args": ["sh", "-c", "exec ls /proc/self/fd > /listed"], "env": ["PATH=/bin"] }]);
    stage.bundle.set("/hooks/startContainer", list).set("/root/readonly", json!(false));
    stage.bundle.set("/process/args", json!(["/bin/true"])).write();
    let _ = with_descriptor(&stage, &["run", ID]).expect(0);
    let listed = fs::read_to_string(stage.bundle.rootfs().join("listed")).unwrap();
    // The third is the list's own.
    assert_eq!(listed.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"]);
    stage.assert_clean();
}

/// Looks at every process of the container through its links, for as long as it lives, and tells what leads out.
fn watcher(secret: &str) -> String {
    format!(
        "while :; do for p in /proc/[0-9]*; do for l in $p/cwd $p/root $p/fd/*; do \
         for f in $l{secret} $l/../../../../../../../..{secret}; do cat $f 2>/dev/null; done; done; done; done"
    )
}

#[test]
fn cve_2016_9962_exec_is_not_traceable() {
    let Some((mut stage, secret)) = stage("") else { return };
    for set in ["bounding", "effective", "permitted"] {
        stage.bundle.push(&format!("/process/capabilities/{set}"), json!("CAP_SYS_PTRACE"));
    }
    stage.bundle.set("/process/args", json!(["/bin/sh", "-c", watcher(&secret)]));
    stage.start();
    for _ in 0..40 {
        let _ = stage.oci(&["exec", ID, "/bin/true"]).expect(0);
    }
    let seen = stage.output();
    assert!(!seen.contains(SECRET), "a process that entered the container showed what is outside");
    let control = with_descriptor(&stage, &["exec", "--preserve-fds", "5", ID, "/bin/sleep", "2"]);
    assert_eq!(control.code, 0, "{control:?}");
    assert!(stage.output().contains(SECRET), "the control's descriptor was not found: {}", stage.output());
    stage.finish();
}

/// Takes hold of every program in the container that is none of the image's, and writes over it once it has ended.
const OVERWRITER: &str = "echo ready; while :; do for p in /proc/[0-9]*; do \
    l=$(readlink $p/exe) || continue; case $l in /bin/busybox) continue;; esac; \
    (exec 9<$p/exe && echo caught $l && i=0 && while [ $i -lt 100 ]; do i=$((i+1)); \
    if echo overwritten 2>/dev/null >/proc/self/fd/9; then echo written $l; break; fi; sleep 0.02; done) 2>/dev/null & \
    done; done";

/// What the container and the one who enters it do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bait {
    /// A program of the image's is executed.
    Program,
    /// A link to `/proc/self/exe` is executed, which at this moment is the runtime.
    Link,
    /// The same as the first, and the container may trace processes.
    Traced,
}

/// Lets a container try to write over the runtime's program while others enter it.
fn overwrite(bait: Bait) {
    let Some((mut stage, _)) = stage(OVERWRITER) else { return };
    // What is written over, if it works, is only a copy.
    let copy = stage.cell.island().path("runtime");
    fs::copy(testkit::bundle::runtime(), &copy).unwrap();
    let before = fs::read(&copy).unwrap();
    let whole = || fs::read(&copy).is_ok_and(|bytes| bytes == before);
    if bait == Bait::Traced {
        for set in ["bounding", "effective", "permitted"] {
            stage.bundle.push(&format!("/process/capabilities/{set}"), json!("CAP_SYS_PTRACE"));
        }
    }
    stage.take_runtime(&copy.display().to_string());
    // A program of the container's own, writable as the runtime's would be: the control.
    let victim = stage.bundle.rootfs().join("bin/busybox-victim");
    fs::copy(stage.bundle.rootfs().join("bin/busybox"), &victim).unwrap();
    std::os::unix::fs::symlink("/proc/self/exe", stage.bundle.rootfs().join("bin/evil")).unwrap();
    stage.start();
    let program = if bait == Bait::Link { "/bin/evil" } else { "/bin/true" };
    for _ in 0..20 {
        let _ = stage.oci(&["exec", ID, program, "--version"]);
    }
    // One that was caught is written over as soon as nobody runs it.
    let written = testkit::wait_for(Duration::from_millis(500), || (!whole()).then_some(()));
    assert!(written.is_none() && whole(), "the runtime's program was written over:\n{}", stage.output());
    let _ = stage.oci(&["exec", ID, "/bin/busybox-victim", "sleep", "0.5"]);
    let sprung = testkit::wait_for(Duration::from_secs(20), || {
        fs::read(&victim).unwrap().starts_with(b"overwritten").then_some(())
    });
    assert!(sprung.is_some(), "the control was not written over:\n{}", stage.output());
    assert!(whole(), "the runtime's program was written over");
    stage.finish();
}

#[test]
fn cve_2019_5736_proc_self_exe_of_who_enters() {
    overwrite(Bait::Program);
}

#[test]
fn cve_2019_5736_proc_self_exe_link() {
    overwrite(Bait::Link);
}

#[test]
fn cve_2019_5736_proc_self_exe_traced() {
    overwrite(Bait::Traced);
}

#[test]
fn cve_2019_5736_as_the_first_program() {
    let Some((mut stage, _)) = stage("") else { return };
    let copy = stage.cell.island().path("runtime");
    fs::copy(testkit::bundle::runtime(), &copy).unwrap();
    let before = fs::read(&copy).unwrap();
    stage.take_runtime(&copy.display().to_string());
    stage.bundle.set("/process/args", json!(["/proc/self/exe", "--version"])).write();
    // Whether that runs is the runtime's business, if only its program stays whole.
    for _ in 0..5 {
        let _ = stage.oci(&["run", ID]);
    }
    assert!(fs::read(&copy).unwrap() == before, "the runtime's program was written over");
    stage.finish();
}

#[test]
fn ambient_environment_stays_outside() {
    let Some((stage, _)) = stage("env; cat /proc/1/environ") else { return };
    let _ = stage.bundle.write();
    let run = testkit::finish(stage.command(&["run", ID]).env("AMBIENT_SECRET", SECRET), b"");
    assert!(run.code == 0 && run.out.contains("PATH=") && !run.said().contains("AMBIENT_SECRET"), "{run:?}");
    stage.finish();
}

#[test]
fn cve_2022_29162_inheritable_caps() {
    let Some((mut stage, _)) = stage("grep -E 'CapInh|CapAmb' /proc/self/status") else { return };
    let none = "CapInh:\t0000000000000000\nCapAmb:\t0000000000000000";
    assert_eq!(stage.run().ok(), none);
    // The control: what is asked for is there.
    stage.bundle.set("/process/capabilities/inheritable", json!(["CAP_CHOWN"]));
    assert!(stage.run().ok().starts_with("CapInh:\t0000000000000001"));
    stage.bundle.config["process"]["capabilities"].as_object_mut().unwrap().remove("inheritable");
    stage.bundle.set("/process/args", json!(["/bin/sleep", "1000"]));
    stage.start();
    let words = ["exec", "--cap", "CAP_KILL", ID, "/bin/grep", "-E", "CapInh|CapAmb", "/proc/self/status"];
    assert_eq!(stage.oci(&words).ok(), none);
    stage.finish();
}
