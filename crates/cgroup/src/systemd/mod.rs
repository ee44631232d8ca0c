//! Groups that systemd makes: a transient scope for each container, asked for over D-Bus.
//!
//! ```text
//! Scope::parse("slice:prefix:name") ── Systemd::connect ── start(scope, pid, ...) ── Host::adopt(scope.place(...))
//!                                                        └ set(scope, ...)        └ stop(scope)
//! ```
//! systemd makes the group, puts the process into it and hands it over (`Delegate`); what systemd has no word for is
//! written afterwards by [`Host::adopt`](crate::Host::adopt), as without it.
//!
//! # Source
//! org.freedesktop.systemd1(5), systemd.resource-control(5), and the properties that runc sets.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;

use crate::dbus::{Bus, ERROR, Message, REPLY, Reader, SIGNAL, Target, Value};
use crate::device::{self, Node, Rule, Verdict};
use crate::plan_v2::weight_of_shares;
use crate::{Place, Rights, Version};

/// What went wrong between us and systemd.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// No systemd to talk to.
    #[error("cannot reach systemd at {}; is it running? Leave --systemd-cgroup out where it is not", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The connection broke.
    #[error("cannot ask systemd for {method}")]
    Transfer {
        /// The call.
        method: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// systemd said no.
    #[error("systemd refuses {method} of {unit}: {message} ({name})")]
    Refused {
        /// The call.
        method: &'static str,
        /// The unit.
        unit: String,
        /// systemd's name of the error.
        name: String,
        /// systemd's words.
        message: String,
    },
    /// systemd tried and failed.
    #[error("systemd could not carry out {method} of {unit}: the job ended with {result:?}; see journalctl -u {unit}")]
    Job {
        /// The call.
        method: &'static str,
        /// The unit.
        unit: String,
        /// How it ended.
        result: String,
    },
    /// A group path that is not for systemd.
    #[error("expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {path:?} instead")]
    Path {
        /// The path as given.
        path: String,
    },
    /// A slice that systemd would not take.
    #[error("invalid slice name {slice:?}: it ends in .slice and has no slashes, empty parts or \"..\"")]
    Slice {
        /// The slice as given.
        slice: String,
    },
    /// An annotation for a property that makes no sense.
    #[error("invalid annotation org.systemd.property.{name}={value}: {reason}")]
    Property {
        /// The property.
        name: String,
        /// Its value.
        value: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The resources themselves are wrong.
    #[error("invalid resources")]
    Resources(#[source] Box<crate::CgroupError>),
}

type Result<T> = std::result::Result<T, SystemdError>;

/// The annotations that become properties.
const PROPERTY: &str = "org.systemd.property.";
const MANAGER: Target = Target {
    destination: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
};
const BUS: Target =
    Target { destination: "org.freedesktop.DBus", path: "/org/freedesktop/DBus", interface: "org.freedesktop.DBus" };
const PROPERTIES: Target = Target { interface: "org.freedesktop.DBus.Properties", ..MANAGER };

/// A unit of systemd's and the slice that it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// The slice, such as `machine.slice`.
    pub slice: String,
    /// The unit, such as `libpod-ID.scope`.
    pub unit: String,
}

impl Scope {
    /// Takes the form `slice:prefix:name`; an absent path is `insula-ID.scope` in the default slice, and so is each part
    /// that is empty.
    ///
    /// # Errors
    /// When the path has another form, or systemd would not take the slice.
    pub fn parse(cgroups_path: Option<&str>, id: &str, rights: Rights) -> Result<Self> {
        let path = cgroups_path.filter(|path| !path.is_empty());
        let default = if rights == Rights::User { "user.slice" } else { "system.slice" };
        let given = path.map(|path| path.split(':').collect::<Vec<_>>());
        let (slice, prefix, name) = match given.as_deref() {
            None => (default, "insula", id),
            Some([slice, prefix, name]) => (*slice, *prefix, *name),
            Some(_) => return Err(SystemdError::Path { path: path.unwrap_or_default().to_owned() }),
        };
        let slice = if slice.is_empty() { default } else { slice };
        expand(slice)?;
        let name = if name.is_empty() { id } else { name };
        if name.contains('/') || prefix.contains('/') {
            return Err(SystemdError::Path { path: path.unwrap_or_default().to_owned() });
        }
        let unit = match prefix {
            _ if Path::new(name).extension().is_some_and(|kind| kind == "slice") => name.to_owned(),
            "" => format!("{name}.scope"),
            prefix => format!("{prefix}-{name}.scope"),
        };
        Ok(Self { slice: slice.to_owned(), unit })
    }

    /// The group's place below `top`, the group of the systemd that makes it (`/` for the system's).
    ///
    /// # Errors
    /// When the slice or the top can't be part of a path.
    pub fn place(&self, top: &str, rights: Rights) -> Result<Place> {
        let path = format!("{}/{}{}", top.trim_end_matches('/'), expand(&self.slice)?, self.unit);
        Place::absolute(&path, rights).map_err(|error| SystemdError::Resources(Box::new(error)))
    }
}

/// The folders of a slice: `a-b.slice` is in `a.slice`. Ends with a slash unless it is empty.
fn expand(slice: &str) -> Result<String> {
    let bad = || SystemdError::Slice { slice: slice.to_owned() };
    let name = slice.strip_suffix(".slice").filter(|name| !name.contains('/')).ok_or_else(bad)?;
    if name == "-" {
        return Ok(String::new());
    }
    let mut path = String::new();
    let mut whole = String::new();
    for part in name.split('-') {
        if part.is_empty() || part == ".." {
            return Err(bad());
        }
        if !whole.is_empty() {
            whole.push('-');
        }
        whole += part;
        path += &format!("{whole}.slice/");
    }
    Ok(path)
}

/// A connection to a systemd.
#[derive(Debug)]
pub struct Systemd {
    bus: Bus,
}

/// What a bus expects at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Greeting {
    /// A bus that carries messages between many.
    Hello,
    /// systemd itself.
    None,
}

impl Systemd {
    /// Connects to the system's manager, or to the user's own.
    ///
    /// # Errors
    /// [`SystemdError::Connect`] when there is none.
    pub fn connect(rights: Rights) -> Result<Self> {
        if rights == Rights::User {
            let run = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(
                || PathBuf::from(format!("/run/user/{}", rustix::process::geteuid().as_raw())),
                PathBuf::from,
            );
            return Self::open(&run.join("systemd/private"), Greeting::None)
                .or_else(|_| Self::open(&run.join("bus"), Greeting::Hello));
        }
        Self::open(Path::new("/run/systemd/private"), Greeting::None)
            .or_else(|_| Self::open(Path::new("/run/dbus/system_bus_socket"), Greeting::Hello))
    }

    fn open(socket: &Path, greeting: Greeting) -> Result<Self> {
        let wrap = |source| SystemdError::Connect { socket: socket.to_owned(), source };
        let mut own = Self { bus: Bus::connect(socket).map_err(wrap)? };
        if greeting == Greeting::Hello {
            own.call(BUS, "Hello", "the bus", &[])?;
            let rule = "type='signal',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";
            own.call(BUS, "AddMatch", "the bus", &[Value::Text(rule.to_owned())])?;
        }
        own.call(MANAGER, "Subscribe", "the manager", &[])?;
        Ok(own)
    }

    /// The manager's own group, `/` for the system's.
    ///
    /// # Errors
    /// When systemd does not tell.
    pub fn top(&mut self) -> Result<String> {
        let names = [MANAGER.interface, "ControlGroup"].map(|name| Value::Text(name.to_owned()));
        let reply = self.call(PROPERTIES, "Get", "the manager", &names)?;
        let mut body = Reader::new(&reply.body);
        let top = body.signature().and_then(|_| body.text()).unwrap_or_default();
        Ok(if top.is_empty() { "/".to_owned() } else { top })
    }

    /// Starts the scope with a process in it, and returns when it stands.
    ///
    /// # Errors
    /// When systemd refuses, an annotation is wrong, or the job fails.
    pub fn start(&mut self, scope: &Scope, pid: u32, id: &str, asked: &Asked<'_>) -> Result<()> {
        let mut properties = vec![("Description".to_owned(), Value::Text(format!("insula container {id}")))];
        let mut add = |name: &str, value| properties.push((name.to_owned(), value));
        if Path::new(&scope.unit).extension().is_some_and(|kind| kind == "slice") {
            add("Wants", Value::Texts(vec![scope.slice.clone()]));
        } else {
            add("Slice", Value::Text(scope.slice.clone()));
            add("Delegate", Value::Flag(true));
            add("PIDs", Value::Words(vec![pid]));
        }
        let io = if asked.version == Version::V2 { "IOAccounting" } else { "BlockIOAccounting" };
        for name in ["MemoryAccounting", "CPUAccounting", "TasksAccounting", io] {
            add(name, Value::Flag(true));
        }
        add("DefaultDependencies", Value::Flag(false));
        properties.extend(asked.properties()?);
        let arguments = [
            Value::Text(scope.unit.clone()),
            Value::Text("replace".to_owned()),
            Value::Properties(properties),
            Value::NoUnits,
        ];
        match self.job("StartTransientUnit", &scope.unit, &arguments) {
            // What a container of that name has left when it failed.
            Err(SystemdError::Refused { name, .. }) if name.ends_with(".UnitExists") => {
                self.forget(scope)?;
                self.job("StartTransientUnit", &scope.unit, &arguments)
            }
            outcome => outcome,
        }
    }

    /// Has systemd put one more process into the scope: for a user who may not, because the process is outside of the user's own groups.
    /// The user's manager asks the system's for that.
    ///
    /// # Errors
    /// When systemd refuses.
    pub fn attach(&mut self, scope: &Scope, pid: u32) -> Result<()> {
        let arguments = [Value::Text(scope.unit.clone()), Value::Text(String::new()), Value::Words(vec![pid])];
        self.call(MANAGER, "AttachProcessesToUnit", &scope.unit, &arguments).map(drop)
    }

    /// Has systemd know the new limits, which it would otherwise set back at its next look.
    ///
    /// # Errors
    /// When systemd refuses or an annotation is wrong.
    pub fn set(&mut self, scope: &Scope, asked: &Asked<'_>) -> Result<()> {
        let properties = Value::Properties(asked.properties()?);
        let arguments = [Value::Text(scope.unit.clone()), Value::Flag(true), properties];
        self.call(MANAGER, "SetUnitProperties", &scope.unit, &arguments).map(drop)
    }

    /// Stops the scope, with every process in it, and has systemd forget it. One that is gone is stopped.
    ///
    /// # Errors
    /// When systemd refuses or the job fails.
    pub fn stop(&mut self, scope: &Scope) -> Result<()> {
        let arguments = [Value::Text(scope.unit.clone()), Value::Text("replace".to_owned())];
        match self.job("StopUnit", &scope.unit, &arguments) {
            Err(SystemdError::Refused { name, .. }) if name.ends_with(".NoSuchUnit") => Ok(()),
            Err(error) => Err(error),
            Ok(()) => self.forget(scope),
        }
    }

    /// Has systemd forget a failure of the unit; most have none.
    fn forget(&mut self, scope: &Scope) -> Result<()> {
        match self.call(MANAGER, "ResetFailedUnit", &scope.unit, &[Value::Text(scope.unit.clone())]) {
            Ok(_) | Err(SystemdError::Refused { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn call(&mut self, to: Target, method: &'static str, unit: &str, arguments: &[Value]) -> Result<Message> {
        let wrap = |source| SystemdError::Transfer { method, source };
        let serial = self.bus.send(to, method, arguments).map_err(wrap)?;
        loop {
            let message = self.bus.receive().map_err(wrap)?;
            if message.reply_to != serial {
                continue;
            }
            if message.kind == ERROR {
                let words = Reader::new(&message.body).text().unwrap_or_default();
                let (unit, name) = (unit.to_owned(), message.error);
                return Err(SystemdError::Refused { method, unit, name, message: words });
            }
            return Ok(message);
        }
    }

    /// Makes a call that starts a job, and waits for the job's end. Its signal can come before the reply.
    fn job(&mut self, method: &'static str, unit: &str, arguments: &[Value]) -> Result<()> {
        let wrap = |source| SystemdError::Transfer { method, source };
        let serial = self.bus.send(MANAGER, method, arguments).map_err(wrap)?;
        let mut job = None;
        let mut ended: Vec<(String, String)> = Vec::new();
        loop {
            let message = self.bus.receive().map_err(wrap)?;
            let mut body = Reader::new(&message.body);
            match message.kind {
                REPLY if message.reply_to == serial => job = body.text(),
                ERROR if message.reply_to == serial => {
                    let (unit, name) = (unit.to_owned(), message.error.clone());
                    return Err(SystemdError::Refused { method, unit, name, message: body.text().unwrap_or_default() });
                }
                SIGNAL if message.member == "JobRemoved" => {
                    let parts = (body.word(), body.text(), body.text(), body.text());
                    if let (Some(_), Some(path), Some(_), Some(result)) = parts {
                        ended.push((path, result));
                    }
                }
                // Nobody calls us; every other message is for somebody else.
                _ => {}
            }
            if let Some((_, result)) = ended.iter().find(|(path, _)| Some(path) == job.as_ref()) {
                return match result.as_str() {
                    "done" => Ok(()),
                    result => Err(SystemdError::Job { method, unit: unit.to_owned(), result: result.to_owned() }),
                };
            }
        }
    }
}

/// What a container asks of systemd.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Which properties the host's systemd knows.
    pub version: Version,
    /// The limits.
    pub resources: &'a LinuxResources,
    /// The container's annotations; those that start with `org.systemd.property.` are properties.
    pub annotations: Option<&'a HashMap<String, String>>,
}

impl Asked<'_> {
    fn properties(&self) -> Result<Vec<(String, Value)>> {
        let mut properties = Vec::new();
        self.limits(&mut properties);
        let given = self.resources.devices().as_deref().unwrap_or_default();
        let rules = device::container_rules(given).map_err(|error| SystemdError::Resources(Box::new(error)))?;
        if !device::allow_everything(&rules) {
            // Not "auto": the list is all that systemd may allow when it writes the rules again.
            properties.push(("DevicePolicy".to_owned(), Value::Text("strict".to_owned())));
            let allowed = rules.iter().filter_map(device_allow).collect();
            properties.push(("DeviceAllow".to_owned(), Value::Pairs(allowed)));
        }
        let mut annotations: Vec<_> = self.annotations.into_iter().flatten().collect();
        annotations.sort();
        for (key, text) in annotations {
            if let Some(name) = key.strip_prefix(PROPERTY) {
                properties.push(property(name, text)?);
            }
        }
        Ok(properties)
    }

    fn limits(&self, properties: &mut Vec<(String, Value)>) {
        let v2 = self.version == Version::V2;
        let mut add = |name: &str, value| properties.push((name.to_owned(), value));
        // -1 is no limit, which is the largest number here.
        let amount = |value: i64| Value::Double(u64::try_from(value).unwrap_or(u64::MAX));
        if let Some(memory) = self.resources.memory() {
            if let Some(limit) = memory.limit().filter(|limit| *limit != 0) {
                add(if v2 { "MemoryMax" } else { "MemoryLimit" }, amount(limit));
                if let (true, Some(swap)) = (v2, memory.swap().filter(|swap| *swap != 0)) {
                    let alone = if swap < 0 || limit < 0 { -1 } else { (swap - limit).max(0) };
                    add("MemorySwapMax", amount(alone));
                }
            }
            if let (true, Some(low)) = (v2, memory.reservation().filter(|low| *low != 0)) {
                add("MemoryLow", amount(low));
            }
        }
        if let Some(cpu) = self.resources.cpu() {
            if let Some(shares) = cpu.shares().filter(|shares| *shares > 0) {
                let (name, value) = if v2 { ("CPUWeight", weight_of_shares(shares)) } else { ("CPUShares", shares) };
                add(name, Value::Double(value));
            }
            let period = cpu.period().filter(|period| *period > 0);
            if let Some(quota) = cpu.quota().filter(|quota| *quota != 0) {
                add("CPUQuotaPerSecUSec", Value::Double(per_second(quota, period.unwrap_or(100_000))));
            }
            if let Some(period) = period {
                add("CPUQuotaPeriodUSec", Value::Double(period));
            }
            for (name, list) in [("AllowedCPUs", cpu.cpus()), ("AllowedMemoryNodes", cpu.mems())] {
                if let (true, Some(bits)) = (v2, list.as_deref().and_then(bits)) {
                    add(name, Value::Bytes(bits));
                }
            }
        }
        if let Some(pids) = self.resources.pids() {
            add("TasksMax", amount(if pids.limit() > 0 { pids.limit() } else { -1 }));
        }
        if let Some(weight) = self.resources.block_io().as_ref().and_then(|io| io.weight()).filter(|weight| *weight > 0)
        {
            let (name, value) = if v2 {
                ("IOWeight", crate::plan_v2::io_weight_of_blkio(weight))
            } else {
                ("BlockIOWeight", u64::from(weight))
            };
            add(name, Value::Double(value));
        }
    }
}

/// A quota as processor time in a second; systemd rounds to 10 ms, and down would be less than was asked for.
fn per_second(quota: i64, period: u64) -> u64 {
    const STEP: u64 = 10_000;
    match u64::try_from(quota) {
        Err(_) => u64::MAX,
        Ok(quota) => (quota.saturating_mul(1_000_000) / period).next_multiple_of(STEP),
    }
}

/// A list such as `0-2,7` as a mask of bytes, the lowest first.
fn bits(list: &str) -> Option<Vec<u8>> {
    let mut mask = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<u16>().ok()?, last.parse::<u16>().ok()?);
        for bit in first..=last {
            let byte = usize::from(bit / 8);
            if mask.len() <= byte {
                mask.resize(byte + 1, 0_u8);
            }
            mask[byte] |= 1 << (bit % 8);
        }
    }
    (!mask.is_empty()).then_some(mask)
}

/// A rule in systemd's words; it knows no rules that deny, and no minor number without its major.
fn device_allow(rule: &Rule) -> Option<(String, String)> {
    if rule.verdict == Verdict::Deny {
        return None;
    }
    let line = rule.line();
    let access = line.rsplit(' ').next().unwrap_or_default().to_owned();
    let kind = match rule.node {
        Node::Any => return None,
        Node::Block => "block",
        Node::Char => "char",
    };
    let node = match (rule.major, rule.minor) {
        (Some(major), Some(minor)) => format!("/dev/{kind}/{major}:{minor}"),
        (Some(136), None) => "char-pts".to_owned(),
        // By number, which systemd takes since version 240.
        (Some(major), None) => format!("{kind}-{major}"),
        (None, _) => format!("{kind}-*"),
    };
    Some((node, access))
}

/// A property from an annotation, whose value is written as in D-Bus tools: `'text'`, `true`, `uint64 5`, `['a', 'b']`.
/// A name that ends in `Sec` is in seconds, and systemd's in microseconds.
fn property(name: &str, text: &str) -> Result<(String, Value)> {
    let bad = |reason| SystemdError::Property { name: name.to_owned(), value: text.to_owned(), reason };
    if name.len() < 3 || !name.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return Err(bad("a property's name is made of letters"));
    }
    let value = parse(text.trim()).ok_or_else(|| {
        bad("a value is 'text' in quotes, true or false, a number with or without its type, or ['a', 'list']")
    })?;
    let Some(stem) = name.strip_suffix("Sec").filter(|stem| !stem.ends_with('U')) else {
        return Ok((name.to_owned(), value));
    };
    let seconds = match value {
        Value::Int(number) => u64::try_from(number).ok(),
        Value::Long(number) => u64::try_from(number).ok(),
        Value::Word(number) => Some(u64::from(number)),
        Value::Double(number) => Some(number),
        _ => None,
    };
    let micros = seconds.and_then(|seconds| seconds.checked_mul(1_000_000));
    let micros = micros.ok_or_else(|| bad("a property in seconds is a number that is not negative"))?;
    Ok((format!("{stem}USec"), Value::Double(micros)))
}

fn parse(text: &str) -> Option<Value> {
    if let Some(text) = quoted(text) {
        return Some(Value::Text(text));
    }
    if let Some(list) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        return list.split(',').map(|one| quoted(one.trim())).collect::<Option<Vec<_>>>().map(Value::Texts);
    }
    match text.split_once(' ') {
        Some(("uint64" | "@t", number)) => number.trim().parse().ok().map(Value::Double),
        Some(("int64" | "@x", number)) => number.trim().parse().ok().map(Value::Long),
        Some(("uint32" | "@u", number)) => number.trim().parse().ok().map(Value::Word),
        Some(("int32" | "@i", number)) => number.trim().parse().ok().map(Value::Int),
        Some(_) => None,
        None => match text {
            "true" => Some(Value::Flag(true)),
            "false" => Some(Value::Flag(false)),
            number => number.parse().ok().map(Value::Int),
        },
    }
}

fn quoted(text: &str) -> Option<String> {
    let inner = ['\'', '"'].iter().find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote))?;
    (!inner.contains(['\'', '"', '\\'])).then(|| inner.to_owned())
}

#[cfg(test)]
mod tests;
