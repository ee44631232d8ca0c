//! What the kernel makes of our layers. Needs root.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use image::{DeviceNodes, ErrorKind, ImportOptions, LayerFormat, Store};

use crate::walk;

/// Whether this process may mount; says so when not.
fn root_or_skip(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped {test}: needs root");
    }
    root
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A tree with one of everything.
fn make_tree(root: &Path) {
    fs::create_dir(root).unwrap();
    for (name, length) in
        [("empty", 0), ("one", 1), ("almost", 4095), ("block", 4096), ("more", 4097), ("big", 300_001)]
    {
        let bytes: Vec<u8> = (0..length).map(|n: u32| (n * 7 % 251) as u8).collect();
        fs::write(root.join(name), bytes).unwrap();
    }
    fs::create_dir_all(root.join("dir/deeper/deepest")).unwrap();
    fs::hard_link(root.join("big"), root.join("dir/hard")).unwrap();
    fs::hard_link(root.join("one"), root.join("dir/deeper/one-again")).unwrap();
    symlink("../../etc/passwd", root.join("dir/outside")).unwrap();
    symlink("x".repeat(4000), root.join("dir/long-link")).unwrap();
    fs::create_dir(root.join("many")).unwrap();
    for number in 0..3000 {
        fs::write(root.join(format!("many/a-file-with-a-rather-long-name-{number}")), format!("{number}")).unwrap();
    }
    fs::write(root.join("n".repeat(255)), "long name").unwrap();
    fs::write(root.join("dir/-before-dot"), "-").unwrap();
    fs::write(root.join("dir/+"), "+").unwrap();
    fs::write(root.join("dir/... three dots"), ".").unwrap();
    let nested = root.join("p".repeat(200)).join("q".repeat(200)).join("r".repeat(200));
    fs::create_dir_all(&nested).unwrap();
    fs::write(nested.join("f"), "far down").unwrap();
    run(Command::new("mknod").arg(root.join("null")).args(["c", "1", "3"]));
    run(Command::new("mknod").arg(root.join("disk")).args(["b", "259", "70000"]));
    run(Command::new("mkfifo").arg(root.join("pipe")));
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(8 << 20).unwrap();
    sparse.write_at(b"in the middle", 3 << 20).unwrap();
    sparse.write_at(b"near the end", (8 << 20) - 5000).unwrap();
    File::create(root.join("hole")).unwrap().set_len(1 << 20).unwrap();
    let set = |name: &str, key: &str, value: &[u8]| {
        rustix::fs::lsetxattr(root.join(name), key, value, rustix::fs::XattrFlags::empty()).unwrap();
    };
    set("more", "user.note", b"one of a kind");
    set("more", "user.shared", b"the same value in many places");
    set("big", "user.shared", b"the same value in many places");
    set("dir", "user.shared", b"the same value in many places");
    set("dir", "trusted.kept", &[0, 1, 2, 255]);
    set("block", "user.large", &[b'v'; 3000]);
    set("one", "security.capability", &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    chown(root.join("block"), Some(70_000), Some(5)).unwrap();
    chown(root.join("dir"), Some(1000), Some(1000)).unwrap();
    fs::set_permissions(root.join("more"), fs::Permissions::from_mode(0o6751)).unwrap();
    fs::set_permissions(root.join("many"), fs::Permissions::from_mode(0o1777)).unwrap();
    run(Command::new("touch").args(["-d", "1969-12-31 23:59:58.25 UTC"]).arg(root.join("almost")));
    run(Command::new("touch").args(["-h", "-d", "2040-01-01 00:00:00.123456789 UTC"]).arg(root.join("dir/outside")));
    for name in ["dir", "many", "empty", "one"] {
        run(Command::new("touch").args(["-d", "2001-02-03 04:05:06 UTC"]).arg(root.join(name)));
    }
}

fn tar(tree: &Path, archive: &Path, extra: &[&str]) {
    let xattrs: &[&str] = if extra.contains(&"--format=gnu") { &[] } else { &["--xattrs", "--xattrs-include=*"] };
    run(Command::new("tar")
        .arg("--sort=name")
        .args(xattrs)
        .args(extra)
        .arg("-cf")
        .arg(archive)
        .arg("-C")
        .arg(tree)
        .arg("."));
}

fn mounted(layers: &image::Layers) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", layers.fds[0].as_raw_fd()))
}

fn layer_file(store: &Store, image: &image::Image) -> PathBuf {
    store.root().join("layers").join(image.layers[0].0.hex()).join("layer.erofs")
}

fn fsck(file: &Path) {
    match Command::new("fsck.erofs").arg(file).output() {
        Ok(output) => assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ),
        Err(error) => println!("fsck.erofs skipped: {error}"),
    }
}

#[test]
fn everything_survives() {
    if !root_or_skip("everything_survives") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    make_tree(&tree);
    let store = Store::open(&folder.path().join("images")).unwrap();
    let variants: [&[&str]; 5] = [
        &["--format=pax", "-S"],
        &["--format=gnu", "-S"],
        &["--format=pax", "--sparse-version=0.1", "-S"],
        &["--format=pax", "--sparse-version=0.0", "-S"],
        &["--format=pax"],
    ];
    for (number, extra) in variants.into_iter().enumerate() {
        let archive = folder.path().join(format!("{number}.tar"));
        tar(&tree, &archive, extra);
        let extracted = folder.path().join(format!("extracted-{number}"));
        fs::create_dir(&extracted).unwrap();
        run(Command::new("tar")
            .args(["--xattrs", "--xattrs-include=*", "-xpf"])
            .arg(&archive)
            .arg("-C")
            .arg(&extracted));
        let image = store.import(File::open(&archive).unwrap(), ImportOptions::default()).unwrap();
        fsck(&layer_file(&store, &image));
        let layers = store.mount_layers(&image).unwrap();
        walk::assert_same(&walk::tree(&extracted), &walk::tree(&mounted(&layers)));
        let stat = fs::symlink_metadata(layer_file(&store, &image)).unwrap();
        if extra.contains(&"-S") {
            assert!(stat.len() < 3 << 20, "holes cost disk: {}", stat.len());
        }
    }
    assert_eq!(store.check().unwrap(), []);
}

#[test]
fn same_as_mkfs_erofs() {
    if !root_or_skip("same_as_mkfs_erofs") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    make_tree(&tree);
    // The reference program of Debian 12 cannot do names of the full length.
    fs::remove_file(tree.join("n".repeat(255))).unwrap();
    let theirs = folder.path().join("theirs.erofs");
    match Command::new("mkfs.erofs").arg(&theirs).arg(&tree).output() {
        Err(error) => {
            println!("skipped same_as_mkfs_erofs: mkfs.erofs: {error}");
            return;
        }
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
    }
    let context = sys::mount::FsContext::open("erofs").unwrap();
    context.set_string("source", theirs.to_str().unwrap()).unwrap();
    context.create().unwrap();
    let reference = context.mount(sys::mount::MountAttr::RDONLY).unwrap();
    let archive = folder.path().join("a.tar");
    tar(&tree, &archive, &["--format=pax", "-S"]);
    let store = Store::open(&folder.path().join("images")).unwrap();
    let image = store.import(File::open(&archive).unwrap(), ImportOptions::default()).unwrap();
    let layers = store.mount_layers(&image).unwrap();
    let reference = PathBuf::from(format!("/proc/self/fd/{}", reference.as_raw_fd()));
    walk::assert_same(&walk::tree(&reference), &walk::tree(&mounted(&layers)));
}

#[test]
fn whiteouts_become_overlay_marks() {
    if !root_or_skip("whiteouts_become_overlay_marks") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    fs::create_dir_all(tree.join("emptied")).unwrap();
    fs::write(tree.join("emptied/.wh..wh..opq"), "").unwrap();
    fs::write(tree.join("emptied/new"), "new").unwrap();
    fs::write(tree.join(".wh.gone"), "").unwrap();
    let archive = folder.path().join("a.tar");
    tar(&tree, &archive, &[]);
    let store = Store::open(&folder.path().join("images")).unwrap();
    let image = store.import(File::open(&archive).unwrap(), ImportOptions::default()).unwrap();
    let layers = store.mount_layers(&image).unwrap();
    let root = mounted(&layers);
    let mut value = [0; 8];
    let length = rustix::fs::lgetxattr(root.join("emptied"), "trusted.overlay.opaque", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"y");
    let gone = rustix::fs::lstat(root.join("gone")).unwrap();
    assert_eq!(
        (gone.st_rdev, rustix::fs::FileType::from_raw_mode(gone.st_mode)),
        (0, rustix::fs::FileType::CharacterDevice)
    );
    assert!(!root.join(".wh.gone").exists());
    assert_eq!(fs::read(root.join("emptied/new")).unwrap(), b"new");
}

#[test]
fn a_directory_with_very_many_names() {
    if !root_or_skip("a_directory_with_very_many_names") {
        return;
    }
    let mut bytes = Vec::new();
    for number in 0..100_000 {
        bytes.extend(crate::hostile::entry(format!("d/{number}").as_bytes(), b'0', b"", &[]));
    }
    bytes.extend([0; 1024]);
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let image = store.import(&bytes[..], ImportOptions::default()).unwrap();
    fsck(&layer_file(&store, &image));
    let layers = store.mount_layers(&image).unwrap();
    let root = mounted(&layers);
    assert_eq!(fs::read_dir(root.join("d")).unwrap().count(), 100_000);
    for number in [0, 1, 9, 10, 99_999, 54_321] {
        assert!(root.join(format!("d/{number}")).exists(), "{number}");
    }
    assert!(!root.join("d/100000").exists());
}

#[test]
fn a_damaged_layer_is_named() {
    if !root_or_skip("a_damaged_layer_is_named") {
        return;
    }
    let bytes = [crate::hostile::entry(b"f", b'0', b"", &[b'x'; 10_000]), vec![0; 1024]].concat();
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let image = store.import(&bytes[..], ImportOptions::default()).unwrap();
    let file = layer_file(&store, &image);
    let whole = fs::read(&file).unwrap();
    for damage in ["short", "superblock", "missing"] {
        match damage {
            "short" => fs::write(&file, &whole[..4096]).unwrap(),
            "superblock" => {
                let mut changed = whole.clone();
                changed[1024 + 40] ^= 1;
                fs::write(&file, changed).unwrap();
            }
            _ => fs::remove_file(&file).unwrap(),
        }
        let text = store.mount_layers(&image).unwrap_err().to_string();
        assert!(text.contains(&image.layers[0].to_string()) && text.contains("insula rmi"), "{damage}: {text}");
        assert_eq!(store.check().unwrap().len(), 1, "{damage}");
    }
    fs::write(&file, &whole).unwrap();
    assert_eq!(store.check().unwrap(), []);
    let first = store.mount_layers(&image).unwrap();
    let second = store.mount_layers(&image).unwrap();
    assert_eq!(first.fds[0].as_raw_fd(), second.fds[0].as_raw_fd(), "mounted twice");
}

#[test]
fn device_nodes_can_be_refused() {
    if !root_or_skip("device_nodes_can_be_refused") {
        return;
    }
    let bytes = [crate::hostile::entry(b"dev/null", b'3', b"", &[]), vec![0; 1024]].concat();
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let options = ImportOptions { device_nodes: DeviceNodes::Refuse, ..ImportOptions::default() };
    let text = crate::hostile::chain(&store.import(&bytes[..], options).unwrap_err());
    assert!(text.contains("dev/null") && text.contains("device nodes are refused"), "{text}");
    store.import(&bytes[..], ImportOptions::default()).unwrap();
}

#[test]
fn plain_directories_are_the_same() {
    if !root_or_skip("plain_directories_are_the_same") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    make_tree(&tree);
    let archive = folder.path().join("a.tar");
    tar(&tree, &archive, &["--format=pax", "-S"]);
    let erofs = Store::open(&folder.path().join("erofs")).unwrap();
    let plain = Store::open_with_format(&folder.path().join("plain"), LayerFormat::Directory).unwrap();
    let seen: Vec<_> = [&erofs, &plain]
        .into_iter()
        .map(|store| {
            let image = store.import(File::open(&archive).unwrap(), ImportOptions::default()).unwrap();
            let layers = store.mount_layers(&image).unwrap();
            let root = mounted(&layers);
            assert!(fs::write(root.join("new"), "x").is_err(), "the layer is writable");
            assert_eq!(store.check().unwrap(), []);
            (image.layers, walk::tree(&root))
        })
        .collect();
    assert_eq!(seen[0].0, seen[1].0);
    walk::assert_same(&seen[0].1, &seen[1].1);
    for hostile in [
        vec![crate::hostile::entry(b"s", b'2', b"/tmp", b""), crate::hostile::entry(b"s/escaped", b'0', b"", b"x")],
        vec![crate::hostile::entry(b"l", b'1', b"/etc/passwd", b"")],
    ] {
        let bytes = [hostile.concat(), vec![0; 1024]].concat();
        assert!(plain.import(&bytes[..], ImportOptions::default()).is_err());
    }
    assert!(!Path::new("/tmp/escaped").exists());
    assert_eq!(fs::read_dir(plain.root().join("tmp")).unwrap().count(), 0);
}

/// A small file system that goes with the test.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(size: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(folder.path()));
        Self(folder)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        run(Command::new("umount").arg("--lazy").arg(self.0.path()));
    }
}

#[test]
fn a_full_disk_leaves_nothing() {
    if !root_or_skip("a_full_disk_leaves_nothing") {
        return;
    }
    let disk = SmallDisk::new("4m");
    let bytes = [crate::hostile::entry(b"f", b'0', b"", &vec![1; 8 << 20]), vec![0; 1024]].concat();
    for format in [LayerFormat::Erofs, LayerFormat::Directory] {
        let store = Store::open_with_format(disk.0.path(), format).unwrap();
        let error = store.import(&bytes[..], ImportOptions::default()).unwrap_err();
        let text = crate::hostile::chain(&error);
        assert!(text.contains("No space left on device"), "{text}");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        for folder in ["tmp", "layers", "blobs/sha256"] {
            assert_eq!(fs::read_dir(disk.0.path().join(folder)).unwrap().count(), 0, "{folder}");
        }
        let small = [crate::hostile::entry(b"f", b'0', b"", b"fits"), vec![0; 1024]].concat();
        store.import(&small[..], ImportOptions::default()).unwrap();
        store.prune(&|_| false, image::PruneScope::Dangling, &|_| true).unwrap();
    }
}

#[test]
fn export_gives_back_what_was_imported() {
    if !root_or_skip("export_gives_back_what_was_imported") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    make_tree(&tree);
    let archive = folder.path().join("a.tar");
    tar(&tree, &archive, &["--format=pax", "-S"]);
    let store = Store::open(&folder.path().join("images")).unwrap();
    let first = store.import(File::open(&archive).unwrap(), ImportOptions::default()).unwrap();
    let mut exported = Vec::new();
    store.export(&first, &mut exported).unwrap();
    let second = store.import(&exported[..], ImportOptions::default()).unwrap();
    let trees = [&first, &second].map(|image| walk::tree(&mounted(&store.mount_layers(image).unwrap())));
    walk::assert_same(&trees[0], &trees[1]);
    let mut again = Vec::new();
    store.export(&second, &mut again).unwrap();
    assert!(exported == again, "the same tree gives another archive");
}

#[test]
fn a_loop_device_does_it_too() {
    if !root_or_skip("a_loop_device_does_it_too") {
        return;
    }
    let bytes = [crate::hostile::entry(b"f", b'0', b"", b"through a loop device"), vec![0; 1024]].concat();
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let image = store.import(&bytes[..], ImportOptions::default()).unwrap();
    let device = match sys::loopdev::attach_read_only(&layer_file(&store, &image)) {
        Ok(device) => device,
        Err(error) => {
            println!("skipped a_loop_device_does_it_too: {error}");
            return;
        }
    };
    let context = sys::mount::FsContext::open("erofs").unwrap();
    context.set_string("source", device.path()).unwrap();
    context.set_flag("ro").unwrap();
    context.create().unwrap();
    let mount = context.mount(sys::mount::MountAttr::RDONLY).unwrap();
    let backing = format!("/sys/block/{}/loop/backing_file", device.path().trim_start_matches("/dev/"));
    drop((device, context));
    let read = fs::read(format!("/proc/self/fd/{}/f", mount.as_raw_fd())).unwrap();
    assert_eq!(read, b"through a loop device");
    drop(mount);
    let ours = || fs::read_to_string(&backing).is_ok_and(|path| path.starts_with(&*folder.path().to_string_lossy()));
    for _ in 0..100 {
        if !ours() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("the loop device is still attached");
}

/// What buildah makes of the corpus, against what is written down. `INSULA_WRITE_EXPECTED` writes it down anew.
mod corpus {
    use std::fs;
    use std::path::Path;
    use std::process::Command;

    use serde_json::{Value, json};

    use crate::corpus::{Case, walk};
    use testkit::corpus::config_facts;

    fn buildah(store: &Path, arguments: &[&str]) -> Result<String, String> {
        let place = |name: &str| store.join(name).display().to_string();
        let output = Command::new("buildah")
            .args(["--root", &place("root"), "--runroot", &place("run"), "--storage-driver", "vfs"])
            .args(arguments)
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    fn golden(case: &Case, store: &Path) -> Result<Value, String> {
        let dockerfile = case.folder.join("Dockerfile").display().to_string();
        let context = case.context.path().display().to_string();
        // Debian ships no policy, and buildah wants one even for what it reads from nowhere
        let policy = store.join("policy.json");
        fs::write(&policy, r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).unwrap();
        let policy = format!("--signature-policy={}", policy.display());
        let mut arguments =
            ["bud", &policy, "--format", "docker", "--isolation", "chroot", "-q", "-t", "case", "-f", &dockerfile]
                .map(str::to_owned)
                .to_vec();
        for (name, value) in case.options["arguments"].as_object().into_iter().flatten() {
            arguments.push(format!("--build-arg={name}={}", value.as_str().unwrap()));
        }
        if let Some(target) = case.options["target"].as_str() {
            arguments.push(format!("--target={target}"));
        }
        let ignore = case.folder.join("Dockerfile.dockerignore");
        if ignore.exists() {
            arguments.push(format!("--ignorefile={}", ignore.display()));
        }
        arguments.push(context);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        buildah(store, &arguments)?;
        let image: Value = serde_json::from_str(&buildah(store, &["inspect", "--type", "image", "case"])?).unwrap();
        let container = buildah(store, &["from", &policy, "--pull-never", "case"])?;
        let mounted = buildah(store, &["mount", &container])?;
        let files = walk(Path::new(&mounted));
        for arguments in [["umount", &container], ["rm", &container]] {
            buildah(store, &arguments)?;
        }
        buildah(store, &["rmi", "case"])?;
        Ok(json!({ "source": "buildah", "config": config_facts(&image["Docker"]["config"]), "files": files }))
    }

    #[test]
    fn buildah_says_what_is_written_down() {
        if Command::new("buildah").arg("--version").output().is_err() {
            println!("skipped: no buildah here; apt-get install buildah");
            return;
        }
        let store = tempfile::Builder::new().prefix("df-buildah").tempdir().unwrap();
        let mut failures = Vec::new();
        for case in Case::all().into_iter().filter(|case| case.options["kind"] == "tree") {
            let found = match golden(&case, store.path()) {
                Ok(found) => found,
                Err(error) => {
                    failures.push(format!("{}: {error}", case.name));
                    continue;
                }
            };
            if std::env::var_os("INSULA_WRITE_EXPECTED").is_some() {
                let text = serde_json::to_string_pretty(&found).unwrap() + "\n";
                fs::write(case.folder.join("expected.json"), text).unwrap();
            } else if found != case.expected {
                failures.push(format!("{}: {found}", case.name));
            }
        }
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    }
}
