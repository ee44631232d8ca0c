//! config.md, process: program, user, environment, rights, limits and scheduling.

use serde_json::json;

use crate::machine::has_or_skip;
use crate::subject::test;

/// A line of `/proc/self/status`, without its name.
fn status_line(text: &str, name: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).trim().to_owned()
}

#[test]
fn arguments_reach_the_program_unchanged() {
    test(|s| {
        let odd = ["sh", "-c", "for a in \"$@\"; do echo \"<$a>\"; done", "sh", "", "a b", "ä\t\"'$", "-x"];
        assert_eq!(s.bundle().args(&odd).out(), "<>\n<a b>\n<ä\t\"'$>\n<-x>");
    });
}

#[test]
fn a_program_is_looked_up_in_the_path_of_its_own_environment() {
    test(|s| {
        let bin = s.rootfs().join("opt");
        std::fs::create_dir_all(&bin).unwrap();
        std::os::unix::fs::symlink("/bin/echo", bin.join("echo")).unwrap();
        assert_eq!(s.bundle().args(&["echo", "hi"]).set("/process/env", json!(["PATH=/nowhere:/opt"])).out(), "hi");
        s.bundle().args(&["echo", "RAN"]).set("/process/env", json!(["PATH=/nowhere"])).refused();
    });
}

#[test]
fn a_program_that_does_not_exist_is_refused() {
    test(|s| {
        let run = s.bundle().args(&["/no/such/program"]).refused();
        assert!(run.err.contains("/no/such/program"), "{}", run.err);
    });
}

#[test]
fn a_program_that_is_not_executable_or_a_folder_is_refused() {
    test(|s| {
        s.bundle().args(&["/etc/word"]).refused();
        let folder = s.bundle().args(&["/etc"]).refused();
        // The words by which engines know that 126 is the exit code; crun's are its own.
        assert!(s.name == "crun" || folder.err.contains("permission denied"), "{folder:?}");
    });
}

#[test]
fn a_program_of_an_unknown_format_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    test(|s| {
        let file = s.rootfs().join("etc/odd");
        std::fs::write(&file, "no format at all").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        s.bundle().args(&["/etc/odd"]).refused();
    });
}

#[test]
fn no_arguments_are_refused() {
    test(|s| {
        s.bundle().set("/process/args", json!([])).refused();
        s.bundle().without("/process/args").refused();
    });
}

#[test]
fn the_exit_code_is_the_programs() {
    test(|s| {
        for code in [0, 1, 7, 126, 255] {
            s.sh(&format!("exit {code}")).run().expect(code);
        }
    });
}

#[test]
fn the_exit_code_of_a_killed_program_has_the_signal() {
    test(|s| {
        // As the first process of its namespace it is safe from its own signals, so a child shows them.
        s.sh("sh -c 'kill -9 $$'; exit $?").run().expect(137);
        s.sh("kill -TERM $$").no_namespace("pid").run().expect(143);
    });
}

#[test]
fn the_environment_is_exactly_the_one_asked_for() {
    test(|s| {
        let env = json!(["PATH=/bin", "EMPTY=", "EQUAL=a=b", "SPACE=a b"]);
        let bundle = s.bundle().args(&["env"]).set("/process/env", env);
        let out = bundle.out();
        let mut lines: Vec<&str> = out.lines().filter(|line| !line.starts_with("HOME=")).collect();
        lines.sort_unstable();
        assert_eq!(lines, ["EMPTY=", "EQUAL=a=b", "PATH=/bin", "SPACE=a b"]);
    });
}

#[test]
fn the_home_comes_from_the_containers_accounts_unless_it_is_given() {
    test(|s| {
        assert_eq!(s.sh("echo $HOME").out(), "/root");
        assert_eq!(s.sh("echo $HOME").set("/process/user", json!({ "uid": 1000, "gid": 1000 })).out(), "/tmp");
        assert_eq!(s.sh("echo $HOME").push("/process/env", json!("HOME=/else")).out(), "/else");
    });
}

#[test]
fn the_working_folder_is_made_if_needed() {
    test(|s| {
        assert_eq!(s.sh("pwd").set("/process/cwd", json!("/tmp")).out(), "/tmp");
        assert_eq!(s.sh("pwd").set("/process/cwd", json!("/tmp/new/er")).out(), "/tmp/new/er");
        let kept = s.sh("pwd; mkdir other || echo kept").set("/root/readonly", json!(true));
        assert_eq!(kept.set("/process/cwd", json!("/etc/made")).run().expect(0).text(), "/etc/made\nkept");
    });
}

#[test]
fn a_working_folder_that_is_not_absolute_is_refused() {
    test(|s| {
        s.bundle().set("/process/cwd", json!("tmp")).refused();
        s.bundle().set("/process/cwd", json!("")).refused();
    });
}

#[test]
fn a_working_folder_that_is_a_file_is_refused() {
    test(|s| {
        s.bundle().set("/process/cwd", json!("/etc/word")).refused();
    });
}

#[test]
fn user_group_and_further_groups_are_set() {
    test(|s| {
        let bundle = s.sh("id -u; id -g; id -G; grep -E '^(Uid|Gid)' /proc/self/status");
        let out = bundle.set("/process/user", json!({ "uid": 10, "gid": 11, "additionalGids": [12, 4_000_000] })).out();
        let expected = "10\n11\n11 12 4000000\nUid:\t10\t10\t10\t10\nGid:\t11\t11\t11\t11";
        assert_eq!(out, expected);
    });
}

#[test]
fn groups_of_the_caller_are_not_inherited() {
    test(|s| {
        assert_eq!(status_line(&s.sh("cat /proc/self/status").out(), "Groups"), "");
    });
}

#[test]
fn standard_streams_belong_to_the_user() {
    test(|s| {
        let bundle = s.sh("echo out > /proc/self/fd/1; echo err > /proc/self/fd/2");
        let run = bundle.set("/process/user", json!({ "uid": 1000, "gid": 1000 })).run().expect(0);
        assert_eq!((run.text(), run.err.trim()), ("out", "err"));
    });
}

#[test]
fn the_file_mode_mask_is_set() {
    test(|s| {
        assert_eq!(s.sh("umask").set("/process/user/umask", json!(0o027)).out(), "0027");
        assert_eq!(s.sh("umask").set("/process/user/umask", json!(0)).out(), "0000");
        assert_eq!(s.sh("umask").out(), "0022");
    });
}

#[test]
fn capabilities_are_exactly_those_of_each_set() {
    test(|s| {
        let sets = json!({
            "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_SYS_TIME"],
            "permitted": ["CAP_CHOWN", "CAP_KILL"],
            "effective": ["CAP_CHOWN"],
            "inheritable": ["CAP_KILL"],
            "ambient": ["CAP_KILL"]
        });
        // For root execve(2) fills permitted and effective from bounding; a user shows what was asked.
        let bundle = s.sh("cat /proc/self/status").set("/process/capabilities", sets);
        let text = bundle.set("/process/user", json!({ "uid": 1000, "gid": 1000 })).out();
        let found = ["CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb"].map(|name| status_line(&text, name));
        let kill = "0000000000000020";
        assert_eq!(found, ["0000000002000021", kill, kill, kill, kill]);
    });
}

#[test]
fn roots_capabilities_are_those_of_the_bounding_set() {
    test(|s| {
        let text = s.sh("cat /proc/self/status").capabilities(&["CAP_CHOWN", "CAP_NET_RAW"]).out();
        let found = ["CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb"].map(|name| status_line(&text, name));
        let (some, none) = ("0000000000002001", "0000000000000000");
        assert_eq!(found, [some, some, some, none, none]);
    });
}

#[test]
fn without_capabilities_in_the_configuration_there_are_none_for_a_user() {
    test(|s| {
        let bundle = s.sh("cat /proc/self/status").without("/process/capabilities");
        let text = bundle.set("/process/user", json!({ "uid": 1000, "gid": 1000 })).out();
        assert_eq!(status_line(&text, "CapEff"), "0000000000000000");
    });
}

#[test]
fn empty_sets_of_capabilities_leave_root_none() {
    test(|s| {
        let text = s.sh("cat /proc/self/status").set("/process/capabilities", json!({})).out();
        let found = ["CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb"].map(|name| status_line(&text, name));
        assert_eq!(found, ["0000000000000000"; 5]);
    });
}

#[test]
fn a_capability_that_does_not_exist_is_not_granted_and_said() {
    test(|s| {
        let run = s.sh("echo RAN").capabilities(&["CAP_CHOWN", "CAP_NONSENSE"]).run();
        // The specification: an error or a warning.
        let said = run.err.contains("CAP_NONSENSE") || run.code != 0;
        assert!(said, "{} {}", run.code, run.err);
    });
}

#[test]
fn no_new_privileges_is_as_asked() {
    test(|s| {
        let value = |on: bool| {
            let bundle = s.sh("cat /proc/self/status").set("/process/noNewPrivileges", json!(on));
            status_line(&bundle.out(), "NoNewPrivs")
        };
        assert_eq!((value(true), value(false)), ("1".to_owned(), "0".to_owned()));
        let missing = s.sh("cat /proc/self/status").without("/process/noNewPrivileges");
        assert_eq!(status_line(&missing.out(), "NoNewPrivs"), "0");
    });
}

#[test]
fn every_kind_of_limit_is_set() {
    test(|s| {
        // Below what the machine's own limits are, because raising needs a capability that may be missing.
        let limits = [
            ("RLIMIT_AS", "Max address space", 4_000_000_000_u64, 5_000_000_000_u64),
            ("RLIMIT_CORE", "Max core file size", 0, 4096),
            ("RLIMIT_CPU", "Max cpu time", 1000, 2000),
            ("RLIMIT_DATA", "Max data size", 1_000_000_000, 2_000_000_000),
            ("RLIMIT_FSIZE", "Max file size", 1_000_000, 2_000_000),
            ("RLIMIT_LOCKS", "Max file locks", 100, 200),
            ("RLIMIT_MEMLOCK", "Max locked memory", 4096, 8192),
            ("RLIMIT_MSGQUEUE", "Max msgqueue size", 4096, 8192),
            ("RLIMIT_NICE", "Max nice priority", 0, 0),
            ("RLIMIT_NOFILE", "Max open files", 100, 200),
            ("RLIMIT_NPROC", "Max processes", 1000, 2000),
            ("RLIMIT_RSS", "Max resident set", 1_000_000, 2_000_000),
            ("RLIMIT_RTPRIO", "Max realtime priority", 0, 0),
            ("RLIMIT_RTTIME", "Max realtime timeout", 1000, 2000),
            ("RLIMIT_SIGPENDING", "Max pending signals", 100, 200),
            ("RLIMIT_STACK", "Max stack size", 1_000_000, 2_000_000),
        ];
        let wanted: Vec<_> =
            limits.iter().map(|(kind, _, soft, hard)| json!({ "type": kind, "soft": soft, "hard": hard })).collect();
        let out = s.bundle().args(&["cat", "/proc/self/limits"]).set("/process/rlimits", json!(wanted)).out();
        for (kind, name, soft, hard) in limits {
            let line = out.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {out}"));
            let words: Vec<&str> = line.split_whitespace().take(2).collect();
            assert_eq!(words, [soft.to_string(), hard.to_string()], "{kind}");
        }
    });
}

#[test]
fn an_unlimited_limit_is_the_largest_number() {
    test(|s| {
        let limit = json!([{ "type": "RLIMIT_CORE", "soft": 0, "hard": u64::MAX }]);
        let run = s.sh("grep 'Max core' /proc/self/limits").set("/process/rlimits", limit).out();
        assert_eq!(run.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "unlimited"]);
    });
}

#[test]
fn a_limit_of_an_unknown_kind_is_refused() {
    test(|s| {
        s.bundle().set("/process/rlimits", json!([{ "type": "RLIMIT_NONSENSE", "soft": 1, "hard": 1 }])).refused();
    });
}

#[test]
fn a_soft_limit_above_the_hard_one_is_refused() {
    test(|s| {
        s.bundle().set("/process/rlimits", json!([{ "type": "RLIMIT_NOFILE", "soft": 200, "hard": 100 }])).refused();
    });
}

#[test]
fn the_same_kind_of_limit_twice_is_refused() {
    test(|s| {
        let limit = |soft: u64| json!({ "type": "RLIMIT_NOFILE", "soft": soft, "hard": 300 });
        s.bundle().set("/process/rlimits", json!([limit(100), limit(200)])).refused();
    });
}

#[test]
fn the_out_of_memory_score_is_set_or_left_alone() {
    test(|s| {
        let own: i32 = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim().parse().unwrap();
        let bundle = s.sh("cat /proc/self/oom_score_adj");
        assert_eq!(bundle.set("/process/oomScoreAdj", json!(own.max(0) + 77)).out(), (own.max(0) + 77).to_string());
        assert_eq!(s.sh("cat /proc/self/oom_score_adj").out(), own.to_string());
    });
}

#[test]
fn an_out_of_memory_score_out_of_range_is_refused() {
    test(|s| {
        s.bundle().set("/process/oomScoreAdj", json!(1001)).refused();
        s.bundle().set("/process/oomScoreAdj", json!(-1001)).refused();
    });
}

#[test]
fn the_scheduler_and_its_nice_value_are_set() {
    test(|s| {
        let bundle = s.sh("awk '{print $41, $19}' /proc/self/stat");
        // Field 41 is the policy (3 is batch), 19 the nice value.
        assert_eq!(bundle.set("/process/scheduler", json!({ "policy": "SCHED_BATCH", "nice": 5 })).out(), "3 5");
        let idle =
            s.sh("awk '{print $41}' /proc/self/stat").set("/process/scheduler", json!({ "policy": "SCHED_IDLE" }));
        assert_eq!(idle.out(), "5");
    });
}

#[test]
fn a_scheduler_that_does_not_exist_or_fit_is_refused() {
    test(|s| {
        s.bundle().set("/process/scheduler", json!({ "policy": "SCHED_NONSENSE" })).refused();
        s.bundle().set("/process/scheduler", json!({ "policy": "SCHED_OTHER", "priority": 5 })).refused();
        let flags = json!({ "policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_NONSENSE"] });
        s.bundle().set("/process/scheduler", flags).refused();
    });
}

#[test]
fn the_priority_of_input_and_output_is_set() {
    test(|s| {
        // ioprio_get(2) is not in the tree's busybox, but the machine can ask about the container's process.
        let Some(python) = crate::machine::program_or_skip("perl") else { return };
        for (class, number) in [("IOPRIO_CLASS_BE", 2), ("IOPRIO_CLASS_IDLE", 3)] {
            let priority = json!({ "class": class, "priority": 6 });
            let container = s.sh("sleep 60").set("/process/ioPriority", priority).start();
            let ask = format!("print syscall(252, 1, {})", container.pid());
            let out = s.finish(std::process::Command::new(&python).args(["-e", &ask])).expect(0);
            assert_eq!(out.text().parse::<u32>().unwrap() >> 13, number, "{class}");
            container.end();
        }
    });
}

#[test]
fn a_priority_of_input_and_output_that_does_not_exist_is_refused() {
    test(|s| {
        s.bundle().set("/process/ioPriority", json!({ "class": "IOPRIO_CLASS_NONSENSE", "priority": 0 })).refused();
        s.bundle().set("/process/ioPriority", json!({ "class": "IOPRIO_CLASS_BE", "priority": 8 })).refused();
    });
}

#[test]
fn the_processors_of_an_exec_are_set() {
    test(|s| {
        let affinity = json!({ "initial": "0", "final": "0" });
        let container = s.sh("sleep 60").set("/process/execCPUAffinity", affinity).start();
        let out = container.exec(&["grep", "Cpus_allowed_list", "/proc/self/status"]).expect(0);
        assert_eq!(out.text(), "Cpus_allowed_list:\t0");
    });
}

#[test]
fn processors_of_an_exec_that_are_nonsense_are_refused() {
    test(|s| {
        s.bundle().set("/process/execCPUAffinity", json!({ "initial": "", "final": "x-y" })).refused();
    });
}

#[test]
fn an_apparmor_profile_without_apparmor_is_refused() {
    test(|s| {
        if std::path::Path::new("/sys/kernel/security/apparmor").exists() {
            return println!("skipped: this machine has AppArmor");
        }
        s.bundle().set("/process/apparmorProfile", json!("some-profile")).refused();
    });
}

#[test]
fn a_selinux_label_without_selinux_is_refused() {
    test(|s| {
        if std::path::Path::new("/sys/fs/selinux/enforce").exists() {
            return println!("skipped: this machine has SELinux");
        }
        s.bundle().set("/process/selinuxLabel", json!("system_u:system_r:container_t:s0")).refused();
    });
}

#[test]
fn signals_are_neither_blocked_nor_ignored() {
    test(|s| {
        let out = s.bundle().args(&["cat", "/proc/self/status"]).out();
        assert_eq!(status_line(&out, "SigBlk"), "0000000000000000");
        // What the caller ignores may stay ignored.
        let own = std::fs::read_to_string("/proc/self/status").unwrap();
        let bits = |text: &str| u64::from_str_radix(&status_line(text, "SigIgn"), 16).unwrap();
        assert_eq!(bits(&out) & !bits(&own), 0);
    });
}

#[test]
fn only_the_standard_streams_are_open() {
    test(|s| {
        // The fourth is the folder that ls itself reads.
        assert_eq!(s.bundle().args(&["ls", "/proc/self/fd"]).out(), "0\n1\n2\n3");
    });
}

#[test]
fn a_container_without_a_process_can_be_made_but_not_started() {
    test(|s| {
        let (container, run) = s.bundle().without("/process").try_create();
        if run.code == 0 {
            container.call("start", &[]).fails();
        }
    });
}

#[test]
fn the_first_process_is_dumpable_only_as_far_as_its_owner_needs() {
    test(|s| {
        if !has_or_skip("/proc/self/coredump_filter") {
            return;
        }
        let bundle = s.sh("cat /proc/1/status > /dev/null && ls /proc/1/fd > /dev/null && echo readable");
        assert_eq!(bundle.set("/process/user", json!({ "uid": 1000, "gid": 1000 })).out(), "readable");
    });
}

#[test]
fn an_empty_home_and_an_earlier_value_are_as_if_they_were_not_there() {
    test(|s| {
        assert_eq!(s.sh("echo $HOME").push("/process/env", json!("HOME=")).out(), "/root");
        let twice = s.sh("").args(&["env"]).set("/process/env", json!(["PATH=/bin:/usr/bin", "A=1", "AB=2", "A=3"]));
        let seen = twice.out();
        let mut seen: Vec<&str> = seen.lines().collect();
        seen.sort_unstable();
        assert_eq!(seen, ["A=3", "AB=2", "HOME=/root", "PATH=/bin:/usr/bin"]);
    });
}

#[test]
fn a_script_whose_interpreter_is_missing_is_told_apart_from_a_missing_script() {
    test(|s| {
        let script = "#!/no/such/interpreter\n";
        std::fs::write(s.rootfs().join("etc/script"), script).unwrap();
        let path = s.rootfs().join("etc/script");
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let there = s.sh("").args(&["/etc/script"]).run().fails();
        assert!(there.err.contains("/etc/script"), "{}", there.err);
        assert!(there.err.to_lowercase().contains("no such file or directory"), "{}", there.err);
        assert!(!there.err.contains("stat /etc/script"), "{}", there.err);
        s.sh("").args(&["/etc/none"]).run().fails();
    });
}

#[test]
fn the_processors_of_whoever_calls_are_not_the_containers() {
    test(|s| {
        let whose = "grep Cpus_allowed_list /proc/self/status | cut -f 2";
        let mut all = rustix::thread::sched_getaffinity(None).unwrap();
        let everywhere = s.sh(whose).out();
        let first = (0..rustix::thread::CpuSet::MAX_CPU).find(|processor| all.is_set(*processor)).unwrap();
        if all.count() < 2 {
            println!("skipped: there is one processor");
            return;
        }
        let container = s.sh("sleep 60").start();
        let saved = all;
        all.clear();
        all.set(first);
        rustix::thread::sched_setaffinity(None, &all).unwrap();
        let seen = (s.sh(whose).run(), container.exec(&["sh", "-c", whose]));
        rustix::thread::sched_setaffinity(None, &saved).unwrap();
        assert_eq!(seen.0.expect(0).text(), everywhere);
        assert_eq!(seen.1.expect(0).text(), everywhere);
    });
}
