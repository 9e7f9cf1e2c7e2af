//! The text form of a Node record: annotations with the prefix `podwire.dev/`.
//!
//! The form is strict, because an admission policy checks the same text with CEL: no blanks, comma
//! as the only separator, no empty items. An operator writes it by hand only for a plain WireGuard
//! peer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use ipnet::IpNet;

use crate::key::{InvalidKey, PublicKey};
use crate::record::{Lane, LaneKeys, Mode, Record};

/// How the node takes part: `encrypted` or `host-network`.
pub const MODE: &str = "podwire.dev/mode";
/// Pod CIDRs, separated by commas.
pub const POD_CIDRS: &str = "podwire.dev/pod-cidrs";
/// Endpoints of lane 0, separated by commas.
pub const ENDPOINTS: &str = "podwire.dev/endpoints";
/// Lane 0's public key.
pub const PUBLIC_KEY: &str = "podwire.dev/public-key";
/// The other lanes, `PORT=KEY` separated by commas.
pub const LANES: &str = "podwire.dev/lanes";
/// Lane 0's key of the next generation.
pub const NEXT_PUBLIC_KEY: &str = "podwire.dev/next-public-key";
/// The other lanes of the next generation.
pub const NEXT_LANES: &str = "podwire.dev/next-lanes";
/// Lane 0's key of the previous generation.
pub const PREVIOUS_PUBLIC_KEY: &str = "podwire.dev/previous-public-key";
/// The other lanes of the previous generation.
pub const PREVIOUS_LANES: &str = "podwire.dev/previous-lanes";
/// Counts the node's keys.
pub const KEY_GENERATION: &str = "podwire.dev/key-generation";
/// When the current key was made, RFC 3339.
pub const KEY_CREATED: &str = "podwire.dev/key-created";
/// Where a key rotation stands, for people.
pub const ROTATION_PHASE: &str = "podwire.dev/rotation-phase";
/// Changes when the node's clock went back.
pub const EPOCH: &str = "podwire.dev/epoch";

const KNOWN: [&str; 13] = [
    MODE,
    POD_CIDRS,
    ENDPOINTS,
    PUBLIC_KEY,
    LANES,
    NEXT_PUBLIC_KEY,
    NEXT_LANES,
    PREVIOUS_PUBLIC_KEY,
    PREVIOUS_LANES,
    KEY_GENERATION,
    KEY_CREATED,
    ROTATION_PHASE,
    EPOCH,
];

/// Longest value in bytes: twice what the largest list that is allowed takes (16 IPv6 CIDRs, 703
/// bytes).
pub const VALUE_LENGTH_MAX: usize = 1_500;

/// Most lanes of a node, lane 0 included (DESIGN.md section 6).
pub const LANES_MAX: usize = 8;

/// Most pod CIDRs of a node. Kubernetes gives one per family; other registries may give more.
pub const POD_CIDRS_MAX: usize = 16;

/// Most bytes of a rejected value that an error repeats.
const EXCERPT_LENGTH_MAX: usize = 64;

/// Why annotations are no record. Each names its annotation, what is wrong and what is allowed.
/// Only the operator or the agent of that one node can mend it; trying again does not help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A required annotation is absent.
    #[error("{0} is missing: {1}")]
    Missing(&'static str, &'static str),
    /// A value is too long to be read.
    #[error("{annotation} has {length} bytes: at most {VALUE_LENGTH_MAX} are allowed")]
    TooLong {
        /// The annotation.
        annotation: &'static str,
        /// Its length in bytes.
        length: usize,
    },
    /// The mode is none of the two.
    #[error("{MODE} is {0:?}: allowed are \"encrypted\" and \"host-network\"")]
    NotAMode(String),
    /// A list has too many items.
    #[error("{annotation} has {count} items: at most {allowed} are allowed")]
    TooMany {
        /// The annotation.
        annotation: &'static str,
        /// How many items it has.
        count: usize,
        /// How many it may have.
        allowed: usize,
    },
    /// An item is no CIDR.
    #[error("{POD_CIDRS} holds {0:?}: expected ADDRESS/LENGTH, such as 10.244.1.0/24")]
    NotACidr(String),
    /// A CIDR names an address inside it.
    #[error(
        "{POD_CIDRS} holds {0}, which has host bits set: write {network}",
        network = .0.trunc()
    )]
    HostBits(IpNet),
    /// Two CIDRs of the record overlap.
    #[error("{POD_CIDRS} holds {0} and {1}, which overlap: name each address once")]
    PodCidrsOverlap(IpNet, IpNet),
    /// An item is no endpoint.
    #[error(
        "{ENDPOINTS} holds {0:?}: expected ADDRESS:PORT with a port above 0, such as \
         192.0.2.11:51880 or [2001:db8::11]:51880"
    )]
    NotAnEndpoint(String),
    /// Two endpoints of one family.
    #[error("{ENDPOINTS} holds {0} and {1}: one per address family is allowed")]
    EndpointFamilyTwice(SocketAddr, SocketAddr),
    /// Lane 0 receives on one port only.
    #[error("{ENDPOINTS} holds {0} and {1}: both must have the port of lane 0")]
    EndpointPortsDiffer(SocketAddr, SocketAddr),
    /// A value is no key.
    #[error("{annotation} holds no public key: {source}")]
    NotAKey {
        /// The annotation.
        annotation: &'static str,
        /// What is wrong with it.
        #[source]
        source: InvalidKey,
    },
    /// An item of a list of lanes is no lane. The item is not repeated: it may hold a private key.
    #[error("item {item} of {annotation} is no lane: expected PORT=KEY with a port above 0")]
    NotALane {
        /// The annotation.
        annotation: &'static str,
        /// Which item, from 1.
        item: usize,
    },
    /// Two lanes have one port.
    #[error(
        "{annotation} names port {port} twice (lane 0 has the port of the endpoints): \
             each lane needs its own"
    )]
    PortTwice {
        /// The annotation.
        annotation: &'static str,
        /// The port.
        port: u16,
    },
    /// Two lanes have one key, which would make them one WireGuard peer.
    #[error("the key {0} is named for two lanes: each lane needs its own")]
    KeyTwice(PublicKey),
    /// Lanes without lane 0.
    #[error("{lanes} is there without {public_key}, which is lane 0's key")]
    LanesWithoutKey {
        /// The list of lanes.
        lanes: &'static str,
        /// The annotation that is missing.
        public_key: &'static str,
    },
    /// A value is no number.
    #[error("{annotation} is {value:?}: expected a decimal number below 2^64")]
    NotANumber {
        /// The annotation.
        annotation: &'static str,
        /// What it holds, shortened.
        value: String,
    },
    /// A text for people holds what a terminal must not see.
    #[error("{annotation} is {value:?}: expected printable ASCII")]
    NotPrintable {
        /// The annotation.
        annotation: &'static str,
        /// What it holds, shortened.
        value: String,
    },
}

/// Whether this is an annotation of a record that this version knows.
#[must_use]
pub fn is_known(annotation: &str) -> bool {
    KNOWN.contains(&annotation)
}

/// The record that annotations hold; `None` when no annotation of a record is there. Annotations
/// that are not known are ignored, so that a later version may add some.
pub fn parse(annotations: &BTreeMap<String, String>) -> Result<Option<Record>, RecordError> {
    if KNOWN.iter().all(|name| !annotations.contains_key(*name)) {
        return Ok(None);
    }
    let values = Values(annotations);
    let mode = mode(values.get(MODE)?)?;
    let pod_cidrs = pod_cidrs(values.get(POD_CIDRS)?)?;
    let endpoints = values
        .get(ENDPOINTS)?
        .map(endpoints)
        .transpose()?
        .unwrap_or_default();
    let current = lane_keys(&values, PUBLIC_KEY, LANES)?;
    if mode == Mode::Encrypted && current.is_none() {
        return Err(RecordError::Missing(
            PUBLIC_KEY,
            "mode \"encrypted\" needs a key",
        ));
    }
    let record = Record {
        mode,
        pod_cidrs,
        endpoints,
        current,
        next: lane_keys(&values, NEXT_PUBLIC_KEY, NEXT_LANES)?,
        previous: lane_keys(&values, PREVIOUS_PUBLIC_KEY, PREVIOUS_LANES)?,
        key_generation: number(&values, KEY_GENERATION)?.unwrap_or(1),
        key_created: text(&values, KEY_CREATED)?,
        rotation_phase: text(&values, ROTATION_PHASE)?,
        epoch: number(&values, EPOCH)?.unwrap_or(0),
    };
    check_ports(&record)?;
    check_keys(&record)?;
    Ok(Some(record))
}

impl Record {
    /// The annotations that hold this record: what [`parse`] reads back. Every annotation of a
    /// record that is not among them has to be removed from the Node.
    #[must_use]
    pub fn to_annotations(&self) -> BTreeMap<String, String> {
        let mode = match self.mode {
            Mode::Encrypted => "encrypted",
            Mode::HostNetwork => "host-network",
        };
        let mut annotations = BTreeMap::new();
        let mut put = |name: &str, value: String| annotations.insert(name.to_owned(), value);
        put(MODE, mode.to_owned());
        put(POD_CIDRS, list(&self.pod_cidrs));
        put(KEY_GENERATION, self.key_generation.to_string());
        if !self.endpoints.is_empty() {
            put(ENDPOINTS, list(&self.endpoints));
        }
        if self.epoch != 0 {
            put(EPOCH, self.epoch.to_string());
        }
        for (name, value) in [
            (KEY_CREATED, &self.key_created),
            (ROTATION_PHASE, &self.rotation_phase),
        ] {
            if let Some(value) = value {
                put(name, value.clone());
            }
        }
        for (keys, public_key, lanes) in [
            (&self.current, PUBLIC_KEY, LANES),
            (&self.next, NEXT_PUBLIC_KEY, NEXT_LANES),
            (&self.previous, PREVIOUS_PUBLIC_KEY, PREVIOUS_LANES),
        ] {
            let Some(keys) = keys else { continue };
            put(public_key, keys.public_key.to_string());
            if !keys.lanes.is_empty() {
                let items = keys
                    .lanes
                    .iter()
                    .map(|lane| format!("{}={}", lane.port, lane.key));
                put(lanes, items.collect::<Vec<_>>().join(","));
            }
        }
        annotations
    }
}

/// The annotations, with the bound on every value that is read.
struct Values<'a>(&'a BTreeMap<String, String>);

impl<'a> Values<'a> {
    fn get(&self, annotation: &'static str) -> Result<Option<&'a str>, RecordError> {
        match self.0.get(annotation) {
            Some(value) if value.len() > VALUE_LENGTH_MAX => Err(RecordError::TooLong {
                annotation,
                length: value.len(),
            }),
            value => Ok(value.map(String::as_str)),
        }
    }
}

fn list<T: ToString>(items: &[T]) -> String {
    items
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

fn excerpt(value: &str) -> String {
    value.chars().take(EXCERPT_LENGTH_MAX).collect()
}

fn mode(value: Option<&str>) -> Result<Mode, RecordError> {
    match value {
        None => Err(RecordError::Missing(
            MODE,
            "it is never inferred; allowed are \"encrypted\" and \"host-network\"",
        )),
        Some("encrypted") => Ok(Mode::Encrypted),
        Some("host-network") => Ok(Mode::HostNetwork),
        Some(other) => Err(RecordError::NotAMode(excerpt(other))),
    }
}

/// The items of a list, not more than allowed.
fn items<'a>(
    annotation: &'static str,
    value: &'a str,
    allowed: usize,
) -> Result<Vec<&'a str>, RecordError> {
    let items: Vec<&str> = value.split(',').collect();
    if items.len() > allowed {
        return Err(RecordError::TooMany {
            annotation,
            count: items.len(),
            allowed,
        });
    }
    Ok(items)
}

fn pod_cidrs(value: Option<&str>) -> Result<Vec<IpNet>, RecordError> {
    let value = value.ok_or(RecordError::Missing(
        POD_CIDRS,
        "name the Node's spec.podCIDRs",
    ))?;
    let mut cidrs: Vec<IpNet> = Vec::new();
    for item in items(POD_CIDRS, value, POD_CIDRS_MAX)? {
        let cidr: IpNet = item
            .parse()
            .map_err(|_| RecordError::NotACidr(excerpt(item)))?;
        if cidr != cidr.trunc() {
            return Err(RecordError::HostBits(cidr));
        }
        if let Some(other) = cidrs.iter().find(|other| overlap(other, &cidr)) {
            return Err(RecordError::PodCidrsOverlap(*other, cidr));
        }
        cidrs.push(cidr);
    }
    Ok(cidrs)
}

fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

fn endpoints(value: &str) -> Result<Vec<SocketAddr>, RecordError> {
    let mut endpoints: Vec<SocketAddr> = Vec::new();
    // At most one per family: a longer list has a family twice, which says more than a count.
    for item in value.split(',') {
        let wrong = || RecordError::NotAnEndpoint(excerpt(item));
        let endpoint: SocketAddr = item.parse().map_err(|_| wrong())?;
        // A scope names a link of the node that wrote it: it means nothing elsewhere.
        let scoped = matches!(endpoint, SocketAddr::V6(endpoint) if endpoint.scope_id() != 0);
        if endpoint.port() == 0 || scoped {
            return Err(wrong());
        }
        if let Some(other) = endpoints.iter().find(|e| e.is_ipv4() == endpoint.is_ipv4()) {
            return Err(RecordError::EndpointFamilyTwice(*other, endpoint));
        }
        if let Some(other) = endpoints.iter().find(|e| e.port() != endpoint.port()) {
            return Err(RecordError::EndpointPortsDiffer(*other, endpoint));
        }
        endpoints.push(endpoint);
    }
    Ok(endpoints)
}

fn lane_keys(
    values: &Values<'_>,
    public_key: &'static str,
    lanes: &'static str,
) -> Result<Option<LaneKeys>, RecordError> {
    let others = values.get(lanes)?;
    let Some(value) = values.get(public_key)? else {
        return match others {
            Some(_) => Err(RecordError::LanesWithoutKey { lanes, public_key }),
            None => Ok(None),
        };
    };
    let key = value.parse().map_err(|source| RecordError::NotAKey {
        annotation: public_key,
        source,
    })?;
    let others = match others {
        Some(others) => items(lanes, others, LANES_MAX - 1)?,
        None => Vec::new(),
    };
    let others = (1..).zip(others).map(|(item, text)| {
        let not_a_lane = || RecordError::NotALane {
            annotation: lanes,
            item,
        };
        let (port, key) = text.split_once('=').ok_or_else(not_a_lane)?;
        let port = decimal(port)
            .and_then(|port| u16::try_from(port).ok())
            .filter(|p| *p > 0);
        let key = key.parse().map_err(|source| RecordError::NotAKey {
            annotation: lanes,
            source,
        })?;
        Ok(Lane {
            port: port.ok_or_else(not_a_lane)?,
            key,
        })
    });
    Ok(Some(LaneKeys {
        public_key: key,
        lanes: others.collect::<Result<_, RecordError>>()?,
    }))
}

fn decimal(text: &str) -> Option<u64> {
    // Rust's parser also takes a plus sign.
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

fn number(values: &Values<'_>, annotation: &'static str) -> Result<Option<u64>, RecordError> {
    let Some(value) = values.get(annotation)? else {
        return Ok(None);
    };
    match decimal(value) {
        Some(number) => Ok(Some(number)),
        None => Err(RecordError::NotANumber {
            annotation,
            value: excerpt(value),
        }),
    }
}

fn text(values: &Values<'_>, annotation: &'static str) -> Result<Option<String>, RecordError> {
    let Some(value) = values.get(annotation)? else {
        return Ok(None);
    };
    if value.bytes().all(|b| b.is_ascii_graphic() || b == b' ') {
        Ok(Some(value.to_owned()))
    } else {
        Err(RecordError::NotPrintable {
            annotation,
            value: excerpt(value),
        })
    }
}

fn check_ports(record: &Record) -> Result<(), RecordError> {
    let generations = [
        (&record.current, LANES),
        (&record.next, NEXT_LANES),
        (&record.previous, PREVIOUS_LANES),
    ];
    for (keys, annotation) in generations {
        let mut ports: BTreeSet<u16> = record.endpoints.iter().map(SocketAddr::port).collect();
        for lane in keys.iter().flat_map(|keys| &keys.lanes) {
            if !ports.insert(lane.port) {
                return Err(RecordError::PortTwice {
                    annotation,
                    port: lane.port,
                });
            }
        }
    }
    Ok(())
}

/// One lane may keep its key over generations; two lanes never share one.
fn check_keys(record: &Record) -> Result<(), RecordError> {
    let mut lanes: BTreeMap<PublicKey, usize> = BTreeMap::new();
    for keys in [&record.current, &record.next, &record.previous]
        .into_iter()
        .flatten()
    {
        for (lane, key) in keys.keys().enumerate() {
            if *lanes.entry(key).or_insert(lane) != lane {
                return Err(RecordError::KeyTwice(key));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
