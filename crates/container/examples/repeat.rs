//! Starts a program many times at next to no cost of its own, for the bench: `repeat after|beside COUNT PROGRAM [ARGUMENT…]`.
//!
//! `after` waits for each before the next, `beside` starts all at once; `{}` in an argument becomes the number of the start.

#![no_main]

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::process::{Child, Command, Stdio};

sys::entry!(repeat);
#[cfg(musl)]
sys::in_place_of_glibc!();

fn repeat(arguments: Vec<OsString>) -> u8 {
    let count = arguments.get(2).and_then(|count| count.to_str()).and_then(|count| count.parse::<u32>().ok());
    let (Some(manner), Some(count), Some(program)) = (arguments.get(1), count, arguments.get(3)) else {
        eprintln!("usage: repeat after|beside COUNT PROGRAM [ARGUMENT…]");
        return 2;
    };
    let rest = arguments.get(4..).unwrap_or_default();
    let start = |number: u32| {
        let mut command = Command::new(program);
        command.args(rest.iter().map(|argument| numbered(argument, number))).stdout(Stdio::null());
        command.spawn()
    };
    let ended =
        |child: std::io::Result<Child>| child.and_then(|mut child| child.wait()).is_ok_and(|status| status.success());
    let all = if manner == "beside" {
        let children: Vec<_> = (0..count).map(start).collect();
        children.into_iter().map(ended).filter(|good| *good).count()
    } else {
        (0..count).map(|number| ended(start(number))).filter(|good| *good).count()
    };
    u8::from(u32::try_from(all) != Ok(count))
}

fn numbered(argument: &OsString, number: u32) -> OsString {
    let bytes = argument.as_bytes();
    match bytes.windows(2).position(|pair| pair == b"{}") {
        Some(at) => {
            let (head, tail) = (&bytes[..at], &bytes[at + 2..]);
            OsString::from_vec([head, number.to_string().as_bytes(), tail].concat())
        }
        None => argument.clone(),
    }
}
