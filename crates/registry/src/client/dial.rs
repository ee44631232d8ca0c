//! A TLS connection to a named host with certificates from files: how the command line reaches a daemon elsewhere.

use super::transport::{Anybody, certificates, unusable};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How long the connection may take, with its handshake.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whom to trust, and who we are.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// The authority of the host's certificate, in PEM form; the system's authorities if there is none.
    pub authority: Option<PathBuf>,
    /// Our certificate and its key, in PEM form.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Take any certificate of the host's.
    pub insecure: bool,
}

/// Why there is no connection.
pub type DialError = Box<dyn std::error::Error + Send + Sync>;

/// Connects.
///
/// # Errors
/// A file that cannot be used, a host that cannot be reached, a handshake that fails.
pub async fn connect(host: &str, port: u16, tls: &Tls) -> Result<impl AsyncRead + AsyncWrite + Unpin, DialError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions()?;
    let builder = if tls.insecure {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody::new(provider)))
    } else {
        let mut roots = RootCertStore::empty();
        match &tls.authority {
            Some(path) => certificates(path)?.into_iter().try_for_each(|one| roots.add(one))?,
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        builder.with_root_certificates(roots)
    };
    let config = match &tls.certificate {
        Some((certificate, key)) => {
            let read = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, &error))?;
            builder.with_client_auth_cert(certificates(certificate)?, read)?
        }
        None => builder.with_no_client_auth(),
    };
    let name = ServerName::try_from(host.to_owned())?;
    let work = async {
        let stream = TcpStream::connect((host, port)).await?;
        let _ = stream.set_nodelay(true);
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    };
    Ok(tokio::time::timeout(PATIENCE, work).await??)
}
