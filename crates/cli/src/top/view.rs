//! The board on a screen.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row as Cells, Sparkline, Table, TableState};

use super::board::{Board, Order, Row, rate};
use crate::table;

/// So many columns have room for the status too, which is the second one.
const WIDE: u16 = 110;
const STATUS: usize = 1;
/// How wide the curve is.
const CURVE: u16 = 40;

/// Draws everything anew.
pub(super) fn draw(frame: &mut Frame<'_>, board: &Board) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(2), Constraint::Min(1), Constraint::Length(1)]).areas(frame.area());
    let [words, curve] = Layout::horizontal([Constraint::Min(20), Constraint::Length(CURVE)]).areas(head);
    frame.render_widget(Paragraph::new(summary(board)), words);
    let shown = board.history.len().saturating_sub(usize::from(CURVE));
    let history = board.history.get(shown..).unwrap_or_default();
    let most = u64::try_from(board.cpus).unwrap_or(1) * 100;
    frame.render_widget(Sparkline::default().data(history).max(most).style(Style::new().fg(Color::Cyan)), curve);
    rows(frame, board, body);
    let keys = "q quit   c cpu   m memory   n network   i disk   a name   j/k move";
    frame.render_widget(Paragraph::new(keys).style(Style::new().add_modifier(Modifier::DIM)), foot);
}

fn summary(board: &Board) -> Vec<Line<'static>> {
    let cpu: f64 = board.rows.iter().map(|row| row.cpu).sum();
    let used: i64 = board.rows.iter().map(|row| row.used).sum();
    let bold = Style::new().add_modifier(Modifier::BOLD);
    vec![
        Line::from(vec![
            Span::styled("insula ", bold.fg(Color::Cyan)),
            Span::raw(format!("{} containers on {} processors", board.rows.len(), board.cpus)),
        ]),
        Line::from(vec![
            Span::raw("cpu "),
            Span::styled(format!("{cpu:.1}%"), bold.fg(heat(cpu / percent_of(board.cpus)))),
            Span::raw("  memory "),
            Span::styled(table::binary_size(used, 4), bold),
        ]),
    ]
}

#[expect(clippy::cast_precision_loss, reason = "a number of processors")]
fn percent_of(cpus: i64) -> f64 {
    cpus.max(1) as f64
}

/// Green, yellow or red for some percent of what there is.
fn heat(percent: f64) -> Color {
    match percent {
        0.0..50.0 => Color::Green,
        50.0..80.0 => Color::Yellow,
        _ => Color::Red,
    }
}

fn rows(frame: &mut Frame<'_>, board: &Board, area: Rect) {
    let title = |name: &'static str, order: Option<Order>| {
        let style = Style::new().add_modifier(Modifier::BOLD);
        let chosen = order == Some(board.order);
        Cell::from(if chosen { format!("{name} ▾") } else { name.to_owned() }).style(if chosen {
            style.fg(Color::Cyan)
        } else {
            style
        })
    };
    // a narrow screen has no room for everything
    let wide = area.width >= WIDE;
    let mut titles = vec![
        title("NAME", Some(Order::Name)),
        title("STATUS", None),
        title("CPU %", Some(Order::Cpu)),
        title("MEMORY", Some(Order::Memory)),
        title("MEM %", None),
        title("NET IN / OUT", Some(Order::Network)),
        title("READ / WRITE", Some(Order::Disk)),
        title("PIDS", None),
    ];
    let mut widths = vec![
        Constraint::Min(8),
        Constraint::Fill(1),
        Constraint::Length(7),
        Constraint::Length(9),
        Constraint::Length(6),
        Constraint::Length(17),
        Constraint::Length(17),
        Constraint::Length(5),
    ];
    if !wide {
        titles.remove(STATUS);
        widths.remove(STATUS);
    }
    let shown = board.rows.iter().map(|row| {
        let mut cells = cells(row, board.cpus);
        if !wide {
            cells.remove(STATUS);
        }
        Cells::new(cells)
    });
    let table = Table::new(shown, widths)
        .header(Cells::new(titles))
        .column_spacing(1)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = TableState::default().with_selected((!board.rows.is_empty()).then_some(board.selected));
    frame.render_stateful_widget(table, area, &mut state);
}

fn cells(row: &Row, cpus: i64) -> Vec<Cell<'static>> {
    let coloured = |text: String, percent: f64| Cell::from(text).style(Style::new().fg(heat(percent)));
    vec![
        Cell::from(row.name.clone()),
        Cell::from(row.status.clone()).style(Style::new().add_modifier(Modifier::DIM)),
        coloured(format!("{:.1}", row.cpu), row.cpu / percent_of(cpus)),
        Cell::from(table::binary_size(row.used, 4)),
        coloured(format!("{:.1}", row.memory), row.memory),
        Cell::from(rate(row.received, row.sent)),
        Cell::from(rate(row.read, row.written)),
        Cell::from(row.pids.to_string()),
    ]
}
