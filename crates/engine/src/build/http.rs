//! One file over HTTP, by the program `curl`.

use crate::error::{EngineError, ErrorClass, Result};
use std::path::Path;
use std::process::{Command, Stdio};

/// The longest file that is fetched, in bytes.
const LONGEST: &str = "274877906944";

/// Fetches `url` to `path`; the time of its last change in seconds since 1970, if the server says.
pub(super) fn get(url: &str, path: &Path) -> Result<Option<i64>> {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--fail", "--location", "--max-redirs", "10", "--remote-time"])
        .args(["--proto", "=http,https", "--proto-redir", "=http,https", "--connect-timeout", "30"])
        .args(["--max-filesize", LONGEST, "--retry", "2", "--output"])
        .arg(path)
        .args(["--write-out", "%header{last-modified}", "--", url])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| {
            EngineError::because(
                ErrorClass::Unavailable,
                "cannot run curl, which ADD of an address needs; install it",
                &error,
            )
        })?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(EngineError::new(ErrorClass::Unavailable, format!("cannot fetch {url}: {}", why.trim())));
    }
    if !path.exists() {
        // curl makes no file of an empty answer
        std::fs::write(path, b"").map_err(|error| EngineError::internal("cannot keep what was fetched", &error))?;
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let time = jiff::fmt::rfc2822::parse(said.trim()).ok();
    Ok(time.map(|time| time.timestamp().as_second()))
}
