//! Mount options as words, as mount(8), fstab(5) and OCI configurations have them.

use crate::mount::{Depth, MountAttr, MountPropagationFlags};

/// Options, sorted by what they are for.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Options {
    /// Attributes of the mount.
    pub set: MountAttr,
    /// Attributes to take away.
    pub clear: MountAttr,
    /// Attributes of the mount and all below it.
    pub set_below: MountAttr,
    /// Attributes to take away from the mount and all below it.
    pub clear_below: MountAttr,
    /// Changes of propagation, in order.
    pub propagation: Vec<(MountPropagationFlags, Depth)>,
    /// It is a bind mount.
    pub bind: Option<Depth>,
    /// Its owners are mapped.
    pub idmap: Option<Depth>,
    /// It changes what is mounted there already.
    pub remount: bool,
    /// What the mount point held is copied into the new file system.
    pub copy_up: bool,
    /// Words of mount(8) that concern a file system as a whole, as fsconfig(2) takes them.
    pub whole: Vec<&'static str>,
    /// The file system's own options.
    pub data: Vec<(String, Option<String>)>,
}

/// Words for a file system as a whole: what fsconfig(2) is told, nothing where the kernel has no such switch any more.
///
/// # Source
/// mount(8), "filesystem-independent mount options"; Linux `fs/fs_context.c`.
const WHOLE: &[(&str, Option<&str>)] = &[
    ("async", Some("async")),
    ("defaults", None),
    ("dirsync", Some("dirsync")),
    ("iversion", None),
    ("lazytime", Some("lazytime")),
    ("loud", None),
    ("mand", None),
    ("noiversion", None),
    ("nolazytime", Some("nolazytime")),
    ("nomand", None),
    ("silent", None),
    ("sync", Some("sync")),
];

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
    /// Sorts the words of one mount. Words that nobody knows are the file system's own.
    #[must_use]
    pub fn parse(words: &[String]) -> Self {
        let mut options = Self::default();
        for word in words {
            options.word(word);
        }
        options
    }

    fn word(&mut self, word: &str) {
        match word {
            "bind" => self.bind = self.bind.or(Some(Depth::One)),
            "rbind" => self.bind = Some(Depth::Recursive),
            "idmap" => self.idmap = Some(Depth::One),
            "ridmap" => self.idmap = Some(Depth::Recursive),
            "remount" => self.remount = true,
            "tmpcopyup" => self.copy_up = true,
            _ => {
                if let Some(change) = propagation(word) {
                    self.propagation.push(change);
                } else if let Some((attr, set)) = attribute(word) {
                    change(&mut self.set, &mut self.clear, attr, set);
                } else if let Some((attr, set)) = word.strip_prefix('r').and_then(attribute) {
                    change(&mut self.set_below, &mut self.clear_below, attr, set);
                } else if let Some(known) = whole(word) {
                    self.whole.extend(known);
                } else {
                    let (key, value) = word.split_once('=').map_or((word, None), |(key, value)| (key, Some(value)));
                    self.data.push((key.to_owned(), value.map(str::to_owned)));
                }
            }
        }
    }
}

/// `Some(None)` for a word that is known and does nothing.
fn whole(word: &str) -> Option<Option<&'static str>> {
    let at = WHOLE.binary_search_by_key(&word, |(name, _)| name).ok()?;
    WHOLE.get(at).map(|(_, key)| *key)
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
#[must_use]
pub fn propagation(word: &str) -> Option<(MountPropagationFlags, Depth)> {
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
        Options::parse(&words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_tables_are_sorted() {
        assert!(ATTRIBUTES.is_sorted_by_key(|(name, _, _)| name));
        assert!(WHOLE.is_sorted_by_key(|(name, _)| name));
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
    fn words_of_mount_8_do_not_reach_the_file_system_as_data() {
        let options = parse(&["defaults", "sync", "dirsync", "silent", "nomand", "lazytime", "tmpcopyup", "remount"]);
        assert_eq!(options.whole, ["sync", "dirsync", "lazytime"]);
        assert!(options.copy_up && options.remount && options.data.is_empty());
    }

    #[test]
    fn recursive_words_are_for_all_below() {
        let options = parse(&["rro", "rnosuid", "rnodev", "rnoexec", "rnoatime", "rnosymfollow", "rexec"]);
        let set =
            MountAttr::RDONLY | MountAttr::NOSUID | MountAttr::NODEV | MountAttr::NOATIME | MountAttr::NOSYMFOLLOW;
        assert_eq!((options.set_below, options.clear_below), (set, MountAttr::NOEXEC | MountAttr::ATIME_FIELD));
        assert!(options.set.is_empty() && options.data.is_empty());
    }

    #[test]
    fn several_propagation_words_keep_their_order() {
        let options = parse(&["rslave", "shared", "unbindable"]);
        let kinds: Vec<_> = options.propagation.iter().map(|(kind, _)| *kind).collect();
        use MountPropagationFlags as Flags;
        assert_eq!(kinds, [Flags::DOWNSTREAM, Flags::SHARED, Flags::UNBINDABLE]);
    }

    #[test]
    fn the_last_word_wins() {
        let options = parse(&["ro", "rw", "noatime", "strictatime", "rro"]);
        assert_eq!((options.set, options.set_below), (MountAttr::STRICTATIME, MountAttr::RDONLY));
        assert_eq!(options.clear, MountAttr::RDONLY | MountAttr::ATIME_FIELD);
    }
}
