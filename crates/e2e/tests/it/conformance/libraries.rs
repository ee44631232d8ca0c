//! What other client libraries than docker's own send, and what they read out of the answers: aiodocker, dockerode, testcontainers, Ansible.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;

use serde_json::{Value, json};
use testkit::wait_for;

use crate::kernel::compat::{answer, ask};
use crate::subject::{IMAGE, SOON, Subject, skip_unless_insula};

/// Sends a request with a head and a body of its own; the whole answer.
fn raw(subject: &Subject, line: &str, head: &str, body: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(subject.socket()).unwrap();
    stream.set_read_timeout(Some(SOON * 3)).unwrap();
    write!(stream, "{line} HTTP/1.0\r\nHost: x\r\n{head}Content-Length: {}\r\n\r\n", body.len()).unwrap();
    stream.write_all(body).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

/// Builds a Dockerfile alone by the classic API; the answer's lines, behind its first.
fn built(subject: &Subject, query: &str, dockerfile: &str) -> (String, Vec<Value>) {
    let mut tar = vec![0; 512];
    tar[..10].copy_from_slice(b"Dockerfile");
    tar[100..107].copy_from_slice(b"0000644");
    tar[124..135].copy_from_slice(format!("{:011o}", dockerfile.len()).as_bytes());
    tar[257..265].copy_from_slice(b"ustar\x0000");
    tar[156] = b'0';
    tar[148..156].fill(b' ');
    let sum: u32 = tar.iter().map(|byte| u32::from(*byte)).sum();
    tar[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    tar.extend_from_slice(dockerfile.as_bytes());
    tar.resize(tar.len().next_multiple_of(512) + 1024, 0);
    let answer = raw(subject, &format!("POST /build?{query}"), "Content-Type: application/x-tar\r\n", &tar);
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let lines = body.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    (head.lines().next().unwrap_or_default().split(' ').nth(1).unwrap_or_default().to_owned(), lines)
}

#[test]
fn builds_are_told_as_the_classic_builder_tells_them() {
    let Some(subject) = Subject::start() else { return };
    let (status, lines) = built(&subject, "t=made&nocache=1", &format!("FROM {IMAGE}\nRUN echo plain; echo red >&2\n"));
    assert_eq!(status, "200");
    let told = |text: &str| lines.iter().any(|line| line["stream"] == text);
    assert!(told("plain\n") && told("\u{1b}[91mred\n\u{1b}[0m"), "{lines:?}");
    // what fails in a step is told behind the steps
    let unreachable = format!("FROM {IMAGE}\nADD http://127.0.0.1:1/x /\n");
    let (status, lines) = built(&subject, "", &unreachable);
    assert_eq!(status, "200", "{lines:?}");
    assert!(lines.last().is_some_and(|line| line["error"].is_string()), "{lines:?}");
    // BuildKit's way, with the context as the request's body and no session
    let (status, lines) = built(&subject, "version=2&t=newer:1", &format!("FROM {IMAGE}\nLABEL a=b\n"));
    assert_eq!(status, "200", "{lines:?}");
    assert!(lines.iter().all(|line| line["error"].is_null()), "{lines:?}");
    let image = answer(&subject, "GET", "/images/newer:1/json", None).unwrap();
    assert_eq!(image["Config"]["Labels"]["a"], "b");
    subject.finish();
}

#[test]
fn names_and_tags_are_joined() {
    let Some(subject) = Subject::start() else { return };
    // a tag of its own counts more than one in the name
    answer(&subject, "POST", &format!("/images/{IMAGE}/tag?repo=other:1&tag=2"), None).unwrap();
    answer(&subject, "GET", "/images/other:2/json", None).unwrap();
    assert_eq!(ask(&subject, "GET", "/images/other:1/json", None).0, 404);
    // the name may have the tag as well; a proof of who asks that is none is as if it were not there
    answer(&subject, "POST", &format!("/images/{IMAGE}/tag?repo=127.0.0.1:1/p&tag=1"), None).unwrap();
    let said = raw(&subject, "POST /images/127.0.0.1:1/p:1/push?tag=1", "X-Registry-Auth: FOOBAR\r\n", b"");
    assert!(!said.starts_with(b"HTTP/1.0 400"), "{}", String::from_utf8_lossy(&said));
    // before 1.41 names were chosen by a parameter, and before 1.28 a list of networks had their containers
    let listed = answer(&subject, "GET", "/v1.24/images/json?filter=other", None).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    let run = subject.insula(&["run", "-d", "--name", "member", IMAGE, "sleep", "1000"]).expect(0);
    let networks = answer(&subject, "GET", "/v1.24/networks", None).unwrap();
    assert!(networks.as_array().unwrap().iter().any(|one| !one["Containers"][run.text()].is_null()), "{networks}");
    subject.finish();
}

#[test]
fn images_of_containers_know_where_they_come_from() {
    let Some(subject) = Subject::start() else { return };
    subject.background("base", &[], &["sleep", "1000"]);
    answer(&subject, "POST", "/commit?container=base&repo=made:1&tag=2", None).unwrap();
    let parent = answer(&subject, "GET", &format!("/images/{IMAGE}/json"), None).unwrap();
    let image = answer(&subject, "GET", "/v1.40/images/made:2/json", None).unwrap();
    assert_eq!(image["Parent"], parent["Id"]);
    assert_eq!(image["ContainerConfig"]["Image"], IMAGE);
    subject.finish();
}

#[test]
fn starts_and_sizes() {
    let Some(subject) = Subject::start() else { return };
    answer(&subject, "POST", "/containers/create?name=new", Some(&json!({ "Image": IMAGE, "Cmd": ["true"] }))).unwrap();
    // what a start is told belongs to the creation
    let (status, said) = ask(&subject, "POST", "/containers/new/start", Some(&json!({ "Privileged": true })));
    assert!(status == 400 && said.contains("non-empty request body"), "{status} {said}");
    answer(&subject, "POST", "/containers/new/start", Some(&json!({}))).unwrap();
    // a terminal is sized as soon as the answer to its start has begun
    subject.background("there", &[], &["sleep", "1000"]);
    let asked =
        json!({ "Cmd": ["sh", "-c", "read x; stty size"], "Tty": true, "AttachStdin": true, "AttachStdout": true });
    for _ in 0..5 {
        let made = answer(&subject, "POST", "/containers/there/exec", Some(&asked)).unwrap();
        let id = made["Id"].as_str().unwrap();
        let mut stream = UnixStream::connect(subject.socket()).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let body = r#"{"Detach":false,"Tty":true}"#;
        let head = "Content-Type: application/json\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n";
        let length = body.len();
        write!(stream, "POST /exec/{id}/start HTTP/1.1\r\nHost: x\r\n{head}Content-Length: {length}\r\n\r\n{body}")
            .unwrap();
        let mut first = [0];
        stream.read_exact(&mut first).unwrap();
        answer(&subject, "POST", &format!("/exec/{id}/resize?h=11&w=22"), None).unwrap();
        stream.write_all(b"\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.contains("11 22"), "{text:?}");
    }
    subject.finish();
}

#[test]
fn a_frame_of_the_log_is_a_line() {
    let Some(subject) = Subject::start() else { return };
    // asked for right behind the start
    subject.background("talks", &[], &["sh", "-c", "echo one; echo two; sleep 1000"]);
    let logs = || raw(&subject, "GET /containers/talks/logs?stdout=1", "", b"");
    let expected = b"\x01\0\0\0\0\0\0\x04one\n\x01\0\0\0\0\0\0\x04two\n";
    let seen = wait_for(SOON, || logs().ends_with(expected).then_some(()));
    assert!(seen.is_some(), "{:?}", String::from_utf8_lossy(&logs()));
    subject.finish();
}

#[test]
fn memory_that_runs_out_where_nobody_is_killed_for_it() {
    let Some(subject) = Subject::start() else { return };
    let info = answer(&subject, "GET", "/info", None).unwrap();
    if info["OomKillDisable"] != true {
        println!("skipped: control groups of version 2 have no such switch");
        return subject.finish();
    }
    let options = ["-m", "20m", "--memory-swap", "20m", "--oom-kill-disable"];
    subject.background("hog", &options, &["dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"]);
    let told = || {
        let filters = "%7B%22container%22%3A%5B%22hog%22%5D%2C%22event%22%3A%5B%22oom%22%5D%7D";
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        ask(&subject, "GET", &format!("/events?since={}&until={now}&filters={filters}", now - 60), None).1
    };
    let seen = wait_for(SOON, || told().contains("oom").then_some(()));
    assert!(seen.is_some(), "{}", told());
    subject.insula(&["kill", "hog"]).expect(0);
    subject.await_field("hog", "{{.State.Status}} {{.State.OOMKilled}}", "exited true");
    subject.finish();
}

#[test]
fn records_of_builds_are_chosen_to_go() {
    // dockerd's are BuildKit's, which a classic build leaves none of
    if skip_unless_insula() {
        return;
    }
    let Some(subject) = Subject::start() else { return };
    built(&subject, "t=one", &format!("FROM {IMAGE}\nRUN echo a >/a\n"));
    let prune = |filters: &str| {
        let said = answer(&subject, "POST", &format!("/build/prune?all=1&filters=%7B{filters}%7D"), None).unwrap();
        said["CachesDeleted"].as_array().map_or(0, Vec::len)
    };
    for none in ["%22id%22:[%22x%22]", "%22type%22:[%22source.local%22]", "%22inuse%22:[%22true%22]"] {
        assert_eq!(prune(none), 0, "{none}");
    }
    // an image has the layer
    assert_eq!(prune("%22private%22:[%22true%22]"), 0);
    assert_eq!(ask(&subject, "POST", "/build/prune?filters=%7B%22bogus%22:[%22x%22]%7D", None).0, 400);
    assert!(prune("%22shared%22:[%22true%22],%22type%22:[%22regular%22]") > 0);
    assert_eq!(prune(""), 0);
    subject.finish();
}

#[test]
fn ansible_finds_what_it_asked_for() {
    let listed = Command::new("ansible-galaxy").args(["collection", "list", "community.docker"]).output();
    if !listed.is_ok_and(|listed| String::from_utf8_lossy(&listed.stdout).contains("community.docker")) {
        println!("skipped: no ansible-playbook with the collection community.docker (package ansible)");
        return;
    }
    let Some(subject) = Subject::start() else { return };
    let shared = subject.island.dir("shared");
    let _ = subject.island.file("shared/Dockerfile", &format!("FROM {IMAGE}\nLABEL by=ansible\nRUN true\n"));
    let playbook = subject.island.file("playbook.yml", include_str!("../clients/ansible.yml"));
    let mut command = Command::new("ansible-playbook");
    command.args(["-i", "localhost,", "-e"]).arg(format!("image={IMAGE} shared={}", shared.display())).arg(playbook);
    command.env("DOCKER_HOST", format!("unix://{}", subject.socket().display())).env_remove("DOCKER_CONTEXT");
    command.env("HOME", subject.island.root()).env("ANSIBLE_NOCOLOR", "1").env("ANSIBLE_PIPELINING", "1");
    // some hundred programs in a row take minutes
    let done = command.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
    subject.finish();
}
