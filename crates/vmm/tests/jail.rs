//! What a machine's process that was taken over can still reach: from a thread of each kind, calls that an attacker would
//! try. Each is tried in a process of its own, for most of them end it.
//!
//! The jail is closed by a process with one thread, which the usual harness for tests has not: this is its own.

#![expect(clippy::unwrap_used, reason = "what a test expects may fail it")]

use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, ExitCode};

use rustix::process::{Pid, Signal};
use sys::seccomp::ENDED_BY_FILTER;
use vmm::jail::{Leaving, Network, Plan, enter, kinds};

const NAME: &str = "kernel::a_machine_that_was_taken_over_reaches_nothing";
const MARK: &str = "INSULA_CAPTIVE";
/// What a captive says by its exit code.
const REACHED: i32 = 40;
const REFUSED: i32 = 41;

type Attempt = fn(&Outside) -> io::Result<()>;

/// What there is outside of the jail.
struct Outside {
    port: u16,
    pid: i32,
    folder: String,
    name: String,
}

fn open(path: &str) -> io::Result<()> {
    std::fs::File::open(path).map(drop)
}

/// Name, what is tried. Sorted.
const ATTEMPTS: &[(&str, Attempt)] = &[
    ("abstract socket of the host", |outside| {
        UnixStream::connect_addr(&SocketAddr::from_abstract_name(&outside.name)?).map(drop)
    }),
    ("another user", |_| Ok(rustix::thread::set_thread_uid(rustix::fs::Uid::ROOT)?)),
    ("capability", |_| {
        use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
        let set = CapabilitySet::SYS_ADMIN;
        Ok(set_capabilities(None, CapabilitySets { effective: set, permitted: set, inheritable: set })?)
    }),
    ("chroot", |_| Ok(rustix::process::chroot("/")?)),
    ("device node", |_| {
        use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
        Ok(mknodat(CWD, "/sda", FileType::BlockDevice, Mode::RWXU, makedev(8, 0))?)
    }),
    ("file above the root", |_| open("/../../../../etc/passwd")),
    ("file of the host", |outside| open(&format!("{}/secret", outside.folder))),
    ("host name", |_| Ok(rustix::system::sethostname(b"mine")?)),
    ("kernel's log", |_| open("/dev/kmsg")),
    ("list of processes", |_| std::fs::read_dir("/proc").map(drop)),
    ("mount", |_| Ok(rustix::mount::mount("none", "/", "tmpfs", rustix::mount::MountFlags::empty(), None)?)),
    ("namespace", |_| {
        let here = std::fs::File::open("/").map(std::os::fd::OwnedFd::from)?;
        let kind = rustix::thread::LinkNameSpaceType::User;
        Ok(rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&here), Some(kind))?)
    }),
    ("network over TCP", |outside| TcpStream::connect(("127.0.0.1", outside.port)).map(drop)),
    ("network over UDP", |outside| {
        UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.send_to(b"x", ("127.0.0.1", outside.port))).map(drop)
    }),
    ("new executable", |_| Command::new("/bin/true").status().map(drop)),
    ("privileges at exec again", |_| {
        Ok(rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable)?)
    }),
    ("signal to a process of the host", |outside| {
        Ok(rustix::process::kill_process(Pid::from_raw(outside.pid).unwrap(), Signal::CONT)?)
    }),
    ("socket of the host by its path", |outside| UnixStream::connect(format!("{}/listener", outside.folder)).map(drop)),
    ("time", |_| {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        Ok(rustix::time::clock_settime(rustix::time::ClockId::Realtime, now)?)
    }),
    ("write outside", |outside| std::fs::write(format!("{}/written", outside.folder), "x")),
];

/// In the jail: tries one thing in a thread of a kind. The exit code says what came of it.
fn captive(words: &[String]) -> i32 {
    let [kind, attempt, folder, port, pid, name] = words else { return 1 };
    let outside =
        Outside { port: port.parse().unwrap(), pid: pid.parse().unwrap(), folder: folder.clone(), name: name.clone() };
    let inside = Path::new(folder).join("inside");
    let plan = Plan {
        root: Some(&inside),
        network: Network::None,
        shares: Vec::new(),
        cpus: 1,
        leaving: Leaving::Wait,
        lock: None,
    };
    enter(&plan).unwrap();
    let act = ATTEMPTS.iter().find(|(name, _)| name == attempt).unwrap().1;
    let outcome = if kind == "main" {
        act(&outside)
    } else {
        let begin = move || {
            hv::thread::begin();
            act(&outside)
        };
        std::thread::Builder::new().name(kind.clone()).spawn(begin).unwrap().join().unwrap()
    };
    match outcome {
        Ok(()) => REACHED,
        Err(error) => {
            eprintln!("{error}");
            REFUSED
        }
    }
}

fn all() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root closes the whole jail");
        return;
    }
    assert!(ATTEMPTS.is_sorted_by_key(|(name, _)| *name));
    let folder = tempfile::tempdir().unwrap();
    // Whoever gets out finds open doors.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(folder.path(), open).unwrap();
    std::fs::write(folder.path().join("secret"), "s").unwrap();
    let _listener = UnixListener::bind(folder.path().join("listener")).unwrap();
    let network = TcpListener::bind("127.0.0.1:0").unwrap();
    let name = format!("insula-jail-test-{}", std::process::id());
    let _abstract = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let mut reached = Vec::new();
    for kind in std::iter::once("main").chain(kinds()) {
        for (attempt, _) in ATTEMPTS {
            let ran = Command::new(std::env::current_exe().unwrap())
                .env(MARK, "1")
                .args([kind, attempt, folder.path().to_str().unwrap()])
                .args([network.local_addr().unwrap().port().to_string(), std::process::id().to_string(), name.clone()])
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&ran.stderr).trim().to_owned();
            match ran.status.code() {
                Some(REFUSED) => println!("{kind}: {attempt}: {said}"),
                Some(ENDED_BY_FILTER) => {
                    // The C library starts programs with every signal blocked: then the kernel ends the process without a word.
                    assert!(said.is_empty() || said.contains("tried system call"), "{kind}: {attempt}: {said}");
                    println!("{kind}: {attempt}: ended; {said}");
                }
                Some(REACHED) => reached.push(format!("{kind}: {attempt}")),
                other => panic!("{kind}: {attempt}: {other:?}: {said}"),
            }
        }
    }
    assert!(reached.is_empty(), "{reached:#?}");
    assert!(!folder.path().join("written").exists());
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if std::env::var_os(MARK).is_some() {
        std::process::exit(captive(&words));
    }
    if words.iter().any(|word| word == "--list") {
        if !words.iter().any(|word| word == "--ignored") {
            println!("{NAME}: test");
        }
        return ExitCode::SUCCESS;
    }
    let wanted = words.iter().find(|word| !word.starts_with('-'));
    if wanted.is_none_or(|wanted| NAME.contains(wanted.as_str())) {
        all();
    }
    ExitCode::SUCCESS
}
