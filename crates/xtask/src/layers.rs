//! `cargo xtask layers`: the crates depend on each other only as `layers.toml` allows.
//!
//! Checked are the edges between our own crates (normal and build edges against `uses`, development edges against `uses`
//! and `dev`), that they point to a lower rank, that every member stands in the file and takes the workspace's lints, and
//! that below the engine no dependency tree but the registry's contains tokio.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::workspace::{self, Depth, Metadata, Package};

/// The crate from which on tokio is allowed.
const ASYNC_FROM: &str = "engine";
/// Crates below it that have tokio nonetheless, since they are all network.
const ASYNC_BELOW: &[&str] = &["registry"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Layers {
    crates: BTreeMap<String, Layer>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Layer {
    rank: u8,
    #[serde(default)]
    uses: BTreeSet<String>,
    #[serde(default)]
    dev: BTreeSet<String>,
}

/// Runs `cargo xtask layers`.
pub(crate) fn run() -> Result<()> {
    let path = workspace::root().join("layers.toml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let layers: Layers = toml::from_str(&text).context("cannot read layers.toml")?;
    let metadata = workspace::metadata(Depth::Everything)?;
    let mut faults = edges(&layers, &metadata);
    faults.extend(members(&layers, &metadata)?);
    faults.extend(runtimes(&layers, &metadata));
    if !faults.is_empty() {
        bail!("the crates break layers.toml:\n  {}", faults.join("\n  "));
    }
    println!("layers: {} crates keep to layers.toml", layers.crates.len());
    Ok(())
}

fn our_packages(metadata: &Metadata) -> impl Iterator<Item = &Package> {
    metadata.packages.iter().filter(|package| metadata.workspace_members.contains(&package.id))
}

fn edges(layers: &Layers, metadata: &Metadata) -> Vec<String> {
    let mut faults = Vec::new();
    for package in our_packages(metadata) {
        let Some(layer) = layers.crates.get(&package.name) else {
            faults.push(format!("{} does not stand in layers.toml", package.name));
            continue;
        };
        for dependency in package.dependencies.iter().filter(|dependency| dependency.path.is_some()) {
            let edge = format!("{} -> {}", package.name, dependency.name);
            let only_tests = dependency.kind.as_deref() == Some("dev");
            if !(layer.uses.contains(&dependency.name) || only_tests && layer.dev.contains(&dependency.name)) {
                faults.push(format!("{edge} is not allowed; if it should be, add it there and to ARCHITECTURE.md"));
            }
            let below = layers.crates.get(&dependency.name).is_some_and(|other| other.rank < layer.rank);
            if !only_tests && !below {
                faults.push(format!("{edge} does not point down: rank {} must be above its own", layer.rank));
            }
        }
    }
    faults
}

fn members(layers: &Layers, metadata: &Metadata) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    let names: BTreeSet<&str> = our_packages(metadata).map(|package| package.name.as_str()).collect();
    for (name, layer) in &layers.crates {
        for known in std::iter::once(name).chain(&layer.uses).chain(&layer.dev) {
            if !names.contains(known.as_str()) {
                faults.push(format!("layers.toml names {known}, and no such crate exists"));
            }
        }
    }
    for package in our_packages(metadata) {
        let folder = package.manifest_path.parent().and_then(|folder| folder.file_name());
        if folder.is_none_or(|folder| folder != package.name.as_str()) {
            faults.push(format!("{} lives in a folder of another name", package.name));
        }
        let text = std::fs::read_to_string(&package.manifest_path)
            .with_context(|| format!("cannot read {}", package.manifest_path.display()))?;
        if !takes_workspace_lints(&text) {
            faults.push(format!("{} lacks `[lints] workspace = true`", package.name));
        }
    }
    Ok(faults)
}

fn takes_workspace_lints(manifest: &str) -> bool {
    let Ok(manifest) = manifest.parse::<toml::Table>() else { return false };
    let lints = manifest.get("lints").and_then(|lints| lints.get("workspace"));
    lints.and_then(toml::Value::as_bool) == Some(true)
}

/// Crates below the engine whose dependency tree, without tests, reaches tokio.
fn runtimes(layers: &Layers, metadata: &Metadata) -> Vec<String> {
    let Some(engine) = layers.crates.get(ASYNC_FROM) else { return Vec::new() };
    let Some(resolve) = &metadata.resolve else { return vec!["cargo metadata gave no dependency graph".to_owned()] };
    let names: BTreeMap<&str, &str> =
        metadata.packages.iter().map(|package| (package.id.as_str(), package.name.as_str())).collect();
    let graph: BTreeMap<&str, Vec<&str>> = resolve
        .nodes
        .iter()
        .map(|node| {
            let shipped = node.deps.iter().filter(|edge| edge.dep_kinds.iter().any(|kind| kind.kind.is_none()));
            (node.id.as_str(), shipped.map(|edge| edge.pkg.as_str()).collect())
        })
        .collect();
    let below = our_packages(metadata)
        .filter(|package| layers.crates.get(&package.name).is_some_and(|layer| layer.rank < engine.rank));
    below
        .filter(|package| !ASYNC_BELOW.contains(&package.name.as_str()))
        .filter(|package| reaches(&graph, &names, &package.id, "tokio"))
        .map(|package| {
            format!("{} has tokio in its dependency tree, and only {ASYNC_FROM} and above may", package.name)
        })
        .collect()
}

fn reaches(graph: &BTreeMap<&str, Vec<&str>>, names: &BTreeMap<&str, &str>, from: &str, wanted: &str) -> bool {
    let (mut seen, mut open) = (BTreeSet::from([from]), vec![from]);
    while let Some(id) = open.pop() {
        if names.get(id) == Some(&wanted) {
            return true;
        }
        open.extend(graph.get(id).into_iter().flatten().copied().filter(|next| seen.insert(next)));
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(text: &str) -> Layers {
        toml::from_str(text).unwrap()
    }

    fn metadata(dependencies: &str) -> Metadata {
        serde_json::from_str(&format!(
            r#"{{"packages":[
                {{"id":"a","name":"a","manifest_path":"/w/crates/a/Cargo.toml","dependencies":[]}},
                {{"id":"b","name":"b","manifest_path":"/w/crates/b/Cargo.toml","dependencies":[{dependencies}]}},
                {{"id":"x","name":"x","manifest_path":"/r/x/Cargo.toml","dependencies":[]}},
                {{"id":"t","name":"tokio","manifest_path":"/r/t/Cargo.toml","dependencies":[]}}],
              "workspace_members":["a","b"],"target_directory":"/w/target",
              "resolve":{{"nodes":[
                {{"id":"b","deps":[{{"pkg":"x","dep_kinds":[{{"kind":null}}]}}]}},
                {{"id":"a","deps":[{{"pkg":"x","dep_kinds":[{{"kind":"dev"}}]}}]}},
                {{"id":"x","deps":[{{"pkg":"t","dep_kinds":[{{"kind":null}}]}}]}}]}}}}"#
        ))
        .unwrap()
    }

    const NORMAL: &str = r#"{"name":"a","kind":null,"path":"/w/crates/a"}"#;
    const TESTS: &str = r#"{"name":"a","kind":"dev","path":"/w/crates/a"}"#;

    #[test]
    fn an_edge_must_be_written_down() {
        let forbidden = layers("[crates.a]\nrank=0\n[crates.b]\nrank=1");
        assert_eq!(edges(&forbidden, &metadata(NORMAL)).len(), 1);
        let allowed = layers("[crates.a]\nrank=0\n[crates.b]\nrank=1\nuses=['a']");
        assert_eq!(edges(&allowed, &metadata(NORMAL)), Vec::<String>::new());
    }

    #[test]
    fn an_edge_must_point_down_except_in_tests() {
        let sideways = layers("[crates.a]\nrank=1\n[crates.b]\nrank=1\nuses=['a']");
        assert!(edges(&sideways, &metadata(NORMAL))[0].contains("does not point down"));
        let for_tests = layers("[crates.a]\nrank=1\n[crates.b]\nrank=1\ndev=['a']");
        assert_eq!(edges(&for_tests, &metadata(TESTS)), Vec::<String>::new());
        assert!(!edges(&for_tests, &metadata(NORMAL)).is_empty());
    }

    #[test]
    fn a_member_must_be_listed() {
        let listed = layers("[crates.a]\nrank=0");
        assert_eq!(edges(&listed, &metadata(NORMAL)), ["b does not stand in layers.toml"]);
    }

    #[test]
    fn tokio_is_found_through_others_but_not_through_tests() {
        let ranks = layers("[crates.a]\nrank=0\n[crates.b]\nrank=1\n[crates.engine]\nrank=3");
        let faults = runtimes(&ranks, &metadata(NORMAL));
        assert_eq!(faults.len(), 1);
        assert!(faults[0].starts_with("b has tokio"));
    }

    #[test]
    fn lints_are_seen() {
        assert!(takes_workspace_lints("[lints]\nworkspace = true"));
        assert!(!takes_workspace_lints("[lints]\nworkspace = false"));
        assert!(!takes_workspace_lints("[package]"));
    }
}
