//! Who asks servers again and again meanwhile, and how that goes.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::{Cluster, ClusterNode, until};
use serde::Deserialize;

use crate::rollout::MeshPod;
use crate::scene::{DEADLINE, NAMESPACE};

/// Where something runs.
#[derive(Clone)]
pub(crate) enum Place<'a> {
    Pod(&'a Cluster, String),
    Host(&'a ClusterNode),
}

impl Place<'_> {
    /// Runs a command to its end, and returns what it prints.
    pub(crate) fn run(&self, command: &[&str]) -> Result<String> {
        match self {
            Self::Pod(cluster, pod) => cluster.exec(NAMESPACE, pod, command),
            Self::Host(node) => {
                let (program, arguments) = command.split_first().context("an empty command")?;
                node.run(program, arguments, "")
            }
        }
    }

    /// Starts a command that stays, and returns its process's id.
    pub(crate) fn start(&self, command: &str) -> Result<String> {
        let script = format!("{command} >/dev/null 2>&1 & echo $!");
        Ok(self.run(&["sh", "-c", &script])?.trim().to_owned())
    }

    /// What a count or a talk tells here on a port.
    pub(crate) fn told<T: for<'de> Deserialize<'de>>(&self, port: u16) -> Result<T> {
        // By itself, and not by what is tested.
        let text = self.run(&["pod-tools", "count-read", &format!("127.0.0.1:{port}")])?;
        serde_json::from_str(&text).with_context(|| format!("reading {text}"))
    }
}

/// What a talk tells of one server.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Told {
    pub(crate) to: String,
    pub(crate) answered: u64,
    /// The host name of who answered last.
    pub(crate) last: String,
    pub(crate) failed: u64,
    pub(crate) failure: String,
}

/// A program that asks.
pub(crate) struct Talk<'a> {
    place: Place<'a>,
    port: u16,
    process: String,
}

/// How it asks.
#[derive(Clone, Copy)]
pub(crate) enum How {
    /// Over one TCP connection as long as that lasts.
    Connection,
    /// Over a new TCP connection each time.
    Connections,
    /// By datagrams from one port.
    Datagrams,
}

impl<'a> Talk<'a> {
    /// Starts it. It tells on a port of its own how that goes.
    pub(crate) fn start(
        place: Place<'a>,
        port: u16,
        how: How,
        targets: &[SocketAddr],
    ) -> Result<Self> {
        let how = match how {
            How::Connection => ("", "tcp"),
            How::Connections => ("-anew", "tcp"),
            How::Datagrams => ("", "udp"),
        };
        let targets: Vec<_> = targets.iter().map(SocketAddr::to_string).collect();
        let targets = targets.join(" ");
        let (flag, protocol) = how;
        let command = format!("pod-tools talk {flag} {port} {protocol} {targets}");
        let process = place.start(&command)?;
        let talk = Self {
            place,
            port,
            process,
        };
        talk.wait_for_more(1)?;
        Ok(talk)
    }

    pub(crate) fn told(&self) -> Result<Vec<Told>> {
        self.place.told(self.port)
    }

    /// Ends it, and its connections with it.
    pub(crate) fn end(self) -> Result<()> {
        self.place.run(&["kill", &self.process]).map(drop)
    }

    /// Waits until each server has answered so many more questions.
    pub(crate) fn wait_for_more(&self, more: u64) -> Result<()> {
        let before = until(DEADLINE, "a talk to begin", || self.told())?;
        until(DEADLINE, "more answers", || {
            let now = self.told()?;
            let grew = now.iter().zip(&before);
            let mut grew = grew.map(|(now, before)| now.answered >= before.answered + more);
            ensure!(grew.all(|grew| grew), "{now:?}");
            Ok(())
        })
    }

    /// No connection was reset, refused or closed so far.
    pub(crate) fn unbroken(&self) -> Result<()> {
        for told in self.told()? {
            let Told {
                to,
                failed,
                failure,
                ..
            } = told;
            ensure!(failed == 0, "{to} failed {failed} times: {failure}");
        }
        Ok(())
    }
}

/// A connection of each pod to each other one, in both families.
pub(crate) fn between_all<'a>(
    cluster: &'a Cluster,
    pods: &[MeshPod],
    port: u16,
    served: u16,
) -> Result<Vec<Talk<'a>>> {
    let talk = |(from, _): &MeshPod| {
        let place = Place::Pod(cluster, from.clone());
        Talk::start(place, port, How::Connection, &others(pods, from, served))
    };
    pods.iter().map(talk).collect()
}

/// Where the pods but one serve.
pub(crate) fn others(pods: &[MeshPod], but: &str, port: u16) -> Vec<SocketAddr> {
    let others = pods.iter().filter(|(name, _)| name != but);
    let addresses = others.flat_map(|(_, addresses)| addresses);
    addresses
        .map(|address| SocketAddr::new(*address, port))
        .collect()
}
