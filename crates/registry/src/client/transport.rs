//! Connections: TCP, through proxies, with TLS.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::address::{Origin, Proxies};
use super::{ClientError, Trust};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How long a connection may take, with its handshakes.
const PATIENCE: Duration = Duration::from_secs(20);
/// The longest answer of a proxy to CONNECT.
const MAX_PROXY_ANSWER: usize = 8 << 10;

/// A byte stream of any kind.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Makes connections for the HTTP client.
#[derive(Clone)]
pub(super) struct Connector(Arc<Settings>);

struct Settings {
    proxies: Proxies,
    trust: Trust,
    provider: Arc<CryptoProvider>,
    /// By authority, since each registry may have its own certificates.
    tls: Mutex<HashMap<Origin, Arc<rustls::ClientConfig>>>,
    /// The system's authorities, read when first needed: that takes some milliseconds.
    system: Mutex<Option<Arc<RootCertStore>>>,
}

impl Connector {
    pub(super) fn new(proxies: Proxies, trust: Trust) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Self(Arc::new(Settings { proxies, trust, provider, tls: Mutex::default(), system: Mutex::default() }))
    }

    /// What a plain request to an origin must carry for the proxy on its way.
    pub(super) fn proxy_authorization(&self, origin: &Origin) -> Result<Option<String>, ClientError> {
        if origin.secure {
            return Ok(None);
        }
        Ok(self.0.proxies.way_to(origin)?.and_then(|(_, credentials)| credentials).map(|text| basic(&text)))
    }

    async fn connect(self, uri: Uri) -> Result<Stream, Failure> {
        let origin = Origin::of(&uri)?;
        let way = self.0.proxies.way_to(&origin)?;
        let first = way.as_ref().map_or(&origin, |(proxy, _)| proxy);
        let tcp = TcpStream::connect((first.host.as_str(), first.port)).await?;
        let _ = tcp.set_nodelay(true);
        let mut io: Box<dyn Io> = Box::new(tcp);
        if let Some((proxy, credentials)) = &way {
            if proxy.secure {
                io = self.handshake(io, proxy).await?;
            }
            if !origin.secure {
                return Ok(Stream { io: TokioIo::new(io), through_proxy: true });
            }
            tunnel(&mut io, &origin, credentials.as_deref()).await?;
        }
        if origin.secure {
            io = self.handshake(io, &origin).await?;
        }
        Ok(Stream { io: TokioIo::new(io), through_proxy: false })
    }

    async fn handshake(&self, io: Box<dyn Io>, origin: &Origin) -> Result<Box<dyn Io>, Failure> {
        let (this, wanted) = (self.clone(), origin.clone());
        // Reads certificates the first time.
        let config = tokio::task::spawn_blocking(move || this.0.config(&wanted)).await??;
        let name = ServerName::try_from(origin.host.clone())?;
        Ok(Box::new(TlsConnector::from(config).connect(name, io).await?))
    }
}

fn basic(credentials: &str) -> String {
    format!("Basic {}", STANDARD.encode(credentials))
}

/// Asks a proxy for a tunnel.
async fn tunnel(io: &mut Box<dyn Io>, origin: &Origin, credentials: Option<&str>) -> Result<(), Failure> {
    let host = if origin.host.contains(':') { format!("[{}]", origin.host) } else { origin.host.clone() };
    let target = format!("{host}:{}", origin.port);
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some(credentials) = credentials {
        request.push_str(&format!("Proxy-Authorization: {}\r\n", basic(credentials)));
    }
    request.push_str("\r\n");
    io.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    // Byte by byte: what comes behind the head belongs to the tunnel.
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() >= MAX_PROXY_ANSWER {
            return Err("the proxy's answer has no end".into());
        }
        answer.push(io.read_u8().await?);
    }
    let line = String::from_utf8_lossy(&answer);
    let line = line.lines().next().unwrap_or_default();
    match line.split(' ').nth(1) {
        Some(code) if code.starts_with('2') => Ok(()),
        _ => Err(format!("the proxy refuses: {line}").into()),
    }
}

impl Settings {
    fn config(&self, origin: &Origin) -> Result<Arc<rustls::ClientConfig>, Failure> {
        if let Some(known) = self.tls.lock().unwrap_or_else(PoisonError::into_inner).get(origin) {
            return Ok(Arc::clone(known));
        }
        let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&self.provider));
        let builder = builder.with_safe_default_protocol_versions()?;
        let (authorities, identity) = self.own_certificates(origin)?;
        let builder = if authorities.is_empty() && self.trust.is_insecure(origin) {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(Arc::clone(&self.provider))))
        } else {
            let mut roots = (*self.system_roots()).clone();
            for certificate in authorities {
                roots.add(certificate)?;
            }
            builder.with_root_certificates(roots)
        };
        let mut config = match identity {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let config = Arc::new(config);
        self.tls.lock().unwrap_or_else(PoisonError::into_inner).insert(origin.clone(), Arc::clone(&config));
        Ok(config)
    }

    fn system_roots(&self) -> Arc<RootCertStore> {
        let mut system = self.system.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(system.get_or_insert_with(|| {
            let found = rustls_native_certs::load_native_certs();
            for error in found.errors {
                tracing::debug!(%error, "one of the system's certificates cannot be read");
            }
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(found.certs);
            Arc::new(roots)
        }))
    }

    /// What docker's folder has for a registry: `*.crt` are authorities, `*.cert` and `*.key` prove who we are.
    fn own_certificates(&self, origin: &Origin) -> Result<(Vec<CertificateDer<'static>>, Option<Identity>), Failure> {
        let Some(top) = &self.trust.certificates else { return Ok((Vec::new(), None)) };
        let host = if origin.host.contains(':') { format!("[{}]", origin.host) } else { origin.host.clone() };
        // Docker names the folder as the image's name has it, so with a port of 443 only when that was written.
        let folders = [top.join(origin.authority()), top.join(format!("{host}:{}", origin.port))];
        let Some(folder) = folders.into_iter().find(|folder| folder.is_dir()) else { return Ok((Vec::new(), None)) };
        let mut authorities = Vec::new();
        let mut identity = None;
        let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)?.flatten().map(|entry| entry.path()).collect();
        files.sort();
        for file in files {
            match file.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => authorities.extend(certificates(&file)?),
                Some("cert") => {
                    let key = file.with_extension("key");
                    let read = PrivateKeyDer::from_pem_file(&key).map_err(|error| unusable(&key, &error))?;
                    identity = Some((certificates(&file)?, read));
                }
                _ => {}
            }
        }
        Ok((authorities, identity))
    }
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    read.map_err(|error| unusable(path, &error))
}

pub(super) fn unusable(path: &Path, error: &dyn std::fmt::Display) -> ClientError {
    let source = io::Error::new(io::ErrorKind::InvalidData, error.to_string());
    ClientError::Certificate { path: path.to_owned(), source }
}

/// Accepts every certificate: for registries that were named as insecure, and this machine.
#[derive(Debug)]
pub(super) struct Anybody(Arc<CryptoProvider>);

impl Anybody {
    pub(super) fn new(provider: Arc<CryptoProvider>) -> Self {
        Self(provider)
    }
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A connection as hyper wants it.
pub(super) struct Stream {
    io: TokioIo<Box<dyn Io>>,
    /// Whether requests must name their whole address.
    through_proxy: bool,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.through_proxy)
    }
}

impl hyper::rt::Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl hyper::rt::Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, pieces)
    }
}

impl tower_service::Service<Uri> for Connector {
    type Response = Stream;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, Failure>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let late =
                |_| io::Error::new(io::ErrorKind::TimedOut, format!("no connection in {} s", PATIENCE.as_secs()));
            tokio::time::timeout(PATIENCE, this.connect(uri)).await.map_err(late)?
        })
    }
}
