//! `cargo xtask docs`: the documents name only what exists, and every source file says what it is for.
//!
//! In the Markdown documents, each word in backticks that looks like a path of this repository, each relative link and
//! each `cargo xtask` command is looked up. ARCHITECTURE.md must also name every crate. Every source file under
//! `crates/*/src` begins with module documentation, and rustdoc accepts all of it without a warning.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::CommandFactory;

use crate::compat;
use crate::workspace::{self, Depth};

const DOCUMENTS: &[&str] = &["ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "README.md", "SPECIFICATION.md"];

/// Top folders whose paths a document may name.
const FOLDERS: &[&str] = &[".cargo/", ".ci/", ".config/", "crates/", "docs/", "packaging/"];

#[derive(clap::Args, Default)]
pub(crate) struct Arguments {
    /// Write the pages that are made from tables, and check nothing
    #[arg(long)]
    write: bool,
}

/// Runs `cargo xtask docs`.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let root = workspace::root();
    if arguments.write {
        return compat::write(root);
    }
    let mut faults = Vec::new();
    let documents = documents(root)?;
    let commands: Vec<String> =
        crate::Arguments::command().get_subcommands().map(|command| command.get_name().to_owned()).collect();
    for document in &documents {
        let text = std::fs::read_to_string(document).with_context(|| format!("cannot read {}", document.display()))?;
        let name = document.strip_prefix(root).unwrap_or(document).display();
        faults.extend(faults_of(&text, document, root, &commands).into_iter().map(|fault| format!("{name}: {fault}")));
    }
    faults.extend(unnamed_crates(root)?);
    faults.extend(undocumented_files(root)?);
    faults.extend(compat::faults(root)?);
    if !faults.is_empty() {
        bail!("the documents and the code disagree:\n  {}", faults.join("\n  "));
    }
    // The readers are developers: private items are rendered too, so links to them lead somewhere.
    workspace::cargo()
        .env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private-intra-doc-links")
        .args(["doc", "--quiet", "--workspace", "--no-deps", "--document-private-items"])
        .check()?;
    println!("docs: {} documents name only what exists", documents.len());
    Ok(())
}

fn documents(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = DOCUMENTS.iter().map(|name| root.join(name)).collect();
    let how_to = root.join("docs/how-to");
    for entry in std::fs::read_dir(&how_to).with_context(|| format!("cannot read {}", how_to.display()))? {
        let path = entry.context("cannot read docs/how-to")?.path();
        if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
    Ok(found)
}

fn faults_of(text: &str, document: &Path, root: &Path, commands: &[String]) -> Vec<String> {
    let mut faults = Vec::new();
    for word in in_backticks(text) {
        if let Some(path) = as_path(word)
            && !root.join(path).exists()
        {
            faults.push(format!("`{word}` does not exist"));
        }
    }
    for target in links(text) {
        if !document.parent().unwrap_or(root).join(target).exists() {
            faults.push(format!("the link to {target} leads nowhere"));
        }
    }
    for command in text.split("cargo xtask ").skip(1) {
        let end = command.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(command.len());
        let command = &command[..end];
        if !command.is_empty() && !commands.iter().any(|known| known == command) {
            faults.push(format!("there is no `cargo xtask {command}`"));
        }
    }
    faults
}

/// The words between backticks, outside fenced blocks.
fn in_backticks(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            words.extend(line.split('`').skip(1).step_by(2));
        }
    }
    words
}

/// The path in the repository that `word` names, if it looks like one; patterns with placeholders do not.
fn as_path(word: &str) -> Option<&str> {
    let path = word.split("::").next()?;
    let placeholder = path.contains(['*', '<', '{', '$', ' ']);
    let ours = FOLDERS.iter().any(|folder| path.starts_with(folder));
    let top_file = !path.contains('/') && (path.ends_with(".md") || path.ends_with(".toml"));
    (!placeholder && (ours || top_file)).then_some(path)
}

/// Relative link targets, without their anchors.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let relative = targets.filter(|target| !target.contains("://") && !target.starts_with('#'));
    relative.filter_map(|target| target.split('#').next()).collect()
}

fn unnamed_crates(root: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(root.join("ARCHITECTURE.md")).context("cannot read ARCHITECTURE.md")?;
    let words = in_backticks(&text);
    let names = workspace::metadata(Depth::Members)?.packages.into_iter().map(|package| package.name);
    let unnamed = names.filter(|name| !words.contains(&name.as_str()));
    Ok(unnamed.map(|name| format!("ARCHITECTURE.md does not name the crate `{name}`")).collect())
}

fn undocumented_files(root: &Path) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    let mut open: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(root.join("crates")).context("cannot read crates")? {
        open.push(entry.context("cannot read crates")?.path().join("src"));
    }
    while let Some(folder) = open.pop() {
        let entries = std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        for entry in entries {
            let path = entry.with_context(|| format!("cannot read {}", folder.display()))?.path();
            if path.is_dir() {
                open.push(path);
            } else if needs_documentation(&path) {
                let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
                if !text.starts_with("//!") {
                    let name = path.strip_prefix(root).unwrap_or(&path).display();
                    faults.push(format!("{name} does not begin with `//!`"));
                }
            }
        }
    }
    Ok(faults)
}

/// Source files, but not the tests of a module: those belong to what they test.
fn needs_documentation(path: &Path) -> bool {
    let source = path.extension().is_some_and(|extension| extension == "rs");
    source && path.file_stem().is_some_and(|stem| stem != "tests")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_in_fences_are_not_names() {
        assert_eq!(in_backticks("a `b` c `d`\n```\n`e`\n```\n`f`"), ["b", "d", "f"]);
    }

    #[test]
    fn paths_are_told_from_other_words() {
        assert_eq!(as_path("crates/sys/src/error.rs::SysError"), Some("crates/sys/src/error.rs"));
        assert_eq!(as_path("layers.toml"), Some("layers.toml"));
        assert_eq!(as_path("crates/<name>/src"), None);
        assert_eq!(as_path("/var/lib/insula"), None);
        assert_eq!(as_path("insula run"), None);
    }

    #[test]
    fn what_does_not_exist_is_reported() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("crates")).unwrap();
        std::fs::write(root.path().join("README.md"), "").unwrap();
        let document = root.path().join("ARCHITECTURE.md");
        let check = |text: &str| faults_of(text, &document, root.path(), &["test".to_owned()]);
        assert_eq!(check("`crates/`, `README.md`, [a](README.md#b), [c](https://x/y), `cargo xtask test`"), [""; 0]);
        assert_eq!(check("`crates/nothing`"), ["`crates/nothing` does not exist"]);
        assert_eq!(check("[a](nowhere.md)"), ["the link to nowhere.md leads nowhere"]);
        assert_eq!(check("`cargo xtask fly`"), ["there is no `cargo xtask fly`"]);
    }

    #[test]
    fn test_modules_need_no_words() {
        assert!(needs_documentation(Path::new("src/lib.rs")));
        assert!(!needs_documentation(Path::new("src/wire/tests.rs")));
        assert!(!needs_documentation(Path::new("src/profile.json")));
    }
}
