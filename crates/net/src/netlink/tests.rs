use proptest::prelude::*;

use super::socket::acknowledged;
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
        Messages(batch.bytes()).next().and_then(acknowledged)
    };
    assert_eq!(answer(2, 0), Some(0));
    assert_eq!(answer(2, -1), Some(1));
    assert_eq!(answer(2, 1), None);
    assert_eq!(answer(16, 0), None);
    assert_eq!(answer(2, i32::MIN), Some(i32::MAX));
}

proptest! {
    #[test]
    fn noise_is_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for message in Messages(&bytes) {
            let count = message.attributes(4).count();
            prop_assert!(count <= bytes.len());
        }
    }
}
