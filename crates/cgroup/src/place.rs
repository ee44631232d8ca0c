//! Where a container's group belongs: the forms of `cgroupsPath`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::hierarchy::{Hierarchy, Kind};
use crate::host::Shared;
use crate::{CgroupError, Result};

/// Whose rights make the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rights {
    /// Root's: a group that can't be made is an error.
    #[default]
    Full,
    /// A user's: where the user may not make groups there is none, and only a limit that would need it is an error.
    User,
}

/// A group's path in each hierarchy, before it is made.
#[derive(Debug, Clone)]
pub struct Place {
    /// By slot, or one for all; without the leading slash.
    pub(crate) paths: Arc<[String]>,
    pub(crate) rights: Rights,
    /// Whether the user named the group, and so can't do without it.
    pub(crate) named: Named,
}

/// Whether somebody chose the path of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Named {
    ByConfig,
    ById,
}

impl Place {
    /// The same place for a process with other rights.
    #[must_use]
    pub fn with_rights(mut self, rights: Rights) -> Self {
        self.rights = rights;
        self
    }

    /// A place of this path in every hierarchy.
    pub(crate) fn absolute(path: &str, rights: Rights) -> Result<Self> {
        Ok(Self { paths: Arc::new([tidy(path)?]), rights, named: Named::ByConfig })
    }

    pub(crate) fn resolve(
        shared: &Shared,
        cgroups_path: Option<&str>,
        id: &str,
        own: impl FnOnce() -> Result<Own>,
    ) -> Result<Self> {
        let wanted = cgroups_path.filter(|path| !path.is_empty());
        let named = if wanted.is_some() { Named::ByConfig } else { Named::ById };
        let path = wanted.unwrap_or(id);
        let paths = if path.starts_with('/') {
            vec![tidy(path)?]
        } else {
            let below = tidy(path)?;
            let own = own()?;
            let join = |hierarchy: &Arc<Hierarchy>| {
                let top = own.of(hierarchy, shared.root_of(hierarchy));
                if top.is_empty() { below.clone() } else { format!("{top}/{below}") }
            };
            shared.hierarchies.iter().map(join).collect()
        };
        Ok(Self { paths: paths.into(), rights: Rights::Full, named })
    }
}

/// The groups that this process is in.
#[derive(Debug)]
pub(crate) struct Own(Vec<(Vec<String>, String)>);

impl Own {
    /// Takes them from the text of `/proc/self/cgroup`.
    ///
    /// # Source
    /// cgroups(7).
    pub(crate) fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            Some((controllers.split(',').map(str::to_owned).collect(), path.to_owned()))
        };
        Self(text.lines().filter_map(line).collect())
    }

    /// The group below which a relative path starts, as seen from the mount whose top is the group `root`; without the
    /// leading slash, and empty for the top.
    fn of(&self, hierarchy: &Hierarchy, root: &str) -> String {
        let is_it = |controllers: &Vec<String>| match hierarchy.kind {
            // Version 2 has no controllers in this table.
            Kind::V2 => controllers.iter().all(String::is_empty),
            Kind::V1 => hierarchy.controllers.iter().any(|name| controllers.contains(name)),
        };
        let Some((_, path)) = self.0.iter().find(|(controllers, _)| is_it(controllers)) else { return String::new() };
        let path = match path.strip_prefix(root.trim_end_matches('/')) {
            Some(below) if below.is_empty() || below.starts_with('/') => below,
            // Moved out of what is mounted: the top is all that there is for us.
            _ => "",
        };
        let path = match hierarchy.kind {
            Kind::V1 => path,
            Kind::V2 => path.rsplit_once('/').map_or("", |(parent, _)| parent),
        };
        if path.split('/').any(|part| part == "..") { String::new() } else { path.trim_matches('/').to_owned() }
    }
}

/// Checks a group path and takes off its leading slash.
pub(crate) fn plain(path: &str) -> Result<String> {
    let bad = || CgroupError::BadPath { path: path.to_owned() };
    let relative = path.strip_prefix('/').ok_or_else(bad)?;
    let fits = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\0', '\n']) && part.len() < 256;
    if relative.split('/').all(fits) { Ok(relative.to_owned()) } else { Err(bad()) }
}

/// As [`plain`], for a path that a person wrote: doubled and trailing slashes and single dots mean nothing.
fn tidy(path: &str) -> Result<String> {
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    plain(&format!("/{}", parts.join("/"))).map_err(|_| CgroupError::BadPath { path: path.to_owned() })
}
