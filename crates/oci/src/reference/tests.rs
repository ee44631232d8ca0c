//! Image names against the forms that Docker's users write.

use proptest::prelude::*;

use super::*;

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[test]
fn names_become_full_and_familiar_again() {
    let check = |text: &str, full: &str, familiar: &str| {
        let reference: Reference = text.parse().unwrap();
        assert_eq!((reference.to_string().as_str(), reference.familiar().as_str()), (full, familiar), "{text}");
        assert_eq!(full.parse::<Reference>().unwrap(), reference, "the full form means the same: {text}");
    };
    check("debian", "docker.io/library/debian", "debian");
    check("debian:bookworm", "docker.io/library/debian:bookworm", "debian:bookworm");
    check("team/web:2", "docker.io/team/web:2", "team/web:2");
    check("docker.io/debian", "docker.io/library/debian", "debian");
    check("index.docker.io/library/debian", "docker.io/library/debian", "debian");
    check("docker.io/library/a/b", "docker.io/library/a/b", "library/a/b");
    check("localhost/x", "localhost/x", "localhost/x");
    check("localhost:5000/x", "localhost:5000/x", "localhost:5000/x");
    check("localhost:5000/x:y", "localhost:5000/x:y", "localhost:5000/x:y");
    check("example.com/a/b/c:1.0-rc_2", "example.com/a/b/c:1.0-rc_2", "example.com/a/b/c:1.0-rc_2");
    check("[::1]:5000/x", "[::1]:5000/x", "[::1]:5000/x");
    check("Registry/x", "Registry/x", "Registry/x");
    check("a--b__c.d", "docker.io/library/a--b__c.d", "a--b__c.d");
    check("x:UPPER", "docker.io/library/x:UPPER", "x:UPPER");
    let pinned = format!("debian@{DIGEST}");
    check(&pinned, &format!("docker.io/library/debian@{DIGEST}"), &pinned);
    let both = format!("debian:12@{DIGEST}");
    check(&both, &format!("docker.io/library/debian:12@{DIGEST}"), &both);
}

#[test]
fn parts_can_be_asked_for() {
    let reference: Reference = "localhost:5000/a/b:t".parse().unwrap();
    assert_eq!((reference.domain(), reference.path(), reference.tag()), ("localhost:5000", "a/b", Some("t")));
    let plain: Reference = "debian".parse().unwrap();
    assert_eq!(plain.clone().tagged().familiar(), "debian:latest");
    assert_eq!(plain.with_tag("12").unwrap().familiar(), "debian:12");
    let digest: Digest = DIGEST.parse().unwrap();
    assert_eq!(plain.with_digest(digest).tagged().familiar(), format!("debian@{DIGEST}"));
    assert!(plain.with_tag("").is_err());
}

#[test]
fn errors_say_what_and_where() {
    let error = |text: &str| text.parse::<Reference>().unwrap_err().to_string();
    for bad in [
        "",
        ":tag",
        "a:",
        "a//b",
        "/a",
        "a/",
        "-a",
        "a-",
        "a..b",
        "a___b",
        "a._b",
        "a b",
        "é",
        "a:-x",
        "a:b:c",
        "a@b",
        "a@sha256:12",
        "ex_ample.com/a",
        "host:port/a",
        "example.com/",
        "-x.y/a",
        "[::1/x",
        "[zz]/x",
        "a@",
        "@",
    ] {
        let text = error(bad);
        assert!(text.starts_with("invalid reference format: "), "{bad:?}: {text}");
    }
    assert!(error("Debian").contains("must be lowercase; try \"debian\""));
    assert!(error("a/b c").contains("\"b c\" at character 4 of"));
    assert!(error(&"a".repeat(64)).contains("is an image id"));
    assert!(error(&"z".repeat(300)).contains("the most is 255"));
    assert!(error(&format!("a:{}", "t".repeat(129))).contains("at most 128"));
    assert!("a".repeat(63).parse::<Reference>().is_ok());
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused(text in "\\PC{0,40}") {
        let _ = text.parse::<Reference>();
    }

    #[test]
    fn what_parses_survives_its_own_forms(text in "([a-z0-9.:-]{1,8}/)?[a-z0-9._/-]{1,12}(:[A-Za-z0-9._-]{1,8})?") {
        if let Ok(reference) = text.parse::<Reference>() {
            prop_assert_eq!(&reference.to_string().parse::<Reference>().unwrap(), &reference);
            prop_assert_eq!(&reference.familiar().parse::<Reference>().unwrap(), &reference);
        }
    }
}
