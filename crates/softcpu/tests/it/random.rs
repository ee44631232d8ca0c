//! Chance, and tests that may go on for longer by a variable.

use std::time::Duration;

/// Numbers by xorshift64*.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What a variable says, as `SECONDS[,SEED]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    /// How long it is to go on; nothing if nobody asked.
    pub(crate) time: Option<Duration>,
    /// The first seed.
    pub(crate) first: u64,
}

impl Asked {
    pub(crate) fn by(variable: &str) -> Self {
        let told = std::env::var(variable).unwrap_or_default();
        let mut told = told.split(',').filter(|n| !n.is_empty()).map(|n| n.parse::<u64>().unwrap());
        let time = told.next().map(Duration::from_secs);
        // Whoever asks for long ones wants other ones each time.
        let first = told.next().unwrap_or_else(|| if time.is_some() { u64::from(std::process::id()) << 20 } else { 1 });
        Self { time, first }
    }
}
