//! How far a pull or a push is, in the lines that docker's clients draw.

use engine::{LayerStep, Progress};
use serde_json::{Value, json};

/// The lines for one step.
pub(crate) fn lines(step: &Progress) -> Vec<Value> {
    match step {
        Progress::Line(text) => vec![json!({ "status": text })],
        Progress::Named(name, text) => vec![json!({ "status": text, "id": name })],
        Progress::Layer(name, step) => vec![layer(name, step)],
        Progress::Pushed { tag, digest, size } => vec![
            json!({ "status": format!("{tag}: digest: {digest} size: {size}") }),
            json!({ "progressDetail": {}, "aux": { "Tag": tag, "Digest": digest, "Size": size } }),
        ],
    }
}

fn layer(name: &str, step: &LayerStep) -> Value {
    let (status, detail) = match step {
        LayerStep::Waiting => ("Pulling fs layer", None),
        LayerStep::Fetching(done, all) => ("Downloading", Some((done, all))),
        LayerStep::Resumed(at) => {
            return json!({ "status": format!("Resuming at byte {at}"), "progressDetail": {}, "id": name });
        }
        LayerStep::Fetched => ("Download complete", None),
        LayerStep::Stored => ("Pull complete", None),
        LayerStep::Present => ("Already exists", None),
        LayerStep::Preparing => ("Preparing", None),
        LayerStep::Sending(done, all) => ("Pushing", Some((done, all))),
        LayerStep::Sent => ("Pushed", None),
        LayerStep::Known => ("Layer already exists", None),
        LayerStep::Mounted => ("Mounted from another repository", None),
    };
    let mut line = json!({ "status": status, "progressDetail": {}, "id": name });
    if let Some((done, all)) = detail {
        line["progressDetail"] = json!({ "current": done, "total": all });
        line["progress"] = json!(bar(*done, *all));
    }
    line
}

/// `[=====>     ]  1.2MB/5MB`, which clients without a drawing of their own show.
fn bar(done: u64, all: u64) -> String {
    const WIDTH: u64 = 50;
    let filled = done.min(all).checked_mul(WIDTH).and_then(|part| part.checked_div(all)).unwrap_or(0);
    let filled = usize::try_from(filled).unwrap_or(0);
    let (bar, head) = if filled < 50 { ("=".repeat(filled), ">") } else { ("=".repeat(50), "") };
    format!("[{bar}{head}{}]  {}/{}", " ".repeat(50 - filled - head.len()), megabytes(done), megabytes(all))
}

fn megabytes(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "it is for the eye")]
    let number = bytes as f64;
    match bytes {
        0..1_000 => format!("{bytes}B"),
        1_000..1_000_000 => format!("{:.4}kB", number / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2}MB", number / 1e6),
        _ => format!("{:.2}GB", number / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_have_one_width() {
        for (done, all) in [(0, 0), (0, 7), (1, 2), (7, 7), (9, 7), (u64::MAX, u64::MAX)] {
            let text = bar(done, all);
            assert_eq!(text.find(']'), Some(51), "{text}");
        }
        assert!(bar(1, 2).starts_with("[=========================>"));
        let sent = lines(&Progress::Layer("ab".into(), LayerStep::Sending(5, 10)));
        assert_eq!(sent[0]["progressDetail"]["total"], 10);
    }
}
