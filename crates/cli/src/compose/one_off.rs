//! `insula compose run`: a single program in a container of its own, made as the service's are.

use std::collections::BTreeMap;
use std::fs;

use compose::create::{Container, Which};
use compose::node::{Node, Place, Value};
use compose::project::{Dependencies, Service};
use compose::yaml;
use serde_json::json;

use super::image::{self, Builds};
use super::progress::Show;
use super::stack::{Mode, Stack};
use super::start::{self, Starts};
use super::{COMMON, converge, down, resource, up};
use crate::container::path;
use crate::container::run::{DETACH_KEYS, Joined, Streams};
use crate::context::Context;
use crate::failure::{During as _, Failure, Outcome};
use crate::flags::{Action, Command, Flag, Order, Parsed};
use crate::value::pair;
use crate::{output, terminal};

pub(super) static COMMAND: Command = Command {
    name: "run",
    usage: "[OPTIONS] SERVICE [COMMAND] [ARG...]",
    about: "Run a single program in a container of a service",
    flags: &[
        COMMON,
        &[
            Flag::switch("build", "Build the image although it is there"),
            Flag::list("cap-add", "CAP", "Add a capability"),
            Flag::list("cap-drop", "CAP", "Drop a capability"),
            Flag::switch("detach", "Leave the container in the background and print its id").short('d'),
            Flag::value("entrypoint", "PROGRAM", "Replace the image's entry point"),
            Flag::list("env", "NAME[=VALUE]", "Set a variable").short('e'),
            Flag::list("env-from-file", "FILE", "Set variables from a file"),
            Flag::switch("interactive", "Keep standard input open (on; turn off with =false)").short('i'),
            Flag::list("label", "NAME=VALUE", "Set a label").short('l'),
            Flag::list("labels", "NAME=VALUE", "As --label"),
            Flag::value("name", "NAME", "The container's name"),
            Flag::switch("no-TTY", "Give no terminal").short('T'),
            Flag::switch("no-deps", "Leave what the service needs alone"),
            Flag::list("publish", "PORT", "Publish a port").short('p'),
            Flag::value("pull", "WHEN", "When to pull: always, missing or never"),
            Flag::switch("quiet", "Show nothing but the program's output").short('q'),
            Flag::switch("quiet-build", "Show nothing of builds"),
            Flag::switch("quiet-pull", "Show no progress of pulls"),
            Flag::switch("remove-orphans", "Remove containers of services that the file has not"),
            Flag::switch("rm", "Remove the container when it has ended"),
            Flag::switch("service-ports", "Publish the service's ports").short('P'),
            Flag::switch("tty", "Give a terminal (where there is one)").short('t'),
            Flag::switch("use-aliases", "Take the service's names on its networks"),
            Flag::value("user", "USER[:GROUP]", "Run as this user").short('u'),
            Flag::list("volume", "SOURCE:TARGET[:OPTIONS]", "Mount a folder or volume").short('v'),
            Flag::list("volumes", "SOURCE:TARGET[:OPTIONS]", "As --volume"),
            Flag::value("workdir", "PATH", "Work in this folder").short('w'),
        ],
    ],
    order: Order::FlagsFirst,
    arguments: (1, Command::MANY),
    action: Action::Run(run),
    ..Command::BLANK
};

fn run(context: &Context, given: &Parsed) -> Outcome {
    let name = given.first().to_owned();
    let dependencies = if given.on("no-deps") { Dependencies::Ignored } else { Dependencies::Included };
    let mut stack = Stack::new(context, given, std::slice::from_ref(&name), dependencies)?;
    let show = if given.on("quiet") { Show::Quiet } else { stack.board.show() };
    stack.board = super::progress::Board::beside_a_program(show);
    let Some(service) = stack.project.services.get(&name).cloned() else {
        return Err(Failure::new(format!("no such service: {name}")));
    };
    let typed = !given.off("interactive") && !given.on("detach");
    if given.on("tty") && !given.on("no-TTY") && typed && !terminal::is_input() {
        return Err(Failure::new("the input device is not a TTY"));
    }
    let tty = !given.on("no-TTY")
        && !given.off("tty")
        && !given.on("detach")
        && (given.on("tty") || (terminal::is_input() && terminal::is_output()));
    let service = changed(&stack, service, given, tty)?;
    let builds = if given.on("build") { Builds::Always } else { Builds::Missing };
    let images = image::ensure(&stack, given, builds)?;
    resource::networks(&stack)?;
    resource::volumes(&stack, resource::Diverged::of(given))?;
    down::orphans(&stack, if given.on("remove-orphans") { down::Orphans::Remove } else { down::Orphans::Tell })?;
    let image = images.get(&name).cloned().unwrap_or_default();
    if dependencies == Dependencies::Included && stack.project.services.len() > 1 {
        needed(context, given, &stack, &name, images)?;
    }
    let service = super::plugin::models(&stack)?.with(&service)?;
    let found = converge::found(&stack, image)?;
    let service = compose::create::resolved(&service, &found);
    let slug = slug()?;
    let mut container = converge::container(&stack, &service, &Which::OneOff(slug), &found)?;
    if let Some(name) = given.value("name") {
        name.clone_into(&mut container.name);
    }
    if given.on("use-aliases") {
        add_names(&mut container, &service, &stack);
    }
    let interactive = !given.off("interactive");
    let stdin = interactive && !given.on("detach");
    adjust(&mut container.body, given, [interactive, stdin, tty]);
    if stack.mode == Mode::DryRun {
        stack.board.done("Container", &container.name, "Created");
        return Ok(0);
    }
    let id = converge::make(&stack, &service, &container, &container.name)?;
    stack.board.end();
    let mut client = stack.client();
    if given.on("detach") {
        client.post(&path(&id, "/start"))?;
        output::line(&container.name);
        return Ok(0);
    }
    let streams = Streams { stdin, stdout: true, stderr: true, tty, proxy: true, detach_keys: DETACH_KEYS.to_owned() };
    let joined = Joined::new(&mut client, &id, &streams, "next-exit")?;
    let ended = client.post(&path(&id, "/start")).and_then(|_| joined.carry(&mut client, &streams));
    if given.on("rm") {
        // a failure of the program is told, not one of tidying up
        let _ = client.call("DELETE", &path(&id, "?force=1&v=1"), None);
    }
    ended
}

/// Starts what the service needs.
fn needed(
    context: &Context,
    given: &Parsed,
    stack: &Stack,
    name: &str,
    images: BTreeMap<String, String>,
) -> Result<(), Failure> {
    let others: Vec<String> = stack.project.services.keys().filter(|other| *other != name).cloned().collect();
    let mut before = Stack::new(context, given, &others, Dependencies::Included)?;
    before.board = super::progress::Board::new(stack.board.show());
    let renewed = up::make_of(&before, given, &others, images)?;
    start::services(&before, &Starts { renewed, before: None })?;
    // and waits as the service itself would
    start::wait_for(stack, name)
}

/// Gives a container the service's names on its networks.
fn add_names(container: &mut Container, service: &Service, stack: &Stack) {
    let first =
        container.body.pointer_mut("/NetworkingConfig/EndpointsConfig").and_then(serde_json::Value::as_object_mut);
    let first = first.into_iter().flat_map(|map| map.iter_mut()).map(|(name, endpoint)| (name.clone(), endpoint));
    let others = container.networks.iter_mut().map(|(name, endpoint)| (name.clone(), endpoint));
    for (network, endpoint) in first.chain(others) {
        let joined = service
            .networks()
            .into_iter()
            .find(|(key, _)| stack.project.networks.get(*key).is_some_and(|resource| resource.spec.name == network));
        let own = joined.and_then(|(_, attachment)| attachment).map(|attachment| attachment.aliases.clone());
        if let Some(aliases) = endpoint.get_mut("Aliases").and_then(serde_json::Value::as_array_mut) {
            aliases.push(json!(service.name));
            aliases.extend(own.into_iter().flatten().map(|alias| json!(alias)));
        }
    }
}

/// What the request has that a file cannot say.
fn adjust(body: &mut serde_json::Value, given: &Parsed, [open, stdin, tty]: [bool; 3]) {
    let Some(body) = body.as_object_mut() else { return };
    // in the background as well: somebody may attach later
    body.insert("OpenStdin".to_owned(), json!(open));
    body.insert("StdinOnce".to_owned(), json!(stdin));
    body.insert("AttachStdin".to_owned(), json!(stdin));
    body.insert("Tty".to_owned(), json!(tty));
    if let Some(host) = body.get_mut("HostConfig").and_then(serde_json::Value::as_object_mut) {
        // a single program ends when it ends
        host.remove("RestartPolicy");
        host.insert("AutoRemove".to_owned(), json!(given.on("rm") && given.on("detach")));
    }
}

/// Twelve digits that no other container has.
fn slug() -> Result<String, Failure> {
    let mut bytes = [0_u8; 6];
    getrandom::fill(&mut bytes).map_err(|error| Failure::new(format!("cannot get random bytes: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The service as the flags change it: they are laid over the file as another file would be.
fn changed(stack: &Stack, service: Service, given: &Parsed, tty: bool) -> Result<Service, Failure> {
    let mut node = service.node.clone();
    let place = Place { file: "command line".into(), line: 0 };
    let text = |text: &str| Node::new(Value::Text(text.to_owned()), &place);
    let words = |words: &[String]| Node::new(Value::List(words.iter().map(|word| text(word)).collect()), &place);
    let Some(map) = node.as_map_mut() else { return Ok(service) };
    for gone in ["container_name", "healthcheck", "deploy", "scale"] {
        if gone != "healthcheck" || given.on("rm") {
            map.remove(gone);
        }
    }
    if !given.on("service-ports") {
        map.remove("ports");
    }
    let command = given.arguments.get(1..).unwrap_or_default();
    if let Some(program) = given.value("entrypoint") {
        let program = yaml_words(program)?;
        map.insert("entrypoint", words(&program));
        // the image's own command does not go with another program
        map.insert("command", words(&[]));
    }
    if !command.is_empty() {
        map.insert("command", words(command));
    }
    for (flag, field) in [("user", "user"), ("workdir", "working_dir")] {
        if let Some(value) = given.value(flag) {
            map.insert(field, text(value));
        }
    }
    map.insert("tty", Node::new(Value::Bool(tty), &place));
    let lookup = |name: &str| stack.project.environment.get(name).cloned();
    let mut variables = Vec::new();
    for file in given.values("env-from-file") {
        let content = fs::read_to_string(file).during(|| format!("cannot read the file {file:?}"))?;
        variables.extend(
            pair::variables(&content, &lookup).map_err(|why| Failure::new(format!("bad file {file:?}: {why}")))?,
        );
    }
    variables.extend(
        given.read_list("env", |text| pair::variable(text, &lookup))?.unwrap_or_default().into_iter().flatten(),
    );
    set_pairs(map, "environment", variables.iter().map(String::as_str), &place);
    set_pairs(map, "labels", given.values("label").chain(given.values("labels")), &place);
    let service = Service::new(&service.name, node)?;
    with_lists(service, given)
}

fn yaml_words(text: &str) -> Result<Vec<String>, Failure> {
    compose::shell_words(text).map_err(|why| Failure::new(format!("bad value {text:?} for --entrypoint: {why}")))
}

fn set_pairs<'a>(map: &mut compose::node::Map, field: &str, pairs: impl Iterator<Item = &'a str>, place: &Place) {
    for pair in pairs {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if map.get(field).and_then(Node::as_map).is_none() {
            map.insert(field, Node::new(Value::Map(compose::node::Map::default()), place));
        }
        if let Some(inner) = map.get_mut(field).and_then(Node::as_map_mut) {
            inner.insert(name, Node::new(Value::Text(value.to_owned()), place));
        }
    }
}

/// Ports, mounts and capabilities of the flags, in the short forms of files.
fn with_lists(service: Service, given: &Parsed) -> Result<Service, Failure> {
    let mut over = String::new();
    for (flags, field) in [
        (["publish", ""], "ports"),
        (["volume", "volumes"], "volumes"),
        (["cap-add", ""], "cap_add"),
        (["cap-drop", ""], "cap_drop"),
    ] {
        let values = flags.into_iter().flat_map(|flag| given.values(flag));
        let values: Vec<String> = values.map(|value| serde_json::to_string(value).unwrap_or_default()).collect();
        if !values.is_empty() {
            over.push_str(&format!("{field}: [{}]\n", values.join(", ")));
        }
    }
    if over.is_empty() {
        return Ok(service);
    }
    let folder = std::env::current_dir().during(|| "cannot find the present folder".to_owned())?;
    let documents = yaml::parse(&over, "command line")?;
    let Some(over) = documents.into_iter().next() else { return Ok(service) };
    Ok(service.overlaid(&over, &folder)?)
}
