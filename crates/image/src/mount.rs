//! Layers as detached mounts, kept for the next container.
//!
//! A detached mount is visible in no namespace and ends with its last descriptor, so that nothing is left behind when the
//! daemon dies. A layer's mount is shared by everything that uses it and stays for a while after its last user. Kernels before 6.15
//! put only layers under an overlay that are mounted in sight: there they are, in a folder of the store.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::{CWD, Mode, OFlags};
use sys::mount::{
    Depth, FsContext, FsError, MountAttr, MountAttrs, MountPropagationFlags, OpenTreeFlags, UnmountFlags,
};

use crate::erofs;
use crate::error::ImageError;
use crate::import::{LayerFormat, LayerRecord};
use crate::model::LayerId;
use crate::store::{import_record, layer_folder};

/// How many mounts stay although nobody uses them.
const IDLE_MAX: usize = 64;

/// An image's layers, ready to be put under an overlay.
#[derive(Debug, Clone)]
pub struct Layers {
    /// Detached read-only mounts, topmost layer first. They live as long as somebody holds them.
    pub fds: Vec<Arc<OwnedFd>>,
}

/// The mounts that there are.
#[derive(Debug, Default)]
pub(crate) struct Mounts {
    state: Mutex<Mounted>,
    format: OnceLock<LayerFormat>,
    /// Where layers have to be in sight, for kernels that take no others.
    place: OnceLock<Place>,
}

#[derive(Debug, Default)]
struct Mounted {
    layers: HashMap<LayerId, Entry>,
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    fd: Arc<OwnedFd>,
    used: u64,
    /// Where it is mounted, if it is in sight.
    _point: Option<Point>,
}

/// A folder in which layers are mounted, itself a mount that passes nothing on to other namespaces. It goes with the daemon, or when the
/// next one comes.
#[derive(Debug)]
struct Place(PathBuf);

/// A layer's mount, taken away with this.
#[derive(Debug)]
struct Point(PathBuf);

impl Place {
    /// Makes the folder anew; what a daemon that died has left there goes.
    fn make(root: &Path) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let folder = root.join("mounts");
        clear(&folder);
        std::fs::create_dir_all(&folder)?;
        let context = FsContext::open("tmpfs")?;
        context.set_string("mode", "700")?;
        context.create()?;
        let tree = context.mount(MountAttr::empty())?;
        let open = rustix::fs::open(&folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        sys::mount::move_mount_onto(tree.as_fd(), open.as_fd())?;
        sys::mount::set_propagation(&folder, MountPropagationFlags::PRIVATE)?;
        Ok(Self(folder))
    }

    fn attach(&self, layer: &LayerId, tree: &OwnedFd) -> Result<Point, Box<dyn std::error::Error + Send + Sync>> {
        let point = Point(self.0.join(layer.0.hex()));
        std::fs::create_dir_all(&point.0)?;
        let open = rustix::fs::open(&point.0, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        sys::mount::move_mount_onto(tree.as_fd(), open.as_fd())?;
        Ok(point)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        clear(&self.0);
    }
}

impl Drop for Point {
    fn drop(&mut self) {
        // what stays is out of the way, and goes with the folder
        let _ = sys::mount::umount(&self.0, UnmountFlags::DETACH);
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Takes away what is mounted at the folder, with all below.
fn clear(folder: &Path) {
    while sys::mount::umount(folder, UnmountFlags::DETACH).is_ok() {}
}

impl Mounts {
    /// New layers get this format.
    pub(crate) fn with_format(format: LayerFormat) -> Self {
        Self { format: OnceLock::from(format), ..Self::default() }
    }

    /// The format for new layers: EROFS unless this kernel has none, or lets none mount it that has a user namespace of its own.
    pub(crate) fn format(&self) -> LayerFormat {
        use rustix::io::Errno;
        // without a source there is nothing to mount; whether one may is said before
        let tried = || FsContext::open("erofs").and_then(|context| context.create());
        *self.format.get_or_init(|| match tried() {
            Err(error) if matches!(error.errno(), Errno::NODEV | Errno::PERM) => LayerFormat::Directory,
            _ => LayerFormat::Erofs,
        })
    }

    /// Mounts layers, lowest first, of an image that messages call `image`.
    ///
    /// A layer that is there again further up, as empty ones often are, is mounted there only: that hides all of the lower one,
    /// and an overlay takes none twice.
    pub(crate) fn mount(&self, root: &Path, layers: &[LayerId], image: &str) -> Result<Layers, ImageError> {
        let mut state = self.state();
        let mut fds = Vec::with_capacity(layers.len());
        let mut seen = BTreeSet::new();
        for layer in layers.iter().rev().filter(|layer| seen.insert(**layer)) {
            state.clock += 1;
            let now = state.clock;
            if let Some(entry) = state.layers.get_mut(layer) {
                entry.used = now;
                fds.push(Arc::clone(&entry.fd));
                continue;
            }
            let fd = Arc::new(mount_layer(root, layer, image)?);
            let point = self.show(root, layer, &fd)?;
            fds.push(Arc::clone(&fd));
            state.layers.insert(*layer, Entry { fd, used: now, _point: point });
        }
        state.shrink();
        Ok(Layers { fds })
    }

    /// Puts a layer in sight where the kernel wants that.
    fn show(&self, root: &Path, layer: &LayerId, tree: &OwnedFd) -> Result<Option<Point>, ImageError> {
        let failed = |source| ImageError::Mount { layer: *layer, path: root.join("mounts"), source };
        if sys::overlay::takes_detached() {
            return Ok(None);
        }
        let place = match self.place.get() {
            Some(place) => place,
            None => {
                let made = Place::make(root).map_err(failed)?;
                // whoever mounts holds the lock, so nobody else has made it meanwhile
                self.place.get_or_init(|| made)
            }
        };
        place.attach(layer, tree).map(Some).map_err(failed)
    }

    /// Gives up a mount; whoever holds it keeps it, but where layers have to be in sight.
    pub(crate) fn forget(&self, layer: &LayerId) {
        self.state().layers.remove(layer);
    }

    /// Gives up the mounts of all other layers.
    pub(crate) fn retain(&self, layers: &BTreeSet<LayerId>) {
        self.state().layers.retain(|layer, _| layers.contains(layer));
    }

    fn state(&self) -> MutexGuard<'_, Mounted> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mounted {
    fn shrink(&mut self) {
        let mut idle: Vec<(u64, LayerId)> = self
            .layers
            .iter()
            .filter(|(_, entry)| Arc::strong_count(&entry.fd) == 1)
            .map(|(layer, entry)| (entry.used, *layer))
            .collect();
        idle.sort();
        for (_, layer) in idle.iter().take(idle.len().saturating_sub(IDLE_MAX)) {
            self.layers.remove(layer);
        }
    }
}

fn mount_layer(root: &Path, layer: &LayerId, image: &str) -> Result<OwnedFd, ImageError> {
    let folder = layer_folder(root, layer);
    let damaged = |file: &str, reason: String| ImageError::DamagedLayer {
        layer: *layer,
        image: image.to_owned(),
        path: folder.join(file),
        reason,
    };
    let record = import_record(root, layer).map_err(|reason| damaged("layer.json", reason))?;
    let file = record.format.file_name();
    let path = folder.join(file);
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| ImageError::Mount {
        layer: *layer,
        path: path.clone(),
        source,
    };
    match record.format {
        LayerFormat::Erofs => {
            verify(&path, &record).map_err(|reason| damaged(file, reason))?;
            mount_erofs(&path).map_err(failed)
        }
        LayerFormat::Directory if !path.is_dir() => Err(damaged(file, "is missing".to_owned())),
        LayerFormat::Directory => clone_directory(&path).map_err(|error| failed(error.into())),
    }
}

/// What is cheap to see: the file's length and its superblock's checksum and name.
fn verify(path: &Path, record: &LayerRecord) -> Result<(), String> {
    let mut file = File::open(path).map_err(|error| format!("cannot be opened ({error})"))?;
    let size = file.metadata().map_err(|error| format!("cannot be looked at ({error})"))?.len();
    if size != record.size {
        return Err(format!("has {size} bytes and should have {}", record.size));
    }
    let mut block = vec![0; erofs::BLOCK_SIZE];
    file.read_exact(&mut block).map_err(|error| format!("cannot be read ({error})"))?;
    let uuid = erofs::verify_first_block(&block, size)?;
    if record.uuid.as_deref().is_some_and(|expected| expected != hex::encode(uuid)) {
        return Err("is another layer's file".to_owned());
    }
    Ok(())
}

/// Straight from the file, or through a loop device where the kernel cannot do that.
fn mount_erofs(path: &Path) -> Result<OwnedFd, Box<dyn std::error::Error + Send + Sync>> {
    let source = path.to_str().ok_or("the state folder's path is not text")?;
    let direct = mount_source(source);
    match direct {
        Err(error) if error.errno() == rustix::io::Errno::NOTBLK => {
            let device = sys::loopdev::attach_read_only(path)?;
            // The mount holds the device from here on; it detaches itself with the mount.
            Ok(mount_source(device.path())?)
        }
        other => Ok(other?),
    }
}

fn mount_source(source: &str) -> Result<OwnedFd, FsError> {
    let context = FsContext::open("erofs")?;
    context.set_string("source", source)?;
    context.set_flag("ro")?;
    context.create()?;
    context.mount(MountAttr::RDONLY | MountAttr::NODEV | MountAttr::NOATIME)
}

fn clone_directory(path: &Path) -> sys::Result<OwnedFd> {
    let fd = sys::mount::open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE)?;
    // access times: what cannot be written to has none, and in a user namespace of its own nobody may change that setting
    let attrs = MountAttrs { set: MountAttr::RDONLY | MountAttr::NODEV, ..MountAttrs::default() };
    sys::mount::mount_setattr(fd.as_fd(), Depth::One, &attrs)?;
    Ok(fd)
}
