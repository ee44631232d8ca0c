//! Files of the client's: a folder or a part of one.
//!
//! ```text
//! client: STAT STAT … STAT(empty)          one for each file, in order; the first has the number 0
//! here:        REQ(number) …               for each regular file
//! client:      DATA(number) … DATA(number, empty)
//! here:   FIN        client: FIN
//! ```

use super::Session;
use crate::rpc::{Code, Status};
use crate::wire::files::{DATA, ERR, FIN, Packet, REQ, STAT, Stat, mode};
use engine::image::build::{ArrivalError, ArrivedContext, Arriving, File, FileKind, Slot};
use engine::image::tree::{self, DeviceKind, Time};
use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use std::collections::{BTreeMap, VecDeque};

const PATH: &str = "/moby.filesync.v1.FileSync/DiffCopy";
/// How many files may be on their way at the same time.
const AHEAD: usize = 64;

/// Which files.
#[derive(Debug, Clone, Default)]
pub(crate) struct Part {
    /// The folder, by the name that the client has for it.
    pub(crate) folder: String,
    /// What is left out, as `.dockerignore` has it.
    pub(crate) exclude: Vec<String>,
    /// Only these paths and what they lead to; all if there are none.
    pub(crate) follow: Vec<String>,
}

impl Part {
    fn metadata(&self) -> HeaderMap {
        let mut out = HeaderMap::new();
        append(&mut out, "dir-name", std::slice::from_ref(&self.folder));
        append(&mut out, "exclude-patterns", &self.exclude);
        append(&mut out, "followpaths", &self.follow);
        out
    }
}

/// Values of one key; where a letter cannot be in a header, all are escaped and said to be.
fn append(out: &mut HeaderMap, key: &'static str, values: &[String]) {
    let plain = values.iter().all(|value| value.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
    for value in values {
        let text = if plain { value.clone() } else { escape(value) };
        if let Ok(value) = HeaderValue::from_str(&text) {
            out.append(HeaderName::from_static(key), value);
        }
    }
    if !plain && let Ok(name) = HeaderName::try_from(format!("{key}-encoded")) {
        out.insert(name, HeaderValue::from_static("1"));
    }
}

/// As in a URL's query.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

fn refused(error: ArrivalError) -> Status {
    Status::invalid(format!("cannot take the client's files: {}", engine::chain(&error)))
}

/// What is known of the files while they come.
struct Intake {
    arriving: Arriving,
    /// The next file's number.
    number: u32,
    /// Regular files whose contents were not asked for yet.
    waiting: VecDeque<(u32, Slot)>,
    /// Those whose contents are coming.
    coming: BTreeMap<u32, Slot>,
    listed: bool,
}

/// Has the client send files; `told` is given the bytes that have come, now and then.
///
/// # Errors
/// [`Code::NOT_FOUND`] for a folder that the client does not give, and whatever else it says; [`Code::INVALID`] for files
/// that cannot be.
pub(crate) async fn receive(
    session: &Session,
    part: &Part,
    arriving: Arriving,
    mut told: impl FnMut(u64),
) -> Result<ArrivedContext, Status> {
    session.demand(PATH, "files; name a folder as the build's context")?;
    let (out, mut packets) = session.channel.call(PATH, part.metadata())?;
    let mut intake = Intake { arriving, number: 0, waiting: VecDeque::new(), coming: BTreeMap::new(), listed: false };
    loop {
        while intake.coming.len() < AHEAD
            && let Some((id, slot)) = intake.waiting.pop_front()
        {
            out.send(&Packet { kind: REQ, id, ..Packet::default() }).await?;
            intake.coming.insert(id, slot);
        }
        if intake.listed && intake.coming.is_empty() && intake.waiting.is_empty() {
            break;
        }
        let packet = packets.next_answer::<Packet>().await?;
        let packet = packet.ok_or_else(|| Status::unavailable("the client stopped sending files"))?;
        intake.packet(packet)?;
        told(intake.arriving.bytes());
    }
    out.send(&Packet { kind: FIN, ..Packet::default() }).await?;
    // the client says farewell; whatever it says, all is there
    while packets.next_answer::<Packet>().await?.is_some_and(|packet| packet.kind != FIN) {}
    Ok(intake.arriving.done())
}

impl Intake {
    fn packet(&mut self, packet: Packet) -> Result<(), Status> {
        match packet.kind {
            STAT => match packet.stat {
                None => self.listed = true,
                Some(stat) => {
                    let number = self.number;
                    self.number = number.checked_add(1).ok_or_else(|| Status::invalid("too many files"))?;
                    if let Some(slot) = place(&mut self.arriving, stat)? {
                        self.waiting.push_back((number, slot));
                    }
                }
            },
            DATA if packet.data.is_empty() => drop(self.coming.remove(&packet.id)),
            DATA => {
                let stray = || Status::invalid("the client sends a file that nobody has asked for");
                let slot = *self.coming.get(&packet.id).ok_or_else(stray)?;
                self.arriving.write(slot, &packet.data).map_err(refused)?;
            }
            ERR => {
                let text = String::from_utf8_lossy(&packet.data);
                return Err(Status::new(Code::UNKNOWN, format!("the client cannot send its files: {text}")));
            }
            // nothing else is said by those who send
            _ => {}
        }
        Ok(())
    }
}

/// Puts a file into its place; its slot if its contents have to be asked for.
fn place(arriving: &mut Arriving, stat: Stat) -> Result<Option<Slot>, Status> {
    let path = stat.path.clone();
    if stat.mode & mode::KIND == 0 && !stat.linkname.is_empty() {
        arriving.link(path.as_bytes(), stat.linkname.as_bytes()).map_err(refused)?;
        return Ok(None);
    }
    arriving.place(path.as_bytes(), file(stat)).map_err(refused)
}

fn file(stat: Stat) -> File {
    let mut bits = u16::try_from(stat.mode & 0o777).unwrap_or(0);
    for (bit, special) in [(mode::SET_UID, 0o4000), (mode::SET_GID, 0o2000), (mode::STICKY, 0o1000)] {
        if stat.mode & bit != 0 {
            bits |= special;
        }
    }
    let number = |value: i64| u32::try_from(value).unwrap_or(0);
    let kind = match stat.mode {
        kind if kind & mode::DIRECTORY != 0 => FileKind::Directory,
        kind if kind & mode::SYMLINK != 0 => FileKind::Symlink(stat.linkname.into_bytes()),
        kind if kind & mode::DEVICE != 0 => FileKind::Device {
            kind: if kind & mode::CHARACTER != 0 { DeviceKind::Character } else { DeviceKind::Block },
            major: number(stat.devmajor),
            minor: number(stat.devminor),
        },
        kind if kind & mode::PIPE != 0 => FileKind::Fifo,
        kind if kind & mode::SOCKET != 0 => FileKind::Socket,
        _ => FileKind::Regular(u64::try_from(stat.size).unwrap_or(0)),
    };
    let nanos = u32::try_from(stat.mod_time.rem_euclid(1_000_000_000)).unwrap_or(0);
    let mtime = Time { seconds: stat.mod_time.div_euclid(1_000_000_000), nanos };
    let xattrs = stat.xattrs.into_iter().map(|(name, value)| (name.into_bytes(), value)).collect();
    File { stat: tree::Stat { mode: bits, uid: stat.uid, gid: stat.gid, mtime, xattrs }, kind }
}

/// Takes a client's messages as they come, for the fuzz target.
pub(crate) fn take(bytes: &[u8], arriving: Arriving) -> Result<ArrivedContext, Status> {
    let mut buffer = bytes::BytesMut::from(bytes);
    let (waiting, coming) = (VecDeque::new(), BTreeMap::new());
    let mut intake = Intake { arriving, number: 0, waiting, coming, listed: false };
    while let Some(packet) = crate::rpc::next_in::<Packet>(&mut buffer)? {
        intake.packet(packet)?;
        intake.coming.extend(intake.waiting.drain(..));
    }
    Ok(intake.arriving.done())
}
