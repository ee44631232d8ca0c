//! Needs root and mounted control groups; each test says why when it can't run.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use cgroup::{CgroupError, Group, Host};
use oci_spec::runtime::{
    LinuxCpuBuilder, LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResources,
    LinuxResourcesBuilder,
};

/// The host, or `None` with a printed reason.
fn host() -> Option<Host> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return None;
    }
    match Host::detect() {
        Ok(host) if host.supports().memory && host.supports().pids && host.supports().freeze => Some(host),
        Ok(_) => {
            println!("skipped: the host's control groups lack memory, pids or freezer");
            None
        }
        Err(error) => {
            println!("skipped: {error}");
            None
        }
    }
}

/// A group that is killed and removed at the end of its test, also when that fails.
struct Scoped {
    group: Group,
    children: Vec<Child>,
}

impl Scoped {
    fn new(host: &Host, name: &str, resources: &LinuxResources) -> Self {
        let (group, _) = host.create(&path(name), resources).unwrap();
        Self { group, children: Vec::new() }
    }

    /// Runs a shell line inside the group.
    fn run(&mut self, line: &str) -> &mut Child {
        let child = Command::new("/bin/sh").args(["-c", line]).stdin(Stdio::piped()).process_group(0).spawn().unwrap();
        self.group.place(i32::try_from(child.id()).unwrap()).unwrap();
        self.children.push(child);
        self.children.last_mut().unwrap()
    }
}

impl Drop for Scoped {
    fn drop(&mut self) {
        let _ = self.group.kill();
        for child in &mut self.children {
            let _ = child.wait();
        }
        let _ = self.group.remove();
        release(&self.group);
    }
}

/// Removes the test's own parent group, in whichever hierarchies it is.
fn release(group: &Group) {
    for dir in group.dirs() {
        let _ = fs::remove_dir(dir.parent().unwrap());
    }
}

/// A group for one test, below a parent of its own; `name` may be `parent/group`.
fn path(name: &str) -> String {
    let group = if name.contains('/') { "" } else { "/group" };
    format!("/insula-test-{}-{name}{group}", std::process::id())
}

fn nothing_left(group: &Group) -> bool {
    release(group);
    group.dirs().iter().all(|dir| !dir.exists() && !dir.parent().unwrap().exists())
}

fn limits() -> LinuxResources {
    let device = |allow, numbers: Option<(i64, i64)>| {
        let typ = if numbers.is_some() { LinuxDeviceType::C } else { LinuxDeviceType::A };
        let builder = LinuxDeviceCgroupBuilder::default().allow(allow).typ(typ).access("rwm");
        match numbers {
            Some((major, minor)) => builder.major(major).minor(minor).build().unwrap(),
            None => builder.build().unwrap(),
        }
    };
    LinuxResourcesBuilder::default()
        .memory(LinuxMemoryBuilder::default().limit(64 << 20).swap(64 << 20).build().unwrap())
        .cpu(LinuxCpuBuilder::default().shares(512_u64).quota(50_000).period(100_000_u64).cpus("0").build().unwrap())
        .pids(LinuxPidsBuilder::default().limit(20).build().unwrap())
        .devices(vec![device(false, None), device(true, Some((1, 3)))])
        .build()
        .unwrap()
}

/// No limits at all; the default of the structure denies every device.
fn open() -> LinuxResources {
    let mut resources = LinuxResources::default();
    resources.set_devices(None);
    resources
}

#[test]
fn limits_are_written_and_nothing_is_left() {
    let Some(host) = host() else { return };
    let (group, applied) = host.create(&path("limits"), &limits()).unwrap();
    let shown = |names: &[&str]| {
        let found = applied.values.iter().find(|(file, _)| names.iter().any(|name| file.ends_with(name)));
        found.unwrap_or_else(|| panic!("none of {names:?} in {:?}", applied.values)).1.clone()
    };
    assert_eq!(shown(&["memory.limit_in_bytes", "memory.max"]), "67108864");
    assert_eq!(shown(&["pids.max"]), "20");
    assert_eq!(shown(&["cpuset.cpus"]), "0");
    for (file, value) in applied.values.iter().filter(|(file, _)| file.exists()) {
        assert_eq!(fs::read_to_string(file).unwrap().trim_end(), value, "{}", file.display());
    }
    group.remove().unwrap();
    assert!(nothing_left(&group));
    group.remove().unwrap();
}

#[test]
fn memory_limits_go_up_and_down() {
    let Some(host) = host() else { return };
    let scoped = Scoped::new(&host, "update", &limits());
    for mib in [256, 32, 512] {
        let memory = LinuxMemoryBuilder::default().limit(mib << 20).swap(mib << 20).build().unwrap();
        let resources = LinuxResourcesBuilder::default().memory(memory).devices(Vec::new()).build().unwrap();
        scoped.group.apply(&resources).unwrap();
        assert_eq!(scoped.group.usage().unwrap().memory.limit, Some(u64::try_from(mib << 20).unwrap()));
    }
}

#[test]
fn a_failed_create_leaves_nothing() {
    let Some(host) = host() else { return };
    let cpus = LinuxCpuBuilder::default().cpus("4000").build().unwrap();
    let resources = LinuxResourcesBuilder::default().cpu(cpus).devices(Vec::new()).build().unwrap();
    let error = host.create(&path("failed"), &resources).unwrap_err();
    assert!(matches!(error, CgroupError::Write { .. }), "{error}");
    assert!(error.to_string().contains("4000"), "{error}");
    assert!(matches!(host.open(&path("failed")), Err(CgroupError::NotFound { .. })));
    host.release(path("failed").trim_end_matches("/group")).unwrap();
}

#[test]
fn processes_join_freeze_and_die() {
    let Some(host) = host() else { return };
    let mut scoped = Scoped::new(&host, "life", &open());
    let pid = i32::try_from(scoped.run("read go; sleep 60 & sleep 60; :").id()).unwrap();
    std::io::Write::write_all(scoped.children[0].stdin.as_mut().unwrap(), b"go\n").unwrap();
    let start = std::time::Instant::now();
    while scoped.group.pids().unwrap().len() < 3 {
        assert!(start.elapsed().as_secs() < 10, "{:?}", scoped.group.pids());
        std::thread::yield_now();
    }
    let pids = scoped.group.pids().unwrap();
    assert!(pids.contains(&pid), "{pids:?}");
    let busy = host.create(&path("life"), &open()).unwrap_err();
    assert!(matches!(busy, CgroupError::InUse { .. }), "{busy}");
    scoped.group.freeze().unwrap();
    scoped.group.thaw().unwrap();
    scoped.group.freeze().unwrap();
    scoped.group.kill().unwrap();
    let status = scoped.children[0].wait().unwrap();
    assert_eq!(status.signal(), Some(9));
    scoped.group.remove().unwrap();
    assert!(nothing_left(&scoped.group));
}

#[test]
fn a_child_joins_by_itself_through_the_descriptors() {
    let Some(host) = host() else { return };
    let mut scoped = Scoped::new(&host, "join", &open());
    let fds: Vec<OwnedFd> = scoped.group.join_fds().unwrap();
    // The shell writes 0 for itself through the same files, reached by our descriptors.
    let line: String = fds
        .iter()
        .map(|fd| {
            format!("echo 0 > /proc/{}/fd/{}; ", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&fd.as_fd()))
        })
        .collect();
    let child = Command::new("/bin/sh").args(["-c", &format!("{line} exec sleep 60")]).spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    scoped.children.push(child);
    let membership = || fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let hierarchies = host.hierarchies().count();
    let joined = || membership().lines().filter(|line| line.ends_with(&path("join"))).count();
    let start = std::time::Instant::now();
    while joined() < hierarchies {
        assert!(start.elapsed().as_secs() < 10, "{}", membership());
        std::thread::yield_now();
    }
}

#[test]
fn running_out_of_memory_is_counted() {
    let Some(host) = host() else { return };
    let mut scoped = Scoped::new(&host, "oom", limits().set_devices(None));
    // Wait for a line, so that the shell is placed before it allocates.
    let child = scoped.run("read go; x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo ${#x}");
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"go\n").unwrap();
    let _ = child.wait().unwrap();
    assert!(scoped.group.oom_kills().unwrap() > 0);
    assert!(scoped.group.usage().unwrap().cpu.total_ns > 0);
}

#[test]
fn devices_outside_the_list_are_refused() {
    let Some(host) = host() else { return };
    let mut scoped = Scoped::new(&host, "devices", &limits());
    let child = scoped.run("read go; : < /dev/null || exit 1; (: < /dev/zero) 2>/dev/null && exit 2; exit 0");
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"go\n").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn the_version_2_device_filter_works_where_there_is_a_version_2_hierarchy() {
    if host().is_none() {
        return;
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let only: String =
        mounts.lines().filter(|line| line.contains(" - cgroup2 ")).map(|line| format!("{line}\n")).collect();
    let Ok(v2) = Host::from_mounts(&only, Path::new("/")) else {
        println!("skipped: no version 2 hierarchy");
        return;
    };
    let mut resources = limits();
    resources.set_memory(None).set_cpu(None).set_pids(None);
    let (group, _) = match v2.create(&path("filter"), &resources) {
        Ok(made) => made,
        Err(CgroupError::DeviceFilter { source, .. }) => {
            println!("skipped: this kernel loads no device filters: {source}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let mut scoped = Scoped { group, children: Vec::new() };
    let check = "read go; : < /dev/null || exit 1; (: < /dev/zero) 2>/dev/null && exit 2; exit 0";
    let child = scoped.run(check);
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"go\n").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut rules = resources.devices().clone().unwrap();
    rules.insert(0, rules[1].clone());
    rules.push(
        LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .typ(LinuxDeviceType::C)
            .major(1)
            .minor(5)
            .access("r")
            .build()
            .unwrap(),
    );
    resources.set_devices(Some(rules));
    scoped.group.apply(&resources).unwrap();
    let child = scoped.run(check);
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"go\n").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(2), "the new filter has replaced the old one");
    let fd = scoped.group.v2_fd().expect("one version 2 hierarchy is the whole group");
    drop(fd);
}

#[test]
fn racing_creates_and_removes_share_a_parent() {
    let Some(host) = host() else { return };
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let host = &host;
            scope.spawn(move || {
                for round in 0..10 {
                    let (group, _) = host.create(&path(&format!("race/{thread}-{round}")), &limits()).unwrap();
                    group.remove().unwrap();
                }
            });
        }
    });
    let parent = path("race");
    let parent = parent.trim_end_matches("/group");
    host.release(parent).unwrap();
    assert!(matches!(host.open(parent), Err(CgroupError::NotFound { .. })));
}

#[test]
fn a_runtime_makes_counts_and_forgets_a_group() {
    let Some(_) = host() else { return };
    let host = Host::glance(None).unwrap();
    let names: Vec<String> = host.hierarchies().flat_map(|(_, controllers)| controllers.to_vec()).collect();
    println!("controllers: {}", names.join(" "));
    let place = host.place(Some(&path("oci")), "ignored").unwrap();
    let (group, _) = host.create_at(&place, &limits()).unwrap();
    let mut scoped = Scoped { group, children: Vec::new() };
    let check = "read go; : < /dev/null || exit 1; (: < /dev/kmsg) 2>/dev/null && exit 2; : > /dev/full; exit 0";
    let child = scoped.run(check);
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"go\n").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "only the devices that every container has");
    scoped.run("read go; sleep 60");
    let refused = host.create_at(&place, &limits()).unwrap_err();
    assert!(matches!(refused, CgroupError::NotEmpty { count: 1, .. }), "{refused}");
    let again = Group::from_record(&scoped.group.record()).unwrap();
    let stats = again.stats().unwrap();
    // of a program that only waits, a kernel may have counted no time yet
    assert!(stats.pids.current == 1 && stats.pids.limit == 20, "{stats:?}");
    assert_eq!(stats.memory.usage.limit, 64 << 20);
    again.freeze().unwrap();
    again.kill().unwrap();
    scoped.children.last_mut().unwrap().wait().unwrap();
    again.remove().unwrap();
    assert!(nothing_left(&again));
}

#[test]
fn want_of_memory_is_told_and_so_is_the_end() {
    use cgroup::OomNews;
    let Some(host) = host() else { return };
    let mut scoped = Scoped::new(&host, "oomwatch", limits().set_devices(None));
    let mut watch = scoped.group.watch_oom().unwrap();
    assert_eq!(watch.take().unwrap(), OomNews::Nothing);
    let child = scoped.run("read go; x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo ${#x}");
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"go\n").unwrap();
    let _ = child.wait().unwrap();
    let out = testkit::wait_for(std::time::Duration::from_secs(10), || {
        (watch.take().unwrap() == OomNews::OutOfMemory).then_some(())
    });
    assert!(out.is_some(), "the kernel told of no kill");
    scoped.group.kill().unwrap();
    scoped.group.remove().unwrap();
    let gone = testkit::wait_for(std::time::Duration::from_secs(10), || {
        (watch.take().unwrap() == OomNews::Gone).then_some(())
    });
    assert!(gone.is_some(), "the end of the group was not told");
}

#[test]
fn every_limit_of_version_2_is_what_was_asked_for() {
    use oci_spec::runtime::{LinuxBlockIoBuilder, LinuxThrottleDeviceBuilder};
    let Some(host) = host() else { return };
    if host.version() != cgroup::Version::V2 {
        println!("skipped: not a host with version 2 alone; the guest is one");
        return;
    }
    let mut resources = limits();
    let cpu = LinuxCpuBuilder::default().shares(2048_u64).quota(40_000).period(80_000_u64).burst(20_000_u64);
    resources.set_cpu(Some(cpu.cpus("0").mems("0").build().unwrap()));
    let mut memory = LinuxMemoryBuilder::default().limit(64 << 20).reservation(8 << 20).build().unwrap();
    // The guest's kernel accounts no swap.
    memory.set_swap(host.supports().swap.then_some(96 << 20));
    resources.set_memory(Some(memory));
    let mut files = std::collections::HashMap::from([
        ("memory.high".to_owned(), "33554432".to_owned()),
        ("cgroup.max.depth".to_owned(), "3".to_owned()),
    ]);
    // The number of the disk that the guest test gives.
    let disk = fs::read_to_string("/sys/block/vda/dev").ok();
    if let Some((major, minor)) = disk.as_deref().and_then(|number| number.trim().split_once(':')) {
        let device = LinuxThrottleDeviceBuilder::default().major(major.parse::<i64>().unwrap());
        let device = device.minor(minor.parse::<i64>().unwrap()).rate(1_048_576_u64).build().unwrap();
        let block = LinuxBlockIoBuilder::default().throttle_read_bps_device(vec![device]).build().unwrap();
        resources.set_block_io(Some(block));
    }
    resources.set_unified(Some(files.clone()));
    let place = host.place(Some(&path("all")), "ignored").unwrap();
    let (group, _) = host.create_at(&place, &resources).unwrap();
    let mut scoped = Scoped { group, children: Vec::new() };
    let dir = scoped.group.dirs()[0].clone();
    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default().trim_end().to_owned();
    for (name, value) in [
        ("cpu.weight", "174"),
        ("cpu.max", "40000 80000"),
        ("cpu.max.burst", "20000"),
        ("cpuset.cpus", "0"),
        ("cpuset.mems", "0"),
        ("memory.max", "67108864"),
        ("memory.low", "8388608"),
        ("memory.high", "33554432"),
        ("cgroup.max.depth", "3"),
        ("pids.max", "20"),
    ] {
        assert_eq!(read(name), value, "{name}");
    }
    if disk.is_some() {
        assert!(read("io.max").contains("rbps=1048576"), "{}", read("io.max"));
    }
    files.insert("memory.nonsense".to_owned(), "1".to_owned());
    resources.set_unified(Some(files));
    let error = scoped.group.apply(&resources).unwrap_err().to_string();
    assert!(error.contains("memory.nonsense") || error.contains("that resource"), "{error}");
    scoped.run("sleep 60");
    scoped.group.freeze().unwrap();
    assert!(read("cgroup.events").contains("frozen 1"));
}

#[test]
fn a_user_without_groups_gets_limits_refused_and_nothing_else() {
    use cgroup::Rights;
    const INSIDE: &str = "CGROUP_TEST_USER";
    if std::env::var_os(INSIDE).is_some() {
        let host = Host::glance(None).unwrap();
        let place = host.place(None, &format!("insula-test-user-{}", std::process::id())).unwrap();
        let place = place.with_rights(Rights::User);
        let (group, _) = host.create_at(&place, &open()).unwrap();
        assert_eq!(group.dirs().len(), 0, "this user may make no group anywhere: {:?}", group.dirs());
        assert_eq!(group.join_fds().unwrap().len(), 0);
        let error = host.create_at(&place, &limits()).unwrap_err().to_string();
        assert!(error.contains("cannot limit") && error.contains("delegated to this user"), "{error}");
        let named = host.place(Some("/insula-test-user/x"), "x").unwrap().with_rights(Rights::User);
        assert!(matches!(host.create_at(&named, &open()), Err(CgroupError::Make { .. })));
        return;
    }
    let Some(_) = host() else { return };
    // Another user can't walk to where cargo puts tests.
    let folder = tempfile::Builder::new().permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755)).tempdir();
    let program = folder.as_ref().unwrap().path().join("it");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let name = "kernel::a_user_without_groups_gets_limits_refused_and_nothing_else";
    let mut child = Command::new(&program);
    child.args([name, "--exact"]).env(INSIDE, "1").uid(65_534).gid(65_534).current_dir("/");
    let output = child.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn a_version_1_cpuset_takes_from_parents_that_have_none() {
    let Some(host) = host() else { return };
    if !host.hierarchies().any(|(dir, names)| dir.join("tasks").exists() && names.iter().any(|name| name == "cpuset")) {
        println!("skipped: cpuset is not version 1 here");
        return;
    }
    let nested = format!("/insula-test-{}-nest/a/b", std::process::id());
    let place = host.place(Some(&nested), "ignored").unwrap();
    let (group, _) = host.create_at(&place, &open()).unwrap();
    let dir = group.controller_dirs()["cpuset"].clone();
    let cpus = fs::read_to_string(dir.join("cpuset.cpus")).unwrap();
    group.remove().unwrap();
    host.release(nested.trim_end_matches("/b")).unwrap();
    assert!(!cpus.trim().is_empty(), "a group without processors takes no process");
}
