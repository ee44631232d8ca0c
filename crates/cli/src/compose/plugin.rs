//! Programs that make what is no container: those of services with a provider, and the one that runs models.

use std::collections::BTreeMap;
use std::io::BufReader;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use compose::project::{Provider, Service};
use serde::Deserialize;

use super::stack::{Mode, Stack};
use crate::failure::{During as _, Failure};

/// Where docker's plugins are, behind the user's own folder.
const FOLDERS: &[&str] = &[
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
];

/// Variables that services get from what they need, by service.
#[derive(Debug, Default)]
pub(super) struct Lent(Mutex<BTreeMap<String, BTreeMap<String, String>>>);

impl Lent {
    fn lend(&self, service: &str, name: String, value: String) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(service.to_owned()).or_default().insert(name, value);
    }

    /// The service with what it got.
    pub(super) fn with(&self, service: &Service) -> Result<Service, Failure> {
        let variables = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&service.name).cloned();
        match variables {
            Some(variables) => Ok(service.with_variables(&variables)?),
            None => Ok(service.clone()),
        }
    }
}

/// What a provider is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    Up,
    Down,
}

/// A line that a provider writes.
///
/// # Source
/// docker compose's documentation of extensions.
#[derive(Debug, Deserialize)]
struct Message {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    message: String,
}

/// What a provider says of its options, if it does.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Metadata {
    description: String,
    up: Parameters,
    down: Parameters,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Parameters {
    parameters: Option<Vec<Parameter>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Parameter {
    name: String,
    required: bool,
}

impl Metadata {
    fn is_silent(&self) -> bool {
        self.description.is_empty() && self.up.parameters.is_none() && self.down.parameters.is_none()
    }
}

/// A plugin of docker's by its name without `docker-`.
fn docker_plugin(stack: &Stack, name: &str) -> Option<PathBuf> {
    let own = stack.context.settings_folder().map(|folder| folder.join("cli-plugins"));
    let folders = own.into_iter().chain(FOLDERS.iter().map(PathBuf::from));
    folders.map(|folder| folder.join(format!("docker-{name}"))).find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// The program of a provider: a plugin of docker's, or one in PATH.
fn program(stack: &Stack, kind: &str) -> Result<PathBuf, Failure> {
    if kind == "compose" {
        return Err(Failure::new("'compose' is not a valid provider type"));
    }
    if kind.contains('/') {
        return Some(PathBuf::from(kind)).filter(|path| is_program(path)).ok_or_else(|| missing(kind));
    }
    let path = stack.project.environment.get("PATH").cloned().unwrap_or_default();
    let in_path = || std::env::split_paths(&path).map(|folder| folder.join(kind)).find(|path| is_program(path));
    docker_plugin(stack, kind).or_else(in_path).ok_or_else(|| missing(kind))
}

fn missing(kind: &str) -> Failure {
    Failure::new(format!("no provider {kind:?}: there is neither a docker plugin docker-{kind} nor a program in PATH"))
}

/// A program that knows the project's variables.
fn command(stack: &Stack, program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().envs(&stack.project.environment).env_remove("DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND");
    command.stdin(Stdio::null());
    command
}

/// Has a service's provider make what it stands for, or take it away; what it tells goes to the services that need it.
pub(super) fn provide(
    stack: &Stack,
    service: &Service,
    provider: &Provider,
    task: Task,
    lent: &Lent,
) -> Result<(), Failure> {
    let name = &service.name;
    let (word, begin, done) = match task {
        Task::Up => ("up", "Creating", "Created"),
        Task::Down => ("down", "Removing", "Removed"),
    };
    stack.board.working("Service", name, begin);
    if stack.mode == Mode::DryRun {
        stack.board.done("Service", name, done);
        return Ok(());
    }
    let variables = run(stack, service, provider, task, word)
        .during(|| format!("services.{name}.provider"))
        .inspect_err(|_| stack.board.failed("Service", name, "Error"))?;
    let needs = |other: &&Service| other.spec.depends_on.contains_key(name);
    for other in stack.project.services.values().filter(needs) {
        for (key, value) in &variables {
            lent.lend(&other.name, format!("{}_{key}", name.to_uppercase()), value.clone());
        }
    }
    stack.board.done("Service", name, done);
    Ok(())
}

fn run(
    stack: &Stack,
    service: &Service,
    provider: &Provider,
    task: Task,
    word: &str,
) -> Result<BTreeMap<String, String>, Failure> {
    let program = program(stack, &provider.kind)?;
    let metadata = metadata(stack, &program);
    let known = match task {
        Task::Up => &metadata.up.parameters,
        Task::Down => &metadata.down.parameters,
    };
    let known = known.as_deref().unwrap_or_default();
    let lacks = |one: &&Parameter| one.required && !provider.options.contains_key(&one.name);
    if let Some(lacking) = known.iter().find(lacks) {
        return Err(Failure::new(format!(
            "required parameter {:?} is missing from provider {:?} definition",
            lacking.name, provider.kind
        )));
    }
    let mut command = command(stack, &program);
    command.arg("compose").arg(format!("--project-name={}", stack.project.name)).arg(word);
    for (option, values) in &provider.options {
        if metadata.is_silent() || known.iter().any(|one| one.name == *option) {
            command.args(values.iter().map(|value| format!("--{option}={value}")));
        }
    }
    let cannot = || format!("cannot run {}", program.display());
    let mut child = command.arg(&service.name).stdout(Stdio::piped()).spawn().during(cannot)?;
    let heard = child.stdout.take().map(|stdout| listen(stack, &service.name, BufReader::new(stdout)));
    // what it says is no use any more, and it may wait for a reader
    if matches!(heard, Some(Err(_))) {
        let _ = child.kill();
    }
    let ended = child.wait().during(cannot)?;
    let variables = heard.transpose()?.unwrap_or_default();
    if !ended.success() {
        return Err(Failure::new(format!("{} {word} failed: {ended}", program.display())));
    }
    Ok(variables)
}

/// Shows what a provider says; the variables that it sets.
fn listen(stack: &Stack, name: &str, from: impl std::io::Read) -> Result<BTreeMap<String, String>, Failure> {
    let mut variables = BTreeMap::new();
    for message in serde_json::Deserializer::from_reader(from).into_iter::<Message>() {
        let Message { kind, message } = message
            .map_err(|error| Failure::new(format!("its output is no line of JSON with type and message: {error}")))?;
        match kind.as_str() {
            "info" => stack.board.working("Service", name, &message),
            "error" => return Err(Failure::new(message)),
            "setenv" => {
                let (key, value) = message
                    .split_once('=')
                    .ok_or_else(|| Failure::new(format!("invalid response from plugin: {message}")))?;
                variables.insert(key.to_owned(), value.to_owned());
            }
            "debug" => {}
            other => return Err(Failure::new(format!("invalid response from plugin: {other}"))),
        }
    }
    Ok(variables)
}

/// What a provider says of its options; nothing where it does not know the question.
fn metadata(stack: &Stack, program: &Path) -> Metadata {
    let answer = command(stack, program).args(["compose", "metadata"]).stderr(Stdio::null()).output();
    let answer = answer.ok().filter(|answer| answer.status.success());
    answer.and_then(|answer| serde_json::from_slice(&answer.stdout).ok()).unwrap_or_default()
}

/// Makes the project's models ready by docker's plugin for them, and tells the services that use them where they are.
pub(super) fn models(stack: &Stack) -> Result<Lent, Failure> {
    let lent = Lent::default();
    let used = |name: &&String| stack.project.services.values().any(|service| service.spec.models.contains_key(*name));
    let wanted: Vec<&String> = stack.project.models.keys().filter(used).collect();
    if wanted.is_empty() {
        return Ok(lent);
    }
    let Some(program) = docker_plugin(stack, "model") else {
        return Err(Failure::new(
            "'models' support requires Docker Model plugin: put docker-model into ~/.docker/cli-plugins, or run the model as a \
             service and give its address in \"environment\"",
        ));
    };
    if stack.mode == Mode::DryRun {
        return Ok(lent);
    }
    let there: Vec<Listed> = ask(stack, &program, &["ls", "--json"])?;
    stack.each(&wanted, |name| {
        let Some(model) = stack.project.models.get(*name).map(|resource| &resource.spec) else { return Ok(()) };
        let shown = model.name.as_deref().unwrap_or(name);
        if !there.iter().any(|listed| listed.tags.contains(&model.model)) {
            stack.board.working("Model", shown, "Pulling");
            tell(stack, &program, &["pull".to_owned(), model.model.clone()])
                .inspect_err(|_| stack.board.failed("Model", shown, "Error"))?;
        }
        stack.board.working("Model", shown, "Configuring");
        let mut words = vec!["configure".to_owned()];
        if let Some(size) = model.context_size.filter(|size| *size > 0) {
            words.extend(["--context-size".to_owned(), size.to_string()]);
        }
        words.push(model.model.clone());
        if !model.runtime_flags.is_empty() {
            words.push("--".to_owned());
            words.extend(model.runtime_flags.iter().cloned());
        }
        tell(stack, &program, &words).inspect_err(|_| stack.board.failed("Model", shown, "Error"))?;
        stack.board.done("Model", shown, "Configured");
        Ok(())
    })?;
    let status: Status = ask(stack, &program, &["status", "--json"])?;
    for service in stack.project.services.values() {
        for (name, used) in &service.spec.models {
            let Some(model) = stack.project.models.get(name).map(|resource| &resource.spec) else { continue };
            let used = used.clone().unwrap_or_default();
            let stem = name.to_uppercase().replace('-', "_");
            let variable = |given: Option<String>, end: &str| given.unwrap_or_else(|| format!("{stem}_{end}"));
            lent.lend(&service.name, variable(used.model_var, "MODEL"), model.model.clone());
            lent.lend(&service.name, variable(used.endpoint_var, "URL"), status.endpoint.clone());
        }
    }
    Ok(lent)
}

/// A model that is there.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Listed {
    tags: Vec<String>,
}

/// Where models are asked.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    endpoint: String,
}

fn ask<T: for<'de> Deserialize<'de>>(stack: &Stack, program: &Path, words: &[&str]) -> Result<T, Failure> {
    let said = || format!("{} {}", program.display(), words.join(" "));
    let answer = command(stack, program).args(words).output().during(said)?;
    if !answer.status.success() {
        let why = String::from_utf8_lossy(&answer.stderr).trim().to_owned();
        return Err(Failure::new(format!("{} failed: {why}", said())));
    }
    serde_json::from_slice(&answer.stdout).map_err(|error| Failure::new(format!("{} answers no JSON: {error}", said())))
}

fn tell(stack: &Stack, program: &Path, words: &[String]) -> Result<(), Failure> {
    let said = || format!("{} {}", program.display(), words.join(" "));
    let answer = command(stack, program).args(words).output().during(said)?;
    if answer.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&answer.stderr).trim().to_owned();
    Err(Failure::new(format!("{} failed: {why}", said())))
}
