//! The processor that guests see: x86-64-v2, one table of CPUID for both backends.
//!
//! x86-64-v2 and CMPXCHG16B, RDTSCP, FSGSBASE, PCID, SMEP, SMAP, UMIP, NX, 1 GiB pages, x2APIC, TSC deadline timer, an
//! invariant TSC; no XSAVE, so FXSAVE is the whole vector state. It says that it runs under KVM, so that Linux takes the
//! paravirtual clock. A backend takes away what its host can't do ([`CpuModel::restricted`]); a snapshot keeps the table, and
//! is restored only where each of its features can be had.
//!
//! Source: Intel SDM volume 2, CPUID; Linux `Documentation/virt/kvm/x86/cpuid.rst`.

use serde::{Deserialize, Serialize};

/// One entry of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaf {
    /// EAX on entry.
    pub function: u32,
    /// ECX on entry, for functions that look at it; 0 otherwise.
    pub index: u32,
    /// EAX, EBX, ECX, EDX on return.
    pub registers: [u32; 4],
}

/// What the guest sees by CPUID, and the MSR that belongs to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuModel {
    leaves: Vec<Leaf>,
    /// IA32_ARCH_CAPABILITIES: which weaknesses of real processors it does not have.
    pub arch_capabilities: u64,
}

/// The features in one register of the table.
struct Features {
    function: u32,
    /// 0 is EAX.
    register: usize,
    /// Bit and name.
    bits: &'static [(u32, &'static str)],
}

const fn features(function: u32, register: usize, bits: &'static [(u32, &'static str)]) -> Features {
    Features { function, register, bits }
}

/// Which features the table holds, all of them at index 0; what is no feature may differ between hosts.
const FEATURES: &[Features] = &[
    features(
        1,
        2,
        &[
            (0, "sse3"),
            (9, "ssse3"),
            (13, "cx16"),
            (17, "pcid"),
            (19, "sse4_1"),
            (20, "sse4_2"),
            (21, "x2apic"),
            (23, "popcnt"),
            (24, "tsc_deadline"),
            (31, "hypervisor"),
        ],
    ),
    features(
        1,
        3,
        &[
            (0, "fpu"),
            (2, "de"),
            (3, "pse"),
            (4, "tsc"),
            (5, "msr"),
            (6, "pae"),
            (8, "cx8"),
            (9, "apic"),
            (11, "sep"),
            (12, "mtrr"),
            (13, "pge"),
            (15, "cmov"),
            (16, "pat"),
            (17, "pse36"),
            (19, "clflush"),
            (23, "mmx"),
            (24, "fxsr"),
            (25, "sse"),
            (26, "sse2"),
        ],
    ),
    features(6, 0, &[(2, "arat")]),
    features(7, 1, &[(0, "fsgsbase"), (7, "smep"), (9, "erms"), (10, "invpcid"), (20, "smap")]),
    features(7, 2, &[(2, "umip")]),
    features(7, 3, &[(26, "spec_ctrl"), (29, "arch_capabilities")]),
    features(0x8000_0001, 2, &[(0, "lahf")]),
    features(0x8000_0001, 3, &[(11, "syscall"), (20, "nx"), (26, "pdpe1gb"), (27, "rdtscp"), (29, "lm")]),
    features(0x8000_0007, 3, &[(8, "invariant_tsc")]),
];

/// Features without which no 64-bit Linux starts. The rest may be missing on a host: what is missing, a machine's
/// inspection says.
const NEEDED: &[&str] = &["apic", "cmov", "cx8", "fpu", "fxsr", "lm", "msr", "nx", "pae", "pge", "pse", "sse", "sse2"];

/// Logical processors counted in bits of an APIC id.
fn id_bits(vcpus: u32) -> u32 {
    vcpus.max(1).next_power_of_two().trailing_zeros()
}

/// KVM's paravirtual features: the second form of the clock, no delay for port 0x80, counters that agree.
const KVM_FEATURES: u32 = 1 << 1 | 1 << 3 | 1 << 24;

/// None of the weaknesses that software has to work around: RDCL_NO, IBRS_ALL, SKIP_L1DFL_VMENTRY, SSB_NO, MDS_NO,
/// PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, BHI_NO, PBRSB_NO, GDS_NO, RFDS_NO, ITS_NO.
pub const NO_WEAKNESS: u64 = 1
    | 1 << 1
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 8
    | 1 << 13
    | 1 << 14
    | 1 << 15
    | 1 << 20
    | 1 << 24
    | 1 << 26
    | 1 << 27
    | 1 << 62;

/// The MSRs of a vCPU's state, in the order in which they are set: the deadline after the counter.
pub const MSRS: &[u32] = &[
    0x174, // SYSENTER_CS
    0x175, // SYSENTER_ESP
    0x176, // SYSENTER_EIP
    0x1a0, // MISC_ENABLE
    0x277, // PAT
    0x2ff, // MTRR_DEF_TYPE
    0x200, // MTRR_PHYSBASE0 and so on: eight pairs
    0x201,
    0x202,
    0x203,
    0x204,
    0x205,
    0x206,
    0x207,
    0x208,
    0x209,
    0x20a,
    0x20b,
    0x20c,
    0x20d,
    0x20e,
    0x20f,
    0x250, // MTRR_FIX64K_00000 and the other fixed ranges
    0x258,
    0x259,
    0x268,
    0x269,
    0x26a,
    0x26b,
    0x26c,
    0x26d,
    0x26e,
    0x26f,
    0xc000_0081, // STAR
    0xc000_0082, // LSTAR
    0xc000_0083, // CSTAR
    0xc000_0084, // SYSCALL_MASK
    0xc000_0102, // KERNEL_GS_BASE
    0xc000_0103, // TSC_AUX
    0x48,        // SPEC_CTRL
    0x3b,        // TSC_ADJUST
    0x10,        // TSC
    0x6e0,       // TSC_DEADLINE
    0x4b56_4d00, // KVM's wall clock
    0x4b56_4d01, // KVM's time page
];

fn text(bytes: &str, at: usize) -> [u32; 4] {
    std::array::from_fn(|word| {
        let byte = |n: usize| u32::from(bytes.as_bytes().get(at + word * 4 + n).copied().unwrap_or(0));
        byte(0) | byte(1) << 8 | byte(2) << 16 | byte(3) << 24
    })
}

/// A leaf's registers with the features of [`FEATURES`] set on top of `registers`.
fn with_features(function: u32, mut registers: [u32; 4]) -> [u32; 4] {
    for set in FEATURES.iter().filter(|set| set.function == function) {
        registers[set.register] |= set.bits.iter().fold(0, |all, (bit, _)| all | 1 << bit);
    }
    registers
}

impl CpuModel {
    /// The whole model for a machine with `vcpus` processors: cores of one package.
    pub fn v2(vcpus: u32) -> Self {
        const BRAND: &str = "Insula virtual CPU (x86-64-v2)";
        let count = vcpus.clamp(1, 255);
        let cores = ((1 << id_bits(vcpus)) - 1) << 26;
        // Ways, partitions and line size of a cache, its sets.
        let cache = |kind: u32, level: u32, sharing: u32, ways: u32, sets: u32| {
            [kind | level << 5 | 1 << 8 | sharing << 14 | cores, (ways - 1) << 22 | 63, sets - 1, 0]
        };
        let several = if count > 1 { 1 << 28 } else { 0 };
        let all_cores = (1 << id_bits(vcpus)) - 1;
        let mut leaves = Vec::new();
        let mut add = |function, index, registers| {
            leaves.push(Leaf {
                function,
                index,
                registers: if index == 0 { with_features(function, registers) } else { registers },
            });
        };
        add(0, 0, [0xb, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]);
        // Family 6, model 44, stepping 2: the generation whose instruction set x86-64-v2 is. Lines of 64 bytes.
        add(1, 0, [0x0002_06c2, count << 16 | 8 << 8, 0, several]);
        // Everything about caches is in leaf 4.
        add(2, 0, [0x00fe_ff01, 0, 0, 0xf0]);
        add(4, 0, cache(1, 1, 0, 8, 64));
        add(4, 1, cache(2, 1, 0, 8, 64));
        add(4, 2, cache(3, 2, 0, 8, 1024));
        add(4, 3, cache(3, 3, all_cores, 16, 16384));
        add(4, 4, [0; 4]);
        add(6, 0, [0; 4]);
        add(7, 0, [0; 4]);
        add(0xb, 0, [0, 1, 1 << 8, 0]);
        add(0xb, 1, [id_bits(vcpus), count, 2 << 8 | 1, 0]);
        add(0x4000_0000, 0, [0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d]);
        add(0x4000_0001, 0, [KVM_FEATURES, 0, 0, 0]);
        add(0x8000_0000, 0, [0x8000_0008, 0, 0, 0]);
        add(0x8000_0001, 0, [0; 4]);
        for part in 0..3 {
            add(0x8000_0002 + part, 0, text(BRAND, part as usize * 16));
        }
        add(0x8000_0006, 0, [0, 0, 512 << 16 | 6 << 12 | 64, 0]);
        add(0x8000_0007, 0, [0; 4]);
        // 40 bits of physical, 48 of linear address.
        add(0x8000_0008, 0, [48 << 8 | 40, 0, 0, 0]);
        Self { leaves, arch_capabilities: NO_WEAKNESS }
    }

    /// The table for one vCPU: its APIC id is in leaves 1 and 0xb.
    pub fn for_vcpu(&self, index: u32) -> Vec<Leaf> {
        let mut leaves = self.leaves.clone();
        for leaf in &mut leaves {
            match leaf.function {
                1 => leaf.registers[1] = leaf.registers[1] & 0x00ff_ffff | index << 24,
                0xb => leaf.registers[3] = index,
                _ => {}
            }
        }
        leaves
    }

    /// What CPUID gives on vCPU `index`: EAX, EBX, ECX, EDX. Functions beyond the table give that of the highest basic one, as
    /// Intel's processors do.
    pub fn cpuid(&self, vcpu: u32, function: u32, index: u32) -> [u32; 4] {
        let highest = match function >> 28 {
            0x8 => 0x8000_0008,
            0x4 => 0x4000_0001,
            _ => 0xb,
        };
        let function = if function > highest { 0xb } else { function };
        let subleaves = matches!(function, 4 | 7 | 0xb);
        let found = self.leaves.iter().find(|leaf| leaf.function == function && (!subleaves || leaf.index == index));
        let mut registers = found.map_or([0; 4], |leaf| leaf.registers);
        match function {
            1 => registers[1] |= vcpu << 24,
            // The level that was asked for, also when there is none.
            0xb => {
                registers[2] = registers[2] & !0xff | index & 0xff;
                registers[3] = vcpu;
            }
            _ => {}
        }
        registers
    }

    /// Names of the features of this model.
    pub fn features(&self) -> impl Iterator<Item = &'static str> + '_ {
        FEATURES.iter().flat_map(|set| {
            let word = self.registers(set.function)[set.register];
            set.bits.iter().filter(move |(bit, _)| word & 1 << bit != 0).map(|(_, name)| *name)
        })
    }

    fn registers(&self, function: u32) -> [u32; 4] {
        let same = |leaf: &&Leaf| leaf.function == function && leaf.index == 0;
        self.leaves.iter().find(same).map_or([0; 4], |leaf| leaf.registers)
    }

    /// This model without the features that a host's table lacks.
    ///
    /// # Errors
    /// The names of missing features without which no guest runs.
    pub fn restricted(&self, host: &[Leaf]) -> Result<Self, Vec<&'static str>> {
        let mut model = self.clone();
        let mut missing = Vec::new();
        for Features { function, register, bits } in FEATURES {
            let same = |leaf: &Leaf| leaf.function == *function && leaf.index == 0;
            let can = host.iter().find(|leaf| same(leaf)).map_or(0, |leaf| leaf.registers[*register]);
            let Some(leaf) = model.leaves.iter_mut().find(|leaf| same(leaf)) else { continue };
            let lost = bits.iter().filter(|(bit, _)| leaf.registers[*register] & !can & 1 << bit != 0);
            missing.extend(lost.map(|(_, name)| *name));
            leaf.registers[*register] &= can | !bits.iter().fold(0, |all, (bit, _)| all | 1 << bit);
        }
        missing.retain(|name| NEEDED.binary_search(name).is_ok());
        if missing.is_empty() { Ok(model) } else { Err(missing) }
    }

    /// Features that `self` has and `other` lacks: what stands against moving a guest of `self` there.
    pub fn beyond(&self, other: &Self) -> Vec<&'static str> {
        let has: Vec<_> = other.features().collect();
        self.features().filter(|name| !has.contains(name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_v2_under_kvm() {
        let model = CpuModel::v2(4);
        assert_eq!(model.cpuid(0, 0x4000_0000, 0)[1..], [0x4b4d_564b, 0x564b_4d56, 0x4d]);
        let one = model.cpuid(3, 1, 0);
        assert_eq!(one[1] >> 24, 3);
        assert_eq!(one[1] >> 16 & 0xff, 4);
        assert_ne!(one[3] & 1 << 28, 0);
        assert_eq!(CpuModel::v2(1).cpuid(0, 1, 0)[3] & 1 << 28, 0);
        for name in NEEDED {
            assert!(model.features().any(|feature| feature == *name), "{name}");
        }
        assert!(NEEDED.is_sorted());
        // No XSAVE, no AVX.
        assert_eq!(one[2] & (1 << 26 | 1 << 27 | 1 << 28), 0);
    }

    #[test]
    fn topology_is_one_package() {
        let model = CpuModel::v2(6);
        assert_eq!(model.cpuid(5, 0xb, 1), [3, 6, 0x201, 5]);
        assert_eq!(model.cpuid(5, 0xb, 2), [0, 0, 2, 5]);
        assert_eq!(model.cpuid(5, 4, 3)[0] >> 26, 7);
    }

    #[test]
    fn what_is_beyond_the_table_is_the_highest_leaf() {
        let model = CpuModel::v2(1);
        assert_eq!(model.cpuid(0, 0x55, 0), model.cpuid(0, 0xb, 0));
        assert_eq!(model.cpuid(0, 5, 0), [0; 4]);
    }

    #[test]
    fn a_host_takes_features_away() {
        let model = CpuModel::v2(2);
        let mut host = model.for_vcpu(0);
        host.iter_mut().find(|leaf| leaf.function == 7).unwrap().registers[1] = 0;
        let less = model.restricted(&host).unwrap();
        assert_eq!(model.beyond(&less), ["fsgsbase", "smep", "erms", "invpcid", "smap"]);
        assert!(less.beyond(&model).is_empty());
        host.retain(|leaf| leaf.function != 0x8000_0001);
        assert_eq!(model.restricted(&host).unwrap_err(), ["nx", "lm"]);
    }

    #[test]
    fn the_brand_is_text() {
        let model = CpuModel::v2(1);
        let bytes: Vec<u8> =
            (0..3).flat_map(|part| model.cpuid(0, 0x8000_0002 + part, 0)).flat_map(u32::to_le_bytes).collect();
        assert!(bytes.starts_with(b"Insula virtual CPU"));
        assert_eq!(bytes[47], 0);
    }
}
