//! A terminal for ratatui by ANSI's own words; the terminal's modes are [`crate::terminal`]'s.
//!
//! # Source
//! ECMA-48 and xterm's control sequences: cursor, colours, the alternate screen.

use std::io::{self, Write as _};

use ratatui::backend::{Backend, ClearType, WindowSize};
use ratatui::buffer::Cell;
use ratatui::layout::{Position, Size};
use ratatui::style::{Color, Modifier};

use crate::terminal;

/// The screen; dropping this brings back what was on it before.
#[derive(Debug)]
pub(super) struct Ansi {
    out: Vec<u8>,
    cursor: Position,
}

impl Ansi {
    /// Takes the alternate screen.
    pub(super) fn enter() -> Self {
        Self { out: b"\x1b[?1049h\x1b[?25l\x1b[2J".to_vec(), cursor: Position::ORIGIN }
    }

    fn say(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }
}

impl Drop for Ansi {
    fn drop(&mut self) {
        self.say("\x1b[0m\x1b[?25h\x1b[?1049l");
        // the terminal may have gone
        let _ = Backend::flush(self);
    }
}

/// The numbers of a colour; 30 for the foreground, 40 for the background.
fn colour(colour: Color, base: u8) -> String {
    let plain = |number: u8| (base + number).to_string();
    match colour {
        Color::Reset => plain(9),
        Color::Black => plain(0),
        Color::Red => plain(1),
        Color::Green => plain(2),
        Color::Yellow => plain(3),
        Color::Blue => plain(4),
        Color::Magenta => plain(5),
        Color::Cyan => plain(6),
        Color::Gray => plain(7),
        Color::DarkGray => plain(60),
        Color::LightRed => plain(61),
        Color::LightGreen => plain(62),
        Color::LightYellow => plain(63),
        Color::LightBlue => plain(64),
        Color::LightMagenta => plain(65),
        Color::LightCyan => plain(66),
        Color::White => plain(67),
        Color::Indexed(number) => format!("{};5;{number}", base + 8),
        Color::Rgb(red, green, blue) => format!("{};2;{red};{green};{blue}", base + 8),
    }
}

fn look(cell: &Cell) -> String {
    let mut numbers = vec!["0".to_owned(), colour(cell.fg, 30), colour(cell.bg, 40)];
    for (modifier, number) in
        [(Modifier::BOLD, "1"), (Modifier::DIM, "2"), (Modifier::UNDERLINED, "4"), (Modifier::REVERSED, "7")]
    {
        if cell.modifier.contains(modifier) {
            numbers.push(number.to_owned());
        }
    }
    format!("\x1b[{}m", numbers.join(";"))
}

impl Backend for Ansi {
    type Error = io::Error;

    fn draw<'a, I>(&mut self, content: I) -> io::Result<()>
    where
        I: Iterator<Item = (u16, u16, &'a Cell)>,
    {
        let mut last = None;
        let mut shown = String::new();
        for (x, y, cell) in content {
            if last != Some((x.wrapping_sub(1), y)) {
                self.say(&format!("\x1b[{};{}H", y + 1, x + 1));
            }
            last = Some((x, y));
            let look = look(cell);
            if look != shown {
                self.say(&look);
                shown = look;
            }
            self.say(cell.symbol());
        }
        self.say("\x1b[0m");
        Ok(())
    }

    fn hide_cursor(&mut self) -> io::Result<()> {
        self.say("\x1b[?25l");
        Ok(())
    }

    fn show_cursor(&mut self) -> io::Result<()> {
        self.say("\x1b[?25h");
        Ok(())
    }

    fn get_cursor_position(&mut self) -> io::Result<Position> {
        Ok(self.cursor)
    }

    fn set_cursor_position<P: Into<Position>>(&mut self, position: P) -> io::Result<()> {
        self.cursor = position.into();
        let Position { x, y } = self.cursor;
        self.say(&format!("\x1b[{};{}H", y + 1, x + 1));
        Ok(())
    }

    fn clear(&mut self) -> io::Result<()> {
        self.clear_region(ClearType::All)
    }

    fn clear_region(&mut self, clear_type: ClearType) -> io::Result<()> {
        self.say(match clear_type {
            ClearType::All => "\x1b[2J",
            ClearType::AfterCursor => "\x1b[J",
            ClearType::BeforeCursor => "\x1b[1J",
            ClearType::CurrentLine => "\x1b[2K",
            ClearType::UntilNewLine => "\x1b[K",
        });
        Ok(())
    }

    fn size(&self) -> io::Result<Size> {
        let (rows, columns) = terminal::size().unwrap_or((24, 80));
        Ok(Size::new(columns, rows))
    }

    fn window_size(&mut self) -> io::Result<WindowSize> {
        Ok(WindowSize { columns_rows: self.size()?, pixels: Size::new(0, 0) })
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(&self.out)?;
        self.out.clear();
        out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::style::Style;

    #[test]
    fn cells_become_ansi() {
        let mut ansi = Ansi { out: Vec::new(), cursor: Position::ORIGIN };
        let mut plain = Cell::default();
        plain.set_symbol("a");
        let mut red = Cell::default();
        red.set_symbol("b").set_style(Style::new().fg(Color::Red).add_modifier(Modifier::BOLD));
        ansi.draw([(0, 0, &plain), (1, 0, &red), (5, 2, &red)].into_iter()).unwrap();
        let expect = "\x1b[1;1H\x1b[0;39;49ma\x1b[0;31;49;1mb\x1b[3;6Hb\x1b[0m";
        assert_eq!(String::from_utf8(std::mem::take(&mut ansi.out)).unwrap(), expect);
    }
}
