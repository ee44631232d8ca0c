//! What a guest's work costs between its word that it begins and its word that it is done. Boots are no part of it: one boot differs from the
//! next by more than some work takes.

use super::measure::Groups;
use std::time::{Duration, Instant};

/// A piece of work, in milliseconds, and what it moved: bytes, or turns.
#[derive(Clone, Copy)]
pub(super) struct Taken {
    pub(super) cpu: f64,
    pub(super) wall: f64,
    pub(super) moved: f64,
}

impl Taken {
    /// What was moved in a millisecond, by the host's clock: a guest that gets too little of the processor may lose time of its own.
    pub(super) fn rate(self) -> f64 {
        self.moved / self.wall
    }
}

/// When a guest said that it begins and that it is done, and what its machine had used by then.
pub(super) struct Marks<'g> {
    groups: &'g Groups,
    peer: &'g str,
    begin: String,
    done: String,
    first: Option<(Instant, Duration)>,
    pub(super) taken: Option<Taken>,
}

impl<'g> Marks<'g> {
    pub(super) fn new(groups: &'g Groups, peer: &'g str, work: &str) -> Self {
        Self { groups, peer, begin: format!("BEGIN {work}"), done: format!("DONE {work} "), first: None, taken: None }
    }

    pub(super) fn hear(&mut self, line: &str) {
        let line = line.trim();
        // A machine's firmware may have written on the same line.
        if line.ends_with(&self.begin) {
            self.first = self.groups.usage(self.peer).ok().map(|used| (Instant::now(), used));
        } else if let Some(moved) = moved_in(line, &self.done)
            && let (Some((since, before)), Ok(used)) = (self.first, self.groups.usage(self.peer))
        {
            let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
            let cpu = milliseconds(used.saturating_sub(before));
            self.taken = Some(Taken { cpu, wall: milliseconds(since.elapsed()), moved });
        }
    }
}

/// What was moved, from the guest's last words: `DONE work moved microseconds`.
pub(super) fn moved_in(line: &str, done: &str) -> Option<f64> {
    line.strip_prefix(done)?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_last_words_are_understood() {
        assert_eq!(moved_in("DONE read-4k 4096 8", "DONE read-4k "), Some(4096.0));
        assert_eq!(moved_in("DONE read-4k 4096 8", "DONE read "), None);
        assert_eq!(moved_in("DONE x nothing", "DONE x "), None);
    }

    #[test]
    fn a_rate_is_what_moved_in_the_hosts_time() {
        assert_eq!(Taken { cpu: 500.0, wall: 2000.0, moved: 8_000_000.0 }.rate(), 4000.0);
    }
}
