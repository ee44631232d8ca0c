//! Root file systems: layers, read-only ones, links that lead outside, user namespaces.

mod kernel {
    use crate::harness::{Shim, layer, privileged};
    use control::{Create, ProcessId, Reply, Request, Rootfs};
    use serde_json::{Value, json};
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    fn overlay(shim: &Shim, spec: Value, writable: bool) -> Create {
        for name in ["one", "two", "rw", "rw/upper", "rw/work"] {
            std::fs::create_dir(shim.path(name)).unwrap();
        }
        for name in ["usr", "bin", "lib", "lib64", "proc", "sys", "dev", "tmp"] {
            std::fs::create_dir(shim.path("two").join(name)).unwrap();
        }
        std::fs::write(shim.path("one/both"), "upper\n").unwrap();
        std::fs::write(shim.path("two/both"), "lower\n").unwrap();
        let mut create = shim.request(spec);
        create.rootfs = Rootfs::Overlay { layers: 2, writable: writable.then(|| shim.path("rw")), volatile: writable };
        create
    }

    fn run(shim: &mut Shim, create: Create) -> i32 {
        let layers = [layer(&shim.path("one")), layer(&shim.path("two"))];
        let created = shim.create(create, &[layers[0].as_fd(), layers[1].as_fd()]);
        assert_eq!(created.namespaces.len(), 8);
        shim.start();
        shim.exited(&ProcessId::Init).code
    }

    #[test]
    fn layers_lie_over_each_other() {
        if !privileged() {
            return;
        }
        let mut shim = Shim::spawn();
        let create = overlay(&shim, shim.spec("cat /both; echo new > /file; rm /both"), true);
        assert_eq!(run(&mut shim, create), 0);
        assert_eq!(shim.log(), "upper\n");
        assert_eq!(std::fs::read_to_string(shim.path("rw/upper/file")).unwrap(), "new\n");
        assert!(shim.path("one/both").exists());
        shim.quit();
    }

    #[test]
    fn without_an_upper_layer_nothing_can_be_written() {
        if !privileged() {
            return;
        }
        let mut shim = Shim::spawn();
        let create = overlay(&shim, shim.spec("cat /both; echo new > /file"), false);
        assert_ne!(run(&mut shim, create), 0);
        assert!(shim.log().starts_with("upper\n"), "{}", shim.log());
        shim.quit();
    }

    #[test]
    fn a_user_namespace_maps_the_layers() {
        if !privileged() {
            return;
        }
        let mut shim = Shim::spawn();
        let mut spec = shim
            .spec("id -u; stat -c %u /both; echo new > /file && head -c 1 /dev/zero | wc -c; cat /proc/self/uid_map");
        spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
        for map in ["uidMappings", "gidMappings"] {
            spec["linux"][map] = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        }
        let create = overlay(&shim, spec, true);
        assert_eq!(run(&mut shim, create), 0, "{}", shim.log());
        let log = shim.log();
        assert!(log.starts_with("0\n0\n1\n"), "{log}");
        assert!(log.contains("100000"), "{log}");
        // on disk the owner is the unmapped one
        assert_eq!(std::fs::metadata(shim.path("rw/upper/file")).unwrap().uid(), 0);
        shim.quit();
    }

    #[test]
    fn a_user_namespace_can_have_a_foreign_network() {
        if !privileged() {
            return;
        }
        let mut shim = Shim::spawn();
        let mut spec = shim.spec("ls -l /proc/self/ns/net; ls /sys/class/net | wc -l; sleep 100");
        spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
        for map in ["uidMappings", "gidMappings"] {
            spec["linux"][map] = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        }
        let mut create = shim.request(spec);
        create.netns = true;
        let net = std::fs::File::open("/proc/self/ns/net").unwrap();
        let wanted = std::fs::metadata("/proc/self/ns/net").unwrap().ino();
        let created = shim.create(create, &[net.as_fd()]);
        assert!(created.namespaces.contains(&("net".to_owned(), wanted)), "{created:?}");
        shim.start();
        let exec = shim.exec("one", &format!("readlink /proc/self/ns/net | grep {wanted}"));
        assert!(matches!(shim.ask(Request::Exec(Box::new(exec))), Reply::Started { .. }));
        assert_eq!(shim.exited(&ProcessId::Exec("one".into())).code, 0);
        shim.done(Request::Signal { signal: 9, all: true });
        shim.exited(&ProcessId::Init);
        shim.quit();
    }

    #[test]
    fn execs_enter_a_user_namespace() {
        if !privileged() {
            return;
        }
        let mut shim = Shim::spawn();
        let mut spec = shim.spec("sleep 100");
        spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
        for map in ["uidMappings", "gidMappings"] {
            spec["linux"][map] = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        }
        let create = shim.request(spec);
        shim.create(create, &[]);
        shim.start();
        let exec = shim.exec("one", "test $(id -u) = 0 && grep -q 100000 /proc/self/uid_map && exit 6");
        let reply = shim.ask(Request::Exec(Box::new(exec)));
        assert!(matches!(reply, Reply::Started { .. }), "{reply:?}");
        assert_eq!(shim.exited(&ProcessId::Exec("one".into())).code, 6);
        shim.done(Request::Signal { signal: 9, all: false });
        shim.exited(&ProcessId::Init);
        shim.quit();
    }

    #[test]
    fn a_root_can_be_read_only_and_paths_masked() {
        if !privileged() {
            return;
        }
        let mut shim = Shim::spawn();
        let line = "echo x > /file || echo denied; echo 1 > /proc/sys/kernel/panic || echo kept; ls /sys/firmware | wc -l; wc -c < /proc/interrupts; echo y > /dev/shm/y && cat /dev/shm/y";
        let mut spec = shim.spec(line);
        spec["root"]["readonly"] = true.into();
        assert_eq!(shim.run(spec).code, 0);
        let log = shim.log();
        for text in ["denied\n", "kept\n", "0\n0\ny\n"] {
            assert!(log.contains(text), "{log}");
        }
        shim.quit();
    }

    #[test]
    fn links_of_an_image_lead_nowhere_outside() {
        if !privileged() {
            return;
        }
        let mut shim = Shim::spawn();
        let outside = shim.path("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::create_dir(shim.path("root")).unwrap();
        std::os::unix::fs::symlink(&outside, shim.path("root/link")).unwrap();
        std::os::unix::fs::symlink("../../../../../..", shim.path("root/up")).unwrap();
        std::fs::create_dir_all(shim.path("root").join(outside.strip_prefix("/").unwrap())).unwrap();
        let mut spec = shim.spec("ls /deep /up/deeper; true");
        for target in ["/link/deep", "/up/deeper"] {
            let mount = json!({"destination": target, "type": "tmpfs", "source": "tmpfs", "options": ["size=4k"]});
            spec["mounts"].as_array_mut().unwrap().push(mount);
        }
        assert_eq!(shim.run(spec).code, 0);
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
        assert!(shim.path("root/deeper").exists());
        shim.quit();
    }

    #[test]
    fn a_link_in_place_of_proc_is_refused() {
        if !privileged() {
            return;
        }
        let mut shim = Shim::spawn();
        std::fs::create_dir_all(shim.path("root/elsewhere")).unwrap();
        std::os::unix::fs::symlink("elsewhere", shim.path("root/proc")).unwrap();
        let create = shim.request(shim.spec("true"));
        let Reply::Failed(failure) = shim.ask(Request::Create(Box::new(create))) else { panic!("created") };
        assert!(failure.message.contains("symbolic link"), "{failure}");
        shim.quit();
    }
}
