//! `insula info`.

use serde_json::Value;

use crate::client::Client;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::flags::{Action, Command, Flag, Parsed};
use crate::template::Template;
use crate::{output, table};

pub(crate) static COMMAND: Command = Command {
    name: "info",
    usage: "[OPTIONS]",
    about: "Show what the daemon says of itself and the host",
    flags: &[&[Flag::value("format", "TEMPLATE", "Show as a template says, as in '{{.Driver}}', or json").short('f')]],
    action: Action::Run(info),
    ..Command::BLANK
};

/// The lines, and where the daemon's answer has their values.
const LINES: &[(&str, &str)] = &[
    ("Containers", "/Containers"),
    (" Running", "/ContainersRunning"),
    (" Paused", "/ContainersPaused"),
    (" Stopped", "/ContainersStopped"),
    ("Images", "/Images"),
    ("Server Version", "/ServerVersion"),
    ("Storage Driver", "/Driver"),
    ("Logging Driver", "/LoggingDriver"),
    ("Cgroup Driver", "/CgroupDriver"),
    ("Cgroup Version", "/CgroupVersion"),
    ("Default Runtime", "/DefaultRuntime"),
    ("Init Binary", "/InitBinary"),
    ("Kernel Version", "/KernelVersion"),
    ("Operating System", "/OperatingSystem"),
    ("OSType", "/OSType"),
    ("Architecture", "/Architecture"),
    ("CPUs", "/NCPU"),
    ("Total Memory", "/MemTotal"),
    ("Name", "/Name"),
    ("ID", "/ID"),
    ("Root Dir", "/DockerRootDir"),
    ("Live Restore Enabled", "/LiveRestoreEnabled"),
];

fn info(context: &Context, given: &Parsed) -> Outcome {
    let template = given.value("format").map(Template::parse).transpose().map_err(Failure::new)?;
    let answer = Client::new(context).get("/info")?;
    if let Some(template) = template {
        output::line(&template.fill(&answer).map_err(Failure::new)?);
        return Ok(0);
    }
    let mut text = String::new();
    for (title, path) in LINES {
        let shown = match answer.pointer(path) {
            None | Some(Value::Null) => continue,
            Some(Value::String(value)) if value.is_empty() => continue,
            Some(Value::String(value)) => value.clone(),
            Some(Value::Number(bytes)) if *path == "/MemTotal" => table::binary_size(bytes.as_i64().unwrap_or(0), 4),
            Some(other) => other.to_string(),
        };
        text.push_str(&format!("{title}: {shown}\n"));
        if *path == "/Driver" {
            for pair in table::elements(&answer, "/DriverStatus") {
                text.push_str(&format!(" {}: {}\n", table::text(pair, "/0"), table::text(pair, "/1")));
            }
        }
    }
    let options: Vec<&str> = table::elements(&answer, "/SecurityOptions").iter().filter_map(Value::as_str).collect();
    if !options.is_empty() {
        text.push_str(&format!("Security Options:\n {}\n", options.join("\n ")));
    }
    for warning in table::elements(&answer, "/Warnings").iter().filter_map(Value::as_str) {
        output::note(warning);
    }
    output::print(&text);
    Ok(0)
}
