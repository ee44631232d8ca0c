//! Who may use the registry: names and passwords in a file of `htpasswd`, bcrypt only.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{AUTHORIZATION, HeaderMap};
use sha2::Digest as _;
use tokio::sync::Semaphore;

use super::ServeError;
use super::refusal::{Refusal, Result};

/// How long a password that was right is known to be, since bcrypt takes a tenth of a second.
const REMEMBERED: Duration = Duration::from_secs(300);
/// The most right passwords that are remembered.
const MOST_REMEMBERED: usize = 4096;
/// The most passwords that are checked at once.
const AT_ONCE: usize = 2;
/// What the password of someone unknown is compared with, so that the time tells nothing: a hash of nobody's password.
const NOBODY: &str = "$2b$10$abcdefghijklmnopqrstuuJ8oxXIFuuRApTpTHqkoqWbMS6bCgtsS";

/// The people that may use the registry.
#[derive(Debug)]
pub(crate) struct Doorman {
    path: PathBuf,
    people: Mutex<People>,
    remembered: Mutex<HashMap<[u8; 32], Instant>>,
    /// Mixed into what is remembered, so that memory holds no plain hash of a password.
    salt: [u8; 32],
    checks: Semaphore,
}

#[derive(Debug, Default)]
struct People {
    read_at: Option<SystemTime>,
    hashes: HashMap<String, String>,
}

impl Doorman {
    /// Reads the file. It is read again whenever it has changed.
    pub(crate) fn open(path: &Path) -> std::result::Result<Self, ServeError> {
        let mut salt = [0; 32];
        let random = |error: getrandom::Error| std::io::Error::other(error.to_string());
        let people = getrandom::fill(&mut salt).map_err(random).and_then(|()| read(path));
        let people = people.map_err(|source| ServeError::File { path: path.to_owned(), source })?;
        let (people, remembered) = (Mutex::new(people), Mutex::default());
        Ok(Self { path: path.to_owned(), people, remembered, salt, checks: Semaphore::new(AT_ONCE) })
    }

    /// Lets the sender of a request in, or not.
    pub(crate) async fn admit(&self, headers: &HeaderMap) -> Result<()> {
        let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let (name, password) = header.and_then(basic).ok_or_else(Refusal::unauthorized)?;
        let hash = self.hash_of(&name).unwrap_or_else(|| NOBODY.to_owned());
        let key = self.key(&name, &password, &hash);
        if self.remembers(&key) {
            return Ok(());
        }
        let _permit = self.checks.acquire().await.map_err(|_| Refusal::busy("the registry is stopping"))?;
        let right =
            tokio::task::spawn_blocking(move || bcrypt::verify(password, &hash).unwrap_or(false) && hash != NOBODY);
        if !right.await.unwrap_or(false) {
            return Err(Refusal::unauthorized());
        }
        self.remember(key);
        Ok(())
    }

    fn hash_of(&self, name: &str) -> Option<String> {
        let mut people = self.people.lock().unwrap_or_else(PoisonError::into_inner);
        let modified = fs::metadata(&self.path).and_then(|metadata| metadata.modified()).ok();
        if modified.is_some() && modified != people.read_at {
            match read(&self.path) {
                Ok(new) => *people = new,
                // Being replaced at this moment; who was known stays known.
                Err(error) => tracing::warn!(path = %self.path.display(), %error, "cannot read the file of passwords"),
            }
        }
        people.hashes.get(name).cloned()
    }

    /// Contains the hash, so that a changed password is not remembered.
    fn key(&self, name: &str, password: &str, hash: &str) -> [u8; 32] {
        let mut state = sha2::Sha256::new();
        state.update(self.salt);
        for part in [name, password, hash] {
            state.update((part.len() as u64).to_le_bytes());
            state.update(part);
        }
        state.finalize().into()
    }

    fn remembers(&self, key: &[u8; 32]) -> bool {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.get(key).is_some_and(|since| since.elapsed() < REMEMBERED)
    }

    fn remember(&self, key: [u8; 32]) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= MOST_REMEMBERED {
            remembered.retain(|_, since| since.elapsed() < REMEMBERED);
        }
        if remembered.len() < MOST_REMEMBERED {
            remembered.insert(key, Instant::now());
        }
    }
}

/// Name and password of an `Authorization: Basic` header.
pub(crate) fn basic(header: &str) -> Option<(String, String)> {
    let (scheme, value) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(value.trim()).ok()?).ok()?;
    let (name, password) = text.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

fn read(path: &Path) -> std::io::Result<People> {
    let read_at = fs::metadata(path)?.modified().ok();
    let text = fs::read_to_string(path)?;
    let mut hashes = HashMap::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.split_once(':') {
            Some((name, hash)) if ["$2a$", "$2b$", "$2x$", "$2y$"].iter().any(|kind| hash.starts_with(kind)) => {
                hashes.insert(name.to_owned(), hash.to_owned());
            }
            _ => {
                let name = line.split(':').next().unwrap_or_default();
                let text = format!("the password of {name:?} is not bcrypt; make it with: htpasswd -B");
                return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, text));
            }
        }
    }
    Ok(People { read_at, hashes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn basic_headers_are_read() {
        assert_eq!(basic("Basic YTpiOmM="), Some(("a".into(), "b:c".into())));
        assert_eq!(basic("basic  YTo= "), Some(("a".into(), String::new())));
        for bad in ["", "Basic", "Bearer YTpi", "Basic YQ==", "Basic %%%", "Basic /w=="] {
            assert_eq!(basic(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_dummy_hash_is_one() {
        // An invalid one would be refused at once, and the time would tell who exists.
        assert!(bcrypt::verify("x", NOBODY).is_ok());
    }

    #[test]
    fn only_bcrypt_is_accepted() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "# people\n\nanna:$2y$05$abc\n").unwrap();
        assert!(Doorman::open(file.path()).unwrap().hash_of("anna").is_some());
        fs::write(file.path(), "anna:{SHA}abc\n").unwrap();
        let error = Doorman::open(file.path()).unwrap_err();
        assert!(crate::failure::chain(&error).contains("htpasswd -B"));
    }
}
