use proptest::prelude::*;

use super::*;

#[test]
fn messages_have_the_kernels_layout_and_are_read_again() {
    let mut batch = Batch::new();
    batch.message("first", 16, NLM_F_ACK, &[1, 2, 3, 4]).put_text(3, "eth0").nest(18, |inner| {
        inner.put_u32(1, 7).put(2, &[9]);
    });
    batch.message("second", 17, 0, &[]);
    assert_eq!(batch.len(), 2);
    assert_eq!(batch.name(2), "second");
    let messages: Vec<_> = Messages(batch.bytes()).collect();
    assert_eq!((messages[0].kind, messages[0].flags, messages[0].sequence), (16, 5, 1));
    let attributes = messages[0].attributes(4);
    assert_eq!(attributes.text(3).as_deref(), Some("eth0"));
    assert_eq!(attributes.nested(18).u32(1), Some(7));
    assert_eq!(attributes.nested(18).u8(2), Some(9));
    assert_eq!(attributes.get(4), None);
    assert_eq!((messages[1].kind, messages[1].sequence, messages[1].body.len()), (17, 2, 0));
    assert_eq!(messages.len(), 2);
}

#[test]
fn answers_are_understood_or_refused() {
    let answer = |kind: u16, code: i32| {
        let mut batch = Batch::new();
        batch.message("x", kind, 0, &code.to_ne_bytes());
        Messages(batch.bytes()).next().and_then(|message| message.acknowledged())
    };
    assert_eq!(answer(2, 0), Some(0));
    assert_eq!(answer(2, -1), Some(1));
    assert_eq!(answer(2, 1), None);
    assert_eq!(answer(16, 0), None);
    assert_eq!(answer(2, i32::MIN), Some(i32::MAX));
}

/// Attributes as somebody may nest them.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Tree {
    Value(u16, Vec<u8>),
    Nest(u16, Vec<Tree>),
}

fn tree() -> impl Strategy<Value = Tree> {
    let kind = 0_u16..0x4000;
    let value = (kind.clone(), proptest::collection::vec(any::<u8>(), 0..40))
        .prop_map(|(kind, value)| Tree::Value(kind, value));
    value.prop_recursive(4, 40, 6, move |inner| {
        (kind.clone(), proptest::collection::vec(inner, 0..6)).prop_map(|(kind, parts)| Tree::Nest(kind, parts))
    })
}

fn write(message: &mut Message<'_>, parts: &[Tree]) {
    for part in parts {
        match part {
            Tree::Value(kind, value) => drop(message.put(*kind, value)),
            Tree::Nest(kind, parts) => drop(message.nest(*kind, |inner| write(inner, parts))),
        }
    }
}

fn check(attributes: Attributes<'_>, parts: &[Tree]) {
    let read: Vec<_> = attributes.collect();
    assert_eq!(read.len(), parts.len());
    for ((kind, bytes), part) in read.into_iter().zip(parts) {
        match part {
            Tree::Value(wanted, value) => assert_eq!((kind, bytes), (*wanted, value.as_slice())),
            Tree::Nest(wanted, parts) => {
                assert_eq!(kind, *wanted);
                check(Attributes(bytes), parts);
            }
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        messages in proptest::collection::vec((any::<u16>(), proptest::collection::vec(tree(), 0..6)), 0..5),
        fixed in 0_usize..5,
    ) {
        let fixed = vec![7; fixed * 4];
        let mut batch = Batch::new();
        for (kind, parts) in &messages {
            write(&mut batch.message("x", *kind, NLM_F_ACK, &fixed), parts);
        }
        let read: Vec<_> = Messages(batch.bytes()).collect();
        prop_assert_eq!(read.len(), messages.len());
        for ((message, (kind, parts)), sequence) in read.iter().zip(&messages).zip(1..) {
            prop_assert_eq!((message.kind, message.sequence), (*kind, sequence));
            check(message.attributes(fixed.len()), parts);
        }
    }

    #[test]
    fn noise_is_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for message in Messages(&bytes) {
            let count = message.attributes(4).count();
            prop_assert!(count <= bytes.len());
            let _ = message.acknowledged();
        }
    }
}
