//! Threads for connections, which come in bursts: one that is done waits a moment for the next, for which nothing has to be
//! made then.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How long a thread waits for more work.
const LINGER: Duration = Duration::from_millis(500);
const STACK: usize = 256 * 1024;

type Job = Box<dyn FnOnce() + Send>;

/// The threads; how many there are at once is the callers' to bound.
#[derive(Default)]
pub(super) struct Crew {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    /// Threads with nothing to do, and what they will do when they have woken up.
    idle: usize,
    jobs: VecDeque<Job>,
}

impl fmt::Debug for Crew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Crew")
    }
}

impl Crew {
    /// Has a thread do it, beside all that others do.
    ///
    /// # Errors
    /// When there is no thread to be had; the job is dropped.
    pub(super) fn begin(self: &Arc<Self>, job: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.idle > state.jobs.len() {
            state.jobs.push_back(Box::new(job));
            self.wake.notify_one();
            return Ok(());
        }
        drop(state);
        let crew = Arc::clone(self);
        let work = move || {
            job();
            while let Some(job) = crew.next() {
                job();
            }
        };
        std::thread::Builder::new().name("connection".to_owned()).stack_size(STACK).spawn(work).map(drop)
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.idle += 1;
        let waited = self.wake.wait_timeout_while(state, LINGER, |state| state.jobs.is_empty());
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.idle -= 1;
        state.jobs.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::mpsc::channel;

    #[test]
    fn threads_are_used_again_and_never_too_few() {
        let crew = Arc::new(Crew::default());
        let (sender, done) = channel();
        // each waits for all others: none may stand in line behind one of them
        for _ in 0..3 {
            let all = Arc::new(Barrier::new(8));
            for _ in 0..8 {
                let (all, sender) = (Arc::clone(&all), sender.clone());
                crew.begin(move || {
                    all.wait();
                    sender.send(std::thread::current().id()).unwrap();
                })
                .unwrap();
            }
            assert_eq!(done.iter().take(8).count(), 8);
        }
        let mut seen = Vec::new();
        for _ in 0..20 {
            let sender = sender.clone();
            crew.begin(move || sender.send(std::thread::current().id()).unwrap()).unwrap();
            let who = done.recv().unwrap();
            if !seen.contains(&who) {
                seen.push(who);
            }
            // it is free once it waits
            while crew.state.lock().unwrap().idle == 0 {
                std::thread::yield_now();
            }
        }
        assert!(seen.len() < 20, "{seen:?}");
        while Arc::strong_count(&crew) > 1 {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
