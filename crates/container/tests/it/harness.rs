//! A helper process with a container around the host's programs.

use control::{
    Create, Created, Envelope, Event, Exec, Exit, FrameReader, LogFile, Message, ProcessId, ReadOutcome, Reply,
    Request, Rootfs, Stdio, Streams, VERSION,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// False, with a word why, where kernel tests cannot run.
pub(crate) fn privileged() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: making containers needs root");
    }
    root
}

/// A running helper and everything of its container.
pub(crate) struct Shim {
    child: Child,
    socket: UnixStream,
    reader: FrameReader,
    events: VecDeque<Event>,
    next: u64,
    pub(crate) cgroup: String,
    pub(crate) folder: tempfile::TempDir,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Shim {
    /// Spawns the helper.
    pub(crate) fn spawn() -> Self {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_insula-shim")).stdin(theirs).spawn().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let cgroup = format!("/insula-test-{}-{number}", std::process::id());
        let mut shim = Self {
            child,
            socket: UnixStream::from(ours),
            reader: FrameReader::new(),
            events: VecDeque::new(),
            next: 1,
            cgroup,
            folder,
        };
        shim.limit_wait();
        shim
    }

    fn limit_wait(&mut self) {
        self.socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a request without waiting.
    pub(crate) fn send(&mut self, body: Request, fds: &[BorrowedFd<'_>]) -> u64 {
        let id = self.next;
        self.next += 1;
        let frame = control::encode(&Envelope { id, fds: fds.len(), body }).unwrap();
        let sent = control::send(self.socket.as_fd(), &frame, fds).unwrap();
        assert_eq!(sent, frame.len());
        id
    }

    fn message(&mut self) -> (u64, Message) {
        loop {
            if let Some(frame) = self.reader.next_frame::<Message>().unwrap() {
                return (frame.id, frame.body);
            }
            let outcome = self.reader.read(&self.socket).unwrap();
            assert_eq!(outcome, ReadOutcome::Bytes, "the helper is gone or says nothing");
        }
    }

    /// The answer to a request.
    pub(crate) fn reply(&mut self, wanted: u64) -> Reply {
        loop {
            match self.message() {
                (id, Message::Reply(reply)) if id == wanted => return reply,
                (_, Message::Reply(reply)) => panic!("unexpected {reply:?}"),
                (_, Message::Event(event)) => self.events.push_back(event),
            }
        }
    }

    pub(crate) fn ask(&mut self, body: Request) -> Reply {
        let id = self.send(body, &[]);
        self.reply(id)
    }

    pub(crate) fn done(&mut self, body: Request) {
        let reply = self.ask(body);
        assert!(matches!(reply, Reply::Done), "{reply:?}");
    }

    pub(crate) fn event(&mut self) -> Event {
        if let Some(event) = self.events.pop_front() {
            return event;
        }
        match self.message() {
            (_, Message::Event(event)) => event,
            (_, Message::Reply(reply)) => panic!("unexpected {reply:?}"),
        }
    }

    /// Waits for the end of a process.
    pub(crate) fn exited(&mut self, wanted: &ProcessId) -> Exit {
        loop {
            match self.event() {
                Event::Exited { process, exit } if process == *wanted => return exit,
                _ => {}
            }
        }
    }

    pub(crate) fn create(&mut self, create: Create, fds: &[BorrowedFd<'_>]) -> Created {
        let id = self.send(Request::Create(Box::new(create)), fds);
        match self.reply(id) {
            Reply::Created(created) => created,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn start(&mut self) -> i32 {
        match self.ask(Request::Start) {
            Reply::Started { pid } => pid,
            other => panic!("{other:?}"),
        }
    }

    /// Creates and starts, with the host's programs, and returns how it ended.
    pub(crate) fn run(&mut self, spec: Value) -> Exit {
        let create = self.request(spec);
        self.create(create, &[]);
        self.start();
        self.exited(&ProcessId::Init)
    }

    /// A request for a container in a folder with the host's programs bound in.
    pub(crate) fn request(&self, spec: Value) -> Create {
        let root = self.path("root");
        let _ = std::fs::create_dir(&root);
        Create {
            version: VERSION,
            id: "test".into(),
            spec: serde_json::from_value(spec).unwrap(),
            rootfs: Rootfs::Directory { path: root },
            seccomp: None,
            netns: false,
            stdio: Stdio { open_stdin: false, stdin_once: false },
            log: LogFile::unbounded(self.path("log")).into(),
            exit_file: Some(self.path("exit.json")),
            runtime_dir: self.folder.path().to_owned(),
            init: false,
            runtime: None,
            restore: None,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn log(&self) -> String {
        let content = std::fs::read_to_string(self.path("log")).unwrap();
        content
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["log"].as_str().unwrap().to_owned())
            .collect()
    }

    /// An OCI configuration that runs a shell line.
    pub(crate) fn spec(&self, line: &str) -> Value {
        self.spec_of(&["/bin/sh", "-c", line])
    }

    pub(crate) fn spec_of(&self, args: &[&str]) -> Value {
        let all = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_SETUID", "CAP_SETGID"];
        let mut mounts = vec![
            json!({"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]}),
            json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=64k"]}),
            json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]}),
            json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=64k"]}),
            json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]}),
            json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}),
            json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid", "noexec", "nodev"]}),
        ];
        for host in ["/usr", "/bin", "/lib", "/lib64"] {
            if Path::new(host).exists() {
                mounts.push(json!({"destination": host, "type": "bind", "source": host, "options": ["rbind", "ro"]}));
            }
        }
        json!({
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs", "readonly": false},
            "hostname": "isle",
            "process": {
                "terminal": false, "user": {"uid": 0, "gid": 0}, "args": args, "cwd": "/",
                "env": ["PATH=/usr/bin:/bin"],
                "capabilities": {"bounding": all, "effective": all, "permitted": all},
            },
            "mounts": mounts,
            "linux": {
                "cgroupsPath": self.cgroup,
                "namespaces": [
                    {"type": "pid"}, {"type": "mount"}, {"type": "uts"}, {"type": "ipc"}, {"type": "network"}, {"type": "cgroup"},
                ],
                "maskedPaths": ["/proc/interrupts", "/proc/acpi", "/sys/firmware"],
                "readonlyPaths": ["/proc/sys"],
            },
        })
    }

    /// A request that runs one more shell line.
    pub(crate) fn exec(&self, id: &str, line: &str) -> Exec {
        Exec {
            id: id.into(),
            process: serde_json::from_value(json!({
                "user": {"uid": 0, "gid": 0}, "args": ["/bin/sh", "-c", line], "cwd": "/", "env": ["PATH=/usr/bin:/bin"],
            }))
            .unwrap(),
            seccomp: None,
            open_stdin: false,
            attach: None,
        }
    }

    /// Attaches to a process.
    pub(crate) fn attach(&mut self, process: ProcessId, stdin: bool, keys: &[u8]) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let streams = Streams { stdin, stdout: true, stderr: true };
        let request = Request::Attach { process, streams, ahead: Vec::new(), detach_keys: keys.to_vec() };
        let id = self.send(request, &[theirs.as_fd()]);
        assert!(matches!(self.reply(id), Reply::Done));
        ours
    }

    /// Lets the connection go and opens a new one, as a restarted daemon does.
    pub(crate) fn reconnect(&mut self) {
        let path = self.path("shim.sock");
        let (first, _) = UnixStream::pair().unwrap();
        drop(std::mem::replace(&mut self.socket, first));
        self.reader = FrameReader::new();
        self.socket = UnixStream::connect(path).unwrap();
        self.limit_wait();
    }

    /// Ends the helper and checks that nothing is left.
    pub(crate) fn quit(mut self) {
        self.done(Request::Quit);
        assert!(self.child.wait().unwrap().success());
        assert!(!self.path("shim.sock").exists());
        assert_eq!(self.groups(), Vec::<PathBuf>::new());
    }

    /// Directories of the container's control group that exist.
    pub(crate) fn groups(&self) -> Vec<PathBuf> {
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        let name = self.cgroup.trim_start_matches('/').to_owned();
        hierarchies.map(|one| one.path().join(&name)).filter(|path| path.exists()).collect()
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        // its container dies with it
        let _ = self.child.kill();
        let _ = self.child.wait();
        let until = Instant::now() + Duration::from_secs(5);
        while !self.groups().is_empty() && Instant::now() < until {
            for group in self.groups() {
                let _ = std::fs::remove_dir(&group);
                let _ = group.parent().map(std::fs::remove_dir);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Everything until the other side closes.
pub(crate) fn read_all(mut stream: &UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Splits framed output.
pub(crate) fn frames(mut bytes: &[u8]) -> Vec<(u8, String)> {
    let mut all = Vec::new();
    while let [stream, 0, 0, 0, a, b, c, d, rest @ ..] = bytes {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        all.push((*stream, String::from_utf8(rest[..length].to_vec()).unwrap()));
        bytes = &rest[length..];
    }
    assert!(bytes.is_empty());
    all
}

/// A detached copy of a folder, as a layer.
pub(crate) fn layer(folder: &Path) -> OwnedFd {
    use sys::mount::{OpenTreeFlags, open_tree};
    open_tree(rustix::fs::CWD, folder, OpenTreeFlags::OPEN_TREE_CLONE).unwrap()
}
