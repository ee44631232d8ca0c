//! The calls about records.

use super::{History, filter, lock};
use crate::BuildKit;
use crate::rpc::{Call, Code, Replies, Status};
use crate::wire::content::{BlobInfo, InfoRequest, InfoResponse, ReadRequest, ReadResponse};
use crate::wire::history::{COMPLETE, HistoryEvent, HistoryRequest, STARTED, UpdateRequest};
use crate::wire::{Empty, Timestamp};
use bytes::Bytes;
use prost::Message;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::broadcast::error::RecvError;

/// The most bytes in one message.
const PIECE: usize = 256 << 10;

impl History {
    /// What is known now, the newest first.
    fn known(&self, asked: &HistoryRequest) -> Result<Vec<HistoryEvent>, Status> {
        self.trim();
        let conditions = filter::read(&asked.filter)?;
        let now = Timestamp::now().seconds;
        let builds: Vec<_> = lock(&self.builds).values().cloned().collect();
        let mut events: Vec<HistoryEvent> = builds
            .iter()
            .map(|build| (build.has_ended(), build.record()))
            .filter(|(ended, _)| !(asked.active_only && *ended))
            .filter(|(_, record)| asked.reference.is_empty() || asked.reference == record.reference)
            .filter(|(_, record)| filter::fits(&conditions, record, now))
            .map(|(ended, record)| HistoryEvent { kind: if ended { COMPLETE } else { STARTED }, record: Some(record) })
            .collect();
        let began = |event: &HistoryEvent| {
            let time = event.record.as_ref().and_then(|record| record.created_at);
            time.map(|time| (time.seconds, time.nanos))
        };
        events.sort_by_key(|event| std::cmp::Reverse(began(event)));
        if let Ok(limit @ 1..) = usize::try_from(asked.limit) {
            events.truncate(limit);
        }
        Ok(events)
    }
}

/// `ListenBuildHistory`: what is known, and what happens until the client has gone.
pub(crate) async fn listen(kit: Arc<BuildKit>, mut call: Call, replies: Replies) -> Result<(), Status> {
    let asked: HistoryRequest = call.messages.only().await?;
    let mut events = kit.history.events.subscribe();
    for event in kit.history.known(&asked)? {
        replies.send(&event).await?;
    }
    if asked.early_exit {
        return Ok(());
    }
    let conditions = filter::read(&asked.filter)?;
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            () = replies.gone() => return Ok(()),
        };
        let event = match event {
            Ok(event) => event,
            Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => return Ok(()),
        };
        let fits = event.record.as_ref().is_some_and(|record| {
            (asked.reference.is_empty() || asked.reference == record.reference)
                && filter::fits(&conditions, record, Timestamp::now().seconds)
        });
        if fits && !(asked.active_only && event.kind != STARTED) {
            replies.send(&event).await?;
        }
    }
}

/// `UpdateBuildHistory`
pub(crate) async fn update(kit: Arc<BuildKit>, mut call: Call, replies: Replies) -> Result<(), Status> {
    let asked: UpdateRequest = call.messages.only().await?;
    let unknown = || Status::told(format!("there is no record of a build {:?}", asked.reference));
    let build = kit.history.build(&asked.reference).ok_or_else(unknown)?;
    if !build.has_ended() {
        return Err(Status::invalid(format!("the build {:?} is still going on", asked.reference)));
    }
    if asked.delete {
        kit.history.remove(&asked.reference);
    } else if !asked.finalize {
        let mut record = lock(&build.record);
        record.pinned = asked.pinned;
        let bytes = record.encode_to_vec();
        build.write("record", &bytes).map_err(|error| Status::told(format!("cannot keep the record: {error}")))?;
    }
    replies.send(&Empty {}).await
}

/// A blob that a record names: a file of the record's, or the configuration of an image that is still here.
async fn open(kit: &BuildKit, digest: &str) -> Result<Blob, Status> {
    if let Some(path) = kit.history.blob(digest) {
        return Ok(Blob::File(path));
    }
    let unknown = || Status::new(Code::NOT_FOUND, format!("content {digest}: not found"));
    let image = kit.engine.image(digest).await.map_err(|_| unknown())?;
    if image.id.to_string() != digest {
        return Err(unknown());
    }
    kit.engine.image_configuration(&image).map(|bytes| Blob::Bytes(bytes.into())).map_err(crate::build::failed)
}

enum Blob {
    File(PathBuf),
    Bytes(Bytes),
}

fn broken(error: std::io::Error) -> Status {
    Status::told(format!("cannot read what was recorded: {error}"))
}

/// `containerd.services.content.v1.Content/Info`
pub(crate) async fn blob_of(kit: Arc<BuildKit>, mut call: Call, replies: Replies) -> Result<(), Status> {
    let InfoRequest { digest } = call.messages.only().await?;
    let size = match open(&kit, &digest).await? {
        Blob::File(path) => path.metadata().map_err(broken)?.len(),
        Blob::Bytes(bytes) => bytes.len() as u64,
    };
    let size = i64::try_from(size).unwrap_or(i64::MAX);
    replies.send(&InfoResponse { info: Some(BlobInfo { digest, size }) }).await
}

/// `containerd.services.content.v1.Content/Read`
pub(crate) async fn blob(kit: Arc<BuildKit>, mut call: Call, replies: Replies) -> Result<(), Status> {
    let asked: ReadRequest = call.messages.only().await?;
    let offset = u64::try_from(asked.offset).map_err(|_| Status::invalid("nothing begins before its beginning"))?;
    let most = u64::try_from(asked.size).ok().filter(|size| *size > 0).unwrap_or(u64::MAX);
    let mut reader: Box<dyn Read + Send> = match open(&kit, &asked.digest).await? {
        Blob::Bytes(bytes) => {
            let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
            Box::new(std::io::Cursor::new(bytes.slice(from..)))
        }
        Blob::File(path) => {
            let mut file = File::open(path).map_err(broken)?;
            file.seek(SeekFrom::Start(offset)).map_err(broken)?;
            Box::new(file)
        }
    };
    let (mut left, mut offset) = (most, asked.offset);
    while left > 0 {
        let mut piece = Vec::new();
        (&mut reader).take(left.min(PIECE as u64)).read_to_end(&mut piece).map_err(broken)?;
        if piece.is_empty() {
            break;
        }
        let count = piece.len();
        replies.send(&ReadResponse { offset, data: piece.into() }).await?;
        left -= count as u64;
        offset = offset.saturating_add(i64::try_from(count).unwrap_or(0));
    }
    Ok(())
}
