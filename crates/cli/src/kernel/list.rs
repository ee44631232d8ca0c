//! `insula kernel list`, `default` and `rm`.

use serde_json::{Value, json};

use super::shelf::Shelf;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::flags::{Action, Command, Flag, Parsed};
use crate::{output, table};

pub(super) static COMMAND: Command = Command {
    name: "list",
    aliases: &["ls"],
    usage: "[OPTIONS]",
    about: "List the kernels that are installed",
    flags: &[&[
        Flag::switch("check", "Read every file and compare it with its checksum"),
        Flag::value("format", "TEMPLATE", "As a table, a Go template, or json"),
        Flag::switch("quiet", "Only the names").short('q'),
    ]],
    action: Action::Run(list),
    ..Command::BLANK
};

pub(super) static DEFAULT: Command = Command {
    name: "default",
    usage: "[NAME]",
    about: "Show or choose the kernel of machines for which none is named",
    arguments: (0, 1),
    action: Action::Run(default),
    ..Command::BLANK
};

pub(super) static RM: Command = Command {
    name: "rm",
    usage: "NAME [NAME...]",
    about: "Remove kernels",
    arguments: (1, Command::MANY),
    action: Action::Run(remove),
    ..Command::BLANK
};

const COLUMNS: &[table::Column] = &[
    ("Name", "NAME"),
    ("Release", "RELEASE"),
    ("Source", "SOURCE"),
    ("Size", "SIZE"),
    ("Default", "DEFAULT"),
    ("Path", "PATH"),
    ("Installed", "INSTALLED"),
];
const SHOWN: &str = "{{.Name}}\t{{.Release}}\t{{.Source}}\t{{.Size}}\t{{.Default}}\t{{.Path}}";

fn list(context: &Context, given: &Parsed) -> Outcome {
    let shelf = Shelf::of(context);
    let (records, default) = (shelf.list(), shelf.default_name());
    if given.on("quiet") {
        records.iter().for_each(|record| output::line(&record.name));
    } else {
        let rows: Vec<Value> = records
            .iter()
            .map(|record| {
                let size: u64 = record.files.iter().map(|file| file.size).sum();
                json!({
                    "Name": record.name,
                    "Release": record.release,
                    "Source": record.source,
                    "Size": table::decimal_size(i64::try_from(size).unwrap_or(i64::MAX), 3),
                    "Default": if default.as_deref() == Some(record.name.as_str()) { "yes" } else { "" },
                    "Path": shelf.place(&record.name),
                    "Installed": record.installed,
                })
            })
            .collect();
        table::list(COLUMNS, SHOWN, &rows, given.value("format"))?;
    }
    let mut code = 0;
    for record in records.iter().filter(|_| given.on("check")) {
        for file in shelf.damaged(record) {
            let name = &record.name;
            output::note(&format!(
                "{file} of the kernel {name:?} is damaged; remove it with: insula kernel rm {name}, and install it again"
            ));
            code = 1;
        }
    }
    Ok(code)
}

fn default(context: &Context, given: &Parsed) -> Outcome {
    let shelf = Shelf::of(context);
    match given.arguments.first() {
        Some(name) => shelf.set_default(name)?,
        None => {
            let none = || Failure::new("no kernel is the default; install one with: insula kernel install");
            output::line(&shelf.default_name().ok_or_else(none)?);
        }
    }
    Ok(0)
}

fn remove(context: &Context, given: &Parsed) -> Outcome {
    let shelf = Shelf::of(context);
    let mut code = 0;
    for name in &given.arguments {
        match shelf.remove(name) {
            Ok(()) => output::line(name),
            Err(failure) => {
                output::note(failure.text());
                code = 1;
            }
        }
    }
    Ok(code)
}
