//! The page of what Insula does of the Docker Engine API, made from its table: `docs/compat/docker.toml` to `docs/compat/docker.md`.
//!
//! `cargo xtask docs` says when the page is not what the table says; `cargo xtask docs --write` writes it. Whether the table is
//! true, the tests of `docker_api` (every route is in it) and `e2e` (routes answer, fields are kept) ask.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use testkit::compat::{Does, PATH as TABLE, Route, Table};

const PAGE: &str = "docs/compat/docker.md";

/// What is wrong with table or page.
///
/// # Errors
/// When one of them can't be read, or the table is none.
pub(crate) fn faults(root: &Path) -> Result<Vec<String>> {
    let table = read(root)?;
    let mut faults = unsound(&table);
    let page = std::fs::read_to_string(root.join(PAGE)).unwrap_or_default();
    if page != render(&table) {
        faults.push(format!("{PAGE} is not what {TABLE} says; write it with: cargo xtask docs --write"));
    }
    Ok(faults)
}

/// Writes the page.
///
/// # Errors
/// When the table is none, or the page can't be written.
pub(crate) fn write(root: &Path) -> Result<()> {
    std::fs::write(root.join(PAGE), render(&read(root)?)).with_context(|| format!("cannot write {PAGE}"))
}

fn read(root: &Path) -> Result<Table> {
    let text = std::fs::read_to_string(root.join(TABLE)).with_context(|| format!("cannot read {TABLE}"))?;
    Table::parse(&text).with_context(|| format!("{TABLE} is no table"))
}

fn unsound(table: &Table) -> Vec<String> {
    let mut faults = Vec::new();
    let key = |route: &Route| route.call.split_once(' ').map(|(method, path)| (path.to_owned(), method.to_owned()));
    for pair in table.route.windows(2).filter(|pair| key(&pair[0]) >= key(&pair[1])) {
        faults.push(format!("{TABLE}: {} stands before {}", pair[0].call, pair[1].call));
    }
    for route in &table.route {
        let fields = route.query.iter().chain(&route.body).map(|field| (field.name.as_str(), field.does, &field.note));
        for (name, does, note) in fields.chain([("the route", route.does, &route.note)]) {
            if does != Does::Yes && note.is_empty() {
                faults.push(format!("{TABLE}: {}: {name} is \"{}\", and no note says why", route.call, does.word()));
            }
        }
    }
    faults
}

fn render(table: &Table) -> String {
    let count = |does: Does| table.route.iter().filter(|route| route.does == does).count();
    let mut page = format!(
        "# The Docker Engine API, v1.24 to v1.51\n\n\
         Made from [docker.toml](docker.toml), whose samples the tests set and look up again. {} routes: {} yes, {} partly, {} no.\n\n\
         | route | does | since | note |\n|---|---|---|---|\n",
        table.route.len(),
        count(Does::Yes),
        count(Does::Partly),
        count(Does::No)
    );
    for route in &table.route {
        let _ = writeln!(page, "| `{}` | {} | {} | {} |", route.call, route.does.word(), route.since, route.note);
    }
    for route in &table.route {
        section(&mut page, route);
    }
    page
}

fn section(page: &mut String, route: &Route) {
    if route.query.is_empty() && route.body.is_empty() && route.answer.is_empty() {
        return;
    }
    let _ = writeln!(page, "\n## {}\n", route.call);
    for (what, fields) in [("In the query", &route.query), ("In the body", &route.body)] {
        let names = |does: Does| fields.iter().filter(move |field| field.does == does);
        let yes: Vec<String> = names(Does::Yes).map(|field| format!("`{}`", field.name)).collect();
        if !yes.is_empty() {
            let _ = writeln!(page, "- {what}: {}", yes.join(", "));
        }
        for does in [Does::Partly, Does::No] {
            for field in names(does) {
                let _ = writeln!(page, "- {what}, {}: `{}`: {}", does.word(), field.name, field.note);
            }
        }
    }
    if !route.answer.is_empty() {
        let names: Vec<String> = route.answer.iter().map(|name| format!("`{name}`")).collect();
        let _ = writeln!(page, "- Always in the answer: {}", names.join(", "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"
        [[route]]
        call = "GET /a"
        does = "yes"
        query = [{ name = "all", does = "yes" }, { name = "b", does = "no", note = "why" }]
        answer = ["Id"]

        [[route]]
        call = "POST /a"
        does = "partly"
        note = "some"
        since = "1.25"
    "#;

    #[test]
    fn the_page_shows_every_route() {
        let table = Table::parse(SMALL).unwrap();
        assert!(unsound(&table).is_empty());
        let page = render(&table);
        assert!(page.contains("2 routes: 1 yes, 1 partly, 0 no."), "{page}");
        assert!(page.contains("| `POST /a` | partly | 1.25 | some |\n"), "{page}");
        assert!(page.ends_with(
            "## GET /a\n\n- In the query: `all`\n- In the query, no: `b`: why\n- Always in the answer: `Id`\n"
        ));
    }

    #[test]
    fn order_and_notes_are_asked_for() {
        let twice = format!("{SMALL}\n{SMALL}").replace("note = \"some\"", "");
        let faults = unsound(&Table::parse(&twice).unwrap());
        assert_eq!(faults.len(), 3, "{faults:?}");
    }
}
