//! Passwords, tokens and certificates.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use registry::client::{Client, ClientConfig, ClientError, Credential, Credentials, ErrorKind, LoggedIn, Trust};
use registry::server::TlsFiles;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::tools::{client, noise, push, settings, start, start_with, tag};

fn password(text: &str) -> Credential {
    Credential::Password { name: "anna".into(), password: text.into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_asked_for_and_found() {
    let folder = tempfile::tempdir().unwrap();
    let htpasswd = folder.path().join("htpasswd");
    // bcrypt of "geheim" with the least cost.
    std::fs::write(&htpasswd, format!("anna:{}\n", bcrypt::hash("geheim", 4).unwrap())).unwrap();
    let server = start_with(|config| config.htpasswd = Some(htpasswd)).await;
    let domain = server.domain();
    let known = client().with_credentials(Credentials::Fixed(password("geheim")));
    let remote = known.remote(&domain, "a").unwrap();
    push(&remote, "1", &[noise(1, 5_000_000)]).await;
    assert_eq!(client().log_in(&domain, password("geheim")).await.unwrap(), LoggedIn::Accepted);
    for wrong in [Credentials::None, Credentials::Fixed(password("falsch"))] {
        let remote = client().with_credentials(wrong).remote(&domain, "a").unwrap();
        let error = remote.resolve(&tag("1")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    }
    assert!(client().log_in(&domain, password("falsch")).await.is_err());
    // From docker's file.
    let file = folder.path().join("config.json");
    let mut docker = registry::client::DockerConfig::load(&file).unwrap();
    docker.store(&domain, &password("geheim")).unwrap();
    let remote = client().with_credentials(Credentials::Docker(file)).remote(&domain, "a").unwrap();
    assert!(remote.resolve(&tag("1")).await.is_ok());
    let open = start().await;
    assert_eq!(client().log_in(&open.domain(), password("x")).await.unwrap(), LoggedIn::Everybody);
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let files = TlsFiles { certificate: certificate.clone(), key, clients: None };
    let server = start_with(|config| config.tls = Some(files)).await;
    let trusting = |certificates: Option<PathBuf>| {
        let trust = Trust { certificates, insecure: Vec::new() };
        Client::new(ClientConfig { trust, ..settings() }, Credentials::None)
    };
    // With the right authority's certificate, as docker's folder has it.
    let own = folder.path().join("certs.d").join(server.domain());
    std::fs::create_dir_all(&own).unwrap();
    std::fs::copy(&certificate, own.join("ca.crt")).unwrap();
    let remote = trusting(Some(folder.path().join("certs.d"))).remote(&server.domain(), "a").unwrap();
    push(&remote, "1", &[noise(1, 5_000_000)]).await;
    assert!(remote.resolve(&tag("1")).await.is_ok());
    // With another's it is refused, even on this machine.
    let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(own.join("ca.crt"), other.cert.pem()).unwrap();
    let remote = trusting(Some(folder.path().join("certs.d"))).remote(&server.domain(), "a").unwrap();
    let error = remote.resolve(&tag("1")).await.unwrap_err();
    assert!(matches!(error, ClientError::Https { .. }), "{error:?}");
    // This machine needs none.
    let remote = trusting(None).remote(&server.domain(), "a").unwrap();
    assert!(remote.resolve(&tag("1")).await.is_ok());
}

/// Whoever asks where nobody answers yet does not take it for plain HTTP from then on.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_may_begin_late() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let remote = client().remote(&address.to_string(), "a").unwrap();
    assert!(remote.resolve(&tag("1")).await.is_err());
    let files = TlsFiles { certificate, key, clients: None };
    let _server = start_with(|config| (config.tls, config.listen) = (Some(files), address)).await;
    let error = remote.resolve(&tag("1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}

/// A registry that gives tokens, sends blobs elsewhere, and counts what it hears.
async fn scripted(answer: impl Fn(&str, &str) -> String + Send + Sync + 'static) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => request.push(byte),
                        Err(_) => return,
                    }
                    // A TLS greeting is no HTTP.
                    if request[0] == 0x16 {
                        return;
                    }
                }
                let text = String::from_utf8_lossy(&request).into_owned();
                let host = text.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default().to_owned();
                let reply = answer(&text, &host);
                let _ = stream.write_all(reply.as_bytes()).await;
            });
        }
    });
    address
}

fn reply(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n{body}")
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_fetched_once_and_not_told_to_others() {
    let (tokens, leaks) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let leaked = Arc::clone(&leaks);
    let elsewhere = scripted(move |request, _| {
        leaked.fetch_add(usize::from(request.contains("authorization")), Ordering::Relaxed);
        reply("200 OK", "", "content")
    })
    .await;
    let counted = Arc::clone(&tokens);
    let registry = scripted(move |request, host| {
        let line = request.lines().next().unwrap_or_default();
        if line.starts_with("GET /token") {
            counted.fetch_add(1, Ordering::Relaxed);
            let fits = line.contains("service=s")
                && line.contains("scope=repository:a:pull")
                && request.contains("Basic YW5uYTpnZWhlaW0=");
            return if fits { reply("200 OK", "", r#"{"token":"tok"}"#) } else { reply("400 Bad Request", "", "") };
        }
        if line.starts_with("GET /v2/ ") {
            return reply("200 OK", "", "");
        }
        if !request.contains("authorization: Bearer tok") {
            let header = format!("WWW-Authenticate: Bearer realm=\"http://{host}/token\",service=\"s\"\r\n");
            return reply("401 Unauthorized", &header, "");
        }
        reply("307 Temporary Redirect", &format!("Location: http://{elsewhere}/x\r\n"), "")
    })
    .await;
    let client = client().with_credentials(Credentials::Fixed(password("geheim")));
    let remote = client.remote(&registry.to_string(), "a").unwrap();
    for _ in 0..3 {
        let bytes = crate::tools::pull(&remote, &crate::tools::describe("a/b", b"content")).await;
        assert_eq!(bytes, "content");
    }
    assert_eq!(tokens.load(Ordering::Relaxed), 1, "tokens fetched");
    assert_eq!(leaks.load(Ordering::Relaxed), 0, "the token went elsewhere");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_busy_is_asked_again() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let registry = scripted(move |request, _| {
        if request.starts_with("GET /v2/ ") {
            return reply("200 OK", "", "");
        }
        match counted.fetch_add(1, Ordering::Relaxed) {
            0 => reply("429 Too Many Requests", "Retry-After: 0\r\n", ""),
            1 => reply("503 Service Unavailable", "", ""),
            2 => reply("200 OK", "", "content"),
            _ => reply("429 Too Many Requests", "Retry-After: 99999\r\n", ""),
        }
    })
    .await;
    let remote = client().remote(&registry.to_string(), "a").unwrap();
    let descriptor = crate::tools::describe("a/b", b"content");
    assert_eq!(crate::tools::pull(&remote, &descriptor).await, "content");
    let error = remote.blob(&descriptor, None).await.unwrap_err();
    assert!(matches!(error, ClientError::RateLimited { wait: Some(_), .. }), "{error}");
    assert_eq!(asked.load(Ordering::Relaxed), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_are_asked_first_and_the_registry_at_last() {
    let (mirror, registry) = (start().await, start().await);
    push(&client().remote(&mirror.domain(), "a").unwrap(), "here", &[noise(1, 10)]).await;
    push(&client().remote(&registry.domain(), "a").unwrap(), "there", &[noise(2, 10)]).await;
    let dead = "http://127.0.0.1:1".to_owned();
    let mirrors = [(registry.domain(), vec![dead, format!("http://{}", mirror.domain())])].into();
    let client = Client::new(ClientConfig { mirrors, ..settings() }, Credentials::None);
    let remote = client.remote(&registry.domain(), "a").unwrap();
    assert!(remote.manifest(&tag("here")).await.is_ok());
    assert!(remote.manifest(&tag("there")).await.is_ok());
    assert!(remote.manifest(&tag("nowhere")).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_requests_go_through_a_proxy_with_its_password() {
    let proxy = scripted(|request, _| {
        let whole = request.starts_with("GET http://registry.example/v2/a/tags/list");
        let proven = request.contains("proxy-authorization: Basic dTpw");
        match (request.contains(" http://registry.example/v2/ "), whole && proven) {
            (true, _) => reply("200 OK", "", ""),
            (_, true) => reply("200 OK", "", r#"{"name":"a","tags":["x"]}"#),
            _ => reply("400 Bad Request", "", ""),
        }
    })
    .await;
    let proxies = registry::client::Proxies { http: Some(format!("http://u:p@{proxy}")), ..Default::default() };
    let trust = Trust { certificates: None, insecure: vec!["registry.example".into()] };
    let proxies = registry::client::Proxies { https: Some("http://127.0.0.1:1".into()), ..proxies };
    let client = Client::new(ClientConfig { proxies, trust, ..settings() }, Credentials::None);
    assert_eq!(client.remote("registry.example", "a").unwrap().tags().await.unwrap(), ["x"]);
}
