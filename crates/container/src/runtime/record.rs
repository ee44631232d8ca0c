//! What is written down of a container.

use super::folder::Folder;
use crate::agent::Listener;
use crate::error::{Doing, Result, SetupError};
use crate::resctrl::Resctrl;
use cgroup::GroupRecord;
use cgroup::systemd::Scope;
use control::{FailureKind, SeccompProgram};
use oci_spec::runtime::{Hook, LinuxPersonalityDomain, Process};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The form of the file; another one is refused.
const FORM: u32 = 2;

/// All that later commands need of the configuration, which may have changed by then.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record<'a> {
    pub(crate) form: u32,
    pub(crate) oci_version: Cow<'a, str>,
    pub(crate) id: Cow<'a, str>,
    pub(crate) bundle: Cow<'a, Path>,
    pub(crate) rootfs: PathBuf,
    /// RFC 3339.
    pub(crate) created: String,
    /// The user who made it.
    pub(crate) owner: u32,
    pub(crate) annotations: Cow<'a, Option<HashMap<String, String>>>,
    /// The control group that it is to have.
    pub(crate) group: GroupRecord,
    /// The slice and the unit, where systemd makes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) scope: Option<(String, String)>,
    /// Whether its processes have a pid namespace of their own, and so end with the first.
    pub(crate) own_pids: bool,
    pub(crate) process: Cow<'a, Process>,
    #[serde(default, skip_serializing_if = "<[Hook]>::is_empty")]
    pub(crate) poststart: Cow<'a, [Hook]>,
    #[serde(default, skip_serializing_if = "<[Hook]>::is_empty")]
    pub(crate) poststop: Cow<'a, [Hook]>,
    /// The flags of the filter in the file `seccomp`.
    pub(crate) seccomp_flags: Option<u32>,
    /// Where the agent listens that answers system calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) listener: Option<Listener>,
    /// The execution domain of its processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) personality: Option<LinuxPersonalityDomain>,
    /// What is mounted where its root file system is, if that gets mounted over in mounts that are the caller's too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) beneath: Option<u64>,
    /// Whether processes get a session keyring of the container's.
    pub(crate) keyring: bool,
    /// Where the configuration binds from outside: destinations.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) binds: Vec<PathBuf>,
    /// What the configuration hides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) masked: Vec<PathBuf>,
    /// Namespaces that were there before: kind and path.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) joined: Vec<(String, PathBuf)>,
}

/// The first process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Birth {
    pub(crate) pid: i32,
    /// Which of the processes that ever have this number it is.
    #[serde(flatten)]
    pub(crate) mark: Mark,
    /// The namespaces that it does not share with us, as clone(2) has them.
    pub(crate) namespaces: u64,
    /// The control group that it has: a user may have got less than was wanted.
    pub(crate) group: GroupRecord,
    /// Its class of service, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) resctrl: Option<Resctrl>,
    /// The file that tells whether the group is frozen.
    pub(crate) freezer: Option<PathBuf>,
    /// Where it comes from.
    #[serde(default, skip_serializing_if = "Origin::is_made")]
    pub(crate) origin: Origin,
}

/// What tells a process from a later one of the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mark {
    /// The number of its inode in pidfs, which no other process gets until the next boot: Linux 6.9.
    Inode(u64),
    /// When the kernel says it began, in ticks since boot.
    Start(u64),
}

/// Where a first process comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Origin {
    /// Made here: it waits until it is started, and executes the program then.
    #[default]
    Made,
    /// Made of a checkpoint, in which it had been started already.
    Restored,
}

impl Origin {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
    fn is_made(&self) -> bool {
        *self == Self::Made
    }
}

impl<'a> Record<'a> {
    /// The form that this program writes.
    pub(crate) const FORM: u32 = FORM;

    /// Writes the record of a new container, with its filter.
    pub(crate) fn write(&self, folder: &Folder, seccomp: Option<&[u8]>) -> Result<()> {
        folder.begin_record(&serde_json::to_vec(self).doing(|| "cannot write the record")?)?;
        seccomp.map_or(Ok(()), |bytes| folder.write("seccomp", bytes))
    }

    /// Reads the record, with the first process if there was one yet; `None` where the container was never made.
    ///
    /// # Errors
    /// [`FailureKind::Internal`] for a record of another form.
    pub(crate) fn read(folder: &Folder) -> Result<Option<(Record<'static>, Option<Birth>)>> {
        let Some(bytes) = folder.record()? else { return Ok(None) };
        let at = |error: SetupError| {
            let message = format!("{}: {}", folder.path().join("state.json").display(), error.message);
            SetupError { message, ..error }
        };
        Self::parse(&bytes).map_err(at)
    }

    /// As [`Self::read`], of the file's bytes.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(Record<'static>, Option<Birth>)>> {
        let mut parts = serde_json::Deserializer::from_slice(bytes);
        let record = match Record::<'static>::deserialize(&mut parts) {
            Ok(record) => record,
            // empty or cut short: nothing was made behind it
            Err(error) if error.is_eof() => return Ok(None),
            Err(error) => return Err(error).doing(|| "no record"),
        };
        if record.form != FORM {
            let text = format!("it is of form {}, this program knows {FORM}", record.form);
            return Err(SetupError::new(FailureKind::Internal, text));
        }
        // one that is cut short was not acted upon
        let births = parts.into_iter::<Birth>().map_while(std::result::Result::ok);
        Ok(Some((record, births.last())))
    }

    /// Its unit of systemd's.
    pub(crate) fn unit(&self) -> Option<Scope> {
        self.scope.clone().map(|(slice, unit)| Scope { slice, unit })
    }

    /// The compiled filter.
    pub(crate) fn seccomp(&self, folder: &Folder) -> Result<Option<SeccompProgram>> {
        let Some(flags) = self.seccomp_flags else { return Ok(None) };
        let bytes = folder.read("seccomp")?.unwrap_or_default();
        let (whole, rest) = bytes.as_chunks::<8>();
        if whole.is_empty() || !rest.is_empty() {
            return Err(SetupError::new(FailureKind::Internal, "the container's seccomp program is damaged"));
        }
        let instructions = whole.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
        Ok(Some(SeccompProgram { flags, instructions }))
    }
}

impl Birth {
    /// Adds the first process to the record; what is added last counts.
    pub(crate) fn write(&self, folder: &Folder) -> Result<()> {
        folder.add_to_record(&serde_json::to_vec(self).doing(|| "cannot write the record")?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record with one first process, as it stood on a disk.
    const WHOLE: &str = include_str!("../../../../fuzz/corpus-seeds/container_record/record");

    fn birth(text: &str) -> Option<i32> {
        let (record, birth) = Record::parse(text.as_bytes()).unwrap().unwrap();
        assert_eq!(record.id, "finz");
        birth.map(|birth| birth.pid)
    }

    #[test]
    fn the_last_whole_process_counts() {
        let (alone, process) = WHOLE.split_at(WHOLE.find("{\"pid\":").unwrap());
        assert_eq!(birth(alone), None);
        assert_eq!(birth(WHOLE), Some(7));
        let twice = WHOLE.to_owned() + &process.replace("\"pid\":7", "\"pid\":8");
        assert_eq!(birth(&twice), Some(8));
        assert_eq!(birth(&twice[..twice.len() - 1]), Some(7));
    }

    #[test]
    fn what_is_cut_short_was_never_made_and_other_forms_are_refused() {
        for length in [0, 1, 400] {
            assert!(Record::parse(&WHOLE.as_bytes()[..length]).unwrap().is_none());
        }
        let other = WHOLE.replace("\"form\":2", "\"form\":1");
        assert!(Record::parse(other.as_bytes()).unwrap_err().message.contains("form 1"));
    }
}
