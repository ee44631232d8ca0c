//! `insula history`: how an image came to be.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::client::{Client, Query, encode};
use crate::container::ps::short_id;
use crate::context::Context;
use crate::failure::Outcome;
use crate::flags::{Action, Command, Flag, Parsed};
use crate::output;
use crate::table::{self, Column};
use crate::value::time;

pub(crate) static COMMAND: Command = Command {
    name: "history",
    usage: "[OPTIONS] IMAGE",
    about: "Show how an image came to be",
    flags: &[&[
        Flag::value("format", "TEMPLATE", "Show as a template says: 'table …', '{{.CreatedBy}}' or json"),
        Flag::switch("human", "Sizes and times in words").short('H'),
        Flag::switch("no-trunc", "Shorten nothing"),
        super::archive::PLATFORM,
        Flag::switch("quiet", "Show only ids").short('q'),
    ]],
    arguments: (1, 1),
    action: Action::Run(history),
    ..Command::BLANK
};

const COLUMNS: &[Column] = &[
    ("Comment", "COMMENT"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("CreatedSince", "CREATED"),
    ("ID", "IMAGE"),
    ("Size", "SIZE"),
];
const SHOWN: &str = "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}";
/// Letters of an instruction that are shown.
const LETTERS: usize = 44;

fn history(context: &Context, given: &Parsed) -> Outcome {
    let query = Query::default().with_some("platform", super::archive::platform(given)?.as_deref());
    let answer = Client::new(context).get(&query.behind(&format!("/images/{}/history", encode(given.first()))))?;
    let (whole, now) = (given.on("no-trunc"), Timestamp::now());
    let row = |step: &Value| {
        let (id, created) = (table::text(step, "/Id"), table::number(step, "/Created"));
        let by = table::text(step, "/CreatedBy").replace('\t', " ");
        let by = match by.char_indices().nth(LETTERS) {
            Some((at, _)) if !whole => format!("{}…", by.get(..at).unwrap_or_default()),
            _ => by,
        };
        let bytes = table::number(step, "/Size");
        json!({
            "ID": if whole || id.starts_with('<') { id.to_owned() } else { short_id(id) },
            "CreatedAt": time::shown(created),
            "CreatedSince": format!("{} ago", time::in_words(now.as_second() - created)),
            "CreatedBy": by,
            "Size": if given.off("human") { bytes.to_string() } else { table::decimal_size(bytes, 3) },
            "Comment": table::text(step, "/Comment"),
        })
    };
    let rows: Vec<Value> = table::elements(&answer, "").iter().map(row).collect();
    if given.on("quiet") {
        rows.iter().for_each(|row| output::line(table::text(row, "/ID")));
        return Ok(0);
    }
    table::list(COLUMNS, SHOWN, &rows, given.value("format"))?;
    Ok(0)
}
