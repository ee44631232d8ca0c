//! The compiler: rules to classic BPF.
//!
//! ```text
//! load architecture ─ which interface? ─> load number ─ binary tree over ranges ─> RET answer
//!                     └ unknown: kill                                            └> argument tests ─> RET
//! ```
//!
//! Code is made from its end to its start, so that a jump's target is always known when the jump is made. Conditional
//! jumps reach 255 instructions; a farther target gets an unconditional jump of its own right behind the test.
//!
//! # Source
//! seccomp(2), Linux `include/uapi/linux/seccomp.h` and `Documentation/networking/filter.rst`.

use std::collections::{BTreeMap, BTreeSet};

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator,
};

use super::table::{Abi, X32_BIT};
use super::{Instruction, Program, SeccompError};

/// Where `struct seccomp_data` has its fields.
const NUMBER_OFFSET: u32 = 0;
const ARCH_OFFSET: u32 = 4;
const ARGS_OFFSET: u32 = 16;

/// `BPF_LD | BPF_W | BPF_ABS` and its kin.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

const KILL_THREAD: u32 = 0;
const KILL_PROCESS: u32 = 0x8000_0000;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const NOTIFY: u32 = 0x7fc0_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
const MOST_ERRNO: u32 = 4095;
const MOST_INSTRUCTIONS: usize = 4096;
/// Rules times tests, before what cannot matter is dropped: a short profile must not need much memory.
const MOST_TESTS: usize = 1 << 18;
/// The number that a tracer leaves when it has done a call itself.
const NO_CALL: u32 = u32::MAX;

/// One rule of a call: the answer, when all tests hold.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    answer: u32,
    tests: Vec<LinuxSeccompArg>,
}

/// What happens to a range of numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Leaf {
    Answer(u32),
    Rules(Vec<Rule>),
}

/// Numbers from `start` up to the next range.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Range {
    start: u32,
    leaf: Leaf,
}

/// Compiles a filter for this machine.
///
/// Of several rules for one call, the first that matches decides, and calls without a match get the default action.
/// Two tests of the same argument in one rule are alternatives, as existing profiles expect. When the default action
/// forbids, calls that are newer than all that the profile names answer `ENOSYS`, so that programs fall back to older
/// ones. Other machines' architectures are left out, and the machine's own is always in.
///
/// # Errors
/// When a rule tests an argument that does not exist, an errno is too large, or the program is too long for the kernel.
pub fn compile(seccomp: &LinuxSeccomp) -> Result<Program, SeccompError> {
    let default = answer(seccomp.default_action(), seccomp.default_errno_ret())?;
    let mut abis = vec![Abi::native()];
    for arch in seccomp.architectures().iter().flatten() {
        if let Some(abi) = Abi::of(*arch).filter(|abi| !abis.contains(abi)) {
            abis.push(abi);
        }
    }
    let calls: Vec<BTreeMap<u32, Vec<Rule>>> =
        abis.iter().map(|abi| rules_of(seccomp, *abi, default)).collect::<Result<_, _>>()?;
    let mut unknown: Vec<String> = Vec::new();
    let mut seen = BTreeSet::new();
    for name in seccomp.syscalls().iter().flatten().flat_map(|call| call.names()) {
        if abis.iter().all(|abi| abi.number(name).is_none()) && seen.insert(name) {
            unknown.push(name.clone());
        }
    }

    let mut code = Code::default();
    let mut next = code.answer(KILL_PROCESS);
    // The machine's own interface is tested first, so it is emitted last.
    for (at, abi) in abis.iter().enumerate().rev() {
        if *abi == Abi::X32 {
            continue;
        }
        let x32 = (*abi == Abi::X86_64).then(|| abis.iter().position(|abi| *abi == Abi::X32));
        let x32 = x32.map(|position| position.and_then(|position| calls.get(position)));
        let ranges = ranges_of(calls.get(at).unwrap_or(&BTreeMap::new()), x32, default);
        let tree = code.tree(&ranges);
        let body = code.emit(LOAD, NUMBER_OFFSET, tree);
        next = code.test(JUMP_EQUAL, abi.audit(), body, next);
    }
    code.emit(LOAD, ARCH_OFFSET, next);
    if code.reversed.len() > MOST_INSTRUCTIONS {
        return Err(SeccompError::TooLong { length: code.reversed.len() });
    }
    code.reversed.reverse();
    Ok(Program { flags: flags(seccomp), instructions: code.reversed, unknown })
}

/// The kernel's return value for an action.
fn answer(action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32, SeccompError> {
    let data = |default: u32| match errno.unwrap_or(default) {
        errno if errno > MOST_ERRNO => Err(SeccompError::Errno { errno }),
        errno => Ok(errno),
    };
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => KILL_THREAD,
        LinuxSeccompAction::ScmpActKillProcess => KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => TRAP,
        LinuxSeccompAction::ScmpActErrno => ERRNO | data(EPERM)?,
        LinuxSeccompAction::ScmpActNotify => NOTIFY,
        LinuxSeccompAction::ScmpActTrace => TRACE | data(EPERM)?,
        LinuxSeccompAction::ScmpActLog => LOG,
        LinuxSeccompAction::ScmpActAllow => ALLOW,
    })
}

/// The flags for loading: what the profile asks for, and a listener when a rule needs one. A profile that names none, not even an
/// empty list, does not turn speculation off, as in runc: on kernels before 5.16 that would slow every program down.
fn flags(seccomp: &LinuxSeccomp) -> u32 {
    const TSYNC: u32 = 1;
    const SPEC_ALLOW: u32 = 4;
    const NEW_LISTENER: u32 = 8;
    const TSYNC_ESRCH: u32 = 16;
    const WAIT_KILLABLE_RECV: u32 = 32;
    let mut flags = if seccomp.flags().is_none() { SPEC_ALLOW } else { 0 };
    for flag in seccomp.flags().iter().flatten() {
        flags |= match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => TSYNC,
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => 2,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => SPEC_ALLOW,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => WAIT_KILLABLE_RECV,
        };
    }
    let notifies = |action| action == LinuxSeccompAction::ScmpActNotify;
    if notifies(seccomp.default_action()) || seccomp.syscalls().iter().flatten().any(|call| notifies(call.action())) {
        flags |= NEW_LISTENER;
        if flags & TSYNC != 0 {
            // both together only with the other way to tell of a thread that cannot follow
            flags |= TSYNC_ESRCH;
        }
    } else {
        // is about waiting for an answer
        flags &= !WAIT_KILLABLE_RECV;
    }
    flags
}

/// The rules of each call that the profile names, by number.
fn rules_of(seccomp: &LinuxSeccomp, abi: Abi, default: u32) -> Result<BTreeMap<u32, Vec<Rule>>, SeccompError> {
    let mut calls: BTreeMap<u32, Vec<Rule>> = BTreeMap::new();
    let mut tests = 0;
    for call in seccomp.syscalls().iter().flatten() {
        let answer = answer(call.action(), call.errno_ret())?;
        for name in call.names() {
            let args = call.args().as_deref().unwrap_or_default();
            if let Some(arg) = args.iter().find(|arg| arg.index() > 5) {
                return Err(SeccompError::ArgumentIndex { name: name.clone(), index: arg.index() });
            }
            let Some(number) = abi.number(name) else { continue };
            tests += args.len().max(1);
            if tests > MOST_TESTS {
                return Err(SeccompError::TooLong { length: tests });
            }
            let rules = calls.entry(number).or_default();
            let repeats =
                args.iter().enumerate().any(|(at, arg)| args[..at].iter().any(|own| own.index() == arg.index()));
            if repeats {
                rules.extend(args.iter().map(|arg| Rule { answer, tests: vec![*arg] }));
            } else {
                rules.push(Rule { answer, tests: args.to_vec() });
            }
        }
    }
    for rules in calls.values_mut() {
        // Every chain ends in an answer, so that nothing can fall out of it.
        rules.push(Rule { answer: default, tests: Vec::new() });
        simplify(rules);
    }
    Ok(calls)
}

/// Drops rules that can't change the outcome.
fn simplify(rules: &mut Vec<Rule>) {
    if let Some(end) = rules.iter().position(|rule| rule.tests.is_empty()) {
        rules.truncate(end + 1);
    }
    // Tests right before the end that lead to the end's answer anyway.
    while let [.., before, last] = rules.as_slice()
        && before.answer == last.answer
    {
        rules.pop();
        if let Some(last) = rules.last_mut() {
            last.tests.clear();
        }
    }
}

/// The whole number space as ranges with different leaves.
fn ranges_of(
    calls: &BTreeMap<u32, Vec<Rule>>,
    x32: Option<Option<&BTreeMap<u32, Vec<Rule>>>>,
    default: u32,
) -> Vec<Range> {
    let forbids = !matches!(default & 0xffff_0000, ALLOW | LOG | NOTIFY | TRACE);
    let newer = if forbids { ERRNO | ENOSYS } else { default };
    let mut ranges = vec![Range { start: 0, leaf: Leaf::Answer(default) }];
    push_calls(&mut ranges, calls, default);
    if let Some((last, _)) = calls.last_key_value() {
        push(&mut ranges, last + 1, Leaf::Answer(newer));
    }
    match x32 {
        // Not asked for: as on a kernel that was built without it. Letting it through would bypass every rule.
        Some(None) => push(&mut ranges, X32_BIT, Leaf::Answer(ERRNO | ENOSYS)),
        Some(Some(calls)) => {
            push(&mut ranges, X32_BIT, Leaf::Answer(default));
            push_calls(&mut ranges, calls, default);
            if let Some((last, _)) = calls.last_key_value() {
                push(&mut ranges, last + 1, Leaf::Answer(newer));
            }
        }
        None => {}
    }
    push(&mut ranges, NO_CALL, Leaf::Answer(default));
    ranges
}

fn push_calls(ranges: &mut Vec<Range>, calls: &BTreeMap<u32, Vec<Rule>>, default: u32) {
    for (number, rules) in calls {
        let leaf = match rules.as_slice() {
            [] => Leaf::Answer(default),
            [only] if only.tests.is_empty() => Leaf::Answer(only.answer),
            _ => Leaf::Rules(rules.clone()),
        };
        push(ranges, *number, leaf);
        push(ranges, number + 1, Leaf::Answer(default));
    }
}

/// Starts a range, in place of one that starts at the same number.
fn push(ranges: &mut Vec<Range>, start: u32, leaf: Leaf) {
    if ranges.last().is_some_and(|range| range.start == start) {
        ranges.pop();
    }
    // Equal neighbours are merged at once, so that the list stays short.
    if ranges.last().is_none_or(|range| range.leaf != leaf) {
        ranges.push(Range { start, leaf });
    }
}

/// Where code starts, counted from the end of the program.
type Label = usize;

/// A program under construction, last instruction first.
#[derive(Default)]
struct Code {
    reversed: Vec<Instruction>,
    /// The latest return of each answer.
    answers: BTreeMap<u32, Label>,
}

impl Code {
    /// The number of instructions between the next one to be emitted and `target`.
    fn distance(&self, target: Label) -> usize {
        self.reversed.len() - target - 1
    }

    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Label {
        self.reversed.push(Instruction { code, jt, jf, k });
        self.reversed.len() - 1
    }

    /// An instruction that goes on at `next`.
    fn emit(&mut self, code: u16, k: u32, next: Label) -> Label {
        if self.distance(next) > 0 {
            let skip = u32::try_from(self.distance(next)).unwrap_or(u32::MAX);
            self.push(JUMP, 0, 0, skip);
        }
        self.push(code, 0, 0, k)
    }

    /// A return; one that is near enough for any jump soon to come is used again.
    fn answer(&mut self, value: u32) -> Label {
        const NEAR: usize = 200;
        if let Some(label) = self.answers.get(&value).copied().filter(|label| self.reversed.len() - label < NEAR) {
            return label;
        }
        let label = self.push(RETURN, 0, 0, value);
        self.answers.insert(value, label);
        label
    }

    /// A target that a conditional jump can reach even after `more` further instructions.
    fn near(&mut self, target: Label, more: usize) -> Label {
        if self.distance(target) + more <= usize::from(u8::MAX) {
            return target;
        }
        let skip = u32::try_from(self.distance(target)).unwrap_or(u32::MAX);
        self.push(JUMP, 0, 0, skip)
    }

    /// A test of the accumulator against a constant.
    fn test(&mut self, code: u16, k: u32, yes: Label, no: Label) -> Label {
        let yes = self.near(yes, 1);
        let no = self.near(no, 0);
        let jt = u8::try_from(self.distance(yes)).unwrap_or(u8::MAX);
        let jf = u8::try_from(self.distance(no)).unwrap_or(u8::MAX);
        self.push(code, jt, jf, k)
    }

    /// A binary tree over the ranges; the accumulator has the call's number.
    fn tree(&mut self, ranges: &[Range]) -> Label {
        match ranges {
            [] => self.answer(KILL_PROCESS),
            [only] => match &only.leaf {
                Leaf::Answer(value) => self.answer(*value),
                Leaf::Rules(rules) => self.rules(rules),
            },
            _ => {
                let (low, high) = ranges.split_at(ranges.len() / 2);
                let yes = self.tree(high);
                let no = self.tree(low);
                let start = high.first().map_or(0, |range| range.start);
                self.test(JUMP_GREATER_EQUAL, start, yes, no)
            }
        }
    }

    /// The tests of one call; the last rule has none.
    fn rules(&mut self, rules: &[Rule]) -> Label {
        let mut next = self.answer(KILL_PROCESS);
        for rule in rules.iter().rev() {
            let mut label = self.answer(rule.answer);
            for test in rule.tests.iter().rev() {
                label = self.argument(test, label, next);
            }
            next = label;
        }
        next
    }

    /// A comparison of a 64-bit argument, as two of 32 bits.
    fn argument(&mut self, arg: &LinuxSeccompArg, yes: Label, no: Label) -> Label {
        use LinuxSeccompOperator as Op;
        let (value, second) = (arg.value(), arg.value_two().unwrap_or(0));
        let index = u32::try_from(arg.index()).unwrap_or(0);
        let low_at = ARGS_OFFSET + 8 * index;
        let halves = |value: u64| ((value >> 32) as u32, (value & 0xffff_ffff) as u32);
        let (high, low) = halves(value);
        match arg.op() {
            Op::ScmpCmpEq => self.equal(low_at, (high, low), None, (yes, no)),
            Op::ScmpCmpNe => self.equal(low_at, (high, low), None, (no, yes)),
            Op::ScmpCmpMaskedEq => self.equal(low_at, halves(second), Some((high, low)), (yes, no)),
            Op::ScmpCmpGt => self.greater(JUMP_GREATER, low_at, (high, low), (yes, no)),
            Op::ScmpCmpGe => self.greater(JUMP_GREATER_EQUAL, low_at, (high, low), (yes, no)),
            Op::ScmpCmpLt => self.greater(JUMP_GREATER_EQUAL, low_at, (high, low), (no, yes)),
            Op::ScmpCmpLe => self.greater(JUMP_GREATER, low_at, (high, low), (no, yes)),
        }
    }

    /// Whether both halves are equal, perhaps after a mask.
    fn equal(&mut self, low_at: u32, value: (u32, u32), mask: Option<(u32, u32)>, to: (Label, Label)) -> Label {
        let (yes, no) = to;
        let low = self.test(JUMP_EQUAL, value.1, yes, no);
        let low = self.load(low_at, mask.map(|mask| mask.1), low);
        let high = self.test(JUMP_EQUAL, value.0, low, no);
        self.load(low_at + 4, mask.map(|mask| mask.0), high)
    }

    /// Whether the high half is greater, or equal and the low half passes `low_code`.
    fn greater(&mut self, low_code: u16, low_at: u32, value: (u32, u32), to: (Label, Label)) -> Label {
        let (yes, no) = to;
        let low = self.test(low_code, value.1, yes, no);
        let low = self.load(low_at, None, low);
        let equal = self.test(JUMP_EQUAL, value.0, low, no);
        let high = self.test(JUMP_GREATER, value.0, yes, equal);
        self.load(low_at + 4, None, high)
    }

    /// Loads a word and masks it, and goes on at `next`.
    fn load(&mut self, at: u32, mask: Option<u32>, next: Label) -> Label {
        let next = match mask {
            Some(mask) => self.emit(AND, mask, next),
            None => next,
        };
        self.emit(LOAD, at, next)
    }
}
