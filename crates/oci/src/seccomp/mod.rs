//! System call filters: the default profile, Docker's profile files, and the compiler to the kernel's filter code.
//!
//! ```text
//! default_profile(caps, arch) ─┐
//! parse_docker_profile(json) ──┴─> LinuxSeccomp ── compile ──> Program {flags, instructions}
//! ```
//!
//! A filter runs at every system call of a container, and the kernel checks all of it at every start; so call numbers
//! with the same answer are merged into ranges, and the ranges are searched as a binary tree.

mod compile;
mod docker;
mod profile;
mod table;

pub use compile::compile;
pub use docker::{ProfileHost, parse_docker_profile, parse_docker_profile_for};
pub use profile::default_profile;

/// One instruction of classic BPF: `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// The operation.
    pub code: u16,
    /// How many instructions to skip when a test is true.
    pub jt: u8,
    /// How many instructions to skip when a test is false.
    pub jf: u8,
    /// The constant.
    pub k: u32,
}

/// A compiled filter, ready for seccomp(2).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Program {
    /// The flags for `SECCOMP_SET_MODE_FILTER`.
    pub flags: u32,
    /// The code.
    pub instructions: Vec<Instruction>,
    /// Names in the profile that are no system call of any architecture of this machine; nothing is done about them.
    pub unknown: Vec<String>,
}

impl Program {
    /// The code with each instruction packed as `code | jt << 16 | jf << 24 | k << 32`, as loading takes it.
    #[must_use]
    pub fn packed(&self) -> Vec<u64> {
        self.to_bytes().as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect()
    }

    /// The code as bytes, eight an instruction, for keeping it beside a container.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.instructions.len() * 8);
        for Instruction { code, jt, jf, k } in &self.instructions {
            bytes.extend(code.to_le_bytes());
            bytes.extend([*jt, *jf]);
            bytes.extend(k.to_le_bytes());
        }
        bytes
    }

    /// A program from its flags and the bytes that [`Program::to_bytes`] gave; `None` when they are cut short.
    #[must_use]
    pub fn from_bytes(flags: u32, bytes: &[u8]) -> Option<Self> {
        let (whole, rest) = bytes.as_chunks::<8>();
        if !rest.is_empty() {
            return None;
        }
        let decode = |&[c0, c1, jt, jf, k0, k1, k2, k3]: &[u8; 8]| Instruction {
            code: u16::from_le_bytes([c0, c1]),
            jt,
            jf,
            k: u32::from_le_bytes([k0, k1, k2, k3]),
        };
        Some(Self { flags, instructions: whole.iter().map(decode).collect(), unknown: Vec::new() })
    }
}

/// A profile that can't be read or compiled.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// A profile that is no JSON of the expected shape.
    #[error("the seccomp profile is not valid JSON of Docker's form")]
    Json {
        /// Why, with line and column.
        #[source]
        source: serde_json::Error,
    },
    /// Both ways to name architectures, or both ways to name a call.
    #[error("the seccomp profile has both {first} and {second}; keep one of them")]
    Ambiguous {
        /// One of the two.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// A kernel version that is none.
    #[error("the seccomp profile asks for kernel {text:?}; a version looks like 4.8")]
    KernelVersion {
        /// The version as written.
        text: String,
    },
    /// An argument that no system call has.
    #[error("the seccomp rule for {name} tests argument {index}; arguments are numbered 0 to 5")]
    ArgumentIndex {
        /// The call's name.
        name: String,
        /// The number as written.
        index: usize,
    },
    /// An errno that does not fit.
    #[error("the seccomp profile answers with errno {errno}; the largest is 4095")]
    Errno {
        /// The number as written.
        errno: u32,
    },
    /// A program that the kernel would refuse for its size.
    #[error("the seccomp profile needs {length} instructions; the kernel takes 4096")]
    TooLong {
        /// How many instructions it needs.
        length: usize,
    },
}

#[cfg(test)]
mod tests;
