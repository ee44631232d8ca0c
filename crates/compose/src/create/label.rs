//! Labels by which docker compose, and we, know what belongs to a project.

use std::collections::BTreeMap;

use super::{VERSION, Which};
use crate::hash;
use crate::project::{Project, Service};

/// The project's name.
pub const PROJECT: &str = "com.docker.compose.project";
/// The service's name.
pub const SERVICE: &str = "com.docker.compose.service";
/// The container's number.
pub const NUMBER: &str = "com.docker.compose.container-number";
/// `True` for a container of a single program, `False` for one of the service.
pub const ONE_OFF: &str = "com.docker.compose.oneoff";
/// The word that tells containers of single programs apart.
pub const SLUG: &str = "com.docker.compose.slug";
/// The hash of what the file says.
pub const HASH: &str = "com.docker.compose.config-hash";
/// The image's id when the container was made.
pub const IMAGE: &str = "com.docker.compose.image";
/// What it depends on.
pub const DEPENDS_ON: &str = "com.docker.compose.depends_on";
/// The files.
pub const FILES: &str = "com.docker.compose.project.config_files";
/// The project's folder.
pub const DIRECTORY: &str = "com.docker.compose.project.working_dir";
/// The container that this one takes the place of.
pub const REPLACE: &str = "com.docker.compose.replace";
/// A network's name in the file.
pub const NETWORK: &str = "com.docker.compose.network";
/// A volume's name in the file.
pub const VOLUME: &str = "com.docker.compose.volume";
const BY: &str = "com.docker.compose.version";

pub(super) fn of_container(
    project: &Project,
    service: &Service,
    which: &Which,
    image: &str,
) -> BTreeMap<String, String> {
    let files: Vec<String> = project.files.iter().map(|file| file.display().to_string()).collect();
    let depends: Vec<String> = service
        .spec
        .depends_on
        .iter()
        .map(|(name, dependency)| format!("{name}:{}:{}", dependency.condition, dependency.restart))
        .collect();
    let mut labels = vec![
        (PROJECT, project.name.clone()),
        (SERVICE, service.name.clone()),
        (BY, VERSION.to_owned()),
        (FILES, files.join(",")),
        (DIRECTORY, project.directory.display().to_string()),
        (HASH, hash::service(&service.node)),
        (DEPENDS_ON, depends.join(",")),
        (IMAGE, image.to_owned()),
    ];
    match which {
        Which::Number(number) => {
            labels.push((NUMBER, number.to_string()));
            labels.push((ONE_OFF, "False".to_owned()));
        }
        Which::OneOff(word) => {
            labels.push((NUMBER, "1".to_owned()));
            labels.push((ONE_OFF, "True".to_owned()));
            labels.push((SLUG, word.clone()));
        }
    }
    labels.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

pub(super) fn of_resource(project: &Project, kind: &str, key: &str, hash: String) -> BTreeMap<String, String> {
    let labels = [(PROJECT, project.name.clone()), (kind, key.to_owned()), (BY, VERSION.to_owned()), (HASH, hash)];
    labels.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
