//! Interrupt messages: what IOAPIC, MSI and local APICs send to local APICs.

use hv::Msi;

/// How a message is to be taken (SDM volume 3, table "Delivery Mode").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    /// The vector, to every destination.
    Fixed,
    /// The vector, to one of the destinations.
    Lowest,
    /// System management: accepted and ignored, there is no such mode here.
    Smi,
    /// Non-maskable.
    Nmi,
    /// Initialise the processor.
    Init,
    /// Start it at `vector << 12`.
    Startup,
    /// Ask the PIC for the vector.
    ExtInt,
}

impl Delivery {
    /// From the three bits that have it everywhere.
    pub(super) fn from_bits(bits: u32) -> Option<Self> {
        match bits & 7 {
            0 => Some(Self::Fixed),
            1 => Some(Self::Lowest),
            2 => Some(Self::Smi),
            4 => Some(Self::Nmi),
            5 => Some(Self::Init),
            6 => Some(Self::Startup),
            7 => Some(Self::ExtInt),
            _ => None,
        }
    }
}

/// How the source behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trigger {
    /// Once a rising edge.
    Edge,
    /// As long as it is high; ends with EOI.
    Level,
}

/// Whom a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Destination {
    /// The local APIC with this id; all ones is every one.
    Physical(u32),
    /// Those whose logical id matches.
    Logical(u32),
    /// The sender.
    Sender,
    /// Everyone.
    All,
    /// Everyone but the sender.
    Others,
}

/// An interrupt on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message {
    /// For whom.
    pub(super) destination: Destination,
    /// What it is.
    pub(super) delivery: Delivery,
    /// Its vector.
    pub(super) vector: u8,
    /// Its source's kind.
    pub(super) trigger: Trigger,
}

impl Message {
    /// A message as a device writes it to memory; `None` if its delivery mode is reserved.
    pub(super) fn from_msi(msi: Msi) -> Option<Self> {
        let id = (msi.address >> 12 & 0xff) as u32;
        let logical = msi.address & 1 << 2 != 0;
        Some(Self {
            destination: if logical { Destination::Logical(id) } else { Destination::Physical(id) },
            delivery: Delivery::from_bits(msi.data >> 8)?,
            vector: msi.data as u8,
            trigger: if msi.data & 1 << 15 != 0 { Trigger::Level } else { Trigger::Edge },
        })
    }

    /// What the lower half of a local APIC's command says, for one processor; `None` if its delivery mode is reserved.
    pub(super) fn from_command(id: u32, command: u32) -> Option<Self> {
        Some(Self {
            destination: Destination::Physical(id),
            delivery: Delivery::from_bits(command >> 8)?,
            vector: command as u8,
            trigger: Trigger::Edge,
        })
    }

    /// What an entry of the IOAPIC's redirection table sends; `None` if its delivery mode is reserved.
    pub(super) fn from_redirection(entry: u64) -> Option<Self> {
        let id = (entry >> 56) as u32;
        let logical = entry & 1 << 11 != 0;
        Some(Self {
            destination: if logical { Destination::Logical(id) } else { Destination::Physical(id) },
            delivery: Delivery::from_bits((entry >> 8) as u32)?,
            vector: entry as u8,
            trigger: if entry & 1 << 15 != 0 { Trigger::Level } else { Trigger::Edge },
        })
    }
}
