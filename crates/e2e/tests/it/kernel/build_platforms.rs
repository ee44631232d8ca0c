//! Builds for several platforms at once: what is built once, what each gets, and what a registry, an archive and a folder have of it.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::kernel::compat::{answer, ask};
use crate::peers::{Registry, tool};
use crate::subject::{Run, Subject, finish, skip_unless_insula};

const PLATFORMS: &str = "linux/amd64,linux/arm64,linux/arm/v7";
const TEXT: &str = "FROM --platform=$BUILDPLATFORM test:1 AS once
RUN date +%s%N > /once
FROM --platform=$BUILDPLATFORM test:1 AS each
ARG TARGETPLATFORM TARGETVARIANT BUILDPLATFORM
RUN echo $TARGETPLATFORM $TARGETVARIANT $BUILDPLATFORM > /words
FROM scratch
ARG TARGETARCH
ENV ARCH=$TARGETARCH
COPY --from=once /once /
COPY --from=each /words /
";

/// Builds a Dockerfile of this text in the folder `context`.
pub(super) fn build(subject: &Subject, text: &str, options: &[&str]) -> Run {
    let context = subject.island.path("context");
    fs::write(context.join("Dockerfile"), text).unwrap();
    subject.insula(&[&["build", "--progress", "plain"][..], options, &[context.to_str().unwrap()]].concat())
}

/// A document of a registry.
pub(super) fn fetch(subject: &Subject, registry: &Registry, path: &str) -> Option<Value> {
    let url = format!("http://{}/v2/{path}", registry.address);
    let accept = "Accept: application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json";
    let run = tool(subject, "curl", &["-sSfL", "-H", accept, &url])?.expect(0);
    Some(serde_json::from_str(&run.out).unwrap())
}

/// What each platform's folder has, and the one file that all have alike.
fn check_folders(subject: &Subject) {
    let out = subject.island.path("out");
    let dest = format!("type=local,dest={}", out.display());
    let run = build(subject, TEXT, &["--platform", PLATFORMS, "-o", &dest]).expect(0);
    assert_eq!(run.err.matches("RUN date").count(), 1, "{}", run.err);
    let read = |folder: &str, name: &str| fs::read_to_string(out.join(folder).join(name)).unwrap();
    assert_eq!(read("linux_amd64", "words"), "linux/amd64 linux/amd64\n");
    assert_eq!(read("linux_arm64", "words"), "linux/arm64 linux/amd64\n");
    assert_eq!(read("linux_arm_v7", "words"), "linux/arm/v7 v7 linux/amd64\n");
    let once = read("linux_amd64", "once");
    assert!(["linux_arm64", "linux_arm_v7"].iter().all(|folder| read(folder, "once") == once));
    let file = subject.island.path("out.tar");
    build(subject, TEXT, &["--platform", PLATFORMS, "-o", &format!("type=tar,dest={}", file.display())]).expect(0);
    let listed = finish(Command::new("tar").arg("-tf").arg(&file), b"").expect(0).out;
    assert!(listed.lines().any(|line| line.trim_start_matches("./") == "linux_arm_v7/words"), "{listed}");
}

/// The index that a registry has, as its manifests, and those of its attestations.
fn check_index(subject: &Subject, registry: &Registry) -> Option<()> {
    let index = fetch(subject, registry, "many/manifests/1")?;
    let entries = index["manifests"].as_array().unwrap();
    let platforms: Vec<&str> = entries.iter().map(|one| one["platform"]["architecture"].as_str().unwrap()).collect();
    assert_eq!(platforms, ["amd64", "arm64", "arm", "unknown", "unknown", "unknown"], "{index}");
    assert_eq!(entries[2]["platform"]["variant"], "v7");
    for (image, attestation) in entries[..3].iter().zip(&entries[3..]) {
        let words = &attestation["annotations"];
        assert_eq!(words["vnd.docker.reference.type"], "attestation-manifest");
        assert_eq!(words["vnd.docker.reference.digest"], image["digest"]);
        let digest = attestation["digest"].as_str().unwrap();
        let manifest = fetch(subject, registry, &format!("many/manifests/{digest}"))?;
        let layer = &manifest["layers"][0];
        assert_eq!(layer["annotations"]["in-toto.io/predicate-type"], "https://slsa.dev/provenance/v0.2");
        let said = fetch(subject, registry, &format!("many/blobs/{}", layer["digest"].as_str().unwrap()))?;
        let hex = image["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        assert_eq!(said["subject"][0]["digest"]["sha256"], hex, "{said}");
        let predicate = &said["predicate"];
        assert_eq!(predicate["invocation"]["parameters"]["args"]["build-arg:SAID"], "so");
        assert!(predicate["materials"][0]["uri"].as_str().unwrap().starts_with("pkg:docker/test@1?"), "{said}");
    }
    Some(())
}

/// What the API tells of a name's platforms, and which of its images a container gets.
fn check_parts(subject: &Subject, registry: &Registry, name: &str) {
    let get = |path: &str| answer(subject, "GET", path, None).unwrap();
    let listed = get("/v1.48/images/json?manifests=1");
    let image = listed.as_array().unwrap().iter().find(|image| image["RepoTags"][0] == name);
    let parts = image.unwrap()["Manifests"].as_array().unwrap();
    let Some(index) = fetch(subject, registry, "many/manifests/1") else { return };
    assert_eq!(parts.len(), 3, "{listed}");
    for (part, entry) in parts.iter().zip(index["manifests"].as_array().unwrap()) {
        assert_eq!((&part["ID"], &part["Descriptor"]["size"]), (&entry["digest"], &entry["size"]), "{part}");
        assert_eq!(part["ImageData"]["Platform"], entry["platform"]);
    }
    let inspected = get(&format!("/v1.48/images/{name}/json?manifests=1"));
    assert_eq!(inspected["Manifests"].as_array().unwrap(), parts);
    assert!(get("/v1.46/images/json?manifests=1")[0]["Manifests"].is_null());
    let body = json!({ "Image": name, "Cmd": ["/words"] });
    let made = "/containers/create?name=foreign&platform=linux/arm64";
    answer(subject, "POST", made, Some(&body)).unwrap();
    let id = get("/containers/foreign/json")["Image"].as_str().unwrap().to_owned();
    assert_eq!(get(&format!("/images/{id}/json"))["Architecture"], "arm64");
    assert_eq!(get("/containers/json?all=1&limit=1")[0]["Image"], name);
    let history = |platform: &str| {
        let platform = format!("%7B%22os%22:%22linux%22,%22architecture%22:%22{platform}%22%7D");
        ask(subject, "GET", &format!("/v1.48/images/{name}/history?platform={platform}"), None)
    };
    assert!(history("arm64").1.contains(&id), "{:?}", history("arm64"));
    assert_eq!(history("s390x").0, 404);
    answer(subject, "DELETE", "/containers/foreign", None).unwrap();
    let (status, text) = ask(subject, "POST", "/containers/create?platform=linux/s390x", Some(&body));
    assert!(status == 404 && text.contains("does not match the specified platform"), "{status} {text}");
}

/// One platform out of those that a name stands for: in an archive, out of one, in a registry, and looked at.
fn check_one_platform(subject: &Subject, registry: &Registry, name: &str, whole: &str) {
    let (single, arm, none) = (subject.island.path("one.tar"), "--platform=linux/arm64", "--platform=linux/s390x");
    let single = single.to_str().unwrap();
    let looked = |version: &str, architecture: &str, more: &str| {
        let platform = format!("%7B%22os%22:%22linux%22,%22architecture%22:%22{architecture}%22%7D");
        ask(subject, "GET", &format!("/{version}/images/{name}/json?platform={platform}{more}"), None)
    };
    assert!(looked("v1.49", "arm64", "").1.contains("\"Architecture\":\"arm64\""));
    assert!(looked("v1.48", "arm64", "").1.contains("\"Architecture\":\"amd64\""), "before it was known");
    assert_eq!((looked("v1.49", "s390x", "").0, looked("v1.49", "arm64", "&manifests=1").0), (404, 400));
    let platforms = |list: &str| {
        let all = list.split(' ').map(|one| format!("%7B%22os%22:%22linux%22,%22architecture%22:%22{one}%22%7D"));
        all.map(|one| format!("platforms={one}")).collect::<Vec<_>>().join("&")
    };
    let some = ask(subject, "DELETE", &format!("/v1.50/images/{name}?{}", platforms("arm64")), None);
    assert!(some.0 == 400 && some.1.contains("force"), "{some:?}");
    assert_eq!(ask(subject, "DELETE", &format!("/v1.50/images/{name}?force=1&{}", platforms("s390x")), None).0, 404);
    let other = registry.name("many:3");
    subject.insula(&["tag", name, &other]).expect(0);
    subject.insula(&["push", "-q", arm, &other]).expect(0);
    let sent = fetch(subject, registry, "many/manifests/3").unwrap();
    assert!(sent["manifests"].is_null() && sent["layers"].is_array(), "{sent}");
    let missing = "does not provide the specified platform (linux/s390x)";
    for words in [vec!["push", none, &other], vec!["save", none, "-o", single, name], vec!["load", none, "-i", whole]] {
        let refused = subject.insula(&words).expect(1);
        assert!(refused.err.contains(missing), "{words:?}: {}", refused.err);
    }
    subject.insula(&["save", arm, "-o", single, name]).expect(0);
    subject.insula(&["rmi", &other, &registry.name("many:2")]).expect(0);
    for words in [["load", "-i", single, "-q"], ["load", "-i", whole, arm]] {
        subject.insula(&["rmi", name]).expect(0);
        subject.insula(&words).expect(0);
        assert_eq!(subject.field(name, "{{.Architecture}}"), "arm64", "{words:?}");
    }
    let all = ask(subject, "DELETE", &format!("/v1.50/images/{name}?force=1&{}", platforms("arm64")), None);
    assert_eq!(all.0, 200, "{all:?}");
    subject.insula(&["load", "-i", whole]).expect(0);
    // the others stay, under the name
    let deleted = subject.insula(&["rmi", "--force", "--platform", "linux/arm64", name]).expect(0);
    assert!(deleted.out.contains("Deleted: sha256:"), "{}", deleted.out);
    assert_eq!((looked("v1.49", "arm64", "").0, looked("v1.49", "amd64", "").0), (404, 200));
    assert_eq!(subject.field(name, "{{.Architecture}}"), "amd64");
    subject.insula(&["load", "-i", whole]).expect(0);
    subject.insula(&["tag", name, &registry.name("many:2")]).expect(0);
}

#[test]
fn several_platforms() {
    if skip_unless_insula() {
        return;
    }
    let Some(subject) = Subject::start() else { return };
    let _ = subject.island.dir("context");
    check_folders(&subject);
    let registry = Registry::start(&subject, &[]);
    let name = registry.name("many:1");
    let options = ["--platform", PLATFORMS, "--provenance", "max", "--build-arg", "SAID=so", "-t", &name];
    build(&subject, TEXT, &[&["--push"][..], &options].concat()).expect(0);
    if check_index(&subject, &registry).is_none() {
        return;
    }
    check_parts(&subject, &registry, &name);
    // one image by that name, the one that runs here; the others are nobody's clutter
    let listed = subject.insula(&["images", "-aq", "--filter", "dangling=true"]).expect(0).out;
    assert_eq!(listed, "", "{listed}");
    assert_eq!(subject.field(&name, "{{.Os}}/{{.Architecture}}"), "linux/amd64");
    // an archive gives all back: what is pushed of it is the same index
    let file = subject.island.path("many.tar").display().to_string();
    let index = fetch(&subject, &registry, "many/manifests/1").unwrap();
    subject.insula(&["save", "-o", &file, &name]).expect(0);
    subject.insula(&["rmi", &name]).expect(0);
    subject.insula(&["load", "-i", &file]).expect(0);
    let other = registry.name("many:2");
    subject.insula(&["tag", &name, &other]).expect(0);
    subject.insula(&["push", "-q", &other]).expect(0);
    let again = fetch(&subject, &registry, "many/manifests/2").unwrap();
    assert_eq!(again["manifests"][1]["digest"], index["manifests"][1]["digest"]);
    assert_eq!(again["manifests"].as_array().unwrap().len(), 6, "{again}");
    check_one_platform(&subject, &registry, &name, &file);
    // as a base it is there for each, and the name stays this machine's
    subject.insula(&["rmi", &name, &other]).expect(0);
    let out = subject.island.path("based");
    let dest = format!("type=local,dest={}", out.display());
    let text = format!("FROM {name}\nCOPY Dockerfile /own-$ARCH\n");
    build(&subject, &text, &["--platform", "linux/arm64,linux/amd64", "-o", &dest]).expect(0);
    for (folder, arch, words) in [("linux_arm64", "arm64", "linux/arm64"), ("linux_amd64", "amd64", "linux/amd64")] {
        assert!(out.join(folder).join(format!("own-{arch}")).exists());
        assert!(fs::read_to_string(out.join(folder).join("words")).unwrap().starts_with(words));
    }
    assert_eq!(subject.field(&name, "{{.Architecture}}"), "amd64");
    // what nobody runs is said with its place
    let text = "FROM scratch\nCOPY Dockerfile /\nRUN [\"/Dockerfile\"]\n";
    let foreign = build(&subject, text, &["--platform", "linux/abacus"]).expect(1);
    assert!(foreign.err.contains("Dockerfile:3:1") && foreign.err.contains("linux/abacus"), "{}", foreign.err);
    let nameless = build(&subject, TEXT, &["--push"]).expect(1);
    assert!(nameless.err.contains("--tag"), "{}", nameless.err);
    subject.insula(&["system", "check"]).expect(0);
    drop(registry);
    subject.finish();
}
