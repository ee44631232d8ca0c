//! What runs in the guest. Each test is ignored, because no other machine may be taken for one.

mod checkpoint;
mod events;
mod groups;
mod lifecycle;
mod limits;
mod rootless;

use crate::subject::Subject;

/// The numbers of the guest's disk, as control groups name it.
fn disk(_: &Subject) -> (u32, u32) {
    let text = std::fs::read_to_string("/sys/class/block/vda/dev").unwrap();
    let (major, minor) = text.trim().split_once(':').unwrap();
    (major.parse().unwrap(), minor.parse().unwrap())
}
