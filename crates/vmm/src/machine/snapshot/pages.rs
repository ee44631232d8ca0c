//! Restoring on demand: pages come from a snapshot's files when somebody touches them.
//!
//! A thread waits at a userfaultfd. Whoever touches a page that is not there, the guest, a device or KVM, waits until the piece
//! with it was read, unpacked and compared with its checksum.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;

use hv::Memory;
use hv::memory::PAGE_SIZE;
use sys::userfault::Userfault;
use virtio::events::{Events, Interest, Kick};

use super::SnapshotError;
use super::content::{Layer, PIECE, Piece};
use crate::machine::Event;

const STOP: u64 = 0;
const FAULT: u64 = 1;

/// The thread. Dropping it ends it; then no page that is not there may be touched any more.
pub(crate) struct Pages {
    stop: Arc<Kick>,
    thread: Option<JoinHandle<()>>,
    // As long as it is open, pages that are missing are waited for.
    _faults: Arc<Userfault>,
    _memory: Memory,
}

/// A region's place in this process and in the snapshot's files.
struct Place {
    host: u64,
    offset: u64,
    size: u64,
}

struct Server {
    faults: Arc<Userfault>,
    /// The newest first.
    layers: Vec<Layer>,
    places: Vec<Place>,
    /// Parts of the memory that were filled: what is missing there now, the guest has given back.
    filled: Vec<bool>,
}

impl Pages {
    /// Serves the memory from these layers, the newest first. `events` hears of it if that is not possible any more.
    pub(super) fn serve(
        memory: &Memory,
        layers: Vec<Layer>,
        faults: Userfault,
        events: &Sender<Event>,
    ) -> Result<Self, SnapshotError> {
        let faults = Arc::new(faults);
        let mut places = Vec::new();
        for region in memory.regions() {
            let place = Place { host: region.host.addr() as u64, offset: region.range.offset, size: region.range.size };
            faults.register(place.host, place.size).map_err(SnapshotError::Userfault)?;
            places.push(place);
        }
        let bytes = places.iter().map(|place| place.offset + place.size).max().unwrap_or(0);
        let filled = vec![false; bytes.div_ceil(PIECE) as usize];
        let server = Server { faults: Arc::clone(&faults), layers, places, filled };
        let waits = || -> io::Result<(Events, Arc<Kick>)> {
            let (events, stop) = (Events::new()?, Kick::new()?);
            events.add(&stop, STOP, Interest::IN)?;
            events.add(&*faults, FAULT, Interest::IN)?;
            Ok((events, Arc::new(stop)))
        };
        let (waits, stop) = waits().map_err(SnapshotError::Thread)?;
        let events = events.clone();
        let thread = std::thread::Builder::new().name("pages".to_owned()).spawn(move || {
            hv::thread::begin();
            if let Err(error) = server.run(&waits) {
                let mut why = error.to_string();
                if let Some(below) = std::error::Error::source(&error) {
                    why.push_str(&format!(": {below}"));
                }
                // Nobody listens any more when the machine is on its way out.
                let _nobody = events.send(Event::MemoryLost(why));
            }
        });
        let thread = thread.map_err(SnapshotError::Thread)?;
        Ok(Self { stop, thread: Some(thread), _faults: faults, _memory: memory.clone() })
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.stop.kick();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so.
            let _panicked = thread.join();
        }
    }
}

impl Server {
    fn run(mut self, waits: &Events) -> Result<(), SnapshotError> {
        loop {
            for (token, _) in waits.wait(None).map_err(|errno| SnapshotError::Thread(errno.into()))? {
                if token == STOP {
                    return Ok(());
                }
                while let Some(address) = self.faults.next().map_err(SnapshotError::Userfault)? {
                    self.fill(address)?;
                }
            }
        }
    }

    /// Fills the part of memory around an address.
    fn fill(&mut self, address: u64) -> Result<(), SnapshotError> {
        let inside = |place: &&Place| (place.host..place.host + place.size).contains(&address);
        let Some(place) = self.places.iter().find(inside) else { return Ok(()) };
        let at = place.offset + (address - place.host);
        let part = at / PIECE;
        let (from, to) = ((part * PIECE).max(place.offset), ((part + 1) * PIECE).min(place.offset + place.size));
        let host = |at: u64| place.host + (at - place.offset);
        if !std::mem::replace(&mut self.filled[part as usize], true) {
            let mut bytes = Vec::new();
            // A page that an upper layer has filled stays as it is.
            for layer in &self.layers {
                let first = layer.pieces.partition_point(|piece| piece.at < from);
                for piece in layer.pieces[first..].iter().take_while(|piece| piece.at < to) {
                    layer.read(piece, &mut bytes)?;
                    self.put(host(piece.at), piece, &bytes)?;
                }
            }
        }
        // What no layer has is zero. A part that is on the border of two regions is filled for the one that was touched.
        let page = at & !(PAGE_SIZE - 1);
        self.faults.zero(host(page), PAGE_SIZE).map(drop).map_err(SnapshotError::Userfault)
    }

    fn put(&self, host: u64, piece: &Piece, bytes: &[u8]) -> Result<(), SnapshotError> {
        let mut done = 0;
        while done < u64::from(piece.size) {
            let copied = self.faults.copy(host + done, &bytes[done as usize..]).map_err(SnapshotError::Userfault)?;
            // The page is there already.
            done += if copied == 0 { PAGE_SIZE } else { copied };
        }
        Ok(())
    }
}
