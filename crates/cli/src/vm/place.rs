//! A machine's folder below the run folder: its record, its sockets, its console's past.
//!
//! ```text
//! vm/NAME/machine.json   what it is to be, written before it is started
//!         lock           locked by insula-vmm as long as it lives; its process number
//!         api.sock       its API             console.sock   its serial console
//!         console.log    what it showed      vmm.log        what insula-vmm said
//!         inside/        all that insula-vmm sees of the host: vsock.sock, and sockets for the guest, vsock.sock_PORT
//! ```
//!
//! What is in `inside` may be written by a machine that has broken out of its processor: nothing here reads it.

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde_json::Value;

use crate::context::Context;
use crate::failure::{During as _, Failure};
use crate::http::{Body, Connection, HttpError, Purpose};

/// The longest name; a socket's path has room for no more.
const MAX_NAME: usize = 40;

/// A machine's folder.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) name: String,
    pub(super) folder: PathBuf,
}

fn all(context: &Context) -> PathBuf {
    context.run.join("vm")
}

impl Place {
    /// The folder of a name, whether it is there or not.
    ///
    /// # Errors
    /// It is no name.
    pub(super) fn of(context: &Context, name: &str) -> Result<Self, Failure> {
        let inside = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if !first || name.len() > MAX_NAME || !name.bytes().all(inside) {
            return Err(Failure::new(format!(
                "{name:?} is no name of a machine: use letters, digits, \"_\", \".\" and \"-\", at most {MAX_NAME} of them"
            )));
        }
        Ok(Self { name: name.to_owned(), folder: all(context).join(name) })
    }

    /// The folder of a machine that is there.
    ///
    /// # Errors
    /// There is none of that name.
    pub(super) fn find(context: &Context, name: &str) -> Result<Self, Failure> {
        let place = Self::of(context, name)?;
        // One that was killed before it wrote its record is a machine, too: it can be removed.
        if place.folder.is_dir() {
            return Ok(place);
        }
        Err(Failure::new(format!("no machine {name:?} here; see which there are with: insula vm ps --all")))
    }

    /// All machines, sorted by name.
    ///
    /// # Errors
    /// The folder can't be read.
    pub(super) fn list(context: &Context) -> Result<Vec<Self>, Failure> {
        let folder = all(context);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Failure::new(format!("cannot read {}: {error}", folder.display()))),
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut places: Vec<_> = names.filter_map(|name| Self::find(context, &name).ok()).collect();
        places.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(places)
    }

    /// Takes the name for a new machine. The folder of one that has ended is used again.
    ///
    /// # Errors
    /// It is taken, or the folder can't be made.
    pub(super) fn take(&self, spec: &Value) -> Result<(), Failure> {
        let during = || format!("making {}", self.folder.display());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder).during(during)?;
        if self.alive() {
            return Err(Failure::new(format!(
                "a machine {:?} is running; choose another --name, or end it with: insula vm kill {}",
                self.name, self.name
            )));
        }
        for old in ["api.sock", "console.sock", "console.log", "console.log.1", "vmm.log"] {
            // What is not there need not go; what can't go is reported when it is made.
            let _absent = fs::remove_file(self.file(old));
        }
        let _absent = fs::remove_dir_all(self.inside());
        self.remove_group();
        let text = serde_json::to_vec_pretty(spec).during(during)?;
        fs::write(self.file("machine.json"), text).during(during)
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// What the machine's process sees of the host.
    pub(super) fn inside(&self) -> PathBuf {
        self.file("inside")
    }

    /// Whether the machine's process lives.
    pub(super) fn alive(&self) -> bool {
        let Ok(lock) = File::open(self.file("lock")) else { return false };
        flock(&lock, FlockOperation::NonBlockingLockShared).is_err()
    }

    /// The machine's process number, as it has written it.
    pub(super) fn pid(&self) -> Option<i32> {
        fs::read_to_string(self.file("lock")).ok()?.trim().parse().ok()
    }

    /// What the machine is to be.
    pub(super) fn spec(&self) -> Value {
        let read = fs::read(self.file("machine.json")).ok();
        read.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// Forgets the machine.
    ///
    /// # Errors
    /// The folder can't be removed.
    pub(super) fn remove(&self) -> Result<(), Failure> {
        self.remove_group();
        fs::remove_dir_all(&self.folder).during(|| format!("removing {}", self.folder.display()))
    }

    /// The control group of a new process of the machine, noted before it is made.
    ///
    /// # Errors
    /// The note can't be written.
    pub(super) fn new_group(&self) -> Result<String, Failure> {
        let path = format!("insula-vm-{}-{}", self.name, std::process::id());
        let during = || format!("noting the control group of {:?}", self.name);
        // A host without control groups is the machine's process's business.
        if let Ok(group) =
            cgroup::Host::glance(None).and_then(|host| Ok(host.group_at(&host.place(Some(&path), &path)?)))
        {
            let record = serde_json::to_vec(&group.record()).during(during)?;
            fs::write(self.file("cgroup"), record).during(during)?;
        }
        Ok(path)
    }

    /// Removes the control group of a process that has ended.
    fn remove_group(&self) {
        let Ok(text) = fs::read(self.file("cgroup")) else { return };
        if let Ok(record) = serde_json::from_slice(&text) {
            // Groups that are not there need not go, and one that has processes stays with them.
            let _gone = cgroup::Group::from_record(&record).and_then(|group| group.remove());
        }
        let _noted = fs::remove_file(self.file("cgroup"));
    }

    /// Sends the machine a request and gives the answer's body.
    ///
    /// # Errors
    /// It does not run, or refuses.
    pub(super) fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Vec<u8>, Failure> {
        self.exchange(|connection| {
            let bytes = body.map(|body| body.to_string().into_bytes());
            connection.send(method, path, bytes.as_deref().map_or(Body::Empty, Body::Json), Purpose::Answer)
        })
    }

    /// As [`Self::request`], with open files: the machine's process may not see them where they are.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub(super) fn hand_over(&self, path: &str, body: &Value, files: &[(&Path, BorrowedFd<'_>)]) -> Result<(), Failure> {
        let body = body.to_string();
        self.exchange(|connection| connection.send_files("PUT", path, body.as_bytes(), files)).map(drop)
    }

    fn exchange(&self, send: impl FnOnce(&mut Connection) -> Result<(), HttpError>) -> Result<Vec<u8>, Failure> {
        let mut connection = Connection::open(&self.file("api.sock"))
            .map_err(|_| Failure::new(format!("the machine {:?} is not running", self.name)))?;
        let during = || format!("asking the machine {:?}", self.name);
        send(&mut connection).during(during)?;
        let mut head = connection.receive().during(during)?;
        let mut answer = Vec::new();
        if head.status != 204 {
            connection.body(&mut head).read_to_end(&mut answer).during(during)?;
        }
        if head.status < 300 {
            return Ok(answer);
        }
        let said: Value = serde_json::from_slice(&answer).unwrap_or_default();
        let message = said.get("message").and_then(Value::as_str).unwrap_or("it gives no reason");
        Err(Failure::new(message))
    }
}
