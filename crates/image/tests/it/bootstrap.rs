//! A base image from the machine's apt sources. Needs root and a way to the distribution's mirrors.

mod kernel {
    use std::fs;
    use std::path::Path;
    use std::process::Command;

    use image::bootstrap::{self, BootstrapError, Prepared, Request};
    use image::{Image, Store};

    fn request(include: &[&str]) -> Request {
        Request {
            reference: "debian:bookworm".parse().unwrap(),
            distribution: "debian".to_owned(),
            suite: "bookworm".to_owned(),
            include: include.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    /// Stands in for the container: namespaces of its own, a few devices, no network.
    fn configure(prepared: &Prepared) {
        let root = prepared.root().display().to_string();
        let setup = "mount -t proc proc $0/proc && mount -t tmpfs tmpfs $0/dev && \
                     mknod -m 666 $0/dev/null c 1 3 && mknod -m 666 $0/dev/zero c 1 5 && \
                     mknod -m 666 $0/dev/urandom c 1 9 && root=$0 && exec chroot $root \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--net", "--ipc", "--uts", "sh", "-c", setup, &root]);
        command.args(prepared.configure_command()).env_clear().envs(prepared.configure_env());
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(3000)..]).into_owned();
        assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    }

    /// The image, or nothing where the machine has no such sources.
    fn build(store: &Store, work: &Path, request: &Request) -> Option<Image> {
        let prepared = match bootstrap::prepare(request, work, &mut |step| println!("{step}")) {
            Ok(prepared) => prepared,
            Err(error @ (BootstrapError::NoSource { .. } | BootstrapError::Tool { .. })) => {
                println!("skipped: {error}");
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        assert!(matches!(prepared.finish(store), Err(BootstrapError::NotConfigured { .. })));
        configure(&prepared);
        Some(prepared.finish(store).unwrap())
    }

    #[test]
    fn the_same_image_twice() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped the_same_image_twice: needs root");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("images")).unwrap();
        let request = request(&["ca-certificates", "xz-utils"]);
        let places = [folder.path().join("a"), folder.path().join("another/place")];
        let built = std::thread::scope(|scope| {
            let threads = places.each_ref().map(|place| scope.spawn(|| build(&store, place, &request)));
            threads.map(|thread| thread.join().unwrap())
        });
        let [Some(first), Some(second)] = built else { return };
        if first.layers != second.layers
            && let Some(keep) = std::env::var_os("INSULA_KEEP_TREES")
        {
            fs::rename(folder.path(), keep).unwrap();
        }
        assert_eq!(first.layers, second.layers);
        assert_eq!(first.id, second.id);
        assert_eq!(first.config.config().as_ref().unwrap().cmd().as_deref(), Some(&["bash".to_owned()][..]));
        let root = folder.path().join("a/root");
        let status = fs::read_to_string(root.join("var/lib/dpkg/status")).unwrap();
        assert!(status.contains("Package: apt\nStatus: install ok installed\n"));
        assert!(!root.join("usr/sbin/policy-rc.d").exists());
        let audit = Command::new("chroot").arg(&root).args(["dpkg", "--audit"]).output().unwrap();
        assert!(audit.status.success() && audit.stdout.is_empty(), "{}", String::from_utf8_lossy(&audit.stdout));
        let sources = fs::read_to_string(root.join("etc/apt/sources.list.d/debian.sources")).unwrap();
        assert!(sources.contains("http://deb.debian.org/debian\n"));
    }

    #[test]
    fn what_is_not_there_is_named() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped what_is_not_there_is_named: needs root");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let prepare =
            |name: &str, request: &Request| bootstrap::prepare(request, &folder.path().join(name), &mut |_| {});
        let unknown = prepare("a", &request(&["no-such-package-here"]));
        match unknown.unwrap_err() {
            BootstrapError::NoSource { .. } | BootstrapError::Tool { .. } => println!("skipped: no sources"),
            error => assert!(error.to_string().contains("no package \"no-such-package-here\""), "{error}"),
        }
        let suite = Request { suite: "no-such-suite".to_owned(), ..request(&[]) };
        assert!(prepare("b", &suite).unwrap_err().to_string().contains("suite \"no-such-suite\""));
        let evil = Request { suite: "../x".to_owned(), ..request(&[]) };
        assert!(matches!(prepare("c", &evil), Err(BootstrapError::BadName { .. })));
    }
}
