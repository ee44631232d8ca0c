//! What becomes of a build's result: an image here, files or an archive at the client.

use super::failed;
use super::job::Job;
use super::progress::{MAKING, Stage};
use super::push;
use super::request::reference;
use crate::BuildKit;
use crate::history::{Came, descriptor};
use crate::rpc::Status;
use crate::session::{Session, send_files, send_stream};
use crate::wire::control::Typed;
use crate::wire::history::ResultInfo;
use engine::Product;
use engine::image::{Image, ImageId};
use oci::reference::Reference;
use std::collections::BTreeMap;

/// An image's configuration, as records name it.
const CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// Whether somebody wants the image to stay.
fn is_kept(exporter: &Typed) -> bool {
    matches!(exporter.kind.as_str(), "moby" | "image")
}

/// Exports the result as the solve says, and tells what came of it.
///
/// # Errors
/// For an output that there is not, and what the client says.
pub(crate) async fn export(kit: &BuildKit, job: &Job) -> Result<BTreeMap<String, String>, Status> {
    let mut response = job.response();
    let Some(outcome) = job.outcome().await else { return Ok(response) };
    let product = outcome.product;
    let outputs: Vec<(usize, &Typed)> = job.exporters.iter().enumerate().collect();
    let mut done = Ok(());
    for (number, exporter) in outputs {
        done = match exporter.kind.as_str() {
            "moby" | "image" => kept(kit, job, &product.image, exporter, &mut response).await,
            _ => sent(kit, job, &product, (number, exporter)).await,
        };
        if done.is_err() {
            break;
        }
    }
    if !job.exporters.iter().any(is_kept) {
        // its files are where they were wanted
        kit.engine.remove_product(&product).await;
    }
    done?;
    let id = product.image.id.to_string();
    response.insert("containerimage.config.digest".to_owned(), id.clone());
    response.entry("containerimage.digest".to_owned()).or_insert(id);
    Ok(response)
}

/// Leaves nothing of what a solve has made that came to nothing in the end.
pub(crate) async fn discard(kit: &BuildKit, job: &Job) {
    if let Some(outcome) = job.outcome().await {
        kit.engine.remove_product(&outcome.product).await;
    }
}

/// What is recorded of a solve that went well, with what its outputs keep here.
pub(crate) async fn came(kit: &BuildKit, job: &Job, response: &BTreeMap<String, String>) -> Came {
    let mut came = Came { response: response.clone(), ..Came::default() };
    let Some(outcome) = job.outcome().await else { return came };
    let several = outcome.product.family.as_ref().filter(|family| family.members.len() > 1);
    let images: Vec<(String, ImageId)> = match several {
        Some(family) => family.members.iter().map(|member| (member.platform.to_string(), member.image)).collect(),
        None => vec![(String::new(), outcome.product.image.id)],
    };
    for (platform, id) in images {
        let mut info = ResultInfo::default();
        if let Ok(image) = kit.engine.image(&id.to_string()).await
            && let Ok(bytes) = kit.engine.image_configuration(&image)
        {
            let kept = job.exporters.iter().zip(0..).filter(|(exporter, _)| is_kept(exporter));
            info.results.extend(kept.map(|(_, number)| (number, descriptor(CONFIG, id, bytes.len() as u64))));
        }
        came.results.insert(platform, info);
    }
    came
}

/// The image is here already; its names and its id are told, and it goes where it is to go.
async fn kept(
    kit: &BuildKit,
    job: &Job,
    image: &Image,
    exporter: &Typed,
    response: &mut BTreeMap<String, String>,
) -> Result<(), Status> {
    let mut board = job.board.lock().await;
    board.begin(MAKING).await;
    board.part(MAKING, &format!("writing image {}", image.id), 0, Stage::Done).await;
    let names = exporter.attrs.get("name").map(String::as_str).unwrap_or_default();
    for name in names.split(',').filter(|name| !name.is_empty()) {
        board.part(MAKING, &format!("naming to {}", reference(name)?), 0, Stage::Done).await;
    }
    if !names.is_empty() {
        response.insert("image.name".to_owned(), names.to_owned());
    }
    board.end(MAKING, "").await;
    drop(board);
    if push::is_wanted(exporter) {
        for name in names.split(',').filter(|name| !name.is_empty()) {
            push::push(kit, job, &reference(name)?, response).await?;
        }
    }
    Ok(())
}

async fn sent(kit: &BuildKit, job: &Job, product: &Product, output: (usize, &Typed)) -> Result<(), Status> {
    let session = kit.sessions.find(&job.session).await?;
    let (number, exporter) = output;
    let vertex = match exporter.kind.as_str() {
        "local" => "exporting to client directory",
        "tar" => "exporting to client tarball",
        "oci" => "exporting to oci image format",
        "docker" => "exporting to docker image format",
        other => {
            let text =
                format!("there is no output of the type {other:?} here; there are image, local, tar, oci and docker");
            return Err(Status::told(text));
        }
    };
    if exporter.attrs.get("tar").is_some_and(|tar| tar == "false") {
        return Err(Status::told("an image is sent as an archive; leave tar=false out"));
    }
    {
        let mut board = job.board.lock().await;
        board.end(MAKING, "").await;
        board.begin(vertex).await;
    }
    let sent = send(kit, &session, product, (number, exporter)).await;
    let error = sent.as_ref().err().map(|status| status.message.clone()).unwrap_or_default();
    job.board.lock().await.end(vertex, &error).await;
    sent
}

async fn send(kit: &BuildKit, session: &Session, product: &Product, output: (usize, &Typed)) -> Result<(), Status> {
    let (number, exporter) = output;
    match exporter.kind.as_str() {
        "local" => {
            let files = kit.engine.image_files(product).await.map_err(failed)?;
            send_files(session, number, files).await
        }
        "tar" => {
            let (engine, product) = (kit.engine.clone(), product.clone());
            let write = async move |out| {
                let written = tokio::task::spawn_blocking(move || engine.write_tree(&product, out)).await;
                written.map_err(|error| engine::EngineError::internal("writing was cut short", &error))?
            };
            send_stream(session, number, write).await
        }
        _ => {
            let names = exporter.attrs.get("name").map(String::as_str).unwrap_or_default();
            let names = names.split(',').filter(|name| !name.is_empty());
            let names: Vec<Reference> = names.map(reference).collect::<Result<_, _>>()?;
            let saving = kit.engine.save_product(product, names);
            send_stream(session, number, async move |out| saving.write(out).await).await
        }
    }
}
