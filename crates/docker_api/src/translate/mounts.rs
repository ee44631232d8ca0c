//! Binds, volumes and tmpfs: Docker has four places for them.

use super::{parse_bytes, text};
use crate::error::ApiError;
use docker_wire::models::{self, HostConfig};
use engine::model::{Mount, MountKind, Propagation, ReadOnlyDepth};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};

fn target(path: &str, spec: &str) -> Result<String, ApiError> {
    let clean: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if !path.starts_with('/') || clean.contains(&"..") {
        return Err(ApiError::invalid(format!("invalid mount {spec:?}: mount path must be absolute, without ..")));
    }
    if clean.is_empty() {
        return Err(ApiError::invalid(format!("invalid mount {spec:?}: the destination can't be '/'")));
    }
    Ok(format!("/{}", clean.join("/")))
}

fn propagation(word: &str) -> Option<Propagation> {
    Some(match word {
        "rprivate" => Propagation::Rprivate,
        "private" => Propagation::Private,
        "rshared" => Propagation::Rshared,
        "shared" => Propagation::Shared,
        "rslave" => Propagation::Rslave,
        "slave" => Propagation::Slave,
        _ => return None,
    })
}

pub(crate) fn propagation_word(propagation: Propagation) -> &'static str {
    match propagation {
        Propagation::Unsaid | Propagation::Rprivate => "rprivate",
        Propagation::Private => "private",
        Propagation::Rshared => "rshared",
        Propagation::Shared => "shared",
        Propagation::Rslave => "rslave",
        Propagation::Slave => "slave",
    }
}

fn check_volume_name(name: &str) -> Result<(), ApiError> {
    let mut bytes = name.bytes();
    let good = name.len() >= 2
        && bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if good {
        return Ok(());
    }
    Err(ApiError::invalid(format!(
        "{name:?} is no volume name: two or more letters, digits, '_', '.' and '-' make one; if you mean a folder of the host, \
         use its absolute path"
    )))
}

/// `SOURCE:TARGET[:OPTIONS]`, or `TARGET` alone for an anonymous volume.
pub(crate) fn bind(spec: &str) -> Result<Mount, ApiError> {
    let invalid = |why: &str| ApiError::invalid(format!("invalid volume specification: '{spec}': {why}"));
    let parts: Vec<&str> = spec.split(':').collect();
    let (source, path, options) = match *parts.as_slice() {
        [path] => (None, path, ""),
        [source, path] if !source.is_empty() => (Some(source), path, ""),
        [source, path, options] if !source.is_empty() => (Some(source), path, options),
        _ => return Err(invalid("write it SOURCE:TARGET[:OPTIONS]")),
    };
    let is_path = source.is_some_and(|source| source.starts_with('/'));
    let (mut read_only, mut no_copy, mut travel) = (None, false, None);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" | "rw" if read_only.is_none() => read_only = Some(option == "ro"),
            "nocopy" if !is_path => no_copy = true,
            // SELinux labels where there is no SELinux, and hints for other systems' file sharing: without effect here
            "z" | "Z" | "consistent" | "cached" | "delegated" => {}
            word if is_path && travel.is_none() && propagation(word).is_some() => travel = propagation(word),
            _ => return Err(invalid(&format!("unknown or repeated option {option:?}"))),
        }
    }
    let kind = match source {
        Some(source) if is_path => MountKind::Bind {
            source: source.to_owned(),
            create_source: true,
            propagation: travel.unwrap_or_default(),
            non_recursive: false,
            read_only_depth: ReadOnlyDepth::default(),
        },
        Some(name) => {
            check_volume_name(name)?;
            volume(Some(name.to_owned()), no_copy)
        }
        None => volume(None, no_copy),
    };
    Ok(Mount { target: target(path, spec)?, read_only: read_only.unwrap_or(false), kind })
}

fn volume(name: Option<String>, no_copy: bool) -> MountKind {
    let (labels, options) = (BTreeMap::new(), BTreeMap::new());
    MountKind::Volume { name, no_copy, subpath: None, labels, options }
}

/// `TARGET` with options as mount(8) has them.
pub(crate) fn tmpfs(path: &str, options: &str) -> Result<Mount, ApiError> {
    let invalid = |why: String| ApiError::invalid(format!("invalid tmpfs options {options:?} for {path}: {why}"));
    let (mut bytes, mut mode, mut read_only, mut rest) = (None, None, false, Vec::new());
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("size", size)) => {
                bytes = Some(parse_bytes(size).ok_or_else(|| invalid(format!("{size:?} is not a size")))?);
            }
            Some(("mode", octal)) => {
                let bits = u32::from_str_radix(octal, 8).ok().filter(|bits| *bits <= 0o7777);
                mode = Some(bits.ok_or_else(|| invalid(format!("{octal:?} is not a mode")))?);
            }
            None if option == "ro" || option == "rw" => read_only = option == "ro",
            _ => rest.push(option.to_owned()),
        }
    }
    Ok(Mount { target: target(path, path)?, read_only, kind: MountKind::Tmpfs { bytes, mode, options: rest } })
}

fn structured(mount: models::Mount) -> Result<Mount, ApiError> {
    use models::MountType as Type;
    let path =
        text(mount.target).ok_or_else(|| ApiError::invalid("invalid mount config: field Target must not be empty"))?;
    let invalid = |why: &str| ApiError::invalid(format!("invalid mount config for {path}: {why}"));
    let source = text(mount.source);
    let misplaced = |wrong: bool, options: &str| {
        if wrong { Err(invalid(&format!("{options} must not be specified for this type"))) } else { Ok(()) }
    };
    misplaced(mount.bind_options.is_some() && mount.typ != Some(Type::BIND), "BindOptions")?;
    misplaced(mount.volume_options.is_some() && mount.typ != Some(Type::VOLUME), "VolumeOptions")?;
    misplaced(mount.image_options.is_some() && mount.typ != Some(Type::IMAGE), "ImageOptions")?;
    misplaced(mount.tmpfs_options.is_some() && mount.typ != Some(Type::TMPFS), "TmpfsOptions")?;
    let kind = match mount.typ {
        Some(Type::BIND) => {
            let source = source.ok_or_else(|| invalid("field Source must not be empty"))?;
            if !source.starts_with('/') {
                return Err(invalid(&format!("the source {source:?} must be an absolute path")));
            }
            bind_kind(source, mount.bind_options.unwrap_or_default())?
        }
        Some(Type::VOLUME) => {
            let options = mount.volume_options.unwrap_or_default();
            if let Some(name) = &source {
                check_volume_name(name)?;
            }
            let driver = options.driver_config.unwrap_or_default();
            local_driver(driver.name.as_deref(), source.as_deref().unwrap_or_default())?;
            MountKind::Volume {
                name: source,
                no_copy: options.no_copy.unwrap_or(false),
                subpath: text(options.subpath),
                labels: options.labels.unwrap_or_default().into_iter().collect(),
                options: driver.options.unwrap_or_default().into_iter().collect(),
            }
        }
        Some(Type::IMAGE) => MountKind::Image {
            image: source.ok_or_else(|| invalid("field Source must not be empty"))?,
            subpath: mount.image_options.clone().and_then(|options| text(options.subpath)),
        },
        Some(Type::TMPFS) => {
            if source.is_some() {
                return Err(invalid("Source must not be specified for a tmpfs"));
            }
            tmpfs_kind(mount.tmpfs_options.unwrap_or_default(), &path)?
        }
        Some(other) => {
            return Err(ApiError::unsupported(format!(
                "mount type {other} is not supported; use bind, volume, image or tmpfs"
            )));
        }
        None => return Err(invalid("field Type must be bind, volume, image or tmpfs")),
    };
    Ok(Mount { target: target(&path, &path)?, read_only: mount.read_only.unwrap_or(false), kind })
}

fn bind_kind(source: String, options: models::MountBindOptions) -> Result<MountKind, ApiError> {
    let on = |option: Option<bool>| option.unwrap_or(false);
    let read_only_depth = match (on(options.read_only_non_recursive), on(options.read_only_force_recursive)) {
        (true, true) => {
            return Err(ApiError::invalid(
                "invalid mount config for type \"bind\": ReadOnlyForceRecursive and ReadOnlyNonRecursive cannot be set at the same time",
            ));
        }
        (true, false) => ReadOnlyDepth::Top,
        (false, true) => ReadOnlyDepth::Forced,
        (false, false) => ReadOnlyDepth::Recursive,
    };
    let travel = options.propagation.map(|word| word.to_string()).filter(|word| !word.is_empty());
    Ok(MountKind::Bind {
        source,
        create_source: on(options.create_mountpoint),
        propagation: travel.and_then(|word| propagation(&word)).unwrap_or_default(),
        non_recursive: on(options.non_recursive),
        read_only_depth,
    })
}

/// Volumes are kept by the local driver; there are no others.
pub(crate) fn local_driver(driver: Option<&str>, volume: &str) -> Result<(), ApiError> {
    match driver.unwrap_or_default() {
        "" | "local" => Ok(()),
        other => Err(ApiError::not_found(format!(
            "create {volume}: error looking up volume plugin {other}: plugin \"{other}\" not found; there is the driver local"
        ))),
    }
}

fn tmpfs_kind(options: models::MountTmpfsOptions, path: &str) -> Result<MountKind, ApiError> {
    let bytes = options.size_bytes.filter(|size| *size != 0);
    let bytes = bytes
        .map(u64::try_from)
        .transpose()
        .map_err(|_| ApiError::invalid(format!("invalid tmpfs size for {path}")))?;
    let mode = options.mode.filter(|mode| *mode != 0);
    let mode = mode.map(u32::try_from).transpose().ok().filter(|mode| mode.is_none_or(|bits| bits <= 0o7777));
    let mode = mode.ok_or_else(|| ApiError::invalid(format!("invalid tmpfs mode for {path}")))?;
    let words = options.options.unwrap_or_default().iter().map(|words| words.join("=")).collect();
    Ok(MountKind::Tmpfs { bytes, mode, options: words })
}

/// Takes all mounts out of a request: binds, structured mounts, tmpfs, and the anonymous volumes that nothing else covers.
pub(crate) fn take(host: &mut HostConfig, volumes: Vec<String>) -> Result<Vec<Mount>, ApiError> {
    let mut mounts = Vec::new();
    for spec in host.binds.take().unwrap_or_default() {
        mounts.push(bind(&spec)?);
    }
    for mount in host.mounts.take().unwrap_or_default() {
        mounts.push(structured(mount)?);
    }
    let sorted: BTreeMap<_, _> = host.tmpfs.take().unwrap_or_default().into_iter().collect();
    for (path, options) in sorted {
        mounts.push(tmpfs(&path, &options)?);
    }
    let mut taken = BTreeSet::new();
    if let Some(twice) = mounts.iter().find(|mount| !taken.insert(mount.target.clone())) {
        return Err(ApiError::invalid(format!("Duplicate mount point: {}", twice.target)));
    }
    let driver = text(host.volume_driver.take()).filter(|driver| driver != "local");
    let named = mounts.iter().any(|mount| matches!(mount.kind, MountKind::Volume { .. }));
    if let Some(driver) = driver.filter(|_| named || !volumes.is_empty()) {
        return Err(ApiError::invalid(format!(
            "error looking up volume plugin {driver}: plugin \"{driver}\" not found"
        )));
    }
    let anonymous: BTreeSet<String> = volumes.iter().map(|path| target(path, path)).collect::<Result<_, _>>()?;
    let fresh = anonymous.into_iter().filter(|path| !taken.contains(path));
    mounts.extend(fresh.map(|target| Mount { target, read_only: false, kind: MountKind::volume(None) }));
    Ok(mounts)
}

/// What is shown again as it was given: there are several ways to say the same, and clients compare.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    binds: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mounts: Vec<models::Mount>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tmpfs: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    volume_driver: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    isolation: Option<models::HostConfigIsolationEnum>,
}

impl Asked {
    /// What a request says, as text; none if it says nothing of it.
    pub(crate) fn of(host: &HostConfig) -> Option<String> {
        let asked = Self {
            binds: host.binds.clone().unwrap_or_default(),
            mounts: host.mounts.clone().unwrap_or_default(),
            tmpfs: host.tmpfs.clone().unwrap_or_default().into_iter().collect(),
            volume_driver: text(host.volume_driver.clone()),
            isolation: host.isolation.filter(|isolation| *isolation != models::HostConfigIsolationEnum::EMPTY),
        };
        (asked != Self::default()).then(|| serde_json::to_string(&asked).ok()).flatten()
    }

    /// Where memory is mounted that was asked for by `Tmpfs`, which Docker does not count among the mounts.
    pub(crate) fn tmpfs(asked: Option<&str>) -> Vec<String> {
        let asked: Self = asked.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        asked.tmpfs.into_keys().filter_map(|path| target(&path, &path).ok()).collect()
    }

    /// Shows it in a host configuration.
    pub(crate) fn show(asked: Option<&str>, host: &mut HostConfig) {
        let asked: Self = asked.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        host.binds = Some(asked.binds).filter(|list| !list.is_empty());
        host.mounts = Some(asked.mounts).filter(|list| !list.is_empty());
        host.tmpfs = Some(asked.tmpfs.into_iter().collect()).filter(|map: &HashMap<_, _>| !map.is_empty());
        host.volume_driver = Some(asked.volume_driver.unwrap_or_default());
        host.isolation = Some(asked.isolation.unwrap_or(models::HostConfigIsolationEnum::EMPTY));
    }
}
