//! `insula cni`: other people's network plugins, for containers of any engine; and `insula` itself as such a plugin.
//!
//! What a plugin says has to be kept until the container leaves: a file for each container and link, below the state folder.

use std::ffi::OsString;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use net::cni::{NetworkList, Runner, Target};
use serde_json::{Map, Value};

use crate::client::Client;
use crate::container::path;
use crate::context::Context;
use crate::failure::{During as _, Failure};
use crate::flags::{Action, Command, Flag, Parsed};
use crate::value::pair;
use crate::{output, table};

/// Where Debian and the plugins' own project put them.
const FOLDERS: &[&str] = &["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"];
/// Where configurations are looked for that are named without a path.
const CONFIGURATIONS: &str = "/etc/cni/net.d";
const STATE: &str = "/var/lib/insula/cni";

static FLAGS: &[Flag] = &[
    Flag::list("arg", "NAME=VALUE", "An argument for all plugins (CNI_ARGS)"),
    Flag::list("bin-dir", "DIR", "Look for plugins here (/opt/cni/bin, /usr/lib/cni, /usr/libexec/cni)"),
    Flag::list("capability", "NAME=JSON", "What plugins with this capability get, as in mac='\"02:42:0:0:0:1\"'"),
    Flag::value("ifname", "NAME", "The link's name in the container (eth0)"),
    Flag::value("netns", "PATH", "The network namespace; without it the one of the container of that name"),
    Flag::value("state", "DIR", "Where results are kept (/var/lib/insula/cni)"),
];

pub(crate) static GROUP: Command = Command {
    name: "cni",
    usage: "COMMAND",
    about: "Networks made by CNI plugins",
    action: Action::Group(&[&ADD, &CHECK, &DEL, &GC]),
    ..Command::BLANK
};

static ADD: Command = Command {
    name: "add",
    usage: "[OPTIONS] CONFIGURATION CONTAINER",
    about: "Put a container into a network",
    flags: &[FLAGS],
    arguments: (2, 2),
    action: Action::Run(|context, given| {
        let Given { runner, list, target, result } = Given::read(context, given)?;
        let said = runner.add(&list, &target)?;
        if let Some(folder) = result.parent() {
            fs::create_dir_all(folder).during(|| format!("cannot make the folder {folder:?}"))?;
        }
        fs::write(&result, said.to_string()).during(|| format!("cannot keep the result in {result:?}"))?;
        output::line(&table::pretty(said.to_string().as_bytes()));
        Ok(0)
    }),
    ..Command::BLANK
};

static CHECK: Command = Command {
    name: "check",
    usage: "[OPTIONS] CONFIGURATION CONTAINER",
    about: "See whether a container is still in a network as it was put there",
    flags: &[FLAGS],
    arguments: (2, 2),
    action: Action::Run(|context, given| {
        let Given { runner, list, target, result } = Given::read(context, given)?;
        let kept = fs::read(&result).during(|| format!("nothing is known of this container in {result:?}"))?;
        runner.check(&list, &target, &serde_json::from_slice(&kept)?)?;
        Ok(0)
    }),
    ..Command::BLANK
};

static DEL: Command = Command {
    name: "del",
    aliases: &["rm"],
    usage: "[OPTIONS] CONFIGURATION CONTAINER",
    about: "Take a container out of a network",
    flags: &[FLAGS],
    arguments: (2, 2),
    action: Action::Run(|context, given| {
        let Given { runner, list, target, result } = Given::read(context, given)?;
        // a result that is lost is no reason to leave everything where it is
        let kept = fs::read(&result).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or(Value::Null);
        runner.delete(&list, &target, &kept)?;
        let _ = fs::remove_file(&result);
        Ok(0)
    }),
    ..Command::BLANK
};

static GC: Command = Command {
    name: "gc",
    usage: "[OPTIONS] CONFIGURATION [CONTAINER...]",
    about: "Free what belongs to none of these containers in a network",
    flags: &[FLAGS],
    arguments: (1, Command::MANY),
    action: Action::Run(|context, given| {
        let link = given.value("ifname").unwrap_or("eth0").to_owned();
        let mut valid = Vec::new();
        for name in given.arguments.get(1..).unwrap_or_default() {
            let id = if given.value("netns").is_some() { name.clone() } else { container(context, name)?.0 };
            valid.push((id, link.clone()));
        }
        runner(given).collect(&list(given.first())?, &valid)?;
        Ok(0)
    }),
    ..Command::BLANK
};

/// What the command line says.
struct Given {
    runner: Runner,
    list: NetworkList,
    target: Target,
    /// The file of the result.
    result: PathBuf,
}

impl Given {
    fn read(context: &Context, given: &Parsed) -> Result<Self, Failure> {
        let [configuration, name] = given.arguments.as_slice() else {
            return Err(Failure::new("give a configuration and a container"));
        };
        let (id, netns) = match given.value("netns") {
            Some("") => (name.clone(), None),
            Some(path) => (name.clone(), Some(PathBuf::from(path))),
            None => {
                let (id, pid) = container(context, name)?;
                (id, (pid > 0).then(|| PathBuf::from(format!("/proc/{pid}/ns/net"))))
            }
        };
        let mut capabilities = Map::new();
        for (key, text) in given.read_list("capability", pair::option)?.unwrap_or_default() {
            let value = serde_json::from_str(&text);
            let value =
                value.map_err(|why| Failure::new(format!("bad value {text:?} for --capability {key}: {why}")))?;
            capabilities.insert(key, value);
        }
        let link = given.value("ifname").unwrap_or("eth0").to_owned();
        let list = list(configuration)?;
        let state = Path::new(given.value("state").unwrap_or(STATE)).join("results");
        Ok(Self {
            runner: runner(given),
            result: state.join(format!("{}-{id}-{link}.json", list.name)),
            target: Target {
                container: id,
                netns,
                link,
                arguments: given.read_list("arg", pair::option)?.unwrap_or_default(),
                capabilities,
            },
            list,
        })
    }
}

fn runner(given: &Parsed) -> Runner {
    let mut folders: Vec<PathBuf> = given.values("bin-dir").map(PathBuf::from).collect();
    if folders.is_empty() {
        folders = FOLDERS.iter().map(PathBuf::from).collect();
    }
    Runner::new(&folders)
}

/// A configuration by its file, or by the network's name among those of the machine.
fn list(name: &str) -> Result<NetworkList, Failure> {
    if name.contains('/') || Path::new(name).is_file() {
        return Ok(NetworkList::read(Path::new(name))?);
    }
    let all = NetworkList::read_folder(Path::new(CONFIGURATIONS))?;
    let found = all.into_iter().find(|list| list.name == name);
    found.ok_or_else(|| {
        Failure::new(format!("no network {name:?} in {CONFIGURATIONS}; give the file of a configuration"))
    })
}

/// Id and first process of a container of the daemon's.
fn container(context: &Context, name: &str) -> Result<(String, i64), Failure> {
    let record = Client::new(context).get(&path(name, "/json"))?;
    Ok((table::text(&record, "/Id").to_owned(), table::number(&record, "/State/Pid")))
}

/// When somebody else's engine calls this program as its plugin (`CNI_COMMAND` is set, and there are no words): the exit
/// code.
pub(crate) fn plugin(arguments: &[OsString]) -> Option<u8> {
    std::env::var_os("CNI_COMMAND").filter(|_| arguments.len() <= 1)?;
    let mut input = Vec::new();
    // without a configuration the plugin says itself what is missing
    let _ = std::io::stdin().read_to_end(&mut input);
    let done = net::cni::main(&|name| std::env::var(name).ok(), &input);
    output::print(&done.stdout);
    Some(done.code)
}
