//! Ways out through devices and control groups, and sizes that nobody tests by hand.

use std::fs;

use serde_json::json;
use testkit::stage::ID;

use super::stage;

#[test]
fn devices_of_the_machine_stay_closed() {
    // The null device by another name is allowed; the kernel's log and memory are not.
    let script = "mknod /tmp/null c 1 3 && echo x >/tmp/null && echo allowed; \
                  for d in 'c 1 11' 'c 1 2' 'b 254 0' 'b 7 0'; do mknod /tmp/d $d && head -c1 /tmp/d >/dev/null 2>/tmp/why; \
                  echo $?; grep -o 'Operation not permitted' /tmp/why; rm -f /tmp/d /tmp/why; done";
    let Some((mut stage, _)) = stage(script) else { return };
    let denied = "1\nOperation not permitted\n".repeat(4);
    assert_eq!(stage.run().ok(), format!("allowed\n{}", denied.trim()));
    // The control: with everything allowed, the kernel's log opens (for writing, which needs no capability).
    stage.bundle.set("/linux/resources/devices", json!([{"allow": true, "access": "rwm"}]));
    let script = "mknod /tmp/d c 1 11 && exec 3>/tmp/d && echo open";
    stage.bundle.set("/process/args", json!(["/bin/sh", "-c", script]));
    assert_eq!(stage.run().ok(), "open");
    stage.finish();
}

#[test]
fn cve_2022_0492_cgroup_release_agent() {
    let script = "for f in /sys/fs/cgroup/*/release_agent /sys/fs/cgroup/*/notify_on_release; do \
                  (echo /tmp/agent >$f) 2>/dev/null && echo wrote $f; done; \
                  for d in /sys/fs/cgroup/*/; do mkdir $d/made 2>/dev/null && echo made $d; done; \
                  mkdir /tmp/c; mount -t cgroup -o memory cgroup /tmp/c 2>/dev/null && echo mounted; \
                  mount -t cgroup2 cgroup /tmp/c 2>/dev/null && echo mounted; \
                  unshare -Urm sh -c 'mount -t cgroup -o memory cgroup /tmp/c && echo /x >/tmp/c/release_agent' 2>/dev/null \
                  && echo agent; echo end";
    let Some((mut stage, _)) = stage(script) else { return };
    assert_eq!(stage.run().ok(), "end");
    // The control: a container that may mount, and has no namespace for its groups, does get at them.
    for set in ["bounding", "effective", "permitted"] {
        stage.bundle.push(&format!("/process/capabilities/{set}"), json!("CAP_SYS_ADMIN"));
    }
    let out = stage.run().ok();
    assert!(out.contains("mounted"), "{out}");
    stage.finish();
}

#[test]
fn thousands_of_mounts() {
    if crate::known::is_known("thousands_of_mounts") {
        return;
    }
    let Some((mut stage, _)) = stage("grep -c ' /m/' /proc/self/mountinfo") else { return };
    let folder = stage.cell.island().dir("folder").display().to_string();
    for number in 0..5000 {
        let destination = format!("/m/{number}");
        let mount = match number % 10 {
            0 => json!({"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": ["size=4k"]}),
            _ => {
                json!({"destination": destination, "type": "bind", "source": folder.as_str(), "options": ["bind", "ro"]})
            }
        };
        stage.bundle.push("/mounts", mount);
    }
    assert_eq!(stage.run().ok(), "5000");
    stage.finish();
}

#[test]
fn long_arguments() {
    let Some((mut stage, _)) = stage("") else { return };
    let run = |stage: &mut testkit::stage::Stage, size: usize, count: usize| {
        let mut args = vec!["/bin/sh".to_owned(), "-c".to_owned(), "echo $# ${#1}".to_owned(), "sh".to_owned()];
        args.extend(std::iter::repeat_n("x".repeat(size), count));
        stage.bundle.set("/process/args", json!(args));
        stage.run()
    };
    assert_eq!(run(&mut stage, 64 << 10, 1).ok(), format!("1 {}", 64 << 10));
    assert_eq!(run(&mut stage, 64 << 10, 16).ok(), format!("16 {}", 64 << 10));
    // The kernel's limit for one argument is 128 KiB with its end.
    assert_eq!(run(&mut stage, (128 << 10) - 1, 1).ok(), format!("1 {}", (128 << 10) - 1));
    let long = run(&mut stage, 1 << 20, 1);
    assert!(long.code > 0 && long.code < 128, "{:?}", (long.code, &long.out));
    assert!(
        long.err.to_lowercase().contains("argument list too long") || long.err.contains("E2BIG"),
        "{}",
        &long.err[..long.err.len().min(2000)]
    );
    stage.finish();
}

#[test]
fn many_of_everything_else() {
    let Some((mut stage, _)) =
        stage("env | wc -l; grep Groups /proc/self/status | wc -w; cat /proc/self/limits | wc -l")
    else {
        return;
    };
    let env: Vec<String> = (0..5000).map(|number| format!("NAME{number}=value")).collect();
    stage.bundle.set("/process/env", json!(env));
    stage.bundle.set("/process/user/additionalGids", json!((10..2000).collect::<Vec<u32>>()));
    let annotations: serde_json::Map<_, _> =
        (0..2000).map(|number| (format!("key.{number}"), json!("v".repeat(100)))).collect();
    stage.bundle.set("/annotations", json!(annotations));
    let masked: Vec<String> = (0..500).map(|number| format!("/proc/no-such-{number}")).collect();
    stage.bundle.set("/linux/maskedPaths", json!(masked)).set("/linux/readonlyPaths", json!(masked));
    let out = stage.run().ok();
    let first: usize = out.lines().next().unwrap().parse().unwrap();
    assert!(first >= 5000 && out.lines().nth(1) == Some("1991"), "{out}");
    stage.finish();
}

#[test]
fn a_fork_bomb_ends_with_its_container() {
    let Some((mut stage, _)) = stage("bomb() { bomb | bomb & }; bomb; sleep 1000") else { return };
    stage.bundle.set("/linux/resources/pids", json!({"limit": 60}));
    stage.start();
    let full = |group: &std::path::Path| {
        let paths = [group.join(format!("{ID}/pids.current")), group.join("pids.current")];
        paths.iter().any(|path| fs::read_to_string(path).is_ok_and(|text| text.trim().parse().unwrap_or(0) >= 50))
    };
    let grown = testkit::wait_for(std::time::Duration::from_secs(10), || {
        stage.cell.groups().iter().any(|group| full(group)).then_some(())
    });
    assert!(grown.is_some(), "the control does not grow");
    let _ = stage.oci(&["delete", "--force", ID]).expect(0);
    stage.assert_clean();
    stage.finish();
}
