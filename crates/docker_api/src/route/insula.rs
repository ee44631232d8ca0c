//! What Docker has no word for.

use crate::error::ApiError;
use crate::reply::{self, Result};
use crate::server::Call;
use bytes::Bytes;
use docker_wire::extra::{Bootstrap, Check, Doctor, Explanation, Row, Section, Verdict};
use serde_json::json;
use std::io;
use tokio::sync::mpsc;

/// `GET /insula/explain/{id}`
pub(crate) async fn explain(call: Call) -> Result {
    let explanation = call.engine().explain(call.who())?;
    let row = |row: engine::Row| Row { what: row.what, value: row.value, because: row.because };
    let section = |section: engine::Section| Section {
        title: section.title.to_owned(),
        rows: section.rows.into_iter().map(row).collect(),
    };
    reply::json(&Explanation {
        id: explanation.id,
        name: explanation.name,
        status: explanation.status.to_owned(),
        pid: explanation.pid.into(),
        sections: explanation.sections.into_iter().map(section).collect(),
    })
}

/// `GET /insula/doctor`
pub(crate) async fn doctor(call: Call) -> Result {
    let check = |check: engine::Check| Check {
        name: check.name.to_owned(),
        verdict: match check.verdict {
            engine::Verdict::Good => Verdict::Good,
            engine::Verdict::Fallback => Verdict::Fallback,
            engine::Verdict::Missing => Verdict::Missing,
        },
        detail: check.detail,
        remedy: check.remedy,
    };
    let doctor = call.engine().doctor().await;
    reply::json(&Doctor { checks: doctor.checks.into_iter().map(check).collect() })
}

/// `POST /insula/images/bootstrap`: lines of progress, the last one with the image's id or what went wrong. It goes on if the client
/// goes away.
pub(crate) async fn bootstrap(mut call: Call) -> Result {
    let body: Bootstrap = call.json().await?;
    if body.source.trim().is_empty() {
        return Err(ApiError::invalid(
            "the source is missing: name a distribution and its suite, such as debian:bookworm",
        ));
    }
    let asked = engine::Bootstrap { source: body.source, include: body.include, tag: body.tag };
    let (words, mut progress) = mpsc::channel::<String>(64);
    let (sender, reply) = reply::stream("application/json");
    let engine = call.api.engine.clone();
    tokio::spawn(async move {
        let show = async {
            while let Some(status) = progress.recv().await {
                // a client that went away needs no progress, but the channel must not fill up
                let _ = send(&sender, &json!({ "status": status })).await;
            }
        };
        let (made, ()) = tokio::join!(engine.bootstrap(asked, words), show);
        let last = match made {
            Ok(image) => json!({ "aux": { "ID": image.id.to_string() } }),
            Err(error) => {
                let message = error.to_string();
                json!({ "errorDetail": { "message": message }, "error": message })
            }
        };
        let _ = send(&sender, &last).await;
    });
    Ok(reply)
}

async fn send(sender: &mpsc::Sender<io::Result<Bytes>>, value: &serde_json::Value) -> std::result::Result<(), ()> {
    let line = reply::json_line(value).map_err(io::Error::other);
    sender.send(line).await.map_err(|_| ())
}
