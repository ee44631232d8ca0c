//! Work on a disk, the network and a socket at the same time that goes on while the machine is written and restored. Streams may end by that, and
//! are begun again; what comes back is what was sent.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::{Outcome, hold, pattern, sockets};

const PIECE: usize = 64 << 10;
const PIECES: usize = 64;
/// Turns of each kind that show that it goes on.
const MORE: u64 = 16;

/// Turns of the disk, the network and the socket.
static TURNS: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
static WRONG: Mutex<Option<String>> = Mutex::new(None);

/// Begins it.
pub(crate) fn load() -> Outcome {
    let peer = std::env::var("tcp").map_err(|_| "tcp= is missing")?;
    std::thread::spawn(|| ended("the disk", disk()));
    std::thread::spawn(move || streams(1, || TcpStream::connect(&peer)));
    std::thread::spawn(|| streams(2, sockets::to_host));
    Ok(())
}

/// Waits until all of it has gone on.
pub(crate) fn loaded() -> Outcome {
    let before = TURNS.each_ref().map(|turns| turns.load(Ordering::SeqCst));
    while TURNS.iter().zip(before).any(|(turns, before)| turns.load(Ordering::SeqCst) < before + MORE) {
        if let Some(wrong) = &*WRONG.lock().unwrap_or_else(PoisonError::into_inner) {
            return Err(wrong.clone().into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn ended(what: &str, outcome: Outcome) {
    let why = outcome.err().map_or_else(|| "it ended".to_owned(), |why| why.to_string());
    WRONG.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(format!("{what}: {why}"));
}

/// Writes pieces and reads others, past the guest's cache.
fn disk() -> Outcome {
    let direct = i32::try_from(rustix::fs::OFlags::DIRECT.bits())?;
    let disk = OpenOptions::new().read(true).write(true).custom_flags(direct).open("/dev/vda")?;
    let mut room = vec![0; PIECE + 4096];
    let start = room.as_ptr().align_offset(4096);
    let mut seeds = [None; PIECES];
    for turn in 0_usize.. {
        let bytes = &mut room[start..start + PIECE];
        let (to, from) = (turn * 29 % PIECES, turn * 13 % PIECES);
        bytes.copy_from_slice(&pattern(PIECE, turn));
        hold(rustix::io::pwrite(&disk, &*bytes, (to * PIECE) as u64)? == PIECE, "a short write")?;
        seeds[to] = Some(turn);
        if turn % 8 == 0 {
            disk.sync_data()?;
        }
        hold(rustix::io::pread(&disk, &mut *bytes, (from * PIECE) as u64)? == PIECE, "a short read")?;
        if let Some(seed) = seeds[from] {
            hold(*bytes == pattern(PIECE, seed)[..], format!("piece {from} reads otherwise in turn {turn}"))?;
        }
        TURNS[0].fetch_add(1, Ordering::SeqCst);
    }
    Ok(())
}

/// Sends and hears the same again, over streams that are made when the one before has ended.
fn streams<S: Read + Write>(kind: usize, connect: impl Fn() -> io::Result<S>) {
    let mut turn = 0;
    loop {
        let Ok(mut stream) = connect() else {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        };
        loop {
            let sent = pattern(20_000, turn);
            let mut back = vec![0; sent.len()];
            if stream.write_all(&sent).and_then(|()| stream.read_exact(&mut back)).is_err() {
                break;
            }
            turn += 1;
            if back != sent {
                return ended("a stream", Err(format!("of kind {kind} came back otherwise in turn {turn}").into()));
            }
            TURNS[kind].fetch_add(1, Ordering::SeqCst);
        }
    }
}
