//! `insula top` without a container: all of them, live on a terminal, once in a pipe.

mod backend;
mod board;
mod view;

use std::time::{Duration, Instant};

use ratatui::Terminal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::client::Client;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::flags::{Flag, Parsed};
use crate::terminal::{self, Raw};
use crate::{output, table};
use backend::Ansi;
use board::{Board, Order};

pub(crate) static FLAGS: &[Flag] = &[
    Flag::value("interval", "SECONDS", "Look so often (1)"),
    Flag::value("sort", "COLUMN", "Begin with the most of cpu, memory, net, io, or by name (cpu)"),
];

/// Looks at all containers, again and again until the user has enough.
pub(crate) fn watch(context: &Context, given: &Parsed) -> Outcome {
    let interval = given.read("interval", |text| match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("give seconds between 0.1 and 3600".to_owned()),
    })?;
    let interval = interval.unwrap_or(Duration::from_secs(1));
    let order = given.read("sort", Order::read)?.unwrap_or_default();
    let mut board = Board::new(Client::new(context), order);
    board.look()?;
    if !terminal::is_output() || !terminal::is_input() {
        // two looks make rates
        std::thread::sleep(interval);
        board.look()?;
        output::print(&table::align(&board.plain()));
        return Ok(0);
    }
    let raw = Raw::enter()?;
    let outcome = Terminal::new(Ansi::enter())
        .map_err(Failure::from)
        .and_then(|mut screen| live(&mut board, &mut screen, interval));
    drop(raw);
    outcome.map(|()| 0)
}

fn live(board: &mut Board, screen: &mut Terminal<Ansi>, interval: Duration) -> Result<(), Failure> {
    let mut next = Instant::now() + interval;
    loop {
        screen.draw(|frame| view::draw(frame, board))?;
        let left = next.saturating_duration_since(Instant::now());
        match key(left)? {
            Some(b'q' | 3 | 27) => return Ok(()),
            Some(letter) => board.press(letter),
            None => {
                board.look()?;
                next = Instant::now() + interval;
            }
        }
    }
}

/// The next key within some time. The keys of arrows and the like are read whole and mean nothing but `j` and `k`.
fn key(within: Duration) -> Result<Option<u8>, Failure> {
    let stdin = std::io::stdin();
    let timeout =
        Timespec { tv_sec: i64::try_from(within.as_secs()).unwrap_or(i64::MAX), tv_nsec: within.subsec_nanos().into() };
    match poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&timeout)) {
        Ok(0) => return Ok(None),
        // a window that changed its size: drawn anew
        Err(rustix::io::Errno::INTR) => return Ok(Some(0)),
        Ok(_) => {}
        Err(errno) => return Err(errno.into()),
    }
    let mut bytes = [0; 16];
    let count = rustix::io::read(&stdin, &mut bytes)?;
    Ok(Some(match bytes.get(..count).unwrap_or_default() {
        [] => b'q',
        [only] => *only,
        [27, b'[', b'A', ..] => b'k',
        [27, b'[', b'B', ..] => b'j',
        [27, ..] => 0,
        [first, ..] => *first,
    }))
}
