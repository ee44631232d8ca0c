//! What runs: arguments, environment, user, working folder, limits of the process.

use super::{Surroundings, capabilities, security};
use crate::error::{EngineError, Result};
use crate::model::{Container, ContainerSpec, Process, Ulimit};
use oci_spec::image::ImageConfiguration;
use oci_spec::runtime::{
    BoxBuilder, PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process as OciProcess, ProcessBuilder, UserBuilder,
};
use std::path::PathBuf;
use std::str::FromStr;

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Checks what needs no image.
///
/// # Errors
/// [`crate::ErrorClass::Invalid`].
pub(crate) fn check(spec: &ContainerSpec) -> Result<()> {
    for variable in &spec.env {
        if variable.is_empty() || variable.starts_with('=') || variable.contains('\0') {
            return Err(EngineError::invalid(format!("invalid environment variable: {variable:?}")));
        }
    }
    if let Some(folder) = spec.working_dir.as_deref().filter(|folder| !folder.is_empty() && !folder.starts_with('/')) {
        return Err(EngineError::invalid(format!(
            "the working directory '{folder}' is invalid, it needs to be an absolute path"
        )));
    }
    for limit in &spec.ulimits {
        rlimit(limit)?;
    }
    if let Some(signal) = &spec.stop_signal {
        crate::signal::number(signal)?;
    }
    if spec.oom_score_adj.is_some_and(|value| !(-1000..=1000).contains(&value)) {
        return Err(EngineError::invalid(
            "Invalid value for --oom-score-adj, range for oom score adj is [-1000, 1000]",
        ));
    }
    if let Some(line) = spec.extra_hosts.iter().find(|line| net::extra_host(line, &[]).is_none()) {
        return Err(EngineError::invalid(format!("bad format for add-host: {line:?}; give it as name:address")));
    }
    if spec.command.iter().chain(spec.entrypoint.iter().flatten()).any(|word| word.contains('\0')) {
        return Err(EngineError::invalid("invalid command: it has a NUL character"));
    }
    Ok(())
}

/// Merges what was asked with what the image says.
///
/// # Errors
/// [`crate::ErrorClass::Invalid`] if neither gives a command.
pub(crate) fn merge(spec: &ContainerSpec, image: &ImageConfiguration) -> Result<Process> {
    let config = image.config().clone().unwrap_or_default();
    let from_image = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    // as Docker: an entry point of one's own drops the image's command
    let (entrypoint, command) = match &spec.entrypoint {
        Some(own) => (own.clone(), spec.command.clone()),
        None if spec.command.is_empty() => (from_image(config.entrypoint()), from_image(config.cmd())),
        None => (from_image(config.entrypoint()), spec.command.clone()),
    };
    // a list with one empty word is how images say "none at all"; an empty command is found missing at the start only
    let args: Vec<String> = entrypoint.into_iter().filter(|word| !word.is_empty()).chain(command).collect();
    if args.is_empty() {
        return Err(EngineError::invalid("No command specified: the image has none, give one behind its name"));
    }
    let mut env = from_image(config.env());
    for variable in &spec.env {
        set_variable(&mut env, variable);
    }
    let or = |own: &Option<String>, image: &Option<String>| {
        own.clone().filter(|text| !text.is_empty()).or_else(|| image.clone())
    };
    let signal = or(&spec.stop_signal, config.stop_signal()).unwrap_or_else(|| "SIGTERM".into());
    let cwd = or(&spec.working_dir, config.working_dir()).filter(|cwd| !cwd.is_empty()).unwrap_or_else(|| "/".into());
    Ok(Process {
        args,
        env,
        cwd,
        user: or(&spec.user, config.user()).unwrap_or_default(),
        stop_signal: crate::signal::number(&signal)?,
    })
}

/// Sets `KEY=value`; a bare `KEY` removes it.
pub(crate) fn set_variable(env: &mut Vec<String>, variable: &str) {
    let key = variable.split('=').next().unwrap_or(variable);
    let place = env.iter().position(|have| have.split('=').next() == Some(key));
    match (place, variable.contains('=')) {
        (Some(at), true) => variable.clone_into(&mut env[at]),
        (Some(at), false) => {
            env.remove(at);
        }
        (None, true) => env.push(variable.to_owned()),
        (None, false) => {}
    }
}

/// The whole environment of a first process or an exec.
pub(crate) fn environment(container: &Container, home: &str, tty: bool, more: &[String]) -> Vec<String> {
    let mut env = vec![PATH.to_owned(), format!("HOSTNAME={}", super::namespaces::shown_hostname(container))];
    if tty {
        env.push("TERM=xterm".into());
    }
    // those that were asked for without a value are not to be there
    let bare = container.spec.env.iter().filter(|variable| !variable.contains('='));
    for variable in bare.chain(&container.process.env).chain(more) {
        set_variable(&mut env, variable);
    }
    if !env.iter().any(|variable| variable.starts_with("HOME=")) {
        env.push(format!("HOME={home}"));
    }
    env
}

/// The OCI form of a container's first process.
///
/// # Errors
/// As [`capabilities::effective`].
pub(crate) fn plan(container: &Container, around: &Surroundings<'_>) -> Result<OciProcess> {
    let spec = &container.spec;
    let names = capabilities::effective(spec, around.host)?;
    let mut process = ProcessBuilder::default()
        .terminal(spec.tty)
        .args(container.process.args.clone())
        .env(environment(container, &around.user.home, spec.tty, &[]))
        .cwd(PathBuf::from(&container.process.cwd))
        .capabilities(capabilities::sets(&names))
        .no_new_privileges(spec.security.no_new_privileges)
        .build()
        .map_err(|error| EngineError::internal("cannot plan the process", &error))?;
    set_user(&mut process, &around.user);
    if let Some((rows, cols)) = spec.console_size {
        process.set_console_size(console(rows, cols));
    }
    process.set_rlimits(rlimits(spec)?);
    process.set_apparmor_profile(security::apparmor(spec, around.host));
    process.set_selinux_label(security::selinux(spec));
    process.set_oom_score_adj(spec.oom_score_adj);
    Ok(process)
}

pub(crate) fn set_user(process: &mut OciProcess, user: &super::user::User) {
    // its own group is among the others, so that what is denied to that group stays denied when it leaves it
    let mut groups = vec![user.gid];
    groups.extend(user.groups.iter().filter(|group| **group != user.gid));
    let built = UserBuilder::default().uid(user.uid).gid(user.gid).additional_gids(groups).build();
    if let Ok(user) = built {
        process.set_user(user);
    }
}

pub(crate) fn console(rows: u16, cols: u16) -> Option<oci_spec::runtime::Box> {
    BoxBuilder::default().height(u64::from(rows)).width(u64::from(cols)).build().ok()
}

/// The limits that were asked for; none if there are none.
pub(crate) fn rlimits(spec: &ContainerSpec) -> Result<Option<Vec<PosixRlimit>>> {
    let limits: Vec<PosixRlimit> = spec.ulimits.iter().map(rlimit).collect::<Result<_>>()?;
    Ok((!limits.is_empty()).then_some(limits))
}

fn rlimit(limit: &Ulimit) -> Result<PosixRlimit> {
    let bad = |why: &str| EngineError::invalid(format!("--ulimit {}={}:{}: {why}", limit.name, limit.soft, limit.hard));
    let word = format!("RLIMIT_{}", limit.name.to_ascii_uppercase());
    let kind = PosixRlimitType::from_str(&word)
        .or_else(|_| PosixRlimitType::from_str(&limit.name.to_ascii_uppercase()))
        .map_err(|_| bad("no such limit; getrlimit(2) lists them, for example nofile"))?;
    let number = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
    if number(limit.soft) > number(limit.hard) {
        return Err(bad("the soft limit must not be above the hard one"));
    }
    PosixRlimitBuilder::default()
        .typ(kind)
        .soft(number(limit.soft))
        .hard(number(limit.hard))
        .build()
        .map_err(|error| bad(&error.to_string()))
}
