//! From archive entries to a layer: whiteouts, refusals, and the hand-over to a layer format.

use std::cell::RefCell;
use std::io::{self, BufRead, Seek, Write};
use std::rc::Rc;

use crate::directory::DirectoryError;
use crate::erofs::{self, ErofsError, Node, Segment};
use crate::model::{DeviceNodes, EndMark, ImportOptions, Limits};
use crate::path;
use crate::recipe::{Recorded, Tape};
use crate::tar::{Entry, Kind, Reader, TarError};
use crate::tree::{DeviceKind, Stat};

/// The prefix of names that take something away from lower layers.
pub(crate) const WHITEOUT: &[u8] = b".wh.";
/// The name that takes away everything that lower layers have in a directory.
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";
/// Where overlayfs keeps its own marks. An archive's entries must not carry any.
const OVERLAY_XATTR: &[u8] = b"trusted.overlay.";
pub(crate) const OVERLAY_OPAQUE: &[u8] = b"trusted.overlay.opaque";

/// Why an archive did not become a layer.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The archive cannot be read.
    #[error(transparent)]
    Archive(#[from] TarError),
    /// The EROFS file cannot be written.
    #[error(transparent)]
    Erofs(#[from] ErofsError),
    /// The plain directory cannot be written.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// A device node where none is wanted.
    #[error("entry \"{path}\" is a device node, and device nodes are refused here")]
    DeviceRefused {
        /// The entry.
        path: String,
    },
    /// A whiteout that names nothing.
    #[error("entry \"{path}\" is a whiteout without a name")]
    EmptyWhiteout {
        /// The entry.
        path: String,
    },
    /// The layer grows beyond its limit.
    #[error(
        "the layer has more than {limit} bytes at entry \"{path}\"; if the archive is to be trusted, raise the limit"
    )]
    TooLarge {
        /// The entry.
        path: String,
        /// The limit.
        limit: u64,
    },
    /// The first bytes cannot be read.
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    /// The recipe for the archive cannot be written.
    #[error("cannot write down how the archive comes back")]
    Recipe(#[source] io::Error),
    /// The thread that reads the archive ended without a word.
    #[error("reading the archive was interrupted")]
    Interrupted,
}

impl LayerError {
    /// Whether the store's disk, and not the archive, is at fault.
    pub(crate) fn is_output(&self) -> bool {
        matches!(
            self,
            Self::Erofs(ErofsError::Write(_)) | Self::Directory(DirectoryError::File { .. }) | Self::Recipe(_)
        )
    }
}

/// A layer format that takes entries in the order of the archive.
pub(crate) trait Sink {
    /// Anything without contents.
    fn add(&mut self, path: &[u8], stat: Stat, node: Node) -> Result<(), LayerError>;
    /// A further name.
    fn link(&mut self, path: &[u8], target: &[u8]) -> Result<(), LayerError>;
    /// A regular file.
    fn file(&mut self, path: &[u8], stat: Stat, shape: Shape<'_>, data: &mut dyn BufRead) -> Result<(), LayerError>;
    /// A mark on a directory.
    fn mark(&mut self, path: &[u8], stat: &Stat, name: &[u8], value: &[u8]) -> Result<(), LayerError>;
    /// Where the next file's contents will stand in the layer's file, and how many of its first bytes as they are; nothing
    /// where the layer is no file.
    fn placement(&self, _stat: &Stat, _shape: Shape<'_>) -> Result<(u64, u64), LayerError> {
        Ok((0, 0))
    }
    /// How many bytes the layer has by now.
    fn written(&self) -> u64;
}

/// How long a regular file is and which parts of it have data.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape<'a> {
    /// Its length.
    pub(crate) size: u64,
    /// Its parts, when it is sparse.
    pub(crate) segments: Option<&'a [Segment]>,
}

impl<W: Write + Seek> Sink for erofs::Writer<W> {
    fn add(&mut self, path: &[u8], stat: Stat, node: Node) -> Result<(), LayerError> {
        Ok(erofs::Writer::add(self, path, stat, node)?)
    }

    fn link(&mut self, path: &[u8], target: &[u8]) -> Result<(), LayerError> {
        Ok(erofs::Writer::link(self, path, target)?)
    }

    fn file(&mut self, path: &[u8], stat: Stat, shape: Shape<'_>, data: &mut dyn BufRead) -> Result<(), LayerError> {
        match shape.segments {
            Some(segments) => self.add_sparse_file(path, stat, shape.size, segments, data)?,
            None => self.add_file(path, stat, shape.size, data)?,
        }
        Ok(())
    }

    fn mark(&mut self, path: &[u8], stat: &Stat, name: &[u8], value: &[u8]) -> Result<(), LayerError> {
        Ok(self.mark_directory(path, stat, name, value)?)
    }

    fn placement(&self, stat: &Stat, shape: Shape<'_>) -> Result<(u64, u64), LayerError> {
        match shape.segments {
            Some(_) => Ok((0, 0)),
            None => Ok(erofs::Writer::placement(self, stat, shape.size)?),
        }
    }

    fn written(&self) -> u64 {
        erofs::Writer::written(self)
    }
}

/// What an import may do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) limits: Limits,
    pub(crate) devices: DeviceNodes,
    pub(crate) end: EndMark,
}

impl From<&ImportOptions> for Rules {
    fn from(options: &ImportOptions) -> Self {
        Self { limits: options.limits, devices: options.device_nodes, end: options.end }
    }
}

/// Feeds a whole archive to `sink` and reads its input to the end; how it comes back is written to `tape`. The archive's length.
pub(crate) fn apply<R: BufRead, W: Write>(
    input: R,
    rules: Rules,
    sink: &mut dyn Sink,
    tape: Tape<W>,
) -> Result<(u64, W), LayerError> {
    let tape = Rc::new(RefCell::new(tape));
    let mut reader = Reader::new(Recorded::new(input, Rc::clone(&tape)), rules.limits).ending(rules.end);
    loop {
        let entry = match reader.next_entry() {
            Ok(Some(entry)) => entry,
            // where no end mark is needed, nothing at all is an archive without files
            Err(TarError::Empty) if rules.end == EndMark::Optional => break,
            Ok(None) => break,
            Err(error) => return Err(error.into()),
        };
        let size = match &entry.kind {
            Kind::File { size, segments: None } => *size,
            Kind::File { segments: Some(segments), .. } => segments.iter().map(|segment| segment.length).sum(),
            _ => 0,
        };
        if sink.written().saturating_add(size) > rules.limits.layer_bytes {
            return Err(LayerError::TooLarge { path: path::show(&entry.path), limit: rules.limits.layer_bytes });
        }
        apply_entry(entry, &mut reader, rules, sink, &tape)?;
    }
    reader.drain()?;
    let length = reader.position();
    drop(reader);
    let tape = Rc::into_inner(tape).ok_or(LayerError::Interrupted)?.into_inner();
    Ok((length, tape.finish().map_err(LayerError::Recipe)?))
}

fn apply_entry<R: BufRead, W: Write>(
    mut entry: Entry,
    reader: &mut Reader<R>,
    rules: Rules,
    sink: &mut dyn Sink,
    tape: &RefCell<Tape<W>>,
) -> Result<(), LayerError> {
    entry.stat.xattrs.retain(|name, _| is_kept_xattr(name));
    if let Some((parent, name)) = path::split(&entry.path) {
        if name == OPAQUE {
            return sink.mark(parent, &entry.stat, OVERLAY_OPAQUE, b"y");
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return whiteout(&entry, parent, hidden, sink);
        }
    }
    let path = &entry.path;
    match entry.kind {
        Kind::File { size, segments } => {
            let shape = Shape { size, segments: segments.as_deref() };
            let (offset, length) = sink.placement(&entry.stat, shape)?;
            tape.borrow_mut().placed(offset, length);
            sink.file(path, entry.stat, shape, &mut reader.contents())
        }
        Kind::Directory => sink.add(path, entry.stat, Node::Directory),
        Kind::Symlink(target) => sink.add(path, entry.stat, Node::Symlink(target)),
        Kind::Hardlink(target) => sink.link(path, &target),
        Kind::Device { .. } if rules.devices == DeviceNodes::Refuse => {
            Err(LayerError::DeviceRefused { path: path::show(path) })
        }
        Kind::Device { kind, major, minor } => sink.add(path, entry.stat, Node::Device { kind, major, minor }),
        Kind::Fifo => sink.add(path, entry.stat, Node::Fifo),
    }
}

fn whiteout(entry: &Entry, parent: &[u8], hidden: &[u8], sink: &mut dyn Sink) -> Result<(), LayerError> {
    if hidden.starts_with(WHITEOUT) {
        // Bookkeeping of an older layer format (`.wh..wh.plnk` and the like): it means nothing here.
        return Ok(());
    }
    if hidden.is_empty() || hidden == b"." || hidden == b".." {
        return Err(LayerError::EmptyWhiteout { path: path::show(&entry.path) });
    }
    let path = if parent.is_empty() { hidden.to_vec() } else { [parent, b"/", hidden].concat() };
    let stat = Stat { mtime: entry.stat.mtime, ..Stat::default() };
    sink.add(&path, stat, Node::Device { kind: DeviceKind::Character, major: 0, minor: 0 })
}

/// Attributes that Linux knows, without overlayfs's own. Archives from other systems carry others, which mean nothing here.
pub(crate) fn is_kept_xattr(name: &[u8]) -> bool {
    let known = [&b"user."[..], b"trusted.", b"security."].iter().any(|prefix| name.starts_with(prefix));
    let acl = name == b"system.posix_acl_access" || name == b"system.posix_acl_default";
    (known || acl) && !name.starts_with(OVERLAY_XATTR)
}
