//! Whose word counts: signatures, authorities, proxies, mirrors.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use rustix::process::Signal;
use sha2::Digest as _;

use crate::peers::{Registry, tool};
use crate::subject::{IMAGE, Subject, skip_unless_insula};

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes)))
}

/// Runs openssl in the test's folder; nothing if it is not installed.
fn openssl(subject: &Subject, words: &[&str]) -> Option<()> {
    tool(subject, "openssl", words).map(|run| drop(run.expect(0)))
}

/// One request, on a connection of its own; the status.
fn put(address: &str, method: &str, path: &str, media_type: &str, body: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: {media_type}\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap_or_default().to_owned()
}

/// Puts a signature, as cosign does, of the manifest with this digest by the key in `key.pem`.
fn sign(subject: &Subject, registry: &Registry, repository: &str, about: &str) -> Option<()> {
    const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
    let payload = format!(
        r#"{{"critical":{{"identity":{{"docker-reference":"x"}},"image":{{"docker-manifest-digest":"{about}"}},"type":"cosign container image signature"}},"optional":null}}"#
    );
    fs::write(subject.island.path("payload"), &payload).unwrap();
    openssl(subject, &["dgst", "-sha256", "-sign", "key.pem", "-out", "signature", "payload"])?;
    let signed = tool(subject, "openssl", &["base64", "-A", "-in", "signature"])?.expect(0).out;
    for blob in [payload.as_bytes(), b"{}"] {
        let path = format!("/v2/{repository}/blobs/uploads/?digest={}", digest(blob));
        assert_eq!(put(&registry.address, "POST", &path, "application/octet-stream", blob), "201");
    }
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":2}},"layers":[{{"mediaType":"application/vnd.dev.cosign.simplesigning.v1+json","digest":"{}","size":{},"annotations":{{"dev.cosignproject.cosign/signature":"{}"}}}}]}}"#,
        digest(b"{}"),
        digest(payload.as_bytes()),
        payload.len(),
        signed.trim()
    );
    let path = format!("/v2/{repository}/manifests/{}.sig", about.replace(':', "-"));
    assert_eq!(put(&registry.address, "PUT", &path, OCI, manifest.as_bytes()), "201");
    Some(())
}

#[test]
fn only_what_the_key_signed_is_unpacked() {
    if skip_unless_insula() {
        return;
    }
    let Some(subject) = Subject::start() else { return };
    for key in ["key", "other"] {
        let (private, public) = (format!("{key}.pem"), format!("{key}.pub"));
        let made = openssl(&subject, &["ecparam", "-genkey", "-noout", "-name", "prime256v1", "-out", &private]);
        let shown = made.and_then(|()| openssl(&subject, &["ec", "-in", &private, "-pubout", "-out", &public]));
        if shown.is_none() {
            return;
        }
    }
    let registry = Registry::start(&subject, &[]);
    let name = registry.name("team/web:1");
    subject.insula(&["tag", IMAGE, &name]).expect(0);
    let pushed = subject.insula(&["push", &name]).expect(0);
    let about = pushed.out.split_whitespace().find(|word| word.starts_with("sha256:")).unwrap().to_owned();
    subject.insula(&["rmi", &name, IMAGE]).expect(0);
    let refused = |key: &str, why: &str| {
        let run = subject.insula(&["pull", "--verify", key, &name]).expect(1);
        assert!(run.err.contains(why), "{}", run.err);
        let layers = fs::read_dir(subject.island.path("state/images/layers")).unwrap().count();
        assert_eq!((layers, subject.insula(&["images", "-q"]).expect(0).text()), (0, ""));
    };
    refused("key.pub", "signature");
    sign(&subject, &registry, "team/web", &about).unwrap();
    refused("other.pub", "another key");
    refused("signature", "key");
    let pulled = subject.insula(&["pull", "--verify", "key.pub", &name]).expect(0);
    assert!(pulled.out.contains(&format!("Signature: verified for {about}")), "{}", pulled.out);
    subject.insula(&["run", "--rm", "--network", "none", &name, "true"]).expect(0);
    drop(registry);
    subject.finish();
}

/// A proxy that knows a few hosts, all of which are one server; it writes down who was asked for.
fn proxy(hosts: &[&str], server: &str) -> (String, Arc<Mutex<BTreeMap<String, usize>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let asked: Arc<Mutex<BTreeMap<String, usize>>> = Arc::default();
    let (hosts, server, counted) =
        (hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>(), server.to_owned(), Arc::clone(&asked));
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if client.read(&mut byte).unwrap_or(0) == 0 {
                    break;
                }
                head.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            let host = head.split(' ').nth(1).and_then(|to| to.split(':').next()).unwrap_or_default().to_owned();
            *counted.lock().unwrap().entry(host.clone()).or_default() += 1;
            if !head.starts_with("CONNECT ") || !hosts.contains(&host) {
                let _ = client.write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n");
                continue;
            }
            let mut there = TcpStream::connect(&server).unwrap();
            client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            let (mut back, mut from) = (client.try_clone().unwrap(), there.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut from, &mut back));
            std::thread::spawn(move || std::io::copy(&mut client, &mut there));
        }
    });
    (address, asked)
}

#[test]
fn authorities_proxies_and_mirrors() {
    if skip_unless_insula() {
        return;
    }
    let Some(mut subject) = Subject::start() else { return };
    let names = "subjectAltName=DNS:hub.test,DNS:mirror.test";
    let base = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30"];
    let leaf = "basicConstraints=critical,CA:FALSE";
    let rest = ["-subj", "/CN=hub.test", "-addext", leaf, "-addext", names, "-keyout", "tls.key", "-out", "tls.crt"];
    if openssl(&subject, &[&base[..], &rest].concat()).is_none() {
        return;
    }
    let path = |name: &str| subject.island.path(name).display().to_string();
    let registry = Registry::start(&subject, &["--tls-cert", &path("tls.crt"), "--tls-key", &path("tls.key")]);
    let (address, asked) = proxy(&["hub.test", "mirror.test"], &registry.address);
    let certificates = subject.island.dir("certs");
    subject.end_daemon(Signal::TERM);
    subject.extra = vec![
        format!("--registry-certs={}", certificates.display()),
        "--mirror=docker.io=https://mirror.test".to_owned(),
    ];
    subject.variables = vec![("HTTPS_PROXY".to_owned(), address)];
    subject.start_daemon();
    subject.insula(&["tag", IMAGE, "hub.test/library/web:1"]).expect(0);
    let refused = subject.insula(&["push", "hub.test/library/web:1"]).expect(1);
    assert!(refused.err.contains("certs/hub.test/ca.crt"), "says where the authority belongs: {}", refused.err);
    for host in ["hub.test", "mirror.test"] {
        fs::create_dir(certificates.join(host)).unwrap();
        fs::copy(subject.island.path("tls.crt"), certificates.join(host).join("ca.crt")).unwrap();
    }
    // certificates are read when a daemon first needs them
    subject.end_daemon(Signal::TERM);
    subject.start_daemon();
    subject.insula(&["push", "hub.test/library/web:1"]).expect(0);
    subject.insula(&["rmi", "hub.test/library/web:1"]).expect(0);
    // a short name is the hub's, whose mirror has it
    subject.insula(&["pull", "web:1"]).expect(0);
    subject.insula(&["run", "--rm", "--network", "none", "web:1", "true"]).expect(0);
    // and its tags; the hub itself is not to be reached
    subject.insula(&["rmi", "web:1"]).expect(0);
    subject.insula(&["pull", "--all-tags", "web"]).expect(0);
    assert_eq!(subject.insula(&["images", "--quiet", "web:1"]).expect(0).out.lines().count(), 1);
    let asked = asked.lock().unwrap().clone();
    assert!(asked["hub.test"] > 0 && asked["mirror.test"] > 0, "{asked:?}");
    assert!(!asked.keys().any(|host| host.contains("docker.io")), "{asked:?}");
    drop(registry);
    subject.finish();
}
