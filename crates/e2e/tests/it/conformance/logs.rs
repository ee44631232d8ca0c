//! Logs and their drivers, as docker's client reads and asks for them.

use crate::subject::{IMAGE, Kind, Subject};
use std::net::{TcpListener, UdpSocket};
use std::time::Duration;

fn start() -> Option<Subject> {
    let subject = Subject::start()?;
    subject.docker_command(&[]).map(|_| subject)
}

fn ran(subject: &Subject, name: &str, flags: &[&str], line: &str) {
    let fixed = ["run", "--network", "none", "--name", name];
    subject.docker(&[&fixed[..], flags, &[IMAGE, "sh", "-c", line]].concat()).expect(0);
}

fn logs(subject: &Subject, words: &[&str]) -> String {
    subject.docker(&[&["logs"][..], words].concat()).expect(0).out
}

#[test]
fn lines_are_chosen_and_drivers_keep_them() {
    let Some(subject) = start() else { return };
    let line = "echo one; sleep 1.2; echo two; echo err >&2; printf three";
    let marked = ["--log-opt", "labels=tier", "--log-opt", "env=COLOUR", "--label", "tier=db", "-e", "COLOUR=a,b"];
    ran(&subject, "json", &[&["--log-opt", "tag={{.Name}}"][..], &marked].concat(), line);
    assert_eq!(logs(&subject, &["json"]), "one\ntwo\nthree");
    // what is written is written after the start; docker 20.10 may say that it was before
    let started = subject.docker(&["inspect", "-f", "{{.State.StartedAt}}", "json"]).expect(0).text().to_owned();
    if crate::subject::kind() == Kind::Insula {
        assert_eq!(logs(&subject, &["--since", &started, "json"]), "one\ntwo\nthree");
    }
    assert_eq!(logs(&subject, &["-n", "3", "json"]).lines().next(), Some("two"));
    assert_eq!(logs(&subject, &["--details", "-n", "1", "json"]), "COLOUR=a%2Cb,tag=json,tier=db three");
    let stamps = logs(&subject, &["-t", "json"]);
    let times: Vec<&str> = stamps.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(times.iter().all(|time| time.ends_with('Z') && time.len() == 30), "{stamps}");
    assert_eq!(logs(&subject, &["--since", times[1], "json"]), "two\nthree");
    assert_eq!(logs(&subject, &["--until", times[0], "json"]), "one\n");
    // docker's own format in the file that inspect names
    let path = subject.docker(&["inspect", "-f", "{{.LogPath}}", "json"]).expect(0).text().to_owned();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(path.ends_with("-json.log"), "{path}");
    let first: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&first["log"], &first["stream"], &first["attrs"]["tier"]),
        (&"one\n".into(), &"stdout".into(), &"db".into())
    );
    ran(
        &subject,
        "local",
        &["--log-driver", "local", "--log-opt", "max-size=20k", "--log-opt", "max-file=3"],
        "seq 1 20000",
    );
    let kept = logs(&subject, &["local"]);
    assert!(kept.ends_with("19999\n20000\n") && !kept.starts_with("1\n"), "{}", kept.len());
    ran(&subject, "none", &["--log-driver", "none"], "echo lost");
    let none = subject.docker(&["logs", "none"]);
    assert!(none.code != 0 && none.err.contains("configured logging driver does not support reading"), "{}", none.err);
    let fails = |flags: &[&str], part: &str| {
        let run = subject.docker(&[&["create"][..], flags, &[IMAGE, "true"]].concat());
        assert!(run.code != 0 && run.err.contains(part), "{flags:?}: {}", run.err);
    };
    fails(&["--log-opt", "colour=red"], "unknown log opt 'colour' for json-file log driver");
    fails(&["--log-driver", "syslog", "--log-opt", "syslog-facility=kitchen"], "invalid syslog facility");
    fails(&["--log-driver", "pigeon"], "pigeon");
    // what was printed before comes with the attachment
    ran(&subject, "again", &["-d"], "echo before; sleep 100");
    subject.await_logs("again", "before\n");
    attached_past(&subject);
    subject.docker(&["rm", "-f", "again"]).expect(0);
    subject.finish();
}

/// `attach` with `logs=1`, which no client of docker's has a flag for.
fn attached_past(subject: &Subject) {
    use std::io::{Read, Write};
    let mut stream = std::os::unix::net::UnixStream::connect(subject.socket()).unwrap();
    let head = "POST /containers/again/attach?logs=1&stdout=1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    stream.set_read_timeout(Some(crate::subject::SOON)).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    assert!(bytes.ends_with(b"\x01\0\0\0\0\0\0\x07before\n"), "{}", String::from_utf8_lossy(&bytes));
}

#[test]
fn syslog_servers_get_lines() {
    let Some(subject) = start() else { return };
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_read_timeout(Some(crate::subject::SOON)).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    if subject.kind == Kind::Dockerd {
        println!("skipped: dockerd is in a network namespace of its own, away from the test's servers");
        return;
    }
    let address = format!("syslog-address=udp://{}", udp.local_addr().unwrap());
    let flags = [
        "--log-driver",
        "syslog",
        "--log-opt",
        &address,
        "--log-opt",
        "syslog-format=rfc5424",
        "--log-opt",
        "tag={{.Name}}",
    ];
    ran(&subject, "udp", &flags, "echo hello; echo bad >&2");
    let mut buffer = [0; 1024];
    let mut heard = || {
        let count = udp.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    };
    let mut lines = [heard(), heard()];
    lines.sort();
    assert!(lines[0].starts_with("<27>1 20") && lines[0].ends_with(" udp - bad\n"), "{lines:?}");
    assert!(lines[1].starts_with("<30>1 20") && lines[1].ends_with(" udp - hello\n"), "{lines:?}");
    // and can be read here, too
    assert_eq!(logs(&subject, &["udp"]), "hello\n");
    let address = format!("syslog-address=tcp://{}", tcp.local_addr().unwrap());
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut tcp.accept().unwrap().0, &mut text).unwrap();
        text
    });
    ran(
        &subject,
        "tcp",
        &["--log-driver", "syslog", "--log-opt", &address, "--log-opt", "syslog-facility=local7"],
        "echo over",
    );
    assert!(reading.join().unwrap().starts_with("<190>"));
    // nobody is there
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let address = format!("syslog-address=tcp://{gone}");
    let refused =
        subject.docker(&["run", "--network", "none", "--log-driver", "syslog", "--log-opt", &address, IMAGE, "true"]);
    assert!(
        refused.code != 0 && refused.err.contains("failed to initialize logging driver: dial tcp"),
        "{}",
        refused.err
    );
    subject.finish();
}

#[test]
fn following_goes_through_rotations() {
    if crate::subject::skip_unless_insula() {
        // dockerd of Debian loses lines here
        return;
    }
    let Some(subject) = start() else { return };
    let flags = ["-d", "--log-opt", "max-size=10k", "--log-opt", "max-file=3", "--log-opt", "compress=true"];
    ran(&subject, "busy", &flags, "for i in 1 2 3 4 5 6 7 8; do seq 1 300; sleep 0.2; done; echo end");
    let followed = logs(&subject, &["-f", "busy"]);
    assert!(followed.ends_with("end\n"), "{}", followed.len());
    assert_eq!(followed.lines().filter(|line| *line == "300").count(), 8);
    std::thread::sleep(Duration::from_millis(200));
    let path = subject.docker(&["inspect", "-f", "{{.LogPath}}", "busy"]).expect(0).text().to_owned();
    assert!(std::fs::metadata(format!("{path}.1.gz")).is_ok(), "{path}");
    assert!(logs(&subject, &["busy"]).ends_with("300\nend\n"));
    subject.finish();
}
