//! Rate limits: token buckets for bytes and for operations, and the timer that wakes a device when there is budget again.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::device::DeviceError;
use crate::events::{Events, Interest, Timer};

/// The shortest sleep when a bucket is empty, so that a guest cannot make the host spin.
const SHORTEST: Duration = Duration::from_millis(1);

/// What one bucket allows. 0 a second is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Tokens that come back in a second.
    pub per_second: u64,
    /// Tokens that a full bucket holds; 0 means as many as come back in a second.
    #[serde(default)]
    pub burst: u64,
}

/// What a device, or one direction of it, may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Bytes.
    #[serde(default)]
    pub bytes: Rate,
    /// Operations.
    #[serde(default)]
    pub operations: Rate,
}

/// A bucket of tokens. It may go into debt by one operation, so that one larger than the bucket is possible at all.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    rate: Rate,
    /// Billionths of a token, so that slow rates lose nothing.
    level: i128,
    filled: Instant,
}

const BILLION: i128 = 1_000_000_000;

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub fn new(mut rate: Rate, now: Instant) -> Self {
        if rate.burst == 0 {
            rate.burst = rate.per_second;
        }
        Self { rate, level: i128::from(rate.burst) * BILLION, filled: now }
    }

    /// How long until there is a token, none if there is one now.
    pub fn wait(&mut self, now: Instant) -> Option<Duration> {
        if self.rate.per_second == 0 {
            return None;
        }
        let elapsed = now.saturating_duration_since(self.filled).as_nanos();
        let gained = i128::try_from(elapsed).unwrap_or(i128::MAX).saturating_mul(self.rate.per_second.into());
        self.level = self.level.saturating_add(gained).min(i128::from(self.rate.burst) * BILLION);
        self.filled = now;
        if self.level > 0 {
            return None;
        }
        let nanoseconds = (1 - self.level) / i128::from(self.rate.per_second) + 1;
        Some(Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX)))
    }

    /// Takes tokens out; [`Bucket::wait`] has said that there are some.
    pub fn take(&mut self, tokens: u64) {
        if self.rate.per_second > 0 {
            self.level -= i128::from(tokens) * BILLION;
        }
    }
}

/// Both buckets of a device, and the timer that ends its wait.
#[derive(Debug)]
pub struct Limiter {
    bytes: Bucket,
    operations: Bucket,
    timer: Timer,
    blocked: bool,
    throttled: u64,
}

impl Limiter {
    /// Full buckets.
    ///
    /// # Errors
    /// No descriptor is free.
    pub fn new(limit: Limit) -> Result<Self, DeviceError> {
        let now = Instant::now();
        Ok(Self {
            bytes: Bucket::new(limit.bytes, now),
            operations: Bucket::new(limit.operations, now),
            timer: Timer::new().map_err(DeviceError::host("timerfd_create"))?,
            blocked: false,
            throttled: 0,
        })
    }

    /// Changes the limit; what waits, waits to its end.
    pub fn change(&mut self, limit: Limit) {
        let now = Instant::now();
        self.bytes = Bucket::new(limit.bytes, now);
        self.operations = Bucket::new(limit.operations, now);
    }

    /// Adds the timer to what wakes the device.
    ///
    /// # Errors
    /// The kernel has no room for one more watch.
    pub fn watch(&self, events: &Events, token: u64) -> Result<(), DeviceError> {
        events.add(&self.timer, token, Interest::IN).map_err(DeviceError::host("epoll_ctl"))
    }

    /// Takes the timer off; nothing waits any more.
    pub fn ignore(&mut self, events: &Events) {
        events.remove(&self.timer);
        self.blocked = false;
    }

    /// Whether one operation of `bytes` may be done now. If not, the timer runs.
    ///
    /// # Errors
    /// The timer can't be set.
    pub fn take(&mut self, bytes: u64) -> Result<bool, DeviceError> {
        self.take_at(bytes, 1, Instant::now)
    }

    /// Whether there is a limit at all.
    #[must_use]
    pub fn limits(&self) -> bool {
        self.bytes.rate.per_second > 0 || self.operations.rate.per_second > 0
    }

    fn take_at(&mut self, bytes: u64, operations: u64, now: impl Fn() -> Instant) -> Result<bool, DeviceError> {
        if !self.limits() {
            return Ok(true);
        }
        let now = now();
        if let Some(wait) = self.bytes.wait(now).max(self.operations.wait(now)) {
            self.blocked = true;
            self.throttled += 1;
            self.timer.set(wait.max(SHORTEST)).map_err(DeviceError::host("timerfd_settime"))?;
            return Ok(false);
        }
        self.bytes.take(bytes);
        self.operations.take(operations);
        Ok(true)
    }

    /// The timer has woken the device.
    pub fn elapsed(&mut self) {
        if self.timer.take() {
            self.blocked = false;
        }
    }

    /// Whether the device waits for the timer.
    #[must_use]
    pub fn blocked(&self) -> bool {
        self.blocked
    }

    /// How often the device had to wait.
    #[must_use]
    pub fn throttled(&self) -> u64 {
        self.throttled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_fills_at_its_rate_and_not_beyond_its_brim() {
        let start = Instant::now();
        let mut bucket = Bucket::new(Rate { per_second: 10, burst: 5 }, start);
        for _ in 0..5 {
            assert_eq!(bucket.wait(start), None);
            bucket.take(1);
        }
        let wait = bucket.wait(start).unwrap();
        assert!(wait <= Duration::from_millis(101), "{wait:?}");
        assert_eq!(bucket.wait(start + Duration::from_millis(101)), None);
        let late = start + Duration::from_secs(100);
        assert_eq!(bucket.wait(late), None);
        bucket.take(5);
        assert!(bucket.wait(late).is_some(), "more than its burst was in the bucket");
    }

    #[test]
    fn an_operation_larger_than_the_bucket_goes_into_debt() {
        let start = Instant::now();
        let mut bucket = Bucket::new(Rate { per_second: 1000, burst: 0 }, start);
        assert_eq!(bucket.wait(start), None);
        bucket.take(5000);
        assert!(bucket.wait(start).unwrap() >= Duration::from_secs(4));
        assert_eq!(bucket.wait(start + Duration::from_millis(4001)), None);
    }

    #[test]
    fn without_a_rate_nothing_waits() {
        let mut limiter = Limiter::new(Limit::default()).unwrap();
        for _ in 0..1000 {
            assert!(limiter.take(u64::MAX).unwrap());
        }
        assert_eq!(limiter.throttled(), 0);
    }
}
