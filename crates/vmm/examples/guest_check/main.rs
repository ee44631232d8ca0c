//! The first process of a guest whose devices are tried (`crates/vmm/tests/it/guest/devices.rs`): does what the kernel's command line names
//! by `checks=`, and says of each how it went.
//!
//! ```text
//! CHECK name ok      CHECK name FAILED: why      and behind the last one: CHECKS DONE
//! ```
//!
//! Then it takes orders, a line each, on the console: the names of further checks, `restart` or `off`.

mod load;
mod share;
mod sockets;

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::time::Duration;

use rustix::fs::FallocateFlags;
use rustix::mount::MountFlags;

type Outcome = Result<(), Box<dyn Error>>;
type Check = fn() -> Outcome;

/// Sorted by name.
const CHECKS: [(&str, Check); 16] = [
    ("again", again),
    ("block", block),
    ("clear", clear),
    ("entropy", entropy),
    ("free", free),
    ("image", image),
    ("load", load::load),
    ("loaded", load::loaded),
    ("net", net),
    ("pmem", pmem),
    ("read-only", read_only),
    ("share", share::share),
    ("share-read-only", share::share_read_only),
    ("typing", typing),
    ("use", use_memory),
    ("vsock", sockets::vsock),
];

const MIB: usize = 1 << 20;

fn main() {
    if std::env::args().len() > 1 {
        // It was run only to see that it runs.
        return;
    }
    let _ = fs::create_dir_all("/mnt/rw").and_then(|()| fs::create_dir_all("/mnt/ro"));
    for (kind, place) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/tmp")] {
        let _ = rustix::mount::mount(kind, place, kind, MountFlags::empty(), None);
    }
    let Ok(mut console) = OpenOptions::new().read(true).write(true).open("/dev/console") else { return };
    let wanted = std::env::var("checks").unwrap_or_default();
    answer(&mut console, &wanted.replace(',', " "));
    let Ok(reader) = console.try_clone() else { return };
    for line in BufReader::new(reader).lines().map_while(Result::ok) {
        let order = match line.trim() {
            "off" => rustix::system::RebootCommand::PowerOff,
            "restart" => rustix::system::RebootCommand::Restart,
            names => {
                answer(&mut console, names);
                continue;
            }
        };
        rustix::fs::sync();
        leave_networks();
        let _ = rustix::system::reboot(order);
    }
}

fn answer(console: &mut File, names: &str) {
    for name in names.split_whitespace() {
        let check = CHECKS.iter().find(|(known, _)| *known == name);
        let outcome = check.map_or_else(|| Err("there is no such check".into()), |(_, check)| check());
        let _ = match outcome {
            Ok(()) => writeln!(console, "CHECK {name} ok"),
            Err(why) => writeln!(console, "CHECK {name} FAILED: {why}"),
        };
    }
    let _ = writeln!(console, "CHECKS DONE");
}

/// Says something on the console.
fn say(words: &str) -> std::io::Result<()> {
    writeln!(OpenOptions::new().write(true).open("/dev/console")?, "{words}")
}

/// An error with these words if something is not so.
fn hold(so: bool, words: impl Into<String>) -> Outcome {
    if so { Ok(()) } else { Err(words.into().into()) }
}

fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|at| ((at / 512) * 31 + at % 512 + seed) as u8).collect()
}

fn word(path: &str) -> Result<String, Box<dyn Error>> {
    Ok(fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?.trim().to_owned())
}

/// What is written comes back from the device itself, and the disk tells its name and its queues.
fn block() -> Outcome {
    hold(word("/sys/block/vda/serial")? == "disk0", "the disk has another name")?;
    let queues = fs::read_dir("/sys/block/vda/mq")?.count();
    let processors = std::thread::available_parallelism()?.get();
    hold(queues == processors, format!("{queues} queues for {processors} processors"))?;
    let disk = OpenOptions::new().read(true).write(true).open("/dev/vda")?;
    disk.write_all_at(&pattern(MIB, 1), 0)?;
    disk.sync_all()?;
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    let mut bytes = vec![0; MIB];
    disk.read_exact_at(&mut bytes, 0)?;
    hold(bytes == pattern(MIB, 1), "the disk reads otherwise than it was written")
}

/// Discarded and zeroed ranges, behind the megabyte that `block` writes.
fn clear() -> Outcome {
    let disk = OpenOptions::new().read(true).write(true).open("/dev/vda")?;
    disk.write_all_at(&pattern(MIB, 2), MIB as u64)?;
    disk.sync_all()?;
    let quarter = MIB as u64 / 4;
    rustix::fs::fallocate(&disk, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, MIB as u64, quarter)?;
    rustix::fs::fallocate(&disk, FallocateFlags::ZERO_RANGE, MIB as u64 + quarter, quarter)?;
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    let mut bytes = vec![0; MIB];
    disk.read_exact_at(&mut bytes, MIB as u64)?;
    let half = MIB / 2;
    hold(bytes[..half].iter().all(|byte| *byte == 0), "cleared ranges are not zero")?;
    hold(bytes[half..] == pattern(MIB, 2)[half..], "what was not cleared has changed")
}

fn read_only() -> Outcome {
    hold(word("/sys/block/vdb/ro")? == "1", "the disk is not read-only")?;
    let mut bytes = vec![0; MIB];
    // More than once: it is a slow disk, and the second time has to wait for its turn.
    for _ in 0..2 {
        fs::write("/proc/sys/vm/drop_caches", "3")?;
        File::open("/dev/vdb")?.read_exact(&mut bytes)?;
        hold(bytes == pattern(MIB, 3), "the disk reads otherwise")?;
    }
    let written = OpenOptions::new().write(true).open("/dev/vdb").and_then(|mut disk| disk.write_all(&[0; 512]));
    hold(written.is_err(), "the disk can be written")
}

/// An image upon another one: the one below shows through, and writes stay above.
fn image() -> Outcome {
    let disk = OpenOptions::new().read(true).write(true).open("/dev/vdc")?;
    let mut bytes = vec![0; MIB];
    disk.read_exact_at(&mut bytes, 0)?;
    hold(bytes == pattern(MIB, 4), "the image below does not show through")?;
    disk.write_all_at(&pattern(MIB, 5), MIB as u64 / 2 + 512)?;
    for step in 0..64_u64 {
        disk.write_all_at(&pattern(4096, step as usize), 4 * MIB as u64 + step * 100_352)?;
    }
    disk.sync_all()?;
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    disk.read_exact_at(&mut bytes, MIB as u64 / 2 + 512)?;
    hold(bytes == pattern(MIB, 5), "the image reads otherwise than it was written")
}

/// A driver's folder and its devices.
fn driven(driver: &str) -> std::io::Result<(String, Vec<String>)> {
    let folder = format!("/sys/bus/virtio/drivers/{driver}");
    let names = fs::read_dir(&folder)?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let devices = names.filter(|name| name.starts_with("virtio")).collect();
    Ok((folder, devices))
}

/// The driver leaves its network cards. Linux 6.1.192 takes their queues from them before it switches off or restarts, and who sends just then
/// looks for room in a queue for ever (`start_xmit`, until `virtqueue_enable_cb_delayed` is content), with the other CPUs behind it.
fn leave_networks() {
    let (folder, devices) = driven("virtio_net").unwrap_or_default();
    for device in devices {
        let _ = fs::write(format!("{folder}/unbind"), device);
    }
}

/// The drivers leave their devices and come back to them.
fn again() -> Outcome {
    for driver in ["virtio_blk", "virtio_net", "virtio_rng", "virtio_balloon"] {
        let (folder, mut devices) = driven(driver)?;
        hold(!devices.is_empty(), format!("{driver} has no device"))?;
        // Disks are named in the order in which they come back.
        devices.sort();
        for order in ["unbind", "bind", "unbind", "bind"] {
            for device in &devices {
                fs::write(format!("{folder}/{order}"), device).map_err(|error| format!("{order} {driver}: {error}"))?;
            }
        }
    }
    let mut bytes = vec![0; MIB];
    File::open("/dev/vda")?.read_exact(&mut bytes)?;
    hold(bytes == pattern(MIB, 1), "the disk reads otherwise after its driver came back")
}

fn entropy() -> Outcome {
    hold(word("/sys/class/misc/hw_random/rng_current")?.starts_with("virtio_rng"), "another source is in use")?;
    let (mut first, mut second) = ([0; 64], [0; 64]);
    let mut source = File::open("/dev/hwrng")?;
    source.read_exact(&mut first)?;
    source.read_exact(&mut second)?;
    hold(first != second && first != [0; 64], "the numbers are not random")
}

fn pmem() -> Outcome {
    let mut memory = OpenOptions::new().read(true).write(true).open("/dev/pmem0")?;
    memory.write_all(&pattern(MIB, 6))?;
    memory.sync_all()?;
    memory.seek(SeekFrom::Start(0))?;
    let mut bytes = vec![0; MIB];
    memory.read_exact(&mut bytes)?;
    hold(bytes == pattern(MIB, 6), "persistent memory reads otherwise than it was written")
}

/// What the address is given to.
const LEASE: &str = "#!/bin/busybox sh
[ $1 = bound ] && /bin/busybox ifconfig eth0 $ip netmask $subnet && /bin/busybox route add default gw $router
";

/// Asks for an address; then streams and datagrams to the host, and a stream from it.
fn net() -> Outcome {
    fs::write("/tmp/lease", LEASE)?;
    fs::set_permissions("/tmp/lease", fs::Permissions::from_mode(0o755))?;
    for line in ["ifconfig eth0 up", "udhcpc -q -n -i eth0 -s /tmp/lease"] {
        let status = std::process::Command::new("/bin/busybox").args(line.split(' ')).status()?;
        hold(status.success(), format!("{line}: {status}"))?;
    }
    let host = |name: &str| std::env::var(name).map_err(|_| format!("{name}= is missing"));
    let mut stream = TcpStream::connect(host("tcp")?)?;
    let sent = pattern(4 * MIB, 7);
    let mut back = vec![0; sent.len()];
    std::thread::scope(|scope| {
        let mut half = stream.try_clone()?;
        scope.spawn(move || half.write_all(&sent));
        stream.read_exact(&mut back)
    })?;
    hold(back == pattern(4 * MIB, 7), "a stream came back otherwise")?;
    let refused = TcpStream::connect("10.0.2.2:1");
    hold(refused.is_err(), "somebody listens on a port where nobody does")?;
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut bytes = vec![0; 2000];
    socket.send_to(&pattern(1200, 8), host("udp")?)?;
    let (length, _) = socket.recv_from(&mut bytes)?;
    hold(bytes[..length] == pattern(1200, 8), "a datagram came back otherwise")?;
    let listener = TcpListener::bind("0.0.0.0:7777")?;
    say("LISTENING")?;
    let (mut stream, _) = listener.accept()?;
    let mut asked = [0; 5];
    stream.read_exact(&mut asked)?;
    stream.write_all(b"from the guest ")?;
    stream.write_all(&asked)?;
    Ok(())
}

/// What is typed comes as it is, whatever it is, and so does what is answered: each byte, and one more. Then the terminal's size.
fn typing() -> Outcome {
    use rustix::termios::{OptionalActions, tcgetattr, tcgetwinsize, tcsetattr};
    let mut console = OpenOptions::new().read(true).write(true).open("/dev/console")?;
    let before = tcgetattr(&console)?;
    let mut raw = before.clone();
    raw.make_raw();
    tcsetattr(&console, OptionalActions::Flush, &raw)?;
    console.write_all(b"TYPE\n")?;
    let mut bytes = vec![0; 1024];
    for _ in 0..8 {
        console.read_exact(&mut bytes)?;
        let answer: Vec<u8> = bytes.iter().map(|byte| byte.wrapping_add(1)).collect();
        console.write_all(&answer)?;
    }
    console.write_all(b"SIZE\n")?;
    // The driver hears of it by an interrupt, at some time.
    let size = loop {
        let size = tcgetwinsize(&console)?;
        if size.ws_col > 80 {
            break size;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    tcsetattr(&console, OptionalActions::Flush, &before)?;
    hold(
        (size.ws_col, size.ws_row) == (132, 43),
        format!("the terminal has {} columns, {} rows", size.ws_col, size.ws_row),
    )
}

/// Takes much memory, as a file in it, and keeps it.
fn use_memory() -> Outcome {
    Ok(fs::write("/tmp/much", vec![1; 64 * MIB])?)
}

fn free() -> Outcome {
    Ok(fs::remove_file("/tmp/much")?)
}
