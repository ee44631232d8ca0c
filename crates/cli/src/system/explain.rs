//! `insula explain`: what isolates a container, and what asked for it.

use docker_wire::extra::{Explanation, Section};

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
const WIDEST: usize = 60;

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
        let (what, value) = widths(section);
        for row in &section.rows {
            let line = format!("  {:<what$}  {:<value$}  ", row.what, row.value);
            text.push_str(&line);
            text.push_str(&paint(&row.because, "2"));
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
    }
    text
}

fn widths(section: &Section) -> (usize, usize) {
    let widest = |cells: &mut dyn Iterator<Item = &String>| {
        cells.map(|cell| cell.chars().count()).filter(|width| *width <= WIDEST).max().unwrap_or(0)
    };
    (widest(&mut section.rows.iter().map(|row| &row.what)), widest(&mut section.rows.iter().map(|row| &row.value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use docker_wire::extra::Row;

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
    }
}
