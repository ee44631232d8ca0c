//! Device rules: checked, reduced, and turned into version 1 lines or a version 2 program.
//!
//! The last rule that matches an access decides; where none does, the access is allowed, as in a group that nobody has
//! touched. A rule for everything therefore makes all rules before it pointless, and [`rules`] drops those.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use crate::{CgroupError, Result};

/// What kind of node a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Node {
    Any,
    Block,
    Char,
}

/// Whether a rule opens or closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Allow,
    Deny,
}

/// The kernel's access bits, `BPF_DEVCG_ACC_*`.
const MKNOD: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;
const EVERY_ACCESS: u8 = MKNOD | READ | WRITE;

/// One checked rule; `None` numbers match every number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) verdict: Verdict,
    pub(crate) node: Node,
    pub(crate) major: Option<u32>,
    pub(crate) minor: Option<u32>,
    access: u8,
}

impl Rule {
    /// Whether the rule is for every device and every access.
    pub(crate) fn is_for_everything(&self) -> bool {
        self.node == Node::Any && self.major.is_none() && self.minor.is_none() && self.access == EVERY_ACCESS
    }

    /// Whether the rule, of the same verdict, makes the other pointless.
    fn covers(&self, other: &Self) -> bool {
        self.verdict == other.verdict
            && (self.node == other.node || self.node == Node::Any)
            && (self.major.is_none() || self.major == other.major)
            && (self.minor.is_none() || self.minor == other.minor)
            && self.access & other.access == other.access
    }

    /// The rule as a line for `devices.allow` or `devices.deny`.
    pub(crate) fn line(&self) -> String {
        let number = |number: Option<u32>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
        let node = match self.node {
            Node::Any => return "a".to_owned(),
            Node::Block => 'b',
            Node::Char => 'c',
        };
        let access: String = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')]
            .iter()
            .filter(|(bit, _)| self.access & bit != 0)
            .map(|(_, c)| c)
            .collect();
        format!("{node} {}:{} {access}", number(self.major), number(self.minor))
    }
}

/// Checks the specification's rules and drops those that a later rule for everything makes pointless.
pub(crate) fn rules(given: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>> {
    let mut rules = Vec::with_capacity(given.len());
    for rule in given {
        check_into(rule, &mut rules)?;
    }
    if let Some(last) = rules.iter().rposition(Rule::is_for_everything) {
        rules.drain(..last);
    }
    Ok(rules)
}

/// The rules of a container that an OCI runtime starts: everything is denied, then come the specification's rules in
/// their order, then the devices that every container has. Whoever wants all devices says so in one rule for everything.
///
/// # Source
/// runtime-spec `config-linux.md`, Default Devices, and the list that runc adds.
pub(crate) fn container_rules(given: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>> {
    let rule = |verdict, node, numbers: Option<(u32, Option<u32>)>, access| Rule {
        verdict,
        node,
        major: numbers.map(|(major, _)| major),
        minor: numbers.and_then(|(_, minor)| minor),
        access,
    };
    let mut all = vec![rule(Verdict::Deny, Node::Any, None, EVERY_ACCESS)];
    for one in given {
        check_into(one, &mut all)?;
    }
    if let Some(last) = all.iter().rposition(Rule::is_for_everything) {
        all.drain(..last);
    }
    if all.first().is_some_and(|first| first.verdict == Verdict::Allow) {
        return Ok(all);
    }
    for node in [Node::Char, Node::Block] {
        all.push(rule(Verdict::Allow, node, None, MKNOD));
    }
    for (major, minor) in DEFAULT_DEVICES {
        all.push(rule(Verdict::Allow, Node::Char, Some((major, minor)), EVERY_ACCESS));
    }
    // Podman and containerd name the same devices again: a line less for each.
    let denies_later = all.iter().skip(1).any(|rule| rule.verdict == Verdict::Deny);
    if !denies_later {
        let mut seen: Vec<Rule> = Vec::with_capacity(all.len());
        for rule in all {
            if !seen.iter().any(|known| known.covers(&rule)) {
                seen.push(rule);
            }
        }
        return Ok(seen);
    }
    Ok(all)
}

/// `null`, `zero`, `full`, `random`, `urandom`, `tty`, `console`, `ptmx`, and pseudo terminals.
const DEFAULT_DEVICES: [(u32, Option<u32>); 9] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(1)),
    (5, Some(2)),
    (136, None),
];

/// Checks one rule of the specification and adds what it becomes.
fn check_into(rule: &LinuxDeviceCgroup, rules: &mut Vec<Rule>) -> Result<()> {
    let bad = |reason| CgroupError::DeviceRule { rule: rule.to_string(), reason };
    let verdict = if rule.allow() { Verdict::Allow } else { Verdict::Deny };
    let mut access = 0;
    for letter in rule.access().as_deref().unwrap_or_default().chars() {
        access |= match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MKNOD,
            // means nothing beside other letters, and every access alone; runc takes it so
            'a' => 0,
            _ => return Err(bad("an access is made of the letters r, w and m")),
        };
    }
    if access == 0 {
        access = EVERY_ACCESS;
    }
    let number = |number: Option<i64>| match number {
        None | Some(-1) => Ok(None),
        // The program compares with signed 32-bit constants; device numbers are far smaller.
        Some(number) => match i32::try_from(number) {
            Ok(number) if number >= 0 => Ok(Some(number.unsigned_abs())),
            _ => Err(bad("a device number is out of range")),
        },
    };
    let (major, minor) = (number(rule.major())?, number(rule.minor())?);
    let nodes: &[Node] = match rule.typ().unwrap_or(LinuxDeviceType::A) {
        // In version 1 the letter a ignores everything after it, so a narrower rule for both kinds is two rules.
        LinuxDeviceType::A if major.is_none() && minor.is_none() && access == EVERY_ACCESS => &[Node::Any],
        LinuxDeviceType::A => &[Node::Block, Node::Char],
        LinuxDeviceType::B => &[Node::Block],
        LinuxDeviceType::C | LinuxDeviceType::U => &[Node::Char],
        LinuxDeviceType::P => return Err(bad("a pipe is not a device")),
    };
    for &node in nodes {
        rules.push(Rule { verdict, node, major, minor, access });
    }
    Ok(())
}

/// Whether the rules restrict nothing.
pub(crate) fn allow_everything(rules: &[Rule]) -> bool {
    rules.iter().all(|rule| rule.verdict == Verdict::Allow)
}

/// One eBPF instruction: `code`, destination and source register, offset, constant.
const fn instruction(code: u8, dst: u8, src: u8, offset: i16, constant: i32) -> u64 {
    let registers = dst | (src << 4);
    u64::from_le_bytes([
        code,
        registers,
        offset.to_le_bytes()[0],
        offset.to_le_bytes()[1],
        constant.to_le_bytes()[0],
        constant.to_le_bytes()[1],
        constant.to_le_bytes()[2],
        constant.to_le_bytes()[3],
    ])
}

/// Load a 32-bit word: `BPF_LDX | BPF_MEM | BPF_W`.
const LOAD_WORD: u8 = 0x61;
/// `BPF_ALU64 | BPF_AND | BPF_K`, `BPF_RSH | BPF_K`, `BPF_MOV | BPF_X`, `BPF_MOV | BPF_K`.
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const MOVE: u8 = 0xbf;
const SET: u8 = 0xb7;
/// `BPF_JMP | BPF_JNE | BPF_K`, `BPF_JNE | BPF_X`, `BPF_JEQ | BPF_K`, `BPF_EXIT`.
const JUMP_UNEQUAL: u8 = 0x55;
const JUMP_UNEQUAL_REGISTER: u8 = 0x5d;
const JUMP_EQUAL: u8 = 0x15;
const EXIT: u8 = 0x95;

/// The rules as a `BPF_PROG_TYPE_CGROUP_DEVICE` program, which returns 1 to allow.
///
/// Registers: 1 is the context and then scratch, 2 the kind of node, 3 the access bits, 4 and 5 the numbers. The rules
/// are tested from the last to the first, so the first that matches decides.
///
/// # Source
/// Linux `struct bpf_cgroup_dev_ctx`.
pub(crate) fn program(rules: &[Rule]) -> Vec<u64> {
    let mut code = vec![
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(LOAD_WORD, 4, 1, 4, 0),
        instruction(LOAD_WORD, 5, 1, 8, 0),
        instruction(MOVE, 3, 2, 0, 0),
        instruction(AND, 2, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, 3, 0, 0, 16),
    ];
    for rule in rules.iter().rev() {
        let mut tests: Vec<(u8, u8, u8, i32)> = Vec::new();
        match rule.node {
            Node::Any => {}
            Node::Block => tests.push((JUMP_UNEQUAL, 2, 0, 1)),
            Node::Char => tests.push((JUMP_UNEQUAL, 2, 0, 2)),
        }
        if rule.access != EVERY_ACCESS {
            tests.push((MOVE, 1, 3, 0));
            tests.push((AND, 1, 0, i32::from(rule.access)));
            // An allow rule must cover all that is asked for; a deny rule needs only one bit of it.
            tests.push(match rule.verdict {
                Verdict::Allow => (JUMP_UNEQUAL_REGISTER, 1, 3, 0),
                Verdict::Deny => (JUMP_EQUAL, 1, 0, 0),
            });
        }
        for (register, number) in [(4, rule.major), (5, rule.minor)] {
            if let Some(number) = number {
                tests.push((JUMP_UNEQUAL, register, 0, number.cast_signed()));
            }
        }
        let end = tests.len() + 2;
        for (at, (op, dst, src, constant)) in tests.into_iter().enumerate() {
            let is_jump = matches!(op, JUMP_UNEQUAL | JUMP_UNEQUAL_REGISTER | JUMP_EQUAL);
            let offset = if is_jump { i16::try_from(end - at - 1).unwrap_or(0) } else { 0 };
            code.push(instruction(op, dst, src, offset, constant));
        }
        push_return(&mut code, rule.verdict);
    }
    // A rule for everything has answered already, and the verifier of older kernels refuses code that is never reached.
    if !rules.first().is_some_and(Rule::is_for_everything) {
        push_return(&mut code, Verdict::Allow);
    }
    code
}

fn push_return(code: &mut Vec<u64>, verdict: Verdict) {
    code.push(instruction(SET, 0, 0, 0, i32::from(verdict == Verdict::Allow)));
    code.push(instruction(EXIT, 0, 0, 0, 0));
}
