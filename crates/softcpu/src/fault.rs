//! Why an instruction did not complete.

/// Vectors of exceptions. Source: Intel SDM volume 3A, table 6-1.
pub(crate) mod vector {
    pub(crate) const DE: u8 = 0;
    pub(crate) const DB: u8 = 1;
    pub(crate) const NMI: u8 = 2;
    pub(crate) const BP: u8 = 3;
    pub(crate) const OF: u8 = 4;
    pub(crate) const BR: u8 = 5;
    pub(crate) const UD: u8 = 6;
    pub(crate) const NM: u8 = 7;
    pub(crate) const DF: u8 = 8;
    pub(crate) const TS: u8 = 10;
    pub(crate) const NP: u8 = 11;
    pub(crate) const SS: u8 = 12;
    pub(crate) const GP: u8 = 13;
    pub(crate) const PF: u8 = 14;
    pub(crate) const MF: u8 = 16;
    pub(crate) const AC: u8 = 17;
    pub(crate) const XM: u8 = 19;
}

/// Bits of a page fault's error code.
pub(crate) mod pf {
    pub(crate) const PRESENT: u32 = 1;
    pub(crate) const WRITE: u32 = 2;
    pub(crate) const USER: u32 = 4;
    pub(crate) const RESERVED: u32 = 8;
    pub(crate) const FETCH: u32 = 16;
}

/// Why an instruction stopped before its end. The instruction pointer still stands on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// An exception; `error` is what is pushed, if this vector pushes one.
    Exception { vector: u8, error: Option<u32> },
    /// Nothing is wrong: a repeated string instruction has done a part and wants to be run again.
    Again,
    /// No way on: three faults in a row, or a shutdown.
    Triple,
}

pub(crate) type Done = Result<(), Fault>;

impl Fault {
    pub(crate) const fn plain(vector: u8) -> Self {
        Self::Exception { vector, error: None }
    }

    pub(crate) const fn coded(vector: u8, error: u32) -> Self {
        Self::Exception { vector, error: Some(error) }
    }
}

pub(crate) const UD: Fault = Fault::plain(vector::UD);
pub(crate) const NM: Fault = Fault::plain(vector::NM);
pub(crate) const DE: Fault = Fault::plain(vector::DE);
pub(crate) const GP0: Fault = Fault::coded(vector::GP, 0);
pub(crate) const SS0: Fault = Fault::coded(vector::SS, 0);

/// A general protection fault that names a selector.
pub(crate) const fn gp(selector: u16) -> Fault {
    Fault::coded(vector::GP, (selector & 0xfffc) as u32)
}
