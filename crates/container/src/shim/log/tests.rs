//! Lines, files and services.

use super::*;
use control::{Compress, LogFile, Syslog, SyslogAddress, SyslogFormat};
use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixDatagram;

fn file(max_bytes: u64, max_files: u32, compress: Compress) -> (tempfile::TempDir, LogWriter) {
    let folder = tempfile::tempdir().unwrap();
    let file = LogFile { path: folder.path().join("log"), max_bytes, max_files, compress, attributes: BTreeMap::new() };
    let log = LogWriter::open(Log { file: Some(file), service: None }, None).unwrap();
    (folder, log)
}

fn texts(content: &str) -> Vec<String> {
    let text =
        |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["log"].as_str().unwrap().to_owned();
    content.lines().map(text).collect()
}

fn read(folder: &tempfile::TempDir, name: &str) -> Vec<String> {
    texts(&std::fs::read_to_string(folder.path().join(name)).unwrap())
}

#[test]
fn lines_are_put_together_and_escaped() {
    let (folder, mut log) = file(0, 1, Compress::No);
    log.record(Stream::Stdout, b"a \"b\"\n\x01c");
    log.record(Stream::Stderr, b"\xff\n");
    log.record(Stream::Stdout, b"d\nrest");
    log.finish();
    assert_eq!(read(&folder, "log"), ["a \"b\"\n", "\u{fffd}\n", "\u{1}cd\n", "rest"]);
}

#[test]
fn long_lines_come_in_parts() {
    let (folder, mut log) = file(0, 1, Compress::No);
    log.record(Stream::Stdout, &[b'x'; MAX_LINE + 3]);
    log.record(Stream::Stdout, b"\n");
    assert_eq!(read(&folder, "log").iter().map(String::len).collect::<Vec<_>>(), [MAX_LINE, 4]);
}

#[test]
fn rotation_keeps_as_many_files_as_asked() {
    let (folder, mut log) = file(100, 3, Compress::No);
    for line in ["one\n", "two\n", "three\n", "four\n"] {
        log.record(Stream::Stdout, line.as_bytes());
    }
    assert_eq!(read(&folder, "log"), ["four\n"]);
    assert_eq!(read(&folder, "log.1"), ["three\n"]);
    assert_eq!(read(&folder, "log.2"), ["two\n"]);
    assert!(!folder.path().join("log.3").exists());
}

#[test]
fn elder_files_are_compressed() {
    let (folder, mut log) = file(100, 3, Compress::Gzip);
    for line in ["one\n", "two\n", "three\n", "four\n"] {
        log.record(Stream::Stdout, line.as_bytes());
    }
    let unpacked = |name: &str| {
        let mut text = String::new();
        let file = std::fs::File::open(folder.path().join(name)).unwrap();
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
        texts(&text)
    };
    assert_eq!((unpacked("log.1.gz"), unpacked("log.2.gz")), (vec!["three\n".to_owned()], vec!["two\n".to_owned()]));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
}

#[test]
fn attributes_go_with_every_line() {
    let folder = tempfile::tempdir().unwrap();
    let attributes = BTreeMap::from([("tag".to_owned(), "a\"b".to_owned())]);
    let path = folder.path().join("deep/log");
    let file = LogFile { path: path.clone(), max_bytes: 0, max_files: 1, compress: Compress::No, attributes };
    let mut log = LogWriter::open(Log { file: Some(file), service: None }, None).unwrap();
    log.record(Stream::Stderr, b"x\n");
    let line: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!((&line["attrs"]["tag"], &line["stream"]), (&"a\"b".into(), &"stderr".into()));
}

fn syslog(address: SyslogAddress, format: SyslogFormat) -> std::io::Result<LogWriter> {
    let config = Syslog { address, facility: 3, format, tag: "web".into(), hostname: "here".into() };
    LogWriter::open(Log { file: None, service: Some(LogService::Syslog(config)) }, None)
}

#[test]
fn syslog_lines_have_their_formats() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let heard = |format, stream| {
        let mut log = syslog(SyslogAddress::Udp(server.local_addr().unwrap()), format).unwrap();
        log.record(stream, b"hello\n");
        let mut buffer = [0; 512];
        let count = server.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..count].to_vec()).unwrap()
    };
    let pid = std::process::id();
    let old = heard(SyslogFormat::Rfc3164, Stream::Stdout);
    assert!(old.starts_with("<30>") && old.ends_with(&format!(" here web[{pid}]: hello\n")), "{old}");
    assert_eq!(old.find(" here"), Some(4 + 15), "{old}");
    let own = heard(SyslogFormat::Local, Stream::Stderr);
    assert!(own.starts_with("<27>") && own.ends_with(&format!(" web[{pid}]: hello\n")), "{own}");
    let new = heard(SyslogFormat::Rfc5424, Stream::Stdout);
    assert!(new.starts_with("<30>1 20") && new.ends_with(&format!("Z here web {pid} web - hello\n")), "{new}");
    assert_eq!(heard(SyslogFormat::Rfc5424Micro, Stream::Stdout).len(), new.len() + 7);
}

#[test]
fn syslog_over_streams_and_sockets() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut log = syslog(SyslogAddress::Tcp(server.local_addr().unwrap()), SyslogFormat::Local).unwrap();
    let (mut peer, _) = server.accept().unwrap();
    log.record(Stream::Stdout, b"one\ntwo\nth");
    log.finish();
    drop(log);
    let mut text = String::new();
    peer.read_to_string(&mut text).unwrap();
    let ends: Vec<&str> = text.lines().filter_map(|line| line.rsplit(' ').next()).collect();
    assert_eq!(ends, ["one", "two", "th"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let server = UnixDatagram::bind(&path).unwrap();
    let mut log = syslog(SyslogAddress::Unix(path), SyslogFormat::Local).unwrap();
    log.record(Stream::Stdout, b"x\n");
    assert!(server.recv(&mut [0; 256]).unwrap() > 10);
    let missing = syslog(SyslogAddress::Unix(folder.path().join("none")), SyslogFormat::Local).unwrap_err();
    assert!(missing.to_string().starts_with("dial unix"), "{missing}");
}

#[test]
fn a_server_that_comes_back_gets_what_was_held() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    let mut log = syslog(SyslogAddress::Tcp(address), SyslogFormat::Local).unwrap();
    drop(server.accept().unwrap());
    // the first one may go into the closed connection; what follows is held
    while log.again_ms().is_none() {
        log.record(Stream::Stdout, b"lost or held\n");
    }
    log.record(Stream::Stdout, b"last\n");
    let waiting = std::thread::spawn(move || {
        let mut text = String::new();
        server.accept().unwrap().0.read_to_string(&mut text).unwrap();
        text
    });
    while log.again_ms().is_some() {
        log.push();
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    drop(log);
    assert!(waiting.join().unwrap().contains("last\n"));
}

#[test]
fn the_journal_gets_fields_by_datagram_or_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let server = UnixDatagram::bind(&path).unwrap();
    let fields = vec![("CONTAINER_NAME".to_owned(), "web".to_owned())];
    let service = |socket| Log { file: None, service: Some(LogService::Journald { socket, fields: fields.clone() }) };
    let mut log = LogWriter::open(service(path), None).unwrap();
    log.record(Stream::Stderr, b"boo\n");
    let mut buffer = [0; 512];
    let count = server.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..count], b"MESSAGE=boo\nPRIORITY=3\nCONTAINER_NAME=web\n");
    let missing = LogWriter::open(service(folder.path().join("none")), None).unwrap_err();
    assert!(missing.to_string().starts_with("journald is not enabled"), "{missing}");
}
