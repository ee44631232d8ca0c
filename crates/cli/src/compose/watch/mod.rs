//! `insula compose watch`: what changes below a folder goes into containers, or makes them anew, as `develop.watch` says.

mod pattern;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Cursor;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use compose::project::{Dependencies, Hook, Service, Trigger};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

use super::stack::{Kind, Stack};
use super::start::{self, Starts};
use super::{COMMON, build, exec, tar, up};
use crate::client::Query;
use crate::context::Context;
use crate::failure::{During as _, Failure, Outcome};
use crate::flags::{self, Action, Command, Flag, Parsed};
use crate::output;
use pattern::Patterns;

pub(super) static COMMAND: Command = Command {
    name: "watch",
    usage: "[OPTIONS] [SERVICE...]",
    about: "Bring changed files into containers, or make these anew",
    flags: &[
        COMMON,
        &[
            Flag::switch("no-up", "Do not make and start the services first"),
            Flag::switch("prune", "Accepted; what nothing names goes with: insula image prune"),
            Flag::switch("quiet", "Show nothing of builds").short('q'),
        ],
    ],
    arguments: (0, Command::MANY),
    action: Action::Run(watch),
    ..Command::BLANK
};

/// How long nothing changes before what has changed is acted upon: an editor makes several changes of one.
const CALM: Duration = Duration::from_millis(100);
/// How often the end is looked for.
const LOOK: Duration = Duration::from_millis(200);
/// What editors and version control leave beside files.
const NEVER: &[&str] =
    &["**/.git", "**/*~", "**/.*.sw?", "**/.*.sw?x", "**/4913", "**/.#*", "**/#*#", "**/.DS_Store", "**/*___jb_*___"];

/// A folder or file that is watched for a service.
struct Watched {
    service: String,
    trigger: Trigger,
    path: PathBuf,
    ignored: Patterns,
    included: Patterns,
}

fn watched(stack: &Stack, names: &[String]) -> Result<Vec<Watched>, Failure> {
    let mut all = Vec::new();
    for service in stack.project.services.values() {
        if !names.is_empty() && !names.contains(&service.name) {
            continue;
        }
        for (index, trigger) in service.spec.develop.iter().flat_map(|develop| develop.watch.iter()).enumerate() {
            let at = format!("services.{}.develop.watch[{index}]", service.name);
            if trigger.action.starts_with("sync") && trigger.target.is_none() {
                return Err(Failure::new(format!("{at}: needs \"target\", where files go in the container")));
            }
            if trigger.action == "sync+exec" && trigger.exec.is_none() {
                return Err(Failure::new(format!("{at}: needs \"exec\", what is to be run")));
            }
            let path = whole(Path::new(&trigger.path)).during(|| format!("{at}: cannot watch {}", trigger.path))?;
            let mut trigger = trigger.clone();
            let old = service.node.get("develop").and_then(|develop| develop.get("watch"));
            let old = old.and_then(|watch| watch.elements().get(index)).is_some_and(|one| one.is_on("x-initialSync"));
            if old && !trigger.initial_sync {
                output::note("warning: x-initialSync is DEPRECATED, please use the official `initial_sync` attribute");
                trigger.initial_sync = true;
            }
            let mut ignored: Vec<String> = NEVER.iter().map(|pattern| (*pattern).to_owned()).collect();
            ignored.extend(trigger.ignore.iter().cloned());
            ignored.extend(dockerignore(service, &path));
            all.push(Watched {
                service: service.name.clone(),
                path,
                ignored: Patterns::new(&ignored),
                included: Patterns::new(&trigger.include),
                trigger,
            });
        }
    }
    if all.is_empty() {
        return Err(Failure::new("no service here has \"develop.watch\"; add it to one"));
    }
    Ok(all)
}

/// A path without links, also of what is not there yet.
fn whole(path: &Path) -> std::io::Result<PathBuf> {
    match (fs::canonicalize(path), path.parent(), path.file_name()) {
        (Err(error), Some(parent), Some(name)) if error.kind() == std::io::ErrorKind::NotFound => {
            Ok(whole(parent)?.join(name))
        }
        (found, ..) => found,
    }
}

/// What the build's context leaves out, where the folder is the context.
fn dockerignore(service: &Service, path: &Path) -> Vec<String> {
    let Some(build) = &service.spec.build else { return Vec::new() };
    if fs::canonicalize(&build.context).ok().as_deref() != Some(path) {
        return Vec::new();
    }
    let text = fs::read_to_string(path.join(".dockerignore")).unwrap_or_default();
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
}

fn watch(context: &Context, given: &Parsed) -> Outcome {
    let stack = Stack::new(context, given, &given.arguments, Dependencies::Included)?;
    let all = watched(&stack, &given.arguments)?;
    if !given.on("no-up") {
        let renewed = up::make(&stack, given, &given.arguments)?;
        start::services(&stack, &Starts { renewed, before: None })?;
    }
    stack.board.end();
    let ears = Ears::new(&all)?;
    output::print("Watch enabled\n");
    first_sync(&stack, &all)?;
    run(&stack, given, &all, ears, &AtomicBool::new(false))?;
    Ok(0)
}

/// Watches on a thread while `up` is in the foreground; dropping the answer ends it.
pub(super) struct Watching {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.end.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // it has told of its failure itself
            let _ = thread.join();
        }
    }
}

/// What is to be watched, and listened to already.
pub(super) struct Ready {
    all: Vec<Watched>,
    ears: Ears,
}

/// Listens to what services watch: what changes from now on is not missed.
pub(super) fn ready(stack: &Stack, given: &Parsed) -> Result<Ready, Failure> {
    let all = watched(stack, &given.arguments)?;
    let ears = Ears::new(&all)?;
    Ok(Ready { all, ears })
}

/// Begins to act beside the foreground on what changes.
pub(super) fn begin(stack: &Stack, ready: Ready) -> Watching {
    let end = Arc::new(AtomicBool::new(false));
    let other = Stack {
        context: stack.context.clone(),
        project: stack.project.clone(),
        board: super::progress::Board::new(stack.board.show()),
        mode: stack.mode,
        limit: stack.limit,
    };
    let ended = Arc::clone(&end);
    let thread = std::thread::spawn(move || {
        output::print("Watch enabled\n");
        let done = first_sync(&other, &ready.all)
            .and_then(|()| run(&other, &Parsed::default(), &ready.all, ready.ears, &ended));
        if let Err(failure) = done {
            output::note(failure.text());
        }
    });
    Watching { end, thread: Some(thread) }
}

/// Folders that are listened to.
struct Ears {
    inotify: OwnedFd,
    folders: BTreeMap<i32, PathBuf>,
}

impl Ears {
    fn new(all: &[Watched]) -> Result<Self, Failure> {
        let inotify =
            inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).during(|| "cannot watch files".to_owned())?;
        let mut ears = Self { inotify, folders: BTreeMap::new() };
        for watched in all {
            ears.listen(nearest_folder(&watched.path), watched)?;
        }
        Ok(ears)
    }

    /// Listens to a folder and those below that are not ignored.
    fn listen(&mut self, folder: &Path, watched: &Watched) -> Result<(), Failure> {
        let mut ahead = vec![folder.to_owned()];
        while let Some(folder) = ahead.pop() {
            let flags = WatchFlags::CLOSE_WRITE
                | WatchFlags::CREATE
                | WatchFlags::DELETE
                | WatchFlags::MOVED_FROM
                | WatchFlags::MOVED_TO
                | WatchFlags::ATTRIB
                | WatchFlags::ONLYDIR;
            match inotify::add_watch(&self.inotify, &folder, flags) {
                Ok(number) => drop(self.folders.insert(number, folder.clone())),
                // it has gone in between
                Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => continue,
                Err(errno) => {
                    let text = format!(
                        "cannot watch {}: {errno}; raise fs.inotify.max_user_watches, or ignore more",
                        folder.display()
                    );
                    return Err(Failure::new(text));
                }
            }
            if !watched.path.is_dir() || !folder.starts_with(&watched.path) {
                continue;
            }
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                let ignored = path.strip_prefix(&watched.path).is_ok_and(|relative| watched.ignored.matches(relative));
                if !ignored && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    ahead.push(path);
                }
            }
        }
        Ok(())
    }

    /// The paths that have changed, once nothing changes any more; none if it is to end.
    fn changes(&mut self, all: &[Watched], end: &AtomicBool) -> Result<BTreeSet<PathBuf>, Failure> {
        let mut changed = BTreeSet::new();
        loop {
            let span = if changed.is_empty() { LOOK } else { CALM };
            let limit = Timespec::try_from(span).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 100_000_000 });
            let mut polled = [PollFd::from_borrowed_fd(self.inotify.as_fd(), PollFlags::IN)];
            match poll(&mut polled, Some(&limit)) {
                Ok(0) if !changed.is_empty() || end.load(Ordering::SeqCst) => return Ok(changed),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            for (path, is_new_folder) in self.read()? {
                if is_new_folder {
                    for watched in all.iter().filter(|watched| path.starts_with(&watched.path)) {
                        self.listen(&path, watched)?;
                    }
                    // a folder on the way to what was not there before
                    for watched in all.iter().filter(|watched| watched.path.starts_with(&path)) {
                        self.listen(nearest_folder(&watched.path), watched)?;
                    }
                    // what was made in it before it was listened to
                    changed.extend(files_below(&path));
                }
                changed.insert(path);
            }
        }
    }

    fn read(&mut self) -> Result<Vec<(PathBuf, bool)>, Failure> {
        let mut buffer = [MaybeUninit::<u8>::uninit(); 8192];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        let mut found = Vec::new();
        loop {
            match reader.next() {
                Ok(event) => {
                    let Some(folder) = self.folders.get(&event.wd()) else { continue };
                    let Some(name) = event.file_name() else { continue };
                    let path = folder.join(Path::new(std::ffi::OsStr::new(&*name.to_string_lossy())));
                    let made = event.events().intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO);
                    found.push((path, made && event.events().contains(ReadFlags::ISDIR)));
                }
                Err(rustix::io::Errno::AGAIN) => return Ok(found),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// The path if it is a folder, or the nearest one above it.
fn nearest_folder(path: &Path) -> &Path {
    path.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"))
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let (mut found, mut ahead) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = ahead.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => ahead.push(entry.path()),
                Ok(kind) if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found
}

fn run(stack: &Stack, given: &Parsed, all: &[Watched], mut ears: Ears, end: &AtomicBool) -> Result<(), Failure> {
    while !end.load(Ordering::SeqCst) {
        let changed = ears.changes(all, end)?;
        for watched in all {
            let relevant: Vec<&Path> =
                changed.iter().map(PathBuf::as_path).filter(|path| concerns(watched, path)).collect();
            if relevant.is_empty() {
                continue;
            }
            // one that fails is told, and the next change has another chance
            if let Err(failure) = act(stack, given, watched, &relevant) {
                output::note(&format!("{}: {}", watched.service, failure.text()));
            }
        }
    }
    Ok(())
}

fn concerns(watched: &Watched, path: &Path) -> bool {
    let Ok(relative) = path.strip_prefix(&watched.path) else { return false };
    if relative.as_os_str().is_empty() {
        return true;
    }
    !watched.ignored.matches(relative) && (watched.included.is_empty() || watched.included.matches(relative))
}

fn first_sync(stack: &Stack, all: &[Watched]) -> Result<(), Failure> {
    for watched in
        all.iter().filter(|watched| watched.trigger.initial_sync && watched.trigger.action.starts_with("sync"))
    {
        let files = files_below(&watched.path);
        let files: Vec<&Path> = files.iter().map(PathBuf::as_path).filter(|path| concerns(watched, path)).collect();
        sync(stack, watched, &files)?;
    }
    Ok(())
}

fn act(stack: &Stack, given: &Parsed, watched: &Watched, changed: &[&Path]) -> Result<(), Failure> {
    let name = std::slice::from_ref(&watched.service);
    match watched.trigger.action.as_str() {
        "rebuild" => {
            output::print(&format!("Rebuilding service {:?} after changes were detected...\n", watched.service));
            rebuild(stack, given, watched)?;
            output::print(&format!("service {:?} successfully built\n", watched.service));
        }
        "restart" => restart(stack, name)?,
        action => {
            sync(stack, watched, changed)?;
            if action == "sync+restart" {
                restart(stack, name)?;
            }
            if let ("sync+exec", Some(hook)) = (action, &watched.trigger.exec) {
                run_hook(stack, name, hook)?;
            }
        }
    }
    Ok(())
}

fn rebuild(stack: &Stack, given: &Parsed, watched: &Watched) -> Result<(), Failure> {
    let Some(service) = stack.project.services.get(&watched.service) else { return Ok(()) };
    build::services(stack, given, &[service])?;
    let mut one = Stack {
        context: stack.context.clone(),
        project: stack.project.clone(),
        board: super::progress::Board::new(stack.board.show()),
        mode: stack.mode,
        limit: stack.limit,
    };
    one.project.select(std::slice::from_ref(&watched.service), Dependencies::Ignored)?;
    // the same image may come of other files: the container is made anew all the same
    let anew = flags::parse(&up::CREATE, &["--force-recreate".to_owned()]).map_err(Failure::new)?;
    let renewed = up::make(&one, &anew, std::slice::from_ref(&watched.service))?;
    start::services(&one, &Starts { renewed, before: None })
}

fn restart(stack: &Stack, name: &[String]) -> Result<(), Failure> {
    let members = stack.members_of(name, Kind::Service)?;
    stack.each(&members, |member| {
        stack
            .client()
            .post(&format!("/containers/{}/restart", member.id))
            .during(|| format!("cannot restart {}", member.name))
    })?;
    let name = name.first().map(String::as_str).unwrap_or_default();
    output::print(&format!("service(s) [{name:?}] restarted\n"));
    Ok(())
}

fn run_hook(stack: &Stack, name: &[String], hook: &Hook) -> Result<(), Failure> {
    let members = stack.members_of(name, Kind::Service)?;
    for member in members.iter().filter(|member| member.is_running()) {
        let said = exec::hook(stack, member, hook)?;
        let name = member.short_name(&stack.project.name);
        said.lines().for_each(|line| output::print(&format!("{name} ->  | {line}\n")));
    }
    Ok(())
}

/// Puts changed files into the service's containers, and takes out what has gone.
fn sync(stack: &Stack, watched: &Watched, changed: &[&Path]) -> Result<(), Failure> {
    let target = watched.trigger.target.clone().unwrap_or_default();
    let inside = |path: &Path| -> String {
        let relative = path.strip_prefix(&watched.path).unwrap_or(path);
        if relative.as_os_str().is_empty() {
            target.clone()
        } else {
            format!("{}/{}", target.trim_end_matches('/'), relative.display())
        }
    };
    let (mut files, mut gone) = (Vec::new(), Vec::new());
    for path in changed {
        match fs::metadata(path) {
            Ok(meta) if meta.is_file() => {
                let content = fs::read(path).during(|| format!("cannot read {}", path.display()))?;
                files.push((inside(path).trim_start_matches('/').to_owned(), content, meta.mode() & 0o7777));
            }
            Ok(meta) if meta.is_dir() => {
                let path = format!("{}/", inside(path).trim_matches('/'));
                files.push((path, Vec::new(), meta.mode() & 0o7777));
            }
            Ok(_) => {}
            Err(_) => gone.push(inside(path)),
        }
    }
    if files.is_empty() && gone.is_empty() {
        return Ok(());
    }
    let entries: Vec<tar::Entry<'_>> =
        files.iter().map(|(path, content, mode)| tar::Entry { path, content, mode: *mode, owner: (0, 0) }).collect();
    let bytes = tar::archive(&entries)?;
    let members = stack.members_of(std::slice::from_ref(&watched.service), Kind::Service)?;
    output::print(&format!(
        "Syncing service {:?} after {} changes were detected\n",
        watched.service,
        files.len() + gone.len()
    ));
    for member in members.iter().filter(|member| member.is_running()) {
        if !entries.is_empty() {
            let place = Query::default().with("path", "/").behind(&format!("/containers/{}/archive", member.id));
            stack
                .client()
                .put(&place, &mut Cursor::new(bytes.clone()))
                .during(|| format!("cannot copy to {}", member.name))?;
        }
        if !gone.is_empty() {
            let mut command = vec!["rm".to_owned(), "-rf".to_owned(), "--".to_owned()];
            command.extend(gone.iter().cloned());
            exec::hook(stack, member, &Hook { command, user: Some("0".to_owned()), ..Hook::default() })?;
        }
    }
    Ok(())
}
