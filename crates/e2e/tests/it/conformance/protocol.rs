//! Clients that speak HTTP by hand: connections that become streams in every way, one side shut.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use crate::kernel::compat::answer;
use crate::subject::{IMAGE, SOON, Subject};

/// Sends a request that makes the connection a stream; it and the first line of the answer.
fn stream(subject: &Subject, path: &str, upgrade: &str, body: &str) -> (UnixStream, String) {
    let mut stream = UnixStream::connect(subject.socket()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{upgrade}Content-Length: {length}\r\n\r\n"
    );
    stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    assert!(!head.to_lowercase().contains("transfer-encoding"), "{head}");
    (stream, head.lines().next().unwrap_or_default().to_owned())
}

/// What the frames until the end of a stream hold.
fn frames(mut stream: UnixStream) -> String {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let mut rest = bytes.as_slice();
    let mut text = Vec::new();
    while let [1 | 2, 0, 0, 0, a, b, c, d, tail @ ..] = rest {
        let (frame, after) = tail.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
        text.extend_from_slice(frame);
        rest = after;
    }
    assert!(rest.is_empty(), "no frame: {rest:?}");
    String::from_utf8(text).unwrap()
}

/// The ways to ask for a stream, and how each is answered.
const WAYS: &[(&str, &str)] = &[
    ("", "HTTP/1.1 200 OK"),
    ("Connection: close\r\n", "HTTP/1.1 200 OK"),
    ("Connection: Upgrade\r\nUpgrade: tcp\r\n", "HTTP/1.1 101 UPGRADED"),
    ("Connection: Upgrade\r\nUpgrade: nonsense\r\n", "HTTP/1.1 101 UPGRADED"),
];

#[test]
fn connections_become_streams_in_every_way() {
    let Some(subject) = Subject::start() else { return };
    let body = json!({ "Image": IMAGE, "Cmd": ["sh", "-c", "cat; echo end"], "OpenStdin": true, "StdinOnce": true, "AttachStdin": true });
    let ask = |method: &str, path: &str, body: Option<&Value>| answer(&subject, method, path, body).unwrap();
    for (upgrade, line) in WAYS {
        ask("POST", "/containers/create?name=cat", Some(&body));
        let path = "/containers/cat/attach?stream=1&stdin=1&stdout=1&stderr=1";
        let (mut stream, first) = stream(&subject, path, upgrade, "");
        assert_eq!(first, *line, "{upgrade}");
        ask("POST", "/containers/cat/start", None);
        stream.write_all(b"one\n").unwrap();
        // the other half goes on
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(frames(stream), "one\nend\n", "{upgrade}");
        ask("POST", "/containers/cat/wait", None);
        ask("DELETE", "/containers/cat", None);
    }
    subject.background("there", &[], &["sleep", "1000"]);
    let asked = json!({ "Cmd": ["sh", "-c", "cat; echo end >&2"], "AttachStdin": true, "AttachStdout": true, "AttachStderr": true });
    for (upgrade, line) in WAYS {
        let made = ask("POST", "/containers/there/exec", Some(&asked));
        let path = format!("/exec/{}/start", made["Id"].as_str().unwrap());
        let (mut stream, first) = stream(&subject, &path, upgrade, r#"{"Detach":false}"#);
        assert_eq!(first, *line, "{upgrade}");
        stream.write_all(b"two\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let shown = frames(stream);
        // two streams, of which either may come first
        assert!(["two\nend\n", "end\ntwo\n"].contains(&shown.as_str()), "{upgrade}: {shown}");
    }
    subject.finish();
}
