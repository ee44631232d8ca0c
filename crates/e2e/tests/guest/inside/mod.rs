//! What runs in the guest. Each test is ignored, because no other machine may be taken for one.

mod checkpoint;
