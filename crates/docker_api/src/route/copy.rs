//! `/containers/{id}/archive`: files into and out of containers.

use super::archive::Pipe;
use super::image::{Archive, feed};
use crate::error::ApiError;
use crate::reply::{self, Result};
use crate::server::Call;
use crate::translate::time::rfc3339_signed;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use engine::{Owners, PathStat, Replace};
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use rustix::fs::FileType;
use serde_json::json;
use std::io;

const STAT: HeaderName = HeaderName::from_static("x-docker-container-path-stat");

fn path(call: &Call) -> Result<&str> {
    call.query.text("path").ok_or_else(|| ApiError::invalid("bad parameter: the path in the container is missing"))
}

/// `HEAD`
pub(crate) async fn stat(call: Call) -> Result {
    let stat = call.engine().path_stat(call.who(), path(&call)?).await?;
    let mut reply = reply::empty(StatusCode::OK);
    show(&mut reply, &stat)?;
    Ok(reply)
}

/// `GET`
pub(crate) async fn get(call: Call) -> Result {
    let out = call.engine().take_out(call.who(), path(&call)?).await?;
    let (sender, mut reply) = reply::stream("application/x-tar");
    show(&mut reply, &out.stat)?;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
    tokio::task::spawn_blocking(move || {
        if let Err(error) = out.write(Pipe(sender.clone())) {
            tracing::debug!(%error, "an archive was cut off");
            let _ = sender.blocking_send(Err(io::Error::other(error)));
        }
    });
    Ok(reply)
}

/// `PUT`
pub(crate) async fn put(mut call: Call) -> Result {
    let replace = if call.query.flag("noOverwriteDirNonDir") { Replace::SameKind } else { Replace::Anything };
    let owners = if call.query.flag("copyUIDGID") { Owners::User } else { Owners::Archived };
    let (pieces, archive) = Archive::new();
    let (engine, who, path) = (call.engine().clone(), call.who().to_owned(), path(&call)?.to_owned());
    let fill = engine.put_in(&who, &path, (replace, owners), Box::new(archive));
    let (filled, ()) = tokio::join!(fill, feed(call.request.body_mut(), pieces));
    filled?;
    Ok(reply::empty(StatusCode::OK))
}

fn show(reply: &mut reply::Reply, stat: &PathStat) -> Result<()> {
    let json = json!({
        "name": stat.name, "size": stat.size, "mode": go_mode(stat.mode), "mtime": rfc3339_signed(stat.mtime_ns),
        "linkTarget": stat.link_target,
    });
    let text = STANDARD.encode(json.to_string());
    let value = HeaderValue::from_str(&text).map_err(|error| ApiError::internal(error.to_string()))?;
    reply.headers_mut().insert(STAT, value);
    Ok(())
}

/// Type and permissions in the bits of Go's `os.FileMode`, which Docker's clients read.
fn go_mode(mode: u32) -> u32 {
    const SPECIAL: [(u32, u32); 3] = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let kind = match FileType::from_raw_mode(mode) {
        FileType::Directory => 1 << 31,
        FileType::Symlink => 1 << 27,
        FileType::BlockDevice => 1 << 26,
        FileType::CharacterDevice => 1 << 26 | 1 << 21,
        FileType::Fifo => 1 << 25,
        FileType::Socket => 1 << 24,
        _ => 0,
    };
    let special = SPECIAL.iter().filter(|(bit, _)| mode & bit != 0).fold(0, |all, (_, go)| all | go);
    kind | special | (mode & 0o777)
}

#[cfg(test)]
mod tests {
    use super::go_mode;

    #[test]
    fn modes_are_gos() {
        let check = |mode: u32, expect: u32| assert_eq!(go_mode(mode), expect, "{mode:o}");
        check(0o100_644, 0o644);
        check(0o040_755, 0o20_000_000_755);
        check(0o120_777, 0o1_000_000_777);
        check(0o104_755, 0o40_000_755);
        check(0o041_777, 0o20_004_000_777);
    }
}
