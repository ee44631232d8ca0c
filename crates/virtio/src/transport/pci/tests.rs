use hv::{Level, Msi};

use super::bus::{ADDRESS_PORT, Bus, DATA_PORT};
use super::*;
use crate::device::entropy::Entropy;
use crate::limit::Limit;
use crate::testing::{Part, Ring, memory};

const WINDOWS: u32 = 0xd000_0000;

#[derive(Default)]
struct Seen {
    messages: Vec<Msi>,
    levels: Vec<Level>,
}

struct Bench {
    bus: Bus,
    function: Arc<Function>,
    memory: Memory,
    seen: Arc<Mutex<Seen>>,
}

fn bench() -> Bench {
    let (memory, seen) = (memory(), Arc::new(Mutex::new(Seen::default())));
    let (messages, levels) = (Arc::clone(&seen), Arc::clone(&seen));
    let send: SendMessage = Arc::new(move |message| messages.lock().unwrap().messages.push(message));
    let line: Line = Arc::new(move |level| levels.lock().unwrap().levels.push(level));
    let device = Box::new(Entropy::new(Limit::default()).unwrap());
    let function = Arc::new(Function::new(device, memory.clone(), send, line).unwrap());
    let mut bus = Bus::new(WINDOWS);
    assert_eq!(bus.add(Arc::clone(&function)), Ok(1));
    Bench { bus, function, memory, seen }
}

impl Bench {
    fn config<const N: usize>(&self, register: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.bus.read_ecam(1 << 15 | register, &mut bytes);
        bytes
    }

    fn set_config(&self, register: u64, bytes: &[u8]) {
        self.bus.write_ecam(1 << 15 | register, bytes);
    }

    fn read<const N: usize>(&self, offset: u64) -> [u8; N] {
        let (function, offset) = self.bus.find(u64::from(WINDOWS) + offset).expect("the window is not decoded");
        let mut bytes = [0; N];
        function.read(offset, &mut bytes);
        bytes
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        let (function, offset) = self.bus.find(u64::from(WINDOWS) + offset).expect("the window is not decoded");
        function.write(offset, bytes);
    }

    /// The capabilities: id and where.
    fn capabilities(&self) -> Vec<(u8, u64)> {
        let mut found = Vec::new();
        let [mut at] = self.config::<1>(0x34);
        while at != 0 {
            let [id, next] = self.config(at.into());
            found.push((id, at.into()));
            at = next;
        }
        found
    }

    fn msix(&self) -> u64 {
        self.capabilities().into_iter().find(|(id, _)| *id == 0x11).unwrap().1
    }

    /// What a driver does until its device runs, with vector 1 for the queue if it uses messages.
    fn start(&self, vector: u16) -> Ring {
        self.set_config(4, &[6]);
        self.write(0x14, &[0]);
        self.write(0x14, &[3]);
        for page in 0..2_u32 {
            self.write(0x00, &page.to_le_bytes());
            let offered = self.read::<4>(0x04);
            self.write(0x08, &page.to_le_bytes());
            self.write(0x0c, &offered);
        }
        self.write(0x14, &[11]);
        let ring = Ring::new(&self.memory, 0, 64);
        self.write(0x10, &0_u16.to_le_bytes());
        self.write(0x16, &0_u16.to_le_bytes());
        assert_eq!(self.read::<2>(0x18), 64_u16.to_le_bytes());
        self.write(0x1a, &vector.to_le_bytes());
        self.write(0x20, &ring.state.descriptors.to_le_bytes());
        self.write(0x28, &ring.state.driver.to_le_bytes()[..4]);
        self.write(0x2c, &ring.state.driver.to_le_bytes()[4..]);
        self.write(0x30, &ring.state.device.to_le_bytes());
        self.write(0x1c, &1_u16.to_le_bytes());
        self.write(0x14, &[15]);
        assert_eq!(self.read::<1>(0x14), [15]);
        ring
    }

    fn request(&self, ring: &mut Ring) {
        ring.ask_for_interrupt();
        ring.add(&[Part::In(16)], 0x50_0000);
        self.write(NOTIFY, &0_u16.to_le_bytes());
        self.function.slot().serve();
        assert!(ring.take().is_some(), "the request is not done");
    }

    fn messages(&self) -> Vec<u32> {
        self.seen.lock().unwrap().messages.drain(..).map(|message| message.data).collect()
    }
}

#[test]
fn the_bus_is_found_both_ways() {
    let bench = bench();
    assert_eq!(bench.config::<4>(0), [0xf4, 0x1a, 0x44, 0x10]);
    let ask = |address: u32| {
        bench.bus.write_port(ADDRESS_PORT, &address.to_le_bytes());
        let mut bytes = [0; 4];
        bench.bus.read_port(DATA_PORT, &mut bytes);
        bytes
    };
    assert_eq!(ask(1 << 31 | 1 << 11), [0xf4, 0x1a, 0x44, 0x10]);
    assert_eq!(ask(1 << 31)[..2], [0x86, 0x80], "the bridge");
    assert_eq!(ask(1 << 31 | 8)[2..], [0, 6], "is one");
    for nobody in [1 << 31 | 2 << 11, 1 << 31 | 1 << 16, 1 << 31 | 1 << 11 | 1 << 8, 1 << 11] {
        assert_eq!(ask(nobody), [0xff; 4], "{nobody:#x}");
    }
    let mut address = [0; 4];
    bench.bus.read_port(ADDRESS_PORT, &mut address);
    assert_eq!(u32::from_le_bytes(address), 1 << 11);
    let mut half = [0; 2];
    bench.bus.write_port(ADDRESS_PORT, &(1_u32 << 31 | 1 << 11).to_le_bytes());
    bench.bus.read_port(DATA_PORT + 2, &mut half);
    assert_eq!(half, [0x44, 0x10]);
}

#[test]
fn the_window_is_sized_moved_and_switched_off() {
    let bench = bench();
    assert!(bench.bus.find(WINDOWS.into()).is_none(), "decoding is off at first");
    let moves = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&moves);
    bench.function.on_move(Box::new(move |from, to| log.lock().unwrap().push((from, to))));
    bench.set_config(0x10, &[0xff; 4]);
    assert_eq!(u32::from_le_bytes(bench.config(0x10)), 0xffff_8000, "32 KiB");
    bench.set_config(0x10, &0xe000_0000_u32.to_le_bytes());
    bench.set_config(4, &[0xff, 0xff]);
    assert_eq!(bench.config::<2>(4), [6, 4], "the bits that there are");
    assert!(bench.bus.find(0xe000_7fff).is_some() && bench.bus.find(0xe000_8000).is_none());
    bench.set_config(4, &[0]);
    assert_eq!(*moves.lock().unwrap(), [(0, 0xe000_0000), (0xe000_0000, 0)]);
}

#[test]
fn the_capabilities_name_the_structures() {
    let bench = bench();
    let vendor: Vec<[u8; 16]> =
        bench.capabilities().iter().filter(|(id, _)| *id == 9).map(|(_, at)| bench.config(*at)).collect();
    let places: Vec<_> = vendor.iter().map(|body| (body[3], body[4], body[9])).collect();
    assert_eq!(places, [(1, 0, 0), (2, 0, 0x30), (3, 0, 0x10), (4, 0, 0x20), (5, 0, 0)]);
    assert_eq!(bench.config::<12>(bench.msix())[2..], [1, 0, 0, 0x40, 0, 0, 0, 0x60, 0, 0], "two vectors");
}

#[test]
fn messages_go_out_and_wait_behind_masks() {
    let bench = bench();
    let mut ring = bench.start(1);
    let control = bench.msix() + 2;
    bench.set_config(control, &0x8000_u16.to_le_bytes());
    bench.write(TABLE + 16, &0xfee0_1000_u64.to_le_bytes());
    bench.write(TABLE + 24, &77_u32.to_le_bytes());
    assert_eq!(bench.read::<4>(TABLE + 28), [1, 0, 0, 0], "masked at first");
    bench.request(&mut ring);
    assert_eq!((bench.messages(), bench.read::<8>(PENDING)[0]), (vec![], 2));
    bench.write(TABLE + 28, &0_u32.to_le_bytes());
    assert_eq!((bench.messages(), bench.read::<8>(PENDING)[0]), (vec![77], 0));
    bench.request(&mut ring);
    assert_eq!(bench.messages(), [77]);
    bench.set_config(control, &0xc000_u16.to_le_bytes());
    bench.request(&mut ring);
    assert_eq!(bench.messages(), [] as [u32; 0], "the whole function is masked");
    bench.set_config(control, &0x8000_u16.to_le_bytes());
    assert_eq!(bench.messages(), [77]);
    assert!(bench.seen.lock().unwrap().levels.iter().all(|level| *level == Level::Low), "the pin was used");
}

#[test]
fn a_driver_without_messages_has_a_pin() {
    let bench = bench();
    let mut ring = bench.start(0xffff);
    bench.request(&mut ring);
    assert_eq!(bench.seen.lock().unwrap().levels.last(), Some(&Level::High));
    assert_eq!(bench.read::<1>(STATUS), [1], "why");
    assert_eq!(bench.seen.lock().unwrap().levels.last(), Some(&Level::Low));
    assert_eq!(bench.read::<1>(STATUS), [0], "reading takes it off");
    bench.set_config(5, &[4]);
    bench.request(&mut ring);
    assert_eq!(bench.seen.lock().unwrap().levels.last(), Some(&Level::Low), "the pin is not wanted");
}

#[test]
fn a_vector_that_is_not_there_reads_as_none_and_a_reset_takes_all_off() {
    let bench = bench();
    bench.set_config(4, &[6]);
    for (vector, kept) in [(1_u16, 1_u16), (2, 0xffff), (0, 0)] {
        bench.write(0x1a, &vector.to_le_bytes());
        bench.write(0x10, &vector.to_le_bytes());
        assert_eq!((bench.read::<2>(0x1a), bench.read::<2>(0x10)), (kept.to_le_bytes(), kept.to_le_bytes()));
    }
    bench.write(0x14, &[0]);
    assert_eq!((bench.read::<2>(0x1a), bench.read::<2>(0x10)), ([0xff; 2], [0xff; 2]));
}

#[test]
fn firmware_reads_the_window_through_the_configuration_space() {
    let bench = bench();
    let at = bench.capabilities().last().unwrap().1;
    bench.set_config(at + 8, &0x12_u32.to_le_bytes());
    bench.set_config(at + 12, &2_u32.to_le_bytes());
    assert_eq!(bench.config::<2>(at + 16), [1, 0], "the count of queues");
    bench.set_config(at + 8, &0x14_u32.to_le_bytes());
    bench.set_config(at + 12, &1_u32.to_le_bytes());
    bench.set_config(at + 16, &[3]);
    assert_eq!(bench.config::<1>(at + 16), [3], "the status was written");
    bench.set_config(at + 8, &u32::MAX.to_le_bytes());
    assert_eq!(bench.config::<1>(at + 16), [0], "outside the window");
}

#[test]
fn a_saved_function_goes_on_elsewhere() {
    let bench = bench();
    let mut ring = bench.start(1);
    bench.set_config(bench.msix() + 2, &0x8000_u16.to_le_bytes());
    bench.write(TABLE + 24, &99_u32.to_le_bytes());
    bench.write(TABLE + 28, &0_u32.to_le_bytes());
    bench.request(&mut ring);
    assert_eq!(bench.messages(), [99]);
    let saved = serde_json::to_string(&bench.function.save()).unwrap();
    let mut other = self::bench();
    other.memory = bench.memory.clone();
    let send = Arc::clone(&other.seen);
    let send: SendMessage = Arc::new(move |message| send.lock().unwrap().messages.push(message));
    let device = Box::new(Entropy::new(Limit::default()).unwrap());
    other.function = Arc::new(Function::new(device, bench.memory.clone(), send, Arc::new(|_| {})).unwrap());
    other.bus = Bus::new(0xd100_0000);
    other.bus.add(Arc::clone(&other.function)).unwrap();
    other.function.restore(serde_json::from_str(&saved).unwrap()).unwrap();
    other.request(&mut ring);
    assert_eq!(other.messages(), [99], "where it was, with its vectors");
}

#[test]
fn the_bus_has_31_places() {
    let mut bus = Bus::new(WINDOWS);
    for number in 1..32 {
        assert_eq!(bus.add(bench().function), Ok(number));
    }
    assert_eq!(bus.add(bench().function), Err(bus::Full));
}
