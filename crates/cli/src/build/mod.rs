//! `insula build`: an image from a Dockerfile; and `insula builder`.

pub(crate) mod cache;
mod progress;

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Cursor, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use docker_wire::extra::{Build, BuildLine, SharedFolder};

use crate::client::{Answer, Client, Query, encode, filters};
use crate::container::rm::confirmed;
use crate::context::Context;
use crate::failure::{During as _, Failure, Outcome};
use crate::flags::{Action, Command, Flag, Parsed};
use crate::image::registry::proofs;
use crate::value::{number, pair};
use crate::{output, table, terminal};
pub(crate) use progress::Show;

pub(crate) static COMMAND: Command = Command {
    name: "build",
    usage: "[OPTIONS] FOLDER|ADDRESS|-",
    about: "Build an image from a Dockerfile",
    flags: &[FLAGS],
    arguments: (1, 1),
    action: Action::Run(build),
    ..Command::BLANK
};

static FLAGS: &[Flag] = &[
    Flag::list("add-host", "NAME:ADDRESS", "Add a line to the steps' hosts file"),
    Flag::list("allow", "RIGHT", "Let steps have a right: network.host or security.insecure"),
    Flag::list("annotation", "[index:]NAME=VALUE", "Have the image's manifest or index say something at registries"),
    Flag::list("build-arg", "NAME[=VALUE]", "Set an argument, or hand on the user's variable"),
    Flag::list("cache-from", "NAME|FIELDS", "Use what was built before: an image or type=registry|local"),
    Flag::list("cache-to", "FIELDS", "Keep the steps: type=inline, type=registry,ref=NAME or type=local,dest=DIR"),
    Flag::switch("check", "Look the Dockerfile over, and build nothing"),
    Flag::value("cpu-period", "MICROSECONDS", "Length of a processor quota's period"),
    Flag::value("cpu-quota", "MICROSECONDS", "Processor time in a period"),
    Flag::value("cpu-shares", "SHARES", "Share of processor time where it is scarce").short('c'),
    Flag::value("cpuset-cpus", "LIST", "Processors to run on, as in 0-2,4"),
    Flag::value("file", "PATH", "The Dockerfile (FOLDER/Dockerfile); - for standard input").short('f'),
    Flag::value("iidfile", "FILE", "Write the image's id to a file"),
    Flag::list("label", "NAME[=VALUE]", "Set a label"),
    Flag::value("memory", "BYTES", "Limit each step's memory, as in 512m").short('m'),
    Flag::value("memory-swap", "BYTES", "Limit memory and swap together; -1 for no limit"),
    Flag::value("network", "MODE", "Network of the steps: default, none or host"),
    Flag::switch("no-cache", "Do every step anew"),
    Flag::list("output", "FIELDS", "Where the result goes: type=local,dest=DIR or type=tar|oci|docker,dest=FILE")
        .short('o'),
    Flag::value("platform", "OS/ARCH[,...]", "The platform of the image, or several for an image each"),
    Flag::value("progress", "KIND", "How to show what happens: auto, plain, tty or quiet"),
    Flag::value("provenance", "DETAIL", "Attest where the image comes from: min, or max with arguments and Dockerfile"),
    Flag::switch("pull", "Fetch base images although they are there"),
    Flag::switch("push", "Send the image to its registry"),
    Flag::switch("quiet", "Say nothing but the image's id").short('q'),
    Flag::value("sbom", "IMAGE", "Attest what is in the image, as the scanner IMAGE lists it"),
    Flag::list("secret", "FIELDS", "Give a secret to steps: id=ID,src=FILE or id=ID,env=NAME"),
    Flag::value("shm-size", "BYTES", "Size of the steps' /dev/shm"),
    Flag::switch("squash", "Make one layer of all steps"),
    Flag::list("ssh", "ID[=SOCKET]", "Give an SSH agent to steps; default for the user's own"),
    Flag::list("tag", "NAME[:TAG]", "The image's name").short('t'),
    Flag::value("target", "STAGE", "Build up to this stage"),
    Flag::list("ulimit", "NAME=SOFT[:HARD]", "Set a resource limit of the steps"),
];

pub(crate) static BUILDER: Command = Command {
    name: "builder",
    usage: "COMMAND",
    about: "Commands about builds",
    action: Action::Group(&[&COMMAND, &PRUNE]),
    ..Command::BLANK
};

static PRUNE: Command = Command {
    name: "prune",
    usage: "[OPTIONS]",
    about: "Remove what builds keep for the next time",
    flags: &[&[
        Flag::switch("all", "Remove what images have, too, and cache mounts").short('a'),
        Flag::list("filter", "NAME=VALUE", "Only what was unused for so long: until=24h"),
        Flag::switch("force", "Do not ask").short('f'),
    ]],
    action: Action::Run(prune),
    ..Command::BLANK
};

fn prune(context: &Context, given: &Parsed) -> Outcome {
    let what = if given.on("all") { "all of the build cache" } else { "the build cache that no image has" };
    if !confirmed(given, &format!("This removes {what}."))? {
        return Ok(1);
    }
    let query =
        Query::default().flag("all", given.on("all")).with_some("filters", filters(given.values("filter"))?.as_deref());
    let answer = Client::new(context).post(&query.behind("/build/prune"))?;
    let bytes = table::number(&answer, "/SpaceReclaimed");
    output::line(&format!("Total reclaimed space: {}", table::decimal_size(bytes, 3)));
    Ok(0)
}

/// Where a result goes.
#[derive(Debug, PartialEq, Eq)]
enum Output {
    Folder(PathBuf),
    /// `-` is standard output.
    Tree(String),
    /// With the format's name.
    Archive(String),
}

fn build(context: &Context, given: &Parsed) -> Outcome {
    let quiet = given.on("quiet");
    let show =
        Show::find(if quiet { "quiet" } else { given.value("progress").unwrap_or("auto") }).map_err(Failure::new)?;
    let outputs = given.read_list("output", output_of)?.unwrap_or_default();
    let mut asked = request(given)?;
    let mut stdin: Option<Box<dyn Read>> = None;
    locate(given, &mut asked, &mut stdin)?;
    if let Some(Output::Folder(folder)) = outputs.iter().find(|output| matches!(output, Output::Folder(_))) {
        fs::create_dir_all(folder).during(|| format!("cannot make the folder {}", folder.display()))?;
        asked.output = Some(shared(folder)?);
    }
    if given.on("check") {
        asked.check = true;
        return checked(&mut Client::new(context), &asked, stdin);
    }
    asked.owner = Some((rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw()));
    let push = given.on("push");
    if push && asked.tags.is_empty() {
        return Err(Failure::new("an image that is to be pushed needs a name: --tag HOST/NAME[:TAG]"));
    }
    let mut client = Client::new(context);
    let Made { id, together } = image(&mut client, &asked, stdin, show)?;
    // a name stands for all platforms
    let all = asked.tags.first().or(together.as_ref()).unwrap_or(&id);
    for output in &outputs {
        match output {
            Output::Folder(_) => {}
            Output::Tree(dest) => save(&mut client, &format!("/insula/tree/{}", encode(all)), dest)?,
            Output::Archive(dest) => save(&mut client, &format!("/images/{}/get", encode(all)), dest)?,
        }
    }
    if push {
        for name in &asked.tags {
            crate::image::registry::push_tag(context, name, quiet)?;
        }
    }
    if let Some(path) = given.value("iidfile") {
        fs::write(path, &id).during(|| format!("cannot write the image's id to {path:?}"))?;
    }
    // standard output may be where an archive went
    if !outputs.iter().any(|output| matches!(output, Output::Tree(dest) | Output::Archive(dest) if dest == "-")) {
        output::line(&id);
    }
    Ok(0)
}

/// What was built.
pub(crate) struct Made {
    /// The image's id; of several platforms that of the image that runs here.
    pub(crate) id: String,
    /// What images for several platforms are fetched together by, where they have no name.
    together: Option<String>,
}

/// Has a Dockerfile looked over: 1 if there is something to say.
fn checked(client: &mut Client, asked: &Build, rest: Option<Box<dyn Read>>) -> Outcome {
    let mut remarks = None;
    let mut answer = send(client, asked, rest)?;
    for line in BufReader::new(answer.reader()).lines() {
        let Some(line) = parsed(line)? else { continue };
        match line {
            BuildLine::Checked(count, text) => {
                output::write(text.as_bytes());
                remarks = Some(count);
            }
            BuildLine::Error(text) => return Err(Failure::new(text)),
            _ => {}
        }
    }
    let Some(count) = remarks else {
        return Err(Failure::new("the daemon ended while it looked the Dockerfile over; see its log"));
    };
    let text = match count {
        0 => "no remarks".to_owned(),
        1 => "\n1 remark".to_owned(),
        count => format!("\n{count} remarks"),
    };
    output::line(&text);
    Ok(u8::from(count > 0))
}

/// Has an image built, and shows how. `rest` is the context where that is an archive.
pub(crate) fn image(
    client: &mut Client,
    asked: &Build,
    rest: Option<Box<dyn Read>>,
    show: Show,
) -> Result<Made, Failure> {
    follow(send(client, asked, rest)?, show)
}

fn send(client: &mut Client, asked: &Build, rest: Option<Box<dyn Read>>) -> Result<Answer, Failure> {
    let mut line = serde_json::to_vec(asked)?;
    line.push(b'\n');
    let mut body: Box<dyn Read> = match rest {
        Some(rest) => Box::new(Cursor::new(line).chain(rest)),
        None => Box::new(Cursor::new(line)),
    };
    client.upload_as("/insula/build", &mut *body, proofs()?)
}

/// A line of the daemon's; nothing for an empty one.
fn parsed(line: io::Result<String>) -> Result<Option<BuildLine>, Failure> {
    let line = line.during(|| "lost the daemon while it built the image".to_owned())?;
    if line.trim().is_empty() {
        return Ok(None);
    }
    serde_json::from_str(&line).map(Some).during(|| "the daemon's progress makes no sense".to_owned())
}

fn save(client: &mut Client, target: &str, dest: &str) -> Result<(), Failure> {
    let mut answer = client.stream("GET", target, None)?;
    let mut out: Box<dyn io::Write> = if dest == "-" {
        if terminal::is_output() {
            return Err(Failure::new("standard output is a terminal; give a file: --output type=tar,dest=FILE"));
        }
        Box::new(io::stdout().lock())
    } else {
        Box::new(File::create(dest).during(|| format!("cannot write {dest:?}"))?)
    };
    io::copy(&mut answer.reader(), &mut out).during(|| format!("cannot write {dest:?}"))?;
    Ok(())
}

/// Shows what happens; what came of it in the end.
fn follow(mut answer: Answer, show: Show) -> Result<Made, Failure> {
    let mut view = progress::View::new(show);
    let mut together = None;
    for line in BufReader::new(answer.reader()).lines() {
        let Some(line) = parsed(line)? else { continue };
        match line {
            BuildLine::Image(id, reused) => {
                view.end(reused);
                return Ok(Made { id, together });
            }
            BuildLine::Together(name) => together = Some(name),
            BuildLine::Error(text) => {
                view.failed();
                return Err(Failure::new(text));
            }
            other => view.line(other),
        }
    }
    Err(Failure::new("the daemon ended within the build; see its log"))
}

fn request(given: &Parsed) -> Result<Build, Failure> {
    let lookup = |name: &str| env::var(name).ok();
    let mut arguments = BTreeMap::new();
    for text in given.values("build-arg") {
        if let Some(variable) = pair::variable(text, &lookup).map_err(Failure::new)? {
            let (name, value) = variable.split_once('=').unwrap_or((&variable, ""));
            arguments.insert(name.to_owned(), value.to_owned());
        }
    }
    let unsigned = |value: i64| u64::try_from(value).ok();
    let list = |name: &'static str| given.values(name).map(str::to_owned).collect::<Vec<_>>();
    Ok(Build {
        tags: list("tag"),
        annotations: list("annotation"),
        epoch: lookup("SOURCE_DATE_EPOCH").and_then(|text| text.trim().parse().ok()),
        arguments,
        target: given.value("target").map(str::to_owned),
        platform: given.value("platform").map(str::to_owned),
        provenance: given.value("provenance").map(str::to_owned),
        sbom: given.value("sbom").map(str::to_owned),
        labels: given.read_list("label", pair::label)?.unwrap_or_default().into_iter().collect(),
        no_cache: given.on("no-cache"),
        pull: given.on("pull"),
        squash: given.on("squash"),
        network: given.value("network").map(str::to_owned),
        memory_bytes: given.read("memory", number::bytes)?,
        memory_swap_bytes: given.read("memory-swap", number::bytes_or_unlimited)?,
        cpu_shares: given.read("cpu-shares", number::integer)?.and_then(unsigned),
        cpu_quota_us: given.read("cpu-quota", number::integer)?,
        cpu_period_us: given.read("cpu-period", number::integer)?.and_then(unsigned),
        cpuset_cpus: given.read("cpuset-cpus", number::cpu_list)?,
        shm_bytes: given.read("shm-size", number::bytes)?.and_then(unsigned),
        ulimits: list("ulimit"),
        extra_hosts: given.read_list("add-host", pair::host)?.unwrap_or_default(),
        secrets: given.read_list("secret", secret)?.unwrap_or_default().into_iter().collect(),
        ssh: given.read_list("ssh", agent)?.unwrap_or_default().into_iter().collect(),
        allow: list("allow"),
        cache_from: given.read_list("cache-from", cache::source)?.unwrap_or_default(),
        cache_to: given.read_list("cache-to", cache::target)?.unwrap_or_default(),
        ..Build::default()
    })
}

/// Where context and Dockerfile are.
fn locate(given: &Parsed, asked: &mut Build, stdin: &mut Option<Box<dyn Read>>) -> Result<(), Failure> {
    let context = given.first();
    let file = given.value("file");
    if file == Some("-") {
        if context == "-" {
            return Err(Failure::new("standard input cannot be both the Dockerfile and the context"));
        }
        let mut text = String::new();
        io::stdin().lock().read_to_string(&mut text).during(|| "cannot read the Dockerfile".to_owned())?;
        asked.text = Some(text);
        "Dockerfile".clone_into(&mut asked.dockerfile);
    }
    if context == "-" {
        return from_stdin(asked, file, stdin);
    }
    let path = Path::new(context);
    if !path.exists() && is_address(context) {
        asked.remote = Some(context.to_owned());
        file.filter(|file| *file != "-").unwrap_or("Dockerfile").clone_into(&mut asked.dockerfile);
        return Ok(());
    }
    asked.folder = Some(shared(path)?);
    if asked.text.is_none() {
        let dockerfile = file.map_or_else(|| path.join("Dockerfile"), PathBuf::from);
        let whole = fs::canonicalize(&dockerfile)
            .during(|| format!("cannot read the Dockerfile {}; name it with: --file PATH", dockerfile.display()))?;
        asked.dockerfile = whole.display().to_string();
    }
    Ok(())
}

/// An archive, or a Dockerfile without a context.
fn from_stdin(asked: &mut Build, file: Option<&str>, stdin: &mut Option<Box<dyn Read>>) -> Result<(), Failure> {
    if terminal::is_input() {
        return Err(Failure::new("standard input is a terminal; send an archive: tar -c . | insula build -"));
    }
    let mut head = Vec::new();
    io::stdin().lock().take(512).read_to_end(&mut head).during(|| "cannot read standard input".to_owned())?;
    let rest = Cursor::new(head.clone()).chain(io::stdin());
    if is_archive(&head) {
        asked.archive = true;
        file.unwrap_or("Dockerfile").clone_into(&mut asked.dockerfile);
        *stdin = Some(Box::new(rest));
        return Ok(());
    }
    let mut text = String::new();
    { rest }.read_to_string(&mut text).during(|| "cannot read the Dockerfile".to_owned())?;
    asked.text = Some(text);
    "Dockerfile".clone_into(&mut asked.dockerfile);
    Ok(())
}

fn is_archive(head: &[u8]) -> bool {
    let compressed: [&[u8]; 4] = [&[0x1f, 0x8b], &[0x28, 0xb5, 0x2f, 0xfd], b"BZh", &[0xfd, b'7', b'z', b'X', b'Z', 0]];
    compressed.iter().any(|magic| head.starts_with(magic)) || head.get(257..262) == Some(b"ustar")
}

fn is_address(text: &str) -> bool {
    ["http://", "https://", "git://", "ssh://", "git@", "github.com/"].iter().any(|start| text.starts_with(start))
}

/// A folder as the daemon finds it again.
pub(crate) fn shared(folder: &Path) -> Result<SharedFolder, Failure> {
    let whole = fs::canonicalize(folder).during(|| format!("cannot open the folder {}", folder.display()))?;
    let meta = fs::metadata(&whole).during(|| format!("cannot open the folder {}", folder.display()))?;
    if !meta.is_dir() {
        return Err(Failure::new(format!("{} is no folder", folder.display())));
    }
    let path = whole.to_str().ok_or_else(|| Failure::new(format!("the path {} is not UTF-8", whole.display())))?;
    Ok(SharedFolder { path: path.to_owned(), device: meta.dev(), inode: meta.ino() })
}

/// `a=b,c=d`; a word without `=` has an empty value.
fn fields(text: &str) -> BTreeMap<&str, &str> {
    text.split(',').map(|field| field.split_once('=').unwrap_or((field, ""))).collect()
}

fn secret(text: &str) -> Result<(String, Vec<u8>), String> {
    let fields = fields(text);
    let id = fields.get("id").filter(|id| !id.is_empty()).ok_or("give it as id=ID,src=FILE or id=ID,env=NAME")?;
    let known = ["id", "src", "source", "env", "type"];
    if let Some(other) = fields.keys().find(|name| !known.contains(name)) {
        return Err(format!("unknown field {other:?}; there are {}", known.join(", ")));
    }
    let file = fields.get("src").or_else(|| fields.get("source"));
    let named = if fields.get("type") == Some(&"env") { file.copied() } else { None };
    let variable = fields.get("env").copied().or(named);
    let own = if file.is_none() && variable.is_none() { env::var(id).ok() } else { None };
    let bytes = match (variable, file, own) {
        (Some(name), _, _) => env::var(name).map_err(|_| format!("the variable {name} is not set"))?.into_bytes(),
        (None, _, Some(value)) => value.into_bytes(),
        (None, file, None) => {
            let path = file.copied().unwrap_or(id);
            fs::read(path).map_err(|error| format!("cannot read {path:?}: {error}"))?
        }
    };
    Ok(((*id).to_owned(), bytes))
}

/// An SSH agent: `ID=SOCKET`, or `default` for the user's own.
pub(crate) fn agent(text: &str) -> Result<(String, String), String> {
    let (id, path) = match text.split_once('=') {
        Some((id, path)) => (id, path.to_owned()),
        None => {
            (text, env::var("SSH_AUTH_SOCK").map_err(|_| "no agent is running: SSH_AUTH_SOCK is not set".to_owned())?)
        }
    };
    Ok((id.to_owned(), path))
}

fn output_of(text: &str) -> Result<Output, String> {
    if !text.contains('=') {
        return Ok(if text == "-" { Output::Tree("-".to_owned()) } else { Output::Folder(PathBuf::from(text)) });
    }
    let fields = fields(text);
    let dest = fields.get("dest").or_else(|| fields.get("path")).copied();
    match fields.get("type").copied().unwrap_or_default() {
        "local" => {
            dest.map(|dest| Output::Folder(PathBuf::from(dest))).ok_or_else(|| "dest=FOLDER is missing".to_owned())
        }
        "tar" => Ok(Output::Tree(dest.unwrap_or("-").to_owned())),
        "oci" | "docker" => Ok(Output::Archive(dest.unwrap_or("-").to_owned())),
        other => Err(format!("no type {other:?}; there are local, tar, oci and docker")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_read() {
        let check = |text: &str, expect: Result<Output, &str>| {
            assert_eq!(output_of(text), expect.map_err(str::to_owned), "{text}");
        };
        check("out", Ok(Output::Folder("out".into())));
        check("-", Ok(Output::Tree("-".into())));
        check("type=local,dest=a/b", Ok(Output::Folder("a/b".into())));
        check("type=tar,dest=x.tar", Ok(Output::Tree("x.tar".into())));
        check("type=tar", Ok(Output::Tree("-".into())));
        check("type=oci,dest=x", Ok(Output::Archive("x".into())));
        check("type=local", Err("dest=FOLDER is missing"));
        check("type=image", Err("no type \"image\"; there are local, tar, oci and docker"));
    }

    #[test]
    fn archives_are_told_from_dockerfiles() {
        let mut tar = vec![0; 512];
        tar[257..262].copy_from_slice(b"ustar");
        assert!(is_archive(&tar) && is_archive(b"\x1f\x8b rest"));
        assert!(!is_archive(b"FROM scratch\n") && !is_archive(b""));
    }

    #[test]
    fn addresses_and_secrets() {
        assert!(is_address("https://h/x.git#main:sub") && is_address("git@h:a/b") && !is_address("a/b"));
        assert!(secret("src=x").unwrap_err().contains("id=ID"));
        assert!(secret("id=a,nonsense=1").unwrap_err().contains("nonsense"));
        let file = env::temp_dir().join(format!("insula-secret-{}", std::process::id()));
        fs::write(&file, "s3").unwrap();
        let given = secret(&format!("id=a,src={}", file.display()));
        fs::remove_file(&file).unwrap();
        assert_eq!(given.unwrap(), ("a".to_owned(), b"s3".to_vec()));
    }
}
