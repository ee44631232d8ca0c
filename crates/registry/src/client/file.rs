//! One file of the web, as builds add it.

use std::io::{self, Seek, SeekFrom, Write};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Method;
use hyper::header::{CONTENT_LENGTH, HeaderMap, LAST_MODIFIED};

use super::call::{Answered, Ask, host_of, jittered};
use super::{Client, ClientError, address};

/// How long a server may send nothing before the connection counts as broken.
const STALL: Duration = Duration::from_secs(60);

/// A file that was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Downloaded {
    /// Its bytes.
    pub size: u64,
    /// When its server says that it was changed last, as HTTP writes it.
    pub changed: Option<String>,
}

impl Client {
    /// Fetches a file over HTTP or HTTPS as nobody, through the proxies and by the certificates of registries. Redirects are
    /// followed, but not from HTTPS to plain HTTP. A connection that breaks is tried again from the start.
    ///
    /// # Errors
    /// When the server refuses or does not answer, when there is more than `most` bytes, and what `out` says.
    pub async fn download<W: Write + Seek>(
        &self,
        url: &str,
        out: &mut W,
        most: u64,
    ) -> Result<Downloaded, ClientError> {
        let uri = address::parse(url)?;
        let ask = Ask {
            method: Method::GET,
            domain: host_of(&uri),
            uri,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            scope: String::new(),
            what: url.to_owned(),
        };
        let mut tries = 0;
        loop {
            let answered = self.ask(&ask).await?;
            let changed = answered.header(LAST_MODIFIED).map(str::to_owned);
            out.seek(SeekFrom::Start(0)).map_err(kept)?;
            match body(answered, out, most).await {
                Ok(size) => return Ok(Downloaded { size, changed }),
                Err(ClientError::Broken { host, source, .. }) => {
                    tries += 1;
                    if tries > self.inner.config.retries {
                        return Err(ClientError::Broken { host, times: tries, source });
                    }
                    tokio::time::sleep(jittered(self.inner.config.pause * tries)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

fn kept(source: io::Error) -> ClientError {
    ClientError::Kept { source }
}

async fn body(answered: Answered, out: &mut impl Write, most: u64) -> Result<u64, ClientError> {
    let host = host_of(&answered.uri);
    let too_long =
        || ClientError::Protocol { host: host.clone(), reason: format!("the file has more than {most} bytes") };
    let said: Option<u64> = answered.header(CONTENT_LENGTH).and_then(|text| text.parse().ok());
    if said.is_some_and(|said| said > most) {
        return Err(too_long());
    }
    let mut incoming = answered.response.into_body();
    let mut size = 0;
    loop {
        let broken = |source| ClientError::Broken { host: host.clone(), times: 1, source };
        let frame = match tokio::time::timeout(STALL, incoming.frame()).await {
            Err(_) => return Err(broken(format!("nothing came for {} s", STALL.as_secs()).into())),
            Ok(None) => return Ok(size),
            Ok(Some(Err(error))) => return Err(broken(error.into())),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(bytes) = frame.into_data() else { continue };
        size += bytes.len() as u64;
        if size > most {
            return Err(too_long());
        }
        out.write_all(&bytes).map_err(kept)?;
    }
}
