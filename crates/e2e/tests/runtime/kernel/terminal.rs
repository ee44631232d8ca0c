//! process.terminal: the socket that gets it, its size, and who it belongs to.

use std::io::{IoSliceMut, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::mpsc;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::json;
use testkit::Terminal;

use crate::subject::{SOON, Subject, test};

/// Waits on a socket of a given name for a descriptor, such as a terminal's master end.
pub(super) fn await_descriptor(s: &Subject, name: &str) -> (String, mpsc::Receiver<Option<OwnedFd>>) {
    let path = s.island.path(name);
    let listener = UnixListener::bind(&path).unwrap();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut bytes = [0; 4096];
        let mut space = [std::mem::MaybeUninit::uninit(); 64];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        recvmsg(&stream, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::empty()).unwrap();
        let file = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut files) => files.next(),
            _ => None,
        });
        // The test may have failed by now and not listen any more.
        let _ = sender.send(file);
    });
    (path.display().to_string(), receiver)
}

/// Reads until the text is there.
#[track_caller]
fn read_until(master: OwnedFd, text: &str) -> (String, OwnedFd) {
    let mut file = std::fs::File::from(master);
    let mut all = String::new();
    let mut bytes = [0; 1024];
    while !all.contains(text) {
        match file.read(&mut bytes) {
            Ok(count @ 1..) => all.push_str(&String::from_utf8_lossy(&bytes[..count])),
            ended => panic!("{ended:?} before {text:?} in {all:?}"),
        }
    }
    (all, file.into())
}

#[test]
fn the_terminal_is_sent_to_the_socket() {
    test(|s| {
        let (socket, receiver) = await_descriptor(s, "console");
        let bundle = s.sh("tty; test -t 0 && test -t 1 && test -t 2 && echo yes; stat -c %t /dev/console; sleep 60");
        let bundle = bundle.set("/process/terminal", json!(true)).flags(&["--console-socket", &socket]);
        let container = bundle.start();
        let master = receiver.recv_timeout(SOON).unwrap().expect("no descriptor came");
        let (text, _master) = read_until(master, "yes\r\n88");
        assert!(text.starts_with("/dev/pts/") || text.starts_with("/dev/console"), "{text}");
        container.call("delete", &["--force"]).expect(0);
    });
}

#[test]
fn the_terminal_has_the_size_that_was_asked_for() {
    test(|s| {
        let (socket, receiver) = await_descriptor(s, "console");
        let bundle = s.sh("stty size; sleep 60").set("/process/terminal", json!(true));
        let bundle = bundle.set("/process/consoleSize", json!({ "height": 33, "width": 77 }));
        let container = bundle.flags(&["--console-socket", &socket]).start();
        let master = receiver.recv_timeout(SOON).unwrap().unwrap();
        read_until(master, "33 77");
        container.call("delete", &["--force"]).expect(0);
    });
}

#[test]
fn keys_reach_the_program_and_control_c_interrupts_it() {
    test(|s| {
        let (socket, receiver) = await_descriptor(s, "console");
        let bundle = s.sh("read line; trap 'echo int; exit' INT; echo got $line; while :; do sleep 0.05; done");
        let container = bundle.set("/process/terminal", json!(true)).flags(&["--console-socket", &socket]).start();
        let mut file = std::fs::File::from(receiver.recv_timeout(SOON).unwrap().unwrap());
        file.write_all(b"hello\n").unwrap();
        let (_, master) = read_until(file.into(), "got hello");
        let mut file = std::fs::File::from(master);
        file.write_all(b"\x03").unwrap();
        read_until(file.into(), "int");
        container.await_status("stopped");
    });
}

#[test]
fn the_terminal_belongs_to_the_user() {
    test(|s| {
        let (socket, receiver) = await_descriptor(s, "console");
        let bundle =
            s.sh("stat -Lc %u /proc/self/fd/0; echo x > /dev/tty; sleep 60").set("/process/terminal", json!(true));
        let bundle = bundle.set("/process/user", json!({ "uid": 1000, "gid": 1000 }));
        let container = bundle.flags(&["--console-socket", &socket]).start();
        let (text, _master) = read_until(receiver.recv_timeout(SOON).unwrap().unwrap(), "x\r\n");
        assert!(text.starts_with("1000"), "{text}");
        container.call("delete", &["--force"]).expect(0);
    });
}

#[test]
fn a_terminal_works_in_a_user_namespace() {
    test(|s| {
        let (socket, receiver) = await_descriptor(s, "console");
        let bundle = s
            .sh("test -t 0 && echo yes > /dev/tty; sleep 60")
            .user_namespace(100_000)
            .set("/process/terminal", json!(true));
        let container = bundle.flags(&["--console-socket", &socket]).start();
        read_until(receiver.recv_timeout(SOON).unwrap().unwrap(), "yes");
        container.call("delete", &["--force"]).expect(0);
    });
}

#[test]
fn a_background_terminal_without_a_socket_is_refused() {
    test(|s| {
        let bundle = s.sh("sleep 60").set("/process/terminal", json!(true));
        let (_, run) = bundle.try_create();
        run.fails();
    });
}

#[test]
fn a_socket_without_a_terminal_is_refused() {
    test(|s| {
        let (socket, _receiver) = await_descriptor(s, "console");
        let bundle = s.sh("sleep 60").flags(&["--console-socket", &socket]);
        let (_, run) = bundle.try_create();
        run.fails();
        // Frees the thread that waits.
        drop(std::os::unix::net::UnixStream::connect(socket));
    });
}

#[test]
fn a_socket_that_is_not_there_is_refused() {
    test(|s| {
        let bundle = s.sh("sleep 60").set("/process/terminal", json!(true));
        let (_, run) = bundle.flags(&["--console-socket", "/nonexistent/socket"]).try_create();
        run.fails();
    });
}

#[test]
fn an_exec_gets_a_terminal_of_its_own() {
    test(|s| {
        let container = s.sh("sleep 60").start();
        let (socket, receiver) = await_descriptor(s, "console");
        let script = "test -t 0 && echo yes; sleep 60";
        container.exec_with(&["--tty", "--detach", "--console-socket", &socket], &["sh", "-c", script]).expect(0);
        read_until(receiver.recv_timeout(SOON).unwrap().unwrap(), "yes");
    });
}

#[test]
fn a_foreground_run_uses_the_callers_terminal() {
    test(|s| {
        let bundle = s
            .sh("while ! stty size 2> /dev/null; do sleep 0.02; done; read line; echo got $line; exit 5")
            .set("/process/terminal", json!(true));
        let words = bundle.words("run");
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut terminal = Terminal::spawn(&s.command(&words));
        terminal.expect("24 80", SOON / 2);
        terminal.send("hello\r");
        terminal.expect("got hello", SOON);
        assert_eq!(terminal.wait(SOON).code(), Some(5));
    });
}

#[test]
fn a_foreground_exec_uses_the_callers_terminal_and_its_size_follows() {
    test(|s| {
        let container = s.sh("sleep 60").start();
        let words = ["exec", "-t", &container.id, "sh", "-c", "while :; do stty size 2> /dev/null; sleep 0.05; done"];
        let mut terminal = Terminal::spawn(&s.command(&words));
        terminal.expect("24 80", SOON / 2);
        terminal.resize(30, 100);
        terminal.expect("30 100", SOON / 2);
        container.end();
        terminal.wait(SOON);
    });
}
