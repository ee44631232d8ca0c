//! The compiled code, run by a small interpreter, against the rules read one after another.

use std::collections::BTreeSet;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompOperator as Op, LinuxSyscall,
};
use proptest::prelude::*;

use super::docker::{argument, rule};
use super::table::Abi;
use super::*;
use crate::caps;

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;
const KILL: u32 = 0x8000_0000;

/// What a filter sees of a call.
#[derive(Debug, Clone, Copy)]
struct Call {
    arch: u32,
    number: u32,
    args: [u64; 6],
}

/// Runs a program as the kernel does.
fn run(program: &Program, call: &Call) -> u32 {
    let word = |at: u32| match at {
        0 => call.number,
        4 => call.arch,
        16..64 => {
            let arg = call.args[(at as usize - 16) / 8];
            if at.is_multiple_of(8) { (arg & 0xffff_ffff) as u32 } else { (arg >> 32) as u32 }
        }
        _ => panic!("load from {at}"),
    };
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let Instruction { code, jt, jf, k } = program.instructions[at];
        let mut jump = |yes: bool| at += usize::from(if yes { jt } else { jf });
        match code {
            0x20 => accumulator = word(k),
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => jump(accumulator == k),
            0x25 => jump(accumulator > k),
            0x35 => jump(accumulator >= k),
            0x06 => return k,
            _ => panic!("operation {code:#x}"),
        }
        at += 1;
    }
}

/// Whether a test holds, as the specification says it.
fn holds(arg: &LinuxSeccompArg, args: &[u64; 6]) -> bool {
    let (actual, value) = (args[arg.index()], arg.value());
    match arg.op() {
        Op::ScmpCmpNe => actual != value,
        Op::ScmpCmpLt => actual < value,
        Op::ScmpCmpLe => actual <= value,
        Op::ScmpCmpEq => actual == value,
        Op::ScmpCmpGe => actual >= value,
        Op::ScmpCmpGt => actual > value,
        Op::ScmpCmpMaskedEq => actual & value == arg.value_two().unwrap_or(0),
    }
}

/// The answer by reading the rules one after another.
fn naive(seccomp: &LinuxSeccomp, abi: Abi, call: &Call) -> u32 {
    let answer = |action, errno: Option<u32>| match action {
        Action::ScmpActAllow => ALLOW,
        Action::ScmpActErrno => 0x0005_0000 | errno.unwrap_or(1),
        Action::ScmpActLog => 0x7ffc_0000,
        Action::ScmpActTrap => 0x0003_0000,
        Action::ScmpActKillProcess => KILL,
        Action::ScmpActTrace => 0x7ff0_0000 | errno.unwrap_or(1),
        Action::ScmpActNotify => 0x7fc0_0000,
        Action::ScmpActKill | Action::ScmpActKillThread => 0,
    };
    let mut newest = None;
    for rule in seccomp.syscalls().iter().flatten() {
        newest = newest.max(rule.names().iter().filter_map(|name| abi.number(name)).max());
        if rule.names().iter().any(|name| abi.number(name) == Some(call.number)) {
            let args = rule.args().as_deref().unwrap_or_default();
            let distinct: BTreeSet<usize> = args.iter().map(LinuxSeccompArg::index).collect();
            let matches = if distinct.len() == args.len() {
                args.iter().all(|arg| holds(arg, &call.args))
            } else {
                args.iter().any(|arg| holds(arg, &call.args))
            };
            if matches {
                return answer(rule.action(), rule.errno_ret());
            }
        }
    }
    let default = answer(seccomp.default_action(), seccomp.default_errno_ret());
    let forbids = matches!(default >> 16, 0 | 3 | 5 | 0x8000);
    match newest {
        Some(newest) if forbids && call.number > newest => ENOSYS,
        _ => default,
    }
}

fn profile(default: Action, archs: &[Arch], calls: Vec<LinuxSyscall>) -> LinuxSeccomp {
    let mut seccomp = LinuxSeccomp::default();
    seccomp.set_default_action(default).set_architectures(Some(archs.to_vec())).set_syscalls(Some(calls));
    seccomp
}

fn default_answer(caps: &[&str], name: &str, args: [u64; 6]) -> u32 {
    let program = compile(&default_profile(caps, Arch::ScmpArchNative)).unwrap();
    let abi = Abi::native();
    run(&program, &Call { arch: abi.audit(), number: abi.number(name).unwrap(), args })
}

#[test]
fn the_default_profile_answers_as_promised() {
    let check = |name: &str, first: u64, expect: u32| {
        assert_eq!(default_answer(&caps::DEFAULT, name, [first, 0, 0, 0, 0, 0]), expect, "{name}({first:#x})");
    };
    for name in ["read", "openat", "execve", "ptrace", "chroot", "getrandom", "futex_waitv", "statx", "mseal"] {
        check(name, 0, ALLOW);
    }
    for name in ["mount", "unshare", "setns", "bpf", "reboot", "init_module", "kexec_load", "keyctl", "add_key"] {
        check(name, 0, EPERM);
    }
    for name in ["io_uring_setup", "io_uring_enter", "userfaultfd", "perf_event_open", "swapon", "acct", "pivot_root"] {
        check(name, 0, EPERM);
    }
    check("clone3", 0, ENOSYS);
    check("clone", 0x0011, ALLOW);
    check("clone", 0x1000_0000, EPERM);
    check("clone", 0x0002_0011, EPERM);
    check("socket", 2, ALLOW);
    check("socket", 40, EPERM);
    check("personality", 0x0002_0008, ALLOW);
    check("personality", 0xffff_ffff, ALLOW);
    check("personality", 0x0004_0000, EPERM);
}

#[test]
fn capabilities_open_their_calls() {
    let check = |cap: &str, name: &str| {
        assert_eq!(default_answer(&[], name, [0; 6]), EPERM, "{name} without");
        assert_eq!(default_answer(&[cap], name, [0; 6]), ALLOW, "{name} with {cap}");
    };
    check("CAP_SYS_ADMIN", "mount");
    check("CAP_SYS_ADMIN", "setns");
    check("CAP_SYS_MODULE", "finit_module");
    check("CAP_SYS_TIME", "clock_settime");
    check("CAP_SYS_TTY_CONFIG", "vhangup");
    check("CAP_SYS_BOOT", "reboot");
    check("CAP_SYS_CHROOT", "chroot");
    check("CAP_SYSLOG", "syslog");
    check("CAP_BPF", "bpf");
    check("CAP_PERFMON", "perf_event_open");
    check("CAP_DAC_READ_SEARCH", "open_by_handle_at");
    check("CAP_SYS_PTRACE", "kcmp");
    check("CAP_SYS_PACCT", "acct");
    assert_eq!(default_answer(&["CAP_SYS_ADMIN"], "clone3", [0; 6]), ALLOW);
    assert_eq!(default_answer(&["CAP_SYS_ADMIN"], "clone", [0x1000_0000, 0, 0, 0, 0, 0]), ALLOW);
}

#[test]
fn every_number_of_the_default_profile_agrees_with_the_rules() {
    let seccomp = default_profile(&caps::DEFAULT, Arch::ScmpArchNative);
    let program = compile(&seccomp).unwrap();
    assert!(program.unknown.is_empty(), "names that no interface has: {:?}", program.unknown);
    assert!(program.instructions.len() < 700, "{} instructions", program.instructions.len());
    for abi in seccomp.architectures().iter().flatten().filter_map(|arch| Abi::of(*arch)) {
        let base = if abi == Abi::X32 { table::X32_BIT } else { 0 };
        for number in base..base + 600 {
            let call = Call { arch: abi.audit(), number, args: [0x1000_0000, 0, 0, 0, 0, 0] };
            assert_eq!(run(&program, &call), naive(&seccomp, abi, &call), "{abi:?} {number}");
        }
    }
    let none = Call { arch: Abi::native().audit(), number: u32::MAX, args: [0; 6] };
    assert_eq!(run(&program, &none), EPERM);
    let alien = Call { arch: 0x1234, number: 0, args: [0; 6] };
    assert_eq!(run(&program, &alien), KILL);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn x32_cannot_bypass_a_deny_list() {
    let deny = rule(vec!["mount".to_owned()], Action::ScmpActErrno, Some(1), Vec::new());
    let seccomp = profile(Action::ScmpActAllow, &[Arch::ScmpArchX86_64], vec![deny]);
    let program = compile(&seccomp).unwrap();
    let call = |number| Call { arch: Abi::X86_64.audit(), number, args: [0; 6] };
    assert_eq!(run(&program, &call(165)), EPERM);
    assert_eq!(run(&program, &call(165 | 0x4000_0000)), ENOSYS);
    assert_eq!(run(&program, &call(1)), ALLOW);
    assert_eq!(run(&program, &call(10_000)), ALLOW);
}

#[test]
fn bad_profiles_are_refused_with_their_reason() {
    let parse = |json: &str| parse_docker_profile(json, &caps::DEFAULT).unwrap_err().to_string();
    assert!(parse("{").contains("not valid JSON"));
    assert!(parse(r#"{"defaultAction":"SCMP_ACT_FLY"}"#).contains("not valid JSON"));
    let both = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"archMap":[{"architecture":"SCMP_ARCH_X86"}]}"#;
    assert!(parse(both).contains("both architectures and archMap"));
    let index = rule(vec!["read".to_owned()], Action::ScmpActAllow, None, vec![argument(6, Op::ScmpCmpEq, 0, None)]);
    let error = compile(&profile(Action::ScmpActErrno, &[], vec![index])).unwrap_err();
    assert!(error.to_string().contains("tests argument 6"));
    let errno = rule(vec!["read".to_owned()], Action::ScmpActErrno, Some(5000), Vec::new());
    assert!(compile(&profile(Action::ScmpActAllow, &[], vec![errno])).unwrap_err().to_string().contains("5000"));
}

#[test]
fn a_short_text_cannot_need_much_memory() {
    let tests = (0..2_000).map(|value| argument(0, Op::ScmpCmpEq, value, None)).collect();
    let call = rule(vec!["read".to_owned(); 2_000], Action::ScmpActAllow, None, tests);
    let error = compile(&profile(Action::ScmpActErrno, &[], vec![call])).unwrap_err();
    assert!(matches!(error, SeccompError::TooLong { .. }), "{error}");
}

#[test]
fn dockers_conditions_are_decided() {
    let json = r#"{
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
                    {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}],
        "syscalls": [
            {"names": ["read", "not_a_call"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
            {"names": ["mseal"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "6.10"}},
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "x32"]}},
            {"name": "personality", "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]}
        ]}"#;
    let host = |arch: &str, kernel| ProfileHost { arch: arch.to_owned(), kernel };
    let names = |caps: &[&str], host: &ProfileHost| {
        let seccomp = parse_docker_profile_for(json, caps, host).unwrap();
        let calls = seccomp.syscalls().clone().unwrap();
        calls.iter().flat_map(|call| call.names().clone()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names(&[], &host("amd64", (6, 1))), "read not_a_call ptrace clone3 arch_prctl personality");
    assert_eq!(names(&["CAP_SYS_ADMIN"], &host("arm64", (6, 18))), "read not_a_call ptrace mseal mount personality");
    assert_eq!(names(&[], &host("arm64", (4, 4))), "read not_a_call clone3 personality");
    let seccomp = parse_docker_profile(json, &caps::DEFAULT).unwrap();
    let program = compile(&seccomp).unwrap();
    assert_eq!(program.unknown, ["not_a_call"]);
    assert_eq!(Program::from_bytes(program.flags, &program.to_bytes()).unwrap().instructions, program.instructions);
    assert_eq!(Program::from_bytes(0, &[1, 2, 3]), None);
    let Instruction { code, jt, jf, k } = program.instructions[0];
    let packed = u64::from(code) | u64::from(jt) << 16 | u64::from(jf) << 24 | u64::from(k) << 32;
    assert_eq!((program.packed()[0], program.packed().len()), (packed, program.instructions.len()));
}

fn any_action() -> impl Strategy<Value = (Action, Option<u32>)> {
    prop_oneof![
        Just((Action::ScmpActAllow, None)),
        Just((Action::ScmpActLog, None)),
        Just((Action::ScmpActTrap, None)),
        Just((Action::ScmpActKillProcess, None)),
        (0..200_u32).prop_map(|errno| (Action::ScmpActErrno, Some(errno))),
    ]
}

fn any_value() -> impl Strategy<Value = u64> {
    prop_oneof![0..4_u64, any::<u64>(), Just(1 << 32), Just((1 << 32) | 1), Just(u64::MAX)]
}

fn any_argument() -> impl Strategy<Value = LinuxSeccompArg> {
    let op = prop::sample::select(vec![
        Op::ScmpCmpNe,
        Op::ScmpCmpLt,
        Op::ScmpCmpLe,
        Op::ScmpCmpEq,
        Op::ScmpCmpGe,
        Op::ScmpCmpGt,
        Op::ScmpCmpMaskedEq,
    ]);
    (0..6_usize, op, any_value(), any_value())
        .prop_map(|(index, op, value, second)| argument(index, op, value, Some(second)))
}

fn any_rule() -> impl Strategy<Value = LinuxSyscall> {
    let names = prop::collection::vec(
        prop::sample::select(vec!["read", "write", "mmap", "clone", "socket", "execve", "mseal", "openat", "statx"]),
        1..4,
    );
    let names = names.prop_map(|names| names.into_iter().map(str::to_owned).collect::<Vec<_>>());
    (names, any_action(), prop::collection::vec(any_argument(), 0..4))
        .prop_map(|(names, (action, errno), args)| rule(names, action, errno, args))
}

proptest! {
    #[test]
    fn compiled_code_and_plain_reading_agree(
        (default, errno) in any_action(),
        // Many rules make programs whose jumps are longer than 255 instructions.
        rules in prop::collection::vec(any_rule(), 0..60),
        calls in prop::collection::vec((0..500_u32, prop::array::uniform6(any_value())), 1..40),
    ) {
        let mut seccomp = profile(default, &[Arch::ScmpArchNative], rules);
        seccomp.set_default_errno_ret(errno);
        let program = compile(&seccomp).unwrap();
        let abi = Abi::native();
        let named = ["read", "write", "mmap", "clone", "socket", "execve", "mseal", "openat", "statx"];
        for (number, args) in calls {
            for number in named.iter().filter_map(|name| abi.number(name)).chain([number]) {
                let call = Call { arch: abi.audit(), number, args };
                prop_assert_eq!(run(&program, &call), naive(&seccomp, abi, &call));
            }
        }
    }

    #[test]
    fn any_text_is_a_profile_or_an_error(text in "\\PC{0,200}") {
        let _ = parse_docker_profile(&text, &caps::DEFAULT);
    }
}
