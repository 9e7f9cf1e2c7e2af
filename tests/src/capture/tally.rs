//! What a capture counts, frame by frame.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use ipnet::IpNet;
use memchr::memmem::Finder;
use serde::{Deserialize, Serialize};

use super::frame::{self, Datagram, Frame};
use crate::cookie::Cookie;

/// Offending frames that are kept for the failure message.
const OFFENDERS_MAX: usize = 8;

/// Bytes of an offending frame that are kept: all headers and the start of the payload.
const OFFENDER_BYTES: usize = 160;

/// Frames and their bytes on the wire, Ethernet header included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Frames; a segmentation-offload super-frame is one.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Count {
    fn add(&mut self, bytes: usize) {
        self.frames += 1;
        self.bytes += bytes as u64;
    }
}

/// WireGuard messages by type; the first message of a super-frame stands for all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireguardCount {
    /// Type 1.
    pub initiation: Count,
    /// Type 2.
    pub response: Count,
    /// Type 3.
    pub cookie_reply: Count,
    /// Type 4, keepalives too.
    pub transport: Count,
    /// On a WireGuard port, but none of these.
    pub malformed: Count,
}

/// Why a frame should not have been there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Offence {
    /// Both addresses of some header are pods'.
    Plaintext,
    /// It contains a cookie that only encrypted payloads may carry.
    Cookie,
    /// Exactly one address of some header is a pod's.
    OneSided,
}

/// One frame that should not have been there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offender {
    /// The gravest reason.
    pub offence: Offence,
    /// Its headers in words.
    pub summary: String,
    /// Its first bytes.
    pub hex: String,
}

/// What a capture saw so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureReport {
    /// All frames that entered the underlay.
    pub total: Count,
    /// Those on WireGuard's ports.
    pub wireguard: WireguardCount,
    /// From pod to pod, in any IP header of the frame.
    pub plaintext: Count,
    /// With exactly one side a pod: neither masqueraded nor encrypted.
    pub one_sided: Count,
    /// With a registered cookie anywhere.
    pub cookies: Count,
    /// Neither WireGuard nor offending: neighbour discovery, ARP, clear traffic to the outside.
    pub other: Count,
    /// The first few offending frames.
    pub offenders: Vec<Offender>,
    /// When the first and the last offending frame came, since the Unix epoch.
    #[serde(skip)]
    pub offences_between: Option<(Duration, Duration)>,
}

impl CaptureReport {
    /// Frames that carried pod-to-pod content in the clear, by addresses or by cookie.
    #[must_use]
    pub fn plaintext_frames(&self) -> u64 {
        self.plaintext.frames.max(self.cookies.frames)
    }

    /// Frames of pods or to pods that were not encrypted: [`Self::plaintext_frames`], and what a
    /// node itself sent to a pod in the clear, which has one pod address and no payload yet.
    #[must_use]
    pub fn leaked_frames(&self) -> u64 {
        self.plaintext_frames() + self.one_sided.frames
    }
}

/// Counts frames.
#[derive(Debug)]
pub(super) struct Tally {
    pod_cidrs: Vec<IpNet>,
    wireguard_ports: Range<u16>,
    cookies: Vec<Finder<'static>>,
    /// Hosts that may talk with pods in the clear.
    excused: Vec<IpAddr>,
    report: CaptureReport,
}

impl Tally {
    pub(super) fn new(pod_cidrs: Vec<IpNet>, wireguard_ports: Range<u16>) -> Self {
        Self {
            pod_cidrs,
            wireguard_ports,
            cookies: Vec::new(),
            excused: Vec::new(),
            report: CaptureReport::default(),
        }
    }

    pub(super) fn search_for(&mut self, cookie: &Cookie) {
        self.cookies.push(Finder::new(cookie.bytes()).into_owned());
    }

    pub(super) fn excuse(&mut self, hosts: &[IpAddr]) {
        self.excused.extend(hosts);
    }

    pub(super) fn report(&self) -> CaptureReport {
        self.report.clone()
    }

    pub(super) fn forget(&mut self) {
        self.report = CaptureReport::default();
    }

    /// Counts a frame of that time. `bytes` may be less of it than `wire_bytes`; `whole` searches
    /// them all.
    pub(super) fn count(&mut self, bytes: &[u8], wire_bytes: usize, time: Duration, whole: bool) {
        let parsed = frame::parse(bytes);
        let report = &mut self.report;
        report.total.add(wire_bytes);
        let mut offence = None;
        if parsed.layers.iter().any(|layer| {
            let ends = [layer.source, layer.destination];
            let [from_pod, to_pod] = ends.map(|end| in_any(&self.pod_cidrs, end));
            from_pod != to_pod && !ends.iter().any(|end| self.excused.contains(end))
        }) {
            report.one_sided.add(wire_bytes);
            offence = Some(Offence::OneSided);
        }
        if whole
            && self
                .cookies
                .iter()
                .any(|cookie| cookie.find(bytes).is_some())
        {
            report.cookies.add(wire_bytes);
            offence = Some(Offence::Cookie);
        }
        if parsed.layers.iter().any(|layer| {
            in_any(&self.pod_cidrs, layer.source) && in_any(&self.pod_cidrs, layer.destination)
        }) {
            report.plaintext.add(wire_bytes);
            offence = Some(Offence::Plaintext);
        }
        let wireguard = parsed.udp.filter(|datagram| {
            self.wireguard_ports.contains(&datagram.source_port)
                || self.wireguard_ports.contains(&datagram.destination_port)
        });
        if let Some(datagram) = wireguard {
            message_count(&mut report.wireguard, datagram).add(wire_bytes);
        } else if offence.is_none() {
            report.other.add(wire_bytes);
        }
        let Some(offence) = offence else { return };
        let first = report.offences_between.map_or(time, |(first, _)| first);
        report.offences_between = Some((first, time));
        if report.offenders.len() < OFFENDERS_MAX {
            report.offenders.push(Offender {
                offence,
                summary: summary(&parsed, wire_bytes),
                hex: hex(&bytes[..bytes.len().min(OFFENDER_BYTES)]),
            });
        }
    }
}

/// The count that a datagram belongs to, by its first four bytes and its length.
fn message_count<'a>(counts: &'a mut WireguardCount, datagram: Datagram<'_>) -> &'a mut Count {
    //= WireGuard §5.4: a type byte, three reserved zero bytes, fixed sizes but for type 4.
    let Some((kind, rest)) = datagram.payload.split_first_chunk::<4>() else {
        return &mut counts.malformed;
    };
    match (kind, rest.len() + 4) {
        ([1, 0, 0, 0], 148) => &mut counts.initiation,
        ([2, 0, 0, 0], 92) => &mut counts.response,
        ([3, 0, 0, 0], 64) => &mut counts.cookie_reply,
        ([4, 0, 0, 0], 32..) => &mut counts.transport,
        _ => &mut counts.malformed,
    }
}

fn in_any(cidrs: &[IpNet], address: IpAddr) -> bool {
    cidrs.iter().any(|cidr| cidr.contains(&address))
}

fn summary(parsed: &Frame<'_>, wire_bytes: usize) -> String {
    let mut text = format!("{wire_bytes} bytes, ethertype {:#06x}", parsed.ethertype);
    for layer in &parsed.layers {
        let protocol = match layer.protocol {
            frame::PROTOCOL_ICMP => "ICMP".to_owned(),
            frame::PROTOCOL_TCP => "TCP".to_owned(),
            frame::PROTOCOL_UDP => "UDP".to_owned(),
            frame::PROTOCOL_ICMPV6 => "ICMPv6".to_owned(),
            other => format!("protocol {other}"),
        };
        let fragment = if layer.later_fragment {
            " fragment"
        } else {
            ""
        };
        let _ = write!(
            text,
            ", {} > {} {protocol}{fragment}",
            layer.source, layer.destination
        );
    }
    if let Some(datagram) = parsed.udp {
        let _ = write!(
            text,
            " port {} > {}",
            datagram.source_port, datagram.destination_port
        );
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
