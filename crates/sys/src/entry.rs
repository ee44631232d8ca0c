//! Starting without the standard library's own start-up, for programs that live for two milliseconds.
//!
//! Before `main`, the standard library looks for the stack's guard page, sets up a signal stack and asks after the arguments: up to fifty
//! system calls that a runtime of a hundred has no use for. A program that says [`entry!`](crate::entry!) with `#![no_main]` is called by
//! the C library at once. What matters is done here: descriptors 0 to 2 are open, and a broken pipe is an error, not the end.

#![expect(unsafe_code, reason = "the C library hands over pointers")]

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::mm::Advice;
use std::ffi::{CStr, OsString, c_char, c_int, c_void};
use std::os::fd::IntoRawFd;
use std::os::unix::ffi::OsStringExt;

/// Makes a function `fn(Vec<OsString>) -> u8` the program's `main`: arguments with the program's name first, exit code.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[expect(unsafe_code, reason = "the C library calls this name")]
        #[unsafe(no_mangle)]
        extern "C" fn main(count: std::ffi::c_int, vector: *const *const std::ffi::c_char) -> std::ffi::c_int {
            // SAFETY: the C library calls this once, with the kernel's own vector.
            let arguments = unsafe { $crate::entry::arguments(count, vector) };
            let code: u8 = $main(arguments);
            code.into()
        }
    };
}

/// Gives a program that is linked with musl in glibc's place what the standard library asks of glibc alone, and a quicker copy.
#[macro_export]
macro_rules! in_place_of_glibc {
    () => {
        #[cfg(target_arch = "x86_64")]
        $crate::quick_copy!();

        /// The unwinder asks where the tables for an address lie.
        #[expect(unsafe_code, reason = "the unwinder calls this name")]
        #[unsafe(no_mangle)]
        extern "C" fn _dl_find_object(
            address: *mut std::ffi::c_void,
            found: *mut $crate::entry::FoundObject,
        ) -> std::ffi::c_int {
            // SAFETY: the unwinder passes room for the answer.
            unsafe { $crate::entry::find_object(address, found) }
        }

        /// With this version the standard library trusts posix_spawn(3) to report errors, as musl's does.
        #[expect(unsafe_code, reason = "the standard library calls this name")]
        #[unsafe(no_mangle)]
        extern "C" fn gnu_get_libc_version() -> *const std::ffi::c_char {
            c"2.24".as_ptr()
        }

        /// After a name that was not found, the standard library has glibc of that version read its settings again; musl's
        /// resolver reads them each time.
        #[expect(unsafe_code, reason = "the standard library calls this name")]
        #[unsafe(no_mangle)]
        extern "C" fn __res_init() -> std::ffi::c_int {
            0
        }
    };
}

/// `struct dl_find_object` of glibc's `dlfcn.h`, on machines without the field for the data base.
#[repr(C)]
#[derive(Debug, Default)]
pub struct FoundObject {
    flags: u64,
    map_start: usize,
    map_end: usize,
    link_map: usize,
    eh_frame: usize,
    reserved: [u64; 7],
}

/// Answers where this program's own unwind tables lie, the only ones that a static program has. 0 if `address` is in the program.
///
/// # Safety
/// `found` points at room for the answer.
pub unsafe fn find_object(address: *mut c_void, found: *mut FoundObject) -> c_int {
    const GNU_EH_FRAME: u32 = 0x6474_e550;
    let headers = crate::departure::program_headers();
    let loaded = headers.iter().filter(|one| one.p_type == libc::PT_LOAD);
    let size = |value: u64| usize::try_from(value).unwrap_or(0);
    let start = loaded.clone().map(|one| size(one.p_vaddr)).min().unwrap_or(0);
    let end = loaded.map(|one| size(one.p_vaddr + one.p_memsz)).max().unwrap_or(0);
    let tables = headers.iter().find(|one| one.p_type == GNU_EH_FRAME);
    let Some(tables) = tables.filter(|_| (start..end).contains(&address.addr())) else { return -1 };
    let answer =
        FoundObject { map_start: start, map_end: end, eh_frame: size(tables.p_vaddr), ..FoundObject::default() };
    // SAFETY: the caller promises the room.
    unsafe { found.write(answer) };
    0
}

/// The program's arguments; makes the process fit to run, too.
///
/// # Safety
/// `vector` holds `count` pointers to texts that end with a NUL.
#[must_use]
pub unsafe fn arguments(count: c_int, vector: *const *const c_char) -> Vec<OsString> {
    open_standard_streams();
    // SAFETY: nothing else has changed this signal's action, and no handler runs.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    let text = |index: usize| {
        // SAFETY: `index` is below the count.
        let slot = unsafe { vector.add(index) };
        // SAFETY: the slot is one of the vector's.
        let text = unsafe { *slot };
        // SAFETY: a text of the vector, which stays for the life of the process.
        OsString::from_vec(unsafe { CStr::from_ptr(text) }.to_bytes().to_vec())
    };
    (0..usize::try_from(count).unwrap_or(0)).map(text).collect()
}

/// Has the pages that the stack is going to grow into, in a program that uses them: one call, in place of a fault for each.
pub fn touch_stack() {
    /// What reading a configuration takes. The kernel makes a new program's stack larger than that.
    const DEPTH: usize = 64 << 10;
    let mut mark = 0_u8;
    let start = (&raw mut mark).map_addr(|address| (address & !4095) - DEPTH);
    // SAFETY: reads and writes nothing; where the kernel is too old for it or the stack is smaller, it fails and nothing is lost.
    let _ = unsafe { rustix::mm::madvise(start.cast(), DEPTH, Advice::LinuxPopulateWrite) };
}

/// A descriptor of ours must never take the number of a standard stream that the caller left closed.
fn open_standard_streams() {
    let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    let mut asked = streams.map(|stream| PollFd::from_borrowed_fd(stream, PollFlags::empty()));
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let closed = |asked: &[PollFd<'_>]| asked.iter().any(|one| one.revents().contains(PollFlags::NVAL));
    while poll(&mut asked, Some(&at_once)).is_ok() && closed(&asked) {
        // takes the lowest free number, and stays open
        match rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty()) {
            Ok(null) => drop(null.into_raw_fd()),
            Err(_) => return,
        }
    }
}
