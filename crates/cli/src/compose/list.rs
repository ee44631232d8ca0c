//! `insula compose ps`, `ls`, `port`, `top`, `stats` and `volumes`.

use std::collections::{BTreeMap, BTreeSet};

use compose::create::label;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::COMMON;
use super::exec::{hand_on, index};
use super::stack::{Kind, Member, Stack, list};
use crate::client::{Client, Query};
use crate::container::{self, ps::short_id};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::flags::{Action, Command, Flag, Parsed};
use crate::table::Column;
use crate::value::time;
use crate::{output, table};

pub(super) static COMMAND: Command = Command {
    name: "ps",
    usage: "[OPTIONS] [SERVICE...]",
    about: "List the project's containers",
    flags: &[
        COMMON,
        &[
            Flag::switch("all", "Those that do not run and those of single programs as well").short('a'),
            Flag::list("filter", "status=STATE", "Only those in a state"),
            Flag::value("format", "FORM", "table, json or a template"),
            Flag::switch("no-trunc", "Shorten nothing"),
            Flag::switch("orphans", "Those of services that the file has not as well (on; turn off with =false)"),
            Flag::switch("quiet", "Ids only").short('q'),
            Flag::switch("services", "Services' names only"),
            Flag::list("status", "STATE", "Only those in a state: running, exited, paused, …"),
        ],
    ],
    arguments: (0, Command::MANY),
    action: Action::Run(ps),
    ..Command::BLANK
};

pub(super) static LS: Command = Command {
    name: "ls",
    usage: "[OPTIONS]",
    about: "List the projects that have containers",
    flags: &[
        COMMON,
        &[
            Flag::switch("all", "Those of which nothing runs as well").short('a'),
            Flag::list("filter", "name=NAME", "Only those of a name"),
            Flag::value("format", "FORM", "table or json"),
            Flag::switch("quiet", "Names only").short('q'),
        ],
    ],
    action: Action::Run(ls),
    ..Command::BLANK
};

pub(super) static PORT: Command = Command {
    name: "port",
    usage: "[OPTIONS] SERVICE PORT",
    about: "Show where a port of a service is published",
    flags: &[
        COMMON,
        &[
            Flag::value("index", "NUMBER", "The service's container of this number"),
            Flag::value("protocol", "NAME", "tcp, udp or sctp (tcp)"),
        ],
    ],
    arguments: (2, 2),
    action: Action::Run(port),
    ..Command::BLANK
};

pub(super) static TOP: Command = Command {
    name: "top",
    usage: "[SERVICE...]",
    about: "List the processes of services",
    flags: &[COMMON],
    arguments: (0, Command::MANY),
    action: Action::Run(top),
    ..Command::BLANK
};

pub(super) static STATS: Command = Command {
    name: "stats",
    usage: "[OPTIONS] [SERVICE]",
    about: "Show what the project's containers use",
    flags: &[
        COMMON,
        &[
            Flag::switch("all", "Show those that do not run, too").short('a'),
            Flag::value("format", "TEMPLATE", "Show as a template says"),
            Flag::switch("no-stream", "Show once, and end"),
            Flag::switch("no-trunc", "Shorten nothing"),
        ],
    ],
    arguments: (0, 1),
    action: Action::Run(stats),
    ..Command::BLANK
};

pub(super) static VOLUMES: Command = Command {
    name: "volumes",
    usage: "[OPTIONS] [SERVICE...]",
    about: "List the project's volumes",
    flags: &[
        COMMON,
        &[Flag::value("format", "FORM", "table, json or a template"), Flag::switch("quiet", "Names only").short('q')],
    ],
    arguments: (0, Command::MANY),
    action: Action::Run(volumes),
    ..Command::BLANK
};

const COLUMNS: &[Column] = &[
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("ExitCode", "EXIT CODE"),
    ("Health", "HEALTH"),
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Name", "NAME"),
    ("Names", "NAMES"),
    ("Ports", "PORTS"),
    ("Project", "PROJECT"),
    ("RunningFor", "CREATED"),
    ("Service", "SERVICE"),
    ("State", "STATE"),
    ("Status", "STATUS"),
];
const SHOWN: &str = "{{.Name}}\t{{.Image}}\t{{.Command}}\t{{.Service}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}";

fn ps(context: &Context, given: &Parsed) -> Outcome {
    let stack = Stack::found(context, given, &given.arguments)?;
    let mut states: Vec<&str> = given.values("status").collect();
    for filter in given.values("filter") {
        match filter.split_once('=') {
            Some(("status", state)) => states.push(state),
            Some(("source", _)) => {}
            _ => return Err(Failure::new(format!("bad filter {filter:?}; give status=STATE"))),
        }
    }
    let all = given.on("all") || !states.is_empty();
    let mut members = stack.members_of(&given.arguments, if all { Kind::All } else { Kind::Service })?;
    members.retain(|member| {
        let orphan = !stack.project.services.contains_key(&member.service) && !stack.project.files.is_empty();
        let shown = if states.is_empty() {
            all || matches!(member.state.as_str(), "running" | "paused" | "restarting")
        } else {
            states.contains(&member.state.as_str())
        };
        shown && !(orphan && given.off("orphans"))
    });
    members.sort_by(|a, b| a.name.cmp(&b.name));
    if given.on("quiet") {
        members.iter().for_each(|member| output::line(&member.id));
        return Ok(0);
    }
    if given.on("services") {
        let services: BTreeSet<&str> = members.iter().map(|member| member.service.as_str()).collect();
        services.into_iter().for_each(output::line);
        return Ok(0);
    }
    let now = Timestamp::now().as_second();
    let mut client = stack.client();
    let mut rows = Vec::new();
    for member in &members {
        rows.push(row(&mut client, &stack.project.name, member, given.on("no-trunc"), now));
    }
    table::list(COLUMNS, SHOWN, &rows, given.value("format"))?;
    Ok(0)
}

fn row(client: &mut Client, project: &str, member: &Member, whole: bool, now: i64) -> Value {
    let listed = &member.listed;
    let container = client.get(&format!("/containers/{}/json", member.id)).unwrap_or(Value::Null);
    let command = table::text(listed, "/Command");
    let command = if whole || command.chars().count() <= 20 {
        command.to_owned()
    } else {
        format!("{}…", command.chars().take(19).collect::<String>())
    };
    let created = table::number(listed, "/Created");
    let mut ports = table::elements(listed, "/Ports").to_vec();
    ports.sort_by_cached_key(|port| {
        let number = |name| table::number(port, name);
        let text = |name| table::text(port, name).to_owned();
        (text("/IP"), number("/PrivatePort"), number("/PublicPort"), text("/Type"))
    });
    let publishers: Vec<Value> = ports
        .iter()
        .map(|port| {
            json!({"URL": table::text(port, "/IP"), "TargetPort": table::number(port, "/PrivatePort"),
                "PublishedPort": table::number(port, "/PublicPort"), "Protocol": table::text(port, "/Type")})
        })
        .collect();
    json!({
        "Command": format!("\"{command}\""),
        "CreatedAt": time::shown(created),
        "ExitCode": table::number(&container, "/State/ExitCode"),
        "Health": table::text(&container, "/State/Health/Status"),
        "ID": if whole { member.id.clone() } else { short_id(&member.id) },
        "Image": table::text(listed, "/Image"),
        "Labels": container::ps::labels(listed),
        "Name": member.name,
        "Names": member.name,
        "Ports": container::ps::ports(table::elements(listed, "/Ports")),
        "Project": project,
        "Publishers": publishers,
        "RunningFor": format!("{} ago", time::in_words(now - created)),
        "Service": member.service,
        "State": member.state,
        "Status": table::text(listed, "/Status"),
    })
}

fn ls(context: &Context, given: &Parsed) -> Outcome {
    let mut projects: BTreeMap<String, Vec<Member>> = BTreeMap::new();
    for member in list(&mut Client::new(context), &[label::PROJECT.to_owned()])? {
        let name = member.label(label::PROJECT).to_owned();
        projects.entry(name).or_default().push(member);
    }
    let mut rows = Vec::new();
    for (name, members) in projects {
        let wanted = given
            .values("filter")
            .all(|filter| filter.strip_prefix("name=").is_some_and(|wanted| name.contains(wanted)));
        let running = members.iter().any(|member| member.is_running() || member.state == "paused");
        if !wanted || !(running || given.on("all")) {
            continue;
        }
        let mut states: BTreeMap<&str, usize> = BTreeMap::new();
        let counted =
            members.iter().filter(|member| given.on("all") || member.is_running() || member.state == "paused");
        counted.for_each(|member| *states.entry(member.state.as_str()).or_default() += 1);
        let status: Vec<String> = states.into_iter().map(|(state, count)| format!("{state}({count})")).collect();
        let files: BTreeSet<&str> = members.iter().map(|member| member.label(label::FILES)).collect();
        let files: Vec<&str> = files.into_iter().collect();
        rows.push(json!({"Name": name, "Status": status.join(", "), "ConfigFiles": files.join(",")}));
    }
    if given.on("quiet") {
        rows.iter().for_each(|row| output::line(table::text(row, "/Name")));
        return Ok(0);
    }
    if given.value("format") == Some("json") {
        output::line(&serde_json::to_string(&rows)?);
        return Ok(0);
    }
    let columns = &[("Name", "NAME"), ("Status", "STATUS"), ("ConfigFiles", "CONFIG FILES")];
    table::list(columns, "{{.Name}}\t{{.Status}}\t{{.ConfigFiles}}", &rows, given.value("format"))?;
    Ok(0)
}

fn port(context: &Context, given: &Parsed) -> Outcome {
    let [service, port] = given.arguments.as_slice() else { return Ok(1) };
    let stack = Stack::found(context, given, std::slice::from_ref(service))?;
    let member = stack.member(service, Some(index(given)?.unwrap_or(1)), Kind::Service)?;
    let (port, protocol) = port.split_once('/').unwrap_or((port, given.value("protocol").unwrap_or("tcp")));
    let number: i64 = port.parse().map_err(|_| Failure::new(format!("bad port {port:?}; give a number")))?;
    let found = table::elements(&member.listed, "/Ports").iter().find(|one| {
        table::number(one, "/PrivatePort") == number
            && table::text(one, "/Type") == protocol
            && table::number(one, "/PublicPort") != 0
    });
    let Some(found) = found else {
        return Err(Failure::new(format!("port {number}/{protocol} of {} is not published", member.name)));
    };
    let address = table::text(found, "/IP");
    let address = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    output::line(&format!("{address}:{}", table::number(found, "/PublicPort")));
    Ok(0)
}

fn top(context: &Context, given: &Parsed) -> Outcome {
    let stack = Stack::found(context, given, &given.arguments)?;
    let mut client = stack.client();
    let mut rows: Vec<Vec<String>> = Vec::new();
    for member in stack.members_of(&given.arguments, Kind::Service)?.iter().filter(|member| member.is_running()) {
        let answer = client.get(&format!("/containers/{}/top", member.id))?;
        let cells = |row: &Value| -> Vec<String> {
            row.as_array().into_iter().flatten().map(|cell| cell.as_str().unwrap_or_default().to_owned()).collect()
        };
        if rows.is_empty() {
            let titles = cells(answer.get("Titles").unwrap_or(&Value::Null));
            rows.push([vec!["SERVICE".to_owned(), "#".to_owned()], titles].concat());
        }
        for process in table::elements(&answer, "/Processes") {
            rows.push([vec![member.service.clone(), member.number.to_string()], cells(process)].concat());
        }
    }
    output::print(&table::align(&rows));
    Ok(0)
}

fn stats(context: &Context, given: &Parsed) -> Outcome {
    let stack = Stack::found(context, given, &given.arguments)?;
    let members = stack.members_of(&given.arguments, Kind::Service)?;
    let mut words = Vec::new();
    for flag in ["no-stream", "no-trunc", "format"] {
        if let Some(value) = given.value(flag) {
            words.push(format!("--{flag}={value}"));
        }
    }
    let before = words.len();
    words.extend(members.into_iter().filter(|member| given.on("all") || member.is_running()).map(|member| member.name));
    if words.len() == before {
        output::note("no container of the project runs");
        return Ok(0);
    }
    hand_on(context, &container::stats::COMMAND, &words)
}

fn volumes(context: &Context, given: &Parsed) -> Outcome {
    let stack = Stack::found(context, given, &given.arguments)?;
    let filters = json!({"label": [format!("{}={}", label::PROJECT, stack.project.name)]});
    let listed = stack.client().get(&Query::default().with("filters", &filters.to_string()).behind("/volumes"))?;
    let mut wanted = BTreeSet::new();
    for name in &given.arguments {
        let service = stack.project.services.get(name);
        let mounts = service.into_iter().flat_map(|service| service.spec.volumes.iter());
        let sources = mounts.filter_map(|mount| stack.project.volumes.get(mount.source.as_deref()?));
        wanted.extend(sources.map(|volume| volume.spec.name.clone()));
    }
    let volumes = table::elements(&listed, "/Volumes").iter();
    let mut rows: Vec<Value> = volumes
        .filter(|volume| given.arguments.is_empty() || wanted.contains(table::text(volume, "/Name")))
        .map(|volume| {
            let labels = volume.get("Labels").and_then(Value::as_object).cloned().unwrap_or_else(Map::new);
            let labels = labels.iter().map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()));
            json!({"Driver": table::text(volume, "/Driver"), "Name": table::text(volume, "/Name"),
                "Mountpoint": table::text(volume, "/Mountpoint"), "Scope": table::text(volume, "/Scope"),
                "Labels": labels.collect::<Vec<_>>().join(",")})
        })
        .collect();
    rows.sort_by(|a, b| table::text(a, "/Name").cmp(table::text(b, "/Name")));
    if given.on("quiet") {
        rows.iter().for_each(|row| output::line(table::text(row, "/Name")));
        return Ok(0);
    }
    let columns = &[
        ("Driver", "DRIVER"),
        ("Labels", "LABELS"),
        ("Mountpoint", "MOUNTPOINT"),
        ("Name", "VOLUME NAME"),
        ("Scope", "SCOPE"),
    ];
    table::list(columns, "{{.Driver}}\t{{.Name}}", &rows, given.value("format"))?;
    Ok(0)
}
