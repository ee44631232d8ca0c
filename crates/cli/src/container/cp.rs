//! `insula cp`: files between a container and this machine.

use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::thread;

use image::transfer::{Naming, Owner, Replace, Rules, Wanted, pack, unpack};
use rustix::fs::{Mode, OFlags};
use serde_json::Value;

use crate::client::{Client, Query};
use crate::container::path as container_path;
use crate::context::Context;
use crate::failure::{During as _, Failure, Outcome};
use crate::flags::{Action, Command, Flag, Parsed};
use crate::{output, table, terminal};

pub(crate) static COMMAND: Command = Command {
    name: "cp",
    usage: "[OPTIONS] CONTAINER:PATH PATH|-, or PATH|- CONTAINER:PATH",
    about: "Copy files between a container and this machine",
    flags: &[&[
        Flag::switch("archive", "Keep owners").short('a'),
        Flag::switch("follow-link", "Copy what a symbolic link leads to").short('L'),
        Flag::switch("quiet", "Say nothing about how much was copied").short('q'),
    ]],
    arguments: (2, 2),
    action: Action::Run(cp),
    ..Command::BLANK
};

/// Directories and symbolic links among the bits of Go's file modes.
const GO_FOLDER: i64 = 1 << 31;
const GO_LINK: i64 = 1 << 27;
/// Links that lead to links: more are a circle.
const LINKS_MAX: usize = 40;

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Side<'a> {
    Container { name: &'a str, path: &'a str },
    Local(&'a str),
}

impl<'a> Side<'a> {
    /// `NAME:PATH` is a container's; what begins with a slash or a dot is not.
    fn new(text: &'a str) -> Self {
        match text.split_once(':') {
            Some((name, path)) if !text.starts_with('/') && !name.starts_with('.') => Self::Container { name, path },
            _ => Self::Local(text),
        }
    }
}

fn cp(context: &Context, given: &Parsed) -> Outcome {
    let [from, to] = given.arguments.as_slice() else { return Ok(1) };
    match (Side::new(from), Side::new(to)) {
        (Side::Container { name, path }, Side::Local(to)) => out(context, given, (name, path), to),
        (Side::Local(from), Side::Container { name, path }) => into(context, given, from, (name, path)),
        (Side::Local(_), Side::Local(_)) => {
            Err(Failure::new("must specify at least one container source: name one side CONTAINER:PATH"))
        }
        _ => Err(Failure::new(
            "copying between containers is not supported; copy out first, or pipe: cp A:/x - | cp - B:/",
        )),
    }
}

/// What a file is, on either side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Missing,
    Folder,
    Other,
}

fn kind_of(stat: Option<&Value>) -> Kind {
    match stat {
        None => Kind::Missing,
        Some(stat) if table::number(stat, "/mode") & GO_FOLDER != 0 => Kind::Folder,
        Some(_) => Kind::Other,
    }
}

/// How a source meets its destination: the folder to unpack into, and the name that the source gets there, if it gets another.
fn meet(source: Kind, to: Kind, target: &str) -> Result<(PathBuf, Option<String>), Failure> {
    let path = Path::new(target);
    let bare = Path::new(target.trim_end_matches("/.").trim_end_matches('/'));
    let renamed = || {
        let name = bare.file_name().map(|name| name.to_string_lossy().into_owned());
        let folder = bare.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        (folder.to_owned(), name)
    };
    let asserted = target.ends_with('/') || target.ends_with("/.");
    match (source, to) {
        (_, Kind::Folder) => Ok((path.to_owned(), None)),
        (Kind::Folder, Kind::Other) => Err(Failure::new(format!("cannot copy directory onto the file {target:?}"))),
        (_, Kind::Other) if asserted => Err(Failure::new(format!("{target:?} is not a directory"))),
        (Kind::Other, Kind::Missing) if asserted => Err(Failure::new(format!("no such directory: {target:?}"))),
        _ => Ok(renamed()),
    }
}

fn archive(name: &str, query: &Query) -> String {
    query.behind(&container_path(name, "/archive"))
}

/// A path of a container begins at its root.
fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

fn out(context: &Context, given: &Parsed, (name, path): (&str, &str), to: &str) -> Outcome {
    let mut client = Client::new(context);
    let mut source = absolute(path);
    let shown = Wanted::new(&source).map(|wanted| wanted.shown).unwrap_or_default();
    if given.on("follow-link")
        && let Some(stat) = client.path_stat(&archive(name, &Query::default().with("path", &source)))?
        && table::number(&stat, "/mode") & GO_LINK != 0
    {
        source = table::text(&stat, "/linkTarget").to_owned();
    }
    let mut answer = client.stream("GET", &archive(name, &Query::default().with("path", &source)), None)?;
    let stat = answer.stat()?;
    let archived = Wanted::new(&source).map(|wanted| wanted.shown).unwrap_or_default();
    let mut counted = Counted { inner: answer.reader(), bytes: 0 };
    if to == "-" {
        if terminal::is_output() {
            return Err(Failure::new("an archive does not go to a terminal; pipe it, as in: cp web:/etc - | tar -t"));
        }
        io::copy(&mut counted, &mut io::stdout().lock())?;
        return Ok(0);
    }
    let there = match fs::metadata(to) {
        Ok(meta) if meta.is_dir() => Kind::Folder,
        Ok(_) => Kind::Other,
        Err(_) => Kind::Missing,
    };
    let (folder, renamed) = meet(kind_of(Some(&stat)), there, to)?;
    if !folder.is_dir() {
        return Err(Failure::new(format!("invalid output path: directory {:?} does not exist", folder.display())));
    }
    // entries begin with the source's own name, unless the source is a folder's contents
    let named = !matches!(archived.as_str(), "." | "/");
    let naming = match renamed {
        Some(new) => Naming { strip: if named { archived.into() } else { PathBuf::new() }, prefix: new.into() },
        None if named && archived != shown => Naming { strip: archived.into(), prefix: shown.into() },
        None => Naming::default(),
    };
    let owner = if given.on("archive") { Owner::Archived } else { Owner::Caller };
    let rules = Rules { replace: Replace::SameKind, owner, naming, shift: None };
    let root = rustix::fs::open(&folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .during(|| format!("cannot open {:?}", folder.display()))?;
    unpack(root.as_fd(), Path::new(""), &rules, &mut counted)?;
    told(given, counted.bytes, to);
    Ok(0)
}

fn told(given: &Parsed, bytes: u64, to: &str) {
    if !given.on("quiet") {
        let size = table::decimal_size(i64::try_from(bytes).unwrap_or(i64::MAX), 3);
        output::write_error(format!("Successfully copied {size} to {to}\n").as_bytes());
    }
}

fn into(context: &Context, given: &Parsed, from: &str, (name, path): (&str, &str)) -> Outcome {
    let mut client = Client::new(context);
    let mut target = absolute(path);
    let look = |client: &mut Client, path: &str| client.path_stat(&archive(name, &Query::default().with("path", path)));
    let mut stat = look(&mut client, &target)?;
    for _ in 0..LINKS_MAX {
        match &stat {
            Some(found) if table::number(found, "/mode") & GO_LINK != 0 => {
                target = table::text(found, "/linkTarget").to_owned();
                stat = look(&mut client, &target)?;
            }
            _ => break,
        }
    }
    let there = kind_of(stat.as_ref());
    let put = |client: &mut Client, folder: &str, body: &mut dyn Read| -> Result<(), Failure> {
        let query = Query::default()
            .with("path", folder)
            .with("noOverwriteDirNonDir", "true")
            .flag("copyUIDGID", given.on("archive"));
        client.put(&archive(name, &query), body).map(drop)
    };
    if from == "-" {
        if there != Kind::Folder {
            return Err(Failure::new(format!("destination \"{name}:{path}\" must be a directory")));
        }
        put(&mut client, &target, &mut io::stdin().lock())?;
        return Ok(0);
    }
    let here = std::path::absolute(from).during(|| format!("bad path {from:?}"))?;
    let mut here = here.to_string_lossy().into_owned();
    // what cleaning takes away says that contents are meant
    if from == "." || from.ends_with("/.") {
        here.push_str("/.");
    } else if from.ends_with('/') && !here.ends_with('/') {
        here.push('/');
    }
    let missing = || format!("cannot copy {from:?}");
    let mut wanted = Wanted::new(&here).ok_or_else(|| Failure::new("the source is no path"))?;
    if given.on("follow-link") {
        let real = fs::canonicalize(&here).during(missing)?;
        let shown = wanted.shown;
        wanted = Wanted::new(&real.to_string_lossy()).ok_or_else(|| Failure::new("the source is no path"))?;
        wanted.shown = shown;
    }
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let found = wanted.open(&root).and_then(rustix::fs::fstat).map_err(io::Error::from).during(missing)?;
    let folder = rustix::fs::FileType::from_raw_mode(found.st_mode) == rustix::fs::FileType::Directory;
    let (place, renamed) = meet(if folder { Kind::Folder } else { Kind::Other }, there, &target)?;
    if let Some(new) = renamed {
        wanted.shown = new;
    }
    let bytes = thread::scope(|scope| -> Result<u64, Failure> {
        let (reader, writer) = io::pipe()?;
        let packing = scope.spawn(move || pack(&root, &wanted, None, writer));
        let mut counted = Counted { inner: reader, bytes: 0 };
        let sent = put(&mut client, &place.to_string_lossy(), &mut counted);
        let bytes = counted.bytes;
        // a reader that has gone ends the packing
        drop(counted);
        let packed = packing.join().unwrap_or_else(|_| Err(io::Error::other("the copy was cut short")));
        sent?;
        packed.during(missing)?;
        Ok(bytes)
    })?;
    told(given, bytes, &format!("{name}:{path}"));
    Ok(0)
}

/// Counts what goes through.
struct Counted<R> {
    inner: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(into)?;
        self.bytes += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_told_apart() {
        let check = |text: &str, expect: Side<'_>| assert_eq!(Side::new(text), expect, "{text}");
        check("web:/etc", Side::Container { name: "web", path: "/etc" });
        check("web:a:b", Side::Container { name: "web", path: "a:b" });
        check("./a:b", Side::Local("./a:b"));
        check("/a:b", Side::Local("/a:b"));
        check("a", Side::Local("a"));
        check("-", Side::Local("-"));
    }

    #[test]
    fn sources_meet_destinations() {
        let check = |source, to, target: &str, expect: Result<(&str, Option<&str>), &str>| match (
            meet(source, to, target),
            expect,
        ) {
            (Ok((folder, name)), Ok((expected, new))) => {
                assert_eq!((folder.as_path(), name.as_deref()), (Path::new(expected), new), "{target}");
            }
            (Err(failure), Err(part)) => assert!(failure.text().contains(part), "{}", failure.text()),
            (got, _) => panic!("{target}: {got:?}"),
        };
        use Kind::{Folder, Missing, Other};
        check(Folder, Folder, "/a", Ok(("/a", None)));
        check(Other, Folder, "/a/", Ok(("/a/", None)));
        check(Other, Other, "/a/b", Ok(("/a", Some("b"))));
        check(Folder, Missing, "/a/b/", Ok(("/a", Some("b"))));
        check(Other, Missing, "b", Ok((".", Some("b"))));
        check(Folder, Other, "/a", Err("cannot copy directory"));
        check(Other, Missing, "/a/", Err("no such directory"));
    }
}
