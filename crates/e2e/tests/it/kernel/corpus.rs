//! The Dockerfiles of `corpus/dockerfiles`, built by our client and by Docker's: files and configuration are what buildah
//! made of the same input, but for what `differences.json` explains.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use testkit::corpus::{CONFIG, config_facts, folders, json_file, lay_out, root, strings};

use crate::subject::{Run, Subject, finish, skip_unless_insula};

/// A case with its context and Dockerfile in a folder of their own.
struct Case {
    name: String,
    options: Value,
    expected: Value,
    context: PathBuf,
    dockerfile: PathBuf,
}

impl Case {
    fn all(work: &Path) -> Vec<Self> {
        folders().iter().map(|folder| Self::open(folder, work)).collect()
    }

    fn open(folder: &Path, work: &Path) -> Self {
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let options = json_file(&folder.join("options.json"));
        let own = work.join(&name);
        let context = own.join("context");
        fs::create_dir_all(&context).unwrap();
        lay_out(folder, &options, &context);
        for file in ["Dockerfile", "Dockerfile.dockerignore"] {
            if folder.join(file).exists() {
                fs::copy(folder.join(file), own.join(file)).unwrap();
            }
        }
        let expected = json_file(&folder.join("expected.json"));
        Self { name, options, expected, context, dockerfile: own.join("Dockerfile") }
    }

    fn words(&self) -> Vec<String> {
        let mut words = vec!["--file".to_owned(), self.dockerfile.display().to_string()];
        if let Some(target) = self.options["target"].as_str() {
            words.extend(["--target".to_owned(), target.to_owned()]);
        }
        for (name, value) in self.options["arguments"].as_object().into_iter().flatten() {
            words.extend(["--build-arg".to_owned(), format!("{name}={}", value.as_str().unwrap())]);
        }
        words
    }
}

fn short_digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))[..12].to_owned()
}

/// The files of a folder as the expectations have them.
fn facts(root: &Path) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    let mut todo = vec![root.to_owned()];
    while let Some(at) = todo.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            let kind = if metadata.is_dir() {
                todo.push(path.clone());
                "folder".to_owned()
            } else if metadata.is_symlink() {
                format!("link {}", fs::read_link(&path).unwrap().display())
            } else {
                format!("file {}", short_digest(&fs::read(&path).unwrap()))
            };
            let name = path.strip_prefix(root).unwrap().display();
            out.insert(format!(
                "/{name} {:04o} {}:{} {kind}",
                metadata.mode() & 0o7777,
                metadata.uid(),
                metadata.gid()
            ));
        }
    }
    out
}

/// What the image with this id has, from the store's own files and from its archive.
fn made(subject: &Subject, id: &str, work: &Path) -> (BTreeSet<String>, Value) {
    let hex = id.trim().trim_start_matches("sha256:");
    let config = json_file(&subject.island.path("state/images/blobs/sha256").join(hex));
    let folder = work.join("tree");
    fs::create_dir(&folder).unwrap();
    let tar = work.join("tree.tar");
    let request = format!("GET /insula/tree/{id} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let body = answer(&subject.socket(), &request);
    fs::write(&tar, body).unwrap();
    let mut unpack = Command::new("tar");
    unpack.args(["--numeric-owner", "-xpf"]).arg(&tar).arg("-C").arg(&folder);
    finish(&mut unpack, b"").expect(0);
    let facts = facts(&folder);
    fs::remove_dir_all(&folder).unwrap();
    (facts, config_facts(&config["config"]))
}

/// The chunks of an answer.
fn answer(socket: &Path, request: &str) -> Vec<u8> {
    use std::io::{Read, Write};
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    let at = all.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    assert!(all.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&all));
    let (mut rest, mut out) = (&all[at + 4..], Vec::new());
    loop {
        let line = rest.windows(2).position(|two| two == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
        if size == 0 {
            return out;
        }
        out.extend_from_slice(&rest[line + 2..line + 2 + size]);
        rest = &rest[line + 4 + size..];
    }
}

fn compare(case: &Case, known: &Value, ours: &(BTreeSet<String>, Value)) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut fact = |fact: &str, ours: &Value, theirs: &Value| {
        let explained = [&case.name[..], "*"].iter().find_map(|name| known[name][fact].as_object());
        let fine = match explained {
            Some(why) => ours == theirs || why.get("ours").is_none_or(|value| value == ours),
            None => ours == theirs,
        };
        if !fine {
            wrong.push(format!("{}: {fact}: ours {ours}\n     expected {theirs}", case.name));
        }
    };
    for name in CONFIG {
        fact(name, &ours.1[name], &case.expected["config"][name]);
    }
    let theirs: BTreeSet<String> = strings(&case.expected["files"]).into_iter().map(str::to_owned).collect();
    let only = |a: &BTreeSet<String>, b: &BTreeSet<String>| json!(a.difference(b).collect::<Vec<_>>());
    fact("files", &only(&ours.0, &theirs), &only(&theirs, &ours.0));
    wrong
}

fn check_all(build: &dyn Fn(&Subject, &Case, &Path) -> Option<Run>) {
    if skip_unless_insula() {
        return;
    }
    let Some(subject) = Subject::bare() else { return };
    let work = subject.island.dir("corpus");
    let known = json_file(&root().join("differences.json"));
    let (mut wrong, mut built, mut refused) = (Vec::new(), 0, 0);
    for case in Case::all(&work) {
        let folder = work.join(&case.name);
        let id_file = folder.join("id");
        if let Some(expected) = case.expected["error"].as_str() {
            let Some(run) = build(&subject, &case, &id_file) else { return };
            refused += 1;
            let first = expected.lines().next().unwrap();
            if run.code == 0 || !run.err.contains(first) {
                wrong.push(format!("{}: {} {}\n    and not {first}", case.name, run.code, run.err));
            }
            continue;
        }
        if case.options["kind"] != "tree" {
            continue;
        }
        let Some(run) = build(&subject, &case, &id_file) else { return };
        if run.code != 0 {
            wrong.push(format!("{}: {}", case.name, run.err));
            continue;
        }
        built += 1;
        let id = fs::read_to_string(&id_file).unwrap();
        wrong.extend(compare(&case, &known, &made(&subject, id.trim(), &folder)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(built >= 60 && refused >= 10, "only {built} were built and {refused} refused");
    subject.finish();
}

#[test]
fn our_client_builds_what_buildah_builds() {
    check_all(&|subject, case, id_file| {
        let words = case.words();
        let id_file = format!("--iidfile={}", id_file.display());
        let context = case.context.display().to_string();
        let mut all = vec!["build", "--progress=quiet", &id_file];
        all.extend(words.iter().map(String::as_str));
        all.push(&context);
        Some(subject.insula(&all))
    });
}

#[test]
fn the_stock_client_builds_what_buildah_builds() {
    check_all(&|subject, case, id_file| {
        // the classic builder knows this one place
        let beside = case.dockerfile.with_extension("dockerignore");
        if beside.exists() {
            // which does not take itself for a part of the context
            let mut text = fs::read(beside).unwrap();
            text.extend(b"\n.dockerignore\n");
            fs::write(case.context.join(".dockerignore"), text).unwrap();
        }
        let words = case.words();
        let id_file = format!("--iidfile={}", id_file.display());
        let context = case.context.display().to_string();
        let mut all = vec!["build", &id_file];
        all.extend(words.iter().map(String::as_str));
        all.push(&context);
        Some(finish(subject.docker_command(&all)?.env("DOCKER_BUILDKIT", "0"), b""))
    });
}
