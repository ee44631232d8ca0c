//! `include`: whole projects within one, each with its own folder and variables.

use std::path::{Path, PathBuf};

use super::{MAX_INCLUDES, Scene, Session, environment};
use crate::interpolate::join;
use crate::node::{FileError, Map, Node, Value};

/// What a project is made of, beside its services.
const SECTIONS: &[&str] = &["services", "networks", "volumes", "secrets", "configs", "models"];

impl Session<'_> {
    /// A document with all that it includes.
    pub(super) fn included(&mut self, mut document: Node, scene: Scene<'_>) -> Result<Node, FileError> {
        let Some(list) = document.as_map_mut().and_then(|map| map.remove("include")) else { return Ok(document) };
        for (index, entry) in list.elements().iter().enumerate() {
            let path = format!("include[{index}]");
            let project = self.project(entry, &path, scene)?;
            for section in SECTIONS {
                if let Some(theirs) = project.get(section).and_then(Node::as_map) {
                    add(&mut document, section, theirs)?;
                }
            }
        }
        Ok(document)
    }

    fn project(&mut self, entry: &Node, path: &str, scene: Scene<'_>) -> Result<Node, FileError> {
        let texts_of = |name: &str| -> Vec<PathBuf> {
            let list = entry.get(name).map(Node::elements).unwrap_or_default();
            list.iter().filter_map(Node::as_text).map(PathBuf::from).collect()
        };
        let files = texts_of("path");
        let Some(first) = files.first() else {
            return Err(FileError::at(entry, path, "needs \"path\", a Compose file"));
        };
        if self.including.contains(first) || self.including.len() >= MAX_INCLUDES {
            let why = format!("{} includes itself; remove one of the two", first.display());
            return Err(FileError::at(entry, path, why));
        }
        let base = match entry.text_of("project_directory") {
            Some(directory) => PathBuf::from(directory),
            None => first.parent().unwrap_or(Path::new("/")).to_owned(),
        };
        let mut variables = scene.environment.clone();
        let env_files = texts_of("env_file");
        if env_files.is_empty() {
            environment::add_if_there(self.read, &base.join(".env"), &mut variables)?;
        } else if env_files != [Path::new("/dev/null")] {
            environment::add_files(self.read, &env_files, &mut variables)?;
        }
        let mut texts = Vec::new();
        for file in &files {
            let text = (self.read)(file);
            let text =
                text.map_err(|error| FileError::at(entry, path, format!("cannot read {}: {error}", file.display())))?;
            texts.push((file.clone(), text));
        }
        self.including.push(first.clone());
        let project = self.merged(&texts, Scene { base: &base, environment: &variables });
        self.including.pop();
        let project = project?;
        for section in ["secrets", "configs"] {
            let objects = project.get(section).and_then(Node::as_map).into_iter().flat_map(Map::iter);
            for name in objects.filter_map(|(_, object)| object.text_of("environment")) {
                if let Some(value) = variables.get(name).filter(|_| !scene.environment.contains_key(name)) {
                    self.lent.insert(name.to_owned(), value.clone());
                }
            }
        }
        Ok(project)
    }
}

/// Adds what another project has; what both have has to be the same.
fn add(document: &mut Node, section: &str, theirs: &Map) -> Result<(), FileError> {
    let empty = Node::new(Value::Map(Map::default()), &document.place);
    let Some(map) = document.as_map_mut() else { return Ok(()) };
    if map.get(section).is_none() {
        map.insert(section, empty);
    }
    let Some(ours) = map.get_mut(section).and_then(Node::as_map_mut) else { return Ok(()) };
    for (name, node) in theirs.iter() {
        match ours.get(name) {
            None => ours.insert(name.as_str(), node.clone()),
            Some(own) if own == node => {}
            Some(own) => {
                let why = format!(
                    "is in the included {} as well; rename one, or change it in a file that is laid over: -f {} -f OVERRIDE",
                    node.place.file, own.place.file
                );
                return Err(FileError::at(own, &join(section, name), why));
            }
        }
    }
    Ok(())
}
