//! What is measured, and in which unit.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A kind of measure, as the command line names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Kind {
    /// Throughput of 1, 4 and 16 TCP streams, one way, reverse and both at once.
    Tcp,
    /// Packets a second over UDP, of 64, 512 and 1,200 bytes, one by one and in trains, with at
    /// most 0.1 % lost.
    Udp,
    /// Round trips, on an idle path and beside one TCP stream.
    Rtt,
    /// TCP connections a second.
    Connect,
    /// 2, 8 and 32 nodes that all send to one.
    Many,
    /// From a start to the first packet that arrives.
    Start,
}

impl Kind {
    /// Those of a quick run.
    pub(crate) const QUICK: [Self; 3] = [Self::Tcp, Self::Udp, Self::Rtt];
}

/// Which way TCP streams send, seen from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Direction {
    Forward,
    Reverse,
    Both,
}

/// One measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Measure {
    /// Gbit/s of payload received.
    Tcp { streams: u32, direction: Direction },
    /// Packets received a second; in trains, what is due at once is given to the kernel in one
    /// piece (UDP_SEGMENT), as senders of QUIC and of video do.
    Udp {
        bytes: usize,
        #[serde(default)]
        trains: bool,
    },
    /// Microseconds; samples are the median round trip of one round.
    RttIdle,
    /// Microseconds, the 99th percentile of one round, while a TCP stream saturates the path.
    RttLoaded,
    /// Connections opened and closed a second.
    Connect,
    /// Gbit/s that the one node receives.
    Many { nodes: u8 },
    /// Milliseconds.
    Start,
}

/// Numbers of TCP streams.
pub(crate) const STREAMS: [u32; 3] = [1, 4, 16];

/// UDP packets: a game's or DNS's, a codec's, QUIC's; the small ones in trains, too, because one by
/// one their sender's own kernel is the limit of the fast.
pub(crate) const DATAGRAMS: [Measure; 5] = [
    Measure::udp(64, false),
    Measure::udp(512, false),
    Measure::udp(1200, false),
    Measure::udp(64, true),
    Measure::udp(512, true),
];

/// How many nodes send to one.
pub(crate) const SENDERS: [u8; 3] = [2, 8, 32];

impl Measure {
    /// Packets of so many payload bytes.
    pub(crate) const fn udp(bytes: usize, trains: bool) -> Self {
        Self::Udp { bytes, trains }
    }

    /// Every measure of a kind.
    pub(crate) fn of(kind: Kind) -> Vec<Self> {
        match kind {
            Kind::Tcp => [Direction::Forward, Direction::Reverse, Direction::Both]
                .into_iter()
                .flat_map(|direction| STREAMS.map(|streams| Self::Tcp { streams, direction }))
                .collect(),
            Kind::Udp => DATAGRAMS.to_vec(),
            Kind::Rtt => vec![Self::RttIdle, Self::RttLoaded],
            Kind::Connect => vec![Self::Connect],
            Kind::Many => SENDERS.map(|nodes| Self::Many { nodes }).to_vec(),
            Kind::Start => vec![Self::Start],
        }
    }

    /// The unit of its values.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Tcp { .. } | Self::Many { .. } => "Gbit/s",
            Self::Udp { .. } => "packets/s",
            Self::RttIdle | Self::RttLoaded => "µs",
            Self::Connect => "connections/s",
            Self::Start => "ms",
        }
    }

    /// Whether a greater value is the better one.
    pub(crate) fn more_is_better(self) -> bool {
        match self {
            Self::Tcp { .. } | Self::Many { .. } | Self::Udp { .. } | Self::Connect => true,
            Self::RttIdle | Self::RttLoaded | Self::Start => false,
        }
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Tcp { streams, direction } => {
                let way = match direction {
                    Direction::Forward => "",
                    Direction::Reverse => ", reverse",
                    Direction::Both => ", both ways",
                };
                let plural = if *streams == 1 { "" } else { "s" };
                format!("TCP, {streams} stream{plural}{way}")
            }
            Self::Udp { bytes, trains } => {
                let how = if *trains { " in trains" } else { "" };
                format!("UDP, {bytes} B{how}")
            }
            Self::RttIdle => "round trip, idle, median".to_owned(),
            Self::RttLoaded => "round trip beside a TCP stream, p99".to_owned(),
            Self::Connect => "TCP connections".to_owned(),
            Self::Many { nodes } => format!("{nodes} nodes to one"),
            Self::Start => "start to first packet".to_owned(),
        };
        formatter.pad(&text)
    }
}
