//! Against a fake manager on a socket in this process: it checks every call and answers as systemd does.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;

use oci_spec::runtime::{LinuxCpuBuilder, LinuxMemoryBuilder};

use super::*;
use crate::dbus::{CALL, encode, receive};

/// What the fake answers to one call.
enum Answer {
    Empty,
    /// A job of this path that ends with this result; the signal comes before the reply, as it can.
    Job(&'static str, &'static str),
    Error(&'static str),
    Property(&'static str),
}

/// A manager that answers the calls in turn, and gives back their names and bodies.
fn manager(answers: Vec<(&'static str, Answer)>) -> (tempfile::TempDir, std::thread::JoinHandle<Vec<Vec<u8>>>) {
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join("private")).unwrap();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = Vec::new();
        // as with systemd itself, all that is said before the answer
        while !line.ends_with(b"\r\nBEGIN\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            line.push(byte[0]);
        }
        assert!(line.starts_with(b"\0AUTH EXTERNAL "), "{line:?}");
        stream.write_all(b"OK 0123456789abcdef\r\n").unwrap();
        let mut bodies = Vec::new();
        for (name, answer) in answers {
            let call = receive(&mut stream).unwrap();
            assert_eq!((call.kind, call.member.as_str()), (CALL, name));
            bodies.push(call.body);
            let text = |text: &str| Value::Text(text.to_owned());
            let reply = |arguments: &[Value]| encode(REPLY, 99, &[], Some(call.serial), arguments);
            let bytes = match answer {
                Answer::Empty => reply(&[]),
                // A variant is its signature and the value; one of text is laid out as this array of one.
                Answer::Property(value) => {
                    let mut bytes = encode(REPLY, 99, &[], Some(call.serial), &[]);
                    let mut body = vec![1, b's', 0, 0];
                    body.extend_from_slice(&u32::try_from(value.len()).unwrap().to_le_bytes());
                    body.extend_from_slice(value.as_bytes());
                    body.push(0);
                    bytes[4..8].copy_from_slice(&u32::try_from(body.len()).unwrap().to_le_bytes());
                    bytes.extend(body);
                    bytes
                }
                Answer::Error(name) => encode(ERROR, 99, &[(4, "s", name)], Some(call.serial), &[text("the reason")]),
                Answer::Job(path, result) => {
                    let head = [(1, "o", MANAGER.path), (2, "s", MANAGER.interface), (3, "s", "JobRemoved")];
                    let arguments = [Value::Word(1), Value::Path(path.to_owned()), text("unit"), text(result)];
                    let other = [Value::Word(2), Value::Path("/job/other".to_owned()), text("unit"), text("failed")];
                    let mut bytes = encode(SIGNAL, 97, &head, None, &other);
                    bytes.extend(encode(SIGNAL, 98, &head, None, &arguments));
                    bytes.extend(reply(&[Value::Path(path.to_owned())]));
                    bytes
                }
            };
            stream.write_all(&bytes).unwrap();
        }
        bodies
    });
    (folder, thread)
}

fn holds(body: &[u8], text: &str) -> bool {
    body.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn a_scope_is_started_changed_and_stopped() {
    let (folder, fake) = manager(vec![
        ("Subscribe", Answer::Empty),
        ("Get", Answer::Property("/user.slice")),
        ("StartTransientUnit", Answer::Error("org.freedesktop.systemd1.UnitExists")),
        ("ResetFailedUnit", Answer::Empty),
        ("StartTransientUnit", Answer::Job("/job/1", "done")),
        ("SetUnitProperties", Answer::Empty),
        ("AttachProcessesToUnit", Answer::Empty),
        ("StopUnit", Answer::Job("/job/2", "done")),
        ("ResetFailedUnit", Answer::Error("org.freedesktop.systemd1.NoSuchUnit")),
        ("StopUnit", Answer::Error("org.freedesktop.systemd1.NoSuchUnit")),
        ("StartTransientUnit", Answer::Job("/job/3", "failed")),
    ]);
    let mut systemd = Systemd::open(&folder.path().join("private"), Greeting::None).unwrap();
    assert_eq!(systemd.top().unwrap(), "/user.slice");
    let scope = Scope::parse(Some("machine.slice:libpod:abc"), "abc", Rights::Full).unwrap();
    let mut resources = LinuxResources::default();
    resources.set_memory(Some(LinuxMemoryBuilder::default().limit(1 << 20).build().unwrap()));
    let annotations = HashMap::from([("org.systemd.property.TimeoutStopSec".to_owned(), "uint64 7".to_owned())]);
    let asked = Asked { version: Version::V2, resources: &resources, annotations: Some(&annotations) };
    systemd.start(&scope, 4242, "abc", &asked).unwrap();
    systemd.set(&scope, &asked).unwrap();
    systemd.attach(&scope, 4243).unwrap();
    systemd.stop(&scope).unwrap();
    systemd.stop(&scope).unwrap();
    let failed = systemd.start(&scope, 4242, "abc", &asked).unwrap_err().to_string();
    assert!(failed.contains("libpod-abc.scope") && failed.contains("\"failed\""), "{failed}");
    let bodies = fake.join().unwrap();
    for text in ["libpod-abc.scope", "machine.slice", "Delegate", "PIDs", "MemoryMax", "TimeoutStopUSec", "DeviceAllow"]
    {
        assert!(holds(&bodies[4], text), "{text}");
    }
    assert!(bodies[4].windows(4).any(|window| window == 4242_u32.to_le_bytes()), "the process is named");
    assert!(holds(&bodies[5], "MemoryMax") && !holds(&bodies[5], "Delegate"));
    assert!(holds(&bodies[6], "libpod-abc.scope") && bodies[6].ends_with(&4243_u32.to_le_bytes()));
}

#[test]
fn no_systemd_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let error = Systemd::open(&folder.path().join("private"), Greeting::None).unwrap_err().to_string();
    assert!(error.contains("cannot reach systemd"), "{error}");
}

#[test]
fn paths_become_slices_and_units() {
    let place = |path: Option<&str>, rights| {
        let scope = Scope::parse(path, "id", rights).map_err(|error| error.to_string())?;
        let place = scope.place("/", rights).map_err(|error| error.to_string())?;
        Ok::<_, String>(place.paths[0].clone())
    };
    assert_eq!(place(None, Rights::Full).unwrap(), "system.slice/insula-id.scope");
    assert_eq!(place(None, Rights::User).unwrap(), "user.slice/insula-id.scope");
    assert_eq!(place(Some("a-b.slice:p:n"), Rights::Full).unwrap(), "a.slice/a-b.slice/p-n.scope");
    assert_eq!(place(Some("-.slice::n"), Rights::Full).unwrap(), "n.scope");
    assert_eq!(place(Some("a.slice:p:a-x.slice"), Rights::Full).unwrap(), "a.slice/a-x.slice");
    for bad in ["/plain/path", "a:b", "a.slice:b:c:d", "a/b.slice:p:n", "a--b.slice:p:n", "a:p:n", "a.slice:p:../n"] {
        assert!(place(Some(bad), Rights::Full).is_err(), "{bad}");
    }
}

#[test]
fn limits_become_properties() {
    let mut resources = LinuxResources::default();
    let cpu = LinuxCpuBuilder::default().shares(1024_u64).quota(25_000).period(100_000_u64).cpus("0,9-10");
    resources.set_cpu(Some(cpu.build().unwrap()));
    resources.set_memory(Some(LinuxMemoryBuilder::default().limit(100).swap(300).build().unwrap()));
    let asked = |version| Asked { version, resources: &resources, annotations: None };
    let all: HashMap<_, _> = asked(Version::V2).properties().unwrap().into_iter().collect();
    assert_eq!(all["CPUWeight"], Value::Double(100));
    assert_eq!(all["CPUQuotaPerSecUSec"], Value::Double(250_000));
    assert_eq!(all["AllowedCPUs"], Value::Bytes(vec![1, 6]));
    assert_eq!(all["MemorySwapMax"], Value::Double(200));
    let Value::Pairs(devices) = &all["DeviceAllow"] else { panic!("{all:?}") };
    assert!(devices.contains(&("/dev/char/1:3".to_owned(), "rwm".to_owned())), "{devices:?}");
    assert!(devices.contains(&("char-pts".to_owned(), "rwm".to_owned())), "{devices:?}");
    let old: HashMap<_, _> = asked(Version::V1).properties().unwrap().into_iter().collect();
    assert_eq!((&old["CPUShares"], &old["MemoryLimit"]), (&Value::Double(1024), &Value::Double(100)));
    assert!(!old.contains_key("AllowedCPUs"));
    assert_eq!(per_second(-1, 100_000), u64::MAX);
    assert_eq!(per_second(33_333, 100_000), 340_000);
}

#[test]
fn annotations_become_properties() {
    assert_eq!(property("CollectMode", "'inactive'").unwrap().1, Value::Text("inactive".to_owned()));
    assert_eq!(
        property("After", "['a.service', \"b.service\"]").unwrap().1,
        Value::Texts(vec!["a.service".into(), "b.service".into()])
    );
    assert_eq!(property("Flag", "true").unwrap().1, Value::Flag(true));
    assert_eq!(property("Weight", "uint64 9").unwrap().1, Value::Double(9));
    assert_eq!(property("StartupSec", "2").unwrap(), ("StartupUSec".to_owned(), Value::Double(2_000_000)));
    for (name, text) in [("Bad Name", "1"), ("X", "1"), ("Name", "plain words"), ("WaitSec", "'x'"), ("WaitSec", "-1")]
    {
        assert!(property(name, text).is_err(), "{name}={text}");
    }
}
