//! From files to one tree: which files, with which variables, and what they include and extend.

mod environment;
mod extends;
mod include;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use crate::interpolate::{Scope, Variable};
use crate::merge;
use crate::node::{FileError, Map, Mark, Node, Place, Value};
use crate::schema;
use crate::shape::{Shaper, clean};
use crate::yaml;

pub use crate::shape::Variables;
pub use environment::project_name;

/// The names that a file is looked for under, best first.
const NAMES: &[&str] = &["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"];
/// The names of what is laid over it without being named.
const OVERRIDES: &[&str] =
    &["compose.override.yml", "compose.override.yaml", "docker-compose.override.yml", "docker-compose.override.yaml"];
/// The most files that may include each other.
const MAX_INCLUDES: usize = 32;

/// What the user has said.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The files, in order; none: they are looked for.
    pub files: Vec<PathBuf>,
    /// The folder that relative paths begin at.
    pub directory: Option<PathBuf>,
    /// The project's name.
    pub name: Option<String>,
    /// Files of variables in place of `.env`.
    pub env_files: Vec<PathBuf>,
    /// Profiles that are active.
    pub profiles: Vec<String>,
    /// The user's environment.
    pub environment: BTreeMap<String, String>,
    /// The user's folder.
    pub current: PathBuf,
    /// Whether variables are replaced.
    pub variables: Variables,
}

/// Reads files: the disk's, or a test's.
pub struct Loader<'a> {
    read: &'a dyn Fn(&Path) -> io::Result<String>,
}

/// What was read, merged, in its long form; nothing is filled in yet.
#[derive(Debug)]
pub struct Loaded {
    /// The tree.
    pub root: Node,
    /// The project's name.
    pub name: String,
    /// The folder that relative paths began at.
    pub directory: PathBuf,
    /// The files, absolute.
    pub files: Vec<PathBuf>,
    /// The variables of the user and of env files.
    pub environment: BTreeMap<String, String>,
    /// Profiles that are active.
    pub profiles: Vec<String>,
    /// What is worth knowing but no mistake.
    pub warnings: Vec<String>,
    /// The variables that the files use.
    pub variables: BTreeMap<String, Variable>,
    /// Variables that secrets and configs of included projects name, and that only those projects' env files have.
    pub lent: BTreeMap<String, String>,
}

/// What one project's files, and those that they include, have in common.
struct Session<'a> {
    read: &'a dyn Fn(&Path) -> io::Result<String>,
    home: Option<PathBuf>,
    variables: Variables,
    missing: BTreeSet<String>,
    seen: BTreeMap<String, Variable>,
    warnings: Vec<String>,
    /// Included files that are being read.
    including: Vec<PathBuf>,
    /// Services that are being extended, with their files.
    extending: Vec<(String, String)>,
    /// Variables of included projects that their secrets and configs name.
    lent: BTreeMap<String, String>,
}

/// Where a file's paths and variables come from.
#[derive(Clone, Copy)]
struct Scene<'a> {
    base: &'a Path,
    environment: &'a BTreeMap<String, String>,
}

impl Loaded {
    /// Fills in what follows from what is said: the default network, and full names.
    ///
    /// # Errors
    /// None at present.
    pub fn fill(&mut self) -> Result<(), FileError> {
        crate::normal::fill(self)
    }
}

impl<'a> Loader<'a> {
    /// A loader that reads with `read`.
    #[must_use]
    pub fn new(read: &'a dyn Fn(&Path) -> io::Result<String>) -> Self {
        Self { read }
    }

    /// Finds the files, reads and merges them.
    ///
    /// # Errors
    /// [`FileError`]: no file, one that is wrong, a variable that has to be set, a bad project name.
    pub fn load(&self, options: &Options) -> Result<Loaded, FileError> {
        let mut environment = environment::gather(self.read, options)?;
        let mut warnings = Vec::new();
        let files = self.files(options, &environment, &mut warnings)?;
        let directory = match (&options.directory, files.first()) {
            (Some(directory), _) => clean(&options.current.join(directory)),
            (None, Some(first)) if first != Path::new("-") => first.parent().unwrap_or(&options.current).to_owned(),
            _ => options.current.clone(),
        };
        // the project's own folder may be known only now, through COMPOSE_FILE or from a folder below it
        environment::add_of_folder(self.read, options, &directory, &mut environment)?;
        let texts: Vec<(PathBuf, String)> =
            files.iter().map(|file| Ok((file.clone(), self.text(file)?))).collect::<Result<_, FileError>>()?;
        let name = environment::name(options, &environment, &texts, &directory)?;
        environment.insert("COMPOSE_PROJECT_NAME".to_owned(), name.clone());
        let home = options.environment.get("HOME").map(PathBuf::from);
        let mut session = Session {
            read: self.read,
            home,
            variables: options.variables,
            missing: BTreeSet::new(),
            seen: BTreeMap::new(),
            warnings,
            including: Vec::new(),
            extending: Vec::new(),
            lent: BTreeMap::new(),
        };
        let scene = Scene { base: &directory, environment: &environment };
        let mut root = session.merged(&texts, scene)?;
        merge::settle(&mut root);
        merge::order(&mut root, &schema::FILE);
        let mut warnings = session.warnings;
        for name in &session.missing {
            warnings.push(format!("the variable {name:?} is not set; a blank text stands for it"));
        }
        let profiles = match options.profiles.as_slice() {
            [] => environment
                .get("COMPOSE_PROFILES")
                .map(String::as_str)
                .unwrap_or_default()
                .split(',')
                .map(str::trim)
                .filter(|profile| !profile.is_empty())
                .map(str::to_owned)
                .collect(),
            given => given.to_vec(),
        };
        let (variables, lent) = (session.seen, session.lent);
        Ok(Loaded { root, name, directory, files, environment, profiles, warnings, variables, lent })
    }

    fn text(&self, file: &Path) -> Result<String, FileError> {
        (self.read)(file).map_err(|error| FileError::file(file, format!("cannot read the file: {error}")))
    }

    /// The files that were named, or that are found in the folder or one above.
    fn files(
        &self,
        options: &Options,
        environment: &BTreeMap<String, String>,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<PathBuf>, FileError> {
        let whole =
            |file: &Path| if file == Path::new("-") { file.to_owned() } else { clean(&options.current.join(file)) };
        if !options.files.is_empty() {
            return Ok(options.files.iter().map(|file| whole(file)).collect());
        }
        if let Some(list) = environment.get("COMPOSE_FILE").filter(|list| !list.is_empty()) {
            let separator = environment.get("COMPOSE_PATH_SEPARATOR").map_or(":", String::as_str);
            return Ok(list.split(separator).map(|file| whole(Path::new(file))).collect());
        }
        let begin = options.directory.as_deref().map_or_else(|| options.current.clone(), whole);
        let exists = |path: &Path| (self.read)(path).is_ok();
        for folder in begin.ancestors() {
            let found = |names: &[&str]| {
                names.iter().map(|name| folder.join(name)).filter(|path| exists(path)).collect::<Vec<_>>()
            };
            let mut found_here = found(NAMES);
            if let [first, second, ..] = found_here.as_slice() {
                let (first_name, second_name) = (first.display(), second.display());
                warnings.push(format!("both {first_name} and {second_name} are there; {first_name} is used"));
            }
            found_here.truncate(1);
            if !found_here.is_empty() {
                found_here.extend(found(OVERRIDES).into_iter().take(1));
                return Ok(found_here);
            }
        }
        let why = format!("there is no {} here or in a folder above; name one with: -f FILE", NAMES.join(", "));
        Err(FileError::model("", why))
    }
}

impl Session<'_> {
    /// Reads files that lie over each other, with all that they include.
    fn merged(&mut self, texts: &[(PathBuf, String)], scene: Scene<'_>) -> Result<Node, FileError> {
        let mut root: Option<Node> = None;
        for (file, text) in texts {
            for document in self.documents(file, text, scene)? {
                let document = self.included(document, scene)?;
                let document = self.extended(document, root.as_ref(), scene)?;
                root = Some(match root {
                    None => document,
                    Some(root) => merge::merge(root, document, &schema::FILE, "")?,
                });
            }
        }
        Ok(root.unwrap_or_else(|| Node::new(Value::Map(Map::default()), &Place::nowhere())))
    }

    /// A file's documents with variables replaced, in their long form.
    fn documents(&mut self, file: &Path, text: &str, scene: Scene<'_>) -> Result<Vec<Node>, FileError> {
        let shown = file.display().to_string();
        let mut documents = yaml::parse(text, &shown)?;
        documents.retain(|document| document.value != Value::Null);
        if documents.is_empty() {
            return Err(FileError::file(file, "the file is empty; it needs \"services\""));
        }
        let lookup = |name: &str| scene.environment.get(name).cloned();
        for document in &mut documents {
            if document.as_map().is_none() {
                let why = format!("must be a map with \"services\", not {}", document.kind());
                return Err(FileError::at(document, "", why));
            }
            if self.variables == Variables::Replaced {
                let mut scope = Scope::new(&lookup);
                scope.tree(document, "")?;
                self.missing.append(&mut scope.missing);
                self.seen.append(&mut scope.seen);
            }
            let shaper = Shaper { base: scene.base, home: self.home.as_deref(), variables: self.variables };
            *document = shaper.shape(document, &schema::FILE, "")?;
            if document.as_map_mut().and_then(|map| map.remove("version")).is_some() {
                self.warnings.push(format!("{shown}: \"version\" says nothing any more; remove it"));
            }
            names_are_sound(document)?;
        }
        Ok(documents)
    }
}

/// Names of services and of what they use: letters, digits, `.`, `_` and `-`.
fn names_are_sound(document: &Node) -> Result<(), FileError> {
    for section in ["services", "networks", "volumes", "secrets", "configs"] {
        let Some(map) = document.get(section).and_then(Node::as_map) else { continue };
        for (name, node) in map.iter() {
            let sound = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
            if (name.is_empty() || !name.chars().all(sound)) && node.mark != Mark::Reset {
                let why = format!("bad name {name:?}: give letters, digits, \".\", \"_\" and \"-\"");
                return Err(FileError::at(node, section, why));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
