//! The pizza shop of `examples/pizza`: it takes orders while payment is down, and loses none.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use testkit::wait_for;

use crate::subject::{Run, SOON, Subject, finish, skip_unless_insula};

const PORT: u16 = 18_090;
/// Packages of the base image.
const PACKAGES: &str = "python3-minimal,python3,nats-server";

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
    let base = subject.insula(&["image", "bootstrap", "debian:bookworm", "--include", PACKAGES, "-t", "pizza-base"]);
    if base.code != 0 && base.err.contains("cannot fetch") {
        println!("skipped: no packages here: {}", base.err.trim());
        return subject.finish();
    }
    base.expect(0);
    let run = |words: &[&str]| -> Run {
        let mut command = subject.command(&[&["compose"][..], words].concat());
        command.current_dir(&shop).env("PIZZA_PORT", PORT.to_string());
        finish(&mut command, b"")
    };
    run(&["up", "-d", "--wait", "--quiet-build"]).expect(0);
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
