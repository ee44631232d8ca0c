//! Machine assembly, boot, snapshots; the program insula-vmm.
