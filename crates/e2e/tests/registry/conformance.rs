//! The specification, endpoint by endpoint, then stock clients.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::subject::{DOCKER, Difference, INDEX, OCI, Subject, describe, digest, manifest, with};

#[test]
fn there_is_a_registry() {
    let Some(subject) = Subject::start() else { return };
    let answer = subject.get("/v2/").expect(200);
    assert_eq!(answer.header("docker-distribution-api-version"), "registry/2.0");
    subject.get("/v2/nothing/manifests/latest").expect_error(404, "MANIFEST_UNKNOWN");
    subject.get(&format!("/v2/nothing/blobs/{}", digest(b"x"))).expect_error(404, "BLOB_UNKNOWN");
    subject.get("/v2/nothing/tags/list").expect_error(404, "NAME_UNKNOWN");
    // No digest: docker-registry has no such page, and we say what is wrong with it.
    let status = subject.get("/v2/a/blobs/sha256:abc").status;
    assert!(matches!(status, 400 | 404), "{status}");
}

#[test]
fn blobs_come_whole_and_in_parts() {
    let Some(subject) = Subject::start() else { return };
    let content = b"0123456789";
    let name = subject.put_blob("a/b", content);
    let path = format!("/v2/a/b/blobs/{name}");
    let answer = subject.get(&path).expect(200);
    assert_eq!(answer.body, content);
    assert_eq!(answer.header("docker-content-digest"), name);
    let head = subject.ask("HEAD", &path, &[], b"").expect(200);
    assert_eq!((head.header("content-length"), head.header("docker-content-digest")), ("10", name.as_str()));
    for (range, part, bounds) in
        [("bytes=2-4", &content[2..5], "bytes 2-4/10"), ("bytes=7-", &content[7..], "bytes 7-9/10")]
    {
        let answer = subject.ask("GET", &path, &[("Range", range)], b"").expect(206);
        assert_eq!((answer.body.as_slice(), answer.header("content-range")), (part, bounds));
    }
    let answer = subject.ask("GET", &path, &[("Range", "bytes=-3")], b"").expect(206);
    assert_eq!(answer.body, &content[7..]);
    subject.ask("GET", &path, &[("Range", "bytes=10-")], b"").expect(416);
    let other = format!("/v2/other/blobs/{name}");
    subject.get(&other).expect_error(404, "BLOB_UNKNOWN");
    subject.ask("HEAD", &other, &[], b"").expect(404);
}

#[test]
fn uploads_come_in_chunks_and_can_be_asked_and_cancelled() {
    let Some(subject) = Subject::start() else { return };
    let content = b"first second";
    let octets = ("Content-Type", "application/octet-stream");
    let place = subject.begin("a");
    let answer = subject.ask("PATCH", &place, &[octets, ("Content-Range", "0-5")], &content[..6]).expect(202);
    assert_eq!(answer.header("range"), "0-5");
    let status = subject.get(&answer.location()).expect(204);
    assert_eq!(status.header("range"), "0-5");
    let answer =
        subject.ask("PATCH", &status.location(), &[octets, ("Content-Range", "6-11")], &content[6..]).expect(202);
    let name = digest(content);
    subject.ask("PUT", &with(&answer.location(), &format!("digest={name}")), &[], b"").expect(201);
    assert_eq!(subject.get(&format!("/v2/a/blobs/{name}")).expect(200).body, content);
    subject.get(&answer.location()).expect_error(404, "BLOB_UPLOAD_UNKNOWN");
    let place = subject.begin("a");
    subject.ask("DELETE", &place, &[], b"").expect(204);
    subject.get(&place).expect_error(404, "BLOB_UPLOAD_UNKNOWN");
}

#[test]
fn a_last_chunk_may_come_with_the_put() {
    let Some(subject) = Subject::start() else { return };
    let content = b"streamed and closed";
    let octets = [("Content-Type", "application/octet-stream")];
    let answer = subject.ask("PATCH", &subject.begin("a"), &octets, &content[..9]).expect(202);
    let place = with(&answer.location(), &format!("digest={}", digest(content)));
    subject.ask("PUT", &place, &octets, &content[9..]).expect(201);
    assert_eq!(subject.get(&format!("/v2/a/blobs/{}", digest(content))).expect(200).body, content);
}

#[test]
fn wrong_digests_are_refused() {
    let Some(subject) = Subject::start() else { return };
    let place = with(&subject.begin("a"), &format!("digest={}", digest(b"other")));
    subject
        .ask("PUT", &place, &[("Content-Type", "application/octet-stream")], b"this")
        .expect_error(400, "DIGEST_INVALID");
    subject.get(&format!("/v2/a/blobs/{}", digest(b"other"))).expect(404);
    subject.get(&format!("/v2/a/blobs/{}", digest(b"this"))).expect(404);
    subject.ask("PUT", &with(&subject.begin("a"), "digest=nonsense"), &[], b"x").expect_error(400, "DIGEST_INVALID");
    subject.ask("PUT", &subject.begin("a"), &[], b"x").expect_error(400, "DIGEST_INVALID");
}

#[test]
fn chunks_elsewhere_are_refused() {
    let Some(subject) = Subject::start() else { return };
    if subject.lacks(Difference::ChunkPlaces) {
        return;
    }
    let octets = ("Content-Type", "application/octet-stream");
    let place = subject.begin("a");
    subject.ask("PATCH", &place, &[octets, ("Content-Range", "0-2")], b"abc").expect(202);
    for range in ["0-2", "4-6", "2-4"] {
        let answer = subject.ask("PATCH", &place, &[octets, ("Content-Range", range)], b"def").expect(416);
        assert_eq!(answer.header("range"), "0-2");
    }
    subject.ask("PATCH", &place, &[octets, ("Content-Range", "3-9")], b"def").expect_error(400, "SIZE_INVALID");
    subject.ask("PATCH", &place, &[octets, ("Content-Range", "x")], b"def").expect_error(400, "BLOB_UPLOAD_INVALID");
    subject.ask("PATCH", &place, &[octets, ("Content-Range", "3-5")], b"def").expect(202);
    let done = with(&place, &format!("digest={}", digest(b"abcdef")));
    subject.ask("PUT", &done, &[], b"").expect(201);
}

#[test]
fn a_blob_may_come_with_the_post() {
    let Some(subject) = Subject::start() else { return };
    if subject.lacks(Difference::SinglePost) {
        return;
    }
    let path = format!("/v2/a/blobs/uploads/?digest={}", digest(b"at once"));
    let octets = [("Content-Type", "application/octet-stream")];
    subject.ask("POST", &path, &octets, b"at once").expect(201);
    assert_eq!(subject.get(&format!("/v2/a/blobs/{}", digest(b"at once"))).expect(200).body, b"at once");
    subject.ask("POST", &path, &octets, b"at twice").expect_error(400, "DIGEST_INVALID");
    let large = vec![7; 3 << 20];
    let path = format!("/v2/a/blobs/uploads/?digest={}", digest(&large));
    subject.ask("POST", &path, &octets, &large).expect(201);
    assert!(subject.get(&format!("/v2/a/blobs/{}", digest(&large))).expect(200).body == large);
}

#[test]
fn sha512_is_an_algorithm() {
    use sha2::Digest as _;
    let Some(subject) = Subject::start() else { return };
    let name = format!("sha512:{}", hex::encode(sha2::Sha512::digest(b"long")));
    let place = with(&subject.begin("a"), &format!("digest={name}"));
    subject.ask("PUT", &place, &[("Content-Type", "application/octet-stream")], b"long").expect(201);
    assert_eq!(subject.get(&format!("/v2/a/blobs/{name}")).expect(200).body, b"long");
}

#[test]
fn blobs_are_mounted_from_other_repositories() {
    let Some(subject) = Subject::start() else { return };
    let name = subject.put_blob("one", b"shared");
    subject.ask("POST", &format!("/v2/two/blobs/uploads/?mount={name}&from=one"), &[], b"").expect(201);
    assert_eq!(subject.get(&format!("/v2/two/blobs/{name}")).expect(200).body, b"shared");
    let missing = digest(b"missing");
    let answer = subject.ask("POST", &format!("/v2/two/blobs/uploads/?mount={missing}&from=one"), &[], b"").expect(202);
    assert!(answer.location().contains("/v2/two/blobs/uploads/"));
    if !subject.lacks(Difference::MountFromAnywhere) {
        subject.ask("POST", &format!("/v2/three/blobs/uploads/?mount={name}"), &[], b"").expect(201);
    }
}

#[test]
fn manifests_are_kept_by_tag_and_digest() {
    let Some(subject) = Subject::start() else { return };
    let text = subject.put_image("a", "v1", &[b"layer"]);
    let name = digest(text.as_bytes());
    for reference in ["v1", &name] {
        let path = format!("/v2/a/manifests/{reference}");
        let answer = subject.ask("GET", &path, &[("Accept", OCI)], b"").expect(200);
        assert_eq!(answer.body, text.as_bytes());
        assert_eq!((answer.header("content-type"), answer.header("docker-content-digest")), (OCI, name.as_str()));
        let head = subject.ask("HEAD", &path, &[("Accept", OCI)], b"").expect(200);
        assert_eq!(head.header("content-length"), text.len().to_string());
    }
    let docker = manifest(DOCKER, &[b"layer"], "");
    let answer = subject.put_manifest("a", "docker", DOCKER, &docker).expect(201);
    assert_eq!(answer.header("docker-content-digest"), digest(docker.as_bytes()));
    let answer = subject.ask("GET", "/v2/a/manifests/docker", &[("Accept", DOCKER)], b"").expect(200);
    assert_eq!(answer.header("content-type"), DOCKER);
    let index =
        format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{}]}}"#, describe(OCI, text.as_bytes()));
    subject.put_manifest("a", "all", INDEX, &index).expect(201);
    assert_eq!(subject.ask("GET", "/v2/a/manifests/all", &[("Accept", INDEX)], b"").expect(200).body, index.as_bytes());
}

#[test]
fn manifests_without_their_blobs_are_refused() {
    let Some(subject) = Subject::start() else { return };
    subject.put_blob("a", b"{}");
    let text = manifest(OCI, &[b"not there"], "");
    subject.put_manifest("a", "v1", OCI, &text).expect_error(400, "MANIFEST_BLOB_UNKNOWN");
    subject.get("/v2/a/manifests/v1").expect(404);
    let text = manifest(OCI, &[], "");
    subject.put_manifest("a", &digest(b"another"), OCI, &text).expect_error(400, "DIGEST_INVALID");
    subject.put_manifest("a", "v1", OCI, "not json").expect_error(400, "MANIFEST_INVALID");
    if !subject.lacks(Difference::ManifestLimit) {
        let large = manifest(OCI, &[], &format!(r#","annotations":{{"a":"{}"}}"#, "x".repeat(4 << 20)));
        subject.put_manifest("a", "large", OCI, &large).expect_error(413, "MANIFEST_INVALID");
    }
}

#[test]
fn tags_and_repositories_are_listed() {
    let Some(subject) = Subject::start() else { return };
    for tag in ["c", "a", "b"] {
        subject.put_image("team/web", tag, &[]);
    }
    subject.put_image("team", "x", &[]);
    let json = subject.get("/v2/team/web/tags/list").expect(200).json();
    assert_eq!(json["name"], "team/web");
    let mut tags: Vec<&str> = json["tags"].as_array().unwrap().iter().filter_map(|tag| tag.as_str()).collect();
    tags.sort_unstable();
    assert_eq!(tags, ["a", "b", "c"]);
    let answer = subject.get("/v2/_catalog?n=1").expect(200);
    assert_eq!(answer.json()["repositories"], serde_json::json!(["team"]));
    assert!(answer.header("link").ends_with("rel=\"next\""), "{}", answer.header("link"));
    let answer = subject.get("/v2/_catalog?n=5&last=team").expect(200);
    assert_eq!(answer.json()["repositories"], serde_json::json!(["team/web"]));
    if !subject.lacks(Difference::TagPages) {
        let answer = subject.get("/v2/team/web/tags/list?n=2").expect(200);
        assert_eq!(answer.json()["tags"], serde_json::json!(["a", "b"]));
        let link = answer.header("link");
        let next = link.strip_prefix('<').and_then(|rest| rest.split_once('>')).unwrap().0;
        assert_eq!(subject.get(next).expect(200).json()["tags"], serde_json::json!(["c"]));
        subject.get("/v2/team/web/tags/list?n=x").expect_error(400, "PAGINATION_NUMBER_INVALID");
    }
}

#[test]
fn manifests_tags_and_blobs_are_deleted() {
    let Some(subject) = Subject::start() else { return };
    let text = subject.put_image("a", "v1", &[b"layer"]);
    subject.put_manifest("a", "v2", OCI, &text).expect(201);
    if !subject.lacks(Difference::DeleteTag) {
        subject.ask("DELETE", "/v2/a/manifests/v1", &[], b"").expect(202);
        subject.get("/v2/a/manifests/v1").expect_error(404, "MANIFEST_UNKNOWN");
        assert_eq!(subject.get("/v2/a/tags/list").expect(200).json()["tags"], serde_json::json!(["v2"]));
    }
    let name = digest(text.as_bytes());
    subject.ask("DELETE", &format!("/v2/a/manifests/{name}"), &[], b"").expect(202);
    subject.get(&format!("/v2/a/manifests/{name}")).expect(404);
    subject.get("/v2/a/manifests/v2").expect(404);
    subject.ask("DELETE", &format!("/v2/a/manifests/{name}"), &[], b"").expect(404);
    let layer = format!("/v2/a/blobs/{}", digest(b"layer"));
    subject.ask("DELETE", &layer, &[], b"").expect(202);
    subject.get(&layer).expect_error(404, "BLOB_UNKNOWN");
    subject.ask("DELETE", &layer, &[], b"").expect_error(404, "BLOB_UNKNOWN");
}

#[test]
fn referrers_are_listed_and_filtered() {
    let Some(subject) = Subject::start() else { return };
    if subject.lacks(Difference::Referrers) {
        return;
    }
    subject.put_blob("a", b"{}");
    // The subject may come later.
    let about = manifest(OCI, &[b"subject"], "");
    let mut names = Vec::new();
    for kind in ["x/one", "x/two"] {
        let extra = format!(
            r#","artifactType":"{kind}","subject":{},"annotations":{{"k":"{kind}"}}"#,
            describe(OCI, about.as_bytes())
        );
        let text = manifest(OCI, &[], &extra);
        let answer = subject.put_manifest("a", &digest(text.as_bytes()), OCI, &text).expect(201);
        assert_eq!(answer.header("oci-subject"), digest(about.as_bytes()));
        names.push(digest(text.as_bytes()));
    }
    let path = format!("/v2/a/referrers/{}", digest(about.as_bytes()));
    let answer = subject.get(&path).expect(200);
    assert_eq!(answer.header("content-type"), INDEX);
    assert_eq!(answer.json()["manifests"].as_array().unwrap().len(), 2);
    let answer = subject.get(&format!("{path}?artifactType=x/two")).expect(200);
    assert_eq!(answer.header("oci-filters-applied"), "artifactType");
    let json = answer.json();
    assert_eq!(json["manifests"][0]["digest"], names[1]);
    assert_eq!(json["manifests"][0]["annotations"]["k"], "x/two");
    assert_eq!(json["manifests"].as_array().unwrap().len(), 1);
    subject.ask("DELETE", &format!("/v2/a/manifests/{}", names[1]), &[], b"").expect(202);
    assert_eq!(subject.get(&path).expect(200).json()["manifests"].as_array().unwrap().len(), 1);
    let none = subject.get(&format!("/v2/a/referrers/{}", digest(b"nothing"))).expect(200).json();
    assert_eq!(none["manifests"], serde_json::json!([]));
}

/// A program's run, or nothing if it is not installed, with the reason printed.
fn run(program: &str, words: &[&str], folder: &Path) -> Option<bool> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|folder| folder.join(program).is_file()) {
        println!("skipped: no {program} in PATH");
        return None;
    }
    let mut command = Command::new(program);
    command.args(words).current_dir(folder).stdin(Stdio::null());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {words:?}: {text}");
    Some(true)
}

/// An image as skopeo's `dir:` has it.
fn write_image(folder: &Path) {
    std::fs::create_dir(folder).unwrap();
    std::fs::write(folder.join("layer"), vec![0; 10_240]).unwrap();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
        digest(&[0; 10_240])
    );
    let layer = describe("application/vnd.oci.image.layer.v1.tar", &[0; 10_240]);
    let config_is = describe("application/vnd.oci.image.config.v1+json", config.as_bytes());
    let text = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI}","config":{config_is},"layers":[{layer}]}}"#);
    for content in [config.as_bytes(), &[0; 10_240]] {
        std::fs::write(folder.join(&digest(content)["sha256:".len()..]), content).unwrap();
    }
    std::fs::remove_file(folder.join("layer")).unwrap();
    std::fs::write(folder.join("manifest.json"), text).unwrap();
    std::fs::write(folder.join("version"), "Directory Transport Version: 1.1\n").unwrap();
}

#[test]
fn skopeo_gets_back_what_it_put() {
    let Some(subject) = Subject::start() else { return };
    let folder = subject.island.root().to_owned();
    write_image(&folder.join("in"));
    let remote = format!("docker://{}/skopeo/image:1", subject.address);
    let put = ["--insecure-policy", "copy", "--dest-tls-verify=false", "--preserve-digests", "dir:in", &remote];
    if run("skopeo", &put, &folder).is_none() {
        return;
    }
    let get = ["--insecure-policy", "copy", "--src-tls-verify=false", "--preserve-digests", &remote, "dir:out"];
    run("skopeo", &get, &folder);
    for entry in std::fs::read_dir(folder.join("in")).unwrap() {
        let name = entry.unwrap().file_name();
        let (before, after) =
            (std::fs::read(folder.join("in").join(&name)), std::fs::read(folder.join("out").join(&name)));
        assert!(before.unwrap() == after.unwrap(), "{name:?} differs");
    }
    let inspect = ["list-tags", "--tls-verify=false", &format!("docker://{}/skopeo/image", subject.address)];
    run("skopeo", &inspect, &folder);
}

#[test]
fn podman_pushes_and_pulls() {
    let Some(subject) = Subject::start() else { return };
    if !testkit::is_root_or_skip() {
        return;
    }
    let folder = subject.island.root().to_owned();
    write_image(&folder.join("in"));
    let (root, runroot) = (
        format!("--root={}/root-of-podman", folder.display()),
        format!("--runroot={}/run-of-podman", folder.display()),
    );
    let base = [root.as_str(), runroot.as_str(), "--storage-driver=vfs"];
    let name = format!("{}/podman/image:1", subject.address);
    let does = |words: &[&str]| run("podman", &[&base[..], words].concat(), &folder);
    if does(&["pull", "dir:in"]).is_none() {
        return;
    }
    let image = format!("sha256:{}", &config_of(&folder)["sha256:".len()..]);
    does(&["push", "--tls-verify=false", &image, &name]);
    does(&["rmi", "--all", "--force"]);
    does(&["pull", "--tls-verify=false", &name]);
    does(&["rmi", "--all", "--force"]);
}

fn config_of(folder: &Path) -> String {
    let text = std::fs::read(folder.join("in/manifest.json")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    json["config"]["digest"].as_str().unwrap().to_owned()
}

/// The fine print of each endpoint; the specification's section in front.
#[test]
fn the_fine_print_holds() {
    let Some(subject) = Subject::start() else { return };
    let text = subject.put_image("a", "v1", &[b"layer"]);
    let name = digest(text.as_bytes());
    let octets = ("Content-Type", "application/octet-stream");
    // "Pulling manifests": a HEAD has the GET's headers and no body
    let head = subject.ask("HEAD", "/v2/a/manifests/v1", &[("Accept", OCI)], b"").expect(200);
    assert_eq!((head.header("docker-content-digest"), head.header("content-type")), (name.as_str(), OCI));
    assert!(head.body.is_empty());
    assert!(subject.ask("HEAD", "/v2/a/manifests/none", &[], b"").expect(404).body.is_empty());
    subject.get(&format!("/v2/a/manifests/{}", digest(b"none"))).expect_error(404, "MANIFEST_UNKNOWN");
    // "Pulling blobs": a range that makes no sense is ignored (RFC 9110), one from beyond the end refused
    let layer = format!("/v2/a/blobs/{}", digest(b"layer"));
    assert_eq!(
        subject.ask("GET", &layer, &[("Range", "lines=1-2")], b"").status,
        if subject.is_ours() { 200 } else { 416 }
    );
    subject.ask("GET", &layer, &[("Range", "bytes=5-9")], b"").expect(416);
    // "Pushing blobs": an upload belongs to its repository; a second PUT finds it gone
    let place = subject.begin("a");
    let elsewhere = place.replace("/v2/a/", "/v2/b/");
    assert!(matches!(subject.ask("PATCH", &elsewhere, &[octets], b"x").status, 400 | 404), "in another repository");
    let close = with(&place, &format!("digest={}", digest(b"whole")));
    subject.ask("PUT", &close, &[octets], b"whole").expect(201);
    assert!(subject.ask("PUT", &close, &[octets], b"whole").status >= 400);
    // an empty blob is a blob
    subject.put_blob("a", b"");
    assert_eq!(subject.get(&format!("/v2/a/blobs/{}", digest(b""))).expect(200).header("content-length"), "0");
    // "Mounting": an impossible digest is no reason to begin an upload
    let mount = subject.ask("POST", "/v2/a/blobs/uploads/?mount=nonsense&from=b", &[], b"");
    assert!(matches!(mount.status, 202 | 400), "{}", mount.status);
    // "Pushing manifests": under its own digest it is there by that alone
    let other = manifest(OCI, &[], "");
    subject.put_manifest("a", &digest(other.as_bytes()), OCI, &other).expect(201);
    // "Listing tags": only tags; beyond the last one there is nothing
    let tags = subject.get("/v2/a/tags/list").expect(200).json();
    assert_eq!((&tags["name"], &tags["tags"]), (&"a".into(), &serde_json::json!(["v1"])));
    if !subject.lacks(Difference::TagPages) {
        let none = subject.get("/v2/a/tags/list?n=0").expect(200);
        assert_eq!((none.header("link"), &none.json()["tags"]), ("", &serde_json::json!([])));
        let beyond = subject.get("/v2/a/tags/list?last=v1").expect(200);
        assert_eq!(beyond.json()["tags"], serde_json::json!([]));
        // "last" need not be there
        assert_eq!(subject.get("/v2/a/tags/list?last=u").expect(200).json()["tags"], serde_json::json!(["v1"]));
    }
    // "Deleting": what is not there, and methods that a thing does not have
    subject.ask("DELETE", &format!("/v2/a/manifests/{}", digest(b"none")), &[], b"").expect(404);
    subject.ask("DELETE", &format!("/v2/a/blobs/{}", digest(b"none")), &[], b"").expect(404);
    let refused = subject.ask("POST", "/v2/a/manifests/v1", &[], b"").expect(405);
    assert!(refused.header("allow").contains("PUT"), "{}", refused.header("allow"));
    subject.ask("PUT", &layer, &[octets], b"layer").expect(405);
    // "Error codes": each error is a list of codes with words
    let errors = subject.get("/v2/a/manifests/none").expect(404).json();
    let first = &errors["errors"][0];
    assert!(first["code"].is_string() && first["message"].is_string(), "{errors}");
    if subject.lacks(Difference::Referrers) {
        return;
    }
    // "Listing referrers": never 404; the kind of an image without one is its configuration's; an index may be about something
    let nothing = subject.get(&format!("/v2/unheard-of/referrers/{}", digest(b"x"))).expect(200);
    assert_eq!((nothing.header("content-type"), &nothing.json()["manifests"]), (INDEX, &serde_json::json!([])));
    subject.get("/v2/a/referrers/sha256:short").expect_error(400, "DIGEST_INVALID");
    let about = describe(OCI, text.as_bytes());
    let image = manifest(OCI, &[], &format!(r#","subject":{about}"#));
    assert_eq!(subject.put_manifest("a", "about", OCI, &image).expect(201).header("oci-subject"), name);
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{INDEX}","artifactType":"x/list","manifests":[],"subject":{about}}}"#
    );
    assert_eq!(subject.put_manifest("a", "list", INDEX, &index).expect(201).header("oci-subject"), name);
    let listed = subject.get(&format!("/v2/a/referrers/{name}")).expect(200).json();
    let mut kinds: Vec<_> =
        listed["manifests"].as_array().unwrap().iter().map(|one| one["artifactType"].clone()).collect();
    kinds.sort_by_key(ToString::to_string);
    assert_eq!(kinds, ["application/vnd.oci.image.config.v1+json", "x/list"]);
    let filter = format!("/v2/a/referrers/{name}?artifactType=application/vnd.oci.image.config.v1%2Bjson");
    assert_eq!(subject.get(&filter).expect(200).json()["manifests"].as_array().unwrap().len(), 1);
    // the subject may go; what is about it stays
    subject.ask("DELETE", &format!("/v2/a/manifests/{name}"), &[], b"").expect(202);
    assert_eq!(
        subject.get(&format!("/v2/a/referrers/{name}")).expect(200).json()["manifests"].as_array().unwrap().len(),
        2
    );
}
