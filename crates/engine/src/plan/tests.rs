//! Flags in, OCI configuration or error out.

use super::{Host, Surroundings, capabilities, check, mounts, namespaces, process, resources, security, user};
use crate::config::Config;
use crate::model::{
    Container, ContainerId, ContainerSpec, IpcMode, Mount, MountKind, NetworkMode, Phase, PidMode, Process,
    Propagation, ReadOnlyDepth, Resources, Ulimit, UserMode, UtsMode,
};
use oci_spec::image::{ConfigBuilder, ImageConfiguration};
use oci_spec::runtime::LinuxNamespaceType;

fn host() -> Host {
    Host { cpus: 2, apparmor: false, selinux: false, capabilities: oci::caps::ALL.to_vec() }
}

fn refused(spec: &ContainerSpec, words: &str) {
    let error = check(spec, &host()).expect_err(words).to_string();
    assert!(error.contains(words), "{error:?} does not say {words:?}");
}

fn with(change: impl FnOnce(&mut ContainerSpec)) -> ContainerSpec {
    let mut spec = ContainerSpec::default();
    change(&mut spec);
    spec
}

fn limits(change: impl FnOnce(&mut Resources)) -> ContainerSpec {
    with(|spec| change(&mut spec.resources))
}

#[test]
fn wrong_values_are_named() {
    refused(&limits(|r| r.memory_bytes = Some(4 << 20)), "Minimum memory limit allowed is 6MB");
    refused(&limits(|r| r.memory_swap_bytes = Some(1 << 30)), "always set the Memory limit");
    refused(
        &limits(|r| (r.memory_bytes, r.memory_swap_bytes) = (Some(64 << 20), Some(32 << 20))),
        "larger than memory limit",
    );
    refused(&limits(|r| r.nano_cpus = Some(3_000_000_000)), "from 0.01 to 2.00");
    refused(&limits(|r| r.cpuset_cpus = Some("0-7".into())), "available: 0-1");
    refused(&limits(|r| r.cpuset_cpus = Some("x".into())), "--cpuset-cpus");
    refused(&limits(|r| r.blkio_weight = Some(5)), "from 10 to 1000");
    refused(&with(|s| s.cap_add = vec!["NOPE".into()]), "--cap-add NOPE");
    refused(&with(|s| s.sysctls = [("kernel.panic".into(), "1".into())].into()), "kernel.panic");
    refused(&with(|s| s.stop_signal = Some("SIGNOPE".into())), "SIGNOPE");
    refused(&with(|s| s.working_dir = Some("tmp".into())), "absolute path");
    refused(&with(|s| s.ulimits = vec![Ulimit { name: "nofiles".into(), soft: 1, hard: 1 }]), "nofiles");
    refused(&with(|s| s.ulimits = vec![Ulimit { name: "nofile".into(), soft: 9, hard: 1 }]), "soft limit");
    refused(&with(|s| s.security.apparmor = Some("mine".into())), "AppArmor is not enabled");
    refused(&with(|s| s.hostname = Some("a b".into())), "invalid hostname");
    refused(&with(|s| (s.hostname, s.namespaces.uts) = (Some("a".into()), UtsMode::Host)), "--uts host");
    refused(&with(|s| (s.namespaces.user, s.privileged) = (UserMode::Auto, true)), "--userns auto");
    refused(&with(|s| s.mounts = vec![tmpfs("relative")]), "absolute");
    refused(&with(|s| s.mounts = vec![tmpfs("/a/../b")]), "'..'");
    refused(&with(|s| s.mounts = vec![tmpfs("/a"), tmpfs("/a/")]), "Duplicate mount point");
    refused(
        &with(|s| s.mounts = vec![bind("/does/not/exist", false)]),
        "bind source path does not exist: /does/not/exist",
    );
}

fn tmpfs(target: &str) -> Mount {
    Mount {
        target: target.into(),
        read_only: false,
        kind: MountKind::Tmpfs { bytes: Some(4096), mode: None, options: vec!["exec".into()] },
    }
}

fn bind(source: &str, create_source: bool) -> Mount {
    let kind = MountKind::Bind {
        source: source.into(),
        create_source,
        propagation: Propagation::Rprivate,
        non_recursive: false,
        read_only_depth: ReadOnlyDepth::default(),
    };
    Mount { target: "/mnt".into(), read_only: true, kind }
}

#[test]
fn limits_become_what_the_kernel_wants() {
    let asked = Resources {
        memory_bytes: Some(512 << 20),
        nano_cpus: Some(1_500_000_000),
        pids_limit: Some(64),
        ..Resources::default()
    };
    let planned = resources::plan(&asked, Vec::new()).unwrap();
    let memory = planned.memory().unwrap();
    assert_eq!((memory.limit(), memory.swap()), (Some(512 << 20), Some(1 << 30)));
    let cpu = planned.cpu().as_ref().unwrap();
    assert_eq!((cpu.quota(), cpu.period()), (Some(150_000), Some(100_000)));
    assert_eq!(planned.pids().map(|pids| pids.limit()), Some(64));
    let unlimited = resources::plan(&Resources::default(), Vec::new()).unwrap();
    assert!(unlimited.memory().is_none() && unlimited.cpu().is_none() && unlimited.pids().is_none());
}

#[test]
fn capabilities_are_added_and_dropped() {
    let set = |add: &[&str], drop: &[&str]| {
        let words = |list: &[&str]| list.iter().map(|&word| word.to_owned()).collect();
        capabilities::effective(&with(|s| (s.cap_add, s.cap_drop) = (words(add), words(drop))), &host()).unwrap()
    };
    assert_eq!(set(&[], &[]).len(), oci::caps::DEFAULT.len());
    assert!(set(&["net_admin"], &[]).contains(&"CAP_NET_ADMIN"));
    assert!(!set(&[], &["CAP_CHOWN"]).contains(&"CAP_CHOWN"));
    assert_eq!(set(&["SYS_TIME"], &["ALL"]), ["CAP_SYS_TIME"]);
    assert_eq!(set(&["ALL"], &[]).len(), oci::caps::ALL.len());
    assert_eq!(set(&["ALL"], &["SYS_ADMIN"]).len(), oci::caps::ALL.len() - 1);
    assert_eq!(set(&[], &["all"]).len(), 0);
}

fn container(spec: ContainerSpec) -> Container {
    Container {
        id: ContainerId::known(&"ab".repeat(32)),
        name: "web".into(),
        process: Process { args: vec!["sh".into()], cwd: "/".into(), stop_signal: 15, ..Process::default() },
        spec,
        image_id: String::new(),
        created_ns: 0,
        phase: Phase::Created,
        runtime: None,
        finished: None,
        restart_count: 0,
        restarting: false,
        stopped_by_user: false,
        start_again: false,
        stop_untold: false,
        restart_untold: false,
        remove_at_end: false,
        health: None,
        remove_volumes: false,
        anonymous_volumes: Vec::new(),
        volumes: Vec::new(),
        ids: None,
        endpoints: std::collections::BTreeMap::new(),
        published: net::firewall::Published::new(),
    }
}

fn planned(spec: ContainerSpec) -> oci_spec::runtime::Spec {
    let config = Config::for_tests();
    let container = container(spec);
    let around = Surroundings {
        host: &host(),
        paths: &config.paths(&container.id),
        cgroup: config.cgroup(&container.id),
        user: user::User { uid: 0, gid: 0, groups: Vec::new(), home: "/root".into() },
        joins: namespaces::Joins { network: Some(7), ..namespaces::Joins::default() },
        devices: Vec::new(),
    };
    super::oci(&container, &around).unwrap()
}

#[test]
fn the_default_container_has_every_namespace_but_the_users() {
    let spec = planned(ContainerSpec::default());
    let kinds: Vec<_> = spec.linux().as_ref().unwrap().namespaces().iter().flatten().map(|one| one.typ()).collect();
    for kind in [
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Network,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Cgroup,
        LinuxNamespaceType::Time,
    ] {
        assert!(kinds.contains(&kind), "{kind:?}");
    }
    assert_eq!(kinds.len(), 7);
    assert_eq!(spec.hostname().as_deref(), Some("abababababab"));
    let env = spec.process().as_ref().unwrap().env().clone().unwrap();
    assert!(env.contains(&"HOME=/root".to_owned()) && env.contains(&"HOSTNAME=abababababab".to_owned()));
}

#[test]
fn modes_leave_out_or_join() {
    let spec = planned(with(|s| {
        s.namespaces.pid = PidMode::Host;
        s.namespaces.ipc = IpcMode::Host;
        s.network = NetworkMode::Container("other".into());
    }));
    let list = spec.linux().as_ref().unwrap().namespaces().clone().unwrap();
    assert!(!list.iter().any(|one| matches!(one.typ(), LinuxNamespaceType::Pid | LinuxNamespaceType::Ipc)));
    let network = list.iter().find(|one| one.typ() == LinuxNamespaceType::Network).unwrap();
    assert_eq!(network.path().as_ref().and_then(|path| path.to_str()), Some("/proc/7/ns/net"));
}

#[test]
fn mounts_are_replaced_by_the_users_own_and_parents_come_first() {
    let spec = with(|s| s.mounts = vec![tmpfs("/data/deep"), tmpfs("/data"), tmpfs("/dev/shm")]);
    let targets: Vec<String> =
        planned(spec).mounts().iter().flatten().map(|mount| mount.destination().display().to_string()).collect();
    let at = |target: &str| targets.iter().position(|have| have == target).unwrap();
    assert!(at("/data") < at("/data/deep"));
    assert_eq!(targets.iter().filter(|target| *target == "/dev/shm").count(), 1);
    let options = planned(with(|s| s.mounts = vec![tmpfs("/t")]));
    let options = options
        .mounts()
        .iter()
        .flatten()
        .find(|mount| mount.destination().ends_with("t"))
        .unwrap()
        .options()
        .clone()
        .unwrap();
    assert!(
        options.contains(&"exec".to_owned())
            && !options.contains(&"noexec".to_owned())
            && options.contains(&"size=4096".to_owned())
    );
    assert_eq!(mounts::root_propagation(&ContainerSpec::default()), None);
}

#[test]
fn what_shows_the_daemons_folder_follows_it() {
    let settled = |source: &str, propagation: Propagation| {
        let kind = MountKind::Bind {
            source: source.into(),
            create_source: false,
            propagation,
            non_recursive: false,
            read_only_depth: ReadOnlyDepth::default(),
        };
        let mut one = [Mount { target: "/x".into(), read_only: false, kind }];
        mounts::settle(&mut one, std::path::Path::new("/var/lib/insula")).map(|()| match &one[0].kind {
            MountKind::Bind { propagation, .. } => *propagation,
            _ => unreachable!(),
        })
    };
    for source in ["/", "/var", "/var/lib/insula", "/var/lib/insula/volumes"] {
        assert_eq!(settled(source, Propagation::Unsaid).unwrap(), Propagation::Rslave, "{source}");
        assert_eq!(settled(source, Propagation::Rshared).unwrap(), Propagation::Rshared, "{source}");
        let refused = settled(source, Propagation::Rprivate).unwrap_err().to_string();
        assert!(refused.contains("must use either propagation mode"), "{refused}");
    }
    for source in ["/var/lib/insulae", "/srv"] {
        assert_eq!(settled(source, Propagation::Unsaid).unwrap(), Propagation::Rprivate, "{source}");
        assert_eq!(settled(source, Propagation::Private).unwrap(), Propagation::Private, "{source}");
    }
}

#[test]
fn privileged_masks_nothing() {
    let spec = with(|s| s.privileged = true);
    assert!(security::masked(&spec).is_empty() && security::readonly(&spec).is_empty());
    assert!(security::masked(&ContainerSpec::default()).contains(&"/proc/kcore".to_owned()));
}

#[test]
fn image_and_command_line_merge_as_docker_does() {
    let words = |list: &[&str]| list.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    let config = ConfigBuilder::default()
        .entrypoint(words(&["/init"]))
        .cmd(words(&["serve"]))
        .env(words(&["A=1", "B=2"]))
        .working_dir("/srv")
        .user("app")
        .build()
        .unwrap();
    let mut image = ImageConfiguration::default();
    image.set_config(Some(config));
    let args = |change: fn(&mut ContainerSpec)| process::merge(&with(change), &image).unwrap().args;
    assert_eq!(args(|_| {}), ["/init", "serve"]);
    assert_eq!(args(|s| s.command = vec!["ls".into()]), ["/init", "ls"]);
    assert_eq!(args(|s| s.entrypoint = Some(vec!["/bin/x".into()])), ["/bin/x"]);
    assert_eq!(args(|s| (s.entrypoint, s.command) = (Some(vec![]), vec!["ls".into()])), ["ls"]);
    let merged = process::merge(&with(|s| s.env = words(&["A=9", "B", "C=3"])), &image).unwrap();
    assert_eq!(merged.env, ["A=9", "C=3"]);
    assert_eq!((merged.cwd.as_str(), merged.user.as_str()), ("/srv", "app"));
    assert!(process::merge(&ContainerSpec::default(), &ImageConfiguration::default()).is_err());
}

#[test]
fn users_are_found_by_name_and_number() {
    let accounts = user::Accounts {
        passwd: "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\nbroken\n".into(),
        group: "root:x:0:\nwheel:x:10:app,root\napp:x:1001:\n".into(),
    };
    let find = |asked: &str, add: &[&str]| {
        let add: Vec<String> = add.iter().map(|&group| group.to_owned()).collect();
        user::resolve(asked, &add, &accounts).map(|user| (user.uid, user.gid, user.groups, user.home))
    };
    assert_eq!(find("", &[]).unwrap(), (0, 0, vec![10], "/root".into()));
    assert_eq!(find("app", &[]).unwrap(), (1000, 1001, vec![10], "/home/app".into()));
    assert_eq!(find("1000:0", &[]).unwrap(), (1000, 0, vec![], "/home/app".into()));
    assert_eq!(find("4242", &["wheel", "77"]).unwrap(), (4242, 0, vec![10, 77], "/".into()));
    for bad in ["nobody", "app:nogroup", "-1", "4294967295"] {
        assert!(find(bad, &[]).is_err(), "{bad}");
    }
}
