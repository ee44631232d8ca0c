//! `insula pull`, `push`, `search`, `login`, `logout` and `manifest inspect`.

use std::io::{BufRead as _, Write as _};
use std::process::{Command as Program, Stdio};

use serde_json::{Value, json};

use crate::client::{Answer, Client, Query, encode, filters};
use crate::context::Context;
use crate::failure::{During as _, Failure, Outcome};
use crate::flags::{Action, Command, Flag, Parsed};
use crate::image::split_tag;
use crate::table::{self, Column};
use crate::{daemon, output, terminal};

/// What docker's hub is called in image names.
const HUB: &str = "docker.io";

static PULL_FLAGS: &[Flag] = &[
    Flag::switch("all-tags", "All tags of the repository").short('a'),
    Flag::value("platform", "OS/ARCH", "The image for this platform, as in linux/arm64"),
    Flag::switch("quiet", "Say nothing but the image's name").short('q'),
    Flag::value("verify", "FILE", "Only if it was signed with this public key, as cosign does it"),
];

pub(crate) static PULL: Command = Command {
    name: "pull",
    usage: "[OPTIONS] NAME[:TAG|@DIGEST]",
    about: "Fetch an image from a registry",
    flags: &[PULL_FLAGS],
    arguments: (1, 1),
    action: Action::Run(pull),
    ..Command::BLANK
};

pub(crate) static PUSH: Command = Command {
    name: "push",
    usage: "[OPTIONS] NAME[:TAG]",
    about: "Send an image to its registry",
    flags: &[&[
        Flag::switch("all-tags", "All tags of the repository").short('a'),
        super::archive::PLATFORM,
        Flag::switch("quiet", "Say nothing but the image's name").short('q'),
    ]],
    arguments: (1, 1),
    action: Action::Run(push),
    ..Command::BLANK
};

pub(crate) static SEARCH: Command = Command {
    name: "search",
    usage: "[OPTIONS] [REGISTRY/]TERM",
    about: "Search a registry for images",
    flags: &[&[
        Flag::list("filter", "NAME=VALUE", "Only those with this: stars=, is-official=, is-automated=").short('f'),
        Flag::value("format", "TEMPLATE", "Show as a template says: 'table …', '{{.Name}}' or json"),
        Flag::value("limit", "N", "At most so many (25)"),
        Flag::switch("no-trunc", "Shorten nothing"),
    ]],
    arguments: (1, 1),
    action: Action::Run(search),
    ..Command::BLANK
};

pub(crate) static LOGIN: Command = Command {
    name: "login",
    usage: "[OPTIONS] [REGISTRY]",
    about: "Prove who you are at a registry, and remember it",
    flags: &[&[
        Flag::value("password", "TEXT", "The password, for all to see; better: --password-stdin").short('p'),
        Flag::switch("password-stdin", "Read the password from standard input"),
        Flag::value("username", "NAME", "The user").short('u'),
    ]],
    arguments: (0, 1),
    action: Action::Run(login),
    ..Command::BLANK
};

pub(crate) static LOGOUT: Command = Command {
    name: "logout",
    usage: "[REGISTRY]",
    about: "Forget who you are at a registry",
    arguments: (0, 1),
    action: Action::Run(logout),
    ..Command::BLANK
};

pub(crate) static MANIFEST: Command = Command {
    name: "manifest",
    usage: "COMMAND",
    about: "Commands about manifests in registries",
    action: Action::Group(&[&INSPECT]),
    ..Command::BLANK
};

static INSPECT: Command = Command {
    name: "inspect",
    usage: "NAME[:TAG|@DIGEST]",
    about: "Show the manifest that a registry has under a name",
    arguments: (1, 1),
    action: Action::Run(inspect),
    ..Command::BLANK
};

/// The registry in an image's name: a first part with a dot, a port, or localhost.
fn domain_of(name: &str) -> &str {
    match name.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => first,
        _ => HUB,
    }
}

/// What the user has for a registry, as a header; nothing if that is nothing. Docker's configuration and its helpers are read
/// by the daemon's program, which runs for this as the user.
fn proof(domain: &str) -> Result<Option<String>, Failure> {
    known(&["get", domain])
}

/// What the user has for all registries, for a build, whose bases and caches may be anywhere.
pub(crate) fn proofs() -> Result<Option<String>, Failure> {
    known(&["list"])
}

fn known(question: &[&str]) -> Result<Option<String>, Failure> {
    let folder = std::env::var_os("DOCKER_CONFIG").filter(|folder| !folder.is_empty()).map(std::path::PathBuf::from);
    let folder = folder.or_else(|| Some(std::path::PathBuf::from(std::env::var_os("HOME")?).join(".docker")));
    if !folder.is_some_and(|folder| folder.join("config.json").is_file()) {
        return Ok(None);
    }
    let text = credential(question, "")?;
    let text = text.trim();
    Ok((!text.is_empty()).then(|| base64(text.as_bytes())))
}

/// Runs the keeper of credentials.
fn credential(arguments: &[&str], input: &str) -> Result<String, Failure> {
    let mut program = Program::new(daemon::find_program());
    program.arg("credential").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let missing = || "cannot run insulad, which keeps credentials; install it beside insula".to_owned();
    let mut child = program.spawn().during(missing)?;
    if let Some(mut stdin) = child.stdin.take() {
        // It says itself what it wants when it ends early.
        let _ = stdin.write_all(input.as_bytes());
    }
    let done = child.wait_with_output().during(missing)?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        return Err(Failure::new(format!("cannot use the credentials: {}", said.trim())));
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// RFC 4648, for URLs.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            if place > group.len() {
                text.push('=');
            } else {
                let letter = LETTERS.get((bits >> (18 - 6 * place) & 63) as usize).copied().unwrap_or(b'=');
                text.push(char::from(letter));
            }
        }
    }
    text
}

/// Asks for an image to be pulled; the answer tells how far it is.
///
/// # Errors
/// What the daemon refuses.
pub(crate) fn request_pull(context: &Context, name: &str, platform: Option<&str>) -> Result<Answer, Failure> {
    let (repository, tag) = split_name(name);
    let query = Query::default().with("fromImage", repository).with("tag", tag.unwrap_or("latest"));
    ask_to_pull(context, name, &query.with_some("platform", platform))
}

fn ask_to_pull(context: &Context, name: &str, query: &Query) -> Result<Answer, Failure> {
    Client::new(context).stream_as("POST", &query.behind("/images/create"), proof(domain_of(name))?.as_deref())
}

/// An image's name without its tag or digest, and this.
fn split_name(name: &str) -> (&str, Option<&str>) {
    match name.split_once('@') {
        Some((repository, digest)) => (split_tag(repository).0, Some(digest)),
        None => split_tag(name),
    }
}

/// Asks for an image to be pushed; the answer tells how far it is.
///
/// # Errors
/// What the daemon refuses.
pub(crate) fn request_push(context: &Context, name: &str) -> Result<Answer, Failure> {
    let (repository, tag) = split_tag(name);
    push_target(context, name, repository, &Query::default().with("tag", tag.unwrap_or("latest")))
}

fn push_target(context: &Context, name: &str, repository: &str, query: &Query) -> Result<Answer, Failure> {
    let target = query.behind(&format!("/images/{}/push", encode(repository)));
    Client::new(context).stream_as("POST", &target, proof(domain_of(name))?.as_deref())
}

fn pull(context: &Context, given: &Parsed) -> Outcome {
    let name = given.first();
    let (repository, mut tag) = split_name(name);
    if given.on("all-tags") {
        if tag.is_some() {
            return Err(Failure::new("a tag cannot be used with --all-tags"));
        }
    } else {
        tag = tag.or(Some("latest"));
    }
    let key = given
        .value("verify")
        .map(|path| std::fs::read_to_string(path).during(|| format!("cannot read the public key {path:?}")));
    let query = Query::default()
        .with("fromImage", repository)
        .with_some("tag", tag)
        .with_some("platform", given.value("platform"))
        .with_some("verify", key.transpose()?.as_deref());
    follow(ask_to_pull(context, name, &query)?, given.on("quiet"))?;
    let shown = match (name.contains('@'), tag) {
        (false, Some(tag)) => format!("{repository}:{tag}"),
        _ => name.to_owned(),
    };
    output::line(&shown);
    Ok(0)
}

fn push(context: &Context, given: &Parsed) -> Outcome {
    let name = given.first();
    let (repository, mut tag) = split_tag(name);
    if given.on("all-tags") {
        if tag.is_some() {
            return Err(Failure::new("a tag cannot be used with --all-tags"));
        }
    } else {
        tag = tag.or(Some("latest"));
    }
    let platform = super::archive::platform(given)?;
    let query = Query::default().with_some("tag", tag).with_some("platform", platform.as_deref());
    follow(push_target(context, name, repository, &query)?, given.on("quiet"))?;
    if given.on("quiet") {
        output::line(name);
    }
    Ok(0)
}

/// Sends one tag, and shows how far its layers are.
pub(crate) fn push_tag(context: &Context, name: &str, quiet: bool) -> Result<(), Failure> {
    let (repository, tag) = split_tag(name);
    let query = Query::default().with("tag", tag.unwrap_or("latest"));
    follow(push_target(context, name, repository, &query)?, quiet)
}

/// Shows how far the layers are: in place on a terminal, line by line elsewhere.
fn follow(answer: Answer, quiet: bool) -> Result<(), Failure> {
    let mut board = Board { names: Vec::new(), drawn: terminal::is_output() && !quiet };
    super::import::each_line(answer, "lost the daemon on the way", |value| {
        if !quiet {
            board.show(value);
        }
    })
}

/// The lines of things with a name.
struct Board {
    names: Vec<String>,
    drawn: bool,
}

impl Board {
    fn show(&mut self, value: &Value) {
        let (name, status) = (table::text(value, "/id"), table::text(value, "/status"));
        if status.is_empty() {
            return;
        }
        let bar = table::text(value, "/progress");
        if name.is_empty() {
            // What comes below is another board.
            self.names.clear();
            return output::line(status);
        }
        let text = format!("{name}: {status}");
        if !self.drawn {
            // How far each is would be a line for each step.
            if bar.is_empty() {
                output::line(&text);
            }
            return;
        }
        let text = format!("{text} {bar}");
        match self.names.iter().position(|known| known == name) {
            Some(at) => {
                let up = self.names.len() - at;
                output::print(&format!("\x1b[{up}A\r\x1b[2K{text}\x1b[{up}B\r"));
            }
            None => {
                self.names.push(name.to_owned());
                output::line(&text);
            }
        }
    }
}

const COLUMNS: &[Column] = &[
    ("Description", "DESCRIPTION"),
    ("IsAutomated", "AUTOMATED"),
    ("IsOfficial", "OFFICIAL"),
    ("Name", "NAME"),
    ("StarCount", "STARS"),
];
const SHOWN: &str = "{{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}";
/// Letters of a description that are shown.
const DESCRIBED: usize = 45;

fn search(context: &Context, given: &Parsed) -> Outcome {
    let wanted = filters(given.values("filter"))?;
    let query = Query::default()
        .with("term", given.first())
        .with_some("limit", given.value("limit"))
        .with_some("filters", wanted.as_deref());
    let proof = proof(domain_of(given.first()))?;
    let answer = Client::new(context).stream_as("GET", &query.behind("/images/search"), proof.as_deref())?.json()?;
    let row = |found: &Value| {
        let description = table::text(found, "/description").replace('\n', " ");
        let description = match description.char_indices().nth(DESCRIBED) {
            Some((at, _)) if !given.on("no-trunc") => format!("{}…", description.get(..at).unwrap_or_default()),
            _ => description,
        };
        let mark = |path: &str| if table::switch(found, path) { "[OK]" } else { "" };
        json!({
            "Name": table::text(found, "/name"), "Description": description,
            "StarCount": table::number(found, "/star_count").to_string(),
            "IsOfficial": mark("/is_official"), "IsAutomated": mark("/is_automated"),
        })
    };
    let rows: Vec<Value> = table::elements(&answer, "").iter().map(row).collect();
    table::list(COLUMNS, SHOWN, &rows, given.value("format"))?;
    Ok(0)
}

/// A registry as users name it, with or without a scheme.
fn registry(given: &Parsed) -> String {
    let name = given.arguments.first().map_or(HUB, String::as_str);
    let name = name.trim_start_matches("https://").trim_start_matches("http://");
    match name.split('/').next().unwrap_or_default() {
        "" | "index.docker.io" | "registry-1.docker.io" => HUB.to_owned(),
        other => other.to_owned(),
    }
}

fn login(context: &Context, given: &Parsed) -> Outcome {
    let domain = registry(given);
    let ask = |what: &str| -> Result<String, Failure> {
        if !terminal::is_input() {
            return Err(Failure::new("there is no terminal to ask at; give --username and --password-stdin"));
        }
        output::write_error(format!("{what}: ").as_bytes());
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line)?;
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    };
    let name = match given.value("username") {
        Some(name) => name.to_owned(),
        None if given.on("password-stdin") => return Err(Failure::new("--password-stdin needs --username")),
        None => ask("Username")?,
    };
    let password = match given.value("password") {
        Some(password) => password.to_owned(),
        None if given.on("password-stdin") => {
            let text = std::io::read_to_string(std::io::stdin().lock())?;
            text.trim_end_matches(['\r', '\n']).to_owned()
        }
        None => {
            let hidden = terminal::Silent::enter()?;
            let password = ask("Password");
            drop(hidden);
            output::write_error(b"\n");
            password?
        }
    };
    let auth = json!({ "username": name, "password": password, "serveraddress": domain });
    Client::new(context).post_json("/auth", &auth)?;
    credential(&["store", &domain], &auth.to_string())?;
    output::line("Login Succeeded");
    Ok(0)
}

fn logout(_: &Context, given: &Parsed) -> Outcome {
    let domain = registry(given);
    let said = credential(&["erase", &domain], "")?;
    output::line(&match said.trim() {
        "true" => format!("Removing login credentials for {domain}"),
        _ => format!("Not logged in to {domain}"),
    });
    Ok(0)
}

fn inspect(context: &Context, given: &Parsed) -> Outcome {
    let name = given.first();
    let target = format!("/insula/manifest/{}", encode(name));
    let mut answer = Client::new(context).stream_as("GET", &target, proof(domain_of(name))?.as_deref())?;
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut answer.reader(), &mut bytes)?;
    output::write(&bytes);
    output::line("");
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_in_names() {
        for (name, domain) in [
            ("debian", HUB),
            ("team/web:2", HUB),
            ("localhost/x", "localhost"),
            ("host:5000/a/b:1", "host:5000"),
            ("ghcr.io/a/b@sha256:00", "ghcr.io"),
        ] {
            assert_eq!(domain_of(name), domain, "{name}");
        }
    }

    #[test]
    fn base64_of_every_length() {
        for (text, expect) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(base64(text.as_bytes()), expect);
        }
        assert_eq!(base64(&[0xfb, 0xff]), "-_8=");
    }
}
