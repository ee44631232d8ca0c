//! Choices that a seed makes, so that a failure can be had again.

/// Numbers without a pattern, the same for the same seed.
#[derive(Debug)]
pub struct Dice {
    /// What to name when something fails.
    pub seed: u64,
    state: u64,
}

impl Default for Dice {
    fn default() -> Self {
        Self::new()
    }
}

impl Dice {
    /// From `INSULA_E2E_SEED`, or the clock.
    ///
    /// # Panics
    /// When the clock stands before 1970.
    #[must_use]
    pub fn new() -> Self {
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let clock = u64::from(clock.expect("a clock that was set").subsec_nanos());
        let chosen = std::env::var("INSULA_E2E_SEED").ok().and_then(|text| text.parse().ok());
        Self::of(chosen.unwrap_or(clock))
    }

    /// From a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        Self { seed, state: seed }
    }

    /// A number below `limit`.
    ///
    /// # Panics
    /// Where `usize` has fewer than 64 bits.
    pub fn below(&mut self, limit: usize) -> usize {
        // A 64-bit mixer with a step; any will do here.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let limit = u64::try_from(limit.max(1)).expect("a length of 64 bits");
        usize::try_from((mixed ^ (mixed >> 31)) % limit).expect("a length of 64 bits")
    }

    /// How much is tried: what `INSULA_E2E_FAULTS` says of `all`, `usual` without it.
    ///
    /// # Panics
    /// When the variable is neither a number nor `all`.
    #[must_use]
    pub fn rounds(usual: usize, all: usize) -> usize {
        match std::env::var("INSULA_E2E_FAULTS").as_deref() {
            Ok("all") => all,
            Ok(text) => text.parse().unwrap_or_else(|_| panic!("INSULA_E2E_FAULTS={text}: a number, or all")),
            Err(_) => usual,
        }
    }

    /// At most so many of `all` as [`Dice::rounds`] says, in an order of its own.
    pub fn choose<T>(&mut self, mut all: Vec<T>, usual: usize) -> Vec<T> {
        let count = Self::rounds(usual, all.len());
        for at in 0..all.len() {
            let other = at + self.below(all.len() - at);
            all.swap(at, other);
        }
        all.truncate(count);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_choice() {
        let choice = |seed| Dice::of(seed).choose((0..100).collect::<Vec<_>>(), 100);
        assert_eq!(choice(5), choice(5));
        assert_ne!(choice(5), choice(6));
    }
}
