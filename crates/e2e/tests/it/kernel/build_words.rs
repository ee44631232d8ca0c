//! What is said of a Dockerfile and of an image: checks, annotations, and lists of what is in it.

use std::fs;

use serde_json::Value;

use super::build_platforms::{build, fetch};
use crate::peers::Registry;
use crate::subject::{Subject, skip_unless_insula};

/// Writes a statement about each thing that it is to look at, with the names of the files in it.
const SCANNER: &str = r#"set -e
one() {
    name=${1##*/}
    echo '{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"https://spdx.dev/Document","predicate":{"spdxVersion":"SPDX-2.3",' \
        '"name":"'"$name"'","comment":"'$(ls "$1")'"}}' > "$BUILDKIT_SCAN_DESTINATION/$name.spdx.json"
}
echo looking at $BUILDKIT_SCAN_SOURCE
one "$BUILDKIT_SCAN_SOURCE"
for extra in ${BUILDKIT_SCAN_SOURCE_EXTRAS:+"$BUILDKIT_SCAN_SOURCE_EXTRAS"/*}; do one "$extra"; done
"#;

fn checks(subject: &Subject) {
    let context = subject.island.path("context");
    fs::write(context.join("left"), "").unwrap();
    fs::write(context.join(".dockerignore"), "left\n").unwrap();
    let text = "FROM test:1 as One\nENV WHERE $HOEM\nCOPY left /\nCMD true\n";
    let found = build(subject, text, &["--check"]).expect(1);
    for line in [
        "WARNING: StageNameCasing - https://docs.docker.com/go/dockerfile/rule/stage-name-casing/",
        "$HOEM is not declared",
        "WARNING: CopyIgnoredFile",
        "WARNING: JSONArgsRecommended",
        "   2 | >>> ENV WHERE $HOEM",
        "6 remarks",
    ] {
        assert!(found.out.contains(line), "{line} in {}", found.out);
    }
    assert!(build(subject, "FROM test:1\nRUN exit 9\n", &["--check"]).expect(0).out.contains("no remarks"));
    let wrong = build(subject, "FROM test:1\nRUN exit 9\n", &["--check", "--target", "none"]).expect(1);
    assert!(wrong.err.contains("\"none\""), "{}", wrong.err);
    // a build says the same and goes on, but where the file wants it otherwise
    let built = build(subject, "FROM test:1 as one\n", &[]).expect(0);
    assert!(built.err.contains("FromAsCasing: ") && built.err.contains("(line 1)"), "{}", built.err);
    let skipped = build(subject, "# check=skip=FromAsCasing\nFROM test:1 as one\n", &[]).expect(0);
    assert!(!skipped.err.contains("FromAsCasing"), "{}", skipped.err);
    let refused = build(subject, "# check=error=true\nFROM test:1 as one\n", &[]).expect(1);
    assert!(refused.err.contains("checks without remarks"), "{}", refused.err);
    fs::remove_file(context.join(".dockerignore")).unwrap();
}

fn annotations(subject: &Subject, registry: &Registry) -> Option<()> {
    let (one, many) = (registry.name("said/one:1"), registry.name("said/many:1"));
    let text = "FROM scratch\nCOPY left /\n";
    build(subject, text, &["--push", "-t", &one, "--annotation", "org.who=me"]).expect(0);
    let manifest = fetch(subject, registry, "said/one/manifests/1")?;
    assert_eq!(
        (&manifest["annotations"]["org.who"], manifest["layers"].is_array()),
        (&"me".into(), true),
        "{manifest}"
    );
    let platforms = ["--platform", "linux/amd64,linux/arm64", "--push", "-t", &many];
    let said =
        ["--annotation", "index,manifest[linux/arm64]:org.who=you", "--annotation", "manifest-descriptor:org.x=y"];
    build(subject, text, &[platforms, [said[0], said[1], said[2], said[3], "--pull"]].concat()).expect(0);
    let index = fetch(subject, registry, "said/many/manifests/1")?;
    assert_eq!(
        (&index["annotations"]["org.who"], &index["manifests"][1]["annotations"]["org.x"]),
        (&"you".into(), &"y".into())
    );
    let of = |number: usize| index["manifests"][number]["digest"].as_str().unwrap().to_owned();
    let manifests =
        [0, 1].map(|number| fetch(subject, registry, &format!("said/many/manifests/{}", of(number))).unwrap());
    assert_eq!((&manifests[0]["annotations"], &manifests[1]["annotations"]["org.who"]), (&Value::Null, &"you".into()));
    // an archive has them, too, and gives them back
    let file = subject.island.path("said.tar").display().to_string();
    subject.insula(&["save", "-o", &file, &many]).expect(0);
    subject.insula(&["rmi", &many]).expect(0);
    subject.insula(&["load", "-i", &file]).expect(0);
    let other = registry.name("said/many:2");
    subject.insula(&["tag", &many, &other]).expect(0);
    subject.insula(&["push", "-q", &other]).expect(0);
    let again = fetch(subject, registry, "said/many/manifests/2")?;
    assert_eq!(
        (&again["annotations"], &again["manifests"][1]["annotations"]),
        (&index["annotations"], &index["manifests"][1]["annotations"])
    );
    let alone = build(subject, text, &["--annotation", "index:org.who=me"]).expect(1);
    assert!(alone.err.contains("annotate its manifest"), "{}", alone.err);
    Some(())
}

fn lists(subject: &Subject, registry: &Registry) -> Option<()> {
    fs::write(subject.island.path("context/scan"), SCANNER).unwrap();
    build(subject, "FROM test:1\nCOPY scan /\nCMD [\"sh\", \"/scan\"]\n", &["-t", "scanner:1"]).expect(0);
    let name = registry.name("listed:1");
    let text = "FROM test:1 AS tool\nARG BUILDKIT_SBOM_SCAN_STAGE=true\nRUN mkdir /o && echo x > /o/found-me && echo > /only-in-tool\n\
                FROM scratch\nCOPY --from=tool /o /\n";
    let options = ["--sbom", "scanner:1", "--push", "-t", &name];
    let first = build(subject, text, &options).expect(0);
    assert!(
        first.err.contains("generating sbom using scanner:1") && first.err.contains("looking at /run/src/core/sbom"),
        "{}",
        first.err
    );
    let again = build(subject, text, &options).expect(0);
    assert!(!again.err.contains("looking at"), "{}", again.err);
    let index = fetch(subject, registry, "listed/manifests/1")?;
    let digest = index["manifests"][1]["digest"].as_str().unwrap();
    let manifest = fetch(subject, registry, &format!("listed/manifests/{digest}"))?;
    let layers = manifest["layers"].as_array().unwrap();
    let mut said: Vec<Value> = layers
        .iter()
        .map(|layer| fetch(subject, registry, &format!("listed/blobs/{}", layer["digest"].as_str().unwrap())).unwrap())
        .collect();
    said.sort_by_key(|one| one["predicate"]["name"].to_string());
    let list = |number: usize| said[number]["predicate"]["comment"].as_str().unwrap().to_owned();
    assert_eq!((said.len(), list(0)), (2, "found-me".to_owned()), "{said:?}");
    assert!(list(1).contains("only-in-tool") && said[1]["predicate"]["name"] == "tool", "{said:?}");
    let hex = index["manifests"][0]["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
    assert_eq!(
        (&said[0]["subject"][0]["digest"]["sha256"], &said[0]["predicateType"]),
        (&hex.into(), &"https://spdx.dev/Document".into())
    );
    build(subject, "FROM test:1\nCMD [\"true\"]\n", &["-t", "silent:1"]).expect(0);
    let nothing = build(subject, text, &["--sbom", "silent:1"]).expect(1);
    assert!(nothing.err.contains("silent:1 has written no list"), "{}", nothing.err);
    Some(())
}

#[test]
fn builds_say_what_they_are_made_of() {
    if skip_unless_insula() {
        return;
    }
    let Some(subject) = Subject::start() else { return };
    let _ = subject.island.dir("context");
    checks(&subject);
    let registry = Registry::start(&subject, &[]);
    let done = annotations(&subject, &registry).and_then(|()| lists(&subject, &registry));
    drop(registry);
    if done.is_some() {
        subject.insula(&["system", "check"]).expect(0);
        subject.assert_empty();
        subject.finish();
    }
}
