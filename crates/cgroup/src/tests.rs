//! Plans and groups against plain files that stand in for the kernel's.

use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    LinuxBlockIoBuilder, LinuxCpuBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
    LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder, LinuxThrottleDeviceBuilder,
};

use crate::device::{self, Node};
use crate::hierarchy::{Access, Kind, parse_mounts};
use crate::{CgroupError, Group, Host, Version, plan_v2};

const V1: [&str; 7] = ["cpu", "cpuacct", "cpuset", "memory", "blkio", "devices", "pids"];

/// A folder with the files of one group, as the kernel would have made them.
struct Tree {
    folder: tempfile::TempDir,
    mountinfo: String,
}

impl Tree {
    fn new(v1: &[&str], v2: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut mountinfo = "23 1 0:1 / / rw - ext4 /dev/root rw\n".to_owned();
        for name in v1 {
            fs::create_dir_all(folder.path().join(name).join("insula/x")).unwrap();
            mountinfo += &format!("32 31 0:29 / /{name} rw,relatime - cgroup cgroup rw,{name}\n");
        }
        if let Some(controllers) = v2 {
            let root = folder.path().join("unified");
            fs::create_dir_all(root.join("insula/x")).unwrap();
            fs::write(root.join("cgroup.controllers"), controllers).unwrap();
            mountinfo += "41 31 0:38 / /unified rw,relatime - cgroup2 cgroup2 rw\n";
        }
        Self { folder, mountinfo }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// Puts a file into the group's folder of one hierarchy.
    fn file(&self, hierarchy: &str, name: &str, text: &str) -> &Self {
        fs::write(self.path(&format!("{hierarchy}/insula/x/{name}")), text).unwrap();
        self
    }

    fn read(&self, hierarchy: &str, name: &str) -> String {
        fs::read_to_string(self.path(&format!("{hierarchy}/insula/x/{name}"))).unwrap()
    }

    fn host(&self) -> Host {
        Host::from_mounts(&self.mountinfo, self.folder.path()).unwrap()
    }

    fn group(&self) -> Group {
        self.host().open("/insula/x").unwrap()
    }
}

fn memory(limit: i64, swap: i64) -> LinuxResources {
    let memory = LinuxMemoryBuilder::default().limit(limit).swap(swap).build().unwrap();
    LinuxResourcesBuilder::default().memory(memory).devices(Vec::new()).build().unwrap()
}

fn device(allow: bool, typ: LinuxDeviceType, numbers: Option<(i64, i64)>, access: &str) -> LinuxDeviceCgroup {
    let builder = LinuxDeviceCgroupBuilder::default().allow(allow).typ(typ).access(access);
    match numbers {
        Some((major, minor)) => builder.major(major).minor(minor).build().unwrap(),
        None => builder.build().unwrap(),
    }
}

#[test]
fn mounts_are_found_once_each() {
    let text = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
        32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
        33 31 0:29 / /elsewhere rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
        34 31 0:30 / /sys/fs/cgroup/my\\040systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
        35 31 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n\
        broken line\n";
    let mounts = parse_mounts(text, Path::new("/root"));
    let seen: Vec<(Kind, String, &Path)> =
        mounts.iter().map(|mount| (mount.kind, mount.controllers.join(","), mount.mount_point.as_path())).collect();
    assert_eq!(
        seen,
        [
            (Kind::V1, "cpu,cpuacct".to_owned(), Path::new("/root/sys/fs/cgroup/cpu,cpuacct")),
            (Kind::V1, "name=systemd".to_owned(), Path::new("/root/sys/fs/cgroup/my systemd")),
            (Kind::V2, String::new(), Path::new("/root/sys/fs/cgroup/unified")),
        ]
    );
    let none = Host::from_mounts("", Path::new("/")).unwrap_err();
    assert!(none.to_string().contains("mount -t cgroup2"));
}

#[test]
fn versions_are_told_apart() {
    assert_eq!(Tree::new(&["cpu"], None).host().version(), Version::V1);
    assert_eq!(Tree::new(&[], Some("cpu memory")).host().version(), Version::V2);
    let hybrid = Tree::new(&["cpu"], Some("")).host();
    assert_eq!((hybrid.version(), hybrid.hierarchies().count()), (Version::Hybrid, 1));
    assert_eq!(Tree::new(&["cpu"], Some("memory")).host().hierarchies().count(), 2);
}

#[test]
fn v1_writes_every_limit_to_its_file() {
    let tree = Tree::new(&V1, None);
    for (hierarchy, files) in [
        ("cpu", ["cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us"].as_slice()),
        ("cpuset", &["cpuset.cpus", "cpuset.mems"]),
        ("memory", &["memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.soft_limit_in_bytes"]),
        ("pids", &["pids.max"]),
        ("blkio", &["blkio.bfq.weight", "blkio.throttle.read_bps_device"]),
        ("devices", &["devices.allow", "devices.deny", "devices.list"]),
    ] {
        for file in files {
            tree.file(hierarchy, file, "");
        }
    }
    let cpu =
        LinuxCpuBuilder::default().shares(512_u64).quota(150_000).period(100_000_u64).cpus("0-1").build().unwrap();
    let throttle = LinuxThrottleDeviceBuilder::default().major(8).minor(0).rate(1_048_576_u64).build().unwrap();
    let block =
        LinuxBlockIoBuilder::default().weight(300_u16).throttle_read_bps_device(vec![throttle]).build().unwrap();
    let memory = LinuxMemoryBuilder::default().limit(536_870_912).swap(-1).reservation(1024).build().unwrap();
    let resources = LinuxResourcesBuilder::default()
        .cpu(cpu)
        .memory(memory)
        .block_io(block)
        .pids(LinuxPidsBuilder::default().limit(100).build().unwrap())
        .devices(vec![
            device(true, LinuxDeviceType::C, Some((9, 9)), "r"),
            device(false, LinuxDeviceType::A, None, "rwm"),
            device(true, LinuxDeviceType::C, Some((1, 3)), "rwm"),
            device(true, LinuxDeviceType::B, Some((-1, -1)), "m"),
        ])
        .build()
        .unwrap();
    let applied = tree.group().apply(&resources).unwrap();
    assert_eq!(applied.warnings, Vec::<String>::new());
    let shown = |name: &str| {
        let (_, value) = applied.values.iter().find(|(file, _)| file.ends_with(name)).unwrap();
        value.clone()
    };
    assert_eq!(shown("cpu.shares"), "512");
    assert_eq!(shown("cpu.cfs_quota_us"), "150000");
    assert_eq!(shown("cpuset.cpus"), "0-1");
    assert_eq!(shown("memory.limit_in_bytes"), "536870912");
    assert_eq!(shown("memory.memsw.limit_in_bytes"), "-1");
    assert_eq!(shown("memory.soft_limit_in_bytes"), "1024");
    assert_eq!(shown("pids.max"), "100");
    assert_eq!(shown("blkio.bfq.weight"), "300");
    assert_eq!(shown("blkio.throttle.read_bps_device"), "8:0 1048576");
    assert_eq!(tree.read("devices", "devices.deny"), "a\n");
    assert!(tree.read("devices", "devices.allow").ends_with("b *:* m\n"), "the last rule is written last");
}

#[test]
fn what_the_kernel_lacks_is_a_warning_or_an_error_by_its_weight() {
    let tree = Tree::new(&["memory", "blkio"], None);
    tree.file("memory", "memory.limit_in_bytes", "");
    let block = LinuxBlockIoBuilder::default().weight(300_u16).build().unwrap();
    let mut resources = memory(1 << 30, 1 << 31);
    resources.set_block_io(Some(block));
    let applied = tree.group().apply(&resources).unwrap();
    assert_eq!(applied.values.len(), 1);
    assert!(applied.warnings[0].contains("does not account swap"), "{:?}", applied.warnings);
    assert!(applied.warnings[1].contains("--blkio-weight is ignored"), "{:?}", applied.warnings);
    let pids = LinuxPidsBuilder::default().limit(5).build().unwrap();
    let no_pids = LinuxResourcesBuilder::default().pids(pids).devices(Vec::new()).build().unwrap();
    let error = tree.group().apply(&no_pids).unwrap_err();
    assert!(matches!(error, CgroupError::Unsupported { controller: "pids", .. }), "{error}");
}

#[test]
fn v2_translates_the_same_resources() {
    let tree = Tree::new(&[], Some("cpu memory io pids cpuset"));
    for file in
        ["cpu.max", "cpu.weight", "memory.max", "memory.swap.max", "memory.low", "io.weight", "io.max", "pids.max"]
    {
        tree.file("unified", file, "");
    }
    let cpu = LinuxCpuBuilder::default().shares(1024_u64).quota(150_000).build().unwrap();
    let throttle = LinuxThrottleDeviceBuilder::default().major(8).minor(0).rate(4096_u64).build().unwrap();
    let block =
        LinuxBlockIoBuilder::default().weight(500_u16).throttle_write_iops_device(vec![throttle]).build().unwrap();
    let mut resources = memory(1000, 3000);
    resources.set_cpu(Some(cpu)).set_block_io(Some(block));
    resources.set_pids(Some(LinuxPidsBuilder::default().limit(0).build().unwrap()));
    tree.group().apply(&resources).unwrap();
    assert_eq!(tree.read("unified", "cpu.max"), "150000\n");
    assert_eq!(tree.read("unified", "cpu.weight"), "100\n");
    assert_eq!(tree.read("unified", "memory.max"), "1000\n");
    assert_eq!(tree.read("unified", "memory.swap.max"), "2000\n");
    assert_eq!(tree.read("unified", "io.weight"), "default 4950\n");
    assert_eq!(tree.read("unified", "io.max"), "8:0 wiops=4096\n");
    assert_eq!(tree.read("unified", "pids.max"), "max\n");
}

#[test]
fn unlimited_memory_frees_swap_too() {
    let tree = Tree::new(&[], Some("memory"));
    tree.file("unified", "memory.max", "").file("unified", "memory.swap.max", "");
    let unlimited = LinuxMemoryBuilder::default().limit(-1).build().unwrap();
    let resources = LinuxResourcesBuilder::default().memory(unlimited).devices(Vec::new()).build().unwrap();
    tree.group().apply(&resources).unwrap();
    assert_eq!(
        (tree.read("unified", "memory.max"), tree.read("unified", "memory.swap.max")),
        ("max\n".into(), "max\n".into())
    );
}

#[test]
fn hybrid_hosts_write_each_limit_where_its_controller_is() {
    let tree = Tree::new(&["cpu"], Some("memory"));
    tree.file("cpu", "cpu.shares", "").file("unified", "memory.max", "").file("unified", "memory.swap.max", "");
    let mut resources = memory(1000, 1000);
    resources.set_cpu(Some(LinuxCpuBuilder::default().shares(7_u64).build().unwrap()));
    let applied = tree.group().apply(&resources).unwrap();
    assert_eq!((tree.read("cpu", "cpu.shares"), tree.read("unified", "memory.max")), ("7\n".into(), "1000\n".into()));
    assert_eq!((applied.values.len(), applied.warnings.len()), (3, 0));
}

#[test]
fn weights_map_over_the_whole_range() {
    for (shares, weight) in [(0, 1), (2, 1), (1024, 100), (2048, 174), (512, 59), (262_144, 10_000), (u64::MAX, 10_000)]
    {
        assert_eq!(plan_v2::weight_of_shares(shares), weight, "{shares}");
    }
    for (blkio, io) in [(10, 1), (500, 4950), (1000, 10_000), (u16::MAX, 10_000)] {
        assert_eq!(plan_v2::io_weight_of_blkio(blkio), io, "{blkio}");
    }
}

#[test]
fn unified_files_cannot_leave_the_group() {
    for bad in ["../memory.max", "cgroup.procs", ".hidden", "nodot"] {
        let files = std::collections::HashMap::from([(bad.to_owned(), "1".to_owned())]);
        let resources = LinuxResourcesBuilder::default().unified(files).devices(Vec::new()).build().unwrap();
        assert!(plan_v2::plan(&resources).is_err(), "{bad}");
    }
}

#[test]
fn group_paths_are_plain() {
    let host = Tree::new(&["cpu"], None).host();
    for bad in ["", "/", "insula/x", "/a/../b", "/a//b", "/./a", "/a\n"] {
        assert!(matches!(host.open(bad), Err(CgroupError::BadPath { .. })), "{bad:?}");
    }
    assert!(matches!(host.open("/nobody/here"), Err(CgroupError::NotFound { .. })));
}

#[test]
fn device_rules_are_reduced_and_checked() {
    let everything = device(true, LinuxDeviceType::A, None, "rwm");
    let nothing = device(false, LinuxDeviceType::A, None, "");
    let null = device(true, LinuxDeviceType::C, Some((1, 3)), "rw");
    let reduced = device::rules(&[null.clone(), nothing.clone(), null.clone()]).unwrap();
    assert_eq!(reduced.iter().map(device::Rule::line).collect::<Vec<_>>(), ["a", "c 1:3 rw"]);
    assert!(!device::allow_everything(&reduced));
    assert!(device::allow_everything(&device::rules(&[nothing, everything]).unwrap()));
    let lines = |access| device::rules(&[device(true, LinuxDeviceType::C, Some((1, 11)), access)]);
    assert_eq!(lines("rwa").unwrap(), lines("rw").unwrap(), "a letter of old configurations widens nothing");
    assert_eq!(lines("a").unwrap(), lines("rwm").unwrap(), "but alone it is every access");
    let both = device::rules(&[device(true, LinuxDeviceType::A, Some((1, 3)), "r")]).unwrap();
    assert_eq!(both.iter().map(|rule| rule.node).collect::<Vec<_>>(), [Node::Block, Node::Char]);
    for bad in [
        device(true, LinuxDeviceType::C, Some((1, 3)), "x"),
        device(true, LinuxDeviceType::C, Some((i64::MAX, 3)), "r"),
        device(true, LinuxDeviceType::P, None, "r"),
    ] {
        assert!(matches!(device::rules(&[bad]), Err(CgroupError::DeviceRule { .. })));
    }
}

/// Runs the filter's few operations; type in the low half of the first word, access in the high half.
fn filter(code: &[u64], access: u32, node: u32, major: u32, minor: u32) -> u64 {
    let mut registers = [0_u64; 6];
    let mut at = 0;
    loop {
        let [op, pair, o0, o1, rest @ ..] = code[at].to_le_bytes();
        let (dst, src) = (usize::from(pair & 15), usize::from(pair >> 4));
        let offset = i16::from_le_bytes([o0, o1]);
        let constant = u64::from(u32::from_le_bytes(rest));
        let mut jump = |yes: bool| at += if yes { usize::try_from(offset).unwrap() } else { 0 };
        match op {
            0x61 => {
                registers[dst] = u64::from([access << 16 | node, major, minor][usize::try_from(offset).unwrap() / 4])
            }
            0x57 => registers[dst] &= constant,
            0x77 => registers[dst] >>= constant,
            0xbf => registers[dst] = registers[src],
            0xb7 => registers[dst] = constant,
            0x55 => jump(registers[dst] != constant),
            0x5d => jump(registers[dst] != registers[src]),
            0x15 => jump(registers[dst] == constant),
            0x95 => return registers[0],
            _ => panic!("operation {op:#x}"),
        }
        at += 1;
    }
}

#[test]
fn the_v2_device_filter_decides_by_the_last_match() {
    let rules = device::rules(&[
        device(false, LinuxDeviceType::A, None, "rwm"),
        device(true, LinuxDeviceType::C, Some((1, 3)), "rw"),
        device(true, LinuxDeviceType::B, Some((-1, -1)), "m"),
        device(true, LinuxDeviceType::C, Some((5, -1)), "rwm"),
        device(false, LinuxDeviceType::C, Some((5, 2)), "w"),
    ])
    .unwrap();
    let code = device::program(&rules);
    let (mknod, read, write, block, char) = (1, 2, 4, 1, 2);
    for (access, node, major, minor, expect) in [
        (read, char, 1, 3, 1),
        (read | write, char, 1, 3, 1),
        (mknod, char, 1, 3, 0),
        (read | mknod, char, 1, 3, 0),
        (read, block, 1, 3, 0),
        (mknod, block, 8, 0, 1),
        (read, char, 1, 4, 0),
        (read | write | mknod, char, 5, 1, 1),
        (read, char, 5, 2, 1),
        (read | write, char, 5, 2, 0),
    ] {
        assert_eq!(filter(&code, access, node, major, minor), expect, "{access} {node} {major}:{minor}");
    }
    let open = device::program(&device::rules(&[device(false, LinuxDeviceType::C, Some((1, 1)), "r")]).unwrap());
    assert_eq!((filter(&open, 2, 2, 1, 1), filter(&open, 2, 2, 1, 2)), (0, 1));
}

#[test]
fn v1_usage_is_read() {
    let tree = Tree::new(&V1, None);
    tree.file("cpuacct", "cpuacct.usage", "5000000000\n")
        .file("cpuacct", "cpuacct.usage_percpu", "2000000000 3000000000 \n")
        .file("cpuacct", "cpuacct.stat", "user 300\nsystem 200\n")
        .file("cpu", "cpu.stat", "nr_periods 10\nnr_throttled 2\nthrottled_time 77\n")
        .file("memory", "memory.usage_in_bytes", "4096\n")
        .file("memory", "memory.max_usage_in_bytes", "8192\n")
        .file("memory", "memory.limit_in_bytes", "9223372036854771712\n")
        .file("memory", "memory.stat", "cache 1\ntotal_cache 2\ntotal_inactive_file 3\ntotal_swap 4\n")
        .file("memory", "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
        .file("pids", "pids.current", "2\n")
        .file("pids", "pids.max", "100\n")
        .file(
            "blkio",
            "blkio.throttle.io_service_bytes_recursive",
            "8:0 Read 512\n8:0 Write 1024\n8:0 Total 1\nTotal 1\n",
        )
        .file("blkio", "blkio.throttle.io_serviced_recursive", "8:0 Read 1\n8:0 Write 2\n");
    let usage = tree.group().usage().unwrap();
    assert_eq!((usage.cpu.total_ns, usage.cpu.user_ns, usage.cpu.per_cpu_ns.len()), (5_000_000_000, 3_000_000_000, 2));
    assert_eq!(usage.cpu.throttling.throttled_ns, 77);
    assert_eq!((usage.memory.bytes, usage.memory.limit, usage.memory.inactive_file), (4096, None, 3));
    assert_eq!((usage.pids, usage.pids_limit), (2, Some(100)));
    let block = usage.block[0];
    assert_eq!((block.major, block.read_bytes, block.write_bytes, block.write_ops), (8, 512, 1024, 2));
    assert_eq!(tree.group().oom_kills().unwrap(), 3);
    let starves = |text: &str| tree.file("memory", "memory.oom_control", text).group().starves().unwrap();
    assert!(starves("oom_kill_disable 1\nunder_oom 1\noom_kill 0\n"));
    assert!(!starves("oom_kill_disable 1\nunder_oom 0\noom_kill 0\n"));
    assert!(!starves("oom_kill_disable 0\nunder_oom 1\noom_kill 1\n"));
    tree.file("pids", "pids.current", "many\n");
    assert!(matches!(tree.group().usage(), Err(CgroupError::Parse { .. })));
}

#[test]
fn v2_usage_is_read() {
    let tree = Tree::new(&[], Some("cpu memory io pids"));
    tree.file("unified", "cpu.stat", "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 1\nthrottled_usec 9\n")
        .file("unified", "memory.current", "10\n")
        .file("unified", "memory.max", "max\n")
        .file("unified", "memory.stat", "file 4\ninactive_file 3\n")
        .file("unified", "memory.events", "low 0\nmax 5\noom 1\noom_kill 1\n")
        .file("unified", "io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n")
        .file("unified", "cgroup.procs", "12\n7\n0\n");
    let usage = tree.group().usage().unwrap();
    assert_eq!((usage.cpu.total_ns, usage.cpu.throttling.throttled_ns), (5000, 9000));
    assert_eq!((usage.memory.bytes, usage.memory.limit, usage.memory.cache, usage.memory.failures), (10, None, 4, 5));
    assert_eq!((usage.block[0].read_bytes, usage.block[0].write_ops), (1, 4));
    assert_eq!(tree.group().oom_kills().unwrap(), 1);
    assert_eq!(tree.group().pids().unwrap(), [7, 12]);
}

#[test]
fn the_forms_of_a_path_lead_to_places() {
    use crate::place::{Own, Place};
    let tree = Tree::new(&["cpu", "memory"], None);
    let host = tree.host();
    let own = || Ok(Own::parse("4:memory:/job/7\n1:cpu:/\n0::/user/me\n"));
    let paths = |path: Option<&str>| Place::resolve(&host.shared, path, "box", own).map(|place| place.paths.to_vec());
    assert_eq!(paths(None).unwrap(), ["box", "job/7/box"]);
    assert_eq!(paths(Some("")).unwrap(), ["box", "job/7/box"]);
    assert_eq!(paths(Some("a//b/")).unwrap(), ["a/b", "job/7/a/b"]);
    assert_eq!(paths(Some("/a/./b")).unwrap(), ["a/b"]);
    for bad in ["..", "/a/../b", "a/..", "/", "a\nb"] {
        assert!(matches!(paths(Some(bad)), Err(CgroupError::BadPath { .. })), "{bad:?}");
    }
    let v2 = Tree::new(&[], Some("cpu"));
    let place = Place::resolve(&v2.host().shared, None, "box", own).unwrap();
    assert_eq!(place.paths.to_vec(), ["user/box"], "beside the group of this process");
}

#[test]
fn a_record_finds_the_group_again() {
    let tree = Tree::new(&["pids", "memory"], None);
    tree.file("pids", "cgroup.procs", "7\n").file("pids", "pids.current", "1\n");
    let record = serde_json::to_string(&tree.group().record()).unwrap();
    let again = Group::from_record(&serde_json::from_str(&record).unwrap()).unwrap();
    assert_eq!(again.pids().unwrap(), [7]);
    assert_eq!(again.dirs(), tree.group().dirs());
    assert_eq!(again.controller_dirs()["memory"], tree.path("memory/insula/x"));
    let wrong = record.replace("insula/x", "insula/../x");
    assert!(Group::from_record(&serde_json::from_str(&wrong).unwrap()).is_err());
}

#[test]
fn a_runtime_refuses_what_the_engine_only_tells() {
    let tree = Tree::new(&["cpu", "memory", "blkio", "devices"], None);
    tree.file("cpu", "cpu.shares", "").file("devices", "devices.allow", "").file("devices", "devices.deny", "");
    let place = tree.host().place(Some("/insula/x"), "x").unwrap();
    let refused = |resources: &LinuxResources| tree.host().create_at(&place, resources).unwrap_err().to_string();
    let mut resources = LinuxResources::default();
    resources.set_devices(None).set_block_io(Some(LinuxBlockIoBuilder::default().weight(300_u16).build().unwrap()));
    assert!(refused(&resources).contains("no blkio weight"), "{}", refused(&resources));
    resources.set_block_io(None).set_unified(Some([("memory.high".to_owned(), "1".to_owned())].into()));
    assert!(refused(&resources).contains("cannot use unified on cgroup v1"));
    resources.set_unified(None).set_rdma(Some([("mlx5_0".to_owned(), rdma(2))].into()));
    assert!(refused(&resources).contains("the controller rdma is not available"), "{}", refused(&resources));
    resources.set_rdma(None);
    tree.host().create_at(&place, &resources).unwrap();
    assert_eq!(tree.read("devices", "devices.deny"), "a\n", "what nobody allows is denied");
    assert!(tree.read("devices", "devices.allow").contains("c 1:3 rwm"), "every container has /dev/null");
    let (group, _) = tree.host().create_at(&place, &resources).unwrap();
    tree.file("devices", "devices.deny", "");
    group.apply(&resources).unwrap();
    assert_eq!(tree.read("devices", "devices.deny"), "", "a change of limits leaves the devices");
    tree.file("cpu", "cgroup.procs", "42\n");
    assert!(refused(&resources).contains("container's cgroup is not empty: 1 process(es) found"));
}

#[test]
fn others_in_a_shared_group_are_spared() {
    let tree = Tree::new(&["devices", "pids"], None);
    // A number that no process has: it is not killed here, and so it stays in the file.
    tree.file("pids", "cgroup.procs", "2147483646\n");
    tree.file("devices", "devices.deny", "").file("devices", "devices.allow", "");
    let mut everything = LinuxResources::default();
    everything.set_devices(Some(vec![device(true, LinuxDeviceType::A, None, "rwm")]));
    let place = tree.host().place(Some("/insula/x"), "x").unwrap();
    let (group, applied) = tree.host().create_or_share(&place, &everything).unwrap();
    assert!(applied.warnings[0].contains("container's cgroup is not empty: 1 process(es) found"), "{applied:?}");
    let again = Group::from_record(&group.record()).unwrap();
    again.kill().unwrap();
    again.remove().unwrap();
    assert!(tree.path("pids/insula/x/cgroup.procs").exists());
}

#[test]
fn beside_version_1_a_runtime_enters_version_2_too() {
    let tree = Tree::new(&V1, Some(""));
    let both = Host::of(parse_mounts(&tree.mountinfo, &tree.path("")), Access::ByPath).unwrap();
    let place = both.place(Some("/insula/new"), "x").unwrap();
    let dirs = both.group_at(&place).dirs();
    assert!(dirs.contains(&tree.path("unified/insula/new")), "{dirs:?}");
    assert!(!both.group_at(&place).limiting_dirs().contains(&tree.path("unified/insula/new")));
    assert!(!tree.host().group_at(&place).dirs().contains(&tree.path("unified/insula/new")), "a daemon does without");
}

fn rdma(handles: u32) -> oci_spec::runtime::LinuxRdma {
    oci_spec::runtime::LinuxRdmaBuilder::default().hca_handles(handles).build().unwrap()
}

#[test]
fn v2_takes_rdma_huge_pages_burst_and_checks_memory_first() {
    let tree = Tree::new(&[], Some("cpu memory rdma hugetlb"));
    for file in ["rdma.max", "hugetlb.2MB.max", "hugetlb.2MB.rsvd.max", "cpu.max", "cpu.max.burst", "memory.max"] {
        tree.file("unified", file, "");
    }
    tree.file("unified", "memory.current", "5000\n").file("unified", "memory.swap.max", "");
    let mut resources = LinuxResources::default();
    let pages =
        oci_spec::runtime::LinuxHugepageLimitBuilder::default().page_size("2MB").limit(4 << 20).build().unwrap();
    resources.set_devices(None).set_rdma(Some([("mlx5_0".to_owned(), rdma(2))].into()));
    resources.set_hugepage_limits(Some(vec![pages.clone()]));
    resources.set_cpu(Some(LinuxCpuBuilder::default().quota(50_000).burst(10_000_u64).build().unwrap()));
    tree.group().apply(&resources).unwrap();
    assert_eq!(tree.read("unified", "rdma.max"), "mlx5_0 hca_handle=2\n");
    assert_eq!(tree.read("unified", "hugetlb.2MB.max"), "4194304\n");
    assert_eq!(tree.read("unified", "hugetlb.2MB.rsvd.max"), "4194304\n");
    assert_eq!((tree.read("unified", "cpu.max"), tree.read("unified", "cpu.max.burst")).1, "10000\n");
    let low = LinuxMemoryBuilder::default().limit(4096).check_before_update(true).build().unwrap();
    resources.set_memory(Some(low));
    let error = tree.group().apply(&resources).unwrap_err().to_string();
    assert!(error.contains("rejecting memory limit 4096 <= usage 5000"), "{error}");
    assert_eq!(tree.read("unified", "memory.max"), "");
    let below = LinuxMemoryBuilder::default().limit(4096).swap(1000).build().unwrap();
    resources.set_memory(Some(below));
    assert!(tree.group().apply(&resources).is_err());
    resources.set_memory(None);
    let mut odd = pages;
    odd.set_page_size("2MB/../../x".to_owned());
    resources.set_hugepage_limits(Some(vec![odd]));
    assert!(matches!(tree.group().apply(&resources), Err(CgroupError::BadValue { .. })));
}

#[test]
fn stats_have_the_fields_of_runc() {
    let tree = Tree::new(&V1, None);
    tree.file("cpuacct", "cpuacct.usage", "5\n")
        .file("cpuacct", "cpuacct.usage_percpu", "2 3 \n")
        .file("cpuacct", "cpuacct.usage_all", "cpu user system\n0 1 1\n1 2 1\n")
        .file("cpuset", "cpuset.cpus", "0-1,3\n")
        .file("memory", "memory.limit_in_bytes", "9223372036854771712\n")
        .file("memory", "memory.usage_in_bytes", "4096\n")
        .file("memory", "memory.stat", "cache 7\n")
        .file("pids", "pids.current", "1\n")
        .file("pids", "pids.max", "max\n")
        .file("blkio", "blkio.throttle.io_serviced_recursive", "8:0 Read 1\n8:0 Total 1\nTotal 1\n");
    let stats = serde_json::to_value(tree.group().stats().unwrap()).unwrap();
    assert_eq!(
        stats["cpu"]["usage"],
        serde_json::json!({"total": 5, "percpu": [2, 3], "percpu_user": [1, 2], "percpu_kernel": [1, 1], "kernel": 0, "user": 0})
    );
    assert_eq!(stats["cpu"]["throttling"], serde_json::json!({}));
    assert_eq!(stats["cpuset"]["cpus"], serde_json::json!([0, 1, 3]));
    assert_eq!(
        stats["memory"]["usage"],
        serde_json::json!({"limit": 9_223_372_036_854_771_712_u64, "usage": 4096, "failcnt": 0})
    );
    assert_eq!(
        (&stats["memory"]["raw"]["cache"], &stats["pids"]),
        (&serde_json::json!(7), &serde_json::json!({"current": 1}))
    );
    assert_eq!(stats["blkio"]["ioServicedRecursive"][0], serde_json::json!({"major": 8, "op": "Read", "value": 1}));
    assert!(stats["network_interfaces"].is_null());
}

#[test]
fn limits_without_a_controller_in_the_usual_place_are_looked_for_elsewhere() {
    let mounts = |text: &str| parse_mounts(text, Path::new("/"));
    let limits = |json: serde_json::Value| serde_json::from_value::<LinuxResources>(json).unwrap();
    let pids = limits(serde_json::json!({"pids": {"limit": 5}}));
    let class = limits(serde_json::json!({"network": {"classID": 7}}));
    let v1 = mounts("32 31 0:29 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n");
    assert!(crate::host::can_keep(&v1, &pids) && !crate::host::can_keep(&v1, &class));
    let v2 = mounts("41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
    assert!(crate::host::can_keep(&v2, &class));
    let hybrid = mounts(concat!(
        "32 31 0:29 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n",
        "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    ));
    assert!(!crate::host::can_keep(&hybrid, &class));
}
