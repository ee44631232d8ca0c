//! Which ids of the host containers' user namespaces have.

use engine::model::IdRange;
use std::str::FromStr;

/// Whose ids `default` stands for.
const DEFAULT_USER: &str = "dockremap";
/// What a user gets who has none yet, as `useradd` does it.
const USUAL_COUNT: u32 = 65_536;
const USUAL_FIRST: u32 = 100_000;

/// `off`, a range, or the user and the group that the host has a range for.
///
/// # Source
/// dockerd's `--userns-remap`; `subuid(5)`, `subgid(5)`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Remap(pub(super) Option<IdRange>);

impl FromStr for Remap {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if matches!(text, "off" | "" | "host") {
            return Ok(Self(None));
        }
        let numbers: Vec<u32> = text.split(':').flat_map(str::parse).collect();
        match *numbers.as_slice() {
            [uid, gid, count] if text.split(':').count() == 3 => range(text, uid, gid, count),
            _ => Tables::of_host().find(text),
        }
        .map(|range| Self(Some(range)))
    }
}

fn range(text: &str, first_uid: u32, first_gid: u32, count: u32) -> Result<IdRange, String> {
    if count == 0 || first_uid.checked_add(count).is_none() || first_gid.checked_add(count).is_none() {
        return Err(format!("the range {text} is empty or goes beyond the largest id"));
    }
    Ok(IdRange { first_uid, first_gid, count })
}

/// The text of the host's files that say who has which ids.
#[derive(Default)]
struct Tables {
    passwd: String,
    group: String,
    subuid: String,
    subgid: String,
}

impl Tables {
    fn of_host() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        Self {
            passwd: read("/etc/passwd"),
            group: read("/etc/group"),
            subuid: read("/etc/subuid"),
            subgid: read("/etc/subgid"),
        }
    }

    /// The range of `default`, `USER` or `USER:GROUP`, each by name or number.
    fn find(&self, text: &str) -> Result<IdRange, String> {
        let (user, group) = match text.split_once(':') {
            None if text == "default" => (DEFAULT_USER, DEFAULT_USER),
            None => (text, ""),
            Some((user, group)) if !user.is_empty() && !group.is_empty() && !group.contains(':') => (user, group),
            Some(_) => {
                return Err(format!(
                    "{text:?} is neither off, default, USER or USER:GROUP nor UID:GID:COUNT, such as 100000:100000:65536"
                ));
            }
        };
        let user = names(&self.passwd, user);
        // the group is the user's own where none is named
        let group = if group.is_empty() { user.clone() } else { names(&self.group, group) };
        let (uid, uids) = self.part(&self.subuid, &user, "/etc/subuid")?;
        let (gid, gids) = self.part(&self.subgid, &group, "/etc/subgid")?;
        range(text, uid, gid, uids.min(gids))
    }

    fn part(&self, table: &str, who: &[String], path: &str) -> Result<(u32, u32), String> {
        let found = parts(table).find(|(name, ..)| who.iter().any(|known| known == name));
        found.map(|(_, first, count)| (first, count)).ok_or_else(|| {
            let all = parts(&self.subuid).chain(parts(&self.subgid));
            let free = all.map(|(_, first, count)| first.saturating_add(count)).fold(USUAL_FIRST, u32::max);
            let who = who.first().map(String::as_str).unwrap_or_default();
            format!("{who} has no ids in {path}; give it some by a line there, such as {who}:{free}:{USUAL_COUNT}")
        })
    }
}

/// The lines of `subuid(5)`.
fn parts(table: &str) -> impl Iterator<Item = (&str, u32, u32)> {
    table.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (name, first, count) = (fields.next()?, fields.next()?, fields.next()?);
        Some((name, first.parse().ok()?, count.parse().ok()?))
    })
}

/// The name and the number of somebody, as far as `passwd(5)` or `group(5)` has them.
fn names(table: &str, who: &str) -> Vec<String> {
    let known = table.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        (name == who || number == who).then(|| vec![name.to_owned(), number.to_owned()])
    });
    known.unwrap_or_else(|| vec![who.to_owned()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_number() {
        let tables = Tables {
            passwd: "root:x:0:0::/:\nann:x:1000:1000::/:\n".into(),
            group: "root:x:0:\nstaff:x:50:\n".into(),
            subuid: "ann:100000:65536\ndockremap:165536:65536\n".into(),
            subgid: "1000:200000:1000\n50:7:70000\ndockremap:165536:65536".into(),
        };
        let check = |text: &str, uid: u32, gid: u32, count: u32| {
            let range = tables.find(text).unwrap();
            assert_eq!((range.first_uid, range.first_gid, range.count), (uid, gid, count), "{text}");
        };
        check("default", 165_536, 165_536, 65_536);
        check("ann", 100_000, 200_000, 1000);
        check("1000:staff", 100_000, 7, 65_536);
        let missing = tables.find("bob").unwrap_err();
        assert!(missing.contains("bob:231072:65536") && missing.contains("/etc/subuid"), "{missing}");
        for wrong in ["ann:", ":staff", "ann:staff:5"] {
            assert!(tables.find(wrong).unwrap_err().contains("USER:GROUP"), "{wrong}");
        }
    }
}
