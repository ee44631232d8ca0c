//! config-linux.md: the filter of system calls.

use serde_json::{Value, json};

use crate::subject::test;

/// A filter that allows all but one group of rules.
fn filter(rules: Value) -> Value {
    json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_AARCH64"],
        "syscalls": rules })
}

/// What mkdir(1) uses on any machine.
const MKDIR: [&str; 2] = ["mkdir", "mkdirat"];
const TRY: &str = "mkdir /tmp/new && echo made || echo failed";

#[test]
fn a_call_gets_an_error_and_others_do_not() {
    test(|s| {
        let bundle = s.sh(TRY).set("/linux/seccomp", filter(json!([{ "names": MKDIR, "action": "SCMP_ACT_ERRNO" }])));
        let run = bundle.run().expect(0);
        assert_eq!(run.text(), "failed");
        assert!(run.err.contains("Operation not permitted"), "{}", run.err);
        assert!(!s.rootfs().join("tmp/new").exists());
    });
}

#[test]
fn the_error_can_be_chosen() {
    test(|s| {
        let rules = json!([{ "names": MKDIR, "action": "SCMP_ACT_ERRNO", "errnoRet": 28 }]);
        let run = s.sh(TRY).set("/linux/seccomp", filter(rules)).run().expect(0);
        assert!(run.err.contains("No space left"), "{}", run.err);
    });
}

#[test]
fn the_default_action_and_its_error_are_for_what_is_not_listed() {
    test(|s| {
        let text = s.sh("cat /proc/self/status").set("/linux/seccomp", filter(json!([]))).out();
        assert!(text.contains("Seccomp:\t2"), "{text}");
        let names = include_str!("seccomp_allowed.txt");
        let names: Vec<&str> = names.split_whitespace().collect();
        let deny = json!({ "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 28,
            "syscalls": [{ "names": names, "action": "SCMP_ACT_ALLOW" }] });
        let run = s.sh(TRY).set("/linux/seccomp", deny).run().expect(0);
        assert_eq!(run.text(), "failed");
        assert!(run.err.contains("No space left"), "{}", run.err);
    });
}

#[test]
fn without_a_filter_there_is_none() {
    test(|s| {
        assert!(s.sh("cat /proc/self/status").out().contains("Seccomp:\t0"));
    });
}

#[test]
fn killing_actions_kill() {
    test(|s| {
        for action in ["SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_TRAP"] {
            let bundle = s.sh("mkdir /tmp/new; echo $?");
            let out = bundle.set("/linux/seccomp", filter(json!([{ "names": MKDIR, "action": action }]))).out();
            // 128 and SIGSYS.
            assert_eq!(out.lines().last(), Some("159"), "{action}");
        }
    });
}

#[test]
fn logging_and_tracing_actions_are_taken() {
    test(|s| {
        let log = filter(json!([{ "names": MKDIR, "action": "SCMP_ACT_LOG" }]));
        assert_eq!(s.sh(TRY).set("/linux/seccomp", log).out(), "made");
        // Nobody traces, so the call is not there.
        let trace = filter(json!([{ "names": MKDIR, "action": "SCMP_ACT_TRACE" }]));
        let run = s.sh("mkdir /tmp/other || echo failed").set("/linux/seccomp", trace).run().expect(0);
        assert_eq!(run.text(), "failed");
        assert!(run.err.contains("not implemented"), "{}", run.err);
    });
}

#[test]
fn arguments_are_compared() {
    test(|s| {
        // dup2 and friends are the shell's; setting the mask is a call with one plain argument.
        let refused = |rule: Value| {
            let rules = json!([{ "names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [rule] }]);
            let run = s.sh("kill -10 1; kill -12 1; echo end").set("/linux/seccomp", filter(rules)).run().expect(0);
            run.err.matches("not permitted").count()
        };
        let rule = |op: &str, value: u64| json!({ "index": 1, "value": value, "op": op });
        assert_eq!(refused(rule("SCMP_CMP_EQ", 10)), 1);
        assert_eq!(refused(rule("SCMP_CMP_NE", 10)), 1);
        assert_eq!(refused(rule("SCMP_CMP_LT", 12)), 1);
        assert_eq!(refused(rule("SCMP_CMP_LE", 12)), 2);
        assert_eq!(refused(rule("SCMP_CMP_GT", 12)), 0);
        assert_eq!(refused(rule("SCMP_CMP_GE", 12)), 1);
        let masked = json!({ "index": 1, "value": 6, "valueTwo": 4, "op": "SCMP_CMP_MASKED_EQ" });
        // 10 is 1010 and 12 is 1100: under the mask 0110 only the second has 0100.
        assert_eq!(refused(masked), 1);
    });
}

#[test]
fn several_arguments_must_all_match() {
    test(|s| {
        let args =
            json!([{ "index": 0, "value": 1, "op": "SCMP_CMP_EQ" }, { "index": 1, "value": 10, "op": "SCMP_CMP_EQ" }]);
        let rules = json!([{ "names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": args }]);
        let run =
            s.sh("kill -10 1; kill -12 1; kill -10 77; echo end").set("/linux/seccomp", filter(rules)).run().expect(0);
        assert_eq!(run.err.matches("not permitted").count(), 1, "{}", run.err);
    });
}

#[test]
fn names_that_are_not_known_are_passed_over() {
    test(|s| {
        let rules = json!([{ "names": ["no_such_call", "mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO" }]);
        assert_eq!(s.sh(TRY).set("/linux/seccomp", filter(rules)).out(), "failed");
    });
}

#[test]
fn flags_are_taken() {
    test(|s| {
        for flag in ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"] {
            let bundle =
                s.sh(TRY).set("/linux/seccomp", filter(json!([{ "names": MKDIR, "action": "SCMP_ACT_ERRNO" }])));
            assert_eq!(bundle.set("/linux/seccomp/flags", json!([flag])).out(), "failed", "{flag}");
        }
    });
}

#[test]
fn nonsense_in_a_filter_is_refused() {
    test(|s| {
        let rules = |value: Value| s.bundle().set("/linux/seccomp", filter(value));
        rules(json!([{ "names": MKDIR, "action": "SCMP_ACT_NONSENSE" }])).refused();
        rules(json!([{ "names": MKDIR, "action": "SCMP_ACT_ERRNO", "args": [{ "index": 0, "value": 1, "op": "SCMP_CMP_X" }] }]))
            .refused();
        s.bundle().set("/linux/seccomp", json!({ "defaultAction": "SCMP_ACT_NONSENSE" })).refused();
        let bundle = s.bundle().set("/linux/seccomp", filter(json!([])));
        bundle.set("/linux/seccomp/architectures", json!(["SCMP_ARCH_NONSENSE"])).refused();
    });
}

#[test]
fn an_argument_that_no_call_has_is_refused() {
    test(|s| {
        let args = json!([{ "index": 6, "value": 1, "op": "SCMP_CMP_EQ" }]);
        s.bundle()
            .set("/linux/seccomp", filter(json!([{ "names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": args }])))
            .refused();
    });
}

#[test]
fn an_unknown_flag_is_refused() {
    test(|s| {
        let bundle = s.bundle().set("/linux/seccomp", filter(json!([{ "names": MKDIR, "action": "SCMP_ACT_ERRNO" }])));
        bundle.set("/linux/seccomp/flags", json!(["SECCOMP_FILTER_FLAG_NONSENSE"])).refused();
    });
}

#[test]
fn a_filter_without_a_default_is_refused() {
    test(|s| {
        s.bundle().set("/linux/seccomp", json!({ "syscalls": [] })).refused();
    });
}

#[test]
fn a_filter_works_with_and_without_new_privileges() {
    test(|s| {
        for on in [true, false] {
            let bundle =
                s.sh(TRY).set("/linux/seccomp", filter(json!([{ "names": MKDIR, "action": "SCMP_ACT_ERRNO" }])));
            assert_eq!(bundle.set("/process/noNewPrivileges", json!(on)).out(), "failed");
        }
    });
}

#[test]
fn an_exec_has_the_filter_too() {
    test(|s| {
        let bundle =
            s.sh("sleep 60").set("/linux/seccomp", filter(json!([{ "names": MKDIR, "action": "SCMP_ACT_ERRNO" }])));
        let container = bundle.start();
        assert_eq!(container.exec(&["sh", "-c", TRY]).expect(0).text(), "failed");
    });
}

#[test]
fn a_listener_gets_the_state_and_the_calls() {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    test(|s| {
        let path = s.island.path("listener");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let rules = json!([{ "names": MKDIR, "action": "SCMP_ACT_NOTIFY" }]);
        let bundle = s.sh(&format!("{TRY} > /etc/result; sleep 60")).set("/linux/seccomp", filter(rules));
        let bundle = bundle.set("/linux/seccomp/listenerPath", json!(path));
        let container = bundle.set("/linux/seccomp/listenerMetadata", json!("some data")).start();
        listener.set_nonblocking(true).unwrap();
        let stream = testkit::wait_for(crate::subject::SOON, || listener.accept().ok()).expect("nobody connected").0;
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(crate::subject::SOON)).unwrap();
        let mut bytes = vec![0; 1 << 16];
        let mut space = [std::mem::MaybeUninit::uninit(); 256];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let got =
            recvmsg(&stream, &mut [std::io::IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::empty()).unwrap();
        let files: Vec<_> = ancillary
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(files) => Some(files.collect::<Vec<_>>()),
                _ => None,
            })
            .flatten()
            .collect();
        let state: Value = serde_json::from_slice(&bytes[..got.bytes]).unwrap();
        assert_eq!(files.len(), state["fds"].as_array().unwrap().len(), "{state}");
        assert!(state["fds"].as_array().unwrap().contains(&json!("seccompFd")), "{state}");
        assert_eq!(state["metadata"], "some data", "{state}");
        assert_eq!(state["state"]["id"], *container.id, "{state}");
        assert_eq!(state["pid"], container.pid(), "{state}");
        // With the listener gone the call that waits for its word gets an error.
        drop(files);
        assert_eq!(container.await_file(&s.rootfs().join("etc/result")), "failed\n");
    });
}

#[test]
fn a_listener_that_is_not_there_is_refused() {
    test(|s| {
        let rules = filter(json!([{ "names": MKDIR, "action": "SCMP_ACT_NOTIFY" }]));
        s.bundle().set("/linux/seccomp", rules.clone()).refused();
        let bundle = s.bundle().set("/linux/seccomp", rules);
        bundle.set("/linux/seccomp/listenerPath", json!("/nonexistent/listener")).refused();
    });
}

#[test]
fn the_startcontainer_hook_is_filtered_too() {
    test(|s| {
        let profile = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL" }],
        });
        let hook = json!([{ "path": "/bin/sh", "args": ["sh", "-c", "mkdir /tmp/made"] }]);
        let bundle =
            s.sh("echo started").set("/linux/seccomp", profile).set("/hooks", json!({ "startContainer": hook }));
        let run = bundle.run().fails();
        assert!(!run.out.contains("started"), "{}", run.out);
        let plain = json!([{ "path": "/bin/true" }]);
        assert_eq!(bundle.set("/hooks", json!({ "startContainer": plain })).out(), "started");
    });
}
