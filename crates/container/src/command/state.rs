//! `state`: what the specification wants to be known of a container.

use super::flags::{Command, Order, Parsed};
use super::{Context, Failure, Outcome, print};
use crate::runtime::life::Known;
use crate::runtime::status::Status;
use serde::Serialize;
use std::collections::HashMap;
use std::path::Path;

pub(super) static COMMAND: Command = Command {
    name: "state",
    usage: "ID",
    about: "print the state of a container",
    flags: &[],
    order: Order::Mixed,
    arguments: (1, 1),
    failure_code: 1,
    run,
};

/// The state as runc prints it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Shown<'a> {
    oci_version: &'a str,
    id: &'a str,
    pid: i32,
    status: String,
    bundle: &'a Path,
    rootfs: &'a Path,
    created: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<&'a HashMap<String, String>>,
    owner: String,
}

impl<'a> Shown<'a> {
    pub(super) fn of(known: &'a Known) -> Self {
        let record = &known.record;
        let alive = !matches!(known.status, Status::Stopped | Status::Creating);
        Self {
            oci_version: &record.oci_version,
            id: &record.id,
            pid: known.birth.as_ref().filter(|_| alive).map_or(0, |birth| birth.pid),
            status: known.status.to_string(),
            bundle: &record.bundle,
            rootfs: &record.rootfs,
            created: &record.created,
            annotations: (*record.annotations).as_ref().filter(|all| !all.is_empty()),
            owner: user_name(record.owner),
        }
    }

    /// A line of the table of `list`.
    pub(super) fn row(&self) -> [String; 6] {
        let bundle = self.bundle.display().to_string();
        [
            self.id.to_owned(),
            self.pid.to_string(),
            self.status.clone(),
            bundle,
            self.created.to_owned(),
            self.owner.clone(),
        ]
    }
}

/// The name of a user by passwd(5), or `#` and the number.
fn user_name(uid: u32) -> String {
    if uid == 0 {
        return "root".to_owned();
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("#{uid}"))
}

fn run(context: &Context, parsed: &Parsed) -> Outcome {
    let known = Known::find(&context.root, parsed.id())?;
    let text = serde_json::to_string_pretty(&Shown::of(&known)).map_err(|error| Failure::new(error.to_string()))?;
    print(&format!("{text}\n"));
    Ok(0)
}
