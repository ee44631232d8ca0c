//! A machine's process, or the client, is killed at some point of a snapshot or of a restore: the snapshot before stays good, the new one is whole
//! or not there, and nothing is left of the process.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use testkit::Dice;

use super::{PATIENCE, Place};

/// More of them with `INSULA_E2E_FAULTS`.
const ROUNDS: usize = 8;

/// Fills 24 MiB. Then, for each byte from the serial port, looks whether all of it is as it was left, changes every page, and answers with a
/// letter by the count of bytes; memory that differs is a triple fault.
const FILL: &[u8] = &[
    0xbf, 0, 0, 0x40, 0, 0x89, 0x3f, // mov edi, 0x400000; mov [rdi], edi
    0x83, 0xc7, 0x40, 0x81, 0xff, 0, 0, 0xc0, 0x01, 0x72, 0xf3, // each 64 bytes, to 0x1c00000
    0x31, 0xdb, // xor ebx, ebx
    0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xf7, 0x66, 0xba, 0xf8, 0x03,
    0xec, // wait for input; in al, dx
    0xbf, 0, 0, 0x40, 0, 0x39, 0x3f, 0x75, 0x21, // mov edi, 0x400000; cmp [rdi], edi; jne bad
    0x39, 0x5f, 0x08, 0x75, 0x1c, 0xff, 0x47, 0x08, // cmp [rdi+8], ebx; jne bad; inc dword [rdi+8]
    0x81, 0xc7, 0, 0x10, 0, 0, 0x81, 0xff, 0, 0, 0xc0, 0x01, 0x72, 0xe6, // each page
    0xff, 0xc3, 0x88, 0xd8, 0x24, 0x0f, 0x04, b'a', 0xee, 0xeb,
    0xc8, // inc ebx; 'a' + (bl & 15); out dx, al; again
    0x0f, 0x0b, // bad: ud2, without a single gate
];

impl Drop for Bench {
    fn drop(&mut self) {
        // Whatever a test that failed has left.
        for name in self.place.insula("vm ps -q").out.split_whitespace() {
            let _ended = self.place.insula(&format!("vm kill {name}"));
            let _gone = self.place.insula(&format!("vm rm {name}"));
        }
    }
}

/// A snapshot with the count that its guest had.
#[derive(Clone)]
struct Good {
    folder: PathBuf,
    count: u8,
}

struct Bench {
    place: Place,
    name: String,
    dice: Dice,
}

impl Bench {
    fn pid(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.place.path("run/vm").join(&self.name).join("lock")).ok()?;
        Pid::from_raw(text.trim().parse().ok()?)
    }

    /// Asks the guest once more, which tells that its memory is as it was left.
    fn ask(&self, count: &mut u8) {
        let mut stream = UnixStream::connect(self.place.path("run/vm").join(&self.name).join("console.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"x").unwrap();
        *count += 1;
        // What it said before comes first.
        let (wanted, mut bytes) = (b'a' + *count % 16, [0; 64]);
        loop {
            let length = stream.read(&mut bytes).unwrap();
            assert!(length > 0, "the guest's memory is not as it was left");
            if bytes[..length].last() == Some(&wanted) {
                return;
            }
        }
    }

    /// Starts a client, and after a while kills it or the machine's process.
    fn broken(&mut self, line: &str, window: Duration, victim: Option<Pid>) -> Output {
        let mut command = self.place.command(line);
        let mut client = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(self.dice.below(window.as_micros().max(1) as usize) as u64));
        match victim {
            // It may have ended by itself.
            Some(pid) => drop(kill_process(pid, Signal::KILL)),
            None => drop(client.kill()),
        }
        client.wait_with_output().unwrap()
    }

    /// Nothing is left of the machine, and its name is free.
    fn clean(&self, pid: Option<Pid>) {
        let _ended = self.place.insula(&format!("vm kill {}", self.name));
        let gone = |pid: Pid| {
            let state = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok();
            // One that nobody has waited for yet has ended, too.
            state.is_none_or(|state| state.contains(") Z ")).then_some(())
        };
        let ended = pid.is_none_or(|pid| testkit::wait_for(PATIENCE, || gone(pid)).is_some());
        assert!(ended, "the machine's process lives on");
        // a machine whose client died while it began may come to run only now
        let folder = self.place.path("run/vm").join(&self.name);
        let removed = testkit::wait_for(PATIENCE, || {
            let _ended = self.place.insula(&format!("vm kill {}", self.name));
            (!folder.exists() || self.place.insula(&format!("vm rm {}", self.name)).code == 0).then_some(())
        });
        assert!(removed.is_some(), "the machine cannot be removed");
        let top = std::path::Path::new("/sys/fs/cgroup");
        let folders = |path: &std::path::Path| fs::read_dir(path).into_iter().flatten().flatten().map(|it| it.path());
        let left: Vec<PathBuf> = std::iter::once(top.to_owned())
            .chain(folders(top))
            .flat_map(|hierarchy| folders(&hierarchy).collect::<Vec<_>>())
            .filter(|path| path.to_string_lossy().contains(&format!("insula-vm-{}-", self.name)))
            .collect();
        assert!(left.is_empty(), "control groups are left: {left:?}");
    }

    /// One machine: from the last good snapshot, to the next one, which is broken off. Gives what is good then.
    fn round(&mut self, round: u64, good: Option<Good>) -> Good {
        let mut count = 0;
        let name = self.name.clone();
        if let Some(good) = good {
            let check = ["all", "touch", "none"][(round % 3) as usize];
            let line = format!("vm restore -d --name {name} --check {check} {}", good.folder.display());
            // First one that is broken off, and changes nothing.
            let window = Duration::from_millis(40);
            let mut command = self.place.command(&line);
            let mut client = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            let pid = testkit::wait_for(PATIENCE, || self.pid().or_else(|| client.try_wait().unwrap().and(None)));
            std::thread::sleep(Duration::from_micros(self.dice.below(window.as_micros().max(1) as usize) as u64));
            let _ended = pid.map(|pid| kill_process(pid, Signal::KILL));
            client.wait().unwrap();
            self.clean(pid);
            let _done = self.place.insula(&line).expect(0);
            count = good.count;
        } else {
            fs::write(self.place.path("kernel"), testkit::guest::elf(FILL)).unwrap();
            let line =
                format!("vm run -d --name {name} --backend soft -m 48m --track-dirty --on-reset stop --kernel kernel");
            let _done = self.place.insula(&line).expect(0);
        }
        self.ask(&mut count);
        let pid = self.pid();
        let (full, broken) = (self.place.path(&format!("full{round}")), self.place.path(&format!("broken{round}")));
        let since = Instant::now();
        let _done = self.place.insula(&format!("vm snapshot {name} {}", full.display())).expect(0);
        let window = since.elapsed();
        let mut good = Good { folder: full, count };
        self.ask(&mut count);
        let how = ["", "--incremental", "--compress", "--incremental --compress"][(round % 4) as usize];
        let line = format!("vm snapshot {how} {name} {}", broken.display());
        let partial = self.place.path(&format!("broken{round}.partial"));
        let victim = pid.filter(|_| round % 4 != 3);
        let output = self.broken(&line, window, victim);
        if victim.is_some() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.success(), broken.exists(), "{said}");
            assert!(output.status.success() || said.lines().count() == 1, "{said}");
            assert!(!partial.exists(), "half a snapshot is left");
        }
        if broken.exists() {
            good = Good { folder: broken, count };
        } else if victim.is_none() {
            // The client was killed, and the machine goes on. What it wrote has no name, and is in nobody's way.
            self.ask(&mut count);
            if partial.exists() {
                // It is refused, unless the machine has written all of it meanwhile.
                let half = self.place.insula(&format!("vm restore -d --name {name}-half {}", partial.display()));
                assert!(half.code == 0 || half.err.lines().count() == 1, "{}", half.err);
                let _ended = self.place.insula(&format!("vm kill {name}-half"));
                let _gone = self.place.insula(&format!("vm rm {name}-half"));
            }
            // Whatever the killed client has left, what is added now has its parent where it says.
            let added = self.place.path(&format!("added{round}"));
            let _done = self.place.insula(&format!("vm snapshot --incremental {name} {}", added.display())).expect(0);
            good = Good { folder: added, count };
        }
        self.clean(pid);
        good
    }
}

#[test]
fn a_machine_killed_at_any_point_of_a_snapshot_or_a_restore_loses_nothing_that_was_written() {
    let name = format!("killed-{}", std::process::id());
    let mut bench = Bench { place: Place::new(), name, dice: Dice::new() };
    let rounds = Dice::rounds(ROUNDS, 200) as u64;
    println!("INSULA_E2E_SEED={}", bench.dice.seed);
    let mut good = None;
    for round in 0..rounds {
        let next = bench.round(round, good.take());
        println!("round {round}: {} goes on from {}", bench.name, next.folder.display());
        good = Some(next);
    }
    assert_eq!(bench.place.insula("vm ps -aq").ok(), "");
}

/// A client that is killed between the machine's answer and the folder's naming leaves a whole snapshot without its name.
#[test]
fn what_is_added_to_a_snapshot_has_its_parent_where_it_says() {
    let name = format!("parent-{}", std::process::id());
    let bench = Bench { place: Place::new(), name, dice: Dice::of(1) };
    fs::write(bench.place.path("kernel"), testkit::guest::elf(FILL)).unwrap();
    let name = &bench.name;
    let line = format!("vm run -d --name {name} --backend soft -m 48m --track-dirty --on-reset stop --kernel kernel");
    let _done = bench.place.insula(&line).expect(0);
    let mut count = 0;
    bench.ask(&mut count);
    let (first, partial) = (bench.place.path("first"), bench.place.path("first.partial"));
    let _done = bench.place.insula(&format!("vm snapshot {name} first")).expect(0);
    fs::rename(&first, &partial).unwrap();
    bench.ask(&mut count);
    let _done = bench.place.insula(&format!("vm snapshot --incremental {name} second")).expect(0);
    assert!(first.join("state").is_file() && !partial.exists());
    let last = count;
    bench.ask(&mut count);
    // One that is gone is told, and one that was never asked for is not taken for it.
    fs::rename(bench.place.path("second"), bench.place.path("elsewhere")).unwrap();
    fs::create_dir(bench.place.path("second.partial")).unwrap();
    fs::write(bench.place.path("second.partial/state"), "").unwrap();
    let gone = bench.place.insula(&format!("vm snapshot --incremental {name} third")).expect(1);
    assert!(gone.err.contains("is gone") && gone.err.contains("vm snapshot"), "{}", gone.err);
    fs::rename(bench.place.path("elsewhere"), bench.place.path("second")).unwrap();
    let _done = bench.place.insula(&format!("vm snapshot --incremental {name} third")).expect(0);
    bench.clean(bench.pid());
    for (from, mut count) in [("second", last), ("third", count)] {
        let _done = bench.place.insula(&format!("vm restore -d --name {name} {from}")).expect(0);
        bench.ask(&mut count);
        bench.clean(bench.pid());
    }
}

/// Its guest does not know of power buttons: the second signal ends it at once.
#[test]
fn signals_that_end_the_client_end_its_machine() {
    let name = format!("signalled-{}", std::process::id());
    let bench = Bench { place: Place::new(), name, dice: Dice::of(1) };
    fs::write(bench.place.path("kernel"), testkit::guest::elf(FILL)).unwrap();
    let line = format!("vm run --rm --name {} --backend soft -m 32m --kernel kernel", bench.name);
    let mut command = bench.place.command(&line);
    let mut client = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_child(&client);
    let running = || {
        let told = bench.place.insula(&format!("vm inspect {}", bench.name)).out;
        told.contains("\"running\"").then_some(())
    };
    assert!(testkit::wait_for(PATIENCE, running).is_some());
    let machine = bench.pid();
    kill_process(pid, Signal::TERM).unwrap();
    let ended = testkit::wait_for(PATIENCE, || {
        // One that comes while the first is being looked at would be the same one.
        let _gone = kill_process(pid, Signal::INT);
        client.try_wait().unwrap()
    });
    assert!(ended.is_some(), "the client does not end");
    bench.clean(machine);
    assert_eq!(bench.place.insula("vm ps -aq").ok(), "");
}
