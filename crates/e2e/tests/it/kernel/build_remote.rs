//! Builds with files that are not in the context: addresses, repositories, archives; for other platforms; to other places.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};
use testkit::wait_for;

use crate::peers::{Registry, tool};
use crate::subject::{Run, SOON, Subject, finish, skip_unless_insula};

/// A subject with a context folder.
fn prepared() -> Option<(Subject, String)> {
    if skip_unless_insula() {
        return None;
    }
    let subject = Subject::start()?;
    let context = subject.island.dir("context");
    Some((subject, context.display().to_string()))
}

fn build(subject: &Subject, text: &str, options: &[&str], context: &str) -> Run {
    fs::write(subject.island.path("context/Dockerfile"), text).unwrap();
    subject.insula(&[&["build", "--progress", "plain"][..], options, &[context]].concat())
}

/// A server of a few files; it answers until the test's process ends.
pub(crate) struct Web {
    pub(crate) address: String,
    asked: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Web {
    pub(crate) fn start(files: BTreeMap<&'static str, Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let asked: Arc<Mutex<BTreeMap<String, usize>>> = Arc::default();
        let counted = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let Some(Ok(first)) = lines.next() else { continue };
                lines.take_while(|line| line.as_ref().is_ok_and(|line| !line.is_empty())).for_each(drop);
                let path = first.split(' ').nth(1).unwrap().to_owned();
                let times = *counted.lock().unwrap().entry(path.clone()).and_modify(|times| *times += 1).or_insert(1);
                let (status, extra, body) = match (path.as_str(), files.get(path.as_str())) {
                    ("/moved", _) => ("302 Found", "Location: /file.txt\r\n", Vec::new()),
                    // the first answer ends too early
                    ("/broken", _) if times == 1 => ("200 OK", "Content-Length: 99\r\n", b"half".to_vec()),
                    ("/broken", _) => ("200 OK", "", b"whole\n".to_vec()),
                    (_, Some(body)) => ("200 OK", "Last-Modified: Tue, 14 Nov 2023 22:13:20 GMT\r\n", body.clone()),
                    (_, None) => ("404 Not Found", "", b"no\n".to_vec()),
                };
                let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n{extra}\r\n");
                let _ = stream.write_all(&[head.as_bytes(), &body].concat());
            }
        });
        Self { address, asked }
    }
}

/// What a program writes, from the folder of the test.
fn output(subject: &Subject, program: &str, words: &[&str]) -> Option<Vec<u8>> {
    let path = subject.island.path("output");
    let run = tool(
        subject,
        "sh",
        &["-c", "\"$0\" \"$@\" > output", program].into_iter().chain(words.iter().copied()).collect::<Vec<_>>(),
    )?;
    if run.code == 127 {
        println!("skipped: no {program}");
        return None;
    }
    run.expect(0);
    Some(fs::read(path).unwrap())
}

#[test]
fn addresses_are_added() {
    let Some((subject, context)) = prepared() else { return };
    fs::create_dir_all(subject.island.path("tree/sub")).unwrap();
    fs::write(subject.island.path("tree/sub/inner"), "packed\n").unwrap();
    let tar = output(&subject, "tar", &["-cf", "-", "-C", "tree", "."]).unwrap();
    fs::write(subject.island.path("plain.tar"), &tar).unwrap();
    for (program, name) in [("xz", "a.tar.xz"), ("bzip2", "a.tar.bz2"), ("gzip", "a.tar.gz"), ("zstd", "a.tar.zst")] {
        // without the program the case is the plain archive
        let packed = output(&subject, program, &["-c", "plain.tar"]).unwrap_or_else(|| tar.clone());
        fs::write(subject.island.path("context").join(name), packed).unwrap();
    }
    let digest = format!("sha256:{}", hex::encode(<sha2::Sha256 as sha2::Digest>::digest(b"hello\n")));
    let web = Web::start(BTreeMap::from([("/file.txt", b"hello\n".to_vec()), ("/tree.tar", tar)]));
    let url = &web.address;
    let text = format!(
        "FROM test:1
ADD {url}/file.txt /plain/
ADD --checksum={digest} --chmod=755 --chown=7:8 {url}/file.txt /checked
ADD {url}/moved /moved
ADD {url}/broken /broken
ADD {url}/tree.tar /kept/
ADD --unpack=true {url}/tree.tar /unpacked/
ADD a.tar.xz /xz/
ADD a.tar.bz2 /bz2/
ADD a.tar.gz /gz/
ADD a.tar.zst /zst/
"
    );
    let first = build(&subject, &text, &["-t", "made"], &context).expect(0);
    let script = "cat /plain/file.txt /checked /moved /broken; cat /unpacked/sub/inner /xz/sub/inner /bz2/sub/inner \
                  /gz/sub/inner /zst/sub/inner; stat -c '%a %u:%g %Y' /plain/file.txt /checked; ls /kept";
    let seen = subject.insula(&["run", "--rm", "--network", "none", "made", "sh", "-c", script]).expect(0);
    let expect = format!(
        "hello\nhello\nhello\nwhole\n{}600 0:0 1700000000\n755 7:8 1700000000\ntree.tar\n",
        "packed\n".repeat(5)
    );
    assert_eq!(seen.out, expect);
    // looked at again each time, but for what has a checksum, and taken from the cache
    let again = build(&subject, &text, &["-t", "made"], &context).expect(0);
    assert_eq!((again.text(), again.err.matches("CACHED").count()), (first.text(), 10), "{}", again.err);
    assert!(web.asked.lock().unwrap()["/broken"] >= 3);
    let wrong = text.replace(&digest, &format!("sha256:{}", "0".repeat(64)));
    let refused = build(&subject, &wrong, &[], &context).expect(1);
    assert!(refused.err.contains("--checksum wants"), "{}", refused.err);
    let missing = build(&subject, &format!("FROM test:1\nADD {url}/none /x\n"), &[], &context).expect(1);
    assert!(missing.err.contains("/none"), "{}", missing.err);
    subject.finish();
}

/// git's own server; ended when dropped.
struct Git(Child);

impl Drop for Git {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let _ = self.0.wait();
    }
}

impl Git {
    /// Serves the folder `served` of the test.
    fn serve(subject: &Subject) -> (Self, String) {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let base = subject.island.path("served");
        let mut command = Command::new("git");
        command.args(["daemon", "--reuseaddr", "--export-all", "--listen=127.0.0.1", &format!("--port={port}")]);
        command.arg(format!("--base-path={}", base.display())).arg(&base);
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let up = wait_for(SOON, || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        assert!(up.is_some(), "git daemon does not answer");
        (Self(child), format!("git://127.0.0.1:{port}"))
    }
}

#[test]
fn repositories_are_contexts_and_sources() {
    let Some((subject, context)) = prepared() else { return };
    let script = "
set -e
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b HOME=$PWD
git init -q -b main served/repo && cd served/repo
mkdir sub && echo one > sub/file && printf 'FROM test:1\\nCOPY file /from-repo\\n' > sub/Dockerfile
git add . && git commit -qm one && git tag v1
echo two > sub/file && git commit -qam two && git rev-parse v1 main
";
    let Some(made) = tool(&subject, "git", &["--version"]) else { return };
    made.expect(0);
    let commits = tool(&subject, "sh", &["-c", script]).unwrap().expect(0).out;
    let (old, new) = commits.trim().split_once('\n').unwrap();
    let (git, url) = Git::serve(&subject);
    let text = format!(
        "FROM test:1
ADD {url}/repo#v1:sub /old/
ADD --keep-git-dir=true {url}/repo /new/
ADD --checksum={old} {url}/repo#{old} /pinned/
"
    );
    build(&subject, &text, &["-t", "made"], &context).expect(0);
    let script = "cat /old/file /new/sub/file /pinned/sub/file; ls -a /new /pinned | grep -c '^.git$'";
    let seen = subject.insula(&["run", "--rm", "--network", "none", "made", "sh", "-c", script]).expect(0);
    assert_eq!(seen.out, "one\ntwo\none\n1\n");
    let wrong = text.replace(&format!("--checksum={old}"), &format!("--checksum={new}"));
    assert!(build(&subject, &wrong, &[], &context).expect(1).err.contains("--checksum wants"));
    // the context itself, by our client and by the stock one
    let remote = format!("{url}/repo#v1:sub");
    subject.insula(&["build", "-t", "remote", &remote]).expect(0);
    let show =
        |name: &str| subject.insula(&["run", "--rm", "--network", "none", name, "cat", "/from-repo"]).expect(0).out;
    assert_eq!(show("remote"), "one\n");
    let missing = subject.insula(&["build", &format!("{url}/repo#nothing")]).expect(1);
    assert!(missing.err.contains("nothing"), "{}", missing.err);
    drop(git);
    subject.finish();
}

#[test]
fn platforms_and_outputs() {
    let Some((subject, context)) = prepared() else { return };
    fs::write(subject.island.path("context/file"), "one\n").unwrap();
    let text = "FROM --platform=$BUILDPLATFORM test:1 AS tool
ARG TARGETPLATFORM TARGETOS TARGETARCH TARGETVARIANT BUILDPLATFORM BUILDARCH
RUN echo $TARGETPLATFORM $TARGETOS $TARGETARCH $TARGETVARIANT $BUILDPLATFORM $BUILDARCH > /words
FROM scratch
COPY --from=tool /words /words
COPY file /
";
    let words = |platform: &str| {
        let folder = subject.island.path(&format!("out-{}", platform.replace('/', "-")));
        let dest = format!("type=local,dest={}", folder.display());
        build(&subject, text, &["--platform", platform, "-o", &dest], &context).expect(0);
        fs::read_to_string(folder.join("words")).unwrap()
    };
    assert_eq!(words("linux/amd64"), "linux/amd64 linux amd64 linux/amd64 amd64\n");
    assert_eq!(words("linux/arm/v7"), "linux/arm/v7 linux arm v7 linux/amd64 amd64\n");
    build(&subject, text, &["--platform", "linux/arm64", "-t", "foreign"], &context).expect(0);
    assert_eq!(subject.field("foreign", "{{.Os}}/{{.Architecture}}"), "linux/arm64");
    // what is here is for another platform, and the registry has none for this one either
    let registry = Registry::start(&subject, &[]);
    let name = registry.name("base:1");
    subject.insula(&["tag", "test:1", &name]).expect(0);
    let text_of_base = format!("FROM {name}\n");
    let base = build(&subject, &text_of_base, &["--platform", "linux/arm64"], &context).expect(1);
    assert!(base.err.contains("cannot be pulled"), "{}", base.err);
    subject.insula(&["push", "-q", &name]).expect(0);
    let base = build(&subject, &text_of_base, &["--platform", "linux/arm64"], &context).expect(1);
    assert!(base.err.contains("linux/amd64") && base.err.contains("linux/arm64"), "{}", base.err);
    drop(registry);
    let run = build(&subject, "FROM foreign\nRUN /words\n", &["--platform", "linux/arm64"], &context).expect(1);
    assert!(run.err.contains("Dockerfile:2:1"), "{}", run.err);
    if std::path::Path::new("/proc/sys/fs/binfmt_misc/qemu-aarch64").exists() {
        println!("skipped: this machine runs programs for linux/arm64");
    } else {
        assert!(run.err.contains("linux/arm64") && run.err.contains("qemu-user-static"), "{}", run.err);
    }
    let nonsense = build(&subject, text, &["--platform", "a/b/c/d"], &context).expect(1);
    assert!(nonsense.err.contains("a/b/c/d"), "{}", nonsense.err);
    // archives that other programs read
    for (kind, source) in [("oci", "oci-archive"), ("docker", "docker-archive")] {
        let file = subject.island.path(&format!("{kind}.tar"));
        let dest = format!("type={kind},dest={}", file.display());
        build(&subject, text, &["-o", &dest, "-t", "made:2"], &context).expect(0);
        let words = ["inspect", "--config", &format!("{source}:{}", file.display())];
        let Some(config) = tool(&subject, "skopeo", &words) else { break };
        let config: serde_json::Value = serde_json::from_str(&config.expect(0).out).unwrap();
        assert_eq!(config["architecture"], "amd64");
        let index = finish(Command::new("tar").arg("-xOf").arg(&file).arg("manifest.json"), b"").expect(0);
        assert!(index.out.contains("made:2"), "{}", index.out);
    }
    subject.finish();
}

#[test]
fn steps_reach_the_users_agent() {
    let Some((subject, context)) = prepared() else { return };
    let socket = subject.island.path("agent.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let text = "FROM test:1
RUN --mount=type=ssh test -S $SSH_AUTH_SOCK && stat -c '%a %u' $SSH_AUTH_SOCK > /mode
RUN --mount=type=ssh,id=other,target=/agent,mode=0666,uid=7 test -S /agent && stat -c '%a %u' /agent >> /mode
RUN test -z \"$SSH_AUTH_SOCK\" && ! test -e /agent
";
    let path = socket.display().to_string();
    let (default, other) = (format!("default={path}"), format!("other={path}"));
    build(&subject, text, &["--ssh", &default, "--ssh", &other, "-t", "made"], &context).expect(0);
    let seen = subject.insula(&["run", "--rm", "--network", "none", "made", "cat", "/mode"]).expect(0);
    assert_eq!(seen.out, "600 0\n666 7\n");
    let needed = "FROM test:1\nRUN --mount=type=ssh,required=true true\n";
    let refused = build(&subject, needed, &[], &context).expect(1);
    assert!(refused.err.contains("--ssh"), "{}", refused.err);
    drop(listener);
    subject.finish();
}
