//! Bytes that are no configuration: each is refused with a message, and leaves nothing.

use serde_json::json;
use testkit::stage::{ID, Stage};

use super::stage;

/// Tries one text, and tells what is wrong with the answer.
fn refuse(stage: &Stage, what: &str, text: &[u8]) -> Option<String> {
    let _ = stage.bundle.write_text(text);
    let run = stage.oci(&["run", ID]);
    let crashed = run.code <= 0
        || (128..255).contains(&run.code)
        || run.err.contains("panicked")
        || run.err.contains("goroutine");
    let said = !run.err.trim().is_empty() && run.err.len() < 4000;
    let clean = stage.cell.shell("[ ! -d /run/oci ] || find /run/oci -mindepth 1").out;
    (crashed || !said || !clean.is_empty()).then(|| {
        let err: String = run.err.chars().take(300).collect();
        format!("{what}: code {}, said {err:?} ({} bytes), left {clean:?}", run.code, run.err.len())
    })
}

#[test]
fn what_is_no_json_is_refused() {
    let Some((stage, _)) = stage("true") else { return };
    let whole = stage.bundle.config.to_string();
    let nested = |count: usize, open: &str, close: &str| format!("{}{}", open.repeat(count), close.repeat(count));
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("spaces", b"   \n\t ".to_vec()),
        ("a word", b"hello".to_vec()),
        ("null", b"null".to_vec()),
        ("an array", b"[]".to_vec()),
        ("a number", b"17".to_vec()),
        ("an empty object", b"{}".to_vec()),
        ("cut in the middle", whole.as_bytes()[..whole.len() / 2].to_vec()),
        ("cut at the end", whole.as_bytes()[..whole.len() - 1].to_vec()),
        ("something after it", format!("{whole} garbage").into_bytes()),
        (
            "invalid UTF-8",
            whole
                .replace("/bin/sh", "/bin/\u{1}")
                .into_bytes()
                .into_iter()
                .map(|byte| if byte == 1 { 0xff } else { byte })
                .collect(),
        ),
        ("a raw NUL", whole.replace("/bin/sh", "/bin/\0sh").into_bytes()),
        ("a lone surrogate", whole.replace("/bin/sh", "/bin/\\ud800sh").into_bytes()),
        ("arrays in arrays", nested(100_000, "[", "]").into_bytes()),
        ("objects in objects", nested(100_000, "{\"a\":", "}").replace(":}", ":1}").into_bytes()),
        ("a huge number", whole.replace("\"uid\":0", "\"uid\":99999999999999999999999999").into_bytes()),
        ("a negative user", whole.replace("\"uid\":0", "\"uid\":-1").into_bytes()),
        ("a fraction for a user", whole.replace("\"uid\":0", "\"uid\":1.5").into_bytes()),
        ("a string for a user", whole.replace("\"uid\":0", "\"uid\":\"root\"").into_bytes()),
        (
            "binary",
            (0..4096_u32).map(|number| u8::try_from(number.wrapping_mul(2_654_435_761) >> 24).unwrap()).collect(),
        ),
    ];
    let wrong: Vec<_> = cases
        .iter()
        .filter(|(what, _)| !crate::known::is_known(what))
        .filter_map(|(what, text)| refuse(&stage, what, text))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    stage.finish();
}

#[test]
fn nul_bytes_in_strings_are_refused() {
    let Some((mut stage, _)) = stage("true") else { return };
    let plain = stage.bundle.config.clone();
    let mut wrong = Vec::new();
    for (pointer, value) in [
        ("/process/args", json!(["/bin/true", "a\0b"])),
        ("/process/args/0", json!("/bin/true\0x")),
        ("/process/env", json!(["PATH=/bin", "A=b\0c"])),
        ("/process/cwd", json!("/\0/etc")),
        ("/root/path", json!("rootfs\0x")),
        ("/mounts/0/destination", json!("/proc\0x")),
        ("/mounts/1/source", json!("tm\0pfs")),
        ("/linux/maskedPaths", json!(["/etc/pass\0wd"])),
        ("/linux/readonlyPaths", json!(["/etc/pass\0wd"])),
        ("/linux/cgroupsPath", json!("/a\0b")),
        ("/linux/namespaces/0/path", json!("/proc/1/ns/pid\0x")),
        ("/linux/sysctl", json!({"net.ipv4.ip_forward\0x": "1"})),
        ("/linux/devices", json!([{"path": "/dev/x\0y", "type": "c", "major": 1, "minor": 3}])),
    ] {
        stage.bundle.set(pointer, value);
        let text = stage.bundle.config.to_string();
        if !crate::known::is_known(pointer) {
            wrong.extend(refuse(&stage, pointer, text.as_bytes()));
        }
        stage.bundle.config = plain.clone();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    stage.finish();
}

#[test]
fn a_huge_file_is_read_or_refused_but_never_a_crash() {
    let Some((stage, _)) = stage("true") else { return };
    let whole = stage.bundle.config.to_string();
    for (what, filler) in [
        ("spaces", " ".repeat(80 << 20)),
        ("a long string", format!("\"filler\":\"{}\",", "x".repeat(80 << 20))),
        ("arrays in arrays", format!("\"filler\":{}{},", "[".repeat(100_000), "]".repeat(100_000))),
        ("a long array", format!("\"filler\":[{}0],", "0,".repeat(20 << 20))),
    ] {
        let _ = stage.bundle.write_text(whole.replacen('{', &format!("{{{filler}"), 1).as_bytes());
        let run = stage.oci(&["run", ID]);
        let refused = run.code > 0 && run.code < 128 && !run.err.trim().is_empty() && run.err.len() < 4000;
        assert!(run.code == 0 || refused, "{what}: code {}, {} bytes said", run.code, run.err.len());
        assert!(!run.err.contains("panicked"), "{what}");
    }
    stage.finish();
}

#[test]
fn ids_that_are_paths_are_refused() {
    let Some((stage, _)) = stage("true") else { return };
    let _ = stage.bundle.write();
    if crate::known::is_known("ids_that_are_paths_are_refused") {
        return stage.finish();
    }
    let long = "x".repeat(5000);
    for id in ["", ".", "..", "../x", "a/b", "/run/absolute", "a\nb", "a b", "ä", long.as_str()] {
        for command in [&["run"][..], &["delete", "--force"], &["state"], &["kill"], &["start"]] {
            let run = stage.oci(&[command, &[id]].concat());
            // Removing with force what can't exist is fine with some.
            let fine =
                run.code > 0 && run.code < 128 && !run.err.trim().is_empty() || command[0] == "delete" && run.code == 0;
            assert!(fine, "{command:?} {id:?}: {run:?}");
        }
    }
    stage.assert_clean();
    stage.finish();
}
