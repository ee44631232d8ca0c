//! The program `insula-oci`, by its command line.

use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A bundle and a root folder of its own; containers that are left are deleted with it.
struct Bench {
    folder: tempfile::TempDir,
    id: String,
    spec: Value,
}

impl Bench {
    fn new(script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let rootfs = folder.path().join("bundle/rootfs");
        std::fs::create_dir_all(&rootfs).unwrap();
        testkit::rootfs::host_tree(&rootfs);
        let id = format!("insula-oci-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let output = Command::new(env!("CARGO_BIN_EXE_insula-oci")).arg("spec").current_dir(folder.path()).output();
        assert!(output.unwrap().status.success());
        let text = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
        let mut spec: Value = serde_json::from_str(&text).unwrap();
        spec["process"]["terminal"] = json!(false);
        spec["process"]["args"] = json!(["/bin/sh", "-c", script]);
        spec["linux"]["cgroupsPath"] = json!(format!("/{id}"));
        let bench = Self { folder, id, spec };
        bench.write();
        bench
    }

    fn bundle(&self) -> PathBuf {
        self.folder.path().join("bundle")
    }

    fn write(&self) {
        std::fs::write(self.bundle().join("config.json"), self.spec.to_string()).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_insula-oci"));
        command.arg("--root").arg(self.folder.path().join("root")).args(arguments);
        command.current_dir(self.bundle()).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// As [`Self::run`], for a command that leaves a process with its streams behind.
    fn detached(&self, arguments: &[&str]) -> i32 {
        self.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().code().unwrap()
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn fails(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(!output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn status(&self) -> String {
        let state: Value = serde_json::from_str(&self.ok(&["state", &self.id])).unwrap();
        state["status"].as_str().unwrap().to_owned()
    }

    fn await_status(&self, wanted: &str) {
        let seen = testkit::wait_for(std::time::Duration::from_secs(10), || (self.status() == wanted).then_some(()));
        assert!(seen.is_some(), "the container is {}, not {wanted}", self.status());
    }

    /// Control groups, folders and processes of the container.
    fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let group = hierarchy.path().join(&self.id);
            left.extend(group.exists().then(|| group.display().to_string()));
        }
        let folder = self.folder.path().join("root").join(&self.id);
        left.extend(folder.exists().then(|| folder.display().to_string()));
        left
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.run(&["delete", "--force", &self.id]);
    }
}

mod kernel {
    use super::*;

    fn bench(script: &str) -> Option<Bench> {
        crate::harness::privileged().then(|| Bench::new(script))
    }

    #[test]
    fn a_run_gives_output_and_code_and_leaves_nothing() {
        let Some(bench) = bench("echo $0 $$; exit 7") else { return };
        let output = bench.run(&["run", &bench.id]);
        assert_eq!(output.status.code(), Some(7), "{output:?}");
        assert_eq!(output.stdout, b"/bin/sh 1\n");
        assert_eq!(bench.left(), Vec::<String>::new());
    }

    #[test]
    fn a_container_goes_through_its_states() {
        let Some(bench) = bench("exec sleep 100") else { return };
        let id = bench.id.as_str();
        assert_eq!(bench.detached(&["create", "--pid-file", "pid", id]), 0);
        assert_eq!(bench.status(), "created");
        let pid: i32 = std::fs::read_to_string(bench.bundle().join("pid")).unwrap().parse().unwrap();
        let state: Value = serde_json::from_str(&bench.ok(&["state", id])).unwrap();
        assert_eq!(state["pid"], pid);
        assert!(bench.fails(&["create", id]).contains("container with given ID already exists"));
        bench.ok(&["start", id]);
        bench.await_status("running");
        assert!(bench.fails(&["start", id]).contains("cannot start an already running container"));
        assert!(bench.fails(&["delete", id]).contains("is not stopped: running"));
        bench.ok(&["pause", id]);
        assert_eq!(bench.status(), "paused");
        assert!(bench.fails(&["exec", id, "/bin/true"]).contains("paused"));
        bench.ok(&["resume", id]);
        assert_eq!(bench.status(), "running");
        bench.ok(&["kill", id, "KILL"]);
        bench.await_status("stopped");
        assert!(bench.fails(&["kill", id]).contains("container not running"));
        assert!(bench.fails(&["start", id]).contains("stopped"));
        bench.ok(&["delete", id]);
        assert!(bench.fails(&["state", id]).contains("container does not exist"));
        assert!(bench.fails(&["delete", id]).contains("container does not exist"));
        bench.ok(&["delete", "--force", id]);
        assert_eq!(bench.left(), Vec::<String>::new());
    }

    #[test]
    fn a_second_process_is_what_its_flags_say() {
        let Some(bench) = bench("exec sleep 100") else { return };
        let id = bench.id.as_str();
        assert_eq!(bench.detached(&["run", "--detach", id]), 0);
        let script = "echo $A; pwd; id -u; id -g; id -G; exit 9";
        let output =
            bench.run(&["exec", "-e", "A=b", "--cwd", "/proc", "-u", "7:8", "-g", "9", id, "/bin/sh", "-c", script]);
        assert_eq!(output.status.code(), Some(9), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "b\n/proc\n7\n8\n8 9\n");
        let missing = bench.run(&["exec", id, "no-such-program"]);
        assert_eq!(missing.status.code(), Some(255));
        assert!(String::from_utf8_lossy(&missing.stderr).contains("executable file not found in $PATH"));
        assert_eq!(bench.detached(&["exec", "-d", "--pid-file", "pid", id, "/bin/sleep", "100"]), 0);
        let pid: i32 = std::fs::read_to_string(bench.bundle().join("pid")).unwrap().parse().unwrap();
        let pids: Vec<i32> = serde_json::from_str(&bench.ok(&["ps", "--format", "json", id])).unwrap();
        assert!(pids.contains(&pid) && pids.len() == 2, "{pids:?}");
        assert!(bench.ok(&["ps", id]).contains("sleep 100"));
    }

    #[test]
    fn streams_and_descriptors_are_the_callers() {
        let Some(bench) = bench("cat; ls /proc/self/fd | tr '\\n' ' '; exit 0") else { return };
        let file = bench.folder.path().join("open");
        std::fs::write(&file, "").unwrap();
        let program = env!("CARGO_BIN_EXE_insula-oci");
        let root = bench.folder.path().join("root");
        // 3 is asked for, 7 leaks from the caller
        let script = format!(
            "echo in | {program} --root {} run --preserve-fds 1 {} 3<{file} 7<{file}",
            root.display(),
            bench.id,
            file = file.display()
        );
        let output = Command::new("/bin/sh").args(["-c", &script]).current_dir(bench.bundle()).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "in\n0 1 2 3 4 ", "{output:?}");
    }

    #[test]
    fn a_missing_program_is_told_by_create_and_leaves_nothing() {
        let Some(mut bench) = bench("") else { return };
        bench.spec["process"]["args"] = json!(["no-such-program"]);
        bench.write();
        let said = bench.fails(&["create", &bench.id]);
        assert!(said.contains("exec: \\\"no-such-program\\\": executable file not found in $PATH"), "{said}");
        assert_eq!(bench.left(), Vec::<String>::new());
    }

    #[test]
    fn the_log_is_what_engines_read() {
        let Some(bench) = bench("") else { return };
        let output = bench.run(&["--log", "log", "--log-format=json", "state", &bench.id]);
        assert_eq!(String::from_utf8_lossy(&output.stderr), "container does not exist\n");
        let line: Value = serde_json::from_str(&std::fs::read_to_string(bench.bundle().join("log")).unwrap()).unwrap();
        assert_eq!((&line["level"], &line["msg"]), (&json!("error"), &json!("container does not exist")));
    }

    #[test]
    fn hooks_run_in_order_with_the_state() {
        let Some(mut bench) = bench("echo program >> /trace") else { return };
        let trace = bench.bundle().join("trace");
        let note = |name: &str| {
            let script = format!("echo {name} $(grep -o '\"status\":\"[a-z]*\"' ) >> {}", trace.display());
            json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
        };
        let inside = json!([{"path": "/bin/sh", "args": ["sh", "-c", "echo startContainer >> /trace"]}]);
        bench.spec["root"]["readonly"] = json!(false);
        bench.spec["hooks"] = json!({
            "prestart": note("prestart"),
            "createRuntime": note("createRuntime"),
            "createContainer": note("createContainer"),
            "startContainer": inside,
            "poststart": note("poststart"),
            "poststop": note("poststop"),
        });
        bench.write();
        bench.ok(&["run", &bench.id]);
        let status = |name: &str, status: &str| format!("{name} \"status\":\"{status}\"\n");
        let expected = [
            status("prestart", "creating"),
            status("createRuntime", "creating"),
            status("createContainer", "creating"),
            status("poststart", "running"),
            status("poststop", "stopped"),
        ];
        assert_eq!(std::fs::read_to_string(&trace).unwrap(), expected.concat());
        let inside = std::fs::read_to_string(bench.bundle().join("rootfs/trace")).unwrap();
        assert_eq!(inside, "startContainer\nprogram\n");
    }

    #[test]
    fn what_hooks_mount_below_the_root_shows_in_the_container() {
        let Some(mut bench) = bench("cat /by-runtime/word /by-container/word") else { return };
        let rootfs = bench.bundle().join("rootfs");
        // by a way with a link in it, as engines give it
        let link = bench.folder.path().join("link");
        std::os::unix::fs::symlink(bench.bundle(), &link).unwrap();
        for name in ["by-runtime", "by-container"] {
            std::fs::create_dir(rootfs.join(name)).unwrap();
            let source = bench.folder.path().join(name);
            std::fs::create_dir(&source).unwrap();
            std::fs::write(source.join("word"), format!("{name}\n")).unwrap();
        }
        let mount = |name: &str| {
            let source = bench.folder.path().join(name);
            format!("mount --bind {} {}", source.display(), link.join("rootfs").join(name).display())
        };
        let pid = "grep -o '\"pid\":[0-9]*' | cut -d: -f2";
        let entering = format!("nsenter --mount --target $({pid}) sh -c '{}'", mount("by-runtime"));
        let hook =
            |script: String| json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}]);
        bench.spec["hooks"] = json!({"createRuntime": hook(entering), "createContainer": hook(mount("by-container"))});
        bench.write();
        for more in [&[][..], &["--no-pivot"]] {
            let words = [&["run"], more, &[&bench.id]].concat();
            assert_eq!(bench.ok(&words), "by-runtime\nby-container\n", "{more:?}");
        }
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!table.contains(&*bench.folder.path().to_string_lossy()), "{table}");
    }

    #[test]
    fn a_root_in_the_callers_mounts_is_taken_away_again() {
        let Some(mut bench) = bench("exec sleep 100") else { return };
        let namespaces = bench.spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|one| one["type"] != "mount");
        bench.spec["linux"]["maskedPaths"] = json!([]);
        bench.spec["linux"]["readonlyPaths"] = json!([]);
        bench.write();
        let program = env!("CARGO_BIN_EXE_insula-oci");
        let (root, id) = (bench.folder.path().join("root"), &bench.id);
        let call = format!("{program} --root {}", root.display());
        let count = format!("grep -c {}/bundle/rootfs /proc/self/mountinfo", bench.folder.path().display());
        let wrong = format!("sed -i s/sleep/no-such-program/ config.json; ! {call} run {id} 2>/dev/null; {count}");
        let script = format!(
            "{call} run --detach {id} >/dev/null 2>&1 && {count}; {call} delete --force {id} && {count}; {wrong}; true"
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script]).current_dir(bench.bundle()).stdin(Stdio::null());
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let counts: Vec<&str> = text.lines().collect();
        assert!(matches!(*counts, [standing, "0", "0"] if standing != "0"), "{output:?}");
    }

    #[test]
    fn a_list_in_place_of_an_object_is_refused_by_the_fields_name() {
        let Some(mut bench) = bench("exec sleep 100") else { return };
        bench.spec["linux"]["resources"]["memory"] = json!([1, 2]);
        bench.write();
        assert!(bench.fails(&["run", &bench.id]).contains("linux.resources.memory"));
        bench.spec["linux"]["resources"]["memory"] = json!({});
        bench.write();
        assert_eq!(bench.detached(&["run", "--detach", &bench.id]), 0);
        let file = bench.folder.path().join("part.json");
        std::fs::write(&file, r#"{"pids": [7]}"#).unwrap();
        let file = file.display().to_string();
        assert!(bench.fails(&["update", "--resources", &file, &bench.id]).contains("linux.resources.pids: is a list"));
        std::fs::write(&file, r#"{"cwd": "/", "args": ["true"], "user": [0, 0]}"#).unwrap();
        assert!(bench.fails(&["exec", "--process", &file, &bench.id]).contains("process.user: is a list"));
        let refused = bench.fails(&["update", "--l3-cache-schema", "L3:0=f", &bench.id]);
        assert!(refused.contains("no class of service"), "{refused}");
    }

    #[test]
    fn a_further_process_has_the_containers_execution_domain() {
        let Some(mut bench) = bench("exec sleep 100") else { return };
        bench.spec["linux"]["personality"] = json!({"domain": "LINUX32"});
        bench.write();
        assert_eq!(bench.detached(&["run", "--detach", &bench.id]), 0);
        assert_eq!(bench.ok(&["exec", &bench.id, "/bin/sh", "-c", "cat /proc/self/personality"]), "00000008\n");
    }

    #[test]
    fn readiness_is_handed_on_to_whoever_waits() {
        let script =
            "test -S $NOTIFY_SOCKET && ! touch ${NOTIFY_SOCKET}2 && echo $NOTIFY_SOCKET > /told; exec sleep 100";
        let Some(mut bench) = bench(script) else { return };
        bench.spec["root"]["readonly"] = json!(false);
        bench.write();
        let soon = std::time::Duration::from_secs(10);
        let outside = bench.folder.path().join("outside");
        let waiting = std::os::unix::net::UnixDatagram::bind(&outside).unwrap();
        waiting.set_read_timeout(Some(soon)).unwrap();
        let socket = bench.folder.path().join("root").join(&bench.id).join("notify/notify.sock");
        for words in [&["run", "--detach", &bench.id][..], &["start", &bench.id]] {
            let command = |words: &[&str]| {
                let mut command = bench.command(words);
                command.env("NOTIFY_SOCKET", &outside).stdout(Stdio::null()).stderr(Stdio::null());
                command
            };
            if words[0] == "start" {
                assert!(command(&["create", &bench.id]).status().unwrap().success());
            }
            let mut starting = command(words).spawn().unwrap();
            let told = bench.bundle().join("rootfs/told");
            let told =
                testkit::wait_for(soon, || std::fs::read_to_string(&told).ok().filter(|text| text.ends_with('\n')));
            assert_eq!(told.as_deref(), Some("/run/notify/notify.sock\n"), "{words:?}");
            let inside = std::os::unix::net::UnixDatagram::unbound().unwrap();
            inside.send_to(b"STATUS=nearly", &socket).unwrap();
            inside.send_to(b"STATUS=done\nREADY=1", &socket).unwrap();
            let mut bytes = [0; 100];
            let count = waiting.recv(&mut bytes).unwrap();
            let state: Value = serde_json::from_str(&bench.ok(&["state", &bench.id])).unwrap();
            let wanted = format!("READY=1\nMAINPID={}", state["pid"]);
            assert_eq!(std::str::from_utf8(&bytes[..count]), Ok(&*wanted), "{words:?}");
            assert!(starting.wait().unwrap().success(), "{words:?}");
            bench.ok(&["delete", "--force", &bench.id]);
            assert_eq!(bench.left(), Vec::<String>::new());
            std::fs::remove_file(bench.bundle().join("rootfs/told")).unwrap();
        }
    }

    #[test]
    fn the_agent_of_system_calls_is_told_of_further_processes_too() {
        let Some(mut bench) = bench("exec sleep 100") else { return };
        let path = bench.folder.path().join("agent");
        let agent = std::os::unix::net::UnixListener::bind(&path).unwrap();
        agent.set_nonblocking(true).unwrap();
        let rules = json!([{"names": ["acct"], "action": "SCMP_ACT_NOTIFY"}]);
        bench.spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path, "listenerMetadata": "x", "syscalls": rules});
        bench.write();
        let soon = std::time::Duration::from_secs(10);
        let told = || -> Value {
            let mut stream = testkit::wait_for(soon, || agent.accept().ok()).expect("nobody came").0;
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(soon)).unwrap();
            let mut text = String::new();
            std::io::Read::read_to_string(&mut stream, &mut text).unwrap();
            serde_json::from_str(&text).unwrap()
        };
        assert_eq!(bench.detached(&["run", "--detach", &bench.id]), 0);
        let first = told();
        assert_eq!((&first["state"]["status"], &first["metadata"]), (&json!("creating"), &json!("x")), "{first}");
        bench.ok(&["exec", &bench.id, "/bin/sh", "-c", ":"]);
        let further = told();
        assert_eq!(further["state"]["status"], "running", "{further}");
        assert_eq!(further["state"]["pid"], first["pid"], "{further}");
        assert_ne!(further["pid"], first["pid"], "{further}");
    }

    #[test]
    fn a_hook_that_fails_ends_the_create() {
        let Some(mut bench) = bench("") else { return };
        for kind in ["prestart", "createRuntime", "createContainer"] {
            let trace = bench.bundle().join(format!("poststop-{kind}"));
            bench.spec["hooks"] = json!({
                kind: [{"path": "/bin/sh", "args": ["sh", "-c", "echo why >&2; exit 1"]}],
                "poststop": [{"path": "/bin/touch", "args": ["touch", trace]}],
            });
            bench.write();
            let said = bench.fails(&["create", &bench.id]);
            assert!(said.contains(kind) && said.contains("why"), "{said}");
            assert_eq!(bench.left(), Vec::<String>::new());
            assert!(trace.exists(), "{kind}: poststop did not run");
        }
    }

    #[test]
    fn a_killed_create_is_cleaned_up_by_force() {
        let Some(mut bench) = bench("exec sleep 100") else { return };
        // the hook holds the create where everything is made but nothing is finished
        let reached = bench.bundle().join("reached");
        let script = format!("touch {}; sleep 100", reached.display());
        bench.spec["hooks"] = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
        bench.write();
        let mut create =
            bench.command(&["create", &bench.id]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let there = testkit::wait_for(std::time::Duration::from_secs(10), || reached.exists().then_some(()));
        assert!(there.is_some());
        create.kill().unwrap();
        create.wait().unwrap();
        assert!(!bench.left().is_empty());
        bench.ok(&["delete", "--force", &bench.id]);
        assert_eq!(bench.left(), Vec::<String>::new());
        bench.spec["hooks"] = json!({});
        bench.write();
        assert_eq!(bench.detached(&["run", "-d", &bench.id]), 0);
    }

    #[test]
    fn limits_change_and_are_reported() {
        let Some(bench) = bench("exec sleep 100") else { return };
        let id = bench.id.as_str();
        assert_eq!(bench.detached(&["run", "-d", id]), 0);
        bench.ok(&["update", "--memory", "64m", "--pids-limit", "20", id]);
        let stats: Value = serde_json::from_str(&bench.ok(&["events", "--stats", id])).unwrap();
        assert_eq!((&stats["type"], &stats["id"]), (&json!("stats"), &json!(id)));
        assert_eq!(stats["data"]["memory"]["usage"]["limit"], 64 << 20);
        assert_eq!(stats["data"]["pids"]["limit"], 20);
        assert!(stats["data"]["cpu"]["usage"]["total"].as_u64().unwrap() > 0);
    }

    #[test]
    fn a_terminal_is_sent_over_the_console_socket() {
        let Some(mut bench) = bench("tty; stty size") else { return };
        bench.spec["process"]["terminal"] = json!(true);
        bench.spec["process"]["consoleSize"] = json!({"height": 33, "width": 77});
        bench.write();
        let path = bench.bundle().join("console");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(bench.detached(&["create", "--console-socket", "console", &bench.id]), 0);
        let (socket, _) = listener.accept().unwrap();
        let mut bytes = [0_u8; 64];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = rustix::net::RecvAncillaryBuffer::new(&mut space);
        let mut slice = [std::io::IoSliceMut::new(&mut bytes)];
        rustix::net::recvmsg(&socket, &mut slice, &mut control, rustix::net::RecvFlags::CMSG_CLOEXEC).unwrap();
        let master = control.drain().find_map(|message| match message {
            rustix::net::RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        bench.ok(&["start", &bench.id]);
        let mut shown = Vec::new();
        // ends with EIO when the program has gone
        let _ = std::io::Read::read_to_end(&mut std::fs::File::from(master.unwrap()), &mut shown);
        assert_eq!(String::from_utf8_lossy(&shown), "/dev/pts/0\r\n33 77\r\n");
    }

    #[test]
    fn wrong_configurations_are_refused_by_the_fields_name() {
        let Some(mut bench) = bench("") else { return };
        let good = bench.spec.clone();
        for (pointer, value, word) in [
            ("/process/cwd", json!("relative"), "cwd"),
            ("/process/user/uid", json!("root"), "process.user.uid"),
            ("/process/args", json!([]), "args"),
            ("/root/path", json!("no-such-folder"), "root.path"),
            ("/ociVersion", json!("2.0.0"), "ociVersion"),
            ("/linux/namespaces/0/type", json!("none"), "linux.namespaces[0].type"),
        ] {
            bench.spec = good.clone();
            *bench.spec.pointer_mut(pointer).unwrap() = value;
            bench.write();
            let said = bench.fails(&["create", &bench.id]);
            assert!(said.contains(word), "{pointer}: {said}");
            assert_eq!(bench.left(), Vec::<String>::new());
        }
        std::fs::write(bench.bundle().join("config.json"), "{").unwrap();
        assert!(bench.fails(&["create", &bench.id]).contains("config.json"));
        std::fs::remove_file(bench.bundle().join("config.json")).unwrap();
        assert!(bench.fails(&["create", &bench.id]).contains("not found"));
    }
}
