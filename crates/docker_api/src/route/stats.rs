//! `GET /containers/{id}/stats`

use crate::reply::{self, Result};
use crate::server::Call;
use crate::translate::stats::sample;
use engine::{EngineError, ErrorClass};
use std::io;
use std::time::Duration;
use tokio::time::MissedTickBehavior;

const PERIOD: Duration = Duration::from_secs(1);

/// One sample a second, each with the one before it; or one in all, which waits for a second one to compare with unless
/// `one-shot` says that nobody compares.
pub(crate) async fn stats(call: Call) -> Result {
    let container = call.engine().container(call.who())?;
    let id = container.id.to_string();
    let memory = call.engine().info().memory_bytes;
    let first = call.engine().usage(&id).await?;
    let stream = call.query.flag_or("stream", true);
    if !stream {
        if call.query.flag("one-shot") || !container.is_alive() {
            return reply::json(&sample(&container, memory, &first, None));
        }
        tokio::time::sleep(PERIOD).await;
        let second = call.engine().usage(&id).await?;
        return reply::json(&sample(&container, memory, &second, Some(&first)));
    }
    let (sender, reply) = reply::stream("application/json");
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut before, mut now) = (None, first);
        loop {
            let line = reply::json_line(&sample(&container, memory, &now, before.as_ref())).map_err(io::Error::other);
            if sender.send(line).await.is_err() {
                return;
            }
            tokio::select! {
                _ = ticks.tick() => {}
                () = sender.closed() => return,
            }
            before = Some(now);
            now = match call.engine().usage(&id).await {
                Ok(usage) => usage,
                // removed: the stream is over
                Err(error) if error.class() == ErrorClass::NotFound => return,
                Err(error) => {
                    let _ = sender.send(Err(failed(&error))).await;
                    return;
                }
            };
        }
    });
    Ok(reply)
}

fn failed(error: &EngineError) -> io::Error {
    io::Error::other(error.to_string())
}
