//! `insula explain`: what isolates a container, and what asked for it.

use docker_wire::extra::{Explanation, Row};

use crate::client::{Client, encode};
use crate::context::Context;
use crate::failure::{During as _, Outcome};
use crate::flags::{Action, Command, Flag, Parsed};
use crate::{output, table, terminal};

pub(crate) static COMMAND: Command = Command {
    name: "explain",
    usage: "[OPTIONS] CONTAINER",
    about: "Show what isolates a container, and which flag or default asked for it",
    flags: &[&[Flag::switch("json", "Show as JSON")]],
    arguments: (1, 1),
    action: Action::Run(explain),
    ..Command::BLANK
};

/// The widest that the first two columns get in a terminal before lines are left to wrap.
const WIDEST: usize = 80;

fn explain(context: &Context, given: &Parsed) -> Outcome {
    let raw = Client::new(context).get_bytes(&format!("/insula/explain/{}", encode(given.first())))?;
    if given.on("json") {
        output::line(&table::pretty(&raw));
        return Ok(0);
    }
    let explanation: Explanation =
        serde_json::from_slice(&raw).during(|| "the daemon's explanation is not one".to_owned())?;
    output::print(&shown(&explanation, terminal::is_output()));
    Ok(0)
}

fn shown(explanation: &Explanation, coloured: bool) -> String {
    let paint = |text: &str, code: &str| if coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() };
    let mut text = format!(
        "{} ({}), {}",
        paint(&explanation.name, "1"),
        explanation.id.chars().take(12).collect::<String>(),
        explanation.status
    );
    if explanation.pid > 0 {
        text.push_str(&format!(", pid {}", explanation.pid));
    }
    text.push('\n');
    for section in &explanation.sections {
        text.push_str(&format!("\n{}\n", paint(&section.title.to_uppercase(), "1")));
        let cells: Vec<[String; 3]> = section.rows.iter().flat_map(|row| lines_of(row, &explanation.id)).collect();
        let width = |column: usize| {
            let widths = cells.iter().filter_map(|cells| cells.get(column)).map(|cell| cell.chars().count());
            widths.filter(|width| *width <= WIDEST).max().unwrap_or(0)
        };
        let (what_width, value_width) = (width(0), width(1));
        for [what, value, because] in cells {
            let line = format!("  {what:<what_width$}  {value:<value_width$}  ");
            let line = if because.is_empty() { line } else { format!("{line}{}", paint(&because, "2")) };
            text.push_str(line.trim_end());
            text.push('\n');
        }
    }
    text
}

/// A row's cells: a value of several lines continues below, and the container's id is shortened where it is part of a path.
fn lines_of(row: &Row, id: &str) -> Vec<[String; 3]> {
    let short = |text: &str| match (id.get(..12), id.len()) {
        (Some(start), 13..) => text.replace(id, &format!("{start}…")),
        _ => text.to_owned(),
    };
    let mut values = row.value.lines();
    let mut lines = vec![[short(&row.what), short(values.next().unwrap_or_default()), row.because.clone()]];
    lines.extend(values.map(|value| [String::new(), short(value), String::new()]));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use docker_wire::extra::Section;

    #[test]
    fn sections_are_aligned() {
        let row = |what: &str, value: &str, because: &str| Row {
            what: what.into(),
            value: value.into(),
            because: because.into(),
        };
        let explanation = Explanation {
            id: "0123456789abcdef".into(),
            name: "web".into(),
            status: "running".into(),
            pid: 7,
            sections: vec![Section {
                title: "cgroup".into(),
                rows: vec![row("memory.limit_in_bytes", "536870912", "-m 512m"), row("pids.max", "max", "default")],
            }],
        };
        let expect = "web (0123456789ab), running, pid 7\n\nCGROUP\n  memory.limit_in_bytes  536870912  -m 512m\n  pids.max               max        default\n";
        assert_eq!(shown(&explanation, false), expect);
        assert!(shown(&explanation, true).contains("\x1b[2m-m 512m\x1b[0m"));
        let cells = lines_of(&row("/x/0123456789abcdef/y", "a\nb", "default"), "0123456789abcdef");
        assert_eq!(cells, [["/x/0123456789ab…/y", "a", "default"], ["", "b", ""]]);
    }
}
