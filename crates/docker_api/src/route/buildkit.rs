//! Connections that become BuildKit's: sessions, and calls.

use crate::error::ApiError;
use crate::reply::{Body, Reply, Result};
use crate::server::Call;
use buildkit::Greeting;
use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response, StatusCode, body::Incoming};
use std::sync::Arc;

/// HTTP/2 without TLS, as clients ask for it.
const PROTOCOL: &str = "h2c";

/// `POST /session`
pub(crate) async fn session(mut call: Call) -> Result {
    let greeting = Greeting::read(call.request.headers()).map_err(|error| ApiError::invalid(error.to_string()))?;
    let (connection, reply) = upgrade(&mut call.request)?;
    let kit = Arc::clone(&call.api.buildkit);
    tokio::spawn(async move {
        match connection.await {
            Ok(stream) => kit.session(greeting, stream).await,
            Err(error) => tracing::debug!(%error, "a session did not begin"),
        }
    });
    Ok(reply)
}

/// `POST /grpc`
pub(crate) async fn grpc(mut call: Call) -> Result {
    let (connection, reply) = upgrade(&mut call.request)?;
    let kit = Arc::clone(&call.api.buildkit);
    tokio::spawn(async move {
        match connection.await {
            Ok(stream) => kit.serve(stream).await,
            Err(error) => tracing::debug!(%error, "a connection did not become BuildKit's"),
        }
    });
    Ok(reply)
}

fn upgrade(request: &mut Request<Incoming>) -> Result<(OnUpgrade, Reply)> {
    let asked = request.headers().get(UPGRADE).and_then(|protocol| protocol.to_str().ok());
    if asked.is_none_or(|protocol| !protocol.eq_ignore_ascii_case(PROTOCOL)) {
        return Err(ApiError::invalid(format!("the request has to ask for the upgrade to {PROTOCOL}")));
    }
    let connection = hyper::upgrade::on(request);
    let mut reply = Response::new(Body::Full(None));
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    reply.headers_mut().insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
    Ok((connection, reply))
}
