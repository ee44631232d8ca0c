//! `insula compose build`: the images of services that are built.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use compose::project::{BuildSpec, Dependencies, ObjectSpec, Project, Service};
use docker_wire::extra::Build;

use super::COMMON;
use super::progress::Show as Board;
use super::stack::{Mode, Stack};
use crate::build::{self as builder, Show, cache};
use crate::context::Context;
use crate::failure::{During as _, Failure, Outcome};
use crate::flags::{Action, Command, Flag, Parsed};
use crate::value::{number, pair};
use crate::{output, terminal};

pub(super) static COMMAND: Command = Command {
    name: "build",
    usage: "[OPTIONS] [SERVICE...]",
    about: "Build services' images",
    flags: &[
        COMMON,
        &[
            Flag::list("build-arg", "NAME[=VALUE]", "Set an argument"),
            Flag::value("builder", "NAME", "Accepted; the daemon builds"),
            Flag::switch("check", "Read the Compose files and Dockerfiles only"),
            Flag::switch("compress", "Accepted; nothing is sent"),
            Flag::switch("force-rm", "Accepted; nothing is left"),
            Flag::value("memory", "BYTES", "Limit each step's memory, as in 512m").short('m'),
            Flag::switch("no-cache", "Do every step anew"),
            Flag::switch("no-rm", "Accepted; nothing is left"),
            Flag::switch("parallel", "Accepted; steps are done side by side"),
            Flag::value("progress", "KIND", "As before the command's name"),
            Flag::value("provenance", "DETAIL", "Attest where images come from: min or max"),
            Flag::switch("pull", "Fetch base images although they are there"),
            Flag::switch("push", "Push what was built"),
            Flag::switch("quiet", "Say nothing but names").short('q'),
            Flag::value("sbom", "IMAGE", "Attest what is in images, as the scanner IMAGE lists it"),
            Flag::list("ssh", "ID[=SOCKET]", "Give an SSH agent to steps"),
            Flag::switch("with-dependencies", "Build what the services need as well"),
        ],
    ],
    arguments: (0, Command::MANY),
    action: Action::Run(build),
    ..Command::BLANK
};

fn build(context: &Context, given: &Parsed) -> Outcome {
    let dependencies = if given.on("with-dependencies") { Dependencies::Included } else { Dependencies::Ignored };
    let mut names = given.arguments.clone();
    add_contexts(given, &mut names)?;
    let stack = Stack::new(context, given, &names, dependencies)?;
    let built: Vec<&Service> = stack.project.services.values().filter(|service| service.spec.build.is_some()).collect();
    if built.is_empty() {
        output::note("no service here is built; add \"build\" to one");
    }
    if given.on("check") {
        for service in &built {
            request(&stack, service, given)?;
        }
        return Ok(0);
    }
    services(&stack, given, &built)?;
    if given.on("push") {
        // an image without a name of its own has nowhere to go
        for service in built.iter().filter(|service| service.spec.image.is_some()) {
            let image = service.image(&stack.project);
            let answer = crate::image::registry::request_push(context, &image)?;
            crate::image::import::each_line(answer, "lost the daemon on the way", |_| {})
                .during(|| format!("cannot push {image}"))?;
            stack.board.done("Image", &image, "Pushed");
        }
    }
    Ok(0)
}

/// Adds the services that those named begin with: `service:NAME` among a build's contexts.
fn add_contexts(given: &Parsed, names: &mut Vec<String>) -> Result<(), Failure> {
    if names.is_empty() {
        return Ok(());
    }
    let project = super::stack::project(given, names)?;
    let mut at = 0;
    while let Some(name) = names.get(at) {
        let service = project.services.get(name).or_else(|| project.disabled.get(name));
        for other in service.map(begins_with).unwrap_or_default() {
            if !names.contains(&other) {
                names.push(other);
            }
        }
        at += 1;
    }
    Ok(())
}

/// The services whose images a service's build begins with.
pub(super) fn begins_with(service: &Service) -> Vec<String> {
    let contexts = service.spec.build.iter().flat_map(|build| build.additional_contexts.values());
    contexts.flatten().filter_map(|context| context.strip_prefix("service:")).map(str::to_owned).collect()
}

/// Builds the images of services, each after those that it begins with.
pub(super) fn services(stack: &Stack, given: &Parsed, services: &[&Service]) -> Result<(), Failure> {
    for service in sorted(services)? {
        let image = service.image(&stack.project);
        let asked = request(stack, service, given)?;
        stack.board.working("Image", &image, "Building");
        stack.board.end();
        if stack.mode == Mode::Real {
            let quiet = given.on("quiet") || given.on("quiet-build") || stack.board.show() == Board::Quiet;
            let show = match stack.board.show() {
                _ if quiet => Show::Quiet,
                Board::Terminal(_) if terminal::is_error() => Show::Terminal,
                // the program that `run` runs has standard output to itself
                _ if stack.board.keeps_out() => Show::Plain,
                _ => Show::PlainOut,
            };
            let id = builder::image(&mut stack.client(), &asked, None, show).map(|made| made.id);
            id.map_err(|failure| {
                stack.board.failed("Image", &image, "Error");
                failure.during(&format!("cannot build service {:?}", service.name))
            })?;
        }
        stack.board.done("Image", &image, "Built");
    }
    stack.board.end();
    Ok(())
}

/// Those first that others name as `service:NAME` among their contexts.
fn sorted<'a>(services: &[&'a Service]) -> Result<Vec<&'a Service>, Failure> {
    let mut left: Vec<&Service> = services.to_vec();
    let mut done: BTreeSet<&str> = BTreeSet::new();
    let mut sorted = Vec::new();
    while !left.is_empty() {
        let names: Vec<&str> = left.iter().map(|service| service.name.as_str()).collect();
        let waits = |service: &&Service| {
            let contexts = service.spec.build.iter().flat_map(|build| build.additional_contexts.values());
            contexts
                .flatten()
                .filter_map(|context| context.strip_prefix("service:"))
                .any(|name| names.contains(&name) && !done.contains(name))
        };
        let (later, now): (Vec<&Service>, Vec<&Service>) = left.iter().partition(|service| waits(service));
        if now.is_empty() {
            return Err(Failure::new(format!("builds begin with each other in a circle: {}", names.join(", "))));
        }
        done.extend(now.iter().map(|service| service.name.as_str()));
        sorted.extend(now);
        left = later;
    }
    Ok(sorted)
}

/// What the daemon is asked to build.
fn request(stack: &Stack, service: &Service, given: &Parsed) -> Result<Build, Failure> {
    let project = &stack.project;
    let Some(spec) = &service.spec.build else {
        return Err(Failure::new(format!("service {:?} is not built", service.name)));
    };
    let at = |what: &str, why: String| Failure::new(format!("services.{}.build.{what}: {why}", service.name));
    warn_of_the_rest(service, spec);
    let pairs = |pairs: &compose::project::Pairs| -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| (name.clone(), value.clone().unwrap_or_default())).collect()
    };
    let mut arguments = pairs(&spec.args);
    for text in given.values("build-arg") {
        let lookup = |name: &str| project.environment.get(name).cloned();
        if let Some(variable) = pair::variable(text, &lookup).map_err(Failure::new)? {
            let (name, value) = variable.split_once('=').unwrap_or((&variable, ""));
            arguments.insert(name.to_owned(), value.to_owned());
        }
    }
    let mut labels = pairs(&spec.labels);
    labels.insert(compose::create::label::PROJECT.to_owned(), project.name.clone());
    labels.insert(compose::create::label::SERVICE.to_owned(), service.name.clone());
    let mut tags = vec![service.image(project)];
    tags.extend(spec.tags.iter().cloned());
    let platform = platform(project, service, spec)?;
    let mut agents = BTreeMap::new();
    for text in spec.ssh.iter().map(String::as_str).chain(given.values("ssh")) {
        let (id, socket) = builder::agent(text).map_err(|why| at("ssh", why))?;
        agents.insert(id, socket);
    }
    let limits = spec.ulimits.iter().map(|(name, limit)| {
        let (soft, hard) = limit.both();
        format!("{name}={soft}:{hard}")
    });
    let mut asked = Build {
        tags,
        arguments,
        labels,
        platform,
        target: spec.target.clone(),
        no_cache: spec.no_cache || given.on("no-cache"),
        pull: spec.pull || (given.on("pull") && given.value("pull") == Some("true")),
        provenance: attested(given, "provenance", "min"),
        sbom: attested(given, "sbom", SCANNER),
        network: spec.network.clone(),
        memory_bytes: given.read("memory", number::bytes)?,
        shm_bytes: spec.shm_size.and_then(|size| u64::try_from(size).ok()),
        ulimits: limits.collect(),
        extra_hosts: spec.extra_hosts.iter().map(|host| host.replacen('=', ":", 1)).collect(),
        secrets: secrets(project, service, spec)?,
        ssh: agents,
        allow: allowed(spec),
        cache_from: each(&spec.cache_from, cache::source).map_err(|why| at("cache_from", why))?,
        cache_to: each(&spec.cache_to, cache::target).map_err(|why| at("cache_to", why))?,
        epoch: project.environment.get("SOURCE_DATE_EPOCH").and_then(|text| text.trim().parse().ok()),
        ..Build::default()
    };
    locate(spec, &mut asked).during(|| format!("services.{}.build", service.name))?;
    contexts(stack, service, spec, &mut asked)?;
    Ok(asked)
}

/// The scanner that BuildKit takes where none is named.
const SCANNER: &str = "docker/buildkit-syft-scanner:stable-1";

/// What is to be attested: `true` asks for the usual.
fn attested(given: &Parsed, flag: &'static str, usual: &str) -> Option<String> {
    match given.value(flag)? {
        "false" | "0" | "" => None,
        "true" | "1" => Some(usual.to_owned()),
        other => Some(other.strip_prefix("mode=").unwrap_or(other).to_owned()),
    }
}

/// What is built for: the service's own platform, or all that the build names, with commas between them.
fn platform(project: &Project, service: &Service, spec: &BuildSpec) -> Result<Option<String>, Failure> {
    let at = |what: &str, why: String| Failure::new(format!("services.{}.build.{what}: {why}", service.name));
    let listed = |platform: &String| spec.platforms.is_empty() || spec.platforms.contains(platform);
    let default = project.environment.get("DOCKER_DEFAULT_PLATFORM").filter(|platform| !platform.is_empty());
    if let Some(platform) = service.spec.platform.as_ref().filter(|platform| !listed(platform)) {
        return Err(at("platforms", format!("service.build.platforms MUST include service.platform {platform:?}")));
    }
    if let Some(platform) = default.filter(|platform| !listed(platform)) {
        return Err(Failure::new(format!(
            "service {:?} build.platforms does not support value set by DOCKER_DEFAULT_PLATFORM: {platform}",
            service.name
        )));
    }
    match (spec.platforms.as_slice(), service.spec.platform.as_ref().or(default)) {
        (_, Some(platform)) => Ok(Some(platform.clone())),
        ([], None) => Ok(None),
        (several, None) => Ok(Some(several.join(","))),
    }
}

fn each<T>(texts: &[String], read: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    texts.iter().map(|text| read(text)).collect()
}

fn warn_of_the_rest(service: &Service, spec: &BuildSpec) {
    if spec.isolation.as_deref().is_some_and(|kind| kind != "default") {
        output::note(&format!(
            "warning: services.{}.build.isolation exists on Windows only and is not used",
            service.name
        ));
    }
}

fn allowed(spec: &BuildSpec) -> Vec<String> {
    let mut allowed = spec.entitlements.clone();
    if spec.privileged && !allowed.iter().any(|right| right == "security.insecure") {
        allowed.push("security.insecure".to_owned());
    }
    if spec.network.as_deref() == Some("host") && !allowed.iter().any(|right| right == "network.host") {
        allowed.push("network.host".to_owned());
    }
    allowed
}

fn secrets(project: &Project, service: &Service, spec: &BuildSpec) -> Result<BTreeMap<String, Vec<u8>>, Failure> {
    let mut secrets = BTreeMap::new();
    for reference in &spec.secrets {
        let Some(object) = project.secrets.get(&reference.source) else { continue };
        let id = reference.target.as_ref().unwrap_or(&reference.source).clone();
        let content = match &object.spec {
            ObjectSpec { file: Some(file), .. } => {
                fs::read(file).during(|| format!("cannot read the secret {id:?} from {file}"))?
            }
            ObjectSpec { environment: Some(name), .. } => match project.variable_of_object(name) {
                Some(value) => value.clone().into_bytes(),
                None => {
                    return Err(Failure::new(format!(
                        "the secret {id:?} of service {:?} needs the variable {name}; set it",
                        service.name
                    )));
                }
            },
            _ => {
                return Err(Failure::new(format!(
                    "the secret {id:?} of service {:?} has neither file nor variable",
                    service.name
                )));
            }
        };
        secrets.insert(id, content);
    }
    Ok(secrets)
}

/// Where context and Dockerfile are.
fn locate(spec: &BuildSpec, asked: &mut Build) -> Result<(), Failure> {
    let file = spec.dockerfile.as_deref().unwrap_or("Dockerfile");
    asked.text = spec.dockerfile_inline.clone();
    if spec.context.contains("://") || spec.context.starts_with("git@") || spec.context.starts_with("github.com/") {
        asked.remote = Some(spec.context.clone());
        file.clone_into(&mut asked.dockerfile);
        return Ok(());
    }
    let folder = Path::new(&spec.context);
    asked.folder = Some(builder::shared(folder)?);
    if asked.text.is_some() {
        "Dockerfile".clone_into(&mut asked.dockerfile);
        return Ok(());
    }
    let path = folder.join(file);
    let whole = fs::canonicalize(&path)
        .during(|| format!("cannot read the Dockerfile {}; name it under \"dockerfile\"", path.display()))?;
    asked.dockerfile = whole.display().to_string();
    Ok(())
}

/// Images that the Dockerfile knows by names of the file become stages before its first one.
fn contexts(stack: &Stack, service: &Service, spec: &BuildSpec, asked: &mut Build) -> Result<(), Failure> {
    let mut stages = String::new();
    for (name, context) in &spec.additional_contexts {
        let context = context.as_deref().unwrap_or_default();
        let image = match (context.strip_prefix("docker-image://"), context.strip_prefix("service:")) {
            (Some(image), _) => image.to_owned(),
            (None, Some(other)) => {
                match stack.project.services.get(other).or_else(|| stack.project.disabled.get(other)) {
                    Some(other) => other.image(&stack.project),
                    None => {
                        return Err(Failure::new(format!(
                            "services.{}.build.additional_contexts.{name}: there is no service {other:?}",
                            service.name
                        )));
                    }
                }
            }
            (None, None) => {
                return Err(Failure::new(format!(
                    "services.{}.build.additional_contexts.{name}: {context:?} is neither docker-image://IMAGE nor service:NAME; put the folder below the context, or make it an image of its own",
                    service.name
                )));
            }
        };
        stages.push_str(&format!("FROM {image} AS {name}\n"));
    }
    if stages.is_empty() {
        return Ok(());
    }
    if asked.remote.is_some() {
        return Err(Failure::new(format!(
            "services.{}.build.additional_contexts does not go with a context in the network",
            service.name
        )));
    }
    let text = match asked.text.take() {
        Some(text) => text,
        None => fs::read_to_string(&asked.dockerfile)
            .during(|| format!("cannot read the Dockerfile {}", asked.dockerfile))?,
    };
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let word = line.split_whitespace().next().unwrap_or_default();
        if word.eq_ignore_ascii_case("FROM") {
            break;
        }
        at += line.len();
    }
    let (before, after) = text.split_at(at);
    asked.text = Some(format!("{before}{stages}{after}"));
    "Dockerfile".clone_into(&mut asked.dockerfile);
    Ok(())
}
