//! Identifiers as types, so that one cannot be taken for another.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// A new random id.
            ///
            /// # Errors
            /// If the kernel gives no random bytes.
            pub fn random() -> Result<Self, getrandom::Error> {
                let mut bytes = [0_u8; 32];
                getrandom::fill(&mut bytes)?;
                Ok(Self(hex::encode(bytes)))
            }

            /// An id that is known already, for instance from the store.
            #[must_use]
            pub fn known(id: &str) -> Self {
                Self(id.to_owned())
            }

            /// All 64 hexadecimal digits.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The first twelve digits, as people read them.
            #[must_use]
            pub fn short(&self) -> &str {
                self.0.get(..12).unwrap_or(&self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(&self.0)
            }
        }
    };
}

id! {
    /// A container's id: 64 hexadecimal digits.
    ContainerId
}
id! {
    /// An exec's id: 64 hexadecimal digits.
    ExecId
}
id! {
    /// A network's id: 64 hexadecimal digits.
    NetworkId
}

impl NetworkId {
    /// The id of a network that is the same on every host: its name's letters, filled up.
    #[must_use]
    pub fn predefined(name: &str) -> Self {
        Self(format!("{:0<64}", hex::encode(name)))
    }
}
