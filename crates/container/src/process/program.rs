//! The program that a container's process becomes: where it is, its words and its variables.

use crate::error::{Result, SetupError};
use control::FailureKind;
use oci_spec::runtime::Process;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program, ready for execve.
pub(super) struct Program {
    pub(super) name: String,
    candidates: Vec<CString>,
    pub(super) arguments: Vec<CString>,
    pub(super) environment: Vec<CString>,
}

impl Program {
    pub(super) fn of(process: &Process) -> Result<Self> {
        let arguments = process.args().as_deref().unwrap_or_default();
        let name = arguments.first().ok_or_else(|| SetupError::invalid("process.args: no command is given"))?.clone();
        if name.is_empty() {
            let text = "exec: \"\": executable file not found in $PATH";
            return Err(SetupError::new(FailureKind::CommandNotFound, text));
        }
        let text = |text: &String| {
            CString::new(text.as_str())
                .map_err(|_| SetupError::invalid("a NUL character in the command or its environment"))
        };
        let environment = process.env().as_deref().unwrap_or_default();
        let search =
            environment.iter().rev().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
        let candidates: Vec<String> = if name.contains('/') {
            vec![name.clone()]
        } else {
            let folder =
                |folder: &str| if folder.is_empty() { format!("./{name}") } else { format!("{folder}/{name}") };
            search.split(':').map(folder).collect()
        };
        Ok(Self {
            candidates: candidates.iter().map(text).collect::<Result<_>>()?,
            arguments: arguments.iter().map(text).collect::<Result<_>>()?,
            environment: environment.iter().map(text).collect::<Result<_>>()?,
            name,
        })
    }

    /// The first candidate that can be executed.
    pub(super) fn choose(&self, cwd: &Path) -> Result<&CStr> {
        let mut denied = None;
        for candidate in &self.candidates {
            let path = cwd.join(std::ffi::OsStr::from_bytes(candidate.to_bytes()));
            match rustix::fs::stat(&path) {
                Ok(stat) if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory => {
                    denied = Some(if self.name.contains('/') { Errno::ISDIR } else { Errno::ACCESS });
                }
                Ok(stat) if stat.st_mode & 0o111 != 0 => return Ok(candidate),
                Ok(_) => denied = Some(Errno::ACCESS),
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                // what cannot be seen yet may still be executed
                Err(_) => return Ok(candidate),
            }
        }
        Err(failure(&self.name, denied))
    }
}

/// Leaves of variables with the same name the last, as a shell would understand them.
pub(super) fn last_of_each(environment: &mut Vec<CString>) {
    let name = |variable: &CString| variable.to_bytes().split(|byte| *byte == b'=').next().map(<[u8]>::len);
    let mut at = environment.len();
    while let Some(earlier) = at.checked_sub(1) {
        at = earlier;
        let same = |later: &CString| {
            let length = environment.get(at).and_then(name).unwrap_or(0);
            name(later) == Some(length)
                && environment.get(at).is_some_and(|one| one.to_bytes().get(..length) == later.to_bytes().get(..length))
        };
        if environment.iter().skip(at + 1).any(same) {
            environment.remove(at);
        }
    }
}

/// The home folder of a user in the container's list of users; `/` where it is not there. The list comes from an image: it is
/// read as far as a sane one goes, and only if it is a file.
pub(super) fn home(uid: u32) -> Option<CString> {
    const LONGEST: u64 = 4 << 20;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let text = rustix::fs::open("/etc/passwd", flags, Mode::empty()).ok().and_then(|file| {
        let stat = rustix::fs::fstat(&file).ok()?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
            return None;
        }
        let mut text = Vec::new();
        std::fs::File::from(file).take(LONGEST).read_to_end(&mut text).ok()?;
        Some(text)
    });
    let found = text.as_ref().and_then(|text| {
        text.split(|byte| *byte == b'\n').find_map(|line| {
            let mut fields = line.split(|byte| *byte == b':');
            let number = std::str::from_utf8(fields.nth(2)?).ok()?.parse::<u32>().ok()?;
            let home = fields.nth(2).filter(|home| !home.is_empty())?;
            (number == uid).then_some(home)
        })
    });
    CString::new([b"HOME=", found.unwrap_or(b"/")].concat()).ok()
}

/// Why a program of this name cannot run; without an errno it was not found.
pub(super) fn failure(name: &str, denied: Option<Errno>) -> SetupError {
    let not_found = |text: String| SetupError::new(FailureKind::CommandNotFound, text);
    let refused = |text: String| SetupError::new(FailureKind::CommandNotExecutable, text);
    match denied {
        None if name.contains('/') => not_found(format!("exec: {name:?}: stat {name}: no such file or directory")),
        None => not_found(format!("exec: {name:?}: executable file not found in $PATH")),
        Some(Errno::ACCESS) => refused(format!("exec: {name:?}: permission denied")),
        // the last words are what execve says of one, by which podman and docker know exit code 126
        Some(Errno::ISDIR) => refused(format!("exec: {name:?}: is a directory: permission denied")),
        // it is there, and what it names to run it is not
        Some(Errno::NOENT | Errno::NOTDIR) => not_found(format!("exec {name}: no such file or directory")),
        Some(Errno::NOEXEC) => refused(format!("exec {name}: exec format error")),
        Some(errno) => refused(format!("exec {name}: {errno}")),
    }
}
