//! Kernel modules: what each says of itself, and in which order those that a guest needs are loaded.
//!
//! A package has no `modules.dep`; that is made by its scripts, which are not run here. Everything in it stands in the
//! modules' own section `.modinfo`.

use std::collections::{BTreeMap, BTreeSet};

/// What a module says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Module {
    /// Its file in the package.
    pub(super) path: String,
    /// Modules that have to be there before it.
    depends: Vec<String>,
    /// Other names, some of which modules that have to be there before it, if they are, are called by.
    aliases: Vec<String>,
    before: Vec<String>,
}

/// What is loaded before the guest's disk is looked for.
const DRIVERS: &[&str] = &[
    "virtio_pci",
    "virtio_mmio",
    "virtio_blk",
    "virtio_net",
    "virtio_console",
    "virtio_rng",
    "virtio_balloon",
    "virtio_mem",
    "virtio_pmem",
    "nd_pmem",
    "vmw_vsock_virtio_transport",
    "af_packet",
];
/// What is loaded when the guest's root needs it.
const FILE_SYSTEMS: &[&str] = &["ext4", "xfs", "erofs", "squashfs", "isofs", "overlay", "virtiofs", "vfat"];

/// A module's name, as the kernel has it: of its file, with underscores.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

/// Whether the file is a module, compressed or not.
pub(super) fn is_module(path: &str) -> bool {
    [".ko", ".ko.xz", ".ko.zst", ".ko.gz"].iter().any(|end| path.ends_with(end))
}

fn number(bytes: &[u8], at: usize, width: usize) -> Option<usize> {
    let part = bytes.get(at..at.checked_add(width)?)?;
    let value = part.iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    usize::try_from(value).ok()
}

/// The content of the section `.modinfo` of a 64-bit ELF file.
fn section(file: &[u8]) -> Option<&[u8]> {
    if !file.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (table, size, count, names) =
        (number(file, 40, 8)?, number(file, 58, 2)?, number(file, 60, 2)?, number(file, 62, 2)?);
    let header = |index: usize| table.checked_add(index.checked_mul(size)?);
    let content = |at: usize| {
        let (offset, size) = (number(file, at.checked_add(24)?, 8)?, number(file, at.checked_add(32)?, 8)?);
        file.get(offset..offset.checked_add(size)?)
    };
    let names = content(header(names)?)?;
    (0..count).find_map(|index| {
        let at = header(index)?;
        let name = names.get(number(file, at, 4)?..)?;
        if name.starts_with(b".modinfo\0") { content(at) } else { None }
    })
}

impl Module {
    /// Reads what a module says of itself; `None` if it says nothing.
    pub(super) fn read(path: &str, file: &[u8]) -> Option<Self> {
        let mut module = Self { path: path.to_owned(), ..Self::default() };
        for word in section(file)?.split(|byte| *byte == 0) {
            let Some((key, value)) = std::str::from_utf8(word).ok().and_then(|word| word.split_once('=')) else {
                continue;
            };
            match key {
                "depends" => module.depends.extend(value.split(',').filter(|name| !name.is_empty()).map(str::to_owned)),
                "alias" => module.aliases.push(value.to_owned()),
                "softdep" => {
                    let before = value.split_whitespace().skip_while(|word| *word != "pre:").skip(1);
                    module.before.extend(before.take_while(|word| *word != "post:").map(str::to_owned));
                }
                _ => {}
            }
        }
        Some(module)
    }
}

/// Modules by their names.
#[derive(Debug, Default)]
pub(super) struct Modules {
    by_name: BTreeMap<String, Module>,
}

impl Modules {
    pub(super) fn add(&mut self, module: Module) {
        self.by_name.insert(name_of(&module.path), module);
    }

    /// The modules that answer to a name: the one that has it, or those that have it as an alias.
    fn answering<'a>(&'a self, name: &'a str) -> Vec<&'a str> {
        let plain = name.replace('-', "_");
        if let Some((own, _)) = self.by_name.get_key_value(&plain) {
            return vec![own];
        }
        let has = |module: &Module| module.aliases.iter().any(|alias| alias == name);
        self.by_name.iter().filter(|(_, module)| has(module)).map(|(own, _)| own.as_str()).collect()
    }

    /// Puts a module behind everything that it needs.
    fn order<'a>(&'a self, name: &'a str, seen: &mut BTreeSet<&'a str>, order: &mut Vec<&'a Module>) {
        for own in self.answering(name) {
            let Some(module) = self.by_name.get(own).filter(|_| seen.insert(own)) else { continue };
            for needed in module.before.iter().chain(&module.depends) {
                self.order(needed, seen, order);
            }
            order.push(module);
        }
    }

    /// The modules that a guest needs: what for (`drivers`, or a file system's name), with files in the order in which they
    /// are loaded. What is not there is in the kernel, or the kernel lacks it.
    pub(super) fn wanted(&self) -> Vec<(String, Vec<&Module>)> {
        let mut drivers = Vec::new();
        let mut seen = BTreeSet::new();
        for name in DRIVERS {
            self.order(name, &mut seen, &mut drivers);
        }
        let mut wanted = vec![("drivers".to_owned(), drivers)];
        for name in FILE_SYSTEMS {
            let mut order = Vec::new();
            self.order(name, &mut BTreeSet::new(), &mut order);
            let kinds = self.by_name.get(*name).into_iter().flat_map(|module| &module.aliases);
            let kinds: BTreeSet<&str> = kinds.filter_map(|alias| alias.strip_prefix("fs-")).chain([*name]).collect();
            if !order.is_empty() {
                wanted.extend(kinds.into_iter().map(|kind| (kind.to_owned(), order.clone())));
            }
        }
        wanted
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A module's file with nothing but this in its `.modinfo`.
    pub(crate) fn file(words: &[&str]) -> Vec<u8> {
        let content = words.join("\0");
        let names = b"\0.modinfo\0.shstrtab\0";
        let mut file = vec![0; 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let table = 64 + content.len() + names.len();
        file[40..48].copy_from_slice(&(table as u64).to_le_bytes());
        (file[58], file[60], file[62]) = (64, 3, 2);
        file.extend(content.as_bytes());
        file.extend(names);
        file.extend([0; 64]);
        for (name, offset, size) in [(1u32, 64, content.len()), (10, 64 + content.len(), names.len())] {
            let at = file.len();
            file.extend([0; 64]);
            file[at..at + 4].copy_from_slice(&name.to_le_bytes());
            file[at + 24..at + 32].copy_from_slice(&(offset as u64).to_le_bytes());
            file[at + 32..at + 40].copy_from_slice(&(size as u64).to_le_bytes());
        }
        file
    }

    fn modules(list: &[(&str, &[&str])]) -> Modules {
        let mut modules = Modules::default();
        for (path, words) in list {
            modules.add(Module::read(path, &file(words)).unwrap());
        }
        modules
    }

    #[test]
    fn what_is_needed_stands_before() {
        let modules = modules(&[
            ("kernel/virtio-blk.ko.xz", &["depends=virtio,virtio_ring"]),
            ("kernel/virtio.ko", &["license=GPL", "depends="]),
            ("kernel/virtio_ring.ko", &["depends=virtio"]),
            (
                "kernel/ext4.ko",
                &["softdep=pre: crc32c post: none", "depends=mbcache", "alias=fs-ext4", "alias=fs-ext3"],
            ),
            ("kernel/mbcache.ko", &["depends="]),
            ("kernel/crc32c_generic.ko", &["alias=crc32c", "alias=crypto-crc32c"]),
            ("kernel/crc32c-intel.ko", &["alias=crc32c"]),
            ("kernel/none.ko", &["depends="]),
        ]);
        let wanted: Vec<_> = modules
            .wanted()
            .into_iter()
            .map(|(what, order)| (what, order.iter().map(|module| name_of(&module.path)).collect::<Vec<_>>().join(" ")))
            .collect();
        let ext = "crc32c_generic crc32c_intel mbcache ext4";
        let expect = [("drivers", "virtio virtio_ring virtio_blk"), ("ext3", ext), ("ext4", ext)];
        assert_eq!(wanted, expect.map(|(what, order)| (what.to_owned(), order.to_owned())));
    }

    #[test]
    fn circles_end() {
        let modules = modules(&[("virtio_blk.ko", &["depends=a"]), ("a.ko", &["depends=virtio_blk"])]);
        assert_eq!(modules.wanted()[0].1.len(), 2);
    }

    #[test]
    fn damaged_modules_say_nothing() {
        let whole = file(&["depends=a"]);
        assert!(Module::read("m.ko", &whole).is_some());
        for length in 0..whole.len() {
            let _any = Module::read("m.ko", &whole[..length]);
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0xff;
            let _any = Module::read("m.ko", &changed);
        }
        assert!(Module::read("m.ko", b"#!/bin/sh").is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_modules_say_an_order_comes_of_it(
            noise in proptest::collection::vec(any::<u8>(), 0..300),
            says in proptest::collection::vec("(depends|alias|softdep|x)=[-a-e_,: ]{0,12}(pre: [a-e]|fs-[a-e]|virtio_blk)?", 0..12),
            edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let _any = Module::read("noise.ko", &noise);
            let _any = Module::read("noise.ko", &[b"\x7fELF\x02\x01", &noise[..]].concat());
            let mut modules = Modules::default();
            for (name, word) in ["a", "b", "c", "d", "e", "virtio_blk", "ext4"].iter().cycle().zip(&says) {
                let whole = file(&[word]);
                modules.add(Module::read(&format!("{name}.ko"), &whole).unwrap());
                let (length, mut changed) = (whole.len(), whole);
                edits.iter().for_each(|(at, byte)| changed[at.index(length)] = *byte);
                let _any = Module::read("changed.ko", &changed);
            }
            for (what, order) in modules.wanted() {
                let names: BTreeSet<_> = order.iter().map(|module| &module.path).collect();
                prop_assert_eq!(names.len(), order.len(), "a module twice for {}", what);
            }
        }
    }
}
