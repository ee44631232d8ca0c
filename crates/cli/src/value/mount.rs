//! Mounts: `--mount`, `-v`.

use std::path::Path;

use docker_wire::models::{
    Mount, MountBindOptions, MountBindOptionsPropagationEnum as Propagation, MountImageOptions, MountTmpfsOptions,
    MountType, MountVolumeOptions, MountVolumeOptionsDriverConfig,
};

use super::number;

/// What `-v` asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Volume {
    /// `SOURCE:TARGET[:OPTIONS]`, as the API takes it.
    Bind(String),
    /// A volume without a name at this path.
    Anonymous(String),
}

/// Reads `[SOURCE:]TARGET[:OPTIONS]`; a source that begins with `.` is taken from `folder`.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn volume(text: &str, folder: &Path) -> Result<Volume, String> {
    let target_valid = |target: &str| {
        if target.starts_with('/') {
            Ok(())
        } else {
            Err(format!("the path in the container, {target:?}, does not begin with /"))
        }
    };
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [target] => {
            target_valid(target)?;
            return Ok(Volume::Anonymous((*target).to_owned()));
        }
        [source, target] => (*source, *target, None),
        [source, target, options] => (*source, *target, Some(*options)),
        _ => return Err("give SOURCE:TARGET[:OPTIONS]".to_owned()),
    };
    if source.is_empty() {
        return Err("the source is empty".to_owned());
    }
    target_valid(target)?;
    if target == "/" {
        return Err("the target cannot be / itself".to_owned());
    }
    let relative = source == "." || source == ".." || source.starts_with("./") || source.starts_with("../");
    let source = if relative { lexical(&folder.join(source)) } else { source.to_owned() };
    for option in options.into_iter().flat_map(|options| options.split(',')) {
        let known = ["ro", "rw", "z", "Z", "nocopy", "consistent", "cached", "delegated"].contains(&option);
        if !known && propagation(option).is_none() {
            return Err(format!("unknown option {option:?}"));
        }
    }
    Ok(Volume::Bind(match options {
        Some(options) => format!("{source}:{target}:{options}"),
        None => format!("{source}:{target}"),
    }))
}

/// The path without `.` and `..`, read as text.
fn lexical(path: &Path) -> String {
    let mut parts: Vec<String> = Vec::new();
    for component in path.components() {
        match component {
            std::path::Component::ParentDir => drop(parts.pop()),
            std::path::Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            _ => {}
        }
    }
    format!("/{}", parts.join("/"))
}

/// Reads `type=bind,source=/a,target=/b,readonly`.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn mount(text: &str, folder: &Path) -> Result<Mount, String> {
    let mut mount = Mount { typ: Some(MountType::VOLUME), ..Mount::default() };
    let mut bind: Option<MountBindOptions> = None;
    let mut tmpfs: Option<MountTmpfsOptions> = None;
    let mut volume: Option<MountVolumeOptions> = None;
    let mut image: Option<MountImageOptions> = None;
    for field in csv(text)? {
        let (name, value) = match field.split_once('=') {
            Some((name, value)) => (name.to_ascii_lowercase(), Some(value)),
            None => (field.to_ascii_lowercase(), None),
        };
        let needed = || value.filter(|value| !value.is_empty()).ok_or_else(|| format!("field {name:?} needs a value"));
        match name.as_str() {
            "type" => mount.typ = Some(kind(needed()?)?),
            "source" | "src" => {
                let value = needed()?;
                let relative = value.starts_with("./") || value.starts_with("../") || value == "." || value == "..";
                mount.source = Some(if relative { lexical(&folder.join(value)) } else { value.to_owned() });
            }
            "target" | "dst" | "destination" => mount.target = Some(needed()?.to_owned()),
            "readonly" | "ro" => mount.read_only = Some(switch(&name, value)?),
            "consistency" => mount.consistency = Some(needed()?.to_owned()),
            "bind-propagation" => {
                let value = needed()?;
                let known = propagation(value).ok_or_else(|| format!("unknown propagation {value:?}"))?;
                bind.get_or_insert_default().propagation = Some(known);
            }
            "bind-nonrecursive" => bind.get_or_insert_default().non_recursive = Some(switch(&name, value)?),
            "bind-recursive" => recursion(needed()?, bind.get_or_insert_default())?,
            "bind-create-src" => bind.get_or_insert_default().create_mountpoint = Some(switch(&name, value)?),
            "image-subpath" => image.get_or_insert_default().subpath = Some(needed()?.to_owned()),
            "volume-driver" => driver(&mut volume).name = Some(needed()?.to_owned()),
            "volume-label" => {
                let (key, value) = super::pair::label(needed()?)?;
                volume.get_or_insert_default().labels.get_or_insert_default().insert(key, value);
            }
            "volume-nocopy" => volume.get_or_insert_default().no_copy = Some(switch(&name, value)?),
            "volume-opt" => {
                let (key, value) = super::pair::option(needed()?)?;
                driver(&mut volume).options.get_or_insert_default().insert(key, value);
            }
            "volume-subpath" => volume.get_or_insert_default().subpath = Some(needed()?.to_owned()),
            "tmpfs-size" => tmpfs.get_or_insert_default().size_bytes = Some(number::bytes(needed()?)?),
            "tmpfs-mode" => {
                let value = needed()?;
                let mode = i64::from_str_radix(value, 8).map_err(|_| format!("mode {value:?} is not octal"))?;
                tmpfs.get_or_insert_default().mode = Some(mode);
            }
            _ => return Err(format!("unknown field {name:?}")),
        }
    }
    let kind = mount.typ.unwrap_or(MountType::VOLUME);
    match mount.target.as_deref() {
        None => return Err("field target is missing".to_owned()),
        Some(target) if !target.starts_with('/') => return Err(format!("target {target:?} does not begin with /")),
        Some(_) => {}
    }
    match kind {
        MountType::BIND if mount.source.is_none() => return Err("a bind mount needs a source".to_owned()),
        MountType::IMAGE if mount.source.is_none() => return Err("an image mount needs a source".to_owned()),
        MountType::TMPFS if mount.source.is_some() => return Err("a tmpfs has no source".to_owned()),
        _ => {}
    }
    let given = [
        (bind.is_some(), MountType::BIND),
        (image.is_some(), MountType::IMAGE),
        (tmpfs.is_some(), MountType::TMPFS),
        (volume.is_some(), MountType::VOLUME),
    ];
    if let Some((_, other)) = given.iter().find(|(given, of)| *given && *of != kind) {
        return Err(format!("{other}-… fields do not go with type={kind}"));
    }
    mount.bind_options = bind;
    mount.image_options = image;
    mount.tmpfs_options = tmpfs;
    mount.volume_options = volume;
    Ok(mount)
}

fn driver(options: &mut Option<MountVolumeOptions>) -> &mut MountVolumeOptionsDriverConfig {
    options.get_or_insert_default().driver_config.get_or_insert_default()
}

fn kind(text: &str) -> Result<MountType, String> {
    match text.to_ascii_lowercase().as_str() {
        "bind" => Ok(MountType::BIND),
        "image" => Ok(MountType::IMAGE),
        "tmpfs" => Ok(MountType::TMPFS),
        "volume" => Ok(MountType::VOLUME),
        _ => Err(format!("unknown type {text:?}; there are bind, image, tmpfs and volume")),
    }
}

fn propagation(text: &str) -> Option<Propagation> {
    Some(match text {
        "private" => Propagation::PRIVATE,
        "rprivate" => Propagation::RPRIVATE,
        "shared" => Propagation::SHARED,
        "rshared" => Propagation::RSHARED,
        "slave" => Propagation::SLAVE,
        "rslave" => Propagation::RSLAVE,
        _ => return None,
    })
}

fn recursion(value: &str, options: &mut MountBindOptions) -> Result<(), String> {
    match value {
        "enabled" => {}
        "disabled" => options.non_recursive = Some(true),
        "writable" => options.read_only_non_recursive = Some(true),
        "readonly" => options.read_only_force_recursive = Some(true),
        _ => {
            return Err(format!(
                "unknown bind-recursive {value:?}; there are enabled, disabled, writable and readonly"
            ));
        }
    }
    Ok(())
}

fn switch(name: &str, value: Option<&str>) -> Result<bool, String> {
    match value {
        None | Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(other) => Err(format!("field {name:?} is true or false, not {other:?}")),
    }
}

/// Splits a line of comma-separated fields, which may be quoted as in CSV files.
fn csv(text: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut field = String::new();
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            other => field.push(other),
        }
    }
    if quoted {
        return Err("a quote is not closed".to_owned());
    }
    fields.push(field);
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes() {
        let here = Path::new("/home/me");
        let bind = |text: &str| match volume(text, here) {
            Ok(Volume::Bind(bind)) => bind,
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(bind("/a:/b"), "/a:/b");
        assert_eq!(bind("/a:/b:ro,rslave"), "/a:/b:ro,rslave");
        assert_eq!(bind("./a:/b"), "/home/me/a:/b");
        assert_eq!(bind("../a:/b"), "/home/a:/b");
        assert_eq!(bind("data:/b"), "data:/b");
        assert_eq!(volume("/b", here), Ok(Volume::Anonymous("/b".to_owned())));
        for bad in ["", "a", ":/b", "/a:b", "/a:/b:bogus", "/a:/b:ro:x", "/a:/"] {
            assert!(volume(bad, here).is_err(), "{bad}");
        }
    }

    #[test]
    fn mounts() {
        let here = Path::new("/home/me");
        let got = mount("type=bind,source=/a,target=/b,readonly,bind-propagation=rslave", here).unwrap();
        assert_eq!((got.typ, got.read_only), (Some(MountType::BIND), Some(true)));
        assert_eq!(got.bind_options.unwrap().propagation, Some(Propagation::RSLAVE));
        let got = mount("type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1777", here).unwrap().tmpfs_options.unwrap();
        assert_eq!((got.size_bytes, got.mode), (Some(1 << 20), Some(0o1777)));
        let line = "src=data,dst=/d,volume-nocopy,volume-subpath=a/b,volume-label=k=v,volume-driver=local,\"volume-opt=o=a,b\"";
        let got = mount(line, here).unwrap().volume_options.unwrap();
        assert_eq!((got.no_copy, got.subpath.as_deref()), (Some(true), Some("a/b")));
        assert_eq!(got.labels.unwrap()["k"], "v");
        assert_eq!(got.driver_config.unwrap().options.unwrap()["o"], "a,b");
        let got = mount("type=image,src=web:2,dst=/w,image-subpath=usr", here).unwrap();
        assert_eq!(got.image_options.unwrap().subpath.as_deref(), Some("usr"));
        let got = mount("\"type=bind\",\"src=/a,b\",dst=/c", here).unwrap();
        assert_eq!(got.source.as_deref(), Some("/a,b"));
        for bad in [
            "",
            "type=bind,target=/b",
            "type=bind,source=/a",
            "type=bind,source=/a,target=b",
            "type=nfs,source=/a,target=/b",
            "type=tmpfs,source=/a,target=/b",
            "type=tmpfs,target=/b,bind-propagation=rslave",
            "type=bind,source=/a,target=/b,volume-nocopy",
            "type=image,target=/b",
            "type=bind,source=/a,target=/b,colour=red",
            "type=bind,source=/a,target=/b,readonly=maybe",
            "type=tmpfs,target=/b,tmpfs-mode=9",
            "\"type=bind",
        ] {
            assert!(mount(bad, here).is_err(), "{bad}");
        }
    }
}
