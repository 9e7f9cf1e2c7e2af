//! Asks the running agent over its admin socket.

use std::path::{Path, PathBuf};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::http::request::Builder;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::SOCKET_NAME;

/// An answer of this size holds more than 100,000 peers; anything longer is not our agent.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Why the agent did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QueryError {
    #[error(
        "no agent answers on {path}: {source}; is podwire-agent running on this node, and --run-dir right?"
    )]
    Connect {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the agent broke off its answer: {0}")]
    Exchange(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the agent's answer is not what this version expects: {0}; do the versions agree?")]
    Answer(#[from] serde_json::Error),
}

/// The status code and body of an answer.
pub(crate) async fn ask(run_dir: &Path, question: &str) -> Result<(u16, Bytes), QueryError> {
    exchange(run_dir, Request::get(question), Bytes::new()).await
}

/// The same of a request with a body.
pub(crate) async fn tell(
    run_dir: &Path,
    request: &str,
    body: String,
) -> Result<(u16, Bytes), QueryError> {
    exchange(run_dir, Request::post(request), body.into()).await
}

async fn exchange(
    run_dir: &Path,
    request: Builder,
    body: Bytes,
) -> Result<(u16, Bytes), QueryError> {
    let path = run_dir.join(SOCKET_NAME);
    let stream = UnixStream::connect(&path)
        .await
        .map_err(|source| QueryError::Connect { path, source })?;
    let broken = |error: Box<dyn std::error::Error + Send + Sync>| QueryError::Exchange(error);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(error.into()))?;
    let connection = tokio::spawn(connection);
    let request = request
        .header(hyper::header::HOST, "podwire-agent")
        .body(Full::new(body))
        .map_err(|error| broken(error.into()))?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| broken(error.into()))?;
    let code = response.status().as_u16();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(broken)?;
    connection.abort();
    Ok((code, body.to_bytes()))
}

/// The answer, parsed.
pub(crate) async fn query<T: DeserializeOwned>(
    run_dir: &Path,
    question: &str,
) -> Result<T, QueryError> {
    let (_, body) = ask(run_dir, question).await?;
    Ok(serde_json::from_slice(&body)?)
}
