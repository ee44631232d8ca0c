//! `insula version`.

use serde_json::{Value, json};

use crate::client::Client;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::flags::{Action, Command, Flag, Parsed};
use crate::template::Template;
use crate::{output, table};

pub(crate) static COMMAND: Command = Command {
    name: "version",
    usage: "[OPTIONS]",
    about: "Show the versions of the command line and the daemon",
    flags: &[&[
        Flag::value("format", "TEMPLATE", "Show as a template says, as in '{{.Server.Version}}', or json").short('f')
    ]],
    action: Action::Run(version),
    ..Command::BLANK
};

/// The line of `insula --version`.
pub(crate) fn line() -> String {
    format!("insula {}", env!("CARGO_PKG_VERSION"))
}

fn version(context: &Context, given: &Parsed) -> Outcome {
    let template = given.value("format").map(Template::parse).transpose().map_err(Failure::new)?;
    let server = Client::new(context).get("/version")?;
    let client = json!({
        "Version": env!("CARGO_PKG_VERSION"), "ApiVersion": docker_wire::API_VERSION,
        "DefaultAPIVersion": docker_wire::API_VERSION, "Os": std::env::consts::OS,
        "Arch": match std::env::consts::ARCH { "x86_64" => "amd64", "aarch64" => "arm64", other => other },
    });
    if let Some(template) = template {
        let both = json!({"Client": client, "Server": server});
        output::line(&template.fill(&both).map_err(Failure::new)?);
        return Ok(0);
    }
    let mut text = String::from("Client:\n");
    push(&mut text, &client, &[("Version", "/Version"), ("API version", "/ApiVersion")]);
    text.push_str(&format!(" {:<19}{}/{}\n", "OS/Arch:", table::text(&client, "/Os"), table::text(&client, "/Arch")));
    text.push_str("\nServer:\n");
    push(
        &mut text,
        &server,
        &[
            ("Version", "/Version"),
            ("API version", "/ApiVersion"),
            ("Least API version", "/MinAPIVersion"),
            ("Kernel", "/KernelVersion"),
        ],
    );
    text.push_str(&format!(" {:<19}{}/{}\n", "OS/Arch:", table::text(&server, "/Os"), table::text(&server, "/Arch")));
    output::print(&text);
    Ok(0)
}

fn push(text: &mut String, value: &Value, rows: &[(&str, &str)]) {
    for (title, path) in rows {
        let title = format!("{title}:");
        text.push_str(&format!(" {title:<19}{}\n", table::text(value, path)).replace("  \n", "\n"));
    }
}
