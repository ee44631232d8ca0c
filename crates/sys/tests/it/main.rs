//! What only a program of its own can show: this one has [`sys::quick_copy!`]'s functions in place of the C library's.

#[cfg(target_arch = "x86_64")]
sys::quick_copy!();

/// Every length up to a few steps of the loop, at every distance: apart, touching, overlapping either way, the same place.
#[test]
fn every_length_and_overlap_is_copied() {
    const LENGTHS: usize = 200;
    const ROOM: usize = 3 * LENGTHS;
    let fresh: Vec<u8> = (0..ROOM).map(|at| (at * 7 % 251) as u8).collect();
    for length in 0..LENGTHS {
        for to in 0..=(ROOM - length).min(2 * LENGTHS) {
            let from = LENGTHS;
            let mut bytes = fresh.clone();
            bytes.copy_within(from..from + length, to);
            for (at, &byte) in bytes.iter().enumerate() {
                let source = if (to..to + length).contains(&at) { at - to + from } else { at };
                assert_eq!(byte, fresh[source], "{length} bytes from {from} to {to}, at {at}");
            }
        }
    }
}
