//! Who is at work on which volume, so that none is removed under somebody's hands.
//!
//! A *claim* says that a container is being made with the volume, or that it is being read: it cannot be removed. *Owning* it is
//! for what must not happen twice at once: mounting, filling, restoring, removing. Records of containers say the rest.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
pub(crate) struct Claims {
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    claims: HashMap<String, usize>,
    owned: HashSet<String>,
}

/// Keeps a volume from being removed; given up when dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    claims: Arc<Claims>,
    name: String,
}

/// The only one at work on a volume, until dropped.
#[derive(Debug)]
pub(crate) struct Owned {
    claims: Arc<Claims>,
    name: String,
}

impl Claims {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims a volume that is there or will be. Waits while somebody owns it.
    pub(crate) fn claim(self: &Arc<Self>, name: &str) -> Claim {
        let mut state = self.state();
        while state.owned.contains(name) {
            state = self.freed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        *state.claims.entry(name.to_owned()).or_default() += 1;
        Claim { claims: Arc::clone(self), name: name.to_owned() }
    }

    /// Waits until nobody else owns the volume, and owns it.
    pub(crate) fn own(self: &Arc<Self>, name: &str) -> Owned {
        let mut state = self.state();
        while !state.owned.insert(name.to_owned()) {
            state = self.freed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Owned { claims: Arc::clone(self), name: name.to_owned() }
    }

    /// Owns the volume if nobody is at work on it; never waits.
    pub(crate) fn own_idle(self: &Arc<Self>, name: &str) -> Option<Owned> {
        let mut state = self.state();
        if state.claims.contains_key(name) || !state.owned.insert(name.to_owned()) {
            return None;
        }
        Some(Owned { claims: Arc::clone(self), name: name.to_owned() })
    }

    /// How many claims there are.
    pub(crate) fn count(&self, name: &str) -> usize {
        self.state().claims.get(name).copied().unwrap_or(0)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = self.claims.state();
        if let Some(count) = state.claims.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                state.claims.remove(&self.name);
            }
        }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.claims.state().owned.remove(&self.name);
        self.claims.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claimed_volume_is_not_idle() {
        let claims: Arc<Claims> = Arc::default();
        let (one, two) = (claims.claim("a"), claims.claim("a"));
        assert!(claims.own_idle("a").is_none() && claims.own_idle("b").is_some());
        drop(one);
        assert_eq!(claims.count("a"), 1);
        drop(two);
        let owned = claims.own_idle("a").unwrap();
        assert!(claims.own_idle("a").is_none());
        let waiting = std::thread::spawn({
            let claims = Arc::clone(&claims);
            move || drop((claims.claim("a"), claims.own("a")))
        });
        drop(owned);
        waiting.join().unwrap();
        assert!(claims.own_idle("a").is_some(), "everything was given up");
    }
}
