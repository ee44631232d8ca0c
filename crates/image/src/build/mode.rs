//! Permissions and owners as COPY and ADD take them.

use std::fmt;

/// What `--chmod` says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Chmod {
    /// These permissions, for files and folders alike.
    Octal(u16),
    /// Changes to what is there.
    Symbolic(Vec<Clause>),
}

/// One part of a symbolic mode: for whom, and what changes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Clause {
    /// Bits of whom it is about: `0o700`, `0o070`, `0o007` and their sums.
    who: u16,
    changes: Vec<(Operator, Vec<Permission>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Operator {
    Add,
    Remove,
    Set,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Permission {
    Read,
    Write,
    Execute,
    /// Execute for folders, and for files that somebody may execute.
    ExecuteSome,
    SetId,
    Sticky,
    /// What the user, the group or others have: the shift of their bits.
    Copy(u32),
}

/// Whether a file is a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Folder {
    /// It is.
    Yes,
    /// It is not.
    No,
}

/// Text that is no mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is no mode: an octal number up to 7777, or changes such as u=rwX,go=rX")]
pub struct ChmodError {
    /// The text.
    pub text: String,
}

impl Chmod {
    /// Reads `755`, `0644` or `u+x,go=rX`.
    ///
    /// # Errors
    /// [`ChmodError`].
    ///
    /// # Source
    /// POSIX.1-2017, `chmod`, "The mode operand"; without a file mode mask.
    pub fn parse(text: &str) -> Result<Self, ChmodError> {
        let bad = || ChmodError { text: text.to_owned() };
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            let mode = u16::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
            return mode.map(Self::Octal).ok_or_else(bad);
        }
        text.split(',').map(clause).collect::<Option<_>>().map(Self::Symbolic).ok_or_else(bad)
    }

    /// The permissions of a file that has `mode` now.
    #[must_use]
    pub fn apply(&self, mode: u16, folder: Folder) -> u16 {
        match self {
            Self::Octal(mode) => *mode,
            Self::Symbolic(clauses) => clauses.iter().fold(mode, |mode, clause| clause.apply(mode, folder)),
        }
    }
}

impl fmt::Display for Chmod {
    /// One spelling for each meaning, as cache keys have it: `0755`, or `700+rx,077=X`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clauses = match self {
            Self::Octal(mode) => return write!(f, "{mode:04o}"),
            Self::Symbolic(clauses) => clauses,
        };
        for (number, clause) in clauses.iter().enumerate() {
            write!(f, "{}{:03o}", if number == 0 { "" } else { "," }, clause.who)?;
            for (operator, permissions) in &clause.changes {
                f.write_str(match operator {
                    Operator::Add => "+",
                    Operator::Remove => "-",
                    Operator::Set => "=",
                })?;
                for permission in permissions {
                    f.write_str(match permission {
                        Permission::Read => "r",
                        Permission::Write => "w",
                        Permission::Execute => "x",
                        Permission::ExecuteSome => "X",
                        Permission::SetId => "s",
                        Permission::Sticky => "t",
                        Permission::Copy(6) => "u",
                        Permission::Copy(3) => "g",
                        Permission::Copy(_) => "o",
                    })?;
                }
            }
        }
        Ok(())
    }
}

fn clause(text: &str) -> Option<Clause> {
    let rest = text.trim_start_matches(['u', 'g', 'o', 'a']);
    let mut who = text[..text.len() - rest.len()].chars().fold(0, |who, c| {
        who | match c {
            'u' => 0o700,
            'g' => 0o070,
            'o' => 0o007,
            _ => 0o777,
        }
    });
    if who == 0 {
        who = 0o777;
    }
    let mut changes: Vec<(Operator, Vec<Permission>)> = Vec::new();
    for c in rest.chars() {
        let operator = match c {
            '+' => Some(Operator::Add),
            '-' => Some(Operator::Remove),
            '=' => Some(Operator::Set),
            _ => None,
        };
        if let Some(operator) = operator {
            changes.push((operator, Vec::new()));
            continue;
        }
        changes.last_mut()?.1.push(match c {
            'r' => Permission::Read,
            'w' => Permission::Write,
            'x' => Permission::Execute,
            'X' => Permission::ExecuteSome,
            's' => Permission::SetId,
            't' => Permission::Sticky,
            'u' => Permission::Copy(6),
            'g' => Permission::Copy(3),
            'o' => Permission::Copy(0),
            _ => return None,
        });
    }
    (!changes.is_empty()).then_some(Clause { who, changes })
}

impl Clause {
    fn apply(&self, mut mode: u16, folder: Folder) -> u16 {
        for (operator, permissions) in &self.changes {
            let bits = permissions.iter().fold(0, |bits, permission| bits | self.bits(*permission, mode, folder));
            match operator {
                Operator::Add => mode |= bits,
                Operator::Remove => mode &= !bits,
                Operator::Set => {
                    let set_id = (self.who & 0o100) << 5 | (self.who & 0o010) << 7;
                    // a folder keeps its set-id bits unless they are named
                    let cleared = self.who | if folder == Folder::Yes { 0 } else { set_id };
                    mode = mode & !cleared | bits;
                }
            }
        }
        mode
    }

    fn bits(&self, permission: Permission, mode: u16, folder: Folder) -> u16 {
        let each = |bit: u16| (bit << 6 | bit << 3 | bit) & self.who;
        match permission {
            Permission::Read => each(4),
            Permission::Write => each(2),
            Permission::Execute => each(1),
            Permission::ExecuteSome if folder == Folder::Yes || mode & 0o111 != 0 => each(1),
            Permission::ExecuteSome => 0,
            Permission::SetId => (self.who & 0o100) << 5 | (self.who & 0o010) << 7,
            Permission::Sticky => 0o1000,
            Permission::Copy(shift) => each(mode >> shift & 7),
        }
    }
}

/// What `--chown` says: names or numbers, which the stage's own `/etc/passwd` and `/etc/group` turn into numbers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The user.
    pub user: Account,
    /// The group; the user's own if nothing was said.
    pub group: Option<Account>,
}

/// A name or a number.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Account {
    /// A number.
    Id(u32),
    /// A name that has to be looked up.
    Name(String),
}

/// The accounts of a root file system.
pub trait Accounts {
    /// A user's number and its group's.
    fn user(&self, name: &str) -> Option<(u32, u32)>;
    /// A group's number.
    fn group(&self, name: &str) -> Option<u32>;
}

/// A name that the stage does not know, or text that names nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OwnerError {
    /// Nothing before or after the colon, or more than one colon.
    #[error("\"{text}\" is no owner: USER, USER:GROUP or numbers of both")]
    Syntax {
        /// The text.
        text: String,
    },
    /// A user that is not there.
    #[error("no user \"{name}\" in the stage's /etc/passwd; make it in an earlier step, or give its number")]
    User {
        /// The name.
        name: String,
    },
    /// A group that is not there.
    #[error("no group \"{name}\" in the stage's /etc/group; make it in an earlier step, or give its number")]
    Group {
        /// The name.
        name: String,
    },
}

impl Owner {
    /// Reads `user`, `user:group`, `1000` or `1000:1000`.
    ///
    /// # Errors
    /// [`OwnerError::Syntax`].
    pub fn parse(text: &str) -> Result<Self, OwnerError> {
        let bad = || OwnerError::Syntax { text: text.to_owned() };
        let account = |text: &str| match text.parse() {
            Ok(id) => Ok(Account::Id(id)),
            Err(_) if text.is_empty() || text.contains(':') => Err(bad()),
            Err(_) => Ok(Account::Name(text.to_owned())),
        };
        match text.split_once(':') {
            Some((user, group)) => Ok(Self { user: account(user)?, group: Some(account(group)?) }),
            None => Ok(Self { user: account(text)?, group: None }),
        }
    }

    /// The numbers. A user given by number without a group has a group of the same number, as in Docker.
    ///
    /// # Errors
    /// [`OwnerError`] for a name that is not there.
    pub fn resolve(&self, accounts: &dyn Accounts) -> Result<(u32, u32), OwnerError> {
        let (uid, own) = match &self.user {
            Account::Id(id) => (*id, *id),
            Account::Name(name) => accounts.user(name).ok_or_else(|| OwnerError::User { name: name.clone() })?,
        };
        let gid = match &self.group {
            None => own,
            Some(Account::Id(id)) => *id,
            Some(Account::Name(name)) => {
                accounts.group(name).ok_or_else(|| OwnerError::Group { name: name.clone() })?
            }
        };
        Ok((uid, gid))
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.user.fmt(f)?;
        match &self.group {
            Some(group) => write!(f, ":{group}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// The accounts in the text of `/etc/passwd` and `/etc/group`.
#[derive(Debug, Clone, Default)]
pub struct AccountFiles {
    /// The text of `/etc/passwd`.
    pub passwd: String,
    /// The text of `/etc/group`.
    pub group: String,
}

impl Accounts for AccountFiles {
    fn user(&self, name: &str) -> Option<(u32, u32)> {
        let mut fields = field(&self.passwd, name)?;
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    }

    fn group(&self, name: &str) -> Option<u32> {
        field(&self.group, name)?.next()?.parse().ok()
    }
}

/// The fields behind the name and the password.
fn field<'a>(text: &'a str, name: &str) -> Option<impl Iterator<Item = &'a str>> {
    text.lines()
        .map(|line| line.trim().split(':'))
        .find_map(|mut fields| (fields.next() == Some(name)).then(|| fields.skip(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_as_chmod_has_them() {
        for (text, mode, folder, expected) in [
            ("755", 0o600, Folder::No, 0o755),
            ("4755", 0o600, Folder::No, 0o4755),
            ("u+x", 0o644, Folder::No, 0o744),
            ("+x", 0o644, Folder::No, 0o755),
            ("a-w", 0o666, Folder::No, 0o444),
            ("u=rwX,go=rX", 0o600, Folder::No, 0o644),
            ("u=rwX,go=rX", 0o700, Folder::No, 0o755),
            ("u=rwX,go=rX", 0o600, Folder::Yes, 0o755),
            ("g=u", 0o640, Folder::No, 0o660),
            ("u+s,+t", 0o755, Folder::No, 0o5755),
            ("g+s", 0o755, Folder::No, 0o2755),
            ("o=", 0o757, Folder::No, 0o750),
            ("u=rw", 0o4755, Folder::No, 0o655),
            ("go-rwx+x", 0o777, Folder::No, 0o711),
        ] {
            assert_eq!(Chmod::parse(text).unwrap().apply(mode, folder), expected, "{text} {mode:o}");
        }
        let written = |text: &str| Chmod::parse(text).unwrap().to_string();
        assert_eq!(
            (written("7"), written("u+rx,go=X"), written("a=u")),
            ("0007".into(), "700+rx,077=X".into(), "777=u".into())
        );
        for bad in ["", "8", "77777", "u", "u+q", "x+u", "u+x,"] {
            assert!(Chmod::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn owners_are_looked_up_in_the_stage() {
        let files = AccountFiles {
            passwd: "root:x:0:0:root:/:/bin/sh\napp:x:100:101::/:\n".into(),
            group: "root:x:0:\nweb:x:33:app\n".into(),
        };
        let resolve = |text: &str| Owner::parse(text).unwrap().resolve(&files);
        assert_eq!(resolve("app"), Ok((100, 101)));
        assert_eq!(resolve("app:web"), Ok((100, 33)));
        assert_eq!(resolve("7"), Ok((7, 7)));
        assert_eq!(resolve("7:web"), Ok((7, 33)));
        assert!(resolve("nobody").unwrap_err().to_string().contains("no user \"nobody\""));
        assert!(resolve("app:none").unwrap_err().to_string().contains("no group \"none\""));
        for bad in ["", ":", "a:", ":b", "a:b:c"] {
            assert!(Owner::parse(bad).is_err(), "{bad}");
        }
    }
}
