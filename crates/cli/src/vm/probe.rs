//! What runs virtual machines on this host, for `insula doctor`.

use std::process::{Command as Program, Stdio};

use docker_wire::extra::{Check, Verdict};
use serde_json::Value;

use super::run::{PROGRAM, program};
use crate::table;

fn finding(verdict: Verdict, detail: String, remedy: Option<&str>) -> Check {
    Check { name: "virtual machines".to_owned(), verdict, detail, remedy: remedy.map(str::to_owned) }
}

/// Lets `insula-vmm` run a tiny guest.
pub(crate) fn check() -> Check {
    let ran = Program::new(program()).arg("--probe").stdin(Stdio::null()).stderr(Stdio::null()).output();
    let told: Option<Value> = ran.ok().and_then(|ran| serde_json::from_slice(&ran.stdout).ok());
    let Some(told) = told else {
        let detail = format!("{PROGRAM} does not run");
        return finding(Verdict::Fallback, detail, Some("install it beside insula; containers don't need it"));
    };
    let backend = table::text(&told, "/backend");
    let verdict = if backend == "kvm" { Verdict::Good } else { Verdict::Fallback };
    finding(verdict, format!("{backend}: {}", table::text(&told, "/found")), None)
}
