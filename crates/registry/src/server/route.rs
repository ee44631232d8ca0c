//! From a request's line to the function that answers it.

use hyper::Method;

use super::refusal::{Code, Refusal, Result};
use crate::digest::ContentDigest;
use crate::escape::{percent_decode, percent_encode};
use crate::name::{Repository, Target};
use crate::storage::UploadId;

/// The most entries of a list that are given at once.
const MAX_PAGE: usize = 10_000;

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Resource {
    /// `/v2/`: is this a registry, and am I let in?
    Base,
    /// `/v2/_catalog`
    Catalog,
    /// `/v2/NAME/tags/list`
    Tags(Repository),
    /// `/v2/NAME/manifests/REFERENCE`
    Manifest(Repository, Target),
    /// `/v2/NAME/blobs/DIGEST`
    Blob(Repository, ContentDigest),
    /// `/v2/NAME/blobs/uploads/`
    Uploads(Repository),
    /// `/v2/NAME/blobs/uploads/ID`
    Upload(Repository, UploadId),
    /// `/v2/NAME/referrers/DIGEST`
    Referrers(Repository, ContentDigest),
}

impl Resource {
    /// Reads a path. Names may contain words such as `blobs`, so it is read from its end.
    pub(crate) fn parse(path: &str) -> Result<Self> {
        let path = percent_decode(path);
        let unknown = || Refusal::new(Code::Unsupported, "page not found").with_status(hyper::StatusCode::NOT_FOUND);
        let rest = match path.as_str() {
            "/v2" | "/v2/" => return Ok(Self::Base),
            "/v2/_catalog" => return Ok(Self::Catalog),
            other => other.strip_prefix("/v2/").ok_or_else(unknown)?,
        };
        let (before, last) = rest.rsplit_once('/').ok_or_else(unknown)?;
        let (name, kind) = before.rsplit_once('/').ok_or_else(unknown)?;
        match (kind, last) {
            ("tags", "list") => Ok(Self::Tags(name.parse()?)),
            ("manifests", _) => Ok(Self::Manifest(name.parse()?, target(last)?)),
            ("referrers", _) => Ok(Self::Referrers(name.parse()?, digest(last)?)),
            ("blobs", "uploads") => Ok(Self::Uploads(name.parse()?)),
            ("blobs", _) => Ok(Self::Blob(name.parse()?, digest(last)?)),
            ("uploads", _) => {
                let (name, blobs) = name.rsplit_once('/').ok_or_else(unknown)?;
                if blobs != "blobs" {
                    return Err(unknown());
                }
                if last.is_empty() {
                    return Ok(Self::Uploads(name.parse()?));
                }
                let id = last.parse().map_err(|_| Refusal::new(Code::BlobUploadUnknown, "no such upload"))?;
                Ok(Self::Upload(name.parse()?, id))
            }
            _ => Err(unknown()),
        }
    }

    /// The methods that it has.
    pub(crate) const fn methods(&self) -> &'static str {
        match self {
            Self::Base | Self::Catalog | Self::Tags(_) | Self::Referrers(..) => "GET, HEAD",
            Self::Manifest(..) => "GET, HEAD, PUT, DELETE",
            Self::Blob(..) => "GET, HEAD, DELETE",
            Self::Uploads(_) => "POST",
            Self::Upload(..) => "GET, PATCH, PUT, DELETE",
        }
    }

    /// Whether a method is among [`Self::methods`].
    pub(crate) fn has(&self, method: &Method) -> bool {
        self.methods().split(", ").any(|known| known == method.as_str())
    }
}

fn target(text: &str) -> Result<Target> {
    if text.contains(':') { Ok(Target::Digest(digest(text)?)) } else { Ok(Target::Tag(text.parse()?)) }
}

/// A digest in a path or parameter.
pub(crate) fn digest(text: &str) -> Result<ContentDigest> {
    text.parse().map_err(|error: crate::digest::DigestError| Refusal::new(Code::DigestInvalid, error.to_string()))
}

/// A request's parameters.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(text: Option<&str>) -> Self {
        let pairs = text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            // Clients escape with %20; a plus is a plus, as in media types.
            (percent_decode(name), percent_decode(value))
        });
        Self(pairs.collect())
    }

    /// The first value of a parameter.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// A digest, if it is given.
    pub(crate) fn digest(&self, name: &str) -> Result<Option<ContentDigest>> {
        self.get(name).map(digest).transpose()
    }

    /// Which part of a list is asked for.
    pub(crate) fn page(&self) -> Result<Page> {
        let number = self.get("n").map(str::parse::<usize>).transpose();
        let limit = number.map_err(|_| {
            Refusal::new(Code::PaginationNumberInvalid, "the parameter n must be a number, how many entries to give")
        })?;
        Ok(Page { limit: limit.map(|limit| limit.min(MAX_PAGE)), after: self.get("last").map(str::to_owned) })
    }
}

/// Part of a sorted list.
#[derive(Debug)]
pub(crate) struct Page {
    limit: Option<usize>,
    after: Option<String>,
}

impl Page {
    /// The part of `all`, and the query for the next part if there is one.
    pub(crate) fn of(&self, all: Vec<String>) -> (Vec<String>, Option<String>) {
        let mut rest = all;
        if let Some(after) = &self.after {
            rest.retain(|name| name > after);
        }
        let limit = self.limit.unwrap_or(MAX_PAGE);
        let more = rest.len() > limit;
        rest.truncate(limit);
        let next = rest.last().filter(|_| more).map(|last| format!("n={limit}&last={}", percent_encode(last)));
        (rest, next)
    }
}

/// A part of some content that is asked for with `Range`.
///
/// Gives the first byte and the number of bytes; nothing if all of it is to be sent: units and lists of ranges that we don't
/// know may be ignored.
///
/// # Source
/// RFC 9110, section 14.
pub(crate) fn range(header: &str, size: u64) -> Result<Option<(u64, u64)>> {
    let Some(spec) = header.trim().strip_prefix("bytes=") else { return Ok(None) };
    let Some((first, last)) = spec.trim().split_once('-') else { return Ok(None) };
    let number = |text: &str| -> Option<u64> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // More digits than fit mean a number beyond any size.
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    match (first, last, number(first), number(last)) {
        ("", _, _, Some(count)) => {
            let count = count.min(size);
            if count == 0 { Err(Refusal::range(size)) } else { Ok(Some((size - count, count))) }
        }
        (_, "", Some(first), _) if first < size => Ok(Some((first, size - first))),
        (_, _, Some(first), Some(last)) if first <= last && first < size => {
            Ok(Some((first, last.min(size - 1) - first + 1)))
        }
        (_, "", Some(_), _) => Err(Refusal::range(size)),
        (_, _, Some(first), Some(last)) if first <= last => Err(Refusal::range(size)),
        _ => Ok(None),
    }
}

/// The bounds in an upload's Content-Range, `0-99` with both ends inside; nothing if it is no range.
pub(crate) fn content_range(header: &str) -> Option<(u64, u64)> {
    let text = header.trim();
    // The specification has it without a unit; some clients write one, and a total after a slash.
    let text = text.strip_prefix("bytes").map_or(text, |rest| rest.trim_start_matches([' ', '=']));
    let (bounds, _) = text.split_once('/').unwrap_or((text, ""));
    let (first, last) = bounds.split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first <= last && last < u64::MAX).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_read_from_their_end() {
        let digest = ContentDigest::of(b"");
        let name = |text: &str| text.parse::<Repository>().unwrap();
        let check = |path: &str, expect| assert_eq!(Resource::parse(path).unwrap(), expect, "{path}");
        check("/v2/", Resource::Base);
        check("/v2", Resource::Base);
        check("/v2/a/b/tags/list", Resource::Tags(name("a/b")));
        check(&format!("/v2/blobs/uploads/blobs/{digest}"), Resource::Blob(name("blobs/uploads"), digest));
        check(&format!("/v2/a/blobs/sha256%3A{}", digest.hex()), Resource::Blob(name("a"), digest));
        check("/v2/a/blobs/uploads/", Resource::Uploads(name("a")));
        check("/v2/a/blobs/uploads", Resource::Uploads(name("a")));
        check("/v2/a/manifests/list", Resource::Manifest(name("a"), Target::Tag("list".parse().unwrap())));
        let upload = Resource::parse(&format!("/v2/a/blobs/uploads/{}", "0".repeat(32))).unwrap();
        assert!(matches!(upload, Resource::Upload(..)));
        for bad in ["/", "/v1/", "/v2/a", "/v2/a/b", "/v2/../blobs/uploads/", "/v2/A/tags/list", "/v2/a/x/uploads/y"] {
            assert!(Resource::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ranges_follow_the_rfc() {
        let check = |header: &str, expect: Option<(u64, u64)>| {
            assert_eq!(range(header, 10).unwrap(), expect, "{header}");
        };
        check("bytes=0-0", Some((0, 1)));
        check("bytes=2-5", Some((2, 4)));
        check("bytes=2-", Some((2, 8)));
        check("bytes=2-99999999999999999999999", Some((2, 8)));
        check("bytes=-3", Some((7, 3)));
        check("bytes=-30", Some((0, 10)));
        check("bytes=0-1,3-4", None);
        check("bytes=5-2", None);
        check("lines=1-2", None);
        check("bytes=", None);
        check("bytes=-", None);
        for outside in ["bytes=10-", "bytes=10-12", "bytes=-0"] {
            assert!(range(outside, 10).is_err(), "{outside}");
        }
        assert!(range("bytes=0-", 0).is_err());
    }

    #[test]
    fn content_ranges_have_several_spellings() {
        for text in ["3-7", "bytes 3-7", "bytes=3-7", "bytes 3-7/20", " 3-7 "] {
            assert_eq!(content_range(text), Some((3, 7)), "{text}");
        }
        for text in ["", "7-3", "-3", "3-", "a-b", "0-18446744073709551615"] {
            assert_eq!(content_range(text), None, "{text}");
        }
    }

    #[test]
    fn pages_go_through_the_whole_list() {
        let all: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
        let page = |query: &str| Query::parse(Some(query)).page().unwrap().of(all.clone());
        assert_eq!(page(""), (all.clone(), None));
        assert_eq!(page("n=2"), (all[..2].to_vec(), Some("n=2&last=b".to_owned())));
        assert_eq!(page("n=2&last=b"), (all[2..].to_vec(), None));
        assert_eq!(page("n=0"), (vec![], None));
        assert!(Query::parse(Some("n=x")).page().is_err());
    }

    proptest! {
        #[test]
        fn a_range_is_within_the_content(first in any::<u64>(), last in any::<u64>(), size in any::<u64>()) {
            if let Ok(Some((start, count))) = range(&format!("bytes={first}-{last}"), size) {
                prop_assert!(count > 0 && start.checked_add(count).unwrap() <= size);
            }
        }
    }
}
