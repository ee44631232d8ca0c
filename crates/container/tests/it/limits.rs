//! What the process may do: memory, user, capabilities, seccomp, kernel settings.

mod kernel {
    use crate::harness::{Shim, privileged};
    use control::{Event, FailureKind, ProcessId, Reply, Request, SeccompProgram};
    use serde_json::json;

    #[test]
    fn too_much_memory_kills() {
        if !privileged() {
            return;
        }
        let mut shim = Shim::spawn();
        let mut spec = shim.spec("exec tail /dev/zero");
        spec["linux"]["resources"] = json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}});
        let exit = shim.run(spec);
        assert_eq!((exit.code, exit.oom_killed), (137, true));
        shim.quit();
    }

    #[test]
    fn a_killed_child_is_told_while_init_goes_on() {
        if !privileged() {
            return;
        }
        let mut shim = Shim::spawn();
        let mut spec = shim.spec("tail /dev/zero; sleep 100");
        spec["linux"]["resources"] = json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}});
        let create = shim.request(spec);
        shim.create(create, &[]);
        shim.start();
        assert!(matches!(shim.event(), Event::OomKilled));
        shim.done(Request::Signal { signal: 9, all: false });
        shim.exited(&ProcessId::Init);
        shim.quit();
    }

    #[test]
    fn the_process_is_who_and_what_it_should_be() {
        if !privileged() {
            return;
        }
        let mut shim = Shim::spawn();
        let mut spec = shim.spec("id -u; id -g; id -G; umask; grep -E '^(CapEff|CapBnd|NoNewPrivs|SigBlk|SigIgn)' /proc/self/status; ulimit -n; pwd; echo x > /dev/stdout");
        spec["process"]["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 6], "umask": 0o027});
        spec["process"]["capabilities"] = json!({"bounding": ["CAP_KILL"], "effective": [], "permitted": []});
        spec["process"]["noNewPrivileges"] = true.into();
        spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 77}]);
        spec["process"]["cwd"] = "/made/here".into();
        assert_eq!(shim.run(spec).code, 0);
        let log = shim.log();
        let wanted = [
            "1000\n1001\n",
            "1001 5 6\n",
            "0027\n",
            "CapEff:\t0000000000000000\n",
            "CapBnd:\t0000000000000020\n",
            "NoNewPrivs:\t1\n",
            "SigBlk:\t0000000000000000\n",
            "77\n",
            "/made/here\n",
            "x\n",
        ];
        for text in wanted {
            assert!(log.contains(text), "{text:?} is missing in {log}");
        }
        let ignored = log.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).unwrap();
        assert_eq!(u64::from_str_radix(ignored, 16).unwrap() & (1 << 12), 0, "SIGPIPE is ignored");
        shim.quit();
    }

    #[test]
    fn seccomp_is_loaded() {
        if !privileged() {
            return;
        }
        // uname (63) fails with EPERM, everything else goes
        let pack = |code: u64, jt: u64, jf: u64, k: u64| code | jt << 16 | jf << 24 | k << 32;
        let uname = u64::try_from(libc::SYS_uname).unwrap();
        let instructions = vec![
            pack(0x20, 0, 0, 0),
            pack(0x15, 0, 1, uname),
            pack(0x06, 0, 0, 0x0005_0001),
            pack(0x06, 0, 0, 0x7fff_0000),
        ];
        let mut shim = Shim::spawn();
        let mut create = shim.request(shim.spec("uname && exit 1; grep ^Seccomp: /proc/self/status"));
        create.seccomp = Some(SeccompProgram { flags: 0, instructions });
        shim.create(create, &[]);
        shim.start();
        assert_eq!(shim.exited(&ProcessId::Init).code, 0);
        assert!(shim.log().contains("Seccomp:\t2"), "{}", shim.log());
        shim.quit();
    }

    #[test]
    fn only_settings_of_namespaces_may_be_changed() {
        if !privileged() {
            return;
        }
        let mut shim = Shim::spawn();
        let mut spec = shim.spec("cat /proc/sys/net/ipv4/ip_default_ttl /proc/sys/kernel/msgmax");
        spec["linux"]["sysctl"] = json!({"net.ipv4.ip_default_ttl": "77", "kernel.msgmax": "4321"});
        assert_eq!(shim.run(spec).code, 0);
        assert_eq!(shim.log(), "77\n4321\n");
        shim.quit();
        let mut shim = Shim::spawn();
        let mut spec = shim.spec("true");
        spec["linux"]["sysctl"] = json!({"kernel.panic": "1"});
        let create = shim.request(spec);
        let Reply::Failed(failure) = shim.ask(Request::Create(Box::new(create))) else { panic!("created") };
        assert_eq!(failure.kind, FailureKind::Invalid);
        shim.quit();
    }

    #[test]
    fn time_can_be_shifted() {
        if !privileged() {
            return;
        }
        let mut shim = Shim::spawn();
        let mut spec = shim.spec("cat /proc/uptime");
        spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "time"}));
        spec["linux"]["timeOffsets"] = json!({"boottime": {"secs": 100_000_000, "nanosecs": 0}});
        assert_eq!(shim.run(spec).code, 0);
        let uptime: f64 = shim.log().split(' ').next().unwrap().parse().unwrap();
        assert!(uptime > 1e8, "{uptime}");
        shim.quit();
    }
}
