//! `insula system df`.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::client::Client;
use crate::container::ps;
use crate::context::Context;
use crate::failure::Outcome;
use crate::flags::{Action, Command, Flag, Parsed};
use crate::image::list as images;
use crate::table::{self, Column};
use crate::value::time;
use crate::volume::list as volumes;
use crate::{output, template::Template};

pub(crate) static COMMAND: Command = Command {
    name: "df",
    usage: "[OPTIONS]",
    about: "Show what takes room on the disk",
    flags: &[&[
        Flag::value("format", "TEMPLATE", "Show as a template says: 'table …', '{{.Size}}' or json"),
        Flag::switch("verbose", "Show every single thing").short('v'),
    ]],
    action: Action::Run(df),
    ..Command::BLANK
};

const COLUMNS: &[Column] = &[
    ("Active", "ACTIVE"),
    ("Reclaimable", "RECLAIMABLE"),
    ("Size", "SIZE"),
    ("TotalCount", "TOTAL"),
    ("Type", "TYPE"),
];
const SHOWN: &str = "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}";

const IMAGES: &str = "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}";
const CONTAINERS: &str =
    "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}";
const VOLUMES: &str = "{{.Name}}\t{{.Links}}\t{{.Size}}";
const CACHE: &str =
    "{{.ID}}\t{{.CacheType}}\t{{.Size}}\t{{.CreatedSince}}\t{{.LastUsedSince}}\t{{.UsageCount}}\t{{.Shared}}";

const CACHE_COLUMNS: &[Column] = &[
    ("CacheType", "CACHE TYPE"),
    ("CreatedAt", "CREATED"),
    ("CreatedSince", "CREATED"),
    ("Description", "DESCRIPTION"),
    ("ID", "CACHE ID"),
    ("InUse", "IN USE"),
    ("LastUsedAt", "LAST USED"),
    ("LastUsedSince", "LAST USED"),
    ("Parent", "PARENT"),
    ("Shared", "SHARED"),
    ("Size", "SIZE"),
    ("UsageCount", "USAGE"),
];

fn df(context: &Context, given: &Parsed) -> Outcome {
    let answer = Client::new(context).get("/system/df")?;
    match (given.on("verbose"), given.value("format")) {
        (false, format) => table::list(COLUMNS, SHOWN, &summary(&answer), format)?,
        (true, None | Some("" | "table")) => verbose(&answer)?,
        (true, Some(format)) => {
            let whole = json!({
                "Images": image_rows(&answer), "Containers": container_rows(&answer), "Volumes": volume_rows(&answer),
                "BuildCache": cache_rows(&answer),
            });
            let template = Template::parse(format).map_err(crate::failure::Failure::new)?;
            output::line(&template.fill(&whole).map_err(crate::failure::Failure::new)?);
        }
    }
    Ok(0)
}

fn summary(answer: &Value) -> Vec<Value> {
    let images = table::elements(answer, "/Images");
    let containers = table::elements(answer, "/Containers");
    let volumes = table::elements(answer, "/Volumes");
    let cache = table::elements(answer, "/BuildCache");
    let sum = |list: &[Value], path: &str, counts: &dyn Fn(&Value) -> bool| {
        list.iter().filter(|item| counts(item)).map(|item| table::number(item, path).max(0)).sum::<i64>()
    };
    let all = |_: &Value| true;
    let image_size = match table::number(answer, "/LayersSize") {
        0 => sum(images, "/Size", &all),
        size => size,
    };
    let used = |image: &Value| table::number(image, "/Containers") > 0;
    let running = |container: &Value| matches!(table::text(container, "/State"), "running" | "paused" | "restarting");
    let linked = |volume: &Value| table::number(volume, "/UsageData/RefCount") > 0;
    let in_use = |entry: &Value| table::switch(entry, "/InUse");
    let private = |entry: &Value| !table::switch(entry, "/Shared");
    let row = |kind: &str, list: &[Value], active: &dyn Fn(&Value) -> bool, size: i64, reclaimable: i64| {
        let count = list.iter().filter(|item| active(item)).count();
        row(kind, list.len(), count, size, reclaimable)
    };
    let (written, kept) = (sum(containers, "/SizeRw", &all), sum(containers, "/SizeRw", &running));
    let (held, bound) = (sum(volumes, "/UsageData/Size", &all), sum(volumes, "/UsageData/Size", &linked));
    let cached = sum(cache, "/Size", &private);
    vec![
        row("Images", images, &used, image_size, image_size - sum(images, "/Size", &used)),
        row("Containers", containers, &running, written, written - kept),
        row("Local Volumes", volumes, &linked, held, held - bound),
        row("Build Cache", cache, &in_use, cached, sum(cache, "/Size", &|entry| private(entry) && !in_use(entry))),
    ]
}

fn row(kind: &str, total: usize, active: usize, size: i64, reclaimable: i64) -> Value {
    let reclaimable = reclaimable.max(0);
    let share = if size > 0 { format!(" ({}%)", reclaimable * 100 / size) } else { String::new() };
    json!({
        "Type": kind, "TotalCount": total.to_string(), "Active": active.to_string(),
        "Size": table::decimal_size(size, 4), "Reclaimable": format!("{}{share}", table::decimal_size(reclaimable, 4)),
    })
}

fn image_rows(answer: &Value) -> Vec<Value> {
    let now = Timestamp::now();
    table::elements(answer, "/Images").iter().flat_map(|image| images::rows_of(image, false, now)).collect()
}

fn container_rows(answer: &Value) -> Vec<Value> {
    let now = Timestamp::now();
    let one = |container: &Value| {
        let mut row = ps::row(container, false, now);
        let mounts = table::elements(container, "/Mounts");
        let local = mounts.iter().filter(|mount| table::text(mount, "/Driver") == "local").count();
        row["LocalVolumes"] = local.to_string().into();
        row
    };
    table::elements(answer, "/Containers").iter().map(one).collect()
}

fn volume_rows(answer: &Value) -> Vec<Value> {
    table::elements(answer, "/Volumes").iter().map(volumes::row).collect()
}

fn cache_rows(answer: &Value) -> Vec<Value> {
    let now = Timestamp::now().as_second();
    let ago = |entry: &Value, path: &str| match table::text(entry, path).parse::<Timestamp>() {
        Ok(at) => format!("{} ago", time::in_words(now - at.as_second())),
        Err(_) => String::new(),
    };
    let one = |entry: &Value| {
        json!({
            "ID": ps::short_id(table::text(entry, "/ID")), "CacheType": table::text(entry, "/Type"),
            "Size": table::decimal_size(table::number(entry, "/Size"), 3), "CreatedSince": ago(entry, "/CreatedAt"),
            "CreatedAt": table::text(entry, "/CreatedAt"), "LastUsedSince": ago(entry, "/LastUsedAt"),
            "LastUsedAt": table::text(entry, "/LastUsedAt"), "Shared": table::switch(entry, "/Shared").to_string(),
            "UsageCount": table::number(entry, "/UsageCount").to_string(), "InUse": table::switch(entry, "/InUse").to_string(),
            "Description": table::text(entry, "/Description"), "Parent": "",
        })
    };
    table::elements(answer, "/BuildCache").iter().map(one).collect()
}

fn verbose(answer: &Value) -> Result<(), crate::failure::Failure> {
    output::line("Images space usage:\n");
    table::list(images::COLUMNS, IMAGES, &image_rows(answer), None)?;
    output::line("\nContainers space usage:\n");
    table::list(ps::COLUMNS, CONTAINERS, &container_rows(answer), None)?;
    output::line("\nLocal Volumes space usage:\n");
    table::list(volumes::COLUMNS, VOLUMES, &volume_rows(answer), None)?;
    let cache = table::elements(answer, "/BuildCache");
    let size: i64 = cache.iter().map(|entry| table::number(entry, "/Size")).sum();
    output::line(&format!("\nBuild cache usage: {}\n", table::decimal_size(size, 4)));
    table::list(CACHE_COLUMNS, CACHE, &cache_rows(answer), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_say_what_could_be_freed() {
        let answer = json!({
            "LayersSize": 100, "Images": [{"Size": 60, "Containers": 1}, {"Size": 40, "Containers": 0}],
            "Containers": [{"State": "running", "SizeRw": 10}, {"State": "exited", "SizeRw": 30}],
            "Volumes": [{"UsageData": {"Size": 5, "RefCount": 0}}, {"UsageData": {"Size": -1, "RefCount": 1}}],
            "BuildCache": [{"Size": 7, "InUse": false, "Shared": false}, {"Size": 9, "InUse": false, "Shared": true}],
        });
        let cells: Vec<[String; 4]> = summary(&answer)
            .iter()
            .map(|row| {
                ["/TotalCount", "/Active", "/Size", "/Reclaimable"].map(|path| table::text(row, path).to_owned())
            })
            .collect();
        let expect = [
            ["2", "1", "100B", "40B (40%)"],
            ["2", "1", "40B", "30B (75%)"],
            ["2", "1", "5B", "5B (100%)"],
            ["2", "0", "7B", "7B (100%)"],
        ];
        assert_eq!(cells, expect.map(|row| row.map(str::to_owned)));
        for (name, _) in CACHE_COLUMNS {
            assert!(cache_rows(&answer)[0].get(name).is_some_and(Value::is_string), "{name}");
        }
    }
}
