//! This node's own agent, where its socket is at hand: it knows what no record says, such as how
//! many peers have confirmed new keys, and who is in touch.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use podwire_core::node::NodeName;
use serde::Deserialize;
use serde::de::DeserializeOwned;
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

/// A row of the agent's peers, as far as it is needed.
#[derive(Debug, Deserialize)]
struct PeerRow {
    node: String,
    mode: String,
    state: String,
    latest_handshake_seconds: Option<u64>,
    handshakes: u64,
}

/// The last completed handshake of some.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handshake {
    /// How many there have been.
    count: u64,
    pub(crate) at: Timestamp,
}

/// Its time is known to the second, so that two looks at the same one differ.
impl PartialEq for Handshake {
    fn eq(&self, other: &Self) -> bool {
        self.count == other.count
    }
}

impl Eq for Handshake {}

/// With whom a node is in touch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InTouch {
    pub(crate) node: String,
    /// Peers with a session, of all that are to be encrypted.
    pub(crate) up: usize,
    pub(crate) encrypted: usize,
    /// The last handshake with each peer.
    pub(crate) peers: BTreeMap<String, Handshake>,
}

impl InTouch {
    /// `now` is when the agent was asked.
    fn new(node: String, rows: &[PeerRow], now: Timestamp) -> Self {
        let encrypted = || rows.iter().filter(|row| row.mode == "encrypted");
        let handshake = |row: &PeerRow| {
            let age = SignedDuration::from_secs(row.latest_handshake_seconds?.try_into().ok()?);
            let at = now.checked_sub(age).ok()?;
            let count = row.handshakes;
            Some((row.node.clone(), Handshake { count, at }))
        };
        Self {
            node,
            up: encrypted().filter(|row| row.state == "up").count(),
            encrypted: encrypted().count(),
            peers: encrypted().filter_map(handshake).collect(),
        }
    }

    /// The last one with anybody.
    pub(crate) fn last_handshake(&self) -> Option<Handshake> {
        let at = self.peers.values().map(|handshake| handshake.at).max()?;
        let count = self.peers.values().map(|handshake| handshake.count).sum();
        Some(Handshake { count, at })
    }
}

/// The node of the agent with this run folder, and its counts, if it answers.
pub(crate) async fn counts(run_dir: &Path) -> Option<(NodeName, Counts)> {
    let status: Status = ask(run_dir, "/status").await?;
    Some((status.node.parse().ok()?, status.rotation))
}

/// With whom the node of the agent with this run folder is in touch, if it answers.
pub(crate) async fn in_touch(run_dir: &Path) -> Option<InTouch> {
    let status: Status = ask(run_dir, "/status").await?;
    let rows: Vec<PeerRow> = ask(run_dir, "/peers").await?;
    Some(InTouch::new(status.node, &rows, Timestamp::now()))
}

async fn ask<T: DeserializeOwned>(run_dir: &Path, question: &str) -> Option<T> {
    timeout(ANSWER_TIMEOUT, answer(run_dir, question))
        .await
        .ok()?
        .ok()
}

async fn answer<T: DeserializeOwned>(run_dir: &Path, question: &str) -> Result<T> {
    let stream = UnixStream::connect(run_dir.join(SOCKET_NAME)).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .context("no HTTP")?;
    let connection = tokio::spawn(connection);
    let request = Request::get(question)
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

    #[test]
    fn who_is_in_touch_changes_with_handshakes_and_not_with_time() {
        let row = |node: &str, mode: &str, state: &str, age, handshakes| PeerRow {
            node: node.to_owned(),
            mode: mode.to_owned(),
            state: state.to_owned(),
            latest_handshake_seconds: age,
            handshakes,
        };
        let at = |second| Timestamp::from_second(1_000 + second).expect("a time");
        let look = |later: u64, handshakes| {
            let rows = [
                row("a", "encrypted", "up", Some(40 + later), handshakes),
                row("b", "encrypted", "idle", Some(300 + later), 1),
                row("c", "encrypted", "down", None, 0),
                row("d", "host-network", "plaintext", None, 0),
            ];
            // Seconds are cut off.
            let now = at(i64::try_from(later).expect("small") + 1);
            InTouch::new("n".to_owned(), &rows, now)
        };
        let seen = look(0, 7);
        assert_eq!((seen.up, seen.encrypted), (1, 3));
        assert_eq!(seen.peers.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(seen.last_handshake().map(|it| it.at), Some(at(-39)));
        assert_eq!(seen, look(2, 7));
        assert_ne!(seen, look(2, 8));
        assert_ne!(seen.last_handshake(), look(2, 8).last_handshake());
    }
}
