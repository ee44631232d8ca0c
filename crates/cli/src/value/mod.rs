//! Values of flags: pure readers, each from the text to what the API wants, or to what is wrong with the text.

pub(crate) mod device;
pub(crate) mod mount;
pub(crate) mod number;
pub(crate) mod pair;
pub(crate) mod port;
pub(crate) mod time;
