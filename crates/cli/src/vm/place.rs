//! A machine's folder below the run folder: its record, its sockets, its console's past.
//!
//! ```text
//! vm/NAME/machine.json   what it is to be, written before it is started
//!         lock           locked by insula-vmm as long as it lives; its process number
//!         api.sock       its API             console.sock   its serial console
//!         console.log    what it showed      vmm.log        what insula-vmm said
//! ```

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use rustix::fs::{FlockOperation, flock};
use serde_json::Value;

use crate::context::Context;
use crate::failure::{During as _, Failure};
use crate::http::{Body, Connection, Purpose};

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
        if place.file("machine.json").exists() {
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
        for old in ["api.sock", "console.sock", "console.log", "vmm.log"] {
            // What is not there need not go; what can't go is reported when it is made.
            let _absent = fs::remove_file(self.file(old));
        }
        let text = serde_json::to_vec_pretty(spec).during(during)?;
        fs::write(self.file("machine.json"), text).during(during)
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
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
        fs::remove_dir_all(&self.folder).during(|| format!("removing {}", self.folder.display()))
    }

    /// Sends the machine a request and gives the answer's body.
    ///
    /// # Errors
    /// It does not run, or refuses.
    pub(super) fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Vec<u8>, Failure> {
        let mut connection = Connection::open(&self.file("api.sock"))
            .map_err(|_| Failure::new(format!("the machine {:?} is not running", self.name)))?;
        let during = || format!("asking the machine {:?}", self.name);
        let bytes = body.map(|body| body.to_string().into_bytes());
        let body = bytes.as_deref().map_or(Body::Empty, Body::Json);
        connection.send(method, path, body, Purpose::Answer).during(during)?;
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
