//! The state of a running mesh in one line.

use std::fmt;

use podwire_testbed::{CaptureReport, Node, Testbed};

use crate::bring_up::{Peers, peers};
use crate::view::bytes;

/// What a line says.
#[derive(Debug)]
pub(crate) struct Live {
    /// Each node's peers, or why it did not say.
    nodes: Vec<(String, Result<Peers, String>)>,
    /// The underlay since the start, or why that is not known.
    underlay: Result<CaptureReport, String>,
}

impl Live {
    /// Asks every agent and the capture.
    pub(crate) fn look(bed: &Testbed) -> Self {
        let nodes = bed
            .nodes()
            .iter()
            .map(|node| (node.name().to_owned(), answer(node)))
            .collect();
        let underlay = bed.capture().report().map_err(|error| format!("{error:#}"));
        Self { nodes, underlay }
    }
}

// A node may be stopped by hand: that is what hands-on work is for.
fn answer(node: &Node) -> Result<Peers, String> {
    peers(node).map_err(|_| "its agent does not answer".to_owned())
}

impl fmt::Display for Live {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = |part: fn(&Peers) -> usize| -> usize {
            self.nodes
                .iter()
                .filter_map(|(_, peers)| peers.as_ref().ok())
                .map(part)
                .sum()
        };
        write!(
            formatter,
            "peers {} of {} up",
            sum(|it| it.up),
            sum(|it| it.encrypted)
        )?;
        let (host_network, closed) = (sum(|it| it.host_network), sum(|it| it.closed));
        if host_network > 0 {
            write!(formatter, ", {host_network} in host-network mode")?;
        }
        if closed > 0 {
            write!(formatter, ", {closed} closed")?;
        }
        match &self.underlay {
            Ok(seen) => {
                let wireguard = seen.wireguard;
                let handshakes = wireguard.initiation.frames + wireguard.response.frames;
                write!(
                    formatter,
                    " | WireGuard {handshakes} handshake frames, {} data frames, {} | plaintext {} \
                     frames",
                    wireguard.transport.frames,
                    bytes(wireguard.transport.bytes),
                    seen.plaintext_frames()
                )?;
            }
            Err(reason) => write!(formatter, " | {reason}")?,
        }
        for (node, peers) in &self.nodes {
            if let Err(reason) = peers {
                write!(formatter, " | {node}: {reason}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use podwire_testbed::capture::Count;

    use super::*;

    #[test]
    fn a_line_sums_up_and_names_the_silent_node() {
        let mut seen = CaptureReport::default();
        seen.wireguard.initiation = Count {
            frames: 2,
            bytes: 400,
        };
        seen.wireguard.transport = Count {
            frames: 7,
            bytes: 2048,
        };
        let peers = Peers {
            total: 2,
            encrypted: 1,
            up: 1,
            host_network: 0,
            closed: 1,
        };
        let live = Live {
            nodes: vec![
                ("node-1".to_owned(), Ok(peers)),
                (
                    "node-2".to_owned(),
                    Err("its agent does not answer".to_owned()),
                ),
            ],
            underlay: Ok(seen),
        };
        assert_eq!(
            live.to_string(),
            "peers 1 of 1 up, 1 closed | WireGuard 2 handshake frames, 7 data frames, 2.00 KiB | \
             plaintext 0 frames | node-2: its agent does not answer"
        );
    }
}
