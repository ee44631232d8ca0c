//! What `cargo xtask bench vm-devices` runs in a guest, as its first process: the piece of work on a disk or a network that the kernel's
//! command line names by `work=`.
//!
//! `guest_devices archive FILE` writes itself as the guest's first file system, `guest_devices serve` is the other end of the network,
//! `guest_devices flush FILE` is the host's own part of the work `flush`. The disk is read and written past the guest's cache, so that every
//! request reaches the device.
//!
//! ```text
//! a connection to the server   s: it sends as long as somebody reads    d: it reads as long as somebody sends    e: it sends everything back
//! ```

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Instant;

use rustix::fs::OFlags;

/// A piece of work, by its name; gives the bytes that it moved, or the count of its turns.
type Piece = (&'static str, fn() -> std::io::Result<u64>);

/// Sorted by name.
const PIECES: [Piece; 12] = [
    ("deep-read-4k", || deep(4 << 10, 16_384)),
    ("flush", flush),
    ("nothing", || Ok(0)),
    ("random-read-4k", || random(Way::Read, 4 << 10, 16_384)),
    ("random-write-4k", || random(Way::Write, 4 << 10, 16_384)),
    ("read-128k", || sequence(Way::Read, 128 << 10, 12_288)),
    ("read-4k", || sequence(Way::Read, 4 << 10, 24_576)),
    ("tcp-answers", answers),
    ("tcp-in", || stream(b's', 1 << 30)),
    ("tcp-out", || stream(b'd', 1 << 30)),
    ("write-128k", || sequence(Way::Write, 128 << 10, 12_288)),
    ("write-4k", || sequence(Way::Write, 4 << 10, 24_576)),
];
/// Where the guest's disk is.
const DISK: &str = "/dev/vda";
/// Requests at the same time.
const DEEP: u64 = 16;

#[derive(Clone, Copy)]
enum Way {
    Read,
    Write,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("archive") => testkit::guest::archive_self(Path::new(&arguments[2])),
        Some("flush") => {
            let disk = File::options().write(true).open(&arguments[2]).expect("the file is there");
            flushes(&disk).expect("it can be written");
        }
        Some("serve") => serve(&arguments[2]).expect("the address can be served"),
        _ => work(),
    }
}

/// Does the work, says on the console when it begins and what it has moved in how many microseconds, and ends the guest.
fn work() {
    let wanted = std::env::var("work").unwrap_or_default();
    let flags = rustix::mount::MountFlags::empty();
    let _ = rustix::mount::mount("devtmpfs", "/dev", "devtmpfs", flags, None);
    if let Some((name, piece)) = PIECES.iter().find(|(name, _)| *name == wanted)
        && let Ok(mut console) = File::options().write(true).open("/dev/console")
    {
        let _ = writeln!(console, "BEGIN {name}");
        let since = Instant::now();
        let outcome = piece();
        let spent = since.elapsed().as_micros();
        let _ = match outcome {
            Ok(moved) => writeln!(console, "DONE {name} {moved} {spent}"),
            Err(error) => writeln!(console, "FAILED {name}: {error}"),
        };
    }
    rustix::fs::sync();
    let _ = rustix::system::reboot(rustix::system::RebootCommand::Restart);
}

/// Bytes that start where a page does, as reads and writes past the cache want them.
struct Page {
    room: Vec<u8>,
    start: usize,
}

impl Page {
    fn new(length: usize) -> Self {
        let room = vec![7; length + 4096];
        let start = room.as_ptr().align_offset(4096);
        Self { room, start }
    }

    fn bytes(&mut self, length: usize) -> &mut [u8] {
        &mut self.room[self.start..self.start + length]
    }
}

fn disk() -> std::io::Result<(File, u64)> {
    let flags = i32::try_from(OFlags::DIRECT.bits()).unwrap_or_default();
    let mut disk = OpenOptions::new().read(true).write(true).custom_flags(flags).open(DISK)?;
    let end = disk.seek(SeekFrom::End(0))?;
    Ok((disk, end))
}

fn one(disk: &File, way: Way, bytes: &mut [u8], offset: u64) -> std::io::Result<u64> {
    let done = match way {
        Way::Read => rustix::io::pread(disk, &mut *bytes, offset)?,
        Way::Write => rustix::io::pwrite(disk, &*bytes, offset)?,
    };
    if done == bytes.len() { Ok(done as u64) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) }
}

/// Requests of `size` bytes one after the other, around the disk.
fn sequence(way: Way, size: usize, turns: u64) -> std::io::Result<u64> {
    let (disk, end) = disk()?;
    let mut page = Page::new(size);
    (0..turns).try_fold(0, |sum, turn| {
        let offset = turn * size as u64 % end;
        one(&disk, way, page.bytes(size), offset).map(|done| sum + done)
    })
}

/// Numbers that look random and are the same each time.
fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

fn random(way: Way, size: usize, turns: u64) -> std::io::Result<u64> {
    let (disk, end) = disk()?;
    let (mut page, mut seed) = (Page::new(size), 1);
    (0..turns).try_fold(0, |sum, _| {
        let offset = next(&mut seed) % (end / size as u64) * size as u64;
        one(&disk, way, page.bytes(size), offset).map(|done| sum + done)
    })
}

/// Random reads, many at the same time.
fn deep(size: usize, turns: u64) -> std::io::Result<u64> {
    let (disk, end) = disk()?;
    let read = |first: u64| {
        let (mut page, mut seed) = (Page::new(size), first);
        (0..turns / DEEP).try_fold(0, |sum, _| {
            let offset = next(&mut seed) % (end / size as u64) * size as u64;
            one(&disk, Way::Read, page.bytes(size), offset).map(|done| sum + done)
        })
    };
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..DEEP).map(|first| scope.spawn(move || read(first))).collect();
        readers.into_iter().map(|reader| reader.join().unwrap_or(Ok(0))).sum()
    })
}

/// Small writes that have to last one by one.
fn flush() -> std::io::Result<u64> {
    flushes(&disk()?.0)
}

/// The same on the host is what nobody's disk can be without.
fn flushes(disk: &File) -> std::io::Result<u64> {
    let mut page = Page::new(4096);
    for turn in 0..4096_u64 {
        one(disk, Way::Write, page.bytes(4096), turn % 64 * 4096)?;
        disk.sync_data()?;
    }
    Ok(4096)
}

fn peer() -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(std::env::var("peer").unwrap_or_default())?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A stream of `wanted` bytes in one direction.
fn stream(order: u8, wanted: u64) -> std::io::Result<u64> {
    let mut stream = peer()?;
    stream.write_all(&[order])?;
    let mut bytes = vec![7; 128 << 10];
    let mut moved = 0;
    while moved < wanted {
        let done = if order == b's' { stream.read(&mut bytes)? } else { stream.write(&bytes)? };
        if done == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        moved += done as u64;
    }
    if order == b'd' {
        // It has arrived when the other end says so by closing as well.
        stream.shutdown(Shutdown::Write)?;
        let rest = stream.read(&mut bytes)?;
        assert_eq!(rest, 0, "the other end sends what nobody asked for");
    }
    Ok(moved)
}

/// Small questions, each with its answer.
fn answers() -> std::io::Result<u64> {
    let mut stream = peer()?;
    stream.write_all(b"e")?;
    let mut byte = [0_u8; 64];
    for _ in 0..16_384 {
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
    }
    Ok(16_384)
}

/// The other end; prints its port.
fn serve(address: &str) -> std::io::Result<()> {
    let listener = TcpListener::bind(address)?;
    println!("{}", listener.local_addr()?.port());
    for stream in listener.incoming() {
        let stream = stream?;
        // A guest that is gone ends its connection, and only that.
        std::thread::spawn(move || answer(stream));
    }
    Ok(())
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut order, mut bytes) = ([0], vec![7; 128 << 10]);
    stream.read_exact(&mut order)?;
    loop {
        let done = if order == *b"s" { stream.write(&bytes)? } else { stream.read(&mut bytes)? };
        if done == 0 {
            return Ok(());
        }
        if order == *b"e" {
            stream.write_all(&bytes[..done])?;
        }
    }
}
