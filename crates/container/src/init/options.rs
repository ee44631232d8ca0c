//! Mount options as words.

use crate::error::{Result, SetupError};
use sys::mount::{Depth, MountAttr, MountPropagationFlags};

/// Options, sorted by what they are for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Attributes of the mount.
    pub(crate) set: MountAttr,
    pub(crate) clear: MountAttr,
    /// Attributes of the mount and all below it.
    pub(crate) set_below: MountAttr,
    pub(crate) clear_below: MountAttr,
    /// Changes of propagation, in order.
    pub(crate) propagation: Vec<(MountPropagationFlags, Depth)>,
    /// It is a bind mount.
    pub(crate) bind: Option<Depth>,
    /// Its owners are mapped.
    pub(crate) idmap: Option<Depth>,
    /// The file system's own options.
    pub(crate) data: Vec<(String, Option<String>)>,
}

/// Words for attributes: the attribute, and whether the word sets it.
const ATTRIBUTES: &[(&str, MountAttr, bool)] = &[
    ("atime", MountAttr::NOATIME, false),
    ("dev", MountAttr::NODEV, false),
    ("diratime", MountAttr::NODIRATIME, false),
    ("exec", MountAttr::NOEXEC, false),
    ("noatime", MountAttr::NOATIME, true),
    ("nodev", MountAttr::NODEV, true),
    ("nodiratime", MountAttr::NODIRATIME, true),
    ("noexec", MountAttr::NOEXEC, true),
    ("norelatime", MountAttr::empty(), true),
    ("nostrictatime", MountAttr::STRICTATIME, false),
    ("nosuid", MountAttr::NOSUID, true),
    ("nosymfollow", MountAttr::NOSYMFOLLOW, true),
    ("relatime", MountAttr::ATIME_FIELD, false),
    ("ro", MountAttr::RDONLY, true),
    ("rw", MountAttr::RDONLY, false),
    ("strictatime", MountAttr::STRICTATIME, true),
    ("suid", MountAttr::NOSUID, false),
    ("symfollow", MountAttr::NOSYMFOLLOW, false),
];

impl Options {
    /// Sorts the words of one mount.
    pub(crate) fn parse(words: &[String]) -> Result<Self> {
        let mut options = Self::default();
        for word in words {
            options.word(word)?;
        }
        Ok(options)
    }

    fn word(&mut self, word: &str) -> Result<()> {
        match word {
            "bind" => self.bind = self.bind.or(Some(Depth::One)),
            "rbind" => self.bind = Some(Depth::Recursive),
            "idmap" => self.idmap = Some(Depth::One),
            "ridmap" => self.idmap = Some(Depth::Recursive),
            "defaults" | "async" | "nomand" | "noiversion" | "loud" | "silent" => {}
            "remount" => {
                return Err(SetupError::unsupported("mount option \"remount\" makes no sense in a new container"));
            }
            _ => {
                if let Some(change) = propagation(word) {
                    self.propagation.push(change);
                } else if let Some((attr, set)) = attribute(word) {
                    change(&mut self.set, &mut self.clear, attr, set);
                } else if let Some((attr, set)) = word.strip_prefix('r').and_then(attribute) {
                    change(&mut self.set_below, &mut self.clear_below, attr, set);
                } else {
                    let (key, value) = word.split_once('=').map_or((word, None), |(key, value)| (key, Some(value)));
                    self.data.push((key.to_owned(), value.map(str::to_owned)));
                }
            }
        }
        Ok(())
    }
}

fn attribute(word: &str) -> Option<(MountAttr, bool)> {
    let at = ATTRIBUTES.binary_search_by_key(&word, |(name, _, _)| name).ok()?;
    ATTRIBUTES.get(at).map(|(_, attr, set)| (*attr, *set))
}

fn change(set: &mut MountAttr, clear: &mut MountAttr, attr: MountAttr, sets: bool) {
    if attr.intersects(MountAttr::ATIME_FIELD) {
        // one field with values: it is cleared as a whole
        set.remove(MountAttr::ATIME_FIELD);
        clear.insert(MountAttr::ATIME_FIELD);
        if sets {
            set.insert(attr);
        }
    } else if sets {
        set.insert(attr);
        clear.remove(attr);
    } else {
        set.remove(attr);
        clear.insert(attr);
    }
}

/// The propagation type of a word.
pub(crate) fn propagation(word: &str) -> Option<(MountPropagationFlags, Depth)> {
    let one = |word: &str| match word {
        "private" => Some(MountPropagationFlags::PRIVATE),
        "shared" => Some(MountPropagationFlags::SHARED),
        "slave" => Some(MountPropagationFlags::DOWNSTREAM),
        "unbindable" => Some(MountPropagationFlags::UNBINDABLE),
        _ => None,
    };
    one(word)
        .map(|flags| (flags, Depth::One))
        .or_else(|| word.strip_prefix('r').and_then(one).map(|flags| (flags, Depth::Recursive)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Options {
        Options::parse(&words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn the_table_is_sorted() {
        assert!(ATTRIBUTES.is_sorted_by_key(|(name, _, _)| name));
    }

    #[test]
    fn words_find_their_place() {
        let options = parse(&["rbind", "ro", "nosuid", "rslave", "rnodev", "size=64k", "newinstance"]);
        assert_eq!(options.bind, Some(Depth::Recursive));
        assert_eq!(options.set, MountAttr::RDONLY | MountAttr::NOSUID);
        assert_eq!(options.set_below, MountAttr::NODEV);
        assert_eq!(options.propagation, [(MountPropagationFlags::DOWNSTREAM, Depth::Recursive)]);
        assert_eq!(options.data, [("size".into(), Some("64k".into())), ("newinstance".into(), None)]);
    }

    #[test]
    fn the_last_word_wins() {
        let options = parse(&["ro", "rw", "noatime", "strictatime", "rro"]);
        assert_eq!((options.set, options.set_below), (MountAttr::STRICTATIME, MountAttr::RDONLY));
        assert_eq!(options.clear, MountAttr::RDONLY | MountAttr::ATIME_FIELD);
    }
}
