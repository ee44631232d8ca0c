//! What happens to containers, networks, volumes and images, shown: a block that is drawn anew on a terminal, a line for each
//! change elsewhere. Many threads tell of it at once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use compose::Project;
use docker_wire::stdcopy::Stream;
use serde_json::json;

use super::follow::Printer;
use crate::failure::Failure;
use crate::flags::Parsed;
use crate::{output, terminal};

/// How it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Show {
    /// Lines, as docker compose writes them: ` Container p-web-1  Started`.
    Plain,
    /// A block, with or without colours.
    Terminal(Colour),
    Json,
    Quiet,
}

/// Whether there are colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    On,
    Off,
}

impl Colour {
    /// What the user wants of a stream that is a terminal or not.
    pub(super) fn find(given: &Parsed, terminal: bool) -> Result<Self, Failure> {
        let never = given.on("no-ansi").then(|| "never".to_owned());
        let asked =
            never.or_else(|| given.value("ansi").map(str::to_owned)).or_else(|| std::env::var("COMPOSE_ANSI").ok());
        let on = match asked.as_deref() {
            None | Some("auto" | "") => terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            Some("always") => true,
            Some("never") => false,
            Some(other) => {
                return Err(Failure::new(format!("bad value {other:?} for --ansi: give auto, always or never")));
            }
        };
        Ok(if on && !given.on("no-color") { Self::On } else { Self::Off })
    }

    /// The text in a colour of the terminal's palette.
    pub(super) fn paint(self, colour: u8, text: &str) -> String {
        match self {
            Self::On => format!("\x1b[{colour}m{text}\x1b[0m"),
            Self::Off => text.to_owned(),
        }
    }
}

impl Show {
    pub(super) fn find(given: &Parsed, project: &Project) -> Result<Self, Failure> {
        let asked = given.value("progress").map(str::to_owned);
        let asked = asked.or_else(|| project.environment.get("COMPOSE_PROGRESS").cloned());
        let colour = Colour::find(given, terminal::is_error())?;
        let never = given.value("ansi") == Some("never") || given.on("no-ansi");
        match asked.as_deref() {
            None | Some("auto" | "") if terminal::is_error() && !never => Ok(Self::Terminal(colour)),
            None | Some("auto" | "" | "plain") => Ok(Self::Plain),
            Some("tty") => Ok(Self::Terminal(colour)),
            Some("json") => Ok(Self::Json),
            Some("quiet" | "none") => Ok(Self::Quiet),
            Some(other) => {
                let text = format!("bad value {other:?} for --progress: give auto, tty, plain, json or quiet");
                Err(Failure::new(text))
            }
        }
    }
}

/// How far something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Working,
    Done,
    Failed,
}

struct Line {
    /// `Container p-web-1`.
    what: String,
    word: String,
    stage: Stage,
    begun: Instant,
    seconds: f64,
}

struct State {
    lines: Vec<Line>,
    /// How many lines of the block are on the terminal.
    drawn: usize,
    /// Whether the terminal is somebody else's.
    hushed: bool,
}

/// All that is shown.
pub(super) struct Board {
    show: Show,
    state: Mutex<State>,
    /// Whether standard output is for a program alone.
    keeps_out: bool,
    /// What shows the output of programs that run beside a container's own.
    printer: Mutex<Option<Arc<Printer>>>,
}

impl Board {
    pub(super) fn new(show: Show) -> Self {
        let state = Mutex::new(State { lines: Vec::new(), drawn: 0, hushed: false });
        Self { show, state, keeps_out: false, printer: Mutex::new(None) }
    }

    /// A board that leaves standard output to a program.
    pub(super) fn beside_a_program(show: Show) -> Self {
        Self { keeps_out: true, ..Self::new(show) }
    }

    pub(super) fn keeps_out(&self) -> bool {
        self.keeps_out
    }

    /// Shows what hooks write from now on, among the containers' lines.
    pub(super) fn print_hooks(&self, printer: &Arc<Printer>) {
        *self.printer.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(printer));
    }

    /// What a program has written that ran beside the container's own: `web-1 ->  | done`.
    pub(super) fn hook(&self, container: &str, said: &str) {
        let printer = self.printer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(printer) = printer.filter(|_| !said.is_empty()) else { return };
        let name = format!("{container} ->");
        printer.expect(&name);
        said.lines().for_each(|line| printer.line(&name, Stream::Stdout, line.as_bytes()));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it is shown.
    pub(super) fn show(&self) -> Show {
        self.show
    }

    /// Something begins: `Container`, its name, `Creating`.
    pub(super) fn working(&self, kind: &str, name: &str, word: &str) {
        self.tell(kind, name, word, Stage::Working);
    }

    /// Something has ended well.
    pub(super) fn done(&self, kind: &str, name: &str, word: &str) {
        self.tell(kind, name, word, Stage::Done);
    }

    /// Something has ended badly.
    pub(super) fn failed(&self, kind: &str, name: &str, word: &str) {
        self.tell(kind, name, word, Stage::Failed);
    }

    /// How far the image of a service is: ` web Pulling`.
    pub(super) fn pulling(&self, service: &str, word: &str, stage: Stage) {
        if self.show == Show::Plain {
            output::write_error(format!(" {service} {word} \n").as_bytes());
        } else {
            self.tell("", service, word, stage);
        }
    }

    /// Words for the user between what happens.
    pub(super) fn note(&self, text: &str) {
        output::note(text);
        // what is drawn after them does not go over them
        self.end();
    }

    fn tell(&self, kind: &str, name: &str, word: &str, stage: Stage) {
        let what = format!("{kind} {name}").trim_start().to_owned();
        let mut state = self.lock();
        match self.show {
            Show::Quiet => {}
            Show::Terminal(_) if state.hushed => {}
            Show::Plain => output::write_error(format!(" {what}  {word}\n").as_bytes()),
            Show::Json => {
                let status = match stage {
                    Stage::Working => "Working",
                    Stage::Done => "Done",
                    Stage::Failed => "Error",
                };
                output::write_error(format!("{}\n", json!({"id": what, "text": word, "status": status})).as_bytes());
            }
            Show::Terminal(colour) => {
                match state.lines.iter_mut().find(|line| line.what == what) {
                    Some(line) => {
                        if line.stage != Stage::Working && stage == Stage::Working {
                            line.begun = Instant::now();
                        }
                        word.clone_into(&mut line.word);
                        line.stage = stage;
                        line.seconds = line.begun.elapsed().as_secs_f64();
                    }
                    None => state.lines.push(Line {
                        what,
                        word: word.to_owned(),
                        stage,
                        begun: Instant::now(),
                        seconds: 0.0,
                    }),
                }
                draw(&mut state, colour);
            }
        }
    }

    /// Draws no block from now on, because containers write to the terminal.
    pub(super) fn hush(&self) {
        self.end();
        self.lock().hushed = true;
    }

    /// Draws again.
    pub(super) fn speak(&self) {
        self.end();
        self.lock().hushed = false;
    }

    /// Leaves the block as it is; what is told from now on is another one.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.lines.clear();
        state.drawn = 0;
    }
}

fn draw(state: &mut State, colour: Colour) {
    let (rows, columns) =
        terminal::size().map_or((24, 80), |(rows, columns)| (usize::from(rows), usize::from(columns)));
    let mut text = if state.drawn == 0 { String::new() } else { format!("\x1b[{}A\x1b[J", state.drawn) };
    let done = state.lines.iter().filter(|line| line.stage == Stage::Done).count();
    let head = format!("[+] Running {done}/{}", state.lines.len());
    text.push_str(&colour.paint(if done == state.lines.len() { 34 } else { 36 }, &head));
    text.push('\n');
    let width = state.lines.iter().map(|line| line.what.chars().count()).max().unwrap_or(0);
    // what does not fit above the cursor could not be taken away again: the oldest that are done are left out
    let room = rows.saturating_sub(2).max(1);
    let mut surplus = state.lines.len().saturating_sub(room);
    let mut shown = 0;
    for line in &state.lines {
        if surplus > 0 && line.stage == Stage::Done {
            surplus -= 1;
            continue;
        }
        let (sign, paint) = match line.stage {
            Stage::Working => ("⠿", 33),
            Stage::Done => ("✔", 32),
            Stage::Failed => ("✘", 31),
        };
        let seconds = if line.stage == Stage::Working { line.begun.elapsed().as_secs_f64() } else { line.seconds };
        let plain: String = format!("{:<width$}  {:<12} {seconds:>5.1}s", line.what, line.word)
            .chars()
            .take(columns.saturating_sub(4))
            .collect();
        text.push_str(&format!(" {} {plain}\n", colour.paint(paint, sign)));
        shown += 1;
        if shown >= room {
            break;
        }
    }
    state.drawn = shown + 1;
    output::write_error(text.as_bytes());
}
