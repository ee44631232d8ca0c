//! What is asked for: the classic builder's parameters, and our own form, as a request for the engine.

use crate::error::ApiError;
use crate::query::Query;
use crate::reply::Result;
use crate::translate::create::cgroup_parent;
use docker_wire::extra::{Build, BuildCache, BuildCacheTarget, SharedFolder};
use engine::image::build::{Options, Volumes};
use engine::model::{NetworkMode, Resources, Ulimit};
use engine::{
    Annotation, Bases, Bearer, BuildContext, BuildRequest, CachePlace, CacheSource, CacheSteps, CacheTarget, Detail,
    Entitlement, Provenance, Reuse, Squash,
};
use oci::platform::Platform;
use oci::reference::Reference;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

fn names<'a>(given: impl Iterator<Item = &'a str>) -> Result<Vec<Reference>> {
    let name = |text: &str| {
        text.parse::<Reference>()
            .map(Reference::tagged)
            .map_err(|error| ApiError::invalid(format!("invalid tag {text:?}: {error}")))
    };
    given.filter(|text| !text.is_empty()).map(name).collect()
}

/// A parameter that is a JSON document.
pub(in crate::route) fn document<T: serde::de::DeserializeOwned + Default>(query: &Query, name: &str) -> Result<T> {
    let Some(text) = query.text(name) else { return Ok(T::default()) };
    let value: Option<T> = serde_json::from_str(text)
        .map_err(|error| ApiError::invalid(format!("invalid value for parameter {name}: {error}")))?;
    // a program that sets nothing sends null
    Ok(value.unwrap_or_default())
}

fn network(text: Option<&str>) -> Result<Option<NetworkMode>> {
    match text.unwrap_or("default") {
        "default" => Ok(None),
        "none" => Ok(Some(NetworkMode::None)),
        "host" => Ok(Some(NetworkMode::Host)),
        other => match other.strip_prefix("container:") {
            Some("") => Err(ApiError::invalid("invalid network mode container: without a container's name")),
            Some(who) => Ok(Some(NetworkMode::Container(who.to_owned()))),
            None => Ok(Some(NetworkMode::Networks(other.to_owned()))),
        },
    }
}

/// Sets the platform; of several they are given back.
fn platform(options: &mut Options, text: Option<&str>) -> Result<Vec<Platform>> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(Vec::new()) };
    let mut all: Vec<Platform> = Vec::new();
    for platform in text.split(',').map(str::parse) {
        let platform = platform?;
        if !all.contains(&platform) {
            all.push(platform);
        }
    }
    if let [one] = &all[..] {
        options.platform = one.clone();
        all.clear();
    }
    Ok(all)
}

fn provenance(text: Option<&str>) -> Result<Option<Provenance>> {
    let detail = match text {
        None | Some("false") => return Ok(None),
        Some("min" | "true") => Detail::Least,
        Some("max") => Detail::Most,
        Some(other) => return Err(ApiError::invalid(format!("no provenance {other:?}; there are min and max"))),
    };
    Ok(Some(Provenance { detail, builder: String::new(), origin: BTreeMap::new() }))
}

fn reference(text: &str) -> Result<Reference> {
    let parsed = text.parse::<Reference>().map(Reference::tagged);
    parsed.map_err(|error| ApiError::invalid(format!("invalid name {text:?} for a cache: {error}")))
}

/// The argument by which Docker's clients ask for a cache in the image itself.
fn inline_wanted(options: &mut Options) -> bool {
    options.arguments.remove("BUILDKIT_INLINE_CACHE").is_some_and(|value| matches!(value.as_str(), "1" | "true"))
}

fn source(cache: &BuildCache) -> Result<CacheSource> {
    Ok(match cache {
        BuildCache::Name(name) => CacheSource::Named(reference(name)?),
        BuildCache::Folder(folder) => CacheSource::Folder(shared(folder)?),
    })
}

fn target(asked: &BuildCacheTarget, owner: Option<(u32, u32)>) -> Result<CacheTarget> {
    let place = match &asked.place {
        None => CachePlace::Image,
        Some(BuildCache::Name(name)) => CachePlace::Registry(reference(name)?),
        Some(BuildCache::Folder(folder)) => CachePlace::Folder(shared(folder)?, owner),
    };
    Ok(CacheTarget { place, steps: if asked.all { CacheSteps::All } else { CacheSteps::Result } })
}

/// A cache in the image itself, if it is wanted.
fn inline(wanted: bool) -> Vec<CacheTarget> {
    if wanted { vec![CacheTarget { place: CachePlace::Image, steps: CacheSteps::Result }] } else { Vec::new() }
}

pub(super) fn classic_request(query: &Query) -> Result<BuildRequest> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Limit {
        name: String,
        soft: i64,
        hard: i64,
    }
    let arguments: BTreeMap<String, Option<String>> = document(query, "buildargs")?;
    let labels: BTreeMap<String, String> = document(query, "labels")?;
    let mut options = Options {
        target: query.text("target").map(str::to_owned),
        arguments: arguments.into_iter().filter_map(|(name, value)| Some((name, value?))).collect(),
        labels: labels.into_iter().collect(),
        volumes: Volumes::Reset,
        ..Options::default()
    };
    let platforms = platform(&mut options, query.text("platform"))?;
    let limits: Option<Vec<Limit>> = document(query, "ulimits")?;
    let caches: Option<Vec<String>> = document(query, "cachefrom")?;
    let wanted = inline_wanted(&mut options);
    let limit = |one: Limit| Ulimit { name: one.name, soft: one.soft, hard: one.hard };
    Ok(BuildRequest {
        dockerfile: query.text("dockerfile").unwrap_or_default().to_owned(),
        options,
        platforms,
        names: names(query.all("t"))?,
        reuse: if query.flag("nocache") { Reuse::No } else { Reuse::Yes },
        pull: if query.flag("pull") { Bases::Always } else { Bases::Missing },
        squash: if query.flag("squash") { Squash::Yes } else { Squash::No },
        network: network(query.text("networkmode"))?,
        cgroup_parent: cgroup_parent(query.text("cgroupparent").map(str::to_owned))?,
        resources: Resources {
            memory_bytes: query.number::<i64>("memory")?.filter(|bytes| *bytes > 0),
            memory_swap_bytes: query.number::<i64>("memswap")?.filter(|bytes| *bytes != 0),
            cpu_shares: query.number::<u64>("cpushares")?.filter(|shares| *shares > 0),
            cpu_quota_us: query.number::<i64>("cpuquota")?.filter(|quota| *quota > 0),
            cpu_period_us: query.number::<u64>("cpuperiod")?.filter(|period| *period > 0),
            cpuset_cpus: query.text("cpusetcpus").map(str::to_owned),
            cpuset_mems: query.text("cpusetmems").map(str::to_owned),
            ..Resources::default()
        },
        shm_bytes: query.number::<u64>("shmsize")?.filter(|bytes| *bytes > 0),
        ulimits: limits.unwrap_or_default().into_iter().map(limit).collect(),
        extra_hosts: query
            .all("extrahosts")
            .flat_map(|list| list.split(','))
            .filter(|host| !host.is_empty())
            .map(str::to_owned)
            .collect(),
        cache_from: caches
            .unwrap_or_default()
            .iter()
            .map(|name| reference(name).map(CacheSource::Named))
            .collect::<Result<_>>()?,
        cache_to: inline(wanted),
        ..BuildRequest::default()
    })
}

/// A folder that is here what it is for the client.
pub(super) fn shared(folder: &SharedFolder) -> Result<PathBuf> {
    let path = Path::new(&folder.path);
    let same = std::fs::metadata(path)
        .is_ok_and(|meta| meta.is_dir() && (meta.dev(), meta.ino()) == (folder.device, folder.inode));
    if same && path.is_absolute() {
        return Ok(path.to_owned());
    }
    Err(ApiError::invalid(format!(
        "the daemon does not see the folder {0} as you do; send it: tar -C {0} -c . | insula build -",
        folder.path
    )))
}

pub(super) fn own_request(asked: &Build) -> Result<BuildRequest> {
    let mut options = Options {
        target: asked.target.clone(),
        arguments: asked.arguments.clone(),
        labels: asked.labels.clone().into_iter().collect(),
        epoch: asked.epoch,
        ..Options::default()
    };
    let platforms = platform(&mut options, asked.platform.as_deref())?;
    let mut cache_to = inline(inline_wanted(&mut options));
    for one in &asked.cache_to {
        cache_to.push(target(one, asked.owner)?);
    }
    let right = |name: &String| {
        let known = "network.host and security.insecure";
        Entitlement::find(name).ok_or_else(|| ApiError::invalid(format!("no right {name:?}; there are {known}")))
    };
    let context = match (&asked.folder, &asked.remote) {
        (Some(folder), _) => BuildContext::Folder(shared(folder)?),
        (None, Some(address)) => BuildContext::Remote(address.clone()),
        (None, None) => BuildContext::Empty,
    };
    Ok(BuildRequest {
        context,
        dockerfile: asked.dockerfile.clone(),
        text: asked.text.clone().map(String::into_bytes),
        options,
        platforms,
        provenance: provenance(asked.provenance.as_deref())?,
        sbom: asked.sbom.clone(),
        annotations: annotations(&asked.annotations)?,
        names: names(asked.tags.iter().map(String::as_str))?,
        reuse: if asked.no_cache { Reuse::No } else { Reuse::Yes },
        pull: if asked.pull { Bases::Always } else { Bases::Missing },
        squash: if asked.squash { Squash::Yes } else { Squash::No },
        network: network(asked.network.as_deref())?,
        resources: Resources {
            memory_bytes: asked.memory_bytes,
            memory_swap_bytes: asked.memory_swap_bytes,
            cpu_shares: asked.cpu_shares,
            cpu_quota_us: asked.cpu_quota_us,
            cpu_period_us: asked.cpu_period_us,
            cpuset_cpus: asked.cpuset_cpus.clone(),
            ..Resources::default()
        },
        shm_bytes: asked.shm_bytes,
        ulimits: asked.ulimits.iter().map(|text| ulimit(text)).collect::<Result<_>>()?,
        extra_hosts: asked.extra_hosts.clone(),
        secrets: asked.secrets.clone(),
        ssh: asked.ssh.iter().map(|(id, path)| (id.clone(), PathBuf::from(path))).collect(),
        allow: asked.allow.iter().map(right).collect::<Result<_>>()?,
        cache_from: asked.cache_from.iter().map(source).collect::<Result<_>>()?,
        cache_to,
        ..BuildRequest::default()
    })
}

/// `[BEARER,…[PLATFORM]:]NAME=VALUE`, where a bearer is `manifest`, `index` or `manifest-descriptor`.
fn annotations(texts: &[String]) -> Result<Vec<Annotation>> {
    let mut out = Vec::new();
    for text in texts {
        let wrong =
            || ApiError::invalid(format!("invalid annotation {text:?}: give it as [manifest|index:]NAME=VALUE"));
        let (left, value) = text.split_once('=').ok_or_else(wrong)?;
        let (bearers, name) = left.rsplit_once(':').unwrap_or(("manifest", left));
        for bearer in bearers.split(',') {
            let (bearer, platform) = bearer.split_once('[').unwrap_or((bearer, ""));
            let platform = platform.trim_end_matches(']');
            let platform = (!platform.is_empty()).then(|| platform.parse()).transpose().map_err(|_| wrong())?;
            let bearer = Bearer::find(bearer).ok_or_else(wrong)?;
            out.push(Annotation { bearer, platform, name: name.to_owned(), value: value.to_owned() });
        }
    }
    Ok(out)
}

/// `name=soft[:hard]`
fn ulimit(text: &str) -> Result<Ulimit> {
    Ulimit::read(text).ok_or_else(|| ApiError::invalid(format!("invalid limit {text:?}: give it as name=soft:hard")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_in_a_query_is_as_if_it_were_not_there() {
        let query = Query::parse(Some("labels=null&buildargs=%7B%22a%22%3A%22b%22%7D"));
        let labels: BTreeMap<String, String> = document(&query, "labels").unwrap();
        let arguments: BTreeMap<String, String> = document(&query, "buildargs").unwrap();
        assert!(labels.is_empty() && arguments["a"] == "b");
    }

    #[test]
    fn annotations_are_read() {
        let read = |text: &str| annotations(&[text.to_owned()]);
        let one = &read("org.a=b=c").unwrap()[0];
        assert_eq!((one.bearer, one.name.as_str(), one.value.as_str()), (Bearer::Manifest, "org.a", "b=c"));
        let two = read("index,manifest[linux/arm64]:k=v").unwrap();
        assert_eq!((two[0].bearer, two[1].bearer), (Bearer::Index, Bearer::Manifest));
        assert_eq!(two[1].platform.as_ref().unwrap().architecture, "arm64");
        assert!(read("k").is_err() && read("nobody:k=v").is_err());
    }

    #[test]
    fn limits_are_read() {
        let limit = ulimit("nofile=10:20").unwrap();
        assert_eq!((limit.name.as_str(), limit.soft, limit.hard), ("nofile", 10, 20));
        assert_eq!(ulimit("core=0").unwrap().hard, 0);
        assert!(ulimit("nofile").is_err());
    }

    #[test]
    fn the_classic_query_becomes_a_request() {
        let query = "t=a&t=b:2&dockerfile=d%2FF&buildargs=%7B%22A%22%3A%221%22%2C%22B%22%3Anull%7D&labels=%7B%22l%22%3A%22v%22%7D\
                     &nocache=1&pull=true&target=x&networkmode=none&shmsize=0&memory=1048576&extrahosts=h%3A1.2.3.4\
                     &ulimits=%5B%7B%22Name%22%3A%22nofile%22%2C%22Soft%22%3A1%2C%22Hard%22%3A2%7D%5D&squash=0&cgroupparent=%2Fjobs";
        let request = classic_request(&Query::parse(Some(query))).unwrap();
        assert_eq!(request.names.iter().map(Reference::familiar).collect::<Vec<_>>(), ["a:latest", "b:2"]);
        assert_eq!(request.dockerfile, "d/F");
        assert_eq!(request.options.arguments, BTreeMap::from([("A".to_owned(), "1".to_owned())]));
        assert_eq!((request.reuse, request.pull, request.squash), (Reuse::No, Bases::Always, Squash::No));
        assert_eq!((request.network, request.shm_bytes), (Some(NetworkMode::None), None));
        assert_eq!((request.resources.memory_bytes, request.ulimits.len()), (Some(1 << 20), 1));
        assert_eq!(request.extra_hosts, ["h:1.2.3.4"]);
        assert_eq!(request.cgroup_parent.as_deref(), Some("/jobs"));
        assert!(classic_request(&Query::parse(Some("cgroupparent=..%2Fx"))).is_err());
        assert!(classic_request(&Query::parse(Some("t=UPPER"))).is_err());
        assert!(classic_request(&Query::parse(Some("networkmode=container:"))).is_err());
    }
}
