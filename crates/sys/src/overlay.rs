//! Layers over each other, overlayfs, on any kernel that has it.
//!
//! What kernels take has changed: since 6.15 layers may be mounts that are nowhere in sight, since 6.13 they are given as
//! descriptors, since 6.8 one by one; before that all are in one option, whose text has at most 255 bytes: where that is
//! too little for their numbers, they get shorter names, and the text is said in two parts.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::SysError;
use crate::mount::{FsContext, FsError, MountAttr};

/// What lies over what.
#[derive(Debug, Clone, Copy)]
pub struct Overlay<'a> {
    /// Folders that are only read, the topmost first: two at least, or one below something that is written.
    pub layers: &'a [BorrowedFd<'a>],
    /// What is written goes there.
    pub above: Option<Above<'a>>,
    /// The attributes of the mount.
    pub attributes: MountAttr,
}

/// Where writes go.
#[derive(Debug, Clone, Copy)]
pub struct Above<'a> {
    /// The folder of what was written.
    pub upper: BorrowedFd<'a>,
    /// An empty folder of the same file system, for the kernel's own use.
    pub work: BorrowedFd<'a>,
    /// Whether what was written may be lost with the machine, for which nothing is synchronised then.
    pub volatile: bool,
}

/// How layers are named to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Descriptor,
    Path,
    /// All at once, each by its number, from within `/proc/self/fd`.
    Number,
}

impl Overlay<'_> {
    /// Makes the file system and mounts it nowhere. Layers must be mounted in the caller's mount namespace, unless
    /// [`takes_detached`].
    ///
    /// # Errors
    /// What the kernel says.
    ///
    /// # Source
    /// `Documentation/filesystems/overlayfs`; `fs/overlayfs/params.c` of the releases named above.
    pub fn mount(&self) -> Result<OwnedFd, FsError> {
        static WORKED: OnceLock<By> = OnceLock::new();
        let unknown = |error: &FsError| matches!(error.errno(), Errno::INVAL | Errno::OPNOTSUPP);
        let known = *WORKED.get().unwrap_or(&By::of_release(release()));
        let first = match self.by(known) {
            Err(error) if unknown(&error) => error,
            other => return other,
        };
        // a kernel may be able to do more than its number says; what it does not know is a line in its log each time
        for way in By::ALL.into_iter().filter(|way| *way != known) {
            match self.by(way) {
                Err(error) if unknown(&error) => {}
                Ok(mounted) => {
                    let _ = WORKED.set(way);
                    return Ok(mounted);
                }
                other => return other,
            }
        }
        // where nothing helps, what the kernel's own interface says is the best explanation
        Err(first)
    }

    /// As [`Self::mount`], for layers and a folder above that are mounts in no namespace, on any kernel: those that want layers in
    /// sight are shown them in a mount namespace that ends with this call. `roots` are the mounts that all those are on.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn mount_detached(&self, roots: &[BorrowedFd<'_>]) -> Result<OwnedFd, FsError> {
        if release() >= DETACHED {
            return self.mount();
        }
        crate::mountns::in_new(|| {
            let _place = show(roots)?;
            self.mount()
        })
        .map_err(failed)?
        .1
    }

    fn by(&self, way: By) -> Result<OwnedFd, FsError> {
        if way == By::Number {
            return self.within_descriptors();
        }
        let each = |context: &FsContext| self.layers.iter().try_for_each(|layer| way.set(context, "lowerdir+", *layer));
        self.attempt(way, &each)
    }

    fn attempt(&self, by: By, layers: &dyn Fn(&FsContext) -> Result<(), FsError>) -> Result<OwnedFd, FsError> {
        let context = FsContext::open("overlay")?;
        context.set_string("source", "overlay")?;
        layers(&context)?;
        if let Some(above) = self.above {
            by.set(&context, "upperdir", above.upper)?;
            by.set(&context, "workdir", above.work)?;
            if above.volatile {
                context.set_flag("volatile")?;
            }
        }
        context.set_string("metacopy", "off")?;
        if release() >= ONE_BY_ONE {
            // nothing asks for the file system's identity; without one the upper folder needs no attribute written at each
            // mount. Kernels before 6.6 do not know the option, and never write one.
            let _ = context.set_string("uuid", "null");
        }
        context.create()?;
        context.mount(self.attributes)
    }

    /// Gives layers names in a folder that becomes the calling thread's working folder; it goes with what is returned and
    /// the thread.
    fn named(&self, names: &[String]) -> crate::Result<OwnedFd> {
        let plain = |error: FsError| error.error;
        let context = FsContext::open("tmpfs").map_err(plain)?;
        context.create().map_err(plain)?;
        let place = context.mount(MountAttr::empty()).map_err(plain)?;
        for (name, layer) in names.iter().zip(self.layers) {
            let to = format!("/proc/self/fd/{}", layer.as_raw_fd());
            rustix::fs::symlinkat(to, &place, name.as_str()).map_err(SysError::of("symlinkat"))?;
        }
        rustix::process::fchdir(&place).map_err(SysError::of("fchdir"))?;
        Ok(place)
    }

    /// On a thread of its own, whose working folder is nobody else's.
    fn within_descriptors(&self) -> Result<OwnedFd, FsError> {
        let inside = || {
            crate::mountns::own_working_folder().map_err(failed)?;
            let numbers: Vec<String> = self.layers.iter().map(|layer| layer.as_raw_fd().to_string()).collect();
            let text = numbers.join(":");
            if text.len() <= WORD_MAX {
                rustix::process::chdir("/proc/self/fd").map_err(SysError::of("chdir")).map_err(failed)?;
                return self.attempt(By::Number, &|context| context.set_string("lowerdir", &text));
            }
            let listed = Listed::of(self.layers.len()).ok_or_else(|| failed(SysError::new("mount", Errno::TOOBIG)))?;
            let _place = self.named(&listed.names).map_err(failed)?;
            self.attempt(By::Path, &|context| listed.set(context))
        };
        std::thread::scope(|scope| {
            let ended = || failed(SysError::new("clone", Errno::AGAIN));
            let thread = std::thread::Builder::new().name("overlay".to_owned()).spawn_scoped(scope, inside);
            thread.map_err(|_| ended())?.join().unwrap_or_else(|_| Err(ended()))
        })
    }
}

/// The longest key, and the longest value, of an option, in bytes.
const WORD_MAX: usize = 255;

/// Many layers in one option, for kernels that take no other.
///
/// Before 6.5 the kernel writes key, equals sign and value of each option one after the other, and reads the whole again as
/// one text. So a key may hold the first half of a value, if the sign between the halves is part of it: one layer's name
/// is just that. From 6.5 on, a value that begins with a colon goes on where the one before has ended.
///
/// # Source
/// Linux 6.1 `fs/fs_context.c`, `legacy_parse_param`; Linux 6.6 `fs/overlayfs/params.c`, `ovl_parse_param_lowerdir`.
#[derive(Debug, PartialEq, Eq)]
struct Listed {
    /// Each layer's name, the topmost first.
    names: Vec<String>,
    key: String,
    value: String,
}

impl Listed {
    /// For so many layers; nothing for more than there is room for.
    fn of(count: usize) -> Option<Self> {
        const LETTERS: &[u8; 62] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let letter = |at: usize| char::from(LETTERS[at % LETTERS.len()]);
        let name = |at: usize| match at / LETTERS.len() {
            0 => letter(at).to_string(),
            high => format!("{}{}", letter(high - 1), letter(at)),
        };
        let mut names: Vec<String> = (0..count).map(name).collect();
        let mut key = "lowerdir=".to_owned();
        let mut middle = 0;
        // one name is the sign, and one at least comes after it
        while middle + 2 < count && key.len() + names[middle].len() < WORD_MAX {
            key.push_str(&names[middle]);
            key.push(':');
            middle += 1;
        }
        let value: String = names.get(middle + 1..)?.iter().flat_map(|name| [":", name]).collect();
        "=".clone_into(&mut names[middle]);
        (value.len() <= WORD_MAX).then_some(Self { names, key, value })
    }

    fn set(&self, context: &FsContext) -> Result<(), FsError> {
        if release() < ONE_BY_ONE {
            return context.set_string(&self.key, &self.value);
        }
        let mut colon = "";
        self.names.iter().try_for_each(|name| {
            let text = format!("{colon}{name}");
            colon = ":";
            context.set_string("lowerdir", &text)
        })
    }
}

impl By {
    /// The newest first.
    const ALL: [Self; 3] = [Self::Descriptor, Self::Path, Self::Number];

    /// What a kernel of this release takes.
    fn of_release(release: (u32, u32)) -> Self {
        match release {
            (6, 13..) | (7.., _) => Self::Descriptor,
            (6, 8..) => Self::Path,
            _ => Self::Number,
        }
    }

    fn set(self, context: &FsContext, key: &str, fd: BorrowedFd<'_>) -> Result<(), FsError> {
        match self {
            Self::Descriptor => context.set_fd(key, fd),
            Self::Path => context.set_string(key, &format!("/proc/self/fd/{}", fd.as_raw_fd())),
            Self::Number => context.set_string(key, &fd.as_raw_fd().to_string()),
        }
    }
}

fn failed(error: SysError) -> FsError {
    FsError { filesystem: "overlay".to_owned(), option: String::new(), error, log: String::new() }
}

/// The first kernel in which overlayfs reads its options by itself.
const ONE_BY_ONE: (u32, u32) = (6, 5);

/// The first kernel whose layers may be mounts in no namespace.
const DETACHED: (u32, u32) = (6, 15);

/// This kernel's release.
fn release() -> (u32, u32) {
    static RELEASE: OnceLock<(u32, u32)> = OnceLock::new();
    *RELEASE.get_or_init(|| parse_release(&rustix::system::uname().release().to_string_lossy()))
}

fn parse_release(text: &str) -> (u32, u32) {
    let mut numbers = text.split(['.', '-', '+']).map_while(|part| part.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Mounts what is mounted nowhere in the caller's mount namespace, where nobody looks: over its root.
fn show(roots: &[BorrowedFd<'_>]) -> Result<OwnedFd, FsError> {
    let folder = |at: BorrowedFd<'_>, path: &str| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(at, path, flags, Mode::empty()).map_err(SysError::of("openat")).map_err(failed)
    };
    let context = FsContext::open("tmpfs")?;
    context.create()?;
    let place = context.mount(MountAttr::empty())?;
    crate::mount::move_mount_onto(place.as_fd(), folder(rustix::fs::CWD, "/")?.as_fd()).map_err(failed)?;
    for (number, root) in roots.iter().enumerate() {
        let name = number.to_string();
        rustix::fs::mkdirat(&place, &name, Mode::RWXU).map_err(SysError::of("mkdirat")).map_err(failed)?;
        crate::mount::move_mount_onto(*root, folder(place.as_fd(), &name)?.as_fd()).map_err(failed)?;
    }
    Ok(place)
}

/// Whether layers may be mounts that are in no namespace; tried once, where the kernel's release makes it worth a line in its log.
#[must_use]
pub fn takes_detached() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| release() >= DETACHED && try_detached().unwrap_or(false))
}

fn try_detached() -> Result<bool, FsError> {
    let context = FsContext::open("tmpfs")?;
    context.create()?;
    let tree = context.mount(MountAttr::empty())?;
    let folder = |name: &str| -> rustix::io::Result<OwnedFd> {
        rustix::fs::mkdirat(&tree, name, Mode::from_raw_mode(0o755))?;
        rustix::fs::openat(&tree, Path::new(name), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    };
    let (Ok(one), Ok(other)) = (folder("one"), folder("other")) else { return Ok(false) };
    let layers = [one.as_fd(), other.as_fd()];
    Ok(Overlay { layers: &layers, above: None, attributes: MountAttr::RDONLY }.mount().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_says_how_layers_are_named() {
        let table = [
            ("5.10.0-46-cloud-amd64", By::Number),
            ("6.1.0-56-amd64", By::Number),
            ("6.8.0-31-generic", By::Path),
            ("6.12.107+deb13-amd64", By::Path),
            ("6.13-rc1", By::Descriptor),
            ("6.18.5", By::Descriptor),
            ("7.0+", By::Descriptor),
            ("nonsense", By::Number),
        ];
        for (release, way) in table {
            assert_eq!(By::of_release(parse_release(release)), way, "{release}");
        }
        for count in [64, 100, 127, 180] {
            let listed = Listed::of(count).unwrap();
            let text = format!("{}={}", listed.key, listed.value);
            assert_eq!(text, format!("lowerdir={}", listed.names.join(":")), "{count}");
            assert!(listed.key.len() <= WORD_MAX && listed.value.len() <= WORD_MAX);
            let mut names = listed.names.clone();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), count, "each its own");
        }
        assert_eq!(Listed::of(400), None);
        assert!(parse_release("6.14.9") < DETACHED && parse_release("7.0") > DETACHED);
    }
}
