//! WireGuard messages that were caught on a wire, sent again as they were or changed, by anybody.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, drops};
use podwire_testbed::forged::{self, Extra};
use podwire_testbed::wire::{Message, Wire};
use podwire_testbed::{IpVersion, Node, until};

/// How many packets died of which reason.
pub(crate) type Drops = BTreeMap<&'static str, u64>;

/// Counters of the guards and of the transport are looked at twice a second.
const COUNTING: Duration = Duration::from_secs(20);

/// What nobody sends on purpose: the kernel tells the device's link about its multicast groups.
const UNASKED: &str = "no-peer";

/// Somebody else in the same LAN, and somebody far away.
const STRANGERS: [&str; 4] = [
    "192.0.2.99:51880",
    "203.0.113.66:6666",
    "[2001:db8::99]:51880",
    "[2001:db8:ffff::66]:6666",
];

/// The initiation, response or data message of each kind and port that a node received first, and
/// a cookie reply that nobody asked for.
#[derive(Debug)]
pub(crate) struct Copies {
    /// The node's address of each version.
    targets: [IpAddr; 2],
    messages: Vec<Message>,
}

impl Copies {
    /// Waits until a handshake message and data to `node` have passed its wire.
    pub(crate) fn caught(wire: &Wire, node: &Node) -> Result<Self> {
        let targets = [
            node.host().address(IpVersion::V4)?,
            node.host().address(IpVersion::V6)?,
        ];
        let mut seen: Vec<Message> = Vec::new();
        let mut first: BTreeMap<(u8, u16), Message> = BTreeMap::new();
        until(CONVERGENCE, "messages worth a copy", || {
            seen.extend(wire.messages()?);
            for message in seen
                .iter()
                .filter(|m| targets.contains(&m.destination.ip()))
            {
                let is_good = match message.kind() {
                    1 => is_answered(message, &seen),
                    // A keepalive would have no room to be shorter.
                    4 => message.bytes.len() > 64,
                    _ => true,
                };
                if is_good {
                    let key = (message.kind(), message.destination.port());
                    first.entry(key).or_insert_with(|| message.clone());
                }
            }
            let has = |kinds: &[u8]| first.keys().any(|(kind, _)| kinds.contains(kind));
            ensure!(has(&[1, 2]) && has(&[4]), "only {:?}", first.keys());
            Ok(())
        })?;
        let data = first.values().find(|message| message.kind() == 4);
        let reply = cookie_reply(data.context("no data")?);
        first.insert((3, reply.destination.port()), reply);
        Ok(Self {
            targets,
            messages: first.into_values().collect(),
        })
    }

    /// The kinds of messages that are there.
    pub(crate) fn kinds(&self) -> Vec<u8> {
        self.messages.iter().map(Message::kind).collect()
    }

    /// Puts every message, as it was and changed, on the wire: from its own source, from another
    /// port of it, and from strangers. Returns what each is to be counted as.
    pub(crate) fn put_from_everywhere(&self, wire: &Wire) -> Result<Drops> {
        let mut expected = Drops::new();
        for message in &self.messages {
            let mut sources = vec![message.source, message.source];
            sources[1].set_port(message.source.port() ^ 1);
            for stranger in STRANGERS {
                sources.push(stranger.parse()?);
            }
            for (reason, bytes) in variants(message) {
                for source in &sources {
                    let target = self.targets[usize::from(source.is_ipv6())];
                    let target = SocketAddr::new(target, message.destination.port());
                    wire.put(&forged::udp(*source, target, Extra::Nothing, &bytes))?;
                    *expected.entry(reason).or_default() += 1;
                }
            }
        }
        Ok(expected)
    }
}

/// Whether a response to the initiation passed: the receiver knows its stamp.
fn is_answered(initiation: &Message, seen: &[Message]) -> bool {
    seen.iter()
        .any(|other| other.kind() == 2 && other.bytes.get(8..12) == initiation.bytes.get(4..8))
}

/// Of the right length, for the session that a data message is for.
fn cookie_reply(data: &Message) -> Message {
    let mut bytes = vec![0x66; 64];
    bytes[..4].copy_from_slice(&[3, 0, 0, 0]);
    bytes[4..8].copy_from_slice(&data.bytes[4..8]);
    Message {
        bytes,
        ..data.clone()
    }
}

/// A message that was received before, as it was and changed in each of its parts; and what each
/// is dropped for. The whole list is the dataplane's own test.
fn variants(message: &Message) -> Vec<(&'static str, Vec<u8>)> {
    let whole = &message.bytes;
    let flipped = |at: usize, bits: u8| {
        let mut bytes = whole.clone();
        bytes[at] ^= bits;
        bytes
    };
    let of_length = |length: usize| {
        let mut bytes = whole.clone();
        bytes.resize(length, 0);
        bytes
    };
    let (last, middle) = (whole.len() - 1, 20);
    let mut variants = vec![
        ("malformed-message", flipped(0, 0x40)),
        ("malformed-message", flipped(3, 0x01)),
        ("malformed-message", of_length(31)),
    ];
    match message.kind() {
        4 => variants.extend([
            ("replayed", whole.clone()),
            ("replayed", flipped(last, 0x01)),
            ("replayed", of_length(whole.len() - 1)),
            ("replayed", of_length(1_400)),
            ("foreign-generation", flipped(7, 0x80)),
            ("decrypt-failed", flipped(15, 0x80)),
        ]),
        3 => variants.extend([
            ("handshake-rejected", whole.clone()),
            ("handshake-rejected", flipped(middle, 0x01)),
            ("malformed-message", of_length(65)),
            ("foreign-generation", flipped(7, 0x80)),
        ]),
        kind => {
            variants.extend([
                ("handshake-rejected", whole.clone()),
                // mac2, which counts only under load.
                ("handshake-rejected", flipped(last, 0x01)),
                ("bad-mac", flipped(middle, 0x01)),
                ("bad-mac", flipped(last - 16, 0x01)),
                ("malformed-message", of_length(whole.len() - 1)),
                ("malformed-message", of_length(1_400)),
            ]);
            if kind == 2 {
                variants.push(("foreign-generation", flipped(11, 0x80)));
            }
        }
    }
    variants
}

/// Does something to a node that is to be counted as `put` returns, and waits until it is; what
/// else the node counts must stay as it was.
pub(crate) fn assert_counted(node: &Node, put: impl FnOnce() -> Result<Drops>) -> Result<()> {
    let mut expected = drops(node)?;
    for (reason, packets) in put()? {
        let counted = expected.get_mut(reason);
        *counted.with_context(|| format!("no reason {reason}"))? += packets;
    }
    expected.remove(UNASKED);
    until(
        COUNTING,
        "everything to be counted, and nothing else",
        || {
            let mut counted = drops(node)?;
            counted.remove(UNASKED);
            counted.retain(|reason, packets| expected.get(reason).unwrap_or(&0) != packets);
            let missed: Vec<_> = counted
                .iter()
                .map(|(reason, packets)| (reason, *packets, expected.get(reason)))
                .collect();
            ensure!(missed.is_empty(), "reason, counted, expected: {missed:?}");
            Ok(())
        },
    )
}
