//! The console: what the guest writes goes to every client of a socket and to a bounded file; what a client writes goes
//! to the guest.
//!
//! The guest never waits for a client: one that does not read is sent away when too much waits for it.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use virtio::events::{Events, Interest, Kick};

use super::ProgramError;

/// What a new client is shown of what went before.
const BACKLOG: usize = 64 << 10;
/// A client for which more waits is sent away.
const MOST_WAITING: usize = 4 << 20;
/// The file is begun anew at this size; the one before is kept.
const LOG_SIZE: u64 = 4 << 20;
/// How long the last words may take.
const LAST_WORDS: Duration = Duration::from_secs(2);

const KICK: u64 = 0;
const LISTENER: u64 = 1;
const FIRST_CLIENT: u64 = 2;

type Input = Arc<dyn Fn(&[u8]) + Send + Sync>;

#[derive(Default)]
struct Shared {
    /// What the guest wrote and the thread has not taken yet.
    fresh: Vec<u8>,
    /// Where clients' input goes.
    input: Option<Input>,
    ending: bool,
    ended: bool,
}

struct Inner {
    shared: Mutex<Shared>,
    kick: Kick,
    ended: Condvar,
}

/// The console. Clones are the same one.
#[derive(Clone)]
pub(super) struct Console(Arc<Inner>);

fn lock(inner: &Inner) -> MutexGuard<'_, Shared> {
    inner.shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Console {
    pub(super) fn start(listener: Option<UnixListener>, log: Option<Log>) -> Result<Self, ProgramError> {
        let kick = Kick::new().map_err(|errno| ProgramError::Thread(errno.into()))?;
        let inner = Arc::new(Inner { shared: Mutex::default(), kick, ended: Condvar::new() });
        let mut thread = Thread::new(Arc::clone(&inner), listener, log).map_err(ProgramError::Thread)?;
        std::thread::Builder::new()
            .name("console".to_owned())
            .spawn(move || {
                hv::thread::begin();
                thread.run();
            })
            .map_err(ProgramError::Thread)?;
        Ok(Self(inner))
    }

    /// The guest wrote.
    pub(super) fn write(&self, bytes: &[u8]) {
        let mut shared = lock(&self.0);
        let first = shared.fresh.is_empty();
        shared.fresh.extend_from_slice(bytes);
        drop(shared);
        if first {
            self.0.kick.kick();
        }
    }

    /// Clients' input goes there from now on.
    pub(super) fn connect(&self, input: Option<Input>) {
        lock(&self.0).input = input;
    }

    /// Everything goes out, then the clients' connections end.
    pub(super) fn finish(&self) {
        let mut shared = lock(&self.0);
        shared.ending = true;
        self.0.kick.kick();
        let ended = |shared: &mut Shared| !shared.ended;
        // Whoever does not read its last words in time loses them.
        let _late = self.0.ended.wait_timeout_while(shared, LAST_WORDS, ended);
    }
}

/// The file of what the console showed, and what it showed before: both are open from the start, for a process that may be
/// confined later.
pub(super) struct Log {
    file: File,
    before: File,
    size: u64,
}

impl Log {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let open = |path: &Path| OpenOptions::new().create(true).read(true).append(true).mode(0o600).open(path);
        let file = open(path)?;
        let size = file.metadata()?.len();
        let mut before = path.to_owned().into_os_string();
        before.push(".1");
        Ok(Self { file, before: open(before.as_ref())?, size })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.size > LOG_SIZE {
            self.before.set_len(0)?;
            self.file.seek(SeekFrom::Start(0))?;
            let mut buffer = vec![0; 64 << 10];
            loop {
                match self.file.read(&mut buffer)? {
                    0 => break,
                    count => self.before.write_all(&buffer[..count])?,
                }
            }
            self.file.set_len(0)?;
            self.size = 0;
        }
        self.file.write_all(bytes)?;
        self.size += bytes.len() as u64;
        Ok(())
    }
}

struct Client {
    stream: UnixStream,
    waiting: VecDeque<u8>,
}

impl Client {
    /// Sends what it takes; `false` if it is gone.
    fn send(&mut self) -> bool {
        while !self.waiting.is_empty() {
            match self.stream.write(self.waiting.as_slices().0) {
                Ok(0) => return false,
                Ok(count) => drop(self.waiting.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return self.waiting.len() <= MOST_WAITING,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }
}

struct Thread {
    inner: Arc<Inner>,
    events: Events,
    listener: Option<UnixListener>,
    log: Option<Log>,
    backlog: VecDeque<u8>,
    clients: BTreeMap<u64, Client>,
    next: u64,
}

impl Thread {
    fn new(inner: Arc<Inner>, listener: Option<UnixListener>, log: Option<Log>) -> io::Result<Self> {
        let events = Events::new()?;
        events.add(&inner.kick, KICK, Interest::IN)?;
        if let Some(listener) = &listener {
            listener.set_nonblocking(true)?;
            events.add(listener, LISTENER, Interest::IN)?;
        }
        let (backlog, clients) = (VecDeque::new(), BTreeMap::new());
        Ok(Self { inner, events, listener, log, backlog, clients, next: FIRST_CLIENT })
    }

    fn run(&mut self) {
        let mut ending = false;
        while !ending || self.clients.values().any(|client| !client.waiting.is_empty()) {
            let Ok(happened) = self.events.wait(None) else { break };
            for (token, interest) in happened {
                match token {
                    KICK => ending |= self.take(),
                    LISTENER => self.accept(),
                    client => self.serve(client, interest),
                }
            }
        }
        self.clients.clear();
        lock(&self.inner).ended = true;
        self.inner.ended.notify_all();
    }

    /// Takes what the guest wrote; whether the end has come.
    fn take(&mut self) -> bool {
        self.inner.kick.take();
        let (fresh, ending) = {
            let mut shared = lock(&self.inner);
            (std::mem::take(&mut shared.fresh), shared.ending)
        };
        // A disk that is full costs the file, not the machine.
        if self.log.as_mut().is_some_and(|log| log.write(&fresh).is_err()) {
            self.log = None;
        }
        self.backlog.extend(&fresh);
        let over = self.backlog.len().saturating_sub(BACKLOG);
        self.backlog.drain(..over);
        let tokens: Vec<u64> = self.clients.keys().copied().collect();
        for token in tokens {
            if let Some(client) = self.clients.get_mut(&token) {
                client.waiting.extend(&fresh);
            }
            self.flush(token);
        }
        ending
    }

    fn accept(&mut self) {
        let Some(Ok((stream, _))) = self.listener.as_ref().map(UnixListener::accept) else { return };
        let token = self.next;
        if stream.set_nonblocking(true).is_err() || self.events.add(&stream, token, Interest::IN).is_err() {
            return;
        }
        self.next += 1;
        self.clients.insert(token, Client { stream, waiting: self.backlog.clone() });
        self.flush(token);
    }

    /// Sends what waits, and asks to be told when there is room again.
    fn flush(&mut self, token: u64) {
        let Some(client) = self.clients.get_mut(&token) else { return };
        if !client.send() {
            self.clients.remove(&token);
            return;
        }
        let more = if client.waiting.is_empty() { Interest::empty() } else { Interest::OUT };
        if self.events.change(&client.stream, token, Interest::IN | more).is_err() {
            self.clients.remove(&token);
        }
    }

    fn serve(&mut self, token: u64, interest: Interest) {
        if interest.intersects(Interest::IN | Interest::HUP | Interest::ERR) {
            let Some(client) = self.clients.get_mut(&token) else { return };
            let mut buffer = [0; 4096];
            match client.stream.read(&mut buffer) {
                Ok(0) => {
                    self.clients.remove(&token);
                    return;
                }
                Ok(count) => {
                    let input = lock(&self.inner).input.clone();
                    if let Some(input) = input {
                        input(&buffer[..count]);
                    }
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(_) => {
                    self.clients.remove(&token);
                    return;
                }
            }
        }
        self.flush(token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn console(folder: &Path) -> (Console, PathBuf) {
        let path = folder.join("console.sock");
        let listener = UnixListener::bind(&path).unwrap();
        (Console::start(Some(listener), Some(Log::open(&folder.join("console.log")).unwrap())).unwrap(), path)
    }

    #[test]
    fn clients_see_what_went_before_and_what_follows_to_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let (console, path) = console(folder.path());
        console.write(b"before ");
        let mut client = UnixStream::connect(&path).unwrap();
        let mut first = [0; 7];
        client.read_exact(&mut first).unwrap();
        let got = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&got);
        let (sent, received) = std::sync::mpsc::channel();
        console.connect(Some(Arc::new(move |bytes: &[u8]| {
            sink.lock().unwrap().extend_from_slice(bytes);
            sent.send(()).unwrap();
        })));
        client.write_all(b"typed").unwrap();
        received.recv().unwrap();
        let long = vec![b'x'; 1 << 20];
        console.write(&long);
        let reader = std::thread::spawn(move || {
            let mut rest = Vec::new();
            client.read_to_end(&mut rest).unwrap();
            rest
        });
        console.finish();
        assert_eq!((&first, reader.join().unwrap().len()), (b"before ", 1 << 20));
        assert_eq!(*got.lock().unwrap(), b"typed");
        assert_eq!(std::fs::read(folder.path().join("console.log")).unwrap().len(), 7 + (1 << 20));
    }

    #[test]
    fn the_file_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::open(&folder.path().join("log")).unwrap();
        let part = vec![b'x'; 1 << 20];
        for _ in 0..12 {
            log.write(&part).unwrap();
        }
        let sizes: u64 =
            std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
        assert!(sizes <= 2 * (LOG_SIZE + (1 << 20)) + 2, "{sizes}");
    }
}
