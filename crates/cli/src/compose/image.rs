//! The images of services: found, pulled or built; and `insula compose pull`, `push` and `images`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use compose::project::{Dependencies, Service};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::progress::Stage;
use super::resource::find;
use super::stack::{Kind, Mode, Stack};
use super::{COMMON, build};
use crate::client::encode;
use crate::container::ps::short_id;
use crate::context::Context;
use crate::failure::{During as _, Failure, Outcome};
use crate::flags::{Action, Command, Flag, Parsed};
use crate::image::registry;
use crate::value::time;
use crate::{output, table};

pub(super) static PULL: Command = Command {
    name: "pull",
    usage: "[OPTIONS] [SERVICE...]",
    about: "Pull services' images",
    flags: &[
        COMMON,
        &[
            Flag::switch("ignore-buildable", "Leave out what can be built"),
            Flag::switch("ignore-pull-failures", "Go on with the others"),
            Flag::switch("include-deps", "Pull what the services need as well"),
            Flag::switch("no-parallel", "Accepted; `--parallel 1` before the command's name does it"),
            Flag::switch("parallel", "Accepted; it is done so"),
            Flag::value("policy", "WHEN", "When to pull: missing or always"),
            Flag::switch("quiet", "Show no progress").short('q'),
        ],
    ],
    arguments: (0, Command::MANY),
    action: Action::Run(pull),
    ..Command::BLANK
};

pub(super) static PUSH: Command = Command {
    name: "push",
    usage: "[OPTIONS] [SERVICE...]",
    about: "Push the images of services that are built",
    flags: &[
        COMMON,
        &[
            Flag::switch("ignore-push-failures", "Go on with the others"),
            Flag::switch("include-deps", "Push what the services need as well"),
            Flag::switch("quiet", "Show no progress").short('q'),
        ],
    ],
    arguments: (0, Command::MANY),
    action: Action::Run(push),
    ..Command::BLANK
};

pub(super) static IMAGES: Command = Command {
    name: "images",
    usage: "[OPTIONS] [SERVICE...]",
    about: "List the images of the project's containers",
    flags: &[COMMON, &[Flag::value("format", "FORM", "table or json"), Flag::switch("quiet", "Ids only").short('q')]],
    arguments: (0, Command::MANY),
    action: Action::Run(images),
    ..Command::BLANK
};

/// Whether images are built that are there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Builds {
    /// Where an image is missing.
    Missing,
    Always,
    Never,
}

impl Builds {
    pub(super) fn of(given: &Parsed) -> Result<Self, Failure> {
        match (given.on("build"), given.on("no-build")) {
            (true, true) => Err(Failure::new("--build does not go with --no-build; give one or the other")),
            (true, false) => Ok(Self::Always),
            (false, true) => Ok(Self::Never),
            (false, false) => Ok(Self::Missing),
        }
    }
}

/// The id of an image.
fn id_of(stack: &Stack, name: &str) -> Result<Option<Value>, Failure> {
    find(&mut stack.client(), &format!("/images/{}/json", encode(name)))
}

/// When an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    Always,
    Missing,
    Never,
    Build,
    /// If the last time is so many nanoseconds ago.
    After(i64),
}

fn policy(service: &Service, asked: Option<&str>) -> Result<Policy, Failure> {
    let text = asked.filter(|asked| *asked != "policy").or(service.spec.pull_policy.as_deref()).unwrap_or("missing");
    let day = 86_400_000_000_000;
    Ok(match text {
        "always" => Policy::Always,
        "missing" | "if_not_present" | "refresh" | "" => Policy::Missing,
        "never" => Policy::Never,
        "build" => Policy::Build,
        "daily" => Policy::After(day),
        "weekly" => Policy::After(7 * day),
        other => match other.strip_prefix("every_").map(compose::unit::span) {
            Some(Ok(span)) => Policy::After(span),
            _ => {
                return Err(Failure::new(format!(
                    "bad value {other:?} for --pull: give always, missing, never or build"
                )));
            }
        },
    })
}

/// Whether an image was last tagged or pulled longer ago than `span` nanoseconds.
fn is_old(image: &Value, span: i64) -> bool {
    let last = table::text(image, "/Metadata/LastTagTime").parse::<Timestamp>();
    last.is_ok_and(|last| (Timestamp::now().as_nanosecond() - last.as_nanosecond()) > i128::from(span))
}

/// Makes sure that every service's image is there; the ids by service.
pub(super) fn ensure(stack: &Stack, given: &Parsed, builds: Builds) -> Result<BTreeMap<String, String>, Failure> {
    let services: Vec<&Service> =
        stack.project.services.values().filter(|service| service.spec.provider.is_none()).collect();
    let asked = given.value("pull");
    let (mut built, mut pulled): (Vec<&Service>, Vec<&Service>) = (Vec::new(), Vec::new());
    // what one service builds, another may use without a registry that has it
    let is_built = |image: &Option<String>| {
        builds != Builds::Never
            && services.iter().any(|other| other.spec.build.is_some() && image.is_some() && other.spec.image == *image)
    };
    for service in &services {
        if service.spec.build.is_none() && is_built(&service.spec.image) {
            continue;
        }
        let policy = policy(service, asked)?;
        let found = id_of(stack, &service.image(&stack.project))?;
        let can_build = service.spec.build.is_some() && builds != Builds::Never;
        let wants_pull = match (policy, &found) {
            (Policy::Always, _) | (Policy::Missing, None) => true,
            (Policy::After(span), Some(image)) => is_old(image, span),
            (Policy::After(_), None) => true,
            _ => false,
        };
        if can_build
            && (builds == Builds::Always
                || policy == Policy::Build
                || (found.is_none() && !(policy == Policy::Always && service.spec.image.is_some())))
        {
            built.push(service);
        } else if wants_pull
            && service.spec.image.is_some()
            && !pulled.iter().any(|other| other.spec.image == service.spec.image)
        {
            pulled.push(service);
        } else if found.is_none() && !pulled.iter().any(|other| other.spec.image == service.spec.image) {
            let image = service.image(&stack.project);
            let hint =
                if service.spec.build.is_some() { "leave --no-build out" } else { "pull it, or change pull_policy" };
            return Err(Failure::new(format!(
                "no image {image:?} here, which service {:?} needs; {hint}",
                service.name
            )));
        }
    }
    add_bases(stack, builds, &mut built)?;
    let quiet = given.on("quiet-pull") || given.on("quiet");
    stack.each(&pulled, |service| pull_one(stack, service, quiet))?;
    build::services(stack, given, &built)?;
    let mut ids = BTreeMap::new();
    for service in services {
        let image = id_of(stack, &service.image(&stack.project))?;
        let id = image.map(|image| table::text(&image, "/Id").to_owned()).unwrap_or_default();
        if id.is_empty() && stack.mode == Mode::Real {
            return Err(Failure::new(format!("the image of service {:?} is gone again", service.name)));
        }
        ids.insert(service.name.clone(), id);
    }
    Ok(ids)
}

/// Adds the services whose images others begin with.
fn add_bases<'a>(stack: &'a Stack, builds: Builds, built: &mut Vec<&'a Service>) -> Result<(), Failure> {
    let mut at = 0;
    while let Some(service) = built.get(at) {
        for name in build::begins_with(service) {
            let other = stack.project.services.get(&name).or_else(|| stack.project.disabled.get(&name));
            let Some(other) = other.filter(|other| other.spec.build.is_some()) else { continue };
            let known = built.iter().any(|service| service.name == name);
            if !known && (builds == Builds::Always || id_of(stack, &other.image(&stack.project))?.is_none()) {
                built.push(other);
            }
        }
        at += 1;
    }
    Ok(())
}

fn pull_one(stack: &Stack, service: &Service, quiet: bool) -> Result<(), Failure> {
    let (image, name) = (service.image(&stack.project), &service.name);
    stack.board.pulling(name, "Pulling", Stage::Working);
    if stack.mode == Mode::Real {
        let pulled =
            registry::request_pull(&stack.context, &image, service.spec.platform.as_deref()).and_then(|answer| {
                crate::image::import::each_line(answer, "lost the daemon on the way", |value| {
                    let (status, bar) = (table::text(value, "/status"), table::text(value, "/progress"));
                    if !quiet && !status.is_empty() && matches!(stack.board.show(), super::progress::Show::Terminal(_))
                    {
                        let short: String = format!("{status} {bar}").chars().take(60).collect();
                        stack.board.pulling(name, &short, Stage::Working);
                    }
                })
            });
        if let Err(failure) = pulled {
            let word = if service.spec.build.is_some() { "Warning" } else { "Error" };
            stack.board.pulling(name, word, Stage::Failed);
            return Err(failure.during(&format!("cannot pull {image} for service {name:?}")));
        }
    }
    stack.board.pulling(name, "Pulled", Stage::Done);
    Ok(())
}

fn dependencies(given: &Parsed) -> Dependencies {
    if given.on("include-deps") { Dependencies::Included } else { Dependencies::Ignored }
}

fn pull(context: &Context, given: &Parsed) -> Outcome {
    let stack = Stack::new(context, given, &given.arguments, dependencies(given))?;
    let mut names: BTreeMap<String, &str> = BTreeMap::new();
    let mut wanted = Vec::new();
    for service in stack.project.services.values().filter(|service| service.spec.provider.is_none()) {
        if let Some(why) = skipped(&stack, given, service)? {
            stack.board.pulling(&service.name, why, Stage::Done);
            continue;
        }
        let image = service.image(&stack.project);
        if let Some(other) = names.get(&image) {
            let why = format!("Skipped - Image is already being pulled by {other}");
            stack.board.pulling(&service.name, &why, Stage::Done);
            continue;
        }
        names.insert(image, &service.name);
        wanted.push(service);
    }
    let unbuilt = Mutex::new(Vec::new());
    let pulled = stack.each(&wanted, |service| match pull_one(&stack, service, given.on("quiet")) {
        Err(failure) if service.spec.build.is_some() => {
            // it can be had without a registry
            unbuilt.lock().unwrap_or_else(PoisonError::into_inner).push(service.name.clone());
            stack.board.note(&format!("warning: {}", failure.text()));
            Ok(())
        }
        Err(failure) if given.on("ignore-pull-failures") => {
            stack.board.note(&format!("warning: {}", failure.text()));
            Ok(())
        }
        other => other,
    });
    let unbuilt = unbuilt.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !unbuilt.is_empty() {
        stack.board.note(&format!(
            "WARNING: Some service image(s) must be built from source by running:\n    insula compose build {}",
            unbuilt.join(" ")
        ));
    }
    pulled?;
    Ok(0)
}

/// Why a service's image is not pulled.
fn skipped(stack: &Stack, given: &Parsed, service: &Service) -> Result<Option<&'static str>, Failure> {
    let Some(image) = &service.spec.image else { return Ok(Some("Skipped - No image to be pulled")) };
    let policy = given.value("policy").or(service.spec.pull_policy.as_deref());
    match policy {
        Some("never" | "build") => return Ok(Some("Skipped")),
        // what the tag "latest" means may change at any time
        Some("missing" | "if_not_present")
            if crate::image::split_tag(image).1.unwrap_or("latest") != "latest" && id_of(stack, image)?.is_some() =>
        {
            return Ok(Some("Skipped - Image is already present locally"));
        }
        _ => {}
    }
    let buildable = service.spec.build.is_some() && given.on("ignore-buildable");
    Ok(buildable.then_some("Skipped - Image can be built"))
}

fn push(context: &Context, given: &Parsed) -> Outcome {
    let stack = Stack::new(context, given, &given.arguments, dependencies(given))?;
    let built: Vec<&Service> = stack.project.services.values().filter(|service| service.spec.build.is_some()).collect();
    stack.each(&built, |service| {
        let Some(image) = &service.spec.image else {
            let text =
                format!("service {:?} has no \"image\", so that nobody knows where to push; name one", service.name);
            return if given.on("ignore-push-failures") { Ok(()) } else { Err(Failure::new(text)) };
        };
        stack.board.working("Image", image, "Pushing");
        let pushed = if stack.mode == Mode::DryRun {
            Ok(())
        } else {
            let answer = registry::request_push(&stack.context, image);
            answer.and_then(|answer| crate::image::import::each_line(answer, "lost the daemon on the way", |_| {}))
        };
        match pushed {
            Err(failure) => {
                stack.board.failed("Image", image, "Error");
                if given.on("ignore-push-failures") {
                    Ok(())
                } else {
                    Err(failure).during(|| format!("cannot push {image}"))
                }
            }
            Ok(()) => {
                stack.board.done("Image", image, "Pushed");
                Ok(())
            }
        }
    })?;
    Ok(0)
}

fn images(context: &Context, given: &Parsed) -> Outcome {
    let stack = Stack::found(context, given, &given.arguments)?;
    let mut client = stack.client();
    let now = Timestamp::now().as_second();
    let (mut rows, mut lines, mut ids) = (Vec::new(), Vec::new(), BTreeSet::new());
    for member in stack.members_of(&given.arguments, Kind::All)? {
        let id = table::text(&member.listed, "/ImageID");
        let image = find(&mut client, &format!("/images/{}/json", encode(id)))?.unwrap_or(Value::Null);
        let name = table::text(&member.listed, "/Image").to_owned();
        let (repository, tag) = crate::image::split_tag(&name);
        let repository = if name.starts_with("sha256:") { "<none>" } else { repository };
        let platform = format!("{}/{}", table::text(&image, "/Os"), table::text(&image, "/Architecture"));
        let size = table::number(&image, "/Size");
        ids.insert(id.to_owned());
        rows.push(
            json!({"ID": id, "ContainerName": member.name, "Repository": repository, "Tag": tag.unwrap_or("latest"),
            "Platform": platform, "Size": size, "Created": table::text(&image, "/Created")}),
        );
        let created = table::text(&image, "/Created").parse::<Timestamp>().map(Timestamp::as_second).unwrap_or(now);
        lines.push(vec![
            member.name.clone(),
            repository.to_owned(),
            tag.unwrap_or("latest").to_owned(),
            platform,
            short_id(id),
            table::decimal_size(size, 3),
            format!("{} ago", time::in_words(now - created)),
        ]);
    }
    if given.on("quiet") {
        ids.iter().for_each(|id| output::line(id.strip_prefix("sha256:").unwrap_or(id)));
    } else if given.value("format") == Some("json") {
        output::line(&serde_json::to_string(&rows)?);
    } else {
        let titles = ["CONTAINER", "REPOSITORY", "TAG", "PLATFORM", "IMAGE ID", "SIZE", "CREATED"];
        lines.insert(0, titles.iter().map(|title| (*title).to_owned()).collect());
        output::print(&table::align(&lines));
    }
    Ok(0)
}
