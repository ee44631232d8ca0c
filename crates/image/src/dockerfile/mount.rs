//! `RUN --mount`.
//!
//! # Source
//! Dockerfile reference, "RUN --mount".

use super::fault::Fault;

/// What a RUN step sees on top of its root file system. Texts may have variables in them until the plan is made.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Mount {
    /// Files of the context, of a stage or of an image.
    Bind {
        /// The stage or image; the context if there is none.
        from: Option<String>,
        /// The path there.
        source: String,
        /// Where it is seen.
        target: String,
        /// Whether writing is possible; what is written is thrown away.
        access: Access,
    },
    /// A directory that outlives the build.
    Cache {
        /// Which; the target if nothing was said.
        id: String,
        /// Where it is seen.
        target: String,
        /// Whether it can be written to.
        access: Access,
        /// How it is shared between steps that run at once.
        sharing: Sharing,
        /// Where its first contents come from.
        from: Option<String>,
        /// The path there.
        source: String,
        /// Its own directory's mode, user and group when it is made.
        owner: MountOwner,
    },
    /// Memory.
    Tmpfs {
        /// Where it is seen.
        target: String,
        /// How much it may hold, in bytes.
        size_bytes: Option<u64>,
    },
    /// A secret as a file or a variable.
    Secret {
        /// Which.
        id: String,
        /// The file, unless it is to be a variable only.
        target: Option<String>,
        /// The variable.
        env: Option<String>,
        /// Whether the build fails without it.
        presence: Presence,
        /// The file's mode, user and group.
        owner: MountOwner,
    },
    /// The way to an SSH agent.
    Ssh {
        /// Which.
        id: String,
        /// The socket.
        target: Option<String>,
        /// Whether the build fails without it.
        presence: Presence,
        /// The socket's mode, user and group.
        owner: MountOwner,
    },
}

/// Whether a mount can be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// Only read.
    Read,
    /// Read and written.
    Write,
}

/// How a cache is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sharing {
    /// All at once.
    Shared,
    /// Each writer its own.
    Private,
    /// One after the other.
    Locked,
}

/// Whether something has to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Presence {
    /// It may be missing.
    Optional,
    /// It has to be there.
    Required,
}

/// Mode, user and group of what a mount makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MountOwner {
    /// The permissions.
    pub mode: u16,
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// Which options a type has.
const OPTIONS: [(&str, &[&str]); 5] = [
    ("bind", &["from", "source", "target", "access"]),
    ("cache", &["id", "from", "source", "target", "access", "sharing", "mode", "uid", "gid"]),
    ("secret", &["id", "target", "env", "required", "mode", "uid", "gid"]),
    ("ssh", &["id", "target", "required", "mode", "uid", "gid"]),
    ("tmpfs", &["target", "size"]),
];

/// The one name of an option that has several.
fn canonical(key: &str) -> Option<&'static str> {
    Some(match key {
        "dst" | "destination" | "target" => "target",
        "env" => "env",
        "from" => "from",
        "gid" => "gid",
        "id" => "id",
        "mode" => "mode",
        "readonly" | "ro" | "readwrite" | "rw" => "access",
        "required" => "required",
        "sharing" => "sharing",
        "size" => "size",
        "source" | "src" => "source",
        "type" => "type",
        "uid" => "uid",
        _ => return None,
    })
}

#[derive(Default)]
struct Options {
    from: Option<String>,
    source: Option<String>,
    target: Option<String>,
    id: Option<String>,
    env: Option<String>,
    access: Option<Access>,
    sharing: Option<Sharing>,
    required: Option<Presence>,
    mode: Option<u16>,
    uid: Option<u32>,
    gid: Option<u32>,
    size: Option<u64>,
}

/// Reads what stands behind `--mount=`.
pub(super) fn parse(value: &str) -> Result<Mount, Fault> {
    let fields = csv(value).ok_or_else(|| bad(value, "its quotes are not closed"))?;
    let named = |name: &str| fields.iter().find_map(|field| field.strip_prefix(name)).map(str::to_owned);
    let wanted = named("type=").unwrap_or_else(|| "bind".to_owned());
    let known = OPTIONS.iter().find(|(name, _)| name.eq_ignore_ascii_case(&wanted));
    let Some((kind, allowed)) = known else {
        return Err(bad(&wanted, "a type is one of bind cache secret ssh tmpfs"));
    };
    let mut options = Options::default();
    for field in fields.iter().filter(|field| !field.is_empty()) {
        let (key, value) = field.split_once('=').map_or((field.as_str(), None), |(key, value)| (key, Some(value)));
        let key = key.to_ascii_lowercase();
        match canonical(&key) {
            Some("type") => {}
            Some(name) if allowed.contains(&name) => set(&mut options, &key, name, value)?,
            _ => return Err(Fault::MountOption { kind, option: key }),
        }
    }
    build(kind, options, value)
}

fn bad(value: &str, expected: impl Into<String>) -> Fault {
    Fault::FlagValue { flag: "mount", value: value.to_owned(), expected: expected.into() }
}

fn set(options: &mut Options, key: &str, name: &str, value: Option<&str>) -> Result<(), Fault> {
    let truth = || match value {
        None => Ok(true),
        Some("1" | "t" | "T" | "true" | "True" | "TRUE") => Ok(true),
        Some("0" | "f" | "F" | "false" | "False" | "FALSE") => Ok(false),
        Some(other) => Err(bad(other, format!("{key} takes true or false"))),
    };
    if name == "access" {
        let read = matches!(key, "ro" | "readonly");
        options.access = Some(if truth()? == read { Access::Read } else { Access::Write });
        return Ok(());
    }
    if name == "required" {
        options.required = Some(if truth()? { Presence::Required } else { Presence::Optional });
        return Ok(());
    }
    let value = value.ok_or_else(|| bad(key, format!("{key} needs a value: {key}=…")))?;
    let number = || value.parse::<u32>().map_err(|_| bad(value, format!("{key} takes a number")));
    match name {
        "from" => options.from = Some(value.to_owned()),
        "source" => options.source = Some(value.to_owned()),
        "target" => options.target = Some(value.to_owned()),
        "id" => options.id = Some(value.to_owned()),
        "env" => options.env = Some(value.to_owned()),
        "uid" => options.uid = Some(number()?),
        "gid" => options.gid = Some(number()?),
        "mode" => {
            let mode = u16::from_str_radix(value, 8).ok().filter(|mode| *mode <= 0o7777);
            options.mode = Some(mode.ok_or_else(|| bad(value, "mode takes an octal number up to 7777"))?);
        }
        "size" => options.size = Some(bytes(value).ok_or_else(|| bad(value, "size takes bytes, as 64m or 1g"))?),
        _ => {
            options.sharing = Some(match value.to_ascii_lowercase().as_str() {
                "shared" => Sharing::Shared,
                "private" => Sharing::Private,
                "locked" => Sharing::Locked,
                _ => return Err(bad(value, "sharing takes shared, private or locked")),
            });
        }
    }
    Ok(())
}

fn build(kind: &str, options: Options, whole: &str) -> Result<Mount, Fault> {
    let target = |target: Option<String>| target.ok_or_else(|| bad(whole, format!("a {kind} mount needs target=PATH")));
    let owner = |mode| MountOwner {
        mode: options.mode.unwrap_or(mode),
        uid: options.uid.unwrap_or(0),
        gid: options.gid.unwrap_or(0),
    };
    let source = options.source.clone().unwrap_or_default();
    let presence = options.required.unwrap_or(Presence::Optional);
    Ok(match kind {
        "bind" => Mount::Bind {
            from: options.from,
            source,
            target: target(options.target)?,
            access: options.access.unwrap_or(Access::Read),
        },
        "cache" => {
            let owner = owner(0o755);
            let target = target(options.target)?;
            Mount::Cache {
                id: options.id.unwrap_or_else(|| target.clone()),
                target,
                access: options.access.unwrap_or(Access::Write),
                sharing: options.sharing.unwrap_or(Sharing::Shared),
                from: options.from,
                source,
                owner,
            }
        }
        "tmpfs" => Mount::Tmpfs { target: target(options.target)?, size_bytes: options.size },
        "secret" => {
            let owner = owner(0o400);
            let id = match (options.id, &options.target) {
                (Some(id), _) => id,
                (None, Some(target)) => target.rsplit('/').next().unwrap_or_default().to_owned(),
                (None, None) => return Err(bad(whole, "a secret needs id=NAME or target=PATH")),
            };
            let file = options.target.or_else(|| options.env.is_none().then(|| format!("/run/secrets/{id}")));
            Mount::Secret { id, target: file, env: options.env, presence, owner }
        }
        _ => {
            let owner = owner(0o600);
            Mount::Ssh {
                id: options.id.unwrap_or_else(|| "default".to_owned()),
                target: options.target,
                presence,
                owner,
            }
        }
    })
}

/// Fields between commas; a field in double quotes may have commas in it.
fn csv(text: &str) -> Option<Vec<String>> {
    let (mut out, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '"' if quoted && rest.peek() == Some(&'"') => field.extend(rest.next()),
            '"' => quoted = !quoted,
            ',' if !quoted => out.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    out.push(field);
    (!quoted).then_some(out)
}

/// `64m`, `1g`, `512`.
fn bytes(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match lower[digits.len()..].trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type() {
        let owner = |mode, uid| MountOwner { mode, uid, gid: 0 };
        let check = |text: &str, expected: Mount| assert_eq!(parse(text), Ok(expected), "{text}");
        let bind = |from: Option<&str>, source: &str, access| Mount::Bind {
            from: from.map(str::to_owned),
            source: source.to_owned(),
            target: "/x".to_owned(),
            access,
        };
        check("target=/x", bind(None, "", Access::Read));
        check("type=bind,from=build,src=out,dst=/x,rw", bind(Some("build"), "out", Access::Write));
        check("type=bind,target=/x,rw=false", bind(None, "", Access::Read));
        check("type=tmpfs,target=/t,size=64m", Mount::Tmpfs { target: "/t".into(), size_bytes: Some(64 << 20) });
        check(
            "type=cache,target=/c,sharing=locked,uid=7,mode=0700",
            Mount::Cache {
                id: "/c".into(),
                target: "/c".into(),
                access: Access::Write,
                sharing: Sharing::Locked,
                from: None,
                source: String::new(),
                owner: owner(0o700, 7),
            },
        );
        check(
            "type=secret,id=key,env=KEY,required",
            Mount::Secret {
                id: "key".into(),
                target: None,
                env: Some("KEY".into()),
                presence: Presence::Required,
                owner: owner(0o400, 0),
            },
        );
        check(
            "type=ssh",
            Mount::Ssh { id: "default".into(), target: None, presence: Presence::Optional, owner: owner(0o600, 0) },
        );
    }

    #[test]
    fn nonsense_is_named() {
        for (text, expected) in [
            ("type=nfs,target=/x", "bind cache secret ssh tmpfs"),
            ("type=bind", "needs target"),
            ("type=tmpfs,target=/x,id=3", "has no option \"id\""),
            ("type=cache,target=/x,sharing=mine", "shared, private or locked"),
            ("type=cache,target=/x,mode=99", "octal"),
            ("type=secret", "id=NAME"),
            ("type=bind,target=/x,rw=maybe", "true or false"),
            ("type=bind,target", "needs a value"),
            ("type=bind,\"target=/x", "quotes"),
        ] {
            assert!(parse(text).unwrap_err().to_string().contains(expected), "{text}: {:?}", parse(text));
        }
    }
}
