//! Devices that can be driven by noise: what they touch of the host is made for the run and gone with it.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hv::vectored::GuestSlice;
use rustix::fs::MemfdFlags;
use rustix::io::Errno;

use super::drive;
use crate::device::balloon::{Balloon, Pressure};
use crate::device::block::{Access, Backing, Block, Cache, Disk, Qcow2, Zeroes};
use crate::device::console::{Console, Port};
use crate::device::entropy::Entropy;
use crate::device::fs::{Fs, Sharing};
use crate::device::net::{Backend, Frame, Net, OFFLOADS, Settings, Want};
use crate::device::pmem::Pmem;
use crate::device::vsock::Vsock;
use crate::device::{Device, DeviceError, balloon as balloon_module, block as block_module};
use crate::events::Events;
use crate::limit::Limit;

type Made = Option<Box<dyn Device>>;

fn run(device: Made, bytes: &[u8]) {
    if let Some(device) = device {
        drive(device, bytes);
    }
}

/// A folder of this run's own.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Option<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // In memory where the host has such a place: a run makes and removes a few files.
        let memory = Path::new("/dev/shm");
        let above = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let path = above.join(format!("insula-fuzz-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).ok().map(|()| Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

fn nowhere() -> Option<File> {
    rustix::fs::memfd_create("fuzz", MemfdFlags::CLOEXEC).ok().map(File::from)
}

/// A disk in memory.
struct MemoryDisk(Vec<u8>);

impl MemoryDisk {
    fn range(&mut self, offset: u64, length: u64) -> Result<&mut [u8], Errno> {
        let (start, length) = (usize::try_from(offset), usize::try_from(length));
        let (Ok(start), Ok(length)) = (start, length) else { panic!("beyond the disk") };
        let end = start + length;
        assert!(end <= self.0.len() && start.is_multiple_of(512) && length.is_multiple_of(512), "beyond the disk");
        Ok(&mut self.0[start..end])
    }
}

impl Disk for MemoryDisk {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn access(&self) -> Access {
        Access::ReadWrite
    }

    fn read(&mut self, slices: &[GuestSlice<'_>], offset: u64) -> Result<(), Errno> {
        let total = slices.iter().map(|slice| slice.len() as u64).sum();
        let mut rest = &*self.range(offset, total)?;
        for slice in slices {
            slice.copy_from(&rest[..slice.len()]);
            rest = &rest[slice.len()..];
        }
        Ok(())
    }

    fn write(&mut self, slices: &[GuestSlice<'_>], offset: u64) -> Result<(), Errno> {
        let total = slices.iter().map(|slice| slice.len() as u64).sum();
        let mut rest = self.range(offset, total)?;
        for slice in slices {
            let (here, behind) = rest.split_at_mut(slice.len());
            slice.copy_to(here);
            rest = behind;
        }
        Ok(())
    }

    fn read_at_once(&mut self, slices: &[GuestSlice<'_>], offset: u64) -> Result<(), Errno> {
        self.read(slices, offset)
    }

    fn write_at_once(&mut self, slices: &[GuestSlice<'_>], offset: u64) -> Result<(), Errno> {
        self.write(slices, offset)
    }

    fn flush(&mut self) -> Result<(), Errno> {
        Ok(())
    }

    fn discard(&mut self, offset: u64, length: u64) -> Result<(), Errno> {
        self.range(offset, length).map(|range| range.fill(0))
    }

    fn write_zeroes(&mut self, offset: u64, length: u64, _below: Zeroes) -> Result<(), Errno> {
        self.range(offset, length).map(|range| range.fill(0))
    }
}

pub(super) fn block_device() -> Made {
    let settings = block_module::Settings { id: "fuzz".to_owned(), queues: 2, limit: Limit::default() };
    Some(Box::new(Block::new(Box::new(MemoryDisk(vec![0; 64 << 10])), settings).ok()?))
}

/// A disk: nothing outside it is touched.
pub fn block(bytes: &[u8]) {
    run(block_device(), bytes);
}

pub(super) fn entropy_device() -> Made {
    Some(Box::new(Entropy::new(Limit::default()).ok()?))
}

/// A source of random numbers.
pub fn entropy(bytes: &[u8]) {
    run(entropy_device(), bytes);
}

pub(super) fn balloon_device() -> Made {
    let settings = balloon_module::Settings { target: 64 << 10, pressure: Pressure::Deflate };
    let (balloon, pump) = Balloon::new(settings).ok()?;
    pump.ask_for_statistics();
    Some(Box::new(balloon))
}

/// A balloon.
pub fn balloon(bytes: &[u8]) {
    run(balloon_device(), bytes);
}

/// Persistent memory.
pub fn pmem(bytes: &[u8]) {
    run(nowhere().map(|file| Box::new(Pmem::new(Arc::new(file), 1 << 32, 1 << 21)) as Box<dyn Device>), bytes);
}

/// A console with three ports, whose other ends send something and then read nothing.
pub fn console(bytes: &[u8]) {
    let mut far_ends = Vec::new();
    let mut port = |name: &str| {
        let (near, far) = UnixStream::pair().ok()?;
        rustix::io::write(&far, b"from the host").ok()?;
        far_ends.push(far);
        Port::new(name, Some(near.try_clone().ok()?.into()), Some(near.into())).ok()
    };
    let ports: Option<Vec<Port>> = ["", "one", "two"].into_iter().map(&mut port).collect();
    let console = ports.and_then(|ports| Console::new(ports).ok());
    run(console.map(|(console, _)| Box::new(console) as Box<dyn Device>), bytes);
}

/// Gives each frame back.
#[derive(Default)]
struct Mirror(VecDeque<Vec<u8>>);

impl Backend for Mirror {
    fn pairs(&self) -> u16 {
        2
    }

    fn offloads(&self) -> u64 {
        OFFLOADS
    }

    fn start(&mut self, _: &Events, _: u64) -> Result<(), DeviceError> {
        Ok(())
    }

    fn stop(&mut self, _: &Events) {}

    fn watch(&mut self, _: &Events, _: u64, _: u16, _: Want) -> Result<(), DeviceError> {
        Ok(())
    }

    fn transmit(&mut self, _pair: u16, frame: Frame<'_, '_>) -> bool {
        self.0.push_back(frame.bytes());
        true
    }

    fn answers(&self) -> bool {
        true
    }

    fn receive(&mut self, _pair: u16, into: &mut Vec<u8>) -> Option<usize> {
        let frame = self.0.pop_front()?;
        into[..frame.len()].copy_from_slice(&frame);
        Some(frame.len())
    }
}

pub(super) fn net_device() -> Made {
    let limit = Limit::default();
    let settings = Settings { mac: [2; 6], mtu: Some(1500), receive_limit: limit, transmit_limit: limit };
    Some(Box::new(Net::new(Box::new(Mirror::default()), settings).ok()?))
}

/// A network card whose frames come back.
pub fn net(bytes: &[u8]) {
    run(net_device(), bytes);
}

/// Frames of a guest on a network of its own; none leads out of it.
pub fn user_network(bytes: &[u8]) {
    crate::device::net::user::noise(bytes);
}

/// Sockets, with somebody on the host's side of one port.
pub fn vsock(bytes: &[u8]) {
    let Some(folder) = Folder::new() else { return };
    let path = folder.0.join("v");
    let listener = std::os::unix::net::UnixListener::bind(folder.0.join("v_1"));
    let vsock = Vsock::new(3, &path).ok();
    let host = UnixStream::connect(&path).ok().map(|host| rustix::io::write(&host, b"CONNECT 7\n").map(|_| host));
    run(vsock.map(|vsock| Box::new(vsock) as Box<dyn Device>), bytes);
    drop((listener, host));
}

/// A folder: nothing beside it is touched.
pub fn fs(bytes: &[u8]) {
    let Some(folder) = Folder::new() else { return };
    let (shared, beside) = (folder.0.join("shared"), folder.0.join("beside"));
    let made = std::fs::create_dir(&shared)
        .and_then(|()| std::fs::write(&beside, b"untouched"))
        .and_then(|()| std::fs::write(shared.join("f"), b"content"))
        .and_then(|()| std::os::unix::fs::symlink("../beside", shared.join("l")));
    if made.is_ok() {
        run(Fs::new("fuzz", &shared, Sharing::ReadWrite).ok().map(|fs| Box::new(fs) as Box<dyn Device>), bytes);
        assert_eq!(std::fs::read(&beside).ok().as_deref(), Some(&b"untouched"[..]), "something beside the folder");
    }
}

/// An image of a disk, as somebody else may have made it: what opens can be read and written.
pub fn qcow2(bytes: &[u8]) {
    let (Some(file), Ok(memory)) = (nowhere(), crate::Memory::new(128 << 10)) else { return };
    if rustix::io::pwrite(&file, bytes, 0).is_err() {
        return;
    }
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let slice = |length| vm_memory::GuestMemoryBackend::get_slice(memory.ram(), vm_memory::GuestAddress(0), length);
    for access in [Access::ReadOnly, Access::ReadWrite] {
        let opened = Qcow2::open(Path::new(&path), access, Cache::Host, Backing::Refused);
        let (Ok(mut disk), Ok(sector), Ok(many)) = (opened, slice(512), slice(96 << 10)) else { continue };
        let end = disk.bytes();
        let places = [0, end / 1024 * 512, end - 512];
        // An error is an answer, everywhere.
        for offset in places {
            let _error = disk.read(std::slice::from_ref(&sector), offset);
            let _error = disk.read_at_once(std::slice::from_ref(&sector), offset);
        }
        if access == Access::ReadWrite {
            let room = (end & !511).min(many.len() as u64);
            for offset in places {
                let _error = disk.write(std::slice::from_ref(&sector), offset);
            }
            if let Ok(part) = many.subslice(0, usize::try_from(room).unwrap_or(0)) {
                let _error = disk.write(std::slice::from_ref(&part), end - room);
                let _error = disk.write_at_once(std::slice::from_ref(&part), end - room);
            }
            let _error = disk.write_zeroes(0, room, Zeroes::Keep);
            let _error = disk.flush();
            let _error = disk.write_zeroes(end - room, room, Zeroes::Free);
            let _error = disk.discard(0, room);
            let _error = disk.flush();
            let _error = disk.read(std::slice::from_ref(&sector), 0);
        }
    }
}
