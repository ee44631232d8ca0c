use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::*;
use crate::Memory;

const MIB: u64 = 1 << 20;

/// How an image of a test is made.
#[derive(Clone, Copy)]
struct Shape {
    version: u32,
    cluster_bits: u32,
    count_order: u32,
    bytes: u64,
}

const USUAL: Shape = Shape { version: 3, cluster_bits: 16, count_order: 4, bytes: 64 * MIB };

/// An empty image: header, table and block of counts, first table, a cluster or more each.
fn empty(shape: Shape) -> Vec<u8> {
    let Shape { version, cluster_bits, count_order, bytes } = shape;
    let cluster = 1_usize << cluster_bits;
    let entries = (bytes as usize).div_ceil(cluster * (cluster / 8));
    let used = 3 + (entries * 8).div_ceil(cluster);
    let mut image = vec![0; used * cluster];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &header::MAGIC);
    put(4, &version.to_be_bytes());
    put(20, &cluster_bits.to_be_bytes());
    put(24, &bytes.to_be_bytes());
    put(36, &(entries as u32).to_be_bytes());
    put(40, &(3 * cluster as u64).to_be_bytes());
    put(48, &(cluster as u64).to_be_bytes());
    put(56, &1_u32.to_be_bytes());
    if version == 3 {
        put(96, &count_order.to_be_bytes());
        put(100, &104_u32.to_be_bytes());
    }
    put(cluster, &(2 * cluster as u64).to_be_bytes());
    let block = &mut image[2 * cluster..3 * cluster];
    (0..used).for_each(|number| counts::set(block, number, count_order, 1));
    image
}

fn create(path: &Path, bytes: u64) {
    std::fs::write(path, empty(Shape { bytes, ..USUAL })).unwrap();
}

fn open(path: &Path) -> Qcow2 {
    Qcow2::open(path, Access::ReadWrite, Cache::Host, Backing::Opened).unwrap()
}

struct Guest(Memory);

impl Guest {
    fn new() -> Self {
        Self(Memory::new(MIB).unwrap())
    }

    fn put(&self, disk: &mut Qcow2, bytes: &[u8], offset: u64) {
        self.0.ram().write_slice(bytes, GuestAddress(0)).unwrap();
        let half = bytes.len() / 2;
        let slices = [(0, half), (half, bytes.len() - half)]
            .map(|(at, length)| self.0.ram().get_slice(GuestAddress(at as u64), length).unwrap());
        disk.write(&slices, offset).unwrap();
    }

    fn get(&self, disk: &mut Qcow2, length: usize, offset: u64) -> Vec<u8> {
        let slice = self.0.ram().get_slice(GuestAddress(0x8_0000), length).unwrap();
        disk.read(&[slice], offset).unwrap();
        let mut bytes = vec![0; length];
        self.0.ram().read_slice(&mut bytes, GuestAddress(0x8_0000)).unwrap();
        bytes
    }
}

fn content(disk: &mut Qcow2) -> Vec<u8> {
    let mut bytes = vec![0; disk.bytes() as usize];
    disk.image.read_below(&mut bytes, 0).unwrap();
    bytes
}

fn put(disk: &mut Qcow2, bytes: &[u8], offset: u64) {
    disk.image.write(Source::Host(bytes), offset).unwrap();
}

#[test]
fn what_was_flushed_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.qcow2");
    create(&path, 64 * MIB);
    let (guest, mut disk) = (Guest::new(), open(&path));
    assert_eq!(disk.bytes(), 64 * MIB);
    guest.put(&mut disk, &[1; 5120], 10 * MIB + 512);
    guest.put(&mut disk, &[2; 131_072], 40 * MIB - 1024);
    disk.flush().unwrap();
    let killed = folder.path().join("killed.qcow2");
    std::fs::copy(&path, &killed).unwrap();
    let mut again = open(&killed);
    assert_eq!(guest.get(&mut again, 5120, 10 * MIB + 512), [1; 5120]);
    assert_eq!(guest.get(&mut again, 131_072, 40 * MIB - 1024), vec![2; 131_072]);
    assert_eq!(guest.get(&mut again, 512, 0), [0; 512]);
    assert!(std::fs::metadata(&killed).unwrap().len() < 2 * MIB, "it grows as it is written");
}

#[test]
fn ranges_are_cleared() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.qcow2");
    create(&path, 8 * MIB);
    let (guest, mut disk) = (Guest::new(), open(&path));
    guest.put(&mut disk, &vec![7; 262_144], 0);
    disk.write_zeroes(512, 1024, Zeroes::Keep).unwrap();
    disk.write_zeroes(65_536, 65_536, Zeroes::Free).unwrap();
    disk.discard(131_072, 65_536).unwrap();
    let bytes = guest.get(&mut disk, 262_144, 0);
    assert_eq!((&bytes[..512], &bytes[512..1536], bytes[1536]), (&[7; 512][..], &[0; 1024][..], 7));
    assert!(bytes[65_536..196_608].iter().all(|byte| *byte == 0));
    assert!(bytes[196_608..].iter().all(|byte| *byte == 7));
    // A cluster that is kept for zeroes is written again.
    disk.write_zeroes(196_608, 65_536, Zeroes::Keep).unwrap();
    guest.put(&mut disk, &[9; 512], 196_608 + 512);
    let bytes = guest.get(&mut disk, 1536, 196_608);
    assert_eq!(bytes, [[0; 512], [9; 512], [0; 512]].concat());
}

#[test]
fn an_image_upon_another_is_opened_only_when_that_is_allowed() {
    let Some(folder) =
        made_by_qemu(&["create -q -f qcow2 base.qcow2 1M", "create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2"])
    else {
        return;
    };
    let (base, top) = (folder.path().join("base.qcow2"), folder.path().join("top.qcow2"));
    let guest = Guest::new();
    let mut disk = open(&base);
    guest.put(&mut disk, &[3; 4096], 0);
    disk.flush().unwrap();
    drop(disk);
    let refused = Qcow2::open(&top, Access::ReadWrite, Cache::Host, Backing::Refused).unwrap_err();
    assert!(matches!(&refused, DiskError::Backing { backing, .. } if backing == "base.qcow2"), "{refused:?}");
    let mut disk = open(&top);
    assert_eq!(guest.get(&mut disk, 4096, 0), [3; 4096]);
    guest.put(&mut disk, &[4; 512], 512);
    disk.flush().unwrap();
    drop(disk);
    let mut below = open(&base);
    assert_eq!(guest.get(&mut below, 4096, 0), [3; 4096], "the image below was written");
    drop(below);
    let mut disk = open(&top);
    assert_eq!(guest.get(&mut disk, 1536, 0), [[3; 512], [4; 512], [3; 512]].concat());
    disk.discard(0, 65_536).unwrap();
    assert_eq!(guest.get(&mut disk, 1536, 0), [0; 1536], "what is below came up again");
    drop(disk);
    // A ring of images is refused, not followed.
    qemu_img(folder.path(), "rebase -u -b top.qcow2 -F qcow2 base.qcow2").unwrap();
    Qcow2::open(&top, Access::ReadOnly, Cache::Host, Backing::Opened).unwrap_err();
}

#[test]
fn a_malformed_image_is_refused_and_one_in_use_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.qcow2");
    create(&path, MIB);
    let refused = |path: &Path| Qcow2::open(path, Access::ReadWrite, Cache::Host, Backing::Refused).unwrap_err();
    let held = open(&path);
    assert!(matches!(refused(&path), DiskError::Locked { .. }));
    drop(held);
    let good = std::fs::read(&path).unwrap();
    let bad = folder.path().join("bad.qcow2");
    let damaged = |at: usize, bytes: &[u8]| {
        let mut image = good.clone();
        image[at..at + bytes.len()].copy_from_slice(bytes);
        image
    };
    let big = u32::MAX.to_be_bytes();
    for image in [
        vec![],
        b"QFI".to_vec(),
        good[..50].to_vec(),
        damaged(0, &[0]),
        // version, size of clusters, size of the disk, encryption
        damaged(7, &[9]),
        damaged(23, &[63]),
        damaged(23, &[8]),
        damaged(24, &[0xff]),
        damaged(31, &[1]),
        damaged(35, &[1]),
        // a huge first table, none, one inside a cluster, one that lies over the counts
        damaged(36, &big),
        damaged(36, &[0; 4]),
        damaged(46, &[1]),
        damaged(40, &65_536_u64.to_be_bytes()),
        // the same for the counts
        damaged(56, &big),
        damaged(56, &[0; 4]),
        damaged(54, &[1]),
        damaged(96, &7_u32.to_be_bytes()),
        // features: dirty, corrupt, content elsewhere, ones that nobody knows; a header longer than a cluster
        damaged(79, &[1]),
        damaged(79, &[2]),
        damaged(79, &[4]),
        damaged(79, &[16]),
        damaged(100, &big),
        // the image below: a name outside the first cluster
        damaged(8, &[[0xff; 8].as_slice(), &16_u32.to_be_bytes()].concat()),
        // a table inside a cluster
        damaged(3 * 65_536 + 6, &[2]),
        damaged(65_536 + 6, &[2]),
    ] {
        std::fs::write(&bad, &image).unwrap();
        assert!(matches!(refused(&bad), DiskError::Format { .. } | DiskError::Size { .. }), "{:?}", refused(&bad));
    }
}

/// Tables that lead into each other, or nowhere: an error or zeroes for the guest, and the tables stay.
#[test]
fn content_is_never_written_over_tables() {
    let shape = Shape { cluster_bits: 12, bytes: MIB, ..USUAL };
    let cluster = 4096_u64;
    // Where the second table is put, and where its first entry leads: to the header, the counts, the first table, itself, inside a cluster.
    for (first, lead) in [(4, 0_u64), (4, 1), (4, 2), (4, 3), (4, 4), (0, 5), (1, 5), (2, 5), (3, 5)] {
        let mut image = empty(shape);
        image.resize(6 * 4096, 0);
        let alone = 1_u64 << 63;
        image[3 * 4096..][..8].copy_from_slice(&((first * cluster) | alone).to_be_bytes());
        image[4 * 4096..][..8].copy_from_slice(&((lead * cluster) | alone).to_be_bytes());
        let before = image.clone();
        let file = Tape::of(image);
        let Ok(mut disk) = Qcow2::over(Box::new(file.clone())) else { continue };
        let outcome = disk.image.write(Source::Host(&[0xee; 512]), 0);
        let flushed = disk.flush();
        let now = file.now();
        let kept = (0..4).all(|table| now[table * 4096..][..512] != [0xee; 512]);
        assert!(kept && now[..512] == before[..512], "{first} {lead}: {outcome:?} {flushed:?}");
        let _read = disk.image.read_below(&mut vec![0; MIB as usize], 0);
    }
}

/// Counts that say that everything is free: new clusters still never come to lie over tables.
#[test]
fn counts_that_lie_cost_no_table() {
    let mut image = empty(Shape { cluster_bits: 12, bytes: MIB, ..USUAL });
    image[2 * 4096..3 * 4096].fill(0);
    let file = Tape::of(image);
    let mut disk = Qcow2::over(Box::new(file.clone())).unwrap();
    put(&mut disk, &[5; 16_384], 8192);
    disk.flush().unwrap();
    assert_eq!(file.now()[..4], header::MAGIC);
    assert_eq!(content(&mut disk)[8192..][..16_384], [5; 16_384]);
}

/// A file in memory that remembers what was done to it.
#[derive(Clone, Default)]
struct Tape(Arc<Mutex<(Vec<u8>, Vec<Step>)>>);

#[derive(Clone)]
enum Step {
    Write(u64, Vec<u8>),
    Punch(u64, u64),
    Sync,
}

fn write_to(file: &mut Vec<u8>, bytes: &[u8], offset: u64) {
    let end = offset as usize + bytes.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    file[offset as usize..end].copy_from_slice(bytes);
}

impl Tape {
    fn of(image: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new((image, Vec::new()))))
    }

    fn now(&self) -> Vec<u8> {
        self.0.lock().unwrap().0.clone()
    }

    fn steps(&self) -> Vec<Step> {
        self.0.lock().unwrap().1.clone()
    }
}

impl Storage for Tape {
    fn bytes(&self) -> Result<u64, Errno> {
        Ok(self.0.lock().unwrap().0.len() as u64)
    }

    fn read(&mut self, into: &mut [u8], offset: u64) -> Result<(), Errno> {
        let file = &self.0.lock().unwrap().0;
        into.fill(0);
        if let Some(there) = usize::try_from(offset).ok().and_then(|offset| file.get(offset..)) {
            let length = there.len().min(into.len());
            into[..length].copy_from_slice(&there[..length]);
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8], offset: u64) -> Result<(), Errno> {
        assert!(offset < 1 << 32, "far behind the end");
        let mut tape = self.0.lock().unwrap();
        write_to(&mut tape.0, bytes, offset);
        tape.1.push(Step::Write(offset, bytes.to_vec()));
        Ok(())
    }

    fn read_guest(&mut self, into: &[GuestSlice<'_>], offset: u64) -> Result<(), Errno> {
        let mut bytes = vec![0; slices::length(into)];
        self.read(&mut bytes, offset)?;
        slices::fill(into, &bytes);
        Ok(())
    }

    fn read_cached(&mut self, into: &[GuestSlice<'_>], offset: u64) -> Result<(), Errno> {
        self.read_guest(into, offset)
    }

    fn write_guest(&mut self, from: &[GuestSlice<'_>], offset: u64) -> Result<(), Errno> {
        let mut bytes = vec![0; slices::length(from)];
        slices::copy(from, &mut bytes);
        self.write(&bytes, offset)
    }

    fn sync(&mut self) -> Result<(), Errno> {
        self.0.lock().unwrap().1.push(Step::Sync);
        Ok(())
    }

    fn punch(&mut self, offset: u64, length: u64) {
        let mut tape = self.0.lock().unwrap();
        let end = tape.0.len().min((offset + length) as usize);
        tape.0[offset as usize..end].fill(0);
        tape.1.push(Step::Punch(offset, length));
    }
}

fn number(bytes: &[u8], at: u64) -> u64 {
    let at = at as usize;
    bytes.get(at..at + 8).map_or(0, |bytes| u64::from_be_bytes(bytes.try_into().unwrap()))
}

/// Walks the tables with none of the code that is tried here: what is used is counted, and nothing is used twice. Gives the clusters that
/// are counted and not used.
fn check(image: &[u8]) -> usize {
    let bits = u32::from_be_bytes(image[20..24].try_into().unwrap());
    let (cluster, offset) = (1_u64 << bits, 0x00ff_ffff_ffff_fe00_u64);
    let (counts, blocks) = (number(image, 48), u64::from(u32::from_be_bytes(image[56..60].try_into().unwrap())));
    let (first, entries) = (number(image, 40), u64::from(u32::from_be_bytes(image[36..40].try_into().unwrap())));
    let mut used: BTreeMap<u64, u64> = BTreeMap::new();
    let mut add = |at: u64, length: u64| {
        for number in at >> bits..(at + length).div_ceil(cluster) {
            *used.entry(number).or_default() += 1;
        }
    };
    add(0, cluster);
    add(counts, blocks * cluster);
    add(first, entries * 8);
    let width = (1_u64 << u32::from_be_bytes(image[96..100].try_into().unwrap())) / 8;
    let per_block = cluster / width;
    let mut counted = BTreeSet::new();
    for at in 0..blocks * cluster / 8 {
        let block = number(image, counts + at * 8);
        if block != 0 {
            add(block, cluster);
            for entry in 0..per_block {
                let place = (block + entry * width) as usize;
                if image.get(place..place + width as usize).is_some_and(|count| count.iter().any(|byte| *byte != 0)) {
                    counted.insert(at * per_block + entry);
                }
            }
        }
    }
    for at in 0..entries {
        let table = number(image, first + at * 8) & offset;
        if table == 0 {
            continue;
        }
        add(table, cluster);
        for entry in 0..cluster / 8 {
            let place = number(image, table + entry * 8) & offset;
            if place != 0 {
                add(place, cluster);
            }
        }
    }
    for (number, uses) in &used {
        assert_eq!(*uses, 1, "cluster {number} has two uses");
        assert!(counted.contains(number), "cluster {number} is in use and not counted");
    }
    counted.len() - used.len()
}

/// What a sector may hold after a power cut: what it held at the last flush, or anything that was written since.
type Allowed = Vec<Vec<u8>>;

#[derive(Debug, Clone)]
enum Deed {
    Write { sector: u64, sectors: u64, value: u8 },
    Zero { sector: u64, sectors: u64, keep: bool },
    Discard { sector: u64, sectors: u64 },
    Flush,
}

fn deeds(most: u64) -> impl Strategy<Value = Vec<Deed>> {
    let range = (0..most, 1..40_u64).prop_map(move |(sector, sectors)| (sector, sectors.min(most - sector)));
    let deed = prop_oneof![
        6 => (range.clone(), 1..255_u8).prop_map(|((sector, sectors), value)| Deed::Write { sector, sectors, value }),
        1 => (range.clone(), any::<bool>()).prop_map(|((sector, sectors), keep)| Deed::Zero { sector, sectors, keep }),
        1 => range.prop_map(|(sector, sectors)| Deed::Discard { sector, sectors }),
        2 => Just(Deed::Flush),
    ];
    proptest::collection::vec(deed, 1..40)
}

struct Played {
    start: Vec<u8>,
    steps: Vec<Step>,
    /// What each sector may hold, from which step on.
    moments: Vec<(usize, Allowed)>,
    end: Vec<u8>,
}

fn play(shape: Shape, deeds: &[Deed]) -> Played {
    let start = empty(shape);
    let file = Tape::of(start.clone());
    let mut disk = Qcow2::over(Box::new(file.clone())).unwrap();
    let mut allowed: Allowed = vec![vec![0]; (shape.bytes / 512) as usize];
    let mut model = vec![0_u8; allowed.len()];
    let mut moments = vec![(0, allowed.clone())];
    for deed in deeds {
        let range = match *deed {
            Deed::Write { sector, sectors, value } => {
                let bytes: Vec<u8> = (0..sectors * 512).map(|_| value).collect();
                model[sector as usize..(sector + sectors) as usize].fill(value);
                // What the deed may leave is allowed from its first step on.
                (sector, sectors, value, Some(bytes))
            }
            Deed::Zero { sector, sectors, .. } | Deed::Discard { sector, sectors } => (sector, sectors, 0, None),
            Deed::Flush => {
                disk.flush().unwrap();
                for (allowed, now) in allowed.iter_mut().zip(&model) {
                    *allowed = vec![*now];
                }
                moments.push((file.steps().len(), allowed.clone()));
                continue;
            }
        };
        let (sector, sectors, value, bytes) = range;
        allowed[sector as usize..(sector + sectors) as usize].iter_mut().for_each(|allowed| allowed.push(value));
        moments.push((file.steps().len(), allowed.clone()));
        match (deed, bytes) {
            (_, Some(bytes)) => put(&mut disk, &bytes, sector * 512),
            (Deed::Zero { keep, .. }, _) => {
                let below = if *keep { Zeroes::Keep } else { Zeroes::Free };
                disk.write_zeroes(sector * 512, sectors * 512, below).unwrap();
                model[sector as usize..(sector + sectors) as usize].fill(0);
            }
            _ => {
                disk.discard(sector * 512, sectors * 512).unwrap();
                // Only whole clusters go; the rest stays as it was.
                let now = content(&mut disk);
                for sector in sector..sector + sectors {
                    let byte = now[(sector * 512) as usize];
                    assert!(byte == 0 || byte == model[sector as usize]);
                    model[sector as usize] = byte;
                }
            }
        }
        let now = content(&mut disk);
        assert!(now.chunks(512).zip(&model).all(|(sector, value)| sector.iter().all(|byte| byte == value)), "{deed:?}");
    }
    disk.flush().unwrap();
    Played { start, steps: file.steps(), moments, end: file.now() }
}

/// The file after a power cut before step `cut`: all up to the last sync, and of what came later any sectors.
fn after_cut(played: &Played, cut: usize, seed: &std::cell::Cell<u64>) -> Vec<u8> {
    let synced = played.steps[..cut].iter().rposition(|step| matches!(step, Step::Sync)).unwrap_or(0);
    let mut file = played.start.clone();
    for (at, step) in played.steps[..cut].iter().enumerate() {
        let survives = || {
            seed.set(seed.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
            at < synced || seed.get() >> 63 == 1
        };
        match step {
            Step::Write(offset, bytes) => {
                for (sector, bytes) in (0..).zip(bytes.chunks(512)) {
                    if survives() {
                        write_to(&mut file, bytes, offset + sector * 512);
                    }
                }
            }
            Step::Punch(offset, length) if survives() => {
                let end = file.len().min((offset + length) as usize);
                file[(*offset as usize).min(end)..end].fill(0);
            }
            _ => {}
        }
    }
    file
}

#[test]
fn a_power_cut_at_any_point_costs_only_what_was_not_flushed() {
    // Small clusters: there are many tables and blocks of counts.
    let bytes = MIB / 4;
    let shapes = [Shape { cluster_bits: 9, bytes, ..USUAL }, Shape { cluster_bits: 12, bytes, ..USUAL }];
    let config = ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() };
    let seed = std::cell::Cell::new(1);
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let outcome = runner.run(&(0..shapes.len(), deeds(bytes / 512)), |(shape, deeds)| {
        let played = play(shapes[shape], &deeds);
        prop_assert_eq!(check(&played.end), 0, "clusters are counted and not used");
        let stride = (played.steps.len() / 24).max(1);
        for cut in (0..=played.steps.len()).step_by(stride) {
            let file = after_cut(&played, cut, &seed);
            check(&file);
            if cut / stride == 12 {
                ask_qemu(&file);
            }
            let (_, allowed) = played.moments.iter().rfind(|(from, _)| *from <= cut).unwrap();
            let mut disk = Qcow2::over(Box::new(Tape::of(file))).unwrap();
            for (sector, (bytes, allowed)) in content(&mut disk).chunks(512).zip(allowed).enumerate() {
                prop_assert!(
                    allowed.contains(&bytes[0]),
                    "sector {} holds {}, not one of {:?}",
                    sector,
                    bytes[0],
                    allowed
                );
            }
        }
        Ok(())
    });
    outcome.unwrap();
}

/// QEMU's own opinion of a file after a power cut: nothing is corrupt; clusters that are counted and not used are no harm.
fn ask_qemu(file: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.qcow2");
    std::fs::write(&path, file).unwrap();
    let Ok(output) = Command::new("qemu-img").args(["check", "-f", "qcow2"]).arg(&path).output() else {
        println!("not asked: there is no qemu-img (package qemu-utils)");
        return;
    };
    // 3 says that there are such clusters, 2 that something is corrupt.
    let fine = matches!(output.status.code(), Some(0 | 3));
    assert!(fine, "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
}

/// A disk so full that the table of blocks of counts moves, and moves again.
#[test]
fn the_table_of_counts_grows_and_a_power_cut_meanwhile_does_no_harm() {
    let shape = Shape { cluster_bits: 9, count_order: 6, bytes: 8 * MIB, ..USUAL };
    let deeds: Vec<Deed> = (0..256_u64)
        .flat_map(|step| {
            let write = Deed::Write { sector: step * 64, sectors: 64, value: step as u8 | 1 };
            [Some(write), (step % 60 == 59).then_some(Deed::Flush)]
        })
        .flatten()
        .collect();
    let start = empty(shape);
    let file = Tape::of(start.clone());
    let mut disk = Qcow2::over(Box::new(file.clone())).unwrap();
    for deed in &deeds {
        match *deed {
            Deed::Write { sector, sectors, value } => {
                put(&mut disk, &vec![value; sectors as usize * 512], sector * 512)
            }
            _ => disk.flush().unwrap(),
        }
    }
    disk.flush().unwrap();
    let played = Played { start, steps: file.steps(), moments: Vec::new(), end: file.now() };
    assert!(played.end[56..60] > 2_u32.to_be_bytes()[..], "the table has not grown twice");
    assert_eq!(check(&played.end), 0);
    let moved: Vec<usize> =
        (0..played.steps.len()).filter(|at| matches!(played.steps[*at], Step::Write(0, _) | Step::Sync)).collect();
    let seed = std::cell::Cell::new(7);
    for cut in moved.into_iter().flat_map(|at| [at, at + 1]) {
        let file = after_cut(&played, cut, &seed);
        check(&file);
        ask_qemu(&file);
        Qcow2::over(Box::new(Tape::of(file))).unwrap();
    }
}

fn qemu_img(folder: &Path, line: &str) -> Result<String, String> {
    let output = Command::new("qemu-img")
        .args(line.split(' '))
        .current_dir(folder)
        .output()
        .map_err(|error| error.to_string())?;
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    if output.status.success() { Ok(said) } else { Err(format!("qemu-img {line}: {said}")) }
}

/// A folder with what these commands make; none where the program is missing.
fn made_by_qemu(lines: &[&str]) -> Option<tempfile::TempDir> {
    let folder = tempfile::tempdir().unwrap();
    if let Err(why) = qemu_img(folder.path(), "--version") {
        println!("skipped: no qemu-img (package qemu-utils): {why}");
        return None;
    }
    let pattern: Vec<u8> = (0..3 * MIB).map(|at| if at >> 14 & 1 == 0 { (at >> 9) as u8 } else { 0 }).collect();
    std::fs::write(folder.path().join("pattern.raw"), pattern).unwrap();
    lines.iter().for_each(|line| drop(qemu_img(folder.path(), line).unwrap()));
    Some(folder)
}

/// Images as QEMU makes them are read; after they were written here, QEMU finds them whole and reads the same.
#[test]
fn images_go_to_and_fro() {
    let convert = "convert -f raw -O qcow2";
    for (name, lines) in [
        ("plain", vec![format!("{convert} pattern.raw disk.qcow2")]),
        ("old", vec![format!("{convert} -o compat=0.10 pattern.raw disk.qcow2")]),
        ("small clusters", vec![format!("{convert} -o cluster_size=512 pattern.raw disk.qcow2")]),
        ("large clusters", vec![format!("{convert} -o cluster_size=2M pattern.raw disk.qcow2")]),
        ("counts of a bit", vec![format!("{convert} -o refcount_bits=1 pattern.raw disk.qcow2")]),
        ("counts of 64 bits", vec![format!("{convert} -o refcount_bits=64 pattern.raw disk.qcow2")]),
        ("deflated", vec![format!("{convert} -c pattern.raw disk.qcow2")]),
        ("zstd", vec![format!("{convert} -c -o compression_type=zstd pattern.raw disk.qcow2")]),
        (
            "snapshots",
            vec![
                format!("{convert} pattern.raw disk.qcow2"),
                "snapshot -c one disk.qcow2".to_owned(),
                "snapshot -c two disk.qcow2".to_owned(),
                "snapshot -d one disk.qcow2".to_owned(),
            ],
        ),
        ("upon a raw one", vec!["create -q -f qcow2 -b pattern.raw -F raw disk.qcow2 4M".to_owned()]),
        (
            "upon two",
            vec![
                format!("{convert} -c pattern.raw base.qcow2"),
                "create -q -f qcow2 -b base.qcow2 -F qcow2 middle.qcow2".to_owned(),
                "create -q -f qcow2 -b middle.qcow2 -F qcow2 disk.qcow2 5M".to_owned(),
            ],
        ),
    ] {
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let Some(folder) = made_by_qemu(&lines) else { return };
        let path = |file: &str| -> PathBuf { folder.path().join(file) };
        let mut expected = std::fs::read(path("pattern.raw")).unwrap();
        let mut disk = open(&path("disk.qcow2"));
        expected.resize(disk.bytes() as usize, 0);
        assert!(content(&mut disk) == expected, "{name}: QEMU's image reads otherwise");
        let mut change = |disk: &mut Qcow2, from: usize, bytes: &[u8]| {
            put(disk, bytes, from as u64);
            expected[from..from + bytes.len()].copy_from_slice(bytes);
        };
        change(&mut disk, 512, &[1; 512]);
        change(&mut disk, 100 * 512, &[2; 300 * 512]);
        disk.flush().unwrap();
        change(&mut disk, 2 << 20, &[3; 65_536 + 1024]);
        disk.write_zeroes(256 << 10, 128 << 10, Zeroes::Free).unwrap();
        expected[256 << 10..384 << 10].fill(0);
        disk.write_zeroes((512 << 10) + 512, 200 << 10, Zeroes::Keep).unwrap();
        expected[(512 << 10) + 512..(712 << 10) + 512].fill(0);
        disk.flush().unwrap();
        assert!(content(&mut disk) == expected, "{name}: what was written reads otherwise");
        drop(disk);
        qemu_img(folder.path(), "check -f qcow2 disk.qcow2").unwrap();
        qemu_img(folder.path(), "convert -f qcow2 -O raw disk.qcow2 after.raw").unwrap();
        assert!(std::fs::read(path("after.raw")).unwrap() == expected, "{name}: QEMU reads otherwise");
        if name == "snapshots" {
            qemu_img(folder.path(), "convert -f qcow2 -l two -O raw disk.qcow2 two.raw").unwrap();
            let kept = std::fs::read(path("two.raw")).unwrap() == std::fs::read(path("pattern.raw")).unwrap();
            assert!(kept, "the snapshot has changed");
        }
    }
}
