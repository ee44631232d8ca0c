//! How the daemon is told what to do, who may talk to it, and how it comes back without anybody's noticing.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use crate::subject::{IMAGE, Run, SOON, Subject, finish, image_tar, program, programs, skip_unless_insula};
use rustix::process::Signal;
use testkit::{Island, wait_for};

/// An authority, and the certificates of a server on the loopback address and of a client, as PEM files.
fn certificates(island: &Island) {
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
    let write = |name: &str, pem: &str| drop(island.file(name, pem));
    for (authority, signed) in [("ca", &["server", "client"][..]), ("other-ca", &["stranger"])] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, authority);
        let certificate = params.self_signed(&key).unwrap();
        write(&format!("{authority}.pem"), &certificate.pem());
        let issuer = Issuer::new(params, key);
        for name in signed {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
            params.distinguished_name.push(rcgen::DnType::CommonName, *name);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            let certificate = params.signed_by(&key, &issuer).unwrap();
            write(&format!("{name}.pem"), &certificate.pem());
            write(&format!("{name}.key"), &key.serialize_pem());
        }
    }
}

/// The address that the daemon says it has.
fn address(subject: &Subject, words: &str) -> String {
    let find = || {
        let log = subject.log();
        let line = log.lines().rev().find(|line| line.contains(words))?;
        Some(line.split("address=").nth(1)?.split_whitespace().next()?.to_owned())
    };
    wait_for(SOON, find).unwrap()
}

#[test]
fn only_clients_with_a_certificate_come_in_by_tcp() {
    if skip_unless_insula() {
        return;
    }
    let path = |island: &Island, name: &str| island.path(name).display().to_string();
    let subject = Subject::bare_with(|island| {
        certificates(island);
        let flags = [("tlscacert", "ca.pem"), ("tlscert", "server.pem"), ("tlskey", "server.key")];
        let files = flags.iter().flat_map(|(flag, name)| [format!("--{flag}"), path(island, name)]);
        ["--host", "tcp://127.0.0.1:0", "--tlsverify"].map(str::to_owned).into_iter().chain(files).collect()
    });
    let Some(subject) = subject else { return };
    let tar = image_tar();
    subject.insula(&["import", tar.to_str().unwrap(), IMAGE]).expect(0);
    let host = address(&subject, "listening");
    let docker = |client: &str, words: &[&str], input: &[u8]| -> Option<Run> {
        let mut command = subject.docker_command(&[])?;
        let own =
            ["--tlscacert", "ca.pem", "--tlscert", &format!("{client}.pem"), "--tlskey", &format!("{client}.key")]
                .map(|word| if word.starts_with("--") { word.to_owned() } else { path(&subject.island, word) });
        let mut fresh = Command::new(command.get_program());
        fresh.args(["--host", &format!("tcp://{host}"), "--tlsverify"]).args(own).args(words);
        fresh.env("DOCKER_CONFIG", subject.island.path("docker-config")).env_remove("DOCKER_HOST");
        command = fresh;
        Some(finish(&mut command, input))
    };
    let Some(version) = docker("client", &["version", "--format", "{{.Server.APIVersion}}"], b"") else { return };
    version.expect(0);
    // streams go both ways and end
    let run = ["run", "--rm", "-i", "--network", "none", IMAGE, "sh", "-c", "cat; echo err >&2; exit 3"];
    let got = docker("client", &run, b"through TLS\n").unwrap().expect(3);
    assert_eq!((got.out.as_str(), got.err.as_str()), ("through TLS\n", "err\n"));
    let refused = docker("stranger", &["ps"], b"").unwrap();
    assert_ne!(refused.code, 0, "a stranger's certificate was taken");
    let mut plain = TcpStream::connect(&host).unwrap();
    plain.write_all(b"GET /info HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    // the answer is an alert, or a connection that is cut
    let _ = plain.read_to_end(&mut answer);
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP/1.1 200"), "plain HTTP was answered");
    // a context of docker's client is all that a user needs
    let context = docker(
        "client",
        &["context", "create", "here", "--docker", &format!("host=unix://{}", subject.socket().display())],
        b"",
    );
    context.unwrap().expect(0);
    let mut through = Command::new("docker");
    through.args(["--context", "here", "ps"]).env("DOCKER_CONFIG", subject.island.path("docker-config"));
    finish(through.env_remove("DOCKER_HOST").env_remove("DOCKER_CONTEXT"), b"").expect(0);
    our_client_goes_the_same_ways(&subject, &host);
    subject.finish();
}

/// Our client over TLS, through contexts that it shares with docker's, and through a shell elsewhere.
fn our_client_goes_the_same_ways(subject: &Subject, host: &str) {
    let island = &subject.island;
    let path = |name: &str| island.path(name).display().to_string();
    let client = |program: &Path, words: &[&str]| {
        let mut command = Command::new(program);
        for name in ["INSULA_HOST", "INSULA_RUN", "INSULA_ROOT", "DOCKER_HOST", "DOCKER_CONTEXT"] {
            command.env_remove(name);
        }
        command.args(words).env("DOCKER_CONFIG", island.path("docker-config"));
        command
    };
    let insula = |words: &[&str], input: &[u8]| finish(&mut client(&program("insula"), words), input);
    let docker = |words: &[&str]| finish(&mut client(Path::new("docker"), words), b"");
    let program_with_streams =
        ["run", "--rm", "-i", "--network", "none", IMAGE, "sh", "-c", "cat; echo err >&2; exit 3"];
    let check = |run: Run| {
        let run = run.expect(3);
        assert_eq!((run.out.as_str(), run.err.as_str()), ("through\n", "err\n"));
    };
    let (address, authority) = (format!("tcp://{host}"), path("ca.pem"));
    let flags = |name: &str| {
        let files = [path(&format!("{name}.pem")), path(&format!("{name}.key"))];
        ["--host", &address, "--tlsverify", "--tlscacert", &authority, "--tlscert", &files[0], "--tlskey", &files[1]]
            .map(str::to_owned)
    };
    let with = |flags: &[String], words: &[&str]| -> Vec<String> {
        flags.iter().cloned().chain(words.iter().map(|word| (*word).to_owned())).collect()
    };
    let run = |words: &[String], input: &[u8]| insula(&words.iter().map(String::as_str).collect::<Vec<_>>(), input);
    check(run(&with(&flags("client"), &program_with_streams), b"through\n"));
    assert_ne!(run(&with(&flags("stranger"), &["ps"]), b"").code, 0, "a stranger's certificate was taken");
    // by the environment alone
    let folder = island.dir("certificates");
    for (from, to) in [("ca.pem", "ca.pem"), ("client.pem", "cert.pem"), ("client.key", "key.pem")] {
        fs::copy(island.path(from), folder.join(to)).unwrap();
    }
    let mut told = client(&program("insula"), &["ps"]);
    told.env("DOCKER_HOST", &address).env("DOCKER_TLS_VERIFY", "1").env("DOCKER_CERT_PATH", &folder);
    finish(&mut told, b"").expect(0);
    // a context of docker's is one of ours, and the other way round
    assert_eq!(insula(&["context", "show"], b"").expect(0).text(), "default");
    assert_eq!(insula(&["context", "use", "here"], b"").expect(0).text(), "here");
    insula(&["ps"], b"").expect(0);
    assert_eq!(
        docker(&["context", "ls", "-q"]).expect(0).text(),
        insula(&["context", "ls", "-q"], b"").expect(0).text()
    );
    let listed = insula(&["context", "ls"], b"").expect(0);
    assert!(listed.out.contains("here *"), "{}", listed.out);
    let place = format!("host={address},ca={authority},cert={},key={}", path("client.pem"), path("client.key"));
    insula(&["context", "create", "secure", "--description", "by TLS", "--docker", &place], b"").expect(0);
    docker(&["--context", "secure", "ps"]).expect(0);
    insula(&["--context", "secure", "ps"], b"").expect(0);
    let shown = |client: &dyn Fn(&[&str]) -> Run| {
        let run = client(&["context", "inspect", "secure"]).expect(0);
        serde_json::from_str::<serde_json::Value>(&run.out).unwrap()
    };
    assert_eq!(shown(&|words| insula(words, b"")), shown(&docker));
    assert!(insula(&["context", "rm", "here"], b"").expect(1).err.contains("is in use"));
    insula(&["context", "rm", "-f", "here", "secure"], b"").expect(0);
    assert_eq!(docker(&["context", "ls", "-q"]).expect(0).text(), "default");
    // a shell elsewhere, which here is one next door
    let script = "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done\nshift 2\nexec sh -c \"$*\"\n";
    let shells = island.dir("shells");
    fs::write(shells.join("ssh"), script).unwrap();
    fs::set_permissions(shells.join("ssh"), fs::Permissions::from_mode(0o755)).unwrap();
    let search = format!("{}:{}:{}", shells.display(), programs().display(), std::env::var("PATH").unwrap());
    let far = format!("ssh://me@elsewhere:22{}", subject.socket().display());
    let mut over = client(&program("insula"), &["--host", &far]);
    check(finish(over.args(program_with_streams).env("PATH", &search), b"through\n"));
}

/// One request over a unix socket: the whole answer.
fn ask(socket: &Path, path: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Metrics, on the socket and on an address of their own, which serves nothing else.
fn metrics_are_told(subject: &Subject) {
    let metrics = address(subject, "serving metrics");
    let fetch = |path: &str| {
        let mut stream = TcpStream::connect(&metrics).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    for text in [fetch("/metrics"), ask(&subject.socket(), "/metrics")] {
        for part in [
            "insula_containers{state=\"running\"} 1",
            "insula_http_requests_total{route=\"/containers/create\",method=\"POST\",status=\"201\"} 1",
            "insula_container_start_duration_seconds_count 1",
            "insula_container_events_total{action=\"start\"} 1",
            "insula_container_cpu_seconds_total{id=",
            "name=\"one\"",
            "insula_images 1",
        ] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
    }
    assert!(fetch("/info").starts_with("HTTP/1.1 404"));
}

#[test]
fn settings_are_read_again_and_the_program_is_executed_anew() {
    if skip_unless_insula() {
        return;
    }
    let settings = |island: &Island, label: &str| {
        let other = island.path("other.sock").display().to_string();
        format!(
            r#"{{"hosts": ["unix://{other}"], "group": "1234", "labels": ["tier={label}"], "metrics-addr": "127.0.0.1:0",
                "log-opts": {{"max-size": "3m"}}, "default-shm-size": "8M", "live-restore": true,
                "host-gateway-ip": "192.0.2.9"}}"#
        )
    };
    let subject = Subject::bare_with(|island| {
        let file = island.file("daemon.json", &settings(island, "one"));
        vec!["--config".to_owned(), file.display().to_string()]
    });
    let Some(mut subject) = subject else { return };
    let other = subject.island.path("other.sock");
    assert_eq!((other.metadata().unwrap().gid(), other.metadata().unwrap().mode() & 0o777), (1234, 0o660));
    let tar = image_tar();
    subject.insula(&["import", tar.to_str().unwrap(), IMAGE]).expect(0);
    subject.background("one", &[], &["sh", "-c", "i=0; while true; do i=$((i+1)); echo $i; sleep 0.05; done"]);
    let size = subject.field("one", "{{index .HostConfig.LogConfig.Config \"max-size\"}}");
    assert!(["3m", "3145728"].contains(&size.as_str()), "{size}");
    assert_eq!(subject.insula(&["exec", "one", "df", "-k", "/dev/shm"]).code, 0);
    assert_eq!(subject.field("one", "{{.HostConfig.ShmSize}}"), "8388608");
    metrics_are_told(&subject);
    let hosts = subject.once(&["--add-host", "outside:host-gateway"], &["cat", "/etc/hosts"]).expect(0);
    assert!(hosts.out.contains("192.0.2.9\toutside\n"), "{}", hosts.out);
    // read again
    let labels = |subject: &Subject| subject.insula(&["info", "-f", "{{.Labels}} {{.ID}}"]).expect(0).text().to_owned();
    let first = labels(&subject);
    assert!(first.starts_with("[tier=one] "), "{first}");
    let file = settings(&subject.island, "two");
    fs::write(subject.island.path("daemon.json"), file).unwrap();
    rustix::process::kill_process(subject.daemon_pid(), Signal::HUP).unwrap();
    let expect = first.replace("one", "two");
    assert!(wait_for(SOON, || (labels(&subject) == expect).then_some(())).is_some(), "{}", subject.log());
    fs::write(subject.island.path("daemon.json"), "{\"nonsense\": 1}").unwrap();
    rustix::process::kill_process(subject.daemon_pid(), Signal::HUP).unwrap();
    assert!(wait_for(SOON, || subject.log().contains("nonsense").then_some(())).is_some());
    assert_eq!(labels(&subject), expect, "wrong settings took effect");
    fs::write(subject.island.path("daemon.json"), settings(&subject.island, "three")).unwrap();
    // anew: the process is the same, the sockets never go, the container neither ends nor stops writing
    let written = || {
        let meta = fs::metadata(subject.island.path("run/insulad.pid")).ok()?;
        Some((meta.ino(), meta.mtime(), meta.mtime_nsec()))
    };
    let before = written();
    rustix::process::kill_process(subject.daemon_pid(), Signal::USR2).unwrap();
    let back = wait_for(SOON, || {
        UnixStream::connect(subject.socket()).expect("the socket went");
        (written()? != before?).then_some(())
    });
    assert!(back.is_some(), "{}", subject.log());
    assert!(ask(&other, "/_ping").ends_with("OK"));
    assert_eq!(labels(&subject), first.replace("one", "three"));
    assert_eq!(subject.field("one", "{{.State.Status}}"), "running");
    assert_eq!(subject.insula(&["exec", "one", "echo", "in"]).expect(0).text(), "in");
    // and a killed one comes back to the same
    subject.end_daemon(Signal::KILL);
    subject.start_daemon();
    let lines = subject.insula(&["logs", "one"]).expect(0).out;
    let numbers: Vec<usize> = lines.lines().map(|line| line.parse().unwrap()).collect();
    assert!(numbers.iter().copied().eq(1..=numbers.len()), "lines were lost: {numbers:?}");
    let events = subject.insula(&[
        "events",
        "--since",
        "5m",
        "--until",
        "0s",
        "--filter",
        "type=daemon",
        "--format",
        "{{.Action}}",
    ]);
    assert_eq!(events.expect(0).text(), "reload");
    subject.finish();
}
