//! Graphs, plans and keys from outside.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;
use crate::dockerfile::Dockerfile;

const BASE: &[u8] =
    br#"{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin","LANG=C"],"Cmd":["sh"],"WorkingDir":"/srv",
    "Labels":null,"OnBuild":["ARG TRIGGER=t","COPY --from=tools /x /x","RUN triggered"]},
    "history":[{"created_by":"made by hand"}],"rootfs":{"type":"layers","diff_ids":[]}}"#;

struct Build {
    folder: tempfile::TempDir,
    options: Options,
    images: Images,
}

impl Build {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), "a").unwrap();
        fs::create_dir(folder.path().join("d")).unwrap();
        fs::write(folder.path().join("d/one"), "1").unwrap();
        for (name, mode) in [("a", 0o644), ("d", 0o755), ("d/one", 0o644)] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            fs::set_permissions(folder.path().join(name), mode).unwrap();
        }
        let platform: oci::platform::Platform = "linux/amd64".parse().unwrap();
        let options = Options { platform: platform.clone(), build_platform: platform, ..Options::default() };
        Self { folder, options, images: Images::new() }
    }

    fn image(mut self, name: &str, config: &[u8]) -> Self {
        let request = ImageRequest { name: name.to_owned(), platform: self.options.platform.clone() };
        let spec = ImageSpec::from_json(config).unwrap();
        self.images.insert(request, BaseImage { id: oci::digest::Digest::of(config), spec });
        self
    }

    fn argument(mut self, name: &str, value: &str) -> Self {
        self.options.arguments.insert(name.to_owned(), value.to_owned());
        self
    }

    fn graph(&self, text: &str) -> Result<Graph, BuildError> {
        let file = Dockerfile::parse("Dockerfile", text.as_bytes()).unwrap();
        Graph::resolve(&file, &self.options, &self.images)
    }

    fn plan(&self, text: &str) -> Plan {
        let file = Dockerfile::parse("Dockerfile", text.as_bytes()).unwrap();
        let graph = Graph::resolve(&file, &self.options, &self.images).unwrap_or_else(|error| panic!("{error}"));
        let context = FolderContext::open(self.folder.path(), Ignore::default()).unwrap();
        Plan::new(&file, &graph, &self.options, &self.images, &context).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The key that the wanted stage ends with.
    fn key(&self, text: &str) -> CacheKey {
        let plan = self.plan(text);
        plan.keys(&BTreeMap::new()).stages[&plan.targets[0]]
    }
}

#[test]
fn only_needed_stages_are_there_and_independent_ones_go_together() {
    let text = "FROM scratch AS a\nFROM scratch AS b\nFROM scratch AS unused\nFROM a AS c\nCOPY --from=b / /\n\
                FROM scratch\nRUN --mount=from=a,target=/a x\nCOPY --from=3 / /\n";
    let graph = Build::new().graph(text).unwrap();
    assert_eq!(graph.nodes.keys().copied().collect::<Vec<_>>(), [0, 1, 3, 4]);
    assert_eq!(graph.rounds(), [vec![0, 1], vec![3], vec![4]]);
    let mut build = Build::new();
    build.options.target = Some("1".to_owned());
    assert_eq!(build.graph(text).unwrap().nodes.len(), 1);
    // the latest earlier stage of a name is the one that is meant
    let twice = "FROM scratch AS x\nFROM scratch AS x\nFROM x\nCOPY --from=x / /\n";
    assert_eq!(Build::new().graph(twice).unwrap().nodes[&2].needs.iter().copied().collect::<Vec<_>>(), [1]);
}

#[test]
fn what_others_have_made_is_taken_by_platform() {
    let text = "FROM --platform=linux/arm64 lib AS x\nCOPY --from=one / /\nFROM lib\nCOPY --from=x / /\n";
    let made = |name: &str, platform: &str| ImageRequest { name: name.to_owned(), platform: platform.parse().unwrap() };
    let names = |lib: Vec<ImageRequest>| -> Vec<String> {
        let mut build = Build::new();
        build.options.platform = "linux/amd64".parse().unwrap();
        build.options.contexts.insert("lib".to_owned(), NamedContext::Built(lib));
        // one alone is for all
        let one = NamedContext::Built(vec![made("sha256:1", "linux/s390x")]);
        build.options.contexts.insert("one".to_owned(), one);
        let images = build.graph(text).unwrap().missing(&build.images);
        images.into_iter().map(|request| format!("{} {}", request.name, request.platform)).collect()
    };
    let both = vec![made("sha256:a", "linux/amd64"), made("sha256:b", "linux/arm64")];
    assert_eq!(names(both), ["sha256:1 linux/s390x", "sha256:a linux/amd64", "sha256:b linux/arm64"]);
    // a platform that it was not made for has what the name says without it
    let others = vec![made("sha256:a", "linux/amd64"), made("sha256:r", "linux/riscv64")];
    assert_eq!(names(others), ["lib linux/arm64", "sha256:1 linux/s390x", "sha256:a linux/amd64"]);
}

#[test]
fn triggers_ask_for_further_images_and_come_first() {
    let text = "FROM base AS x\nRUN own\nFROM x\nRUN last\n";
    let names = |graph: &Graph, images: &Images| -> Vec<String> {
        graph.missing(images).into_iter().map(|request| request.name).collect()
    };
    let build = Build::new();
    assert_eq!(names(&build.graph(text).unwrap(), &build.images), ["base"]);
    let build = build.image("base", BASE);
    assert_eq!(names(&build.graph(text).unwrap(), &build.images), ["tools"]);
    let build = build.image("tools", br#"{"architecture":"amd64","os":"linux"}"#);
    assert!(names(&build.graph(text).unwrap(), &build.images).is_empty());
    let plan = build.plan(text);
    let steps: Vec<&str> = plan.stages[&0].steps.iter().map(|step| step.text.as_str()).collect();
    assert_eq!(steps, ["ARG TRIGGER=t", "COPY --from=tools /x /x", "RUN triggered", "RUN own"]);
    // triggers are not handed on from stage to stage, and are in no image that they were done for
    assert_eq!(plan.stages[&1].steps.len(), 1);
    assert!(plan.image().unwrap().config.on_build.is_empty());
    assert_eq!(plan.stages[&1].steps[0].place.span.line, 4);
    // a stage's own are for those that begin with it
    let plan = Build::new().plan("FROM scratch AS x\nONBUILD ENV A=b\nRUN own\nFROM x\nRUN last\n");
    let steps: Vec<&str> = plan.stages[&1].steps.iter().map(|step| step.text.as_str()).collect();
    assert_eq!(steps, ["ENV A=b", "RUN last"]);
}

#[test]
fn the_configuration_grows_from_its_base() {
    let build = Build::new().image("base", BASE).image("tools", BASE);
    let plan = build.plan("FROM base\nWORKDIR sub\nENV LANG=de X=$PATH\nENTRYPOINT [\"e\"]\n");
    let image = plan.image().unwrap();
    assert_eq!(image.config.env, ["PATH=/bin", "LANG=de", "X=/bin"]);
    assert_eq!((image.config.working_dir.as_str(), &image.config.cmd), ("/srv/sub", &None));
    assert_eq!(image.history[0].created_by, "made by hand");
    let own = "FROM base\nCMD [\"c\"]\nENTRYPOINT [\"e\"]\n";
    assert_eq!(build.plan(own).image().unwrap().config.cmd.as_deref(), Some(&["c".to_owned()][..]));
    // what is written can be read again, and is the same each time
    let bytes = image.to_json(&[], Some("2020-01-01T00:00:00Z"));
    assert_eq!(&ImageSpec::from_json(&bytes).unwrap(), image);
}

#[test]
fn an_epoch_is_in_the_history_and_in_the_keys() {
    let text = "FROM scratch\nCOPY a /\nLABEL x=y\n";
    let build = Build::new().argument("SOURCE_DATE_EPOCH", "1577836800");
    let plan = build.plan(text);
    assert_eq!(plan.epoch, Some(1_577_836_800));
    assert!(plan.image().unwrap().history.iter().all(|line| line.created.as_deref() == Some("2020-01-01T00:00:00Z")));
    assert_ne!(build.key(text), Build::new().key(text));
    assert!(plan.warnings.is_empty(), "{:?}", plan.warnings);
    let warned = Build::new().argument("UNUSED", "1").plan(text).warnings;
    assert!(warned[0].contains("\"UNUSED\""));
}

#[test]
fn a_key_knows_what_counts() {
    let base =
        "FROM scratch\nARG A=1\nCOPY d /d\nRUN --mount=type=cache,target=/c --mount=type=secret,id=s,target=/s make\n";
    let build = Build::new();
    let key = build.key(base);
    let path = |name: &str| build.folder.path().join(name);
    let same = |why: &str| assert_eq!(build.key(base), key, "{why} does not count");
    let differs = |why: &str| assert_ne!(build.key(base), key, "{why} counts");
    // times do not, nor files that are not copied
    let file = fs::File::options().write(true).open(path("d/one")).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    same("a time");
    fs::write(path("a"), "other").unwrap();
    same("another file");
    fs::write(path("d/one"), "2").unwrap();
    differs("a content");
    fs::write(path("d/one"), "1").unwrap();
    same("a content that is back");
    fs::set_permissions(path("d/one"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    differs("a mode");
    fs::set_permissions(path("d/one"), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    fs::rename(path("d/one"), path("d/two")).unwrap();
    differs("a name");
    fs::rename(path("d/two"), path("d/one")).unwrap();
    symlink("one", path("d/link")).unwrap();
    differs("a further link");
    fs::remove_file(path("d/link")).unwrap();
    same("what was undone");
    // the text: labels change no files, identities of caches and secrets no outcome
    for (from, to, counts) in [
        ("RUN", "LABEL a=b\nRUN", false),
        ("id=s", "id=other", false),
        ("target=/c", "target=/c,id=z,sharing=locked", false),
        ("target=/c", "target=/e", true),
        ("make", "make all", true),
        ("COPY d", "COPY --chown=1 d", true),
        ("ARG A=1", "ARG A=2", true),
        ("ARG A=1\n", "", true),
        ("ARG A=1", "USER 5\nARG A=1", true),
        ("RUN ", "RUN --network=none ", true),
        ("COPY d /d", "COPY d /d/", true),
    ] {
        let text = base.replace(from, to);
        assert_eq!(build.key(&text) != key, counts, "{from:?} to {to:?}");
    }
    // an argument without ARG is not seen, a proxy changes nothing
    assert_eq!(Build::new().argument("B", "x").argument("HTTP_PROXY", "http://p").key(base), key);
    assert_ne!(Build::new().argument("A", "x").key(base), key);
}

#[test]
fn attributes_count_and_sockets_are_left_out() {
    let build = Build::new();
    let text = "FROM scratch\nCOPY . /\n";
    let key = build.key(text);
    let _socket = std::os::unix::net::UnixListener::bind(build.folder.path().join("socket")).unwrap();
    assert_eq!(build.key(text), key);
    let attribute =
        rustix::fs::setxattr(build.folder.path().join("a"), "user.x", b"1", rustix::fs::XattrFlags::empty());
    if attribute == Err(rustix::io::Errno::OPNOTSUPP) {
        println!("skipped: no attributes in {}", build.folder.path().display());
        return;
    }
    attribute.unwrap();
    assert_ne!(build.key(text), key);
}

#[test]
fn keys_of_stages_links_and_remotes() {
    let build = Build::new();
    let two = "FROM scratch AS one\nCOPY a /a\nFROM scratch\nCOPY --from=one /a /b\n";
    let key = build.key(two);
    assert_ne!(build.key(&two.replace("COPY a /a", "COPY d /a")), key);
    // a linked layer is the same whatever is below
    let layer = |text: &str| {
        let plan = build.plan(text);
        let recipe = plan.stages[&0].steps.last().unwrap().recipe.clone().unwrap();
        let Input::Content(input) = recipe.inputs[0] else { panic!() };
        recipe.layer_key(&[input])
    };
    let linked = layer("FROM scratch\nCOPY --link a /a\n");
    assert!(linked.is_some());
    assert_eq!(layer("FROM scratch\nCOPY d /d\nCOPY --link a /a\n"), linked);
    assert_eq!(layer("FROM scratch\nCOPY a /a\n"), None);
    // what the network has must be known first
    let plan = build.plan("FROM scratch\nCOPY a /\nADD https://h/x /x\nRUN y\n");
    assert_eq!(plan.keys(&BTreeMap::new()).steps.len(), 1);
    let remote = (*plan.remotes().first().unwrap()).clone();
    let keys = |content: &[u8]| plan.keys(&BTreeMap::from([(remote.clone(), oci::digest::Digest::of(content))]));
    assert_eq!(keys(b"1").steps.len(), 3);
    assert_ne!(keys(b"1").stages, keys(b"2").stages);
}

/// The format is a promise: `docs/formats/build-cache-key.md`. Whoever changes it changes the names of the domains.
#[test]
fn a_key_is_the_same_on_every_machine() {
    let text = "FROM scratch\nWORKDIR /w\nCOPY a d ./\n";
    assert_eq!(Build::new().key(text).to_string(), GOLDEN_KEY);
}

const GOLDEN_KEY: &str = "sha256:2af8df60eb3180f5d20f1190cb8921fec25116fd812c7192ecca8ad68c1413d5";

#[test]
fn limits_hold() {
    let build = Build::new();
    let fails = |text: &str| {
        let file = Dockerfile::parse("Dockerfile", text.as_bytes()).unwrap();
        let graph = Graph::resolve(&file, &build.options, &build.images).unwrap();
        let context = FolderContext::open(build.folder.path(), Ignore::default()).unwrap();
        let plan = Plan::new(&file, &graph, &build.options, &build.images, &context);
        plan.map(|_| ()).unwrap_err().to_string()
    };
    // each line doubles the value
    let bomb = format!("FROM scratch\nENV A=0123456789\n{}", "ENV A=$A$A\n".repeat(40));
    assert!(fails(&bomb).contains("more than the limit of 131072"), "{}", fails(&bomb));
    let many: String = (0..20).map(|number| format!("ENV V{number}={}\n", "x".repeat(60_000))).collect();
    assert!(fails(&format!("FROM scratch\n{many}")).contains("bytes of all variables"));
    assert!(fails(&format!("FROM scratch\nWORKDIR /{}", "n".repeat(256))).contains("bytes of a name"));
    assert!(fails(&format!("FROM scratch\nCOPY a {}", "/n".repeat(2100))).contains("bytes of a path"));
    let deep = build.folder.path().join("deep");
    let mut at = deep.clone();
    (0..600).for_each(|_| at.push("n"));
    fs::create_dir_all(&at).unwrap();
    assert!(fails("FROM scratch\nCOPY deep /x").contains("folders inside of folders"));
}

#[test]
fn an_archive_is_a_context_too() {
    let build = Build::new();
    let archive = build.folder.path().join("x.tar");
    let status = std::process::Command::new("tar")
        .args(["--sort=name", "-cf"])
        .arg(&archive)
        .arg("-C")
        .arg(build.folder.path())
        .args(["--owner=5", "a", "d"])
        .status()
        .unwrap();
    assert!(status.success());
    let spool = Path::new("/tmp");
    let context = ArchiveContext::read(fs::File::open(&archive).unwrap(), crate::Limits::default(), spool).unwrap();
    fs::remove_file(&archive).unwrap();
    let text = "FROM scratch\nCOPY . /\n";
    let file = Dockerfile::parse("Dockerfile", text.as_bytes()).unwrap();
    let graph = Graph::resolve(&file, &build.options, &build.images).unwrap();
    let end = |context: &dyn Files| {
        let plan = Plan::new(&file, &graph, &build.options, &build.images, context).unwrap();
        plan.keys(&BTreeMap::new()).stages[&0]
    };
    let folder = FolderContext::open(build.folder.path(), Ignore::default()).unwrap();
    assert_eq!(end(&context), end(&folder), "the same files, the same key");
    let without = context.without(Ignore::parse(b"d").unwrap());
    assert_ne!(end(&without), end(&folder));
    assert!(without.look(b"d/one").unwrap().is_none());
}

#[test]
fn a_name_that_leads_out_of_an_archive_stays_below_its_top() {
    let mut writer = crate::tar::Writer::new(Vec::new());
    let kind = crate::tar::Kind::File { size: 3, segments: None };
    for name in ["../foo", "/bar"] {
        writer.add(name.as_bytes(), &crate::tree::Stat::default(), &kind, &mut &b"abc"[..]).unwrap();
    }
    let bytes = writer.finish().unwrap();
    let context = ArchiveContext::read(&bytes[..], crate::Limits::default(), Path::new("/tmp")).unwrap();
    for name in ["foo", "bar"] {
        assert!(context.look(name.as_bytes()).unwrap().is_some(), "{name}");
    }
}

#[test]
fn known_files_are_not_read_again_and_fresh_ones_are_not_trusted() {
    #[derive(Debug, Clone, Default)]
    struct Memo(std::sync::Arc<std::sync::Mutex<BTreeMap<FileIdentity, oci::digest::Digest>>>);
    impl DigestMemo for Memo {
        fn get(&self, file: &FileIdentity) -> Option<oci::digest::Digest> {
            self.0.lock().unwrap().get(file).copied()
        }
        fn put(&self, file: FileIdentity, digest: oci::digest::Digest) {
            self.0.lock().unwrap().insert(file, digest);
        }
    }
    let memo = Memo::default();
    // a file that was made just now may change again within the same tick
    let build = Build::new();
    let open = |path: &Path| FolderContext::open(path, Ignore::default()).unwrap().remembering(Box::new(memo.clone()));
    assert_eq!(open(build.folder.path()).digest(b"a").unwrap(), oci::digest::Digest::of(b"a"));
    assert!(memo.0.lock().unwrap().is_empty());
    // one that has been there for long is remembered, and what is remembered is believed
    let old = Path::new("/etc/passwd").canonicalize().unwrap();
    let (folder, name) = (old.parent().unwrap(), old.file_name().unwrap().as_encoded_bytes());
    let digest = open(folder).digest(name).unwrap();
    assert_eq!(memo.0.lock().unwrap().len(), 1);
    assert_eq!(open(folder).digest(name).unwrap(), digest);
    let other = oci::digest::Digest::of(b"other");
    memo.0.lock().unwrap().values_mut().for_each(|digest| *digest = other);
    assert_eq!(open(folder).digest(name).unwrap(), other);
}

#[test]
fn nothing_outside_of_the_context_is_reached() {
    let build = Build::new();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "s").unwrap();
    let at = |name: &str| build.folder.path().join(name);
    symlink(outside.path(), at("out")).unwrap();
    symlink("../../../../etc/passwd", at("up")).unwrap();
    symlink("loop", at("loop")).unwrap();
    let context = FolderContext::open(build.folder.path(), Ignore::default()).unwrap();
    let resolve = |source: &str| {
        let selection = copy::Selection { sources: vec![source.to_owned()], ..copy::Selection::default() };
        copy::resolve(&context, &selection, "the context").map_err(|error| error.to_string())
    };
    for source in ["out/secret", "up", "../etc/passwd", "d/../../x"] {
        assert!(resolve(source).unwrap_err().contains("is not in the context"), "{source}");
    }
    assert!(resolve("loop").unwrap_err().contains("cannot read the context"));
    // as a link inside of a folder it is copied as it is
    let all = resolve(".").unwrap();
    assert!(
        all[0].entries.iter().any(|entry| matches!(&entry.file.kind, FileKind::Symlink(target) if target == b"loop"))
    );
}

#[test]
fn what_is_read_of_the_context_is_known_before_it_is_there() {
    let check = |text: &str, target: Option<&str>, expect: Option<&[&str]>| {
        let file = Dockerfile::parse("Dockerfile", text.as_bytes()).unwrap();
        let options = Options { target: target.map(str::to_owned), ..Options::default() };
        let found = Graph::resolve(&file, &options, &Images::new()).unwrap().context_paths();
        let expect = expect.map(|paths| paths.iter().map(ToString::to_string).collect());
        assert_eq!(found, expect, "{text}");
    };
    let stages =
        "FROM scratch AS a\nCOPY /b/ ./c*.txt /\nADD http://h/x <<E d/../e /\nE\nFROM scratch\nCOPY --from=a / /\n";
    check(stages, Some("a"), Some(&["b", "c*.txt", "e"]));
    check(stages, None, Some(&["b", "c*.txt", "e"]));
    check("FROM scratch AS a\nCOPY b /\nFROM scratch\nRUN x\n", None, Some(&[]));
    check(
        "FROM scratch\nRUN --mount=type=bind,source=m,target=/m --mount=type=cache,target=/c x\n",
        None,
        Some(&["m"]),
    );
    for all in ["COPY . /", "COPY a/** /", "COPY $A /", "COPY ../a /", "RUN --mount=type=bind,target=/m x"] {
        check(&format!("FROM scratch\nARG A=1\n{all}\n"), None, None);
    }
}

/// The folder that is made for what is in another one is a new one, and has nothing of the other one's.
#[test]
fn the_mode_of_a_copied_folder_does_not_count() {
    let build = Build::new();
    let keys = || ["COPY d /x", "COPY . /x"].map(|line| build.key(&format!("FROM scratch\n{line}\n")));
    let before = keys();
    let mode = |name: &str, mode| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(build.folder.path().join(name), mode).unwrap();
    };
    mode("", 0o700);
    assert_eq!(keys(), before);
    mode("d", 0o700);
    let after = keys();
    assert_eq!(after[0], before[0]);
    assert_ne!(after[1], before[1], "inside of what is copied, it does");
    let context = FolderContext::open(build.folder.path(), Ignore::default()).unwrap();
    let wanted = copy::Selection { sources: vec!["d".to_owned()], ..copy::Selection::default() };
    let found = copy::resolve(&context, &wanted, "the context").unwrap();
    assert_eq!((found[0].entries[0].path.len(), found[0].entries[0].file.stat.mode), (0, 0o755));
}

#[test]
fn an_empty_path_is_the_folder_that_it_is_seen_from() {
    let build = Build::new();
    let text = |line: &str| format!("FROM scratch\nWORKDIR /w\nARG NONE\n{line}\n");
    for (line, same) in
        [("COPY \"\" /x/", "COPY . /x/"), ("COPY $NONE /x/", "COPY . /x/"), ("COPY a $NONE", "COPY a .")]
    {
        let (plan, other) = (build.plan(&text(line)), build.plan(&text(same)));
        let key = |plan: &Plan| plan.keys(&BTreeMap::new()).stages[&plan.targets[0]];
        assert_eq!(key(&plan), key(&other), "{line}");
        assert!(plan.warnings.iter().any(|said| said.contains("line 4: ")), "{:?}", plan.warnings);
    }
}

#[test]
fn plans_for_several_platforms_share_what_is_alike() {
    let text = "FROM --platform=$BUILDPLATFORM scratch AS tool\nCOPY a /a\n\
                FROM --platform=$BUILDPLATFORM scratch AS made\nARG TARGETARCH\nCOPY --from=tool /a /$TARGETARCH\n\
                FROM scratch\nARG TARGETPLATFORM\nENV FOR=$TARGETPLATFORM\nCOPY --from=made / /\n";
    let platforms = ["linux/amd64", "linux/arm64", "linux/arm/v7"];
    let mut build = Build::new();
    let plans = platforms.map(|platform| {
        build.options.platform = platform.parse().unwrap();
        build.plan(text)
    });
    let plan = Plan::join(plans.to_vec()).unwrap();
    // what does not ask for its target is there once
    let names: Vec<Option<&str>> = plan.stages.values().map(|stage| stage.name.as_deref()).collect();
    let (tool, made) = (Some("tool"), Some("made"));
    assert_eq!(names, [tool, made, None, made, None, made, None]);
    assert_eq!(plan.targets, [2, 4, 6]);
    for (target, platform) in plan.targets.iter().zip(platforms) {
        let stage = &plan.stages[target];
        assert_eq!((stage.index, stage.platform.to_string().as_str()), (2, platform));
        assert!(stage.image.config.env.contains(&format!("FOR={platform}")), "{:?}", stage.image.config.env);
        let needed: Vec<usize> = stage.needs.iter().copied().collect();
        assert_eq!(needed, [target - 1]);
        assert_eq!(plan.stages[&(target - 1)].needs.iter().copied().collect::<Vec<_>>(), [0]);
    }
    // joined or not, a stage has the same key
    let joint = plan.keys(&BTreeMap::new());
    for (plan, target) in plans.iter().zip(&plan.targets) {
        assert_eq!(plan.keys(&BTreeMap::new()).stages[&2].0, joint.stages[target].0);
    }
}
