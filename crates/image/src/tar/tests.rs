//! Round trips, and bytes that mean nothing.

use std::collections::BTreeMap;
use std::io::Read;

use proptest::prelude::*;

use super::header::number;
use super::pax::time;
use super::{Entry, Kind, Reader, TarError, Writer};
use crate::Limits;
use crate::tree::{DeviceKind, Stat, Time};

fn read_all(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    let mut reader = Reader::new(bytes, Limits::default());
    let mut out = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut contents = Vec::new();
        reader.contents().read_to_end(&mut contents).map_err(|source| TarError::Read { at: 0, source })?;
        out.push((entry, contents));
    }
    Ok(out)
}

#[test]
fn numbers() {
    let check = |field: &[u8], expect| assert_eq!(number(field), expect, "{field:?}");
    check(b"0000644\0", Some(0o644));
    check(b"   644 \0", Some(0o644));
    check(b"644     ", Some(0o644));
    check(b"\0\0\0\0", Some(0));
    check(b"64x\0", None);
    check(b"-1\0", None);
    check(&[0x80, 0, 0, 0, 0, 0, 1, 0], Some(256));
    check(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe], Some(-2));
    check(&[0x80, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0], None);
}

#[test]
fn times() {
    let check = |text: &str, expect: Option<(i64, u32)>| {
        assert_eq!(time(text.as_bytes()), expect.map(|(seconds, nanos)| Time { seconds, nanos }), "{text}");
    };
    check("12", Some((12, 0)));
    check("12.5", Some((12, 500_000_000)));
    check("12.0000000019", Some((12, 1)));
    check("-1.25", Some((-2, 750_000_000)));
    check("-3", Some((-3, 0)));
    check("", None);
    check("1.x", None);
    check("1e3", None);
    check("99999999999999999999", None);
}

fn stat() -> impl Strategy<Value = Stat> {
    let time = (-(1_i64 << 40)..(1 << 40), 0..1_000_000_000_u32).prop_map(|(seconds, nanos)| Time { seconds, nanos });
    let xattrs = proptest::collection::btree_map(
        "user\\.[a-z]{1,300}".prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>(), 0..50),
        0..3,
    );
    (0..0o7777_u16, any::<u32>(), any::<u32>(), time, xattrs).prop_map(|(mode, uid, gid, mtime, xattrs)| Stat {
        mode,
        uid,
        gid,
        mtime,
        xattrs,
    })
}

fn kind() -> impl Strategy<Value = Kind> {
    let path = "[a-z]{1,130}(/[a-z]{1,130}){0,2}".prop_map(String::into_bytes);
    prop_oneof![
        (0..2000_u64).prop_map(|size| Kind::File { size, segments: None }),
        Just(Kind::Directory),
        path.clone().prop_map(Kind::Symlink),
        path.prop_map(Kind::Hardlink),
        (0..4096_u32, 0..1_u32 << 20).prop_map(|(major, minor)| Kind::Device { kind: DeviceKind::Block, major, minor }),
        Just(Kind::Fifo),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(entries in proptest::collection::vec(("[a-zA-Z.é]{2,80}(/[a-z]{1,90}){0,3}", stat(), kind()), 0..8)) {
        let mut writer = Writer::new(Vec::new());
        let mut expected = Vec::new();
        for (name, stat, kind) in entries {
            let path = crate::path::clean(name.as_bytes());
            prop_assume!(path.is_ok());
            let path = path.unwrap();
            prop_assume!(!path.is_empty());
            let size = if let Kind::File { size, .. } = &kind { *size as usize } else { 0 };
            let contents = vec![b'c'; size];
            writer.add(&path, &stat, &kind, &mut &contents[..]).unwrap();
            expected.push((Entry { path, stat, kind }, contents));
        }
        let bytes = writer.finish().unwrap();
        prop_assert_eq!(read_all(&bytes).unwrap(), expected);
    }

    #[test]
    fn noise_is_refused_calmly(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        drop(read_all(&bytes));
    }

    #[test]
    fn changed_archives_are_read_or_refused(at in 0..3000_usize, value: u8) {
        let mut writer = Writer::new(Vec::new());
        let mut xattrs = BTreeMap::new();
        xattrs.insert(b"user.x".to_vec(), vec![1; 20]);
        let stat = Stat { mode: 0o644, xattrs, ..Stat::default() };
        let kind = Kind::File { size: 700, segments: None };
        writer.add(&[b'n'; 150], &stat, &kind, &mut &[7; 700][..]).unwrap();
        let mut bytes = writer.finish().unwrap();
        let at = at % bytes.len();
        bytes[at] = value;
        crate::fuzzing::layer(&bytes);
        drop(read_all(&bytes));
    }
}
