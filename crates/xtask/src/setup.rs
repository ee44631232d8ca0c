//! `cargo xtask setup`: the Debian packages that a task needs, installed only when they are missing.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::shell::{Run, find_program};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What the machine is to be ready for
    #[arg(long = "for", value_enum, default_value = "test")]
    purpose: Purpose,
}

/// What the machine is made ready for.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Purpose {
    Demo,
    Test,
    Bench,
}

/// How we see that a package is there.
enum Sign {
    /// A program, wherever it came from.
    Program(&'static str),
    /// The package itself, for what has no program.
    Package,
}

struct Need {
    sign: Sign,
    package: &'static str,
    why: &'static str,
    purposes: &'static [Purpose],
}

const ALL: &[Purpose] = &[Purpose::Demo, Purpose::Test, Purpose::Bench];
const TEST: &[Purpose] = &[Purpose::Test];
const TEST_AND_BENCH: &[Purpose] = &[Purpose::Test, Purpose::Bench];

const fn program(name: &'static str, package: &'static str, why: &'static str, purposes: &'static [Purpose]) -> Need {
    Need { sign: Sign::Program(name), package, why, purposes }
}

/// Sorted by package.
const NEEDS: &[Need] = &[
    program("buildah", "buildah", "reference for builds", TEST),
    program("busybox", "busybox-static", "the tree of the runtime conformance tests", TEST),
    program("catatonit", "catatonit", "podman's init, over our runtime", TEST),
    program("conmon", "conmon", "stands beside podman's containers", TEST_AND_BENCH),
    program("containerd", "containerd", "engine over our runtime in the tests", TEST),
    Need {
        sign: Sign::Package,
        package: "containernetworking-plugins",
        why: "networks of the engines in the tests",
        purposes: TEST,
    },
    program("crun", "crun", "peer of the benchmark; reference of the runtime's tests", TEST_AND_BENCH),
    Need {
        sign: Sign::Package,
        package: "debian-archive-keyring",
        why: "keys of the package sources",
        purposes: &[Purpose::Demo, Purpose::Test],
    },
    program("docker-compose", "docker-compose", "client of the conformance tests", TEST),
    program("docker-registry", "docker-registry", "peer of the registry's tests and benchmark", TEST_AND_BENCH),
    program("docker", "docker.io", "the stock client of the conformance tests; peer of the benchmark", TEST_AND_BENCH),
    program("dockerd", "docker.io", "engine over our runtime in the tests; peer of the benchmark", TEST_AND_BENCH),
    program("dpkg-deb", "dpkg", "unpacks packages for `insula image bootstrap`", ALL),
    program("mkfs.erofs", "erofs-utils", "reference for our EROFS writer", TEST),
    program("cc", "gcc", "links the programs", ALL),
    program("gpgv", "gpgv", "checks signatures for `insula image bootstrap`", ALL),
    program("iperf3", "iperf3", "counts bytes in the benchmark of networks", &[Purpose::Bench]),
    program("ip", "iproute2", "makes and looks at networks of tests and benchmarks", TEST_AND_BENCH),
    Need { sign: Sign::Package, package: "libc6-dev", why: "static C library to link with", purposes: ALL },
    Need {
        sign: Sign::Package,
        package: "musl-dev",
        why: "C library that starts without questions to the processor",
        purposes: ALL,
    },
    program("nft", "nftables", "looks at the packet filters that tests make", TEST),
    program("podman", "podman", "engine over our runtime in the tests; peer of the benchmark", TEST_AND_BENCH),
    Need {
        sign: Sign::Package,
        package: "python3-venv",
        why: "client libraries of the conformance tests",
        purposes: TEST,
    },
    program(
        "qemu-system-x86_64",
        "qemu-system-x86",
        "guests of the tests; peer of the benchmark of virtual machines",
        TEST_AND_BENCH,
    ),
    program(
        "qemu-img",
        "qemu-utils",
        "makes and judges the images of the virtual disks' tests and benchmark",
        TEST_AND_BENCH,
    ),
    program("runc", "runc", "peer of the benchmark; reference of the runtime's tests", TEST_AND_BENCH),
    program("skopeo", "skopeo", "client of the registry's tests", TEST),
    program("strace", "strace", "counts system calls, and makes them fail", TEST_AND_BENCH),
    program("tar", "tar", "makes the trees that are imported", ALL),
    program("newuidmap", "uidmap", "ids for unprivileged users in the tests", TEST),
    program("unshare", "util-linux", "private namespaces for the peers", ALL),
];

/// Runs `cargo xtask setup`.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    ensure(arguments.purpose)
}

/// Installs what `purpose` needs and the machine lacks; does nothing, silently, when all is there.
pub(crate) fn ensure(purpose: Purpose) -> Result<()> {
    let missing: Vec<&Need> =
        NEEDS.iter().filter(|need| need.purposes.contains(&purpose) && !is_present(need)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: BTreeSet<&str> = missing.iter().map(|need| need.package).collect();
    let list = packages.iter().copied().collect::<Vec<_>>().join(" ");
    if find_program("apt-get").is_none() {
        bail!("this machine lacks {list} and has no apt-get; install their equivalents with its own package tool");
    }
    if !rustix::process::geteuid().is_root() {
        bail!(
            "packages are missing and only root can install them: sudo apt-get install --no-install-recommends {list}"
        );
    }
    for need in &missing {
        println!("setup: {} is missing ({})", need.package, need.why);
    }
    let apt = |arguments: &[&str]| {
        Run::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["-qq", "-o", "Dpkg::Use-Pty=0", "-o", "DPkg::Lock::Timeout=120"])
            .args(arguments)
            .timeout(Duration::from_secs(900))
            .check()
    };
    println!("setup: apt-get update, then apt-get install --no-install-recommends {list}");
    apt(&["update"]).context("cannot refresh the package lists; check /etc/apt/sources.list and the network")?;
    let mut install = vec!["install", "-y", "--no-install-recommends"];
    install.extend(&packages);
    apt(&install).context("cannot install the packages")?;
    Ok(())
}

fn is_present(need: &Need) -> bool {
    match need.sign {
        Sign::Program(name) => find_program(name).is_some(),
        // dpkg keeps one list of files for each installed package, with the architecture in the name when it is multi-arch.
        Sign::Package => is_installed(Path::new("/var/lib/dpkg/info"), need.package),
    }
}

fn is_installed(info: &Path, package: &str) -> bool {
    let Ok(entries) = std::fs::read_dir(info) else { return false };
    entries.flatten().any(|entry| {
        let name = entry.file_name();
        let stem = name.to_str().and_then(|name| name.strip_suffix(".list"));
        stem.is_some_and(|stem| stem.split(':').next() == Some(package))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_by_package() {
        assert!(NEEDS.is_sorted_by_key(|need| need.package));
    }

    #[test]
    fn a_package_is_seen_with_and_without_an_architecture() {
        let info = tempfile::tempdir().unwrap();
        for name in ["libc6-dev:amd64.list", "gpgv.list", "gpgv.md5sums"] {
            std::fs::write(info.path().join(name), "").unwrap();
        }
        assert!(is_installed(info.path(), "libc6-dev"));
        assert!(is_installed(info.path(), "gpgv"));
        assert!(!is_installed(info.path(), "libc6"));
        assert!(!is_installed(&info.path().join("nowhere"), "gpgv"));
    }
}
