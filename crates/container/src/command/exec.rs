//! `exec`: one more process in a container.

use super::create::{pid_file, preserved, write_pid};
use super::flags::{Command, Flag, Order, Parsed};
use super::foreground::{self, Stay};
use super::{Context, Failure, Outcome};
use crate::runtime::config;
use crate::runtime::join::{self, SubGroup, WhilePaused};
use crate::runtime::life::Known;
use oci_spec::runtime::{Capability, Process};
use std::path::{Path, PathBuf};
use sys::process::SingleThread;

static FLAGS: [Flag; 18] = [
    Flag::value("additional-gids", "one more group of the process").letter('g'),
    Flag::value("apparmor", "the AppArmor profile of the process"),
    Flag::value("cap", "one more capability of the process").letter('c'),
    Flag::value("cgroup", "[CONTROLLER,…:]PATH, a control group below the container's"),
    Flag::value("console-socket", "a unix socket that is sent the terminal's master"),
    Flag::value("cwd", "the working folder in the container"),
    Flag::switch("detach", "do not wait for its end").letter('d'),
    Flag::value("env", "NAME=VALUE, one more variable").letter('e'),
    Flag::switch("ignore-paused", "add it also to a container that is paused"),
    Flag::switch("no-new-privs", "whether the process may gain no privileges"),
    Flag::value("pid-file", "a file for the process's id"),
    Flag::value("pidfd-socket", "a unix socket that is sent the process's pidfd"),
    Flag::value("preserve-fds", "how many descriptors behind the standard streams are kept"),
    Flag::value("process", "a file with the process part of a configuration").letter('p'),
    Flag::value("process-label", "the SELinux label of the process"),
    Flag::switch("tty", "give it a terminal").letter('t'),
    Flag::value("user", "UID[:GID]").letter('u'),
    Flag::value("umask", "the mask of the modes of new files"),
];

pub(super) static COMMAND: Command = Command {
    name: "exec",
    usage: "[FLAGS] ID COMMAND [ARGUMENTS], or: --process FILE [FLAGS] ID",
    about: "run one more process in a container",
    flags: &[&FLAGS],
    order: Order::FlagsFirst,
    arguments: (1, usize::MAX),
    failure_code: 255,
    run,
};

fn run(context: &Context, parsed: &Parsed) -> Outcome {
    execute(context, parsed).map_err(|failure| failure.doing("exec failed"))
}

fn execute(context: &Context, parsed: &Parsed) -> Outcome {
    context.shield()?;
    let known = Known::find(&context.root, parsed.id())?;
    let process = process_of(context, parsed, &known)?;
    crate::check::process(&process)?;
    let stay = if parsed.on("detach") { Stay::Detached } else { Stay::Foreground };
    let terminal = process.terminal().unwrap_or(false);
    let socket = foreground::connect_console(parsed.value("console-socket"), terminal, stay)?;
    let pid_file = pid_file(parsed)?;
    let watcher = foreground::watcher(parsed)?;
    let order = join::Order {
        process: &process,
        stdio: foreground::stdio(stay),
        preserved: preserved(parsed)?.0,
        groups: parsed.values("cgroup").map(sub_group).collect(),
        paused: if parsed.on("ignore-paused") { WhilePaused::Allowed } else { WhilePaused::Refused },
    };
    let proof = SingleThread::check().map_err(|error| Failure::new(error.to_string()))?;
    if stay == Stay::Foreground {
        sys::process::block_signals();
    }
    context.log.debug("nsexec container setup: joining the container");
    let mut running = join::run(proof, known, &order)
        .map_err(|error| Failure::from(error).doing("unable to start container process"))?;
    context.log.debug(&format!("child process in init(): {}; setns_init: about to exec", running.pid));
    running.warnings.iter().for_each(|text| context.log.warn(text));
    let terminal = running.streams.terminal.take();
    let told = match (&terminal, &socket) {
        (Some(master), Some(socket)) => foreground::send_terminal(socket, master),
        _ => Ok(()),
    };
    let told = told.and_then(|()| foreground::tell(watcher.as_ref(), &running.pidfd));
    let told = told.and_then(|()| pid_file.map_or(Ok(()), |path| write_pid(&path, running.pid)));
    if let Err(failure) = told {
        crate::create::reap(&running.pidfd);
        return Err(failure);
    }
    match stay {
        Stay::Detached => Ok(0),
        Stay::Foreground => {
            foreground::attend((&running.pidfd, running.pid), terminal.filter(|_| socket.is_none()), None)
        }
    }
}

fn sub_group(text: &str) -> SubGroup<'_> {
    match text.split_once(':') {
        Some((controllers, path)) => SubGroup { controllers: Some(controllers), path },
        None => SubGroup { controllers: None, path: text },
    }
}

/// The process: from the file, or the container's own with what the flags change.
fn process_of(context: &Context, parsed: &Parsed, known: &Known) -> Result<Process, Failure> {
    if let Some(file) = parsed.value("process").filter(|file| !file.is_empty()) {
        let bytes = config::read(Path::new(file))?;
        crate::check::objects(&bytes, "process")?;
        return config::parse(&bytes, file).or_else(|error| {
            let (process, warnings) = crate::check::lenient_process(&bytes).ok_or(error)?;
            warnings.iter().for_each(|text| context.log.warn(text));
            Ok(process)
        });
    }
    let Some(arguments) = parsed.arguments.get(1..).filter(|arguments| !arguments.is_empty()) else {
        return Err(Failure::new("process args cannot be empty"));
    };
    let mut process = known.record.process.clone().into_owned();
    let size = if parsed.on("tty") { foreground::own_size() } else { None };
    process.set_args(Some(arguments.to_vec())).set_console_size(size);
    process.set_terminal(Some(parsed.on("tty")));
    if let Some(cwd) = parsed.value("cwd").filter(|cwd| !cwd.is_empty()) {
        process.set_cwd(PathBuf::from(cwd));
    }
    if let Some(profile) = parsed.value("apparmor") {
        process.set_apparmor_profile(Some(profile.to_owned()));
    }
    if let Some(label) = parsed.value("process-label") {
        process.set_selinux_label(Some(label.to_owned()));
    }
    if let Some(answer) = parsed.value("no-new-privs") {
        process.set_no_new_privileges(Some(answer == "true"));
    }
    let mut environment = process.env().clone().unwrap_or_default();
    environment.extend(parsed.values("env").map(str::to_owned));
    process.set_env(Some(environment));
    add_capabilities(context, parsed, &mut process);
    change_user(parsed, &mut process)?;
    Ok(process)
}

fn add_capabilities(context: &Context, parsed: &Parsed, process: &mut Process) {
    let mut sets = process.capabilities().clone().unwrap_or_default();
    for name in parsed.values("cap") {
        let upper = name.to_ascii_uppercase();
        let Ok(capability) = upper.strip_prefix("CAP_").unwrap_or(&upper).parse::<Capability>() else {
            context.log.warn(&format!("ignoring unknown or unavailable capability {name:?}"));
            continue;
        };
        let with = |set: &Option<oci_spec::runtime::Capabilities>| {
            let mut set = set.clone().unwrap_or_default();
            set.insert(capability);
            Some(set)
        };
        let (bounding, effective) = (with(sets.bounding()), with(sets.effective()));
        let (permitted, ambient) = (with(sets.permitted()), with(sets.ambient()));
        sets.set_bounding(bounding).set_effective(effective).set_permitted(permitted).set_ambient(ambient);
        process.set_capabilities(Some(sets.clone()));
    }
}

fn change_user(parsed: &Parsed, process: &mut Process) -> Result<(), Failure> {
    let mut user = process.user().clone();
    let number = |text: &str| text.parse::<u32>().map_err(|_| Failure::new(format!("user {text:?} is not a number")));
    if let Some(text) = parsed.value("user").filter(|text| !text.is_empty()) {
        let (uid, gid) = text.split_once(':').map_or((text, None), |(uid, gid)| (uid, Some(gid)));
        user.set_uid(number(uid)?);
        if let Some(gid) = gid {
            user.set_gid(number(gid)?);
        }
    }
    let mut groups = user.additional_gids().clone().unwrap_or_default();
    for text in parsed.values("additional-gids").flat_map(|text| text.split(',')) {
        groups.push(number(text)?);
    }
    user.set_additional_gids(Some(groups));
    if let Some(text) = parsed.value("umask") {
        let mask = u32::from_str_radix(text, 8).map_err(|_| Failure::new(format!("umask {text:?} is not octal")))?;
        user.set_umask(Some(mask));
    }
    process.set_user(user);
    Ok(())
}
