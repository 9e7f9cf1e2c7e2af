//! This node's own agent, where its socket is at hand: it counts confirmed peers while they grow,
//! which no record does.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use podwire_core::node::NodeName;
use serde::Deserialize;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// The agent's socket in its run folder.
const SOCKET_NAME: &str = "admin.sock";

/// An answer of this size holds more than 100,000 peers; anything longer is no agent's.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// An agent on the same machine answers at once.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Most names of peers in one line.
const NAMES_MAX: usize = 5;

/// What is needed of the agent's status.
#[derive(Debug, Deserialize)]
struct Status {
    node: String,
    rotation: Counts,
}

/// Peers of the node that rotates.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Counts {
    confirmed: usize,
    waiting: Vec<String>,
    waiting_total: usize,
}

impl Counts {
    /// In words.
    pub(crate) fn sentence(&self) -> String {
        let all = self.confirmed + self.waiting_total;
        let told = format!("{}/{all} confirmed", self.confirmed);
        if self.waiting_total == 0 {
            return told;
        }
        let names: Vec<&str> = self.waiting.iter().map(String::as_str).collect();
        let names = &names[..names.len().min(NAMES_MAX)];
        let more = match self.waiting_total - names.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!("{told}, waiting for {}{more}", names.join(", "))
    }
}

/// The node of the agent with this run folder, and its counts, if it answers.
pub(crate) async fn counts(run_dir: &Path) -> Option<(NodeName, Counts)> {
    let status = timeout(ANSWER_TIMEOUT, status(run_dir)).await.ok()?.ok()?;
    Some((status.node.parse().ok()?, status.rotation))
}

async fn status(run_dir: &Path) -> Result<Status> {
    let stream = UnixStream::connect(run_dir.join(SOCKET_NAME)).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .context("no HTTP")?;
    let connection = tokio::spawn(connection);
    let request = Request::get("/status")
        .header(hyper::header::HOST, "podwire-agent")
        .body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await?;
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX);
    let body = body.collect().await.map_err(anyhow::Error::from_boxed)?;
    connection.abort();
    Ok(serde_json::from_slice(&body.to_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_name_the_first_who_are_waited_for() {
        let counts = |confirmed, waiting: &[&str], waiting_total| {
            Counts {
                confirmed,
                waiting: waiting.iter().map(|name| (*name).to_owned()).collect(),
                waiting_total,
            }
            .sentence()
        };
        assert_eq!(counts(48, &[], 0), "48/48 confirmed");
        assert_eq!(
            counts(47, &["node-7"], 1),
            "47/48 confirmed, waiting for node-7"
        );
        let names = ["a", "b", "c", "d", "e", "f"];
        assert_eq!(
            counts(0, &names, 9),
            "0/9 confirmed, waiting for a, b, c, d, e and 4 more"
        );
    }
}
