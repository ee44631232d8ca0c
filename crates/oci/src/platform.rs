//! Platforms: the operating system and processor an image is for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Text that names no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid platform {text:?}: unknown operating system or architecture: invalid argument; it must look like linux/amd64 or linux/arm64/v8"
)]
pub struct PlatformError {
    text: String,
}

/// An operating system, a processor architecture and perhaps a variant of it, in the image specification's words.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// Such as `linux`.
    pub os: String,
    /// Such as `amd64`.
    pub architecture: String,
    /// Such as `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// The platform that this program runs on.
    #[must_use]
    pub fn host() -> Self {
        let (architecture, variant) = normal(std::env::consts::ARCH, None);
        Self { os: std::env::consts::OS.to_owned(), architecture, variant }
    }

    /// Whether it is the platform that is wanted; a variant counts only where both name one.
    #[must_use]
    pub fn is(&self, wanted: &Self) -> bool {
        let variants = self.variant.as_ref().zip(wanted.variant.as_ref());
        self.os == wanted.os
            && self.architecture == wanted.architecture
            && variants.is_none_or(|(own, wanted)| own == wanted)
    }

    /// Whether an image for `self` runs on `host` without emulation.
    #[must_use]
    pub fn runs_on(&self, host: &Self) -> bool {
        let exact = self.os == host.os && self.architecture == host.architecture;
        // amd64 processors run 386 programs, and a missing variant means the architecture's first.
        let older = self.os == host.os && self.architecture == "386" && host.architecture == "amd64";
        older || (exact && (self.variant.is_none() || self.variant == host.variant))
    }
}

/// The architecture's name in the image specification, with the variant it has when none is given.
fn normal(architecture: &str, variant: Option<&str>) -> (String, Option<String>) {
    let (name, default) = match architecture.to_ascii_lowercase().as_str() {
        "x86_64" | "x86-64" | "amd64" => ("amd64", None),
        "x86" | "i386" | "i686" | "386" => ("386", None),
        "aarch64" | "arm64" => ("arm64", Some("v8")),
        "arm" | "armhf" => ("arm", Some("v7")),
        "armel" => ("arm", Some("v6")),
        "riscv64gc" | "riscv64" => ("riscv64", None),
        "powerpc64le" | "ppc64le" => ("ppc64le", None),
        "loongarch64" | "loong64" => ("loong64", None),
        other => return (other.to_owned(), variant.map(str::to_owned)),
    };
    (name.to_owned(), variant.or(default).map(str::to_owned))
}

/// Operating systems and processors that may stand alone.
const SYSTEMS: &[&str] = &["darwin", "freebsd", "linux", "macos", "netbsd", "openbsd", "windows"];
const PROCESSORS: &[&str] = &["386", "amd64", "arm", "arm64", "loong64", "mips64le", "ppc64le", "riscv64", "s390x"];

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        // arm64 has only ever had v8, so nobody writes it.
        match self.variant.as_deref() {
            Some("v8") if self.architecture == "arm64" => Ok(()),
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let bad = || PlatformError { text: text.to_owned() };
        let fits = |part: &&str| {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
        };
        let parts: Vec<&str> = text.split('/').collect();
        if !parts.iter().all(fits) {
            return Err(bad());
        }
        let host = Self::host();
        let (os, architecture, variant) = match parts.as_slice() {
            // an operating system stands for itself on this machine's processor, a processor for this machine's system
            [os] if SYSTEMS.iter().any(|known| os.eq_ignore_ascii_case(known)) => {
                (*os, host.architecture.as_str(), host.variant.as_deref())
            }
            [architecture] if PROCESSORS.contains(&normal(architecture, None).0.as_str()) => {
                (host.os.as_str(), *architecture, None)
            }
            [os, architecture] => (*os, *architecture, None),
            [os, architecture, variant] => (*os, *architecture, Some(*variant)),
            _ => return Err(bad()),
        };
        let (architecture, variant) = normal(architecture, variant);
        let os = os.to_ascii_lowercase();
        let os = if os == "macos" { "darwin".to_owned() } else { os };
        Ok(Self { os, architecture, variant })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_normal() {
        let check = |text: &str, expect: &str| assert_eq!(text.parse::<Platform>().unwrap().to_string(), expect);
        check("linux/x86_64", "linux/amd64");
        check("Linux/AMD64", "linux/amd64");
        check("linux/aarch64", "linux/arm64");
        check("linux/arm", "linux/arm/v7");
        check("linux/arm/v6", "linux/arm/v6");
        check("linux/s390x", "linux/s390x");
        let host = Platform::host();
        check("LINUX", &format!("linux/{}", host.architecture));
        check("macos", &format!("darwin/{}", host.architecture));
        check("aarch64", &format!("{}/arm64", host.os));
        for bad in ["", "linus", "linux/", "/amd64", "linux/amd64/v1/x", "linux/a b"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_run_their_own_and_older_kin() {
        let amd64: Platform = "linux/amd64".parse().unwrap();
        let i386: Platform = "linux/386".parse().unwrap();
        let arm64: Platform = "linux/arm64".parse().unwrap();
        assert!(amd64.runs_on(&amd64) && i386.runs_on(&amd64));
        assert!(!amd64.runs_on(&i386) && !arm64.runs_on(&amd64));
        assert!(Platform::host().runs_on(&Platform::host()));
    }
}
