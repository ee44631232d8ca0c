//! What this host can do for isolation: tried by doing where that is possible.

use crate::engine::Engine;
use std::os::fd::AsFd;
use std::path::Path;

/// The findings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doctor {
    /// One finding a check.
    pub checks: Vec<Check>,
}

/// A finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was tried.
    pub name: &'static str,
    /// How it went.
    pub verdict: Verdict,
    /// What was found.
    pub detail: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Works.
    Good,
    /// Works in a lesser way.
    Fallback,
    /// Does not work.
    Missing,
}

impl Check {
    fn good(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Good, detail: detail.into(), remedy: None }
    }

    fn lesser(name: &'static str, verdict: Verdict, detail: impl Into<String>, remedy: &str) -> Self {
        Self { name, verdict, detail: detail.into(), remedy: Some(remedy.to_owned()) }
    }
}

impl Engine {
    /// Examines the host.
    pub async fn doctor(&self) -> Doctor {
        let engine = self.clone();
        let examined = tokio::task::spawn_blocking(move || engine.examine()).await;
        Doctor { checks: examined.unwrap_or_default() }
    }

    fn examine(&self) -> Vec<Check> {
        let mut checks = vec![kernel(), namespaces(), user_namespaces(), users_namespaces(), layers()];
        checks.extend([
            self.overlay(),
            self.sight(),
            owners(),
            self.groups(),
            seccomp(),
            self.module("apparmor"),
            self.module("selinux"),
            landlock(),
            checkpoints(),
            self.shim(),
            self.state(),
            packet_filter(),
            kvm(),
        ]);
        checks
    }

    /// Mounts an overlay over two empty folders, out of everybody's sight.
    fn overlay(&self) -> Check {
        let name = "writable layers";
        match try_overlay(&self.inner.config.run) {
            Ok(()) => Check::good(name, "overlayfs by the new mount interface"),
            Err(error) => Check::lesser(
                name,
                Verdict::Missing,
                format!("overlayfs cannot be mounted: {error}"),
                "load the module with: modprobe overlay; in a container, give it the right to mount",
            ),
        }
    }

    /// Where image layers are while they are mounted.
    fn sight(&self) -> Check {
        let name = "layers in sight";
        if sys::overlay::takes_detached() {
            return Check::good(name, "none: layers are mounted where nobody sees them");
        }
        let place = self.inner.config.root.join("mounts");
        Check::lesser(
            name,
            Verdict::Fallback,
            format!("layers are mounted in {} while the daemon runs", place.display()),
            "nothing has to be done; Linux 6.15 and later need no place for them",
        )
    }

    fn groups(&self) -> Check {
        let name = "control groups";
        let supports = self.inner.cgroups.supports();
        let version = self.inner.cgroup_version();
        let mut missing = Vec::new();
        for (has, what) in [
            (supports.memory, "memory limit"),
            (supports.swap, "swap limit"),
            (supports.cpu_shares, "processor shares"),
            (supports.cpu_quota, "processor quota"),
            (supports.cpuset, "choice of processors"),
            (supports.pids, "process limit"),
            (supports.block_weight, "block I/O weight"),
            (supports.block_throttle, "block I/O speed"),
            (supports.devices, "rules for devices"),
            (supports.freeze, "pause"),
        ] {
            if !has {
                missing.push(what);
            }
        }
        if missing.is_empty() {
            return Check::good(name, format!("version {version}, every limit"));
        }
        Check::lesser(
            name,
            Verdict::Fallback,
            format!("version {version}; not on this kernel: {}", missing.join(", ")),
            "these limits are left out with a warning",
        )
    }

    fn module(&self, which: &'static str) -> Check {
        let on = if which == "apparmor" { self.inner.host.apparmor } else { self.inner.host.selinux };
        if on {
            return Check::good(which, "enabled");
        }
        Check::lesser(
            which,
            Verdict::Fallback,
            "not enabled on this host",
            "containers run without it; enable it at boot to use it",
        )
    }

    fn shim(&self) -> Check {
        let path = &self.inner.config.shim;
        match rustix::fs::access(path, rustix::fs::Access::EXEC_OK) {
            Ok(()) => Check::good("helper", path.display().to_string()),
            Err(errno) => Check::lesser(
                "helper",
                Verdict::Missing,
                format!("{}: {errno}", path.display()),
                "install insula-shim beside insulad, or name it with insulad --shim",
            ),
        }
    }

    fn state(&self) -> Check {
        let root = &self.inner.config.root;
        match rustix::fs::statvfs(root) {
            Ok(stat) => {
                let free = stat.f_bavail.saturating_mul(stat.f_frsize) >> 20;
                let detail = format!("{} has {free} MiB free", root.display());
                if free >= 1024 {
                    Check::good("state folder", detail)
                } else {
                    Check::lesser("state folder", Verdict::Fallback, detail, "make room, or move the state with --root")
                }
            }
            Err(errno) => {
                Check::lesser("state folder", Verdict::Missing, errno.to_string(), "name another one with --root")
            }
        }
    }
}

fn try_overlay(run: &Path) -> std::io::Result<()> {
    let place = run.join(format!("doctor-{}", std::process::id()));
    let tried = (|| {
        for part in ["lower", "upper", "work"] {
            std::fs::create_dir_all(place.join(part))?;
        }
        let open = |part: &str| {
            let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
            rustix::fs::open(place.join(part), flags, rustix::fs::Mode::empty())
        };
        let (lower, upper, work) = (open("lower")?, open("upper")?, open("work")?);
        let above = sys::overlay::Above { upper: upper.as_fd(), work: work.as_fd(), volatile: false };
        let attributes = sys::mount::MountAttr::empty();
        let overlay = sys::overlay::Overlay { layers: &[lower.as_fd()], above: Some(above), attributes };
        overlay.mount().map(drop).map_err(|error| std::io::Error::other(error.to_string()))
    })();
    let _ = std::fs::remove_dir_all(&place);
    tried
}

/// EROFS is asked for by name, as a container's start would; what it can be mounted from depends on the kernel's age.
fn layers() -> Check {
    let name = "image layers";
    if let Err(error) = sys::mount::FsContext::open("erofs") {
        return Check::lesser(
            name,
            Verdict::Fallback,
            format!("plain directories: EROFS cannot be mounted ({error})"),
            "use a kernel with CONFIG_EROFS_FS: layers are then one file each, shared with virtual machines",
        );
    }
    if release().1 >= (6, 12) {
        return Check::good(name, "EROFS files, mounted as they are");
    }
    Check::lesser(
        name,
        Verdict::Fallback,
        "EROFS files, mounted through loop devices",
        "Linux 6.12 and later mount them without a loop device",
    )
}

fn release() -> (String, (u32, u32)) {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    drop(numbers);
    (release, version)
}

fn kernel() -> Check {
    let (release, version) = release();
    if version >= (5, 14) {
        return Check::good("kernel", release);
    }
    Check::lesser("kernel", Verdict::Missing, release, "Linux 5.14 or later is needed, 6.12 or later is best")
}

/// Says in the log that this kernel is too old for containers, where it is: what fails later is a call that nobody has heard of.
pub(crate) fn warn_of_kernel() {
    let check = kernel();
    if check.verdict == Verdict::Missing {
        tracing::warn!(kernel = check.detail, "no container will start here: {}", check.remedy.unwrap_or_default());
    }
}

fn namespaces() -> Check {
    let names = ["mnt", "pid", "net", "uts", "ipc", "user", "cgroup", "time"];
    let missing: Vec<&str> = names.into_iter().filter(|name| !Path::new("/proc/self/ns").join(name).exists()).collect();
    if missing.is_empty() {
        return Check::good("namespaces", "all eight");
    }
    Check::lesser(
        "namespaces",
        Verdict::Fallback,
        format!("missing: {}", missing.join(", ")),
        "use a kernel that has them",
    )
}

fn user_namespaces() -> Check {
    let most = std::fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    match most.trim().parse::<u64>() {
        Ok(0) | Err(_) => Check::lesser(
            "user namespaces",
            Verdict::Missing,
            "none may be made",
            "allow them with: sysctl user.max_user_namespaces=10000",
        ),
        Ok(most) => Check::good("user namespaces", format!("up to {most}")),
    }
}

/// What users without privileges need, for `insula-oci`.
fn users_namespaces() -> Check {
    let name = "namespaces for users";
    let switch = |file: &str| std::fs::read_to_string(Path::new("/proc/sys/kernel").join(file)).unwrap_or_default();
    if switch("unprivileged_userns_clone").trim() == "0" {
        return Check::lesser(
            name,
            Verdict::Fallback,
            "only root may make user namespaces: insula-oci works for nobody else",
            "allow them with: sysctl kernel.unprivileged_userns_clone=1",
        );
    }
    if switch("apparmor_restrict_unprivileged_userns").trim() == "1" {
        return Check::lesser(
            name,
            Verdict::Fallback,
            "AppArmor gives user namespaces rights only for programs that have a profile with userns",
            "give insula-oci one, or allow all with: sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        );
    }
    Check::good(name, "every user may make them")
}

/// Containers with user ids of their own see files through mounts that map owners.
fn owners() -> Check {
    let name = "mapped owners";
    // under an overlay, and of EROFS; the file systems of volumes have their own times
    if release().1 >= (5, 19) {
        return Check::good(name, "images are shared by containers with user ids of their own (--userns)");
    }
    Check::lesser(
        name,
        Verdict::Fallback,
        "containers cannot have user ids of their own (--userns auto, --userns-remap): layers cannot be mapped",
        "Linux 5.19 or later is needed for that",
    )
}

/// The second fence around the process of a virtual machine.
fn landlock() -> Check {
    if let Some(version) = sys::landlock::version() {
        return Check::good("landlock", format!("version {version} confines virtual machines' processes as well"));
    }
    Check::lesser(
        "landlock",
        Verdict::Fallback,
        "not enabled on this host: a virtual machine's process is confined by namespaces and filters alone",
        "Linux 5.13 and later have it; enable it at boot with lsm=landlock,…",
    )
}

/// criu knows best what it can do with this kernel.
fn checkpoints() -> Check {
    let name = "checkpoints";
    let lesser = |detail: String, remedy| Check::lesser(name, Verdict::Fallback, detail, remedy);
    let mut check = std::process::Command::new("criu");
    match check.arg("check").stdin(std::process::Stdio::null()).output() {
        Ok(output) if output.status.success() => Check::good(name, "criu works on this kernel"),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
            let why = text.lines().find(|line| line.contains("Error")).unwrap_or("it does not say why").trim();
            lesser(format!("criu does not work here: {why}"), "use a criu that is as new as the kernel")
        }
        Err(error) => lesser(format!("criu cannot be run ({error})"), "install it with: apt-get install criu"),
    }
}

fn seccomp() -> Check {
    match std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail") {
        Ok(actions) => Check::good("seccomp", actions.trim().to_owned()),
        Err(_) => Check::lesser(
            "seccomp",
            Verdict::Missing,
            "no filters on this kernel",
            "use a kernel with CONFIG_SECCOMP_FILTER",
        ),
    }
}

/// Other people's rules that containers' packets do not get past.
fn packet_filter() -> Check {
    let name = "packet filter";
    match net::firewall::Firewall::open().and_then(|firewall| firewall.foreign_drops()) {
        Ok(drops) if drops.is_empty() => {
            Check::good(name, format!("nftables{}; nobody else drops what is passed on", tables()))
        }
        Ok(drops) => {
            let chains: Vec<String> = drops.iter().map(|one| format!("{} {}", one.table, one.chain)).collect();
            Check::lesser(
                name,
                Verdict::Fallback,
                format!("the policy of chain {} is drop: it may drop containers' packets", chains.join(", and of ")),
                "see that it accepts them: ct state established,related, iifname of the bridges (insula*, br-*), ct status dnat",
            )
        }
        Err(error) => Check::lesser(
            name,
            Verdict::Missing,
            crate::error::chain(&error),
            "networks need nftables: load the module with: modprobe nf_tables",
        ),
    }
}

/// The tables of this daemon and of others in this network namespace.
fn tables() -> String {
    let all = net::firewall::Firewall::open().and_then(|firewall| firewall.daemons()).unwrap_or_default();
    let one = |owned: &net::firewall::Owned| format!(", table inet {} of {}", owned.table, owned.owner);
    all.iter().map(one).collect()
}

fn kvm() -> Check {
    let open = std::fs::File::options().read(true).write(true).open("/dev/kvm");
    match open {
        Ok(_) => Check::good("kvm", "/dev/kvm can be opened"),
        Err(error) => {
            Check::lesser("kvm", Verdict::Fallback, format!("/dev/kvm: {error}"), "not needed for containers")
        }
    }
}
