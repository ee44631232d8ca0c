//! What the fuzz targets call. The seeds in `fuzz/corpus-seeds` go through the same functions in this crate's tests.

use oci_spec::runtime::LinuxSeccomp;

use crate::digest::Digest;
use crate::reference::Reference;
use crate::seccomp::{ProfileHost, Program, compile, parse_docker_profile_for};

/// An image name or a digest. What is understood is written so that it is understood again.
pub fn reference(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text, "a digest has one spelling");
    }
    match text.parse::<Reference>() {
        Ok(reference) => {
            for written in [reference.to_string(), reference.familiar()] {
                assert_eq!(written.parse().as_ref(), Ok(&reference), "{text:?} is written {written:?}");
            }
        }
        // the message finds its place in the text
        Err(error) => drop(error.to_string()),
    }
}

/// A profile, in Docker's form and in the specification's, through the compiler.
pub fn seccomp(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let host = ProfileHost { arch: "amd64".to_owned(), kernel: (6, 1) };
    for caps in [&[][..], &["CAP_SYS_ADMIN", "CAP_BPF"]] {
        if let Ok(profile) = parse_docker_profile_for(text, caps, &host) {
            compiled(&profile);
        }
    }
    if let Ok(profile) = serde_json::from_str(text) {
        compiled(&profile);
    }
}

fn compiled(profile: &LinuxSeccomp) {
    let Ok(program) = compile(profile) else { return };
    let code = &program.instructions;
    assert!((1..=4096).contains(&code.len()), "{} instructions", code.len());
    for (at, instruction) in code.iter().enumerate() {
        let farthest = match instruction.code {
            // the end of the road
            0x06 => continue,
            0x05 => instruction.k as usize,
            jump if jump & 7 == 5 => instruction.jt.max(instruction.jf).into(),
            _ => 0,
        };
        assert!(at + 1 + farthest < code.len(), "instruction {at} leaves the program: {instruction:?}");
    }
    let again = Program::from_bytes(program.flags, &program.to_bytes());
    assert_eq!(again.map(|again| again.instructions).as_ref(), Some(code), "packed and unpacked");
}

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::replay::{Target, disturb, replay};

    const TARGETS: &[Target] = &[("oci_reference", super::reference), ("oci_seccomp", super::seccomp)];

    #[test]
    fn seeds_replay() {
        replay(TARGETS);
    }

    #[test]
    fn noise_and_damaged_seeds_do_no_harm() {
        disturb(TARGETS);
    }
}
