//! A project as its commands use it: services that stand on their own, and what they share.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::interpolate::Variable;
use crate::load::Loaded;
use crate::node::{FileError, Map, Node, Place, Value};
use crate::shape::{Shaper, Type, Variables};
use crate::{merge, normal, schema};

mod spec;

pub use spec::*;

/// One service.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// What the file says, in its long form.
    pub node: Node,
    /// The same, typed.
    pub spec: ServiceSpec,
}

/// Something that services share: a network, volume, secret or config.
#[derive(Debug, Clone)]
pub struct Resource<T> {
    /// What the file says, in its long form.
    pub node: Node,
    /// The same, typed.
    pub spec: T,
}

/// A project.
#[derive(Debug, Clone)]
pub struct Project {
    /// Its name.
    pub name: String,
    /// What stands between the parts of containers' and images' names: `-`, and `_` for docker-compose 1.
    pub separator: char,
    /// The folder that relative paths began at.
    pub directory: PathBuf,
    /// Its files, absolute.
    pub files: Vec<PathBuf>,
    /// The variables of the user and of env files.
    pub environment: BTreeMap<String, String>,
    /// Profiles that are active.
    pub profiles: Vec<String>,
    /// The services that take part.
    pub services: BTreeMap<String, Service>,
    /// Services that no active profile has, or that were not asked for.
    pub disabled: BTreeMap<String, Service>,
    /// Networks by the names that the file gives them.
    pub networks: BTreeMap<String, Resource<NetworkSpec>>,
    /// Volumes.
    pub volumes: BTreeMap<String, Resource<VolumeSpec>>,
    /// Secrets.
    pub secrets: BTreeMap<String, Resource<ObjectSpec>>,
    /// Configs.
    pub configs: BTreeMap<String, Resource<ObjectSpec>>,
    /// Models.
    pub models: BTreeMap<String, Resource<ModelSpec>>,
    /// What users keep below names of their own.
    pub rest: Map,
    /// What is worth knowing but no mistake.
    pub warnings: Vec<String>,
    /// The variables that the files use.
    pub variables: BTreeMap<String, Variable>,
    /// Variables that secrets and configs of included projects name, and that only those projects' env files have.
    pub lent: BTreeMap<String, String>,
}

/// Whether what services need comes with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dependencies {
    /// It does.
    Included,
    /// It does not.
    Ignored,
    /// What needs them comes with them.
    Dependents,
}

impl Service {
    /// Makes a service of its long form.
    ///
    /// # Errors
    /// What the form allows but makes no sense.
    pub fn new(name: &str, mut node: Node) -> Result<Self, FileError> {
        merge::order(&mut node, &Type::Record(&schema::SERVICE));
        let spec = typed(&node, &format!("services.{name}"))?;
        Ok(Self { name: name.to_owned(), node, spec })
    }

    /// The service with a part of another laid over it, whose relative paths begin at `base`.
    ///
    /// # Errors
    /// What is wrong in the part.
    pub fn overlaid(&self, over: &Node, base: &Path) -> Result<Self, FileError> {
        let kind = Type::Record(&schema::SERVICE);
        let shaper = Shaper { base, home: None, variables: Variables::Replaced };
        let over = shaper.shape(over, &kind, "")?;
        Self::new(&self.name, merge::merge(self.node.clone(), over, &kind, "")?)
    }

    /// The service with more variables in its environment.
    ///
    /// # Errors
    /// None that the service itself has not.
    pub fn with_variables(&self, variables: &BTreeMap<String, String>) -> Result<Self, FileError> {
        let mut node = self.node.clone();
        let place = node.place.clone();
        if let Some(map) = node.as_map_mut() {
            if map.get("environment").and_then(Node::as_map).is_none() {
                map.insert("environment", Node::new(Value::Map(Map::default()), &place));
            }
            for (name, value) in variables {
                if let Some(environment) = map.get_mut("environment").and_then(Node::as_map_mut) {
                    environment.insert(name.as_str(), Node::new(Value::Text(value.clone()), &place));
                }
            }
        }
        merge::order(&mut node, &Type::Record(&schema::SERVICE));
        let mut changed = Self::new(&self.name, node)?;
        // the user may have asked for another number than the file
        changed.spec.scale = self.spec.scale;
        Ok(changed)
    }

    /// How many containers it has.
    #[must_use]
    pub fn scale(&self) -> usize {
        let deploy = self.spec.deploy.as_ref().and_then(|deploy| deploy.replicas);
        usize::try_from(self.spec.scale.or(deploy).unwrap_or(1)).unwrap_or(0)
    }

    /// Sets how many containers it has.
    pub fn set_scale(&mut self, scale: usize) {
        let scale = i64::try_from(scale).unwrap_or(i64::MAX);
        self.spec.scale = Some(scale);
        if let Some(deploy) = &mut self.spec.deploy {
            deploy.replicas = Some(scale);
        }
    }

    /// The image's name: the one that is given, or the one that a build gets.
    #[must_use]
    pub fn image(&self, project: &Project) -> String {
        let built = || format!("{}{}{}", project.name, project.separator, self.name);
        self.spec.image.clone().unwrap_or_else(built)
    }

    /// The networks that its containers join, the first one first: by priority, and then by name.
    #[must_use]
    pub fn networks(&self) -> Vec<(&str, Option<&Attachment>)> {
        let mut networks: Vec<(&str, Option<&Attachment>)> =
            self.spec.networks.iter().map(|(name, attachment)| (name.as_str(), attachment.as_ref())).collect();
        networks
            .sort_by_key(|(_, attachment)| std::cmp::Reverse(attachment.map_or(0, |attachment| attachment.priority)));
        networks
    }
}

fn typed<T: for<'de> Deserialize<'de>>(node: &Node, path: &str) -> Result<T, FileError> {
    serde_json::from_value(node.to_json()).map_err(|error| FileError::at(node, path, error.to_string()))
}

fn resources<T: for<'de> Deserialize<'de>>(
    root: &mut Node,
    section: &str,
    kind: &Type,
) -> Result<BTreeMap<String, Resource<T>>, FileError> {
    let mut found = BTreeMap::new();
    let Some(Node { value: Value::Map(map), .. }) = root.as_map_mut().and_then(|map| map.remove(section)) else {
        return Ok(found);
    };
    for (name, mut node) in map {
        merge::order(&mut node, kind);
        let spec = typed(&node, &format!("{section}.{name}"))?;
        found.insert(name, Resource { node, spec });
    }
    Ok(found)
}

impl Project {
    /// Makes a project of what was loaded. Services that are `wanted` take part whatever their profiles are.
    ///
    /// # Errors
    /// Contradictions, and names of what is not there.
    pub fn new(mut loaded: Loaded, wanted: &[String]) -> Result<Self, FileError> {
        normal::fill(&mut loaded)?;
        let mut root = loaded.root;
        let mut project = Self {
            name: loaded.name,
            separator: '-',
            directory: loaded.directory,
            files: loaded.files,
            environment: loaded.environment,
            profiles: loaded.profiles,
            services: BTreeMap::new(),
            disabled: BTreeMap::new(),
            networks: resources(&mut root, "networks", &schema::NETWORK_TYPE)?,
            volumes: resources(&mut root, "volumes", &schema::VOLUME_TYPE)?,
            secrets: resources(&mut root, "secrets", &schema::OBJECT_TYPE)?,
            configs: resources(&mut root, "configs", &schema::OBJECT_TYPE)?,
            models: resources(&mut root, "models", &schema::MODEL_TYPE)?,
            rest: Map::default(),
            warnings: loaded.warnings,
            variables: loaded.variables,
            lent: loaded.lent,
        };
        if let Some(Node { value: Value::Map(map), .. }) = root.as_map_mut().and_then(|map| map.remove("services")) {
            for (name, node) in map {
                let service = Service::new(&name, node)?;
                let active = project.is_active(&service, wanted);
                let into = if active { &mut project.services } else { &mut project.disabled };
                into.insert(name, service);
            }
        }
        if let Value::Map(mut rest) = root.value {
            rest.remove("name");
            let mut rest = Node::new(Value::Map(rest), &Place::nowhere());
            merge::order(&mut rest, &Type::Any);
            project.rest = rest.as_map().cloned().unwrap_or_default();
        }
        normal::check(&project)?;
        Ok(project)
    }

    fn is_active(&self, service: &Service, wanted: &[String]) -> bool {
        let profiles = &service.spec.profiles;
        profiles.is_empty()
            || wanted.contains(&service.name)
            || self.profiles.iter().any(|active| active == "*" || profiles.contains(active))
    }

    /// Reads the services' env files and label files, and takes variables without a value from the user's.
    ///
    /// # Errors
    /// A file that cannot be read or makes no sense.
    pub fn resolve(&mut self, read: &dyn Fn(&Path) -> io::Result<String>) -> Result<(), FileError> {
        for service in self.services.values_mut() {
            normal::environment(service, &self.environment, read)?;
        }
        Ok(())
    }

    /// Leaves label files out, whose labels have been read, as what is shown of a project has it.
    pub fn without_label_files(&mut self) {
        for service in self.services.values_mut() {
            if let Some(map) = service.node.as_map_mut() {
                map.remove("label_file");
            }
        }
    }

    /// What a variable holds that a secret or config names.
    #[must_use]
    pub fn variable_of_object(&self, name: &str) -> Option<&String> {
        self.environment.get(name).or_else(|| self.lent.get(name))
    }

    /// Leaves those services taking part that are named, and what they need.
    ///
    /// # Errors
    /// A name that no service has.
    pub fn select(&mut self, names: &[String], dependencies: Dependencies) -> Result<(), FileError> {
        if names.is_empty() {
            return Ok(());
        }
        let mut kept: Vec<String> = Vec::new();
        let mut ahead: Vec<String> = names.to_vec();
        while let Some(name) = ahead.pop() {
            if kept.contains(&name) {
                continue;
            }
            let Some(service) = self.services.get(&name) else {
                if names.contains(&name) {
                    return Err(FileError::model("", format!("no such service: {name}")));
                }
                // what is not required may be missing
                continue;
            };
            match dependencies {
                Dependencies::Included => ahead.extend(service.spec.depends_on.keys().cloned()),
                Dependencies::Dependents => {
                    let needs = |other: &&Service| other.spec.depends_on.contains_key(&name);
                    ahead.extend(self.services.values().filter(needs).map(|other| other.name.clone()));
                }
                Dependencies::Ignored => {}
            }
            kept.push(name);
        }
        let (kept, other) = std::mem::take(&mut self.services).into_iter().partition(|(name, _)| kept.contains(name));
        self.services = kept;
        self.disabled.extend(other);
        Ok(())
    }

    /// Takes away what no service uses.
    pub fn drop_unused(&mut self) {
        let used =
            |find: &dyn Fn(&Service) -> Vec<String>| -> Vec<String> { self.services.values().flat_map(find).collect() };
        let networks = used(&|service| service.spec.networks.keys().cloned().collect());
        let volumes = used(&|service| {
            let named = service.spec.volumes.iter().filter(|mount| mount.kind == "volume");
            named.filter_map(|mount| mount.source.clone()).collect()
        });
        let secrets = used(&|service| {
            let built = service.spec.build.iter().flat_map(|build| build.secrets.iter());
            service.spec.secrets.iter().chain(built).map(|reference| reference.source.clone()).collect()
        });
        let configs = used(&|service| service.spec.configs.iter().map(|reference| reference.source.clone()).collect());
        let models = used(&|service| service.spec.models.keys().cloned().collect());
        self.networks.retain(|name, _| networks.contains(name));
        self.volumes.retain(|name, _| volumes.contains(name));
        self.secrets.retain(|name, _| secrets.contains(name));
        self.configs.retain(|name, _| configs.contains(name));
        self.models.retain(|name, _| models.contains(name));
    }

    /// The whole project as one tree, as `config` shows it.
    #[must_use]
    pub fn tree(&self) -> Node {
        let place = Place::nowhere();
        let node = |value: Value| Node::new(value, &place);
        let mut root = Map::default();
        root.insert("name", node(Value::Text(self.name.clone())));
        let services = self.services.iter().map(|(name, service)| (name.clone(), service.node.clone()));
        root.insert("services", node(Value::Map(services.collect())));
        let mut section = |name: &str, nodes: Map| {
            if !nodes.is_empty() {
                root.insert(name, node(Value::Map(nodes)));
            }
        };
        section("networks", self.networks.iter().map(|(name, one)| (name.clone(), one.node.clone())).collect());
        section("volumes", self.volumes.iter().map(|(name, one)| (name.clone(), one.node.clone())).collect());
        section("secrets", self.secrets.iter().map(|(name, one)| (name.clone(), one.node.clone())).collect());
        section("configs", self.configs.iter().map(|(name, one)| (name.clone(), one.node.clone())).collect());
        section("models", self.models.iter().map(|(name, one)| (name.clone(), one.node.clone())).collect());
        for (name, value) in self.rest.iter() {
            root.insert(name.as_str(), value.clone());
        }
        node(Value::Map(root))
    }
}
