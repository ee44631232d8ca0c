//! The pizza shop of `examples/pizza`: it takes orders while payment is down, and loses none.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use testkit::{Island, rootfs, wait_for};

use crate::subject::{Run, SOON, Subject, finish, skip_unless_insula};

const PORT: u16 = 18_090;
/// The machine's own Python, and its library.
const PYTHON: &str = "/usr/bin/python3";

/// A base image from this machine's Python and Debian's package of the queue, because the shop's daemon has a network of its own
/// that leads nowhere; nothing, with the reason printed, where one of the two cannot be had.
fn base(island: &Island) -> Option<PathBuf> {
    let (tree, packages) = (island.dir("tree"), island.dir("packages"));
    let run = |program: &str, words: &[&str], folder: &Path| {
        let done = Command::new(program).args(words).current_dir(folder).output().unwrap();
        (done.status.success(), String::from_utf8_lossy(&done.stdout).into_owned())
    };
    let python = fs::canonicalize(PYTHON).ok().filter(|path| path.is_file());
    let (fetched, _) = run("apt-get", &["download", "-q", "nats-server"], &packages);
    let (Some(python), true) = (python, fetched) else {
        println!("skipped: needs {PYTHON}, and the package nats-server from a mirror");
        return None;
    };
    rootfs::host_tree(&tree);
    let package = fs::read_dir(&packages).unwrap().next().unwrap().unwrap().path();
    assert!(run("dpkg", &["-x", package.to_str().unwrap(), "../queue"], &packages).0);
    let queue = ["usr/sbin", "usr/bin"].map(|folder| island.path("queue").join(folder).join("nats-server"));
    let queue = queue.into_iter().find(|path| path.is_file()).unwrap();
    fs::copy(queue, tree.join("usr/bin/nats-server")).unwrap();
    fs::copy(&python, tree.join("usr/bin/python3")).unwrap();
    let library = Path::new("/usr/lib").join(python.file_name().unwrap());
    let _ = island.dir("tree/usr/lib");
    assert!(run("cp", &["-r", library.to_str().unwrap(), tree.join("usr/lib").to_str().unwrap()], &packages).0);
    for file in rootfs::libraries(&python) {
        let inside = tree.join(file.strip_prefix("/").unwrap());
        fs::create_dir_all(inside.parent().unwrap()).unwrap();
        fs::copy(&file, inside).unwrap();
    }
    let tar = island.path("base.tar");
    rootfs::tar(&tree, &tar);
    Some(tar)
}

/// One request to the shop; status and body.
fn ask(method: &str, path: &str, body: &str) -> Option<(u16, Value)> {
    let mut stream = TcpStream::connect(("127.0.0.1", PORT)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split_whitespace().nth(1)?.parse().ok()?, serde_json::from_str(body).ok()?))
}

/// Orders so many pizzas, each until it was taken.
fn order(count: usize) {
    for number in 0..count {
        let taken =
            wait_for(SOON, || ask("POST", "/orders", "{\"pizza\": \"funghi\"}").filter(|(status, _)| *status == 202));
        assert!(taken.is_some(), "order {number} was not taken");
    }
}

/// Waits until the shop counts so many orders in a state.
#[track_caller]
fn await_count(step: &str, count: u64) {
    let mut last = Value::Null;
    let seen = wait_for(SOON * 3, || {
        last = ask("GET", "/orders", "")?.1;
        (last[step].as_u64() == Some(count)).then_some(())
    });
    assert!(seen.is_some(), "{count} {step} in {last}");
}

#[test]
fn the_shop_loses_no_order() {
    if skip_unless_insula() {
        return;
    }
    if !testkit::is_root_or_skip() {
        return;
    }
    // made before the subject, which leaves this machine's network
    let island = Island::new();
    let Some(tar) = base(&island) else { return };
    let Some(subject) = Subject::bare() else { return };
    let probe = subject.docker(&["network", "create", "probe"]);
    if probe.code != 0 {
        println!("skipped: this daemon makes no networks: {}", probe.err.trim());
        return subject.finish();
    }
    subject.docker(&["network", "rm", "probe"]).expect(0);
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/pizza");
    let shop = subject.island.path("pizza");
    assert!(Command::new("cp").arg("-r").arg(&here).arg(&shop).status().unwrap().success());
    subject.insula(&["import", tar.to_str().unwrap(), "pizza-base"]).expect(0);
    let run = |words: &[&str]| -> Run {
        let mut command = subject.command(&[&["compose"][..], words].concat());
        command.current_dir(&shop).env("PIZZA_PORT", PORT.to_string());
        finish(&mut command, b"")
    };
    run(&["up", "-d", "--wait", "--quiet-build"]).expect(0);
    let open = wait_for(SOON, || ask("GET", "/orders", ""));
    assert!(open.is_some(), "the shop does not open: {}", run(&["logs", "--no-color"]).out);
    assert_eq!(ask("POST", "/orders", "{}").map(|(status, _)| status), Some(400));
    order(5);
    await_count("delivered", 5);
    // payment is down: orders are taken, and wait
    run(&["stop", "payment"]).expect(0);
    order(5);
    await_count("ordered", 5);
    run(&["start", "payment"]).expect(0);
    await_count("delivered", 10);
    // the kitchen and the queue end without a word, in the middle of work
    order(10);
    run(&["kill", "kitchen", "queue"]).expect(0);
    run(&["up", "-d", "--wait"]).expect(0);
    await_count("delivered", 20);
    order(1);
    await_count("delivered", 21);
    run(&["down", "-v"]).expect(0);
    assert_eq!(run(&["ps", "-aq"]).expect(0).text(), "");
    drop(fs::remove_dir_all(&shop));
    subject.finish();
}
