//! Commands about docker's contexts.

use std::path::Path;

use serde_json::{Value, json};

use super::endpoint::{Endpoint, Trust};
use super::store::{DEFAULT, Store, Stored};
use super::{Context, absolute};
use crate::failure::{During as _, Failure, Outcome};
use crate::flags::{Action, Command, Flag, Parsed};
use crate::{output, table};

pub(crate) static GROUP: Command = Command {
    name: "context",
    usage: "COMMAND",
    about: "Commands about docker's contexts: where daemons are",
    action: Action::Group(&[&CREATE, &INSPECT, &LS, &RM, &SHOW, &USE]),
    ..Command::BLANK
};

static CREATE: Command = Command {
    name: "create",
    usage: "[OPTIONS] CONTEXT",
    about: "Keep where a daemon is",
    flags: &[&[
        Flag::value("description", "TEXT", "What it is"),
        Flag::list("docker", "KEY=VALUE,...", "host=, and for TLS ca=, cert=, key= (files) and skip-tls-verify="),
        Flag::value("from", "CONTEXT", "Another one whose place it takes over"),
    ]],
    arguments: (1, 1),
    action: Action::Run(create),
    ..Command::BLANK
};

static INSPECT: Command = Command {
    name: "inspect",
    usage: "[OPTIONS] [CONTEXT...]",
    about: "Show all of contexts, by default of the current one",
    flags: &[&[Flag::value("format", "TEMPLATE", "A Go template").short('f')]],
    arguments: (0, Command::MANY),
    action: Action::Run(inspect),
    ..Command::BLANK
};

static LS: Command = Command {
    name: "ls",
    aliases: &["list"],
    usage: "[OPTIONS]",
    about: "List contexts",
    flags: &[&[
        Flag::value("format", "TEMPLATE", "table, json or a Go template"),
        Flag::switch("quiet", "Only names").short('q'),
    ]],
    action: Action::Run(list),
    ..Command::BLANK
};

static RM: Command = Command {
    name: "rm",
    aliases: &["remove"],
    usage: "[OPTIONS] CONTEXT...",
    about: "Forget contexts",
    flags: &[&[Flag::switch("force", "Also the current one").short('f')]],
    arguments: (1, Command::MANY),
    action: Action::Run(remove),
    ..Command::BLANK
};

static SHOW: Command =
    Command { name: "show", about: "Print the current context's name", action: Action::Run(show), ..Command::BLANK };

static USE: Command = Command {
    name: "use",
    usage: "CONTEXT",
    about: "Make a context the current one",
    arguments: (1, 1),
    action: Action::Run(take),
    ..Command::BLANK
};

fn store(context: &Context) -> Result<&Store, Failure> {
    context.store.as_ref().ok_or_else(|| Failure::new("contexts need a folder: set HOME or DOCKER_CONFIG"))
}

/// A name that docker takes, too.
fn checked(name: &str) -> Result<&str, Failure> {
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if name == DEFAULT {
        return Err(Failure::new("default is a reserved context name"));
    }
    if first && name.len() > 1 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.+-".contains(&byte)) {
        return Ok(name);
    }
    let text = format!(
        "context name {name:?} is invalid, names are validated against regexp \"^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$\""
    );
    Err(Failure::new(text))
}

/// What `--docker` says.
#[derive(Debug, Default)]
struct Place {
    host: Option<String>,
    from: Option<String>,
    /// The files of the TLS material by the names that they get.
    files: Vec<(&'static str, String)>,
    trust: Trust,
}

impl Place {
    fn read<'a>(given: impl Iterator<Item = &'a str>) -> Result<Self, Failure> {
        let mut place = Self::default();
        for pair in given.flat_map(|list| list.split(',')).filter(|pair| !pair.is_empty()) {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| Failure::new(format!("bad --docker {pair:?}; give it as key=value")))?;
            match key {
                "host" => place.host = Some(value.to_owned()),
                "from" => place.from = Some(value.to_owned()),
                "ca" => place.files.push(("ca.pem", value.to_owned())),
                "cert" => place.files.push(("cert.pem", value.to_owned())),
                "key" => place.files.push(("key.pem", value.to_owned())),
                "skip-tls-verify" if matches!(value, "true" | "1") => place.trust = Trust::Anybody,
                "skip-tls-verify" => {}
                other => return Err(Failure::new(format!("unrecognized config key: {other}"))),
            }
        }
        Ok(place)
    }
}

fn create(context: &Context, given: &Parsed) -> Outcome {
    let store = store(context)?;
    let name = checked(given.arguments.first().map_or("", String::as_str))?;
    if store.find(name).is_ok() {
        return Err(Failure::new(format!("context {name:?} already exists")));
    }
    let place = Place::read(given.values("docker"))?;
    let description = given.value("description").unwrap_or_default();
    let from = given.value("from").map(str::to_owned).or(place.from);
    let read = |path: &Path| std::fs::read(path).during(|| path.display().to_string());
    let (stored, material) = match from.as_deref().filter(|from| *from != DEFAULT) {
        Some(from) => {
            let folder = store.tls(from).join("docker");
            let files = store.material(from).into_iter().map(|file| Ok((file, read(&folder.join(file))?)));
            let mut stored = store.find(from)?;
            name.clone_into(&mut stored.name);
            stored.record["Name"] = json!(name);
            if !description.is_empty() {
                stored.record["Metadata"]["Description"] = json!(description);
            }
            (stored, files.collect::<Result<Vec<_>, Failure>>()?)
        }
        None => {
            let host = place.host.or_else(|| from.is_some().then(|| shown_host(context)));
            let host =
                host.ok_or_else(|| Failure::new("docker endpoint configuration is required: --docker host=..."))?;
            Endpoint::parse(&host, None)?;
            let files = place.files.iter().map(|(file, path)| Ok((*file, read(&absolute(Path::new(path)))?)));
            (Stored::new(name, description, &host, place.trust), files.collect::<Result<Vec<_>, Failure>>()?)
        }
    };
    store.save(&stored, &material)?;
    output::line(name);
    output::note(&format!("Successfully created context {name:?}"));
    Ok(0)
}

/// Where the present daemon is, as contexts write it.
fn shown_host(context: &Context) -> String {
    match context.endpoint.socket() {
        Some(path) => format!("unix://{}", path.display()),
        None => context.endpoint.to_string(),
    }
}

fn list(context: &Context, given: &Parsed) -> Outcome {
    let all = context.store.as_ref().map(Store::all).unwrap_or_default();
    let here = Stored::new(DEFAULT, "The environment and the defaults", &default_host(context), Trust::Verified);
    let all: Vec<Stored> = std::iter::once(here).chain(all).collect();
    if given.on("quiet") {
        all.iter().for_each(|stored| output::line(&stored.name));
        return Ok(0);
    }
    let row = |stored: &Stored| {
        let current = stored.name == context.name;
        json!({
            "Name": stored.name, "Shown": format!("{}{}", stored.name, if current { " *" } else { "" }), "Current": current,
            "Description": stored.description(), "DockerEndpoint": stored.host(), "Error": "", "ContextType": "moby",
        })
    };
    let columns: [table::Column; 4] =
        [("Shown", "NAME"), ("Description", "DESCRIPTION"), ("DockerEndpoint", "DOCKER ENDPOINT"), ("Error", "ERROR")];
    let rows: Vec<Value> = all.iter().map(row).collect();
    table::list(
        &columns,
        "{{.Shown}}\t{{.Description}}\t{{.DockerEndpoint}}\t{{.Error}}",
        &rows,
        given.value("format"),
    )?;
    Ok(0)
}

/// Where `default` leads: to where we talk now, unless a context says so.
fn default_host(context: &Context) -> String {
    if context.name == DEFAULT {
        shown_host(context)
    } else {
        format!("unix://{}", context.run.join("docker.sock").display())
    }
}

fn inspect(context: &Context, given: &Parsed) -> Outcome {
    let current = [context.name.clone()];
    let names = if given.arguments.is_empty() { &current[..] } else { &given.arguments };
    let show = |name: &String| {
        if name == DEFAULT {
            let mut record = Stored::new(DEFAULT, "", &default_host(context), Trust::Verified).record;
            record["TLSMaterial"] = json!({});
            record["Storage"] = json!({ "MetadataPath": "<IN MEMORY>", "TLSPath": "<IN MEMORY>" });
            return Ok(record);
        }
        let store = store(context)?;
        let mut record = store.find(name)?.record;
        let files = store.material(name);
        record["TLSMaterial"] = if files.is_empty() { json!({}) } else { json!({ "docker": files }) };
        record["Storage"] = json!({ "MetadataPath": store.meta(name), "TLSPath": store.tls(name) });
        Ok(record)
    };
    let all = names.iter().map(show).collect::<Result<Vec<Value>, Failure>>()?;
    match given.value("format").filter(|format| *format != "json") {
        Some(format) => {
            let template = crate::template::Template::parse(format).map_err(Failure::new)?;
            for one in &all {
                output::line(&template.fill(one).map_err(Failure::new)?);
            }
        }
        None => output::line(&serde_json::to_string_pretty(&all)?),
    }
    Ok(0)
}

fn remove(context: &Context, given: &Parsed) -> Outcome {
    let store = store(context)?;
    for name in &given.arguments {
        if name == DEFAULT {
            return Err(Failure::new("default: context \"default\" cannot be removed"));
        }
        store.find(name)?;
        let current = store.current().as_ref() == Some(name);
        if current && !given.on("force") {
            let text = format!("{name}: context {name:?} is in use, set -f flag to force remove");
            return Err(Failure::new(text));
        }
        if current {
            store.set_current(None)?;
        }
        store.remove(name)?;
        output::line(name);
    }
    Ok(0)
}

fn show(context: &Context, _: &Parsed) -> Outcome {
    output::line(&context.name);
    Ok(0)
}

fn take(context: &Context, given: &Parsed) -> Outcome {
    let store = store(context)?;
    let name = given.arguments.first().map_or("", String::as_str);
    if name != DEFAULT {
        store.find(name)?;
    }
    store.set_current(Some(name).filter(|name| *name != DEFAULT))?;
    output::line(name);
    output::note(&format!("Current context is now {name:?}"));
    for variable in ["INSULA_HOST", "DOCKER_HOST"] {
        if std::env::var_os(variable).is_some_and(|value| !value.is_empty()) {
            output::note(&format!(
                "Warning: {variable} is set, and counts more than the context; unset it to use {name:?}"
            ));
        }
    }
    Ok(0)
}
