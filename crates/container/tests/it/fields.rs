//! Fields of a configuration, each by what the container's program sees of it. Driven by `insula-oci run`.

mod kernel {
    use crate::harness::privileged;
    use serde_json::{Value, json};
    use std::path::{Path, PathBuf};
    use std::process::{Command, Output};
    use std::sync::atomic::{AtomicU32, Ordering};

    static COUNT: AtomicU32 = AtomicU32::new(0);

    /// A bundle around the host's programs.
    struct Bundle {
        folder: tempfile::TempDir,
        id: String,
    }

    impl Bundle {
        fn new() -> Self {
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let folder = tempfile::tempdir().unwrap();
            for name in ["rootfs", "state", "rootfs/usr", "rootfs/tmp"] {
                std::fs::create_dir(folder.path().join(name)).unwrap();
            }
            for name in ["bin", "sbin", "lib", "lib64"] {
                std::os::unix::fs::symlink(format!("usr/{name}"), folder.path().join("rootfs").join(name)).unwrap();
            }
            Self { folder, id: format!("init-fields-{}-{number}", std::process::id()) }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        /// A configuration that runs a shell line, and what the test changes of it.
        fn config(&self, line: &str, change: impl FnOnce(&mut Value)) -> Value {
            let all = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_NET_ADMIN"];
            let mut config = json!({
                "ociVersion": "1.2.0",
                "root": {"path": "rootfs"},
                "hostname": "isle",
                "process": {
                    "user": {"uid": 0, "gid": 0}, "args": ["/bin/sh", "-c", line], "cwd": "/",
                    "env": ["PATH=/usr/bin:/bin"],
                    "capabilities": {"bounding": all, "effective": all, "permitted": all},
                },
                "mounts": [
                    {"destination": "/proc", "type": "proc", "source": "proc"},
                    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755"]},
                    {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]},
                    {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]},
                ],
                "linux": {
                    "cgroupsPath": format!("/{}", self.id),
                    "namespaces": [
                        {"type": "pid"}, {"type": "mount"}, {"type": "uts"}, {"type": "ipc"}, {"type": "network"}, {"type": "cgroup"},
                    ],
                },
            });
            change(&mut config);
            config
        }

        fn call(&self, arguments: &[&str]) -> Output {
            let root = self.path("state");
            let mut command = Command::new(env!("CARGO_BIN_EXE_insula-oci"));
            command.arg("--root").arg(&root).args(arguments).current_dir(self.folder.path());
            command.stdin(std::process::Stdio::null()).output().unwrap()
        }

        /// Output and errors of a run, one behind the other.
        fn run(&self, config: &Value) -> String {
            std::fs::write(self.path("config.json"), config.to_string()).unwrap();
            let output = self.call(&["run", &self.id]);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text + &String::from_utf8_lossy(&output.stderr)
        }
    }

    impl Drop for Bundle {
        fn drop(&mut self) {
            let _ = self.call(&["delete", "--force", &self.id]);
        }
    }

    fn mount(config: &mut Value, mount: Value) {
        config["mounts"].as_array_mut().unwrap().push(mount);
    }

    fn namespace(config: &mut Value, kind: &str, value: Value) {
        let all = config["linux"]["namespaces"].as_array_mut().unwrap();
        all.retain(|one| one["type"] != kind);
        if !value.is_null() {
            all.push(value);
        }
    }

    /// What a shell line says in a container that a test has changed.
    fn said(line: &str, change: impl FnOnce(&mut Value)) -> String {
        let bundle = Bundle::new();
        let config = bundle.config(line, change);
        bundle.run(&config)
    }

    /// The line of a mount in mountinfo, from its options on.
    fn shown(options: &[&str], kind: &str, source: &str) -> String {
        let line =
            "while read a b c d place rest; do test $place = /tmp/here && echo $rest; done < /proc/self/mountinfo";
        said(line, |config| {
            mount(config, json!({"destination": "/tmp/here", "type": kind, "source": source, "options": options}));
        })
    }

    #[test]
    fn mount_options_do_what_their_words_say() {
        if !privileged() {
            return;
        }
        let table: &[(&[&str], &str, &str, &str)] = &[
            (&["ro", "nosuid", "nodev", "noexec", "noatime"], "tmpfs", "x", "ro,nosuid,nodev,noexec,noatime - tmpfs"),
            (&["nodiratime", "strictatime"], "tmpfs", "x", "rw,nodiratime - tmpfs"),
            (&["nosymfollow"], "tmpfs", "x", "rw,relatime,nosymfollow - tmpfs"),
            (&["size=64k", "mode=700"], "tmpfs", "x", "tmpfs x rw,size=64k,mode=700"),
            (&["sync", "dirsync"], "tmpfs", "x", "tmpfs x rw,sync,dirsync"),
            (&["silent", "defaults", "nomand", "async", "loud"], "tmpfs", "x", "rw,relatime - tmpfs"),
            (&["bind", "ro", "noexec"], "bind", "/usr/share", "ro,noexec,relatime"),
            (&["rbind", "rro", "rnosuid"], "none", "/usr/share", "ro,nosuid,relatime"),
            (&["bind", "shared"], "", "/usr/share", "shared:"),
            (&["bind", "private"], "bind", "/usr/share", "relatime - "),
            (&["bind", "unbindable"], "bind", "/usr/share", "unbindable"),
        ];
        for (options, kind, source, expected) in table {
            let text = shown(options, kind, source);
            assert!(text.contains(expected), "{options:?}: {text}");
        }
        let text = shown(&["flying"], "tmpfs", "x");
        assert!(text.contains("/tmp/here") && text.contains("flying"), "{text}");
        let text = shown(&[], "", "/usr/share");
        assert!(text.contains("neither a type nor"), "{text}");
    }

    #[test]
    fn remount_changes_what_is_there() {
        if !privileged() {
            return;
        }
        let line = "grep ' /dev ' /proc/self/mounts; touch /dev/x || echo refused";
        let text = said(line, |config| {
            mount(config, json!({"destination": "/dev", "options": ["remount", "ro", "noexec", "size=8k"]}));
        });
        assert!(text.contains("ro,noexec,") && text.contains("size=8k") && text.contains("refused"), "{text}");
    }

    #[test]
    fn copies_into_memory_keep_owners_and_modes() {
        if !privileged() {
            return;
        }
        let bundle = Bundle::new();
        let folder = bundle.path("rootfs/data/inner");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("file"), "content").unwrap();
        std::os::unix::fs::symlink("inner/file", bundle.path("rootfs/data/link")).unwrap();
        std::os::unix::fs::chown(folder.join("file"), Some(7), Some(8)).unwrap();
        let line = "cat /data/link; stat -c ' %u %g %a' /data/inner/file; rm -r /data/inner && echo gone";
        let config = bundle.config(line, |config| {
            mount(config, json!({"destination": "/data", "type": "tmpfs", "source": "x", "options": ["tmpcopyup"]}));
        });
        assert_eq!(bundle.run(&config), "content 7 8 644\ngone\n");
        assert!(folder.join("file").exists());
    }

    #[test]
    fn a_relative_destination_is_taken_from_the_root() {
        if !privileged() {
            return;
        }
        let text = said("grep -c ' /tmp/rel ' /proc/self/mounts", |config| {
            mount(config, json!({"destination": "tmp/rel", "type": "tmpfs", "source": "x"}));
        });
        assert!(text.contains("1\n"), "{text}");
    }

    /// CVE-2021-30465 and kin: links in an image do not lead a mount out of it, or into /proc.
    #[test]
    fn links_of_an_image_lead_nowhere_else() {
        if !privileged() {
            return;
        }
        let bundle = Bundle::new();
        let outside = bundle.path("outside");
        std::fs::create_dir(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, bundle.path("rootfs/out")).unwrap();
        let config = bundle.config("echo ran", |config| {
            mount(config, json!({"destination": "/out/made", "type": "tmpfs", "source": "x"}));
        });
        let text = bundle.run(&config);
        assert!(!outside.join("made").exists(), "{text}");
        let _ = bundle.call(&["delete", "--force", &bundle.id]);
        std::os::unix::fs::symlink("/proc/sys", bundle.path("rootfs/sneaky")).unwrap();
        for destination in ["/sneaky", "/tmp/../proc/sys", "/proc/sys"] {
            let config = bundle.config("echo ran", |config| {
                mount(config, json!({"destination": destination, "type": "tmpfs", "source": "x"}));
            });
            let text = bundle.run(&config);
            assert!(text.contains("/proc") && !text.contains("ran\n"), "{destination}: {text}");
        }
        let config = bundle.config("echo ran", |config| {
            config["mounts"][0] =
                json!({"destination": "/proc", "type": "bind", "source": "/usr", "options": ["bind"]});
        });
        assert!(bundle.run(&config).contains("only proc may be mounted there"));
    }

    #[test]
    fn namespaces_are_joined_by_path() {
        if !privileged() {
            return;
        }
        let kinds = [
            ("ipc", "ipc"),
            ("network", "net"),
            ("uts", "uts"),
            ("pid", "pid"),
            ("cgroup", "cgroup"),
            ("time", "time"),
        ];
        for (kind, file) in kinds {
            let path = format!("/proc/self/ns/{file}");
            let ours = std::fs::read_link(&path).unwrap();
            let text = said(&format!("readlink {path}"), |config| {
                namespace(config, kind, json!({"type": kind, "path": path}));
                config["hostname"] = json!("");
            });
            assert_eq!(text.trim(), ours.to_str().unwrap(), "{kind}");
        }
        let text = said("true", |config| namespace(config, "pid", json!({"type": "pid", "path": "/proc/self/ns/net"})));
        assert!(text.contains("is a namespace of type net"), "{text}");
        let text = said("true", |config| namespace(config, "pid", json!({"type": "pid", "path": "/no/such"})));
        assert!(text.contains("/no/such"), "{text}");
        let text = said("true", |config| namespace(config, "pid", json!({"type": "pid", "path": "/proc/self/status"})));
        assert!(text.contains("is no namespace"), "{text}");
    }

    fn maps(config: &mut Value) {
        for map in ["uidMappings", "gidMappings"] {
            config["linux"][map] = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        }
    }

    #[test]
    fn user_namespaces_are_made_and_joined() {
        if !privileged() {
            return;
        }
        let first = Bundle::new();
        let line = "cat /proc/self/uid_map; id -u; stat -Lc %u /proc/self; readlink /proc/self/ns/user";
        let mapped = |config: &mut Value| {
            namespace(config, "user", json!({"type": "user"}));
            maps(config);
        };
        std::os::unix::fs::chown(first.path("rootfs"), Some(100_000), Some(100_000)).unwrap();
        std::os::unix::fs::chown(first.path("rootfs/tmp"), Some(100_000), Some(100_000)).unwrap();
        for name in ["proc", "dev"] {
            std::fs::create_dir(first.path("rootfs").join(name)).unwrap();
        }
        std::fs::set_permissions(first.folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let text = first.run(&first.config(line, mapped));
        assert!(text.contains("100000") && text.contains("\n0\n0\nuser:"), "{text}");
        let offsets = |config: &mut Value| {
            mapped(config);
            namespace(config, "time", json!({"type": "time"}));
            config["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1_000_000, "nanosecs": 5}});
        };
        let text = first.run(&first.config("cut -d. -f1 /proc/uptime", offsets));
        assert!(text.trim().parse::<u64>().is_ok_and(|up| up > 1_000_000), "{text}");
        // a process that stays in such a namespace, to be joined
        let config = first.config("exec sleep 100 > /dev/null 2>&1", mapped);
        std::fs::write(first.path("config.json"), config.to_string()).unwrap();
        assert!(first.call(&["run", "--detach", &first.id]).status.success());
        let state: Value = serde_json::from_slice(&first.call(&["state", &first.id]).stdout).unwrap();
        let pid = state["pid"].as_i64().unwrap();
        let theirs = std::fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
        let second = Bundle::new();
        std::fs::set_permissions(second.folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        for name in ["proc", "dev"] {
            std::fs::create_dir(second.path("rootfs").join(name)).unwrap();
        }
        let config = second.config(line, |config| {
            namespace(config, "user", json!({"type": "user", "path": format!("/proc/{pid}/ns/user")}));
        });
        let text = second.run(&config);
        assert!(text.contains("\n0\n0\n") && text.contains(theirs.to_str().unwrap()), "{text}");
    }

    #[test]
    fn clocks_are_set_off() {
        if !privileged() {
            return;
        }
        let text = said("cut -d. -f1 /proc/uptime", |config| {
            namespace(config, "time", json!({"type": "time"}));
            config["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1_000_000}, "monotonic": {"secs": 5}});
        });
        assert!(text.trim().parse::<u64>().is_ok_and(|up| up > 1_000_000), "{text}");
    }

    #[test]
    fn devices_are_as_asked() {
        if !privileged() {
            return;
        }
        let line = "stat -c '%n %F %t,%T %a %u %g' /dev/zero2 /dev/pipe /sub/x; readlink /dev/fd /dev/ptmx; test -c /dev/full && echo full";
        let text = said(line, |config| {
            config["linux"]["devices"] = json!([
                {"path": "/dev/zero2", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 3, "gid": 4},
                {"path": "/dev/zero2", "type": "c", "major": 1, "minor": 5, "fileMode": 0o600, "uid": 3, "gid": 4},
                {"path": "/dev/pipe", "type": "p", "fileMode": 0o666},
                {"path": "/sub/x", "type": "u", "major": 1, "minor": 3},
            ]);
        });
        let wanted = "/dev/zero2 character special file 1,5 600 3 4\n/dev/pipe fifo 0,0 666 0 0\n/sub/x character special file 1,3 666 0 0\n/proc/self/fd\npts/ptmx\nfull\n";
        assert_eq!(text, wanted);
    }

    #[test]
    fn masked_and_read_only_paths_cover_what_is_there() {
        if !privileged() {
            return;
        }
        let bundle = Bundle::new();
        std::fs::create_dir_all(bundle.path("rootfs/secret/inner")).unwrap();
        std::fs::create_dir_all(bundle.path("rootfs/fixed")).unwrap();
        std::fs::write(bundle.path("rootfs/file"), "secret").unwrap();
        let line = "ls -A /secret | wc -l; cat /file | wc -c; touch /secret/x || touch /fixed/x || echo refused";
        let config = bundle.config(line, |config| {
            config["linux"]["maskedPaths"] = json!(["/secret", "/file", "/not/there", "/proc/kcore", "/proc/keys"]);
            config["linux"]["readonlyPaths"] = json!(["/fixed", "/not/there"]);
        });
        let text = bundle.run(&config);
        assert!(text.starts_with("0\n0\n") && text.contains("refused"), "{text}");
    }

    #[test]
    fn the_root_has_the_propagation_that_is_asked() {
        if !privileged() {
            return;
        }
        let line = "while read a b c d place o rest; do test $place = / && echo $rest; done < /proc/self/mountinfo";
        for (word, sign) in
            [("shared", "shared:"), ("rshared", "shared:"), ("unbindable", "unbindable"), ("rprivate", "- ")]
        {
            let text = said(line, |config| config["linux"]["rootfsPropagation"] = json!(word));
            assert!(text.starts_with(sign), "{word}: {text}");
        }
        let text = said("touch /x || echo refused", |config| config["root"]["readonly"] = json!(true));
        assert!(text.contains("refused"), "{text}");
    }

    #[test]
    fn without_pivoting_the_root_is_the_containers() {
        if !privileged() {
            return;
        }
        let bundle = Bundle::new();
        let config = bundle.config("ls /rootfs || echo alone", |_| {});
        std::fs::write(bundle.path("config.json"), config.to_string()).unwrap();
        let output = bundle.call(&["run", "--no-pivot", &bundle.id]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(text, "alone\n", "{}", String::from_utf8_lossy(&output.stderr));
    }

    #[test]
    fn the_process_runs_as_asked() {
        if !privileged() {
            return;
        }
        let line = "echo $HOME; pwd; umask; id -G; chrt -p $$; ionice -p $$; grep -E 'NoNewPrivs|CapBnd|CapAmb' /proc/self/status; ulimit -n; arch";
        let text = said(line, |config| {
            let process = &mut config["process"];
            process["cwd"] = json!("/made/deep");
            process["user"] = json!({"uid": 5, "gid": 6, "umask": 0o27, "additionalGids": [7, 8]});
            process["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 3});
            process["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 6});
            process["noNewPrivileges"] = json!(true);
            process["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]);
            let some = json!(["CAP_KILL"]);
            process["capabilities"] =
                json!({"bounding": some, "effective": some, "permitted": some, "inheritable": some, "ambient": some});
            config["linux"]["personality"] = json!({"domain": "LINUX32"});
        });
        let wanted = [
            "/\n/made/deep\n0027\n6 7 8\n",
            "SCHED_BATCH",
            "best-effort: prio 6",
            "CapBnd:\t0000000000000020",
            "CapAmb:\t0000000000000020",
            "NoNewPrivs:\t1",
            "\n100\ni686",
        ];
        for part in wanted {
            assert!(text.contains(part), "{part:?} in {text}");
        }
    }

    #[test]
    fn home_comes_from_the_images_list_of_users() {
        if !privileged() {
            return;
        }
        let bundle = Bundle::new();
        std::fs::create_dir(bundle.path("rootfs/etc")).unwrap();
        std::fs::write(bundle.path("rootfs/etc/passwd"), "root:x:0:0:r:/root:/bin/sh\nu:x:9:9::/home/u:/bin/sh\n")
            .unwrap();
        let config = bundle.config("echo $HOME", |config| config["process"]["user"] = json!({"uid": 9, "gid": 9}));
        assert_eq!(bundle.run(&config), "/home/u\n");
        std::fs::remove_file(bundle.path("rootfs/etc/passwd")).unwrap();
        // a pipe must not hold the start up
        rustix::fs::mknodat(
            rustix::fs::CWD,
            bundle.path("rootfs/etc/passwd"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o644),
            0,
        )
        .unwrap();
        assert_eq!(bundle.run(&config), "/\n");
    }

    #[test]
    fn the_memory_policy_is_inherited() {
        if !privileged() {
            return;
        }
        let text = said("head -1 /proc/self/numa_maps", |config| {
            config["linux"]["memoryPolicy"] =
                json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]});
        });
        if text.contains("No such file") {
            println!("skipped: this kernel has no numa_maps");
            return;
        }
        assert!(text.contains("bind=static:0"), "{text}");
    }

    #[test]
    fn settings_take_both_separators() {
        if !privileged() {
            return;
        }
        let text = said("cat /proc/sys/kernel/shmmax /proc/sys/net/ipv4/conf/lo/forwarding", |config| {
            config["linux"]["sysctl"] = json!({"kernel/shmmax": "65536", "net.ipv4.conf.lo.forwarding": "1"});
        });
        assert_eq!(text, "65536\n1\n");
    }

    #[test]
    fn an_agent_answers_system_calls() {
        use std::io::Read as _;
        if !privileged() {
            return;
        }
        let bundle = Bundle::new();
        let path = bundle.path("agent");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let config = bundle.config("mkdir /tmp/x; echo after", |config| {
            config["annotations"] = json!({"one": "1"});
            config["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path, "listenerMetadata": "told",
                "syscalls": [{"names": ["chroot"], "action": "SCMP_ACT_NOTIFY"}],
            });
        });
        let agent = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        });
        let text = bundle.run(&config);
        assert_eq!(text, "after\n");
        let told: Value = serde_json::from_str(&agent.join().unwrap()).unwrap();
        assert_eq!((&told["metadata"], &told["fds"]), (&json!("told"), &json!(["seccompFd"])));
        assert_eq!(told["state"]["id"], json!(bundle.id));
        assert_eq!(told["state"]["annotations"]["one"], json!("1"));
        assert!(told["pid"].as_i64().is_some_and(|pid| pid > 1) && told["pid"] == told["state"]["pid"]);
    }

    /// An interface that goes with this value, wherever it is.
    struct Interface(String);

    impl Drop for Interface {
        fn drop(&mut self) {
            // it went with the container's namespace, if all went well
            let _ = Command::new("ip").args(["link", "delete", &self.0]).output();
        }
    }

    #[test]
    fn interfaces_move_in_with_their_addresses() {
        if !privileged() {
            return;
        }
        let name = format!("initd{}", std::process::id() % 100_000);
        let made = Command::new("ip").args(["link", "add", &name, "type", "dummy"]).status();
        if !made.is_ok_and(|status| status.success()) {
            println!("skipped: no dummy interface can be made here");
            return;
        }
        let _interface = Interface(name.clone());
        let added = Command::new("ip").args(["address", "add", "10.213.7.1/24", "dev", &name]).status().unwrap();
        assert!(added.success());
        let text = said("cat /proc/net/dev /proc/net/fib_trie", |config| {
            config["linux"]["netDevices"] = json!({&name: {"name": "inside0"}});
        });
        assert!(text.contains("inside0:") && text.contains("10.213.7.1") && !text.contains(&name), "{text}");
        let text = said("true", |config| config["linux"]["netDevices"] = json!({"no-such-one": {}}));
        assert!(text.contains("linux.netDevices: no-such-one"), "{text}");
    }

    #[test]
    fn without_a_mount_namespace_the_callers_is_shared() {
        if !privileged() {
            return;
        }
        let bundle = Bundle::new();
        let config = bundle.config("readlink /proc/self/ns/mnt; ls /rootfs || echo alone", |config| {
            namespace(config, "mount", Value::Null);
        });
        std::fs::write(bundle.path("config.json"), config.to_string()).unwrap();
        // the caller's own is a throw-away one, as what is mounted stays there
        let line = format!(
            "readlink /proc/self/ns/mnt; exec '{}' --root '{}' run {}",
            env!("CARGO_BIN_EXE_insula-oci"),
            bundle.path("state").display(),
            bundle.id
        );
        let output = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", &line])
            .current_dir(bundle.folder.path())
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        assert!(matches!(lines.as_slice(), [one, two, "alone"] if one == two), "{text} {output:?}");
    }

    #[test]
    fn nothing_of_a_refused_configuration_is_left() {
        if !privileged() {
            return;
        }
        let mounts = || std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let before = mounts();
        let bundle = Bundle::new();
        let config = bundle.config("true", |config| {
            mount(config, json!({"destination": "/tmp/here", "type": "tmpfs", "source": "x", "options": ["flying=1"]}));
        });
        assert!(bundle.run(&config).contains("flying"));
        assert_eq!(mounts().lines().filter(|line| line.contains("fields")).count(), 0);
        assert_eq!(before.lines().count(), mounts().lines().count());
        assert!(!Path::new("/sys/fs/cgroup/pids").join(&bundle.id).exists());
    }
}
