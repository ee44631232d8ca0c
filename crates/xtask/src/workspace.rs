//! Where things are: the repository, cargo's target folder, the programs that a build made.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::shell::Run;

/// The repository's folder.
pub(crate) fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    // This crate is crates/xtask.
    here.ancestors().nth(2).unwrap_or(here)
}

/// `cargo` as it was started for us, in the repository's folder.
pub(crate) fn cargo() -> Run {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // What `cargo run` sets for this program would make the build scripts of a nested build run again.
    ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "CARGO_PKG_NAME", "CARGO_PKG_VERSION"]
        .iter()
        .fold(Run::new(program).dir(root()), |run, name| run.env_remove(name))
}

/// What `cargo metadata` says, as far as we need it.
#[derive(Deserialize)]
pub(crate) struct Metadata {
    pub(crate) packages: Vec<Package>,
    pub(crate) workspace_members: Vec<String>,
    pub(crate) resolve: Option<Resolve>,
    pub(crate) target_directory: PathBuf,
}

#[derive(Deserialize)]
pub(crate) struct Package {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) manifest_path: PathBuf,
    pub(crate) dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) kind: Option<String>,
    pub(crate) path: Option<PathBuf>,
}

#[derive(Deserialize)]
pub(crate) struct Resolve {
    pub(crate) nodes: Vec<Node>,
}

#[derive(Deserialize)]
pub(crate) struct Node {
    pub(crate) id: String,
    pub(crate) deps: Vec<NodeDependency>,
}

#[derive(Deserialize)]
pub(crate) struct NodeDependency {
    pub(crate) pkg: String,
    pub(crate) dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
pub(crate) struct DependencyKind {
    pub(crate) kind: Option<String>,
}

/// How much of the dependency graph to ask for.
#[derive(Clone, Copy)]
pub(crate) enum Depth {
    Members,
    Everything,
}

/// Asks cargo for the workspace's packages.
pub(crate) fn metadata(depth: Depth) -> Result<Metadata> {
    let mut run = cargo().args(["metadata", "--format-version", "1"]);
    if matches!(depth, Depth::Members) {
        run = run.args(["--no-deps"]);
    }
    serde_json::from_str(&run.output()?).context("cannot read what `cargo metadata` printed")
}

/// Cargo's target folder.
pub(crate) fn target_dir() -> Result<PathBuf> {
    Ok(metadata(Depth::Members)?.target_directory)
}

/// Builds with these arguments and returns the programs that came out.
pub(crate) fn build(arguments: &[&str]) -> Result<Vec<PathBuf>> {
    build_by(cargo(), arguments)
}

/// As [`build`], with a cargo that was told more.
pub(crate) fn build_by(cargo: Run, arguments: &[&str]) -> Result<Vec<PathBuf>> {
    let run = cargo.args(["build", "--message-format", "json-render-diagnostics"]).args(arguments);
    let captured = {
        let shown = run.to_string();
        let captured = run.capture()?;
        if !captured.status.success() {
            bail!("`{shown}` failed with {}:\n{}", captured.status, captured.stderr.trim_end());
        }
        captured
    };
    Ok(executables(&captured.stdout))
}

/// The programs in cargo's stream of JSON messages; lines that are something else are skipped.
fn executables(messages: &str) -> Vec<PathBuf> {
    #[derive(Deserialize)]
    struct Artifact {
        executable: Option<PathBuf>,
    }
    let parsed = messages.lines().filter_map(|line| serde_json::from_str::<Artifact>(line).ok());
    parsed.filter_map(|artifact| artifact.executable).collect()
}

/// Builds the release programs and puts them side by side into `target/insula/bin`, where `insula` finds the others.
pub(crate) fn install_release() -> Result<PathBuf> {
    let mut programs = build(&["--release", "-p", "cli", "-p", "daemon", "-p", "net", "-p", "vmm", "--bins"])?;
    programs.extend(build(&["--profile", "shim", "-p", "container", "--bins"])?);
    let bin = target_dir()?.join("insula/bin");
    std::fs::create_dir_all(&bin).with_context(|| format!("cannot create {}", bin.display()))?;
    for wanted in ["insula", "insulad", "insula-init", "insula-netd", "insula-oci", "insula-shim", "insula-vmm"] {
        let built = programs.iter().find(|path| path.file_name().is_some_and(|name| name == wanted));
        let built = built.with_context(|| format!("the build made no program named {wanted}"))?;
        // Renamed into place: the old file may be running.
        let fresh = bin.join(format!(".{wanted}.new"));
        std::fs::copy(built, &fresh)
            .and_then(|_| std::fs::rename(&fresh, bin.join(wanted)))
            .with_context(|| format!("cannot copy {} into {}", built.display(), bin.display()))?;
    }
    Ok(bin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_among_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","executable":null}
{"reason":"compiler-artifact","executable":"/t/release/insula"}
not json
{"reason":"build-finished","success":true}"#;
        assert_eq!(executables(messages), [PathBuf::from("/t/release/insula")]);
    }

    #[test]
    fn the_root_holds_the_workspace() {
        assert!(root().join("Cargo.lock").is_file());
    }
}
