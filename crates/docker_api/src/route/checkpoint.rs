//! Checkpoints of containers.
//!
//! # Source
//! They are experimental with Docker: its client asks for them where the answer to `/_ping` says so, and the API's description
//! leaves them out.

use crate::error::ApiError;
use crate::reply::{self, Result};
use crate::server::Call;
use engine::Afterwards;
use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use std::path::Path;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Asked {
    #[serde(rename = "CheckpointID")]
    checkpoint_id: String,
    checkpoint_dir: String,
    exit: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    name: String,
}

/// The folder that a parameter names, if it names one.
pub(super) fn folder<'a>(call: &'a Call, parameter: &str) -> Option<&'a Path> {
    call.query.text(parameter).map(Path::new)
}

/// `POST /containers/{id}/checkpoints`
pub(crate) async fn create(mut call: Call) -> Result {
    let asked: Asked = call.json().await?;
    let folder = Some(asked.checkpoint_dir.as_str()).filter(|folder| !folder.is_empty()).map(Path::new);
    let then = if asked.exit { Afterwards::Ends } else { Afterwards::Runs };
    call.engine().checkpoint(call.who(), &asked.checkpoint_id, folder, then).await?;
    Ok(reply::empty(StatusCode::CREATED))
}

/// `GET /containers/{id}/checkpoints`
pub(crate) async fn list(call: Call) -> Result {
    let names = call.engine().checkpoints(call.who(), folder(&call, "dir"))?;
    reply::json(&names.into_iter().map(|name| Listed { name }).collect::<Vec<_>>())
}

/// `DELETE /containers/{id}/checkpoints/{checkpoint}`
pub(crate) async fn remove(call: Call) -> Result {
    let name = call.params.get(1).ok_or_else(|| ApiError::invalid("no checkpoint is named"))?;
    call.engine().remove_checkpoint(call.who(), name, folder(&call, "dir"))?;
    reply::done()
}
