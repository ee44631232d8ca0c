//! A machine of an ordinary user, with a network that needs no privileges, and one of root's, in its jail with a tap: the same guest in both. It
//! boots, asks for names, fetches a file, reads through a chain of images, boots again and ends.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use testkit::Cell;

use super::{KERNEL, VMLINUX, find_kernel, program};

/// The user whom nobody else is.
const USER: u32 = 65_534;

const INIT: &str = "#!/bin/busybox sh
B=/bin/busybox
$B mount -t proc p /proc; $B mount -t sysfs s /sys; $B mount -t devtmpfs d /dev
address=$($B sed -n 's/.*address=\\([0-9.]*\\).*/\\1/p' /proc/cmdline)
$B ifconfig lo up; $B ifconfig eth0 up
if [ \"$address\" ]; then
  $B ifconfig eth0 $address netmask 255.255.255.0; server=10.9.0.1
else
  $B udhcpc -q -n -i eth0 -s /lease >/dev/null 2>&1; server=10.0.2.2
  echo name: $($B nslookup insula.test 10.0.2.3 | $B tail -n 3)
fi
echo fetched: $($B wget -q -O - http://$server:8000/page)
echo base: $($B dd if=/dev/vda bs=512 count=1 2>/dev/null | $B head -n 1), middle: $($B dd if=/dev/vda bs=512 skip=256 count=1 2>/dev/null | $B head -n 1)
boots=$($B dd if=/dev/vda bs=512 skip=8 count=1 2>/dev/null | $B head -n 1)
if [ \"$boots\" != once ]; then
  echo once | $B dd of=/dev/vda bs=512 seek=8 conv=fsync,notrunc 2>/dev/null
  echo first boot; $B reboot -f
fi
echo second boot
$B poweroff -f
";

const LEASE: &str = "#!/bin/busybox sh
[ $1 = bound ] && /bin/busybox ifconfig eth0 $ip netmask $subnet && /bin/busybox route add default gw $router
";

/// A name server for one name, and a server of one page, in what every distribution with a test's tools has.
const SERVER: &str = "
import http.server, os, socket, sys, threading
# It ends when nobody holds the other end of its input.
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
names.bind(('127.0.0.1', 53))
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header('Content-Length', '8'); self.end_headers(); self.wfile.write(b'the page')
    def log_message(self, *args): pass
pages = http.server.HTTPServer(('0.0.0.0', 8000), Page)
threading.Thread(target=pages.serve_forever, daemon=True).start()
open('ready', 'w').close()
while True:
    asked, who = names.recvfrom(2000)
    end = asked.index(b'\\0', 12) + 5
    known = asked[12:end - 5] == b'\\x06insula\\x04test' and asked[end - 4:end - 2] == b'\\0\\x01'
    head = asked[:2] + b'\\x85\\x80\\0\\x01' + (b'\\0\\x01' if known else b'\\0\\0') + b'\\0\\0\\0\\0'
    answer = b'\\xc0\\x0c\\0\\x01\\0\\x01\\0\\0\\0\\x3c\\0\\x04\\x0a\\x01\\x02\\x03' if known else b''
    names.sendto(head + asked[12:end] + answer, who)
";

/// The programs, the kernel and the guest's files where any user finds them.
fn prepare(cell: &Cell) -> Option<PathBuf> {
    let kernel = find_kernel(VMLINUX).or_else(|| find_kernel(KERNEL));
    let (Some(kernel), Ok(busybox)) = (kernel, fs::read("/bin/busybox")) else {
        println!("skipped: no guest kernel, or no /bin/busybox (package busybox-static)");
        return None;
    };
    let island = cell.island();
    let folder = island.dir("all");
    for name in ["insula", "insula-vmm"] {
        fs::copy(program(name), folder.join(name)).unwrap();
    }
    fs::copy(kernel, folder.join("kernel")).unwrap();
    let files = [
        ("init".to_owned(), 0o755, INIT.as_bytes().to_vec()),
        ("lease".to_owned(), 0o755, LEASE.as_bytes().to_vec()),
        ("bin/busybox".to_owned(), 0o755, busybox),
    ];
    fs::write(folder.join("initrd"), testkit::guest::archive(&files)).unwrap();
    let all = format!("chmod 755 {} {}; chmod 644 {1}/kernel {1}/initrd", island.root().display(), folder.display());
    assert_eq!(cell.shell(&all).code, 0);
    Some(folder)
}

/// A chain of three images in a folder; the guest writes to the top.
fn images(cell: &Cell, folder: &Path, owner: u32) {
    let mut base = vec![0; 1 << 20];
    base[..7].copy_from_slice(b"bottom\n");
    fs::write(folder.join("base"), base).unwrap();
    fs::write(folder.join("word"), "between\n").unwrap();
    let script = format!(
        "cd {}; qemu-img create -q -f qcow2 -b base -F raw middle.qcow2; qemu-img create -q -f qcow2 -b middle.qcow2 -F qcow2 top.qcow2; \
         qemu-io -f qcow2 -c 'write -q -s word 131072 512' middle.qcow2; sha256sum base middle.qcow2 > sums",
        folder.display()
    );
    let made = cell.shell(&script);
    assert_eq!(made.code, 0, "{}", made.err);
    for name in ["", "base", "middle.qcow2", "top.qcow2"] {
        chown(folder.join(name), Some(owner), Some(owner)).unwrap();
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
}

/// What the guest said, and what it left on its disk.
fn check(cell: &Cell, folder: &Path, said: &str, names: &[&str]) {
    for word in [&["first boot", "second boot", "fetched: the page", "base: bottom, middle: between"], names].concat() {
        assert!(said.contains(word), "no {word:?} in:\n{said}");
    }
    let script = format!(
        "cd {}; sha256sum --quiet -c sums && qemu-img check -q -f qcow2 top.qcow2 && qemu-img convert -f qcow2 -O raw top.qcow2 whole && \
         dd if=whole bs=512 skip=8 count=1 2>/dev/null | head -n 1",
        folder.display()
    );
    assert_eq!(cell.shell(&script).ok(), "once");
}

#[test]
fn ordinary_users_have_machines_and_a_jailed_one_has_a_tap_and_a_chain_of_images() {
    let Some(cell) = Cell::open(&["python3", "setpriv", "qemu-img", "qemu-io"]) else { return };
    let Some(all) = prepare(&cell) else { return };
    let island = cell.island();
    let (plain, root) = (island.dir("plain"), island.dir("jailed"));
    images(&cell, &plain, USER);
    images(&cell, &root, 0);
    let script = format!(
        "ip link set lo up; echo nameserver 127.0.0.1 > /etc/resolv.conf; cd {}; exec python3 -c \"$0\"",
        all.display()
    );
    let mut server = cell.command(&["sh", "-ec", &script, SERVER]).stdin(Stdio::piped()).spawn().unwrap();
    let ready = testkit::wait_for(std::time::Duration::from_secs(60), || all.join("ready").exists().then_some(()));
    assert!(ready.is_some(), "the servers do not start");
    let insula = |folder: &Path, words: &str| {
        let (all, folder) = (all.display(), folder.display());
        format!("cd {folder}; export HOME={folder}; {all}/insula --root {folder}/root --run {folder}/run vm {words}")
    };
    let machine = |more: &str| {
        let all = all.display();
        format!(
            "run --backend soft -m 128m --kernel {all}/kernel --initrd {all}/initrd --disk top.qcow2,backing {more} </dev/null"
        )
    };
    let quiet = "console=ttyS0 quiet panic=-1";
    let as_user =
        |line: &str| cell.run(&["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", line]);

    let said = as_user(&insula(&plain, &machine(&format!("--net user,host --cmdline '{quiet}'"))));
    check(&cell, &plain, &(said.out + &said.err), &["10.1.2.3"]);
    assert_eq!(as_user(&insula(&plain, "ps -aq")).ok(), "");
    let refused = as_user(&insula(&plain, &machine("--net tap=insula-none")));
    assert!(refused.code == 1 && refused.err.contains("insula-none"), "{}", refused.err);

    let _done = cell
        .shell("ip tuntap add insula0 mode tap && ip addr add 10.9.0.1/24 dev insula0 && ip link set insula0 up")
        .expect(0);
    let line = machine(&format!("--name jailed --net tap=insula0 --cmdline '{quiet} address=10.9.0.2'"));
    let said = cell.shell(&insula(&root, &line));
    check(&cell, &root, &(said.out + &said.err), &[]);
    let _done = cell.shell(&insula(&root, "rm jailed")).expect(0);
    // Nobody holds the tap any more.
    let _done = cell.shell("ip tuntap del insula0 mode tap").expect(0);
    drop(server.stdin.take());
    assert!(server.wait().unwrap().success());
    cell.assert_empty();
}
