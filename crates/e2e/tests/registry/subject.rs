//! The registry under test.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sha2::Digest as _;
use testkit::{Island, wait_for};

use crate::http::{Answer, send};

const SOON: Duration = Duration::from_secs(20);
pub(crate) const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// Which registry is tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Insula,
    DockerRegistry,
}

/// What our registry does and Debian's docker-registry 2.8 does not, by name.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Difference {
    /// 2.8 knows no referrers.
    Referrers,
    /// 2.8 refuses to delete tags.
    DeleteTag,
    /// 2.8 mounts only with `from`.
    MountFromAnywhere,
    /// 2.8 does not look at Content-Range, and accepts each place of an upload once only.
    ChunkPlaces,
    /// 2.8 lists tags always whole, and in no order.
    TagPages,
    /// 2.8 answers a POST with a body like one without: it begins an upload.
    SinglePost,
    /// 2.8 refuses a large manifest with 400.
    ManifestLimit,
}

/// A running registry.
#[derive(Debug)]
pub(crate) struct Subject {
    kind: Kind,
    pub(crate) island: Island,
    pub(crate) address: String,
    child: Option<Child>,
}

pub(crate) fn kind() -> Kind {
    match std::env::var("INSULA_E2E_REGISTRY").as_deref() {
        Err(_) | Ok("" | "insula") => Kind::Insula,
        Ok("docker-registry") => Kind::DockerRegistry,
        Ok(other) => panic!("INSULA_E2E_REGISTRY={other}: there are insula and docker-registry"),
    }
}

/// The digest of some bytes.
pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes)))
}

/// A descriptor as JSON.
pub(crate) fn describe(media_type: &str, bytes: &[u8]) -> String {
    format!(r#"{{"mediaType":"{media_type}","digest":"{}","size":{}}}"#, digest(bytes), bytes.len())
}

/// An image manifest with an empty configuration.
pub(crate) fn manifest(media_type: &str, layers: &[&[u8]], extra: &str) -> String {
    let layers: Vec<String> =
        layers.iter().map(|layer| describe("application/vnd.oci.image.layer.v1.tar", layer)).collect();
    let config = describe("application/vnd.oci.image.config.v1+json", b"{}");
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{config},"layers":[{}]{extra}}}"#,
        layers.join(",")
    )
}

impl Subject {
    /// Starts the registry; nothing if it is not installed, with the reason printed.
    pub(crate) fn start() -> Option<Self> {
        let kind = kind();
        let program = match kind {
            Kind::Insula => {
                let test = std::env::current_exe().unwrap();
                test.parent().and_then(Path::parent).unwrap().join("examples/serve")
            }
            Kind::DockerRegistry => PathBuf::from("/usr/bin/docker-registry"),
        };
        if !program.is_file() {
            println!("skipped: {} is not there", program.display());
            return None;
        }
        let island = Island::new();
        // Free a moment ago, and seldom taken since.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let mut subject = Self { kind, island, address, child: None };
        subject.run(&program);
        Some(subject)
    }

    fn run(&mut self, program: &Path) {
        let log = File::create(self.island.path("registry.log")).unwrap();
        let root = self.island.path("root");
        let mut command = Command::new(program);
        match self.kind {
            Kind::Insula => {
                command.arg("--root").arg(&root).args(["--listen", &self.address]);
            }
            Kind::DockerRegistry => {
                let config = self.island.path("config.yml");
                let text = format!(
                    "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    \
                     enabled: true\nhttp:\n  addr: {}\n",
                    root.display(),
                    self.address
                );
                fs::write(&config, text).unwrap();
                command.arg("serve").arg(config);
            }
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        let up = wait_for(SOON, || TcpStream::connect(&self.address).ok());
        assert!(up.is_some(), "{}", fs::read_to_string(self.island.path("registry.log")).unwrap());
    }

    /// Whether it is ours.
    pub(crate) fn is_ours(&self) -> bool {
        self.kind == Kind::Insula
    }

    /// Whether the subject lacks something; prints the reason.
    pub(crate) fn lacks(&self, difference: Difference) -> bool {
        let lacks = self.kind != Kind::Insula;
        if lacks {
            println!("skipped: docker-registry differs: {difference:?}");
        }
        lacks
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Answer {
        send(&self.address, "GET", path, &[], b"")
    }

    #[track_caller]
    pub(crate) fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        send(&self.address, method, path, headers, body)
    }

    /// Begins an upload; gives its place.
    #[track_caller]
    pub(crate) fn begin(&self, name: &str) -> String {
        self.ask("POST", &format!("/v2/{name}/blobs/uploads/"), &[], b"").expect(202).location()
    }

    /// Puts a blob by POST and PUT; gives its digest.
    #[track_caller]
    pub(crate) fn put_blob(&self, name: &str, bytes: &[u8]) -> String {
        let digest = digest(bytes);
        let place = with(&self.begin(name), &format!("digest={digest}"));
        let octets = [("Content-Type", "application/octet-stream")];
        let answer = self.ask("PUT", &place, &octets, bytes).expect(201);
        assert!(answer.location().ends_with(&format!("/v2/{name}/blobs/{digest}")), "{}", answer.location());
        digest
    }

    #[track_caller]
    pub(crate) fn put_manifest(&self, name: &str, reference: &str, media_type: &str, text: &str) -> Answer {
        let path = format!("/v2/{name}/manifests/{reference}");
        self.ask("PUT", &path, &[("Content-Type", media_type)], text.as_bytes())
    }

    /// Puts an image with these layers under a tag; gives its manifest.
    #[track_caller]
    pub(crate) fn put_image(&self, name: &str, tag: &str, layers: &[&[u8]]) -> String {
        for blob in layers.iter().chain(&[&b"{}"[..]]) {
            self.put_blob(name, blob);
        }
        let text = manifest(OCI, layers, "");
        self.put_manifest(name, tag, OCI, &text).expect(201);
        text
    }
}

/// A path with one more parameter.
pub(crate) fn with(path: &str, parameter: &str) -> String {
    format!("{path}{}{parameter}", if path.contains('?') { '&' } else { '?' })
}

impl Drop for Subject {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
