//! `extends`: a service that begins as another one, of this file or of another.

use std::path::{Path, PathBuf};

use super::{Scene, Session};
use crate::interpolate::join;
use crate::merge;
use crate::node::{FileError, Map, Node};
use crate::schema;
use crate::shape::Type;

/// The most services that may extend each other.
const MAX_CHAIN: usize = 64;

static SERVICE: Type = Type::Record(&schema::SERVICE);

impl Session<'_> {
    /// A document whose services stand on their own; `before` is what earlier files have said.
    pub(super) fn extended(
        &mut self,
        mut document: Node,
        before: Option<&Node>,
        scene: Scene<'_>,
    ) -> Result<Node, FileError> {
        let Some(services) = document.get("services").and_then(Node::as_map).cloned() else { return Ok(document) };
        if services.iter().all(|(_, service)| service.get("extends").is_none()) {
            return Ok(document);
        }
        let mut whole = Map::default();
        for (name, service) in services.iter() {
            whole.insert(name.as_str(), self.resolved(name, service, &services, before, scene)?);
        }
        if let Some(section) = document.as_map_mut().and_then(|map| map.get_mut("services")) {
            section.value = crate::node::Value::Map(whole);
        }
        Ok(document)
    }

    /// One service on its own.
    fn resolved(
        &mut self,
        name: &str,
        service: &Node,
        services: &Map,
        before: Option<&Node>,
        scene: Scene<'_>,
    ) -> Result<Node, FileError> {
        let Some(extends) = service.get("extends") else { return Ok(service.clone()) };
        let path = join(&join("services", name), "extends");
        let key = (service.place.file.to_string(), name.to_owned());
        if self.extending.contains(&key) || self.extending.len() >= MAX_CHAIN {
            let chain: Vec<&str> = self.extending.iter().map(|(_, name)| name.as_str()).chain([name]).collect();
            let why =
                format!("services extend each other in a circle: {}; remove one of the links", chain.join(" -> "));
            return Err(FileError::at(extends, &path, why));
        }
        let wanted = extends.text_of("service").unwrap_or_default().to_owned();
        let mut own = service.clone();
        if let Some(map) = own.as_map_mut() {
            map.remove("extends");
        }
        self.extending.push(key);
        let base = match extends.text_of("file") {
            Some(file) => self.foreign(extends, &path, Path::new(file), &wanted, scene),
            None => {
                let earlier = || before?.get("services")?.get(&wanted);
                match services.get(&wanted).or_else(earlier) {
                    Some(base) => self.resolved(&wanted, base, services, before, scene),
                    None => Err(FileError::at(extends, &path, format!("there is no service {wanted:?} here"))),
                }
            }
        };
        self.extending.pop();
        merge::merge(base?, own, &SERVICE, &join("services", name))
    }

    /// A service of another file, whose paths are relative to that file.
    fn foreign(
        &mut self,
        extends: &Node,
        path: &str,
        file: &Path,
        wanted: &str,
        scene: Scene<'_>,
    ) -> Result<Node, FileError> {
        let text = (self.read)(file)
            .map_err(|error| FileError::at(extends, path, format!("cannot read {}: {error}", file.display())))?;
        let base: PathBuf = file.parent().unwrap_or(Path::new("/")).to_owned();
        let scene = Scene { base: &base, environment: scene.environment };
        let mut found = None;
        for document in self.documents(file, &text, scene)? {
            let Some(services) = document.get("services").and_then(Node::as_map) else { continue };
            if let Some(service) = services.get(wanted) {
                found = Some(self.resolved(wanted, service, services, None, scene)?);
            }
        }
        found.ok_or_else(|| {
            FileError::at(extends, path, format!("there is no service {wanted:?} in {}", file.display()))
        })
    }
}
