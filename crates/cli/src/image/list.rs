//! `insula images`.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::client::{Client, Query, filters};
use crate::container::ps::short_id;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::flags::{Action, Command, Flag, Parsed};
use crate::image::split_tag;
use crate::output;
use crate::table::{self, Column};
use crate::value::time;

static FLAGS: &[Flag] = &[
    Flag::switch("all", "Show those between, too").short('a'),
    Flag::switch("digests", "Show digests"),
    Flag::list("filter", "NAME=VALUE", "Only those with this: reference=, label=, dangling=, before=, since=")
        .short('f'),
    Flag::value("format", "TEMPLATE", "Show as a template says: 'table …', '{{.Repository}}' or json"),
    Flag::switch("no-trunc", "Shorten nothing"),
    Flag::switch("quiet", "Show only ids").short('q'),
];

pub(crate) static IMAGES: Command = Command {
    name: "images",
    usage: "[OPTIONS] [NAME[:TAG]]",
    about: "List images",
    flags: &[FLAGS],
    arguments: (0, 1),
    action: Action::Run(list),
    ..Command::BLANK
};

pub(crate) static LS: Command = Command {
    name: "ls",
    aliases: &["list"],
    usage: "[OPTIONS] [NAME[:TAG]]",
    about: "List images",
    flags: &[FLAGS],
    arguments: (0, 1),
    action: Action::Run(list),
    ..Command::BLANK
};

pub(crate) const COLUMNS: &[Column] = &[
    ("Containers", "CONTAINERS"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedSince", "CREATED"),
    ("Digest", "DIGEST"),
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("SharedSize", "SHARED SIZE"),
    ("Size", "SIZE"),
    ("Tag", "TAG"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("VirtualSize", "SIZE"),
];
const SHOWN: &str = "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}";
const WITH_DIGESTS: &str = "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}";

fn list(context: &Context, given: &Parsed) -> Outcome {
    let mut wanted: Vec<String> = given.values("filter").map(str::to_owned).collect();
    wanted.extend(given.arguments.first().map(|name| format!("reference={name}")));
    let query = Query::default()
        .flag("all", given.on("all"))
        .flag("digests", given.on("digests"))
        .with_some("filters", filters(wanted.iter().map(String::as_str))?.as_deref());
    let answer = Client::new(context).get(&query.behind("/images/json"))?;
    let mut rows = Vec::new();
    for image in table::elements(&answer, "") {
        rows.extend(rows_of(image, given.on("no-trunc"), Timestamp::now()));
    }
    if given.on("quiet") && given.value("format").is_none() {
        let mut ids: Vec<&str> = rows.iter().map(|row| table::text(row, "/ID")).collect();
        ids.dedup();
        ids.into_iter().for_each(output::line);
        return Ok::<_, Failure>(0);
    }
    let shown = if given.on("digests") { WITH_DIGESTS } else { SHOWN };
    table::list(COLUMNS, shown, &rows, given.value("format"))?;
    Ok(0)
}

/// A row for each name of an image; one without names has a row of its own.
pub(crate) fn rows_of(image: &Value, whole: bool, now: Timestamp) -> Vec<Value> {
    let none = "<none>";
    let id = table::text(image, "/Id");
    let created = table::number(image, "/Created");
    let digests: Vec<&str> = table::elements(image, "/RepoDigests").iter().filter_map(Value::as_str).collect();
    let digest_of = |repository: &str| {
        let of = digests.iter().filter_map(|digest| digest.split_once('@')).find(|(name, _)| *name == repository);
        of.map_or(none, |(_, digest)| digest).to_owned()
    };
    let mut names: Vec<(String, String)> = table::elements(image, "/RepoTags")
        .iter()
        .filter_map(Value::as_str)
        .map(|name| {
            let (repository, tag) = split_tag(name);
            (repository.to_owned(), tag.unwrap_or(none).to_owned())
        })
        .collect();
    if names.is_empty() {
        let repository = digests.first().and_then(|digest| digest.split_once('@')).map_or(none, |(name, _)| name);
        names.push((repository.to_owned(), none.to_owned()));
    }
    let size = table::decimal_size(table::number(image, "/Size"), 3);
    let counted = |path: &str| match table::number(image, path) {
        -1 => "N/A".to_owned(),
        bytes => table::decimal_size(bytes, 3),
    };
    let row = |(repository, tag): (String, String)| {
        json!({
            "ID": if whole { id.to_owned() } else { short_id(id) },
            "Digest": digest_of(&repository),
            "Repository": repository,
            "Tag": tag,
            "CreatedAt": time::shown(created),
            "CreatedSince": format!("{} ago", time::in_words(now.as_second() - created)),
            "Size": size,
            "VirtualSize": size,
            "SharedSize": counted("/SharedSize"),
            "UniqueSize": "N/A",
            "Containers": match table::number(image, "/Containers") { -1 => "N/A".to_owned(), count => count.to_string() },
        })
    };
    names.into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_a_row_for_each_name() {
        let image = json!({"Id": "sha256:0123456789abcdef", "RepoTags": ["web:2", "host:5000/web:3"], "Created": 0, "Size": 117_000_000,
            "RepoDigests": ["web@sha256:aa"]});
        let rows = rows_of(&image, false, Timestamp::from_second(7200).unwrap());
        let cells: Vec<[&str; 6]> = rows
            .iter()
            .map(|row| {
                ["/Repository", "/Tag", "/ID", "/CreatedSince", "/Size", "/Digest"].map(|name| table::text(row, name))
            })
            .collect();
        assert_eq!(
            cells,
            [
                ["web", "2", "0123456789ab", "2 hours ago", "117MB", "sha256:aa"],
                ["host:5000/web", "3", "0123456789ab", "2 hours ago", "117MB", "<none>"],
            ]
        );
        let rows = rows_of(&json!({"Id": "x", "RepoTags": null}), false, Timestamp::UNIX_EPOCH);
        assert_eq!(table::text(&rows[0], "/Repository"), "<none>");
        for (name, _) in COLUMNS {
            assert!(rows[0].get(name).is_some(), "{name}");
        }
    }
}
