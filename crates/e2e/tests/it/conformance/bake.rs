//! What buildx does beyond builds: files that say what is built (`bake`), indexes that are put together, checks, annotations.

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
