//! The Dockerfiles of `corpus/dockerfiles`: each is planned, its copies are carried out in memory, and what comes out is
//! compared with what buildah made of the same input (`expected.json`), or with facts written by hand. The folder's
//! README says how the cases look, and `differences.json` explains by name where we follow Docker and buildah does not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Cursor, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use image::build::copy::{self, Existing, Resolved, Shape};
use image::build::{
    Account, AccountFiles, Accounts, Action, CopySource, CopyStep, File, FileKind, Files, FilesError, FolderContext,
    Graph, Ignore, Images, Options, Origin, Plan,
};
use image::dockerfile::{Dockerfile, Link};
use image::tar;
use image::tree::Stat;
use oci::digest::Digest;
use serde_json::{Map, Value, json};
use testkit::corpus::{CONFIG, config_facts, folders, json_file, lay_out, root, strings};

/// One folder of the corpus, its context made ready elsewhere: version control keeps neither modes nor empty folders.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) folder: PathBuf,
    pub(super) options: Value,
    pub(super) expected: Value,
    pub(super) context: tempfile::TempDir,
}

impl Case {
    pub(super) fn all() -> Vec<Self> {
        folders().iter().map(|folder| Self::open(folder)).collect()
    }

    fn open(folder: &Path) -> Self {
        let options = json_file(&folder.join("options.json"));
        let context = tempfile::Builder::new().prefix("df-context").tempdir().unwrap();
        lay_out(folder, &options, context.path());
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let expected = json_file(&folder.join("expected.json"));
        Self { name, folder: folder.to_owned(), options, expected, context }
    }

    fn build_options(&self) -> Options {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Options {
            target: text(&self.options["target"]),
            arguments: self.options["arguments"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, value)| (name.clone(), text(value).unwrap()))
                .collect(),
            platform: "linux/amd64".parse().unwrap(),
            build_platform: "linux/amd64".parse().unwrap(),
            ..Options::default()
        }
    }

    fn plan(&self) -> Result<Plan, String> {
        let dockerfile = self.folder.join("Dockerfile");
        let file = Dockerfile::parse("Dockerfile", &fs::read(&dockerfile).unwrap()).map_err(chain)?;
        let options = self.build_options();
        let images = Images::new();
        let graph = Graph::resolve(&file, &options, &images).map_err(chain)?;
        let (ignore, _) = Ignore::find(self.context.path(), &dockerfile).map_err(chain)?;
        let context = FolderContext::open(self.context.path(), ignore).map_err(chain)?;
        Plan::new(&file, &graph, &options, &images, &context).map_err(chain)
    }
}

fn chain(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(&format!(": {source}"));
        next = source.source();
    }
    text
}

/// A root file system in memory: what the plan's copies make.
#[derive(Clone, Default)]
struct Rootfs {
    files: BTreeMap<Vec<u8>, (File, Vec<u8>)>,
}

impl Files for Rootfs {
    fn look(&self, path: &[u8]) -> Result<Option<File>, FilesError> {
        if path.is_empty() {
            return Ok(Some(folder(0, 0)));
        }
        Ok(self.files.get(path).map(|(file, _)| file.clone()))
    }

    fn names(&self, folder: &[u8]) -> Result<Vec<Vec<u8>>, FilesError> {
        let prefix = if folder.is_empty() { Vec::new() } else { [folder, b"/"].concat() };
        let below = self.files.keys().filter_map(|path| path.strip_prefix(&prefix[..]));
        Ok(below.filter(|rest| !rest.contains(&b'/')).map(<[u8]>::to_vec).collect())
    }

    fn open(&self, path: &[u8]) -> Result<Box<dyn Read + Send>, FilesError> {
        Ok(Box::new(Cursor::new(self.files[path].1.clone())))
    }
}

fn folder(uid: u32, gid: u32) -> File {
    File { stat: Stat { mode: 0o755, uid, gid, ..Stat::default() }, kind: FileKind::Directory }
}

impl Rootfs {
    fn text(&self, path: &str) -> String {
        self.files
            .get(path.as_bytes())
            .map(|(_, bytes)| String::from_utf8_lossy(bytes).into_owned())
            .unwrap_or_default()
    }

    fn accounts(&self) -> AccountFiles {
        AccountFiles { passwd: self.text("etc/passwd"), group: self.text("etc/group") }
    }

    /// Puts a file in its place; parents that are missing are made.
    fn put(&mut self, path: &[u8], file: File, contents: Vec<u8>, owner: (u32, u32)) {
        let path = path.strip_prefix(b"/").unwrap_or(path);
        for (at, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            self.files.entry(path[..at].to_vec()).or_insert_with(|| (folder(owner.0, owner.1), Vec::new()));
        }
        if !path.is_empty() {
            self.files.insert(path.to_vec(), (file, contents));
        }
    }

    fn is_folder(&self, path: &str) -> Existing {
        let path = path.trim_matches('/').as_bytes();
        let there = self.files.get(path).is_some_and(|(file, _)| file.kind == FileKind::Directory);
        if path.is_empty() || there { Existing::Folder } else { Existing::Other }
    }

    fn copy(&mut self, step: &CopyStep, from: &dyn Files) {
        let owner = step.owner.as_ref().map(|owner| owner.resolve(&self.accounts()).unwrap());
        for source in &step.sources {
            match source {
                CopySource::Files(resolved) => self.resolved(step, resolved, from, owner),
                CopySource::Later(selection) => {
                    for resolved in copy::resolve(from, selection, "the stage").unwrap() {
                        self.resolved(step, &resolved, from, owner);
                    }
                }
                CopySource::Inline { name, contents, mode } => {
                    let stat = Stat { mode: *mode, ..Stat::default() };
                    let file = File { stat, kind: FileKind::Regular(contents.len() as u64) };
                    let entry = copy::Entry { path: Vec::new(), origin: Vec::new(), file, digest: None };
                    let resolved = Resolved { name: name.clone().into(), shape: Shape::File, entries: vec![entry] };
                    let existing = self.is_folder(&step.destination.path);
                    for (path, entry) in step.destination.place(&resolved, existing) {
                        self.owned(&path, entry.file.clone(), contents.clone().into(), owner);
                    }
                }
                CopySource::Remote(remote) => panic!("the corpus needs no network: {remote:?}"),
            }
        }
    }

    fn owned(&mut self, path: &[u8], mut file: File, contents: Vec<u8>, owner: Option<(u32, u32)>) {
        if let Some(owner) = owner {
            (file.stat.uid, file.stat.gid) = owner;
        }
        self.put(path, file, contents, owner.unwrap_or((0, 0)));
    }

    fn resolved(&mut self, step: &CopyStep, resolved: &Resolved, from: &dyn Files, owner: Option<(u32, u32)>) {
        let existing = self.is_folder(&step.destination.path);
        for (path, entry) in step.destination.place(resolved, existing) {
            if entry.path.is_empty()
                && resolved.shape == Shape::Contents
                && self.is_folder(&step.destination.path) == Existing::Folder
            {
                continue;
            }
            let mut contents = Vec::new();
            if matches!(entry.file.kind, FileKind::Regular(_)) {
                from.open(&entry.origin).unwrap().read_to_end(&mut contents).unwrap();
            }
            if resolved.shape == Shape::Archive {
                self.unpack(step.destination.path.as_bytes(), &contents);
                continue;
            }
            self.owned(&path, entry.file.clone(), contents, owner);
        }
    }

    fn unpack(&mut self, below: &[u8], archive: &[u8]) {
        let mut plain = Vec::new();
        if archive.starts_with(b"\x1f\x8b") {
            flate2::read::GzDecoder::new(archive).read_to_end(&mut plain).unwrap();
        } else {
            plain.extend_from_slice(archive);
        }
        let mut reader = tar::Reader::new(Cursor::new(plain), image::Limits::default());
        while let Some(entry) = reader.next_entry().unwrap() {
            let mut contents = Vec::new();
            reader.contents().read_to_end(&mut contents).unwrap();
            let kind = match entry.kind {
                tar::Kind::File { size, .. } => FileKind::Regular(size),
                tar::Kind::Directory => FileKind::Directory,
                tar::Kind::Symlink(target) => FileKind::Symlink(target),
                other => panic!("{other:?}"),
            };
            let path = [below.strip_suffix(b"/").unwrap_or(below), b"/", &entry.path].concat();
            self.put(&path, File { stat: entry.stat, kind }, contents, (0, 0));
        }
    }

    fn facts(&self) -> Vec<String> {
        let show = |path: &[u8], file: &File, contents: &[u8]| {
            let stat = &file.stat;
            let kind = match &file.kind {
                FileKind::Directory => "folder".to_owned(),
                FileKind::Symlink(target) => format!("link {}", String::from_utf8_lossy(target)),
                FileKind::Regular(_) => format!("file {}", Digest::of(contents).short()),
                other => format!("{other:?}"),
            };
            let mode = if matches!(file.kind, FileKind::Symlink(_)) { 0o777 } else { stat.mode };
            format!("/{} {mode:04o} {}:{} {kind}", String::from_utf8_lossy(path), stat.uid, stat.gid)
        };
        self.files.iter().map(|(path, (file, contents))| show(path, file, contents)).collect()
    }
}

/// Carries out all that changes files without running anything.
fn carry_out(plan: &Plan, context: &Path) -> Vec<String> {
    let mut done: BTreeMap<usize, Rootfs> = BTreeMap::new();
    // the plan has chosen the files; this only reads them
    let context = FolderContext::open(context, Ignore::default()).unwrap();
    for (index, stage) in &plan.stages {
        let mut rootfs = match stage.base {
            image::build::Base::Stage(base) => done[&base].clone(),
            _ => Rootfs::default(),
        };
        for step in &stage.steps {
            match &step.action {
                Action::Configure => {}
                Action::Run(_) => panic!("a case with RUN has facts of its own"),
                Action::Directory { path, user } => {
                    let owner = match (user.parse::<u32>(), user.is_empty()) {
                        (_, true) => (0, 0),
                        (Ok(id), _) => (id, id),
                        _ => rootfs.accounts().user(user).unwrap(),
                    };
                    if rootfs.is_folder(path) == Existing::Other {
                        rootfs.put(path.as_bytes(), folder(owner.0, owner.1), Vec::new(), owner);
                    }
                }
                Action::Copy(step) => {
                    let from: Box<dyn Files> = match &step.origin {
                        Origin::Stage(stage) => Box::new(done[stage].clone()),
                        _ => Box::new(Rootfs::default()),
                    };
                    let files: &dyn Files = if step.origin == Origin::Context { &context } else { &*from };
                    rootfs.copy(step, files);
                    assert!(
                        step.link == Link::No
                            || step.owner.is_none()
                            || !matches!(step.owner.as_ref().map(|o| &o.user), Some(Account::Name(_)))
                    );
                }
            }
        }
        done.insert(*index, rootfs);
    }
    done[&plan.targets[0]].facts()
}

/// What the plan says of RUN steps and the rest, for cases that buildah cannot be asked about.
fn plan_facts(plan: &Plan, context: &Path) -> Value {
    let stages: Vec<Value> = plan
        .stages
        .values()
        .map(|stage| {
            let steps: Vec<Value> = stage
                .steps
                .iter()
                .filter_map(|step| match &step.action {
                    Action::Run(run) => Some(json!({
                        "line": step.place.span.line,
                        "argv": run.argv,
                        "env": run.env.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>(),
                        "directory": run.directory,
                        "user": run.user,
                        "mounts": run.mounts.iter().map(|mount| format!("{:?}", mount.mount)).collect::<Vec<_>>(),
                        "network": format!("{:?}", run.network),
                        "security": format!("{:?}", run.security),
                        "script": run.script.as_ref().map(|script| &script.contents),
                    })),
                    Action::Copy(copy) => Some(json!({ "line": step.place.span.line, "copy": copy.destination.path })),
                    _ => None,
                })
                .collect();
            json!({ "stage": stage.index, "steps": steps })
        })
        .collect();
    let image = plan.image().unwrap();
    let history: Vec<&str> = image.history.iter().map(|entry| entry.created_by.as_str()).collect();
    let runs = |step: &image::build::Step| match &step.action {
        Action::Run(_) => true,
        Action::Copy(copy) => copy.sources.iter().any(|source| matches!(source, CopySource::Remote(_))),
        _ => false,
    };
    let needs_more = plan.stages.values().flat_map(|stage| &stage.steps).any(runs);
    let files = if needs_more { Vec::new() } else { carry_out(plan, context) };
    json!({ "files": files, "warnings": plan.warnings, "stages": stages, "config": config_facts(&serde_json::to_value(&image.config).unwrap()), "history": history })
}

fn check(case: &Case, known: &Value) -> Vec<String> {
    let plan = match (case.plan(), case.expected["error"].as_str()) {
        (Err(error), Some(expected)) if error == expected => return Vec::new(),
        (Err(error), expected) => return vec![format!("error: {error}\n  and not {expected:?}")],
        (Ok(_), Some(expected)) => return vec![format!("no error, and it should be: {expected}")],
        (Ok(plan), None) => plan,
    };
    if case.options["kind"] == "plan" {
        let facts = plan_facts(&plan, case.context.path());
        let wrong = facts != case.expected["plan"];
        return wrong.then(|| format!("plan: {}", serde_json::to_string_pretty(&facts).unwrap())).into_iter().collect();
    }
    let mut wrong = Vec::new();
    let mut compare = |fact: &str, ours: &Value, theirs: &Value| {
        let explained = [&case.name[..], "*"].iter().find_map(|name| known[name][fact].as_object());
        match explained {
            // an explanation says what we have, and must be needed
            Some(why) if why.get("ours").is_none_or(|value| value == ours) && ours != theirs => {}
            Some(why) if case_wide(why) && ours == theirs => {}
            Some(_) => {
                wrong.push(format!("{fact}: the explained difference is not there: ours {ours}, buildah's {theirs}"))
            }
            None if ours == theirs => {}
            None => wrong.push(format!("{fact}: ours {ours}\n     buildah's {theirs}")),
        }
    };
    let ours = config_facts(&serde_json::to_value(&plan.image().unwrap().config).unwrap());
    for name in CONFIG {
        compare(name, &ours[name], &case.expected["config"][name]);
    }
    let ours = carry_out(&plan, case.context.path());
    let ours: BTreeSet<&str> = ours.iter().map(String::as_str).collect();
    let theirs: BTreeSet<&str> = strings(&case.expected["files"]).into_iter().collect();
    let only = |a: &BTreeSet<&str>, b: &BTreeSet<&str>| json!(a.difference(b).collect::<Vec<_>>());
    compare("files", &only(&ours, &theirs), &only(&theirs, &ours));
    wrong
}

/// A difference that holds for many cases need not be in each of them.
fn case_wide(why: &Map<String, Value>) -> bool {
    why.get("where") == Some(&json!("some"))
}

#[test]
fn every_case_gives_what_is_expected() {
    let known = json_file(&root().join("differences.json"));
    let cases = Case::all();
    assert!(cases.len() >= 60, "only {} cases", cases.len());
    for name in known.as_object().unwrap().keys() {
        assert!(
            name == "*" || cases.iter().any(|case| case.name == *name),
            "differences.json names {name}, which is no case"
        );
    }
    let mut failures = Vec::new();
    for case in &cases {
        let wrong = check(case, &known);
        if std::env::var_os("INSULA_WRITE_EXPECTED").is_some() && !wrong.is_empty() {
            write_own(case);
        }
        failures.extend(wrong.iter().map(|wrong| format!("{}: {wrong}", case.name)));
    }
    assert!(failures.is_empty(), "{} of {} cases:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

/// Writes down what we say of a case that buildah is not asked about; to be read before it is committed.
fn write_own(case: &Case) {
    if case.options["kind"] == "tree" {
        return;
    }
    let expected = match case.plan() {
        Ok(plan) => json!({ "source": "written", "plan": plan_facts(&plan, case.context.path()) }),
        Err(error) => json!({ "source": "written", "error": error }),
    };
    fs::write(case.folder.join("expected.json"), serde_json::to_string_pretty(&expected).unwrap() + "\n").unwrap();
}

/// Keys depend on content and on nothing else: not on times, owners and folders of this machine.
#[test]
fn keys_are_the_same_for_the_same_content() {
    for folder in Case::all().iter().map(|case| case.folder.clone()) {
        let keys = || {
            let case = Case::open(&folder);
            case.plan().ok().map(|plan| plan.keys(&BTreeMap::new()))
        };
        assert_eq!(keys(), keys(), "{}", folder.display());
    }
}

/// Walks over a root file system and notes what the facts have.
pub(super) fn walk(root: &Path) -> Vec<String> {
    let mut out = Vec::new();
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
                format!("file {}", Digest::of(&fs::read(&path).unwrap()).short())
            };
            let name = path.strip_prefix(root).unwrap().display();
            out.push(format!("/{name} {:04o} {}:{} {kind}", metadata.mode() & 0o7777, metadata.uid(), metadata.gid()));
        }
    }
    out.sort();
    out
}
