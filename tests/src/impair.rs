//! Making the underlay worse: loss, black holes and blocked ports, by nftables on its ports.
//!
//! An impairment acts where a node's frames enter the underlay, behind the capture, which still
//! sees them.

use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use ipnet::IpNet;

use crate::address::IpVersion;
use crate::namespace::Namespace;
use crate::underlay::port;

/// The grain of a loss rate.
const PER: u32 = 100_000;

/// Which of an agent's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Messages {
    /// Those that carry a packet of a pod.
    Packets,
    /// Handshakes and keepalives.
    Others,
}

impl Messages {
    /// Matches of nft, one for each of its rules. Transport data is type 4, the first byte behind
    /// the UDP header; a keepalive has nothing but 32 bytes of its own.
    fn matches(self) -> &'static [&'static str] {
        match self {
            Self::Packets => &["meta l4proto udp @th,64,8 4 udp length > 40 "],
            Self::Others => &[
                "meta l4proto udp @th,64,8 < 4 ",
                "meta l4proto udp @th,64,8 4 udp length <= 40 ",
            ],
        }
    }
}

/// What happens to whose packets. It never touches ARP; IPv6 neighbour discovery between two
/// nodes' own addresses it does.
#[derive(Debug, Clone, PartialEq)]
pub struct Impairment {
    share: u32,
    from: Option<u8>,
    to: Option<u8>,
    udp_port: Option<u16>,
    version: Option<IpVersion>,
    messages: Option<Messages>,
}

impl Impairment {
    /// Loses this percentage at random.
    ///
    /// # Panics
    /// Outside 0.001 to 100.
    #[must_use]
    pub fn loss(percent: f64) -> Self {
        assert!((0.001..=100.0).contains(&percent), "a loss of {percent} %");
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0 to PER"
        )]
        let share = (percent / 100.0 * f64::from(PER)).round() as u32;
        Self {
            share,
            from: None,
            to: None,
            udp_port: None,
            version: None,
            messages: None,
        }
    }

    /// Loses everything, without a word to anybody.
    #[must_use]
    pub fn blackhole() -> Self {
        Self::loss(100.0)
    }

    /// Only what this node sends.
    #[must_use]
    pub fn from(mut self, node: u8) -> Self {
        self.from = Some(node);
        self
    }

    /// Only what is addressed to this node or its pods.
    #[must_use]
    pub fn to(mut self, node: u8) -> Self {
        self.to = Some(node);
        self
    }

    /// Only UDP to this port, such as one lane's.
    #[must_use]
    pub fn udp_port(mut self, port: u16) -> Self {
        self.udp_port = Some(port);
        self
    }

    /// Only packets of this version.
    #[must_use]
    pub fn version(mut self, version: IpVersion) -> Self {
        self.version = Some(version);
        self
    }

    /// Only these messages of agents: so those that were lost are counted apart.
    #[must_use]
    pub fn messages(mut self, messages: Messages) -> Self {
        self.messages = Some(messages);
        self
    }

    pub(crate) fn target(&self) -> Option<u8> {
        self.to
    }

    /// The rules of one chain; `destinations` are the target node's.
    fn rules(&self, destinations: &[IpNet]) -> Vec<String> {
        let mut common = String::new();
        if let Some(node) = self.from {
            let _ = write!(common, "iifname \"{}\" ", port(node));
        }
        let addresses = if self.to.is_none() {
            vec![String::new()]
        } else {
            destinations
                .iter()
                .map(|network| match network {
                    IpNet::V4(network) => format!("ip daddr {network} "),
                    IpNet::V6(network) => format!("ip6 daddr {network} "),
                })
                .collect()
        };
        let chance = if self.share == PER {
            String::new()
        } else {
            format!("numgen random mod {PER} < {} ", self.share)
        };
        let transport = self
            .udp_port
            .map_or_else(String::new, |port| format!("udp dport {port} "));
        let versions = match self.version {
            None => "{ ip, ip6 }",
            Some(IpVersion::V4) => "ip",
            Some(IpVersion::V6) => "ip6",
        };
        let messages = self.messages.map_or(&[""] as &[&str], Messages::matches);
        let mut rules = Vec::new();
        for address in &addresses {
            rules.extend(messages.iter().map(|message| {
                format!(
                    "{common}{address}{transport}{message}ether type {versions} \
                     {chance}counter name dropped drop"
                )
            }));
        }
        rules
    }
}

/// An impairment in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImpairmentId(u32);

impl ImpairmentId {
    fn table(self) -> String {
        format!("impairment{}", self.0)
    }
}

/// Puts impairment number `number` in force in the underlay's namespace.
pub(crate) fn add(
    underlay: &Namespace,
    number: u32,
    impairment: &Impairment,
    destinations: &[IpNet],
) -> Result<ImpairmentId> {
    let id = ImpairmentId(number);
    let rules = impairment.rules(destinations).join("\n    ");
    // Each has a table of its own, so that removing one leaves the others' counters alone.
    underlay.nft(&format!(
        "table bridge {} {{\n  counter dropped {{ }}\n  chain prerouting {{\n    \
         type filter hook prerouting priority -300;\n    {rules}\n  }}\n}}\n",
        id.table()
    ))?;
    Ok(id)
}

/// Ends it.
pub(crate) fn remove(underlay: &Namespace, id: ImpairmentId) -> Result<()> {
    underlay.nft(&format!("delete table bridge {}\n", id.table()))
}

/// How many packets it has dropped.
pub(crate) fn dropped(underlay: &Namespace, id: ImpairmentId) -> Result<u64> {
    let text = underlay.output(
        "nft",
        &["-j", "list", "counter", "bridge", &id.table(), "dropped"],
        "",
    )?;
    let listed: serde_json::Value = serde_json::from_str(&text)?;
    listed["nftables"]
        .as_array()
        .into_iter()
        .flatten()
        .find_map(|object| object["counter"]["packets"].as_u64())
        .with_context(|| format!("nft did not list the counter: {text}"))
}

/// Addresses as networks of one.
pub(crate) fn single(addresses: &[IpAddr]) -> impl Iterator<Item = IpNet> {
    addresses.iter().copied().map(IpNet::from)
}
