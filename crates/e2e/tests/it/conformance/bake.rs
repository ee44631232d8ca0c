//! What buildx does beyond builds: files that say what is built (`bake`), targets that build on others, records of builds, indexes that
//! are put together, checks, annotations.

use std::fs;

use serde_json::Value;

use super::buildx::{Scene, ours};
use crate::peers::Registry;
use crate::subject::{Run, finish};

const DOCKERFILE: &str = "FROM test:1 AS base\nARG V=0\nRUN echo $V > /v\nFROM base AS app\nCMD [\"cat\", \"/v\"]\n";
const HCL: &str = r#"
variable "TAG" { default = "one" }
group "default" { targets = ["app"] }
target "common" {
  args = { V = "7", UNUSED = "" }
  labels = { by = "bake" }
}
target "app" {
  inherits = ["common"]
  name = "app-${v}"
  matrix = { v = ["1", "2"] }
  args = { V = v }
  tags = ["REGISTRY/app:${TAG}-${v}"]
  annotations = ["org.of=${v}"]
}
target "files" {
  inherits = ["common"]
  target = "base"
  output = ["type=local,dest=out"]
}
"#;
const COMPOSE: &str = "services:\n  web:\n    image: baked:1\n    build:\n      context: .\n      args: {V: c}\n";

impl Scene {
    fn bake(&self, words: &[&str]) -> Run {
        let mut command = self.command(&[&["buildx", "bake", "--progress", "plain"][..], words].concat());
        finish(command.current_dir(self.subject.island.path("c")), b"")
    }

    /// A manifest or an index as it is.
    fn raw(&self, name: &str) -> Value {
        let said = self.run(&["buildx", "imagetools", "inspect", "--raw", name]).expect(0);
        serde_json::from_str(&said.out).unwrap()
    }
}

fn bakes(scene: &Scene, registry: &Registry) {
    scene.file("c/Dockerfile", DOCKERFILE);
    scene.file("c/docker-bake.hcl", &HCL.replace("REGISTRY", &registry.address));
    let printed = scene.bake(&["--print", "--set", "*.labels.more=x"]).expect(0);
    let said: Value = serde_json::from_str(&printed.out).unwrap();
    let app = &said["target"]["app-2"];
    assert_eq!(
        (&app["args"]["V"], &app["labels"]["by"], &app["labels"]["more"]),
        (&"2".into(), &"bake".into(), &"x".into())
    );
    scene.bake(&["--push", "--set", "app-1.args.V=set"]).expect(0);
    let name = |tag: &str| registry.name(&format!("app:{tag}"));
    for (tag, expect) in [("one-1", "set"), ("one-2", "2")] {
        let run = scene.run(&["run", "--rm", "--network", "none", &name(tag)]).expect(0);
        assert_eq!(run.text(), expect);
    }
    scene.bake(&["files"]).expect(0);
    assert_eq!(fs::read_to_string(scene.subject.island.path("c/out/v")).unwrap(), "7\n");
    scene.file("c/compose.yaml", COMPOSE);
    scene.bake(&["-f", "compose.yaml", "web"]).expect(0);
    assert_eq!(scene.run(&["run", "--rm", "--network", "none", "baked:1"]).expect(0).text(), "c");
    let json =
        r#"{"target": {"default": {"dockerfile-inline": "FROM test:1\nRUN echo json > /v", "tags": ["baked:2"]}}}"#;
    scene.file("c/docker-bake.json", json);
    scene.bake(&["-f", "docker-bake.json"]).expect(0);
    assert_eq!(scene.run(&["run", "--rm", "--network", "none", "baked:2", "cat", "/v"]).expect(0).text(), "json");
    // images there make an index; with annotations they are OCI's, and so is that
    assert_eq!(scene.raw(&name("one-1"))["annotations"]["org.of"], "1");
    let (one, two, both) = (name("one-1"), name("one-2"), name("both"));
    scene
        .run(&["buildx", "imagetools", "create", "-t", &both, "--annotation", "index:org.by=me", &one, &two])
        .expect(0);
    let index = scene.raw(&both);
    assert_eq!(
        (index["manifests"].as_array().unwrap().len(), &index["annotations"]["org.by"]),
        (2, &"me".into()),
        "{index}"
    );
    assert!(scene.run(&["buildx", "imagetools", "inspect", &both]).expect(0).out.contains("linux/amd64"));
}

fn words_go_along(scene: &Scene, registry: &Registry) {
    let name = registry.name("said:1");
    let words = ["--annotation", "org.a=b", "--push", "-t", &name, &scene.path("c")];
    scene.build(&words).expect(0);
    assert_eq!(scene.raw(&name)["annotations"]["org.a"], "b");
    let words =
        [&["--platform", "linux/amd64,linux/arm64", "--annotation", "index:org.i=j", "-f", "-"][..], &words].concat();
    let mut command = scene.command(&[&["build", "--progress", "plain"][..], &words].concat());
    finish(&mut command, b"FROM scratch\nCOPY Dockerfile /\n").expect(0);
    let index = scene.raw(&name);
    assert_eq!(index["annotations"]["org.i"], "j", "{index}");
    let digest = index["manifests"][1]["digest"].as_str().unwrap();
    let manifest = scene.raw(&format!("{}@{digest}", registry.name("said")));
    assert_eq!(manifest["annotations"]["org.a"], "b");
}

fn files_are_checked(scene: &Scene) {
    scene.file("lint/Dockerfile", "FROM test:1 AS One\nCOPY left /\nLABEL x=$NOBODY\n");
    scene.file("lint/.dockerignore", "left\n");
    let context = scene.path("lint");
    let ask = |flag: &str| {
        let mut command = scene.command(&["buildx", "build", flag, &context]);
        finish(command.env("BUILDX_EXPERIMENTAL", "1"), b"")
    };
    let mut found = ask("--call=lint");
    if found.err.contains("unknown flag") {
        // before 0.15
        found = ask("--print=lint");
    }
    for words in
        ["StageNameCasing", "CopyIgnoredFile", "UndefinedVar", "rule/undefined-var/", "   3 | >>> LABEL x=$NOBODY"]
    {
        assert!(found.out.contains(words), "{words} in {} {}", found.out, found.err);
    }
    scene.file("lint/Dockerfile", "# check=skip=UndefinedVar;error=true\nFROM test:1 AS One\nLABEL x=$NOBODY\n");
    let refused = scene.build(&[&context]).expect(1);
    assert!(
        refused.err.contains("WARN: StageNameCasing: ") && !refused.err.contains("UndefinedVar"),
        "{}",
        refused.err
    );
}

#[test]
fn files_say_what_is_baked() {
    if !ours() {
        println!("skipped: about insulad only");
        return;
    }
    let Some(scene) = Scene::start(&["docker-buildx"]) else { return };
    let registry = Registry::start(&scene.subject, &[]);
    bakes(&scene, &registry);
    words_go_along(&scene, &registry);
    files_are_checked(&scene);
    scene.run(&["buildx", "prune", "-f", "--keep-storage", "1gb"]).expect(0);
    assert!(scene.run(&["buildx", "du"]).expect(0).out.contains("Total"));
    let left = scene.run(&["buildx", "prune", "-f", "--all", "--keep-storage", "1"]).expect(0);
    assert!(left.out.contains("Total"), "{}", left.out);
    drop(registry);
    scene.subject.assert_empty();
    scene.subject.finish();
}

/// Each target may be the base of others, and the source of files.
const LINKED: &str = r#"
group "default" { targets = ["top", "mid"] }
target "base" {
  dockerfile-inline = "FROM test:1\nRUN echo base > /b\nENV WHO=base\n"
}
target "mid" {
  dockerfile-inline = "FROM below AS one\nRUN echo $WHO mid >> /b\nCOPY own /own\n"
  contexts = { below = "target:base" }
  tags = ["mid:1"]
}
target "top" {
  dockerfile-inline = "FROM mid AS mid\nFROM test:1\nCOPY --from=mid /b /own /from/\nCOPY --from=base /b /from/base\nRUN --mount=from=base,target=/m cat /m/b\nCMD [\"sh\", \"-c\", \"cd /from; cat b own base\"]\n"
  contexts = { base = "target:base", mid = "target:mid" }
  tags = ["top:1"]
}
target "bad" {
  dockerfile-inline = "FROM base\nRUN echo last words; exit 4\n"
  contexts = { base = "target:base" }
  tags = ["bad:1"]
}
"#;
const SPREAD: &str = r#"
target "files" {
  dockerfile-inline = "FROM scratch\nARG TARGETARCH\nCOPY own /of-$TARGETARCH\n"
  platforms = ["linux/amd64", "linux/arm64"]
}
target "one" { dockerfile-inline = "FROM scratch\nCOPY own /one\n" }
target "both" {
  dockerfile-inline = "FROM files\nCOPY --from=one /one /\n"
  contexts = { files = "target:files", one = "target:one" }
  platforms = ["linux/amd64", "linux/arm64"]
  output = ["type=local,dest=out"]
}
"#;

/// Whether the daemon's BuildKit is one of today's: it knows contexts with names, and remembers builds.
fn is_of_today(scene: &Scene) -> bool {
    let version = scene.run(&["version", "--format", "{{.Server.APIVersion}}"]).expect(0);
    let minor = version.text().split_once('.').and_then(|(_, minor)| minor.parse::<u32>().ok());
    let today = minor.is_some_and(|minor| minor >= 44);
    if !today {
        println!("skipped: the API of the daemon's BuildKit is {}, and 1.44 is needed", version.text());
    }
    today
}

fn sorted(run: &Run) -> Vec<&str> {
    let mut lines: Vec<&str> = run.out.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn targets_build_on_targets() {
    let Some(scene) = Scene::start(&["docker-buildx"]) else { return };
    if is_of_today(&scene) {
        scene.file("c/docker-bake.hcl", LINKED);
        scene.file("c/own", "own\n");
        let baked = scene.bake(&[]).expect(0);
        assert!(!baked.err.contains("error reading preface"), "{}", baked.err);
        let shown = scene.run(&["run", "--rm", "--network", "none", "top:1"]).expect(0);
        assert_eq!(shown.out, "base\nbase mid\nown\nbase\n");
        scene.bake(&["--load", "mid"]).expect(0);
        let failed = scene.bake(&["bad", "top"]).expect(1);
        assert!(failed.err.contains("exit code: 4"), "{}", failed.err);
        let images = scene.run(&["image", "ls", "-a", "--format", "{{.Repository}}:{{.Tag}}"]).expect(0);
        // what is only built upon has no image, unless the plugin is an old one, which asks for it
        if scene.bake(&["--print"]).expect(0).out.contains("cacheonly") {
            assert_eq!(sorted(&images), ["mid:1", "test:1", "top:1"]);
        }
        // unless it had one already
        let mut command = scene.command(&["build", "-q", "-"]);
        let kept = finish(&mut command, b"FROM test:1\nRUN echo base > /b\nENV WHO=base\n").expect(0);
        scene.bake(&["mid"]).expect(0);
        scene.run(&["image", "inspect", kept.text()]).expect(0);
    }
    if ours() {
        scene.file("c/docker-bake.hcl", SPREAD);
        scene.bake(&["both"]).expect(0);
        for architecture in ["amd64", "arm64"] {
            let folder = scene.subject.island.path(&format!("c/out/linux_{architecture}"));
            for name in [format!("of-{architecture}"), "one".to_owned()] {
                assert_eq!(fs::read_to_string(folder.join(&name)).unwrap(), "own\n", "{architecture} {name}");
            }
        }
    }
    scene.subject.assert_empty();
    scene.subject.finish();
}

impl Scene {
    fn history(&self, words: &[&str]) -> Run {
        self.run(&[&["buildx", "history"][..], words].concat())
    }
}

#[test]
fn builds_are_remembered() {
    let Some(mut scene) = Scene::start(&["docker-buildx"]) else { return };
    if is_of_today(&scene) && scene.history(&["--help"]).out.contains("export") {
        records_are_shown(&scene);
        // that of dockerd 28 goes on showing a record that somebody has read before it was removed
        if ours() {
            scene.subject.end_daemon(rustix::process::Signal::TERM);
            scene.subject.start_daemon();
            records_go(&scene);
        }
    }
    scene.subject.assert_empty();
    scene.subject.finish();
}

fn records_are_shown(scene: &Scene) {
    assert_eq!(scene.history(&["ls", "--format", "{{.Ref}}"]).expect(0).text(), "");
    scene.file("good/Dockerfile", "FROM test:1 AS first\nARG WORD\nRUN echo the $WORD\n");
    scene.file("bad/Dockerfile", "FROM test:1\nRUN echo last words; exit 5\n");
    let words = ["--build-arg", "WORD=word", "--target", "first", "-t", "good:1", &scene.path("good")];
    scene.build(&words).expect(0);
    scene.build(&[&scene.path("bad")]).expect(1);
    let listed = scene.history(&["ls", "--format", "{{.Name}} {{.Status}}"]).expect(0);
    assert_eq!(listed.out.lines().collect::<Vec<_>>(), ["bad Error", "good (first) Completed"]);
    let wrong = scene.history(&["ls", "--filter", "status=error", "--format", "{{.Name}}"]).expect(0);
    assert_eq!(wrong.text(), "bad");
    let shown = scene.history(&["inspect", "^1"]).expect(0);
    for line in ["Target:", "first", "WORD", "word", "application/vnd.docker.container.image.v1+json"] {
        assert!(shown.out.contains(line), "{line} in {}", shown.out);
    }
    let shown = scene.history(&["inspect"]).expect(0);
    for line in ["exit code: 5", "   2 | >>> RUN echo last words; exit 5", "> last words"] {
        assert!(shown.out.contains(line), "{line} in {}", shown.out);
    }
    for _ in 0..2 {
        let logs = scene.history(&["logs", "^1"]).expect(0).err;
        assert!(logs.contains(" the word\n") && logs.contains("naming to docker.io/library/good:1"), "{logs}");
    }
    let (one, all) = (scene.path("one.dockerbuild"), scene.path("all.dockerbuild"));
    scene.history(&["export", "-o", &one]).expect(0);
    scene.history(&["export", "--all", "-o", &all]).expect(0);
    assert!(fs::metadata(&all).unwrap().len() > fs::metadata(&one).unwrap().len());
}

fn records_go(scene: &Scene) {
    let refs = scene.history(&["ls", "--no-trunc", "--format", "{{.Ref}}"]).expect(0);
    let first = refs.out.lines().next().unwrap().rsplit('/').next().unwrap();
    assert!(scene.history(&["logs", first]).expect(0).err.contains("last words"));
    scene.history(&["rm", first]).expect(0);
    scene.history(&["rm", "nobody"]).expect(1);
    assert!(scene.history(&["logs", first]).expect(1).err.contains("no record found"));
    assert_eq!(scene.history(&["ls", "--format", "{{.Name}}"]).expect(0).text(), "good (first)");
    scene.history(&["rm", "--all"]).expect(0);
    assert!(scene.history(&["inspect"]).expect(1).err.contains("no records found"));
}
