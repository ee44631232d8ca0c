//! What happens in a build, shown: a block of the steps at work on a terminal, plain lines elsewhere.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Instant;

use docker_wire::extra::BuildLine;

use crate::{output, terminal};

/// The longest line of a step's output that is shown on a terminal, in characters, if the terminal does not say.
const WIDTH: usize = 80;

/// How it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Show {
    Plain,
    /// The same lines on standard output.
    PlainOut,
    Terminal,
    Quiet,
}

impl Show {
    fn is_plain(self) -> bool {
        matches!(self, Self::Plain | Self::PlainOut)
    }

    pub(crate) fn find(name: &str) -> Result<Self, String> {
        match name {
            "auto" if terminal::is_error() => Ok(Self::Terminal),
            "auto" | "plain" => Ok(Self::Plain),
            "tty" => Ok(Self::Terminal),
            "quiet" | "none" => Ok(Self::Quiet),
            other => Err(format!("bad value {other:?} for --progress: give auto, plain, tty or quiet")),
        }
    }
}

struct Step {
    text: String,
    begun: Instant,
    cached: bool,
    /// The last line of output, and what follows it so far.
    last: String,
    open: String,
}

pub(super) struct View {
    show: Show,
    steps: usize,
    begun: Instant,
    running: BTreeMap<usize, Step>,
    /// How many lines of the block are on the terminal.
    drawn: usize,
}

impl View {
    pub(super) fn new(show: Show) -> Self {
        Self { show, steps: 0, begun: Instant::now(), running: BTreeMap::new(), drawn: 0 }
    }

    pub(super) fn line(&mut self, line: BuildLine) {
        let mut above = String::new();
        match line {
            BuildLine::Planned(steps) => self.steps = steps,
            BuildLine::Warning(text) => above = format!("warning: {text}\n"),
            BuildLine::Begun(_, step, text) => {
                if self.show.is_plain() {
                    above = format!("#{step} [{step}/{}] {}\n", self.steps, first_line(&text));
                }
                let (last, open) = Default::default();
                self.running.insert(step, Step { text, begun: Instant::now(), cached: false, last, open });
            }
            BuildLine::Cached(step) => {
                if let Some(step) = self.running.get_mut(&step) {
                    step.cached = true;
                }
            }
            BuildLine::Output(step, text) => above = self.output(step, &text),
            BuildLine::Done(number) => above = self.done(number),
            BuildLine::Checked(..) | BuildLine::Image(..) | BuildLine::Together(_) | BuildLine::Error(_) => {}
        }
        self.draw(&above);
    }

    fn output(&mut self, number: usize, text: &str) -> String {
        let Some(step) = self.running.get_mut(&number) else { return String::new() };
        let mut above = String::new();
        step.open.push_str(text);
        while let Some(at) = step.open.find('\n') {
            let line: String = step.open.drain(..=at).collect();
            let line = line.trim_end();
            if self.show.is_plain() {
                // writing to a string does not fail
                let _ = writeln!(above, "#{number} {line}");
            }
            line.clone_into(&mut step.last);
        }
        above
    }

    fn done(&mut self, number: usize) -> String {
        let Some(step) = self.running.remove(&number) else { return String::new() };
        let seconds = step.begun.elapsed().as_secs_f64();
        let end = if step.cached { "cached".to_owned() } else { format!("{seconds:.1}s") };
        match self.show.is_plain() {
            true => {
                let rest = if step.open.is_empty() { String::new() } else { format!("#{number} {}\n", step.open) };
                format!("{rest}#{number} {}\n", if step.cached { "CACHED".to_owned() } else { format!("DONE {end}") })
            }
            false => format!("[{number}/{}] {}  {end}\n", self.steps, clean(first_line(&step.text))),
        }
    }

    fn draw(&mut self, above: &str) {
        match self.show {
            Show::Quiet => {}
            Show::Plain => output::write_error(above.as_bytes()),
            Show::PlainOut => output::write(above.as_bytes()),
            Show::Terminal => {
                let mut text = self.erase();
                text.push_str(above);
                let width = terminal::size().map_or(WIDTH, |(_, columns)| columns.into());
                for (number, step) in &self.running {
                    let head = format!("[{number}/{}] {}", self.steps, clean(first_line(&step.text)));
                    text.push_str(&format!("{}\n", cut(&head, width)));
                    self.drawn += 1;
                    if !step.last.is_empty() {
                        text.push_str(&format!("{}\n", cut(&format!("    {}", clean(&step.last)), width)));
                        self.drawn += 1;
                    }
                }
                output::write_error(text.as_bytes());
            }
        }
    }

    /// The sequence that takes the block off the terminal.
    fn erase(&mut self) -> String {
        let drawn = std::mem::take(&mut self.drawn);
        if drawn == 0 { String::new() } else { format!("\x1b[{drawn}A\x1b[J") }
    }

    pub(super) fn end(&mut self, reused: usize) {
        let seconds = self.begun.elapsed().as_secs_f64();
        let text = format!("{}built in {seconds:.1}s, {reused} of {} steps from the cache\n", self.erase(), self.steps);
        if self.show != Show::Quiet {
            output::write_error(text.as_bytes());
        }
    }

    /// Leaves the terminal clean for the error's text.
    pub(super) fn failed(&mut self) {
        let text = self.erase();
        if self.show == Show::Terminal {
            output::write_error(text.as_bytes());
        }
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// Without what would move the cursor.
fn clean(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

fn cut(text: &str, width: usize) -> String {
    text.chars().take(width.saturating_sub(1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_drawn_and_erased() {
        let mut view = View::new(Show::Quiet);
        view.line(BuildLine::Planned(2));
        view.line(BuildLine::Begun(0, 1, "RUN a\nb".into()));
        assert_eq!(view.output(1, "one\ntw"), "");
        assert_eq!(view.running[&1].last, "one");
        view.show = Show::Plain;
        assert_eq!(view.output(1, "o\n"), "#1 two\n");
        view.line(BuildLine::Cached(1));
        assert_eq!(view.done(1), "#1 CACHED\n");
        view.drawn = 3;
        assert_eq!(view.erase(), "\x1b[3A\x1b[J");
        assert_eq!(view.erase(), "");
    }
}
