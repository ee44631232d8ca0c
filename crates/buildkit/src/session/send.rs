//! What a build gives back to its client: a folder's files, or an archive.

use super::Session;
use crate::rpc::{Code, Outgoing, Status};
use crate::wire::Piece;
use crate::wire::files::{DATA, ERR, FIN, Packet, REQ, STAT, Stat, mode};
use bytes::Bytes;
use engine::image::build::{FileKind, Files};
use engine::image::tree::DeviceKind;
use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use std::collections::BTreeMap;
use std::io::{self, Read as _, Write};
use tokio::sync::mpsc;

const PATH: &str = "/moby.filesync.v1.FileSend/DiffCopy";
/// Says which of several outputs it is.
const OUTPUT: HeaderName = HeaderName::from_static("buildkit-attachable-exporter-id");
/// The most bytes in one packet.
const PIECE: usize = 32 << 10;

fn metadata(output: usize) -> HeaderMap {
    HeaderMap::from_iter([(OUTPUT, HeaderValue::from(output))])
}

fn demand(session: &Session) -> Result<(), Status> {
    session.demand(PATH, "place for the build's output; name one with --output")
}

/// Sends all files to the folder that the client has for this output.
pub(crate) async fn send_files(
    session: &Session,
    output: usize,
    files: Box<dyn Files + Send + Sync>,
) -> Result<(), Status> {
    demand(session)?;
    let (out, mut packets) = session.channel.call(PATH, metadata(output))?;
    let (wanted, asked) = mpsc::unbounded_channel();
    let sender = out.clone();
    let sending = tokio::task::spawn_blocking(move || Sender { out: sender, files, numbers: Vec::new() }.run(asked));
    let answered = async {
        while let Some(packet) = packets.next_answer::<Packet>().await? {
            match packet.kind {
                REQ => drop(wanted.send(packet.id)),
                FIN => return Ok(()),
                ERR => {
                    let text = String::from_utf8_lossy(&packet.data);
                    return Err(Status::new(Code::UNKNOWN, format!("the client cannot take the files: {text}")));
                }
                _ => {}
            }
        }
        Err(Status::unavailable("the client stopped taking files"))
    }
    .await;
    // the sender ends when nothing more can be asked for
    drop(wanted);
    let sent = sending.await.map_err(|error| Status::new(Code::INTERNAL, format!("sending was cut short: {error}")))?;
    answered?;
    sent?;
    out.send(&Packet { kind: FIN, ..Packet::default() }).await?;
    drop(out);
    packets.end().await
}

/// Walks over the files on a thread.
struct Sender {
    out: Outgoing,
    files: Box<dyn Files + Send + Sync>,
    /// The path of each regular file by its number; of others, nothing.
    numbers: Vec<Option<Vec<u8>>>,
}

impl Sender {
    fn run(mut self, mut asked: mpsc::UnboundedReceiver<u32>) -> Result<(), Status> {
        if let Err(status) = self.folder(b"") {
            let data = Bytes::from(status.message.clone());
            let _ = self.out.send_blocking(&Packet { kind: ERR, data, ..Packet::default() });
            return Err(status);
        }
        self.out.send_blocking(&Packet { kind: STAT, ..Packet::default() })?;
        while let Some(id) = asked.blocking_recv() {
            self.contents(id)?;
        }
        Ok(())
    }

    /// Tells of what is in a folder, each folder before what is in it.
    fn folder(&mut self, folder: &[u8]) -> Result<(), Status> {
        for name in self.files.names(folder).map_err(unreadable)? {
            let path = if folder.is_empty() { name } else { [folder, b"/", &name].concat() };
            let Some(file) = self.files.look(&path).map_err(unreadable)? else { continue };
            let is_folder = file.kind == FileKind::Directory;
            let regular = matches!(file.kind, FileKind::Regular(_));
            let stat = Some(stat(&path, file));
            self.out.send_blocking(&Packet { kind: STAT, stat, ..Packet::default() })?;
            self.numbers.push(regular.then(|| path.clone()));
            if is_folder {
                self.folder(&path)?;
            }
        }
        Ok(())
    }

    fn contents(&self, id: u32) -> Result<(), Status> {
        let number = usize::try_from(id).unwrap_or(usize::MAX);
        let Some(Some(path)) = self.numbers.get(number) else {
            return Err(Status::invalid(format!("the client asks for the file {id}, which is none")));
        };
        let mut contents = self.files.open(path).map_err(unreadable)?;
        let mut piece = vec![0; PIECE];
        loop {
            let count = match contents.read(&mut piece) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let name = String::from_utf8_lossy(path);
                    return Err(Status::new(Code::INTERNAL, format!("cannot read {name}: {error}")));
                }
            };
            let data = Bytes::copy_from_slice(&piece[..count]);
            // an empty one is the end
            self.out.send_blocking(&Packet { kind: DATA, id, data, ..Packet::default() })?;
            if count == 0 {
                return Ok(());
            }
        }
    }
}

fn unreadable(error: impl std::error::Error) -> Status {
    Status::new(Code::INTERNAL, format!("cannot read the image's files: {}", engine::chain(&error)))
}

fn stat(path: &[u8], file: engine::image::build::File) -> Stat {
    let mut bits = u32::from(file.stat.mode & 0o777);
    for (special, bit) in [(0o4000, mode::SET_UID), (0o2000, mode::SET_GID), (0o1000, mode::STICKY)] {
        if file.stat.mode & special != 0 {
            bits |= bit;
        }
    }
    let time = file.stat.mtime;
    let mut out = Stat {
        path: String::from_utf8_lossy(path).into_owned(),
        uid: file.stat.uid,
        gid: file.stat.gid,
        mod_time: time.seconds.saturating_mul(1_000_000_000).saturating_add(time.nanos.into()),
        xattrs: BTreeMap::new(),
        ..Stat::default()
    };
    let kind = match file.kind {
        FileKind::Directory => mode::DIRECTORY,
        FileKind::Regular(size) => {
            out.size = i64::try_from(size).unwrap_or(i64::MAX);
            0
        }
        FileKind::Symlink(target) => {
            out.linkname = String::from_utf8_lossy(&target).into_owned();
            mode::SYMLINK
        }
        FileKind::Device { kind, major, minor } => {
            (out.devmajor, out.devminor) = (major.into(), minor.into());
            mode::DEVICE | if kind == DeviceKind::Character { mode::CHARACTER } else { 0 }
        }
        FileKind::Fifo => mode::PIPE,
        FileKind::Socket => mode::SOCKET,
    };
    out.mode = bits | kind;
    out
}

/// Sends what `write` writes to the file that the client has for this output.
pub(crate) async fn send_stream<F>(
    session: &Session,
    output: usize,
    write: impl FnOnce(Pieces) -> F,
) -> Result<(), Status>
where
    F: Future<Output = Result<(), engine::EngineError>>,
{
    demand(session)?;
    let (out, mut answers) = session.channel.call(PATH, metadata(output))?;
    write(Pieces { out, piece: Vec::with_capacity(PIECE) }).await.map_err(crate::build::failed)?;
    answers.end().await
}

/// A file of the client's that is written on a thread.
pub(crate) struct Pieces {
    out: Outgoing,
    piece: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = PIECE - self.piece.len();
        let taken = &bytes[..room.min(bytes.len())];
        self.piece.extend_from_slice(taken);
        if self.piece.len() == PIECE {
            self.flush()?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let data = Bytes::copy_from_slice(&self.piece);
        self.piece.clear();
        self.out.send_blocking(&Piece { data }).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        // whoever does not take the end says so in its answer
        let _ = self.flush();
    }
}
