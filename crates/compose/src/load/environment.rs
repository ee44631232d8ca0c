//! The variables that files are read with, and the project's name.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::Options;
use crate::dotenv::{self, Format};
use crate::interpolate::Scope;
use crate::node::{FileError, Value};
use crate::shape::clean;
use crate::yaml;

type Read<'a> = &'a dyn Fn(&Path) -> io::Result<String>;

/// The user's variables, and under them those of the files that were named, or of `.env` where the command was given: in the
/// project's folder as far as it is known already, or in the present one.
pub(super) fn gather(read: Read<'_>, options: &Options) -> Result<BTreeMap<String, String>, FileError> {
    let mut environment = options.environment.clone();
    let whole = |file: &Path| clean(&options.current.join(file));
    let named = named(options);
    if !named.is_empty() {
        let files: Vec<PathBuf> = named.iter().map(|file| whole(file)).collect();
        add_files(read, &files, &mut environment)?;
        return Ok(environment);
    }
    let first = options.files.first().filter(|file| *file != Path::new("-"));
    let folder = match (&options.directory, first) {
        (Some(directory), _) => whole(directory),
        (None, Some(first)) => whole(first).parent().map_or_else(|| options.current.clone(), Path::to_owned),
        (None, None) => options.current.clone(),
    };
    add_of_folder(read, options, &folder, &mut environment)?;
    Ok(environment)
}

/// The env files that were named, by flags or by a variable.
fn named(options: &Options) -> Vec<PathBuf> {
    if !options.env_files.is_empty() {
        return options.env_files.clone();
    }
    let list = options.environment.get("COMPOSE_ENV_FILES").map(String::as_str).unwrap_or_default();
    list.split(',').filter(|file| !file.is_empty()).map(PathBuf::from).collect()
}

/// Adds the variables of a folder's `.env`, unless others were named or none is wanted. What is known already stays: so the file
/// beside the command goes before the project's own, which the first one may have led to.
pub(super) fn add_of_folder(
    read: Read<'_>,
    options: &Options,
    folder: &Path,
    into: &mut BTreeMap<String, String>,
) -> Result<(), FileError> {
    let disabled = options.environment.get("COMPOSE_DISABLE_ENV_FILE").map(String::as_str);
    if !named(options).is_empty() || matches!(disabled, Some("1" | "true")) {
        return Ok(());
    }
    add_if_there(read, &folder.join(".env"), into)
}

/// Adds a file's variables; nothing if there is no such file.
pub(super) fn add_if_there(read: Read<'_>, file: &Path, into: &mut BTreeMap<String, String>) -> Result<(), FileError> {
    match read(file) {
        Ok(text) => add(&[(file.to_owned(), text)], into),
        Err(error)
            if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory) =>
        {
            Ok(())
        }
        Err(error) => Err(FileError::file(file, format!("cannot read the file: {error}"))),
    }
}

/// Adds the variables of files; later ones win over earlier ones, and what is there already over all.
pub(super) fn add_files(
    read: Read<'_>,
    files: &[PathBuf],
    into: &mut BTreeMap<String, String>,
) -> Result<(), FileError> {
    let mut texts = Vec::new();
    for file in files {
        let text = read(file).map_err(|error| FileError::file(file, format!("cannot read the env file: {error}")))?;
        texts.push((file.clone(), text));
    }
    add(&texts, into)
}

fn add(texts: &[(PathBuf, String)], into: &mut BTreeMap<String, String>) -> Result<(), FileError> {
    let mut read = BTreeMap::new();
    for (file, text) in texts {
        let lookup = |name: &str| into.get(name).or_else(|| read.get(name)).cloned();
        let variables =
            dotenv::parse(text, Format::Full, &lookup).map_err(|why| FileError::file(file, why.to_string()))?;
        read.extend(variables.into_iter().filter_map(|(name, value)| Some((name, value?))));
    }
    for (name, value) in read {
        into.entry(name).or_insert(value);
    }
    Ok(())
}

/// The project's name: what was said, the variable, the last file's `name`, or the folder's.
pub(super) fn name(
    options: &Options,
    environment: &BTreeMap<String, String>,
    texts: &[(PathBuf, String)],
    directory: &Path,
) -> Result<String, FileError> {
    let given = options.name.clone().or_else(|| environment.get("COMPOSE_PROJECT_NAME").cloned());
    if let Some(name) = given.filter(|name| !name.is_empty()) {
        return checked(&name, None);
    }
    let lookup = |name: &str| environment.get(name).cloned();
    let mut found = None;
    for (file, text) in texts {
        for document in yaml::parse(text, &file.display().to_string())? {
            if let Some(node) = document.get("name")
                && let Value::Text(text) = &node.value
            {
                let text = Scope::new(&lookup).text(text);
                let text = text.map_err(|why| FileError::at(node, "name", why.to_string()))?;
                found = Some(checked(&text, Some(FileError::at(node, "name", String::new())))?);
            }
        }
    }
    if let Some(name) = found {
        return Ok(name);
    }
    let folder = directory.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = project_name(&folder);
    if name.is_empty() {
        let why = format!("no project name can be made of the folder's name {folder:?}; give one with: -p NAME");
        return Err(FileError::model("", why));
    }
    Ok(name)
}

fn checked(name: &str, at: Option<FileError>) -> Result<String, FileError> {
    if project_name(name) == name && !name.is_empty() {
        return Ok(name.to_owned());
    }
    let why =
        format!("bad project name {name:?}: give small letters, digits, \"_\" and \"-\", a letter or digit first");
    Err(FileError { why, ..at.unwrap_or_else(|| FileError::model("", "")) })
}

/// A folder's name as a project's: small letters, digits, `_` and `-`, and no `_` or `-` first.
#[must_use]
pub fn project_name(text: &str) -> String {
    let lower = text.to_lowercase();
    let kept: String = lower
        .chars()
        .filter(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || "_-".contains(*letter))
        .collect();
    kept.trim_start_matches(['_', '-']).to_owned()
}
