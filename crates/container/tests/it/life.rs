//! From creation to the end: exit codes, failures, signals, daemons that come and go.

mod kernel {
    use crate::harness::{Shim, privileged};
    use control::{Event, FailureKind, Phase, ProcessId, Reply, Request};
    use std::time::{Duration, Instant};

    #[test]
    fn a_program_runs_and_its_code_is_told() {
        if !privileged() {
            return;
        }
        let mut shim = Shim::spawn();
        let line = "echo out; echo err >&2; hostname; echo $$; ls -d /proc/1 /dev/null /sys/fs/cgroup/*/cgroup.procs | wc -l; exit 7";
        let exit = shim.run(shim.spec(line));
        assert_eq!(exit.code, 7);
        let log = shim.log();
        for text in ["out\n", "err\n", "isle\n", "1\n"] {
            assert!(log.contains(text), "{log}");
        }
        let recorded: control::Exit = serde_json::from_slice(&std::fs::read(shim.path("exit.json")).unwrap()).unwrap();
        assert_eq!(recorded, exit);
        shim.quit();
    }

    fn refused(args: &[&str]) -> FailureKind {
        let mut shim = Shim::spawn();
        let create = shim.request(shim.spec_of(args));
        shim.create(create, &[]);
        let Reply::Failed(failure) = shim.ask(Request::Start) else { panic!("it started") };
        assert!(failure.message.contains(args[0]), "{failure}");
        shim.quit();
        failure.kind
    }

    #[test]
    fn programs_that_cannot_run_are_told_apart() {
        if !privileged() {
            return;
        }
        assert_eq!(refused(&["no-such-program"]), FailureKind::CommandNotFound);
        assert_eq!(refused(&["/no/such/program"]), FailureKind::CommandNotFound);
        assert_eq!(refused(&["/etc"]), FailureKind::CommandNotFound);
        assert_eq!(refused(&["/usr"]), FailureKind::CommandNotExecutable);
    }

    #[test]
    fn a_missing_bind_source_leaves_nothing() {
        if !privileged() {
            return;
        }
        let mut shim = Shim::spawn();
        let mut spec = shim.spec("true");
        let mount = serde_json::json!({"destination": "/x", "type": "bind", "source": "/no/such", "options": ["bind"]});
        spec["mounts"].as_array_mut().unwrap().push(mount);
        let create = shim.request(spec);
        let Reply::Failed(failure) = shim.ask(Request::Create(Box::new(create))) else { panic!("created") };
        assert_eq!(failure.kind, FailureKind::NotFound);
        assert!(failure.message.ends_with("bind source path does not exist: /no/such"), "{failure}");
        assert!(!shim.path("shim.sock").exists());
        assert!(shim.groups().is_empty());
        shim.quit();
    }

    #[test]
    fn signals_reach_the_program() {
        if !privileged() {
            return;
        }
        let mut shim = Shim::spawn();
        let create = shim.request(shim.spec("trap 'exit 42' TERM; echo up; while :; do sleep 0.01; done"));
        shim.create(create, &[]);
        shim.start();
        wait_for(|| shim.log().contains("up"));
        shim.done(Request::Signal { signal: 15, all: false });
        assert_eq!(shim.exited(&ProcessId::Init).code, 42);
        shim.quit();
    }

    #[test]
    fn a_tiny_init_forwards_signals_and_codes() {
        if !privileged() {
            return;
        }
        let mut shim = Shim::spawn();
        let line = "trap 'exit 43' TERM; echo pid $$; while :; do sleep 0.01; done";
        let mut create = shim.request(shim.spec(line));
        create.init = true;
        shim.create(create, &[]);
        shim.start();
        wait_for(|| shim.log().contains("pid 2"));
        shim.done(Request::Signal { signal: 15, all: false });
        assert_eq!(shim.exited(&ProcessId::Init).code, 43);
        shim.quit();
    }

    #[test]
    fn execs_join_and_report() {
        if !privileged() {
            return;
        }
        let mut shim = Shim::spawn();
        let create = shim.request(shim.spec("sleep 100"));
        shim.create(create, &[]);
        shim.start();
        let line = "test $(hostname) = isle && test $(cat /proc/1/comm) = sleep -o $(cat /proc/1/comm) = sh && exit 5";
        let exec = shim.exec("one", line);
        assert!(matches!(shim.ask(Request::Exec(Box::new(exec))), Reply::Started { .. }));
        assert_eq!(shim.exited(&ProcessId::Exec("one".into())).code, 5);
        let mut exec = shim.exec("two", "");
        exec.process.set_args(Some(vec!["nothing".into()]));
        let Reply::Failed(failure) = shim.ask(Request::Exec(Box::new(exec))) else { panic!("it started") };
        assert_eq!(failure.kind, FailureKind::CommandNotFound);
        shim.done(Request::Signal { signal: 9, all: false });
        assert_eq!(shim.exited(&ProcessId::Init).code, 137);
        shim.quit();
    }

    #[test]
    fn pausing_stops_everything() {
        if !privileged() {
            return;
        }
        let mut shim = Shim::spawn();
        let create = shim.request(shim.spec("while :; do echo x; sleep 0.01; done"));
        shim.create(create, &[]);
        shim.start();
        wait_for(|| shim.log().len() > 4);
        shim.done(Request::Pause);
        std::thread::sleep(Duration::from_millis(60));
        let before = shim.log().len();
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(shim.log().len(), before);
        let exec = shim.exec("one", "true");
        assert!(matches!(shim.ask(Request::Exec(Box::new(exec))), Reply::Failed(_)));
        shim.done(Request::Resume);
        wait_for(|| shim.log().len() > before);
        shim.done(Request::Signal { signal: 9, all: false });
        shim.exited(&ProcessId::Init);
        shim.quit();
    }

    #[test]
    fn a_new_daemon_finds_the_container() {
        if !privileged() {
            return;
        }
        let mut shim = Shim::spawn();
        let create = shim.request(shim.spec("echo up; sleep 100"));
        let pid = shim.create(create, &[]).pid;
        shim.start();
        shim.reconnect();
        let Reply::State(state) = shim.ask(Request::State) else { panic!("no state") };
        assert_eq!((state.phase, state.pid), (Phase::Running, pid));
        shim.done(Request::Signal { signal: 9, all: true });
        assert_eq!(shim.exited(&ProcessId::Init).code, 137);
        shim.reconnect();
        let Reply::State(state) = shim.ask(Request::State) else { panic!("no state") };
        assert_eq!((state.phase, state.exit.unwrap().code), (Phase::Exited, 137));
        shim.quit();
    }

    #[test]
    fn the_container_dies_with_its_helper() {
        if !privileged() {
            return;
        }
        let mut shim = Shim::spawn();
        let create = shim.request(shim.spec("sleep 100"));
        let pid = shim.create(create, &[]).pid;
        shim.start();
        let helper = i32::try_from(shim.pid()).unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_raw(helper).unwrap(), rustix::process::Signal::KILL)
            .unwrap();
        wait_for(|| match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        });
    }

    #[test]
    fn a_created_container_can_be_dropped() {
        if !privileged() {
            return;
        }
        let mut shim = Shim::spawn();
        let create = shim.request(shim.spec("true"));
        shim.create(create, &[]);
        assert!(!shim.groups().is_empty());
        shim.quit();
    }

    #[test]
    fn create_and_start_can_be_sent_together() {
        if !privileged() {
            return;
        }
        let mut shim = Shim::spawn();
        let create = shim.request(shim.spec("exit 3"));
        let one = shim.send(Request::Create(Box::new(create)), &[]);
        let two = shim.send(Request::Start, &[]);
        assert!(matches!(shim.reply(one), Reply::Created(_)));
        assert!(matches!(shim.reply(two), Reply::Started { .. }));
        let Event::Exited { exit, .. } = shim.event() else { panic!("another event") };
        assert_eq!(exit.code, 3);
        shim.quit();
    }

    fn wait_for(mut condition: impl FnMut() -> bool) {
        let until = Instant::now() + Duration::from_secs(10);
        while !condition() {
            assert!(Instant::now() < until, "it did not happen within ten seconds");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
