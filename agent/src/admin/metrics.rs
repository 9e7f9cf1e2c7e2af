//! The Prometheus metrics. Sums over the node only: a label a peer would make N² series of a mesh
//! of N nodes; `podwire-agent peers -o json` has each peer's own.

use std::time::Instant;

use podwire_core::finding::Kind;
use podwire_core::rotation::Phase;
use podwire_registry::refusals::Reason;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

use super::{Shown, peers};
use crate::control::status::{PeerRow, Status};
use crate::transport::Offload;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PeerLabels {
    mode: String,
    state: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabel {
    phase: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ObstacleLabel {
    what: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OffloadLabels {
    offload: &'static str,
    refused: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CipherLabel {
    cipher: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandshakeLabels {
    message: &'static str,
    direction: &'static str,
}

/// All metrics in OpenMetrics text, read at this moment.
pub(super) fn text(shown: &Shown, now: Instant) -> String {
    let mut registry = Registry::with_prefix("podwire");
    let status = shown.status.load();
    let rows = peers::rows(shown, now);
    register_peers(&mut registry, &rows);
    register_drops(&mut registry, shown);
    register_handshakes(&mut registry, shown);
    for (counter, count) in shown.transport.load().iter() {
        let name = format!("transport_{}", counter.as_str());
        registry.register(
            name,
            "See the counter of that name",
            ConstCounter::new(*count),
        );
    }
    register_offloads(&mut registry, shown);
    register_cipher(&mut registry, shown);
    register_control(&mut registry, &status);
    register_obstacles(&mut registry, &status);
    register_refusals(&mut registry, &status);
    register_findings(&mut registry, &status);
    register_keys(&mut registry, &status);
    let mut text = String::new();
    // Writing into a String cannot fail.
    let _ = encode(&mut text, &registry);
    text
}

fn register_peers(registry: &mut Registry, rows: &[PeerRow]) {
    let family = Family::<PeerLabels, Gauge>::default();
    for row in rows {
        let labels = PeerLabels {
            mode: row.mode.clone(),
            state: row.state.clone(),
        };
        family.get_or_create(&labels).inc();
    }
    registry.register("peers", "Peers by mode of the pair and state", family);
    let mut sum = |name: &str, help: &str, value: fn(&PeerRow) -> u64| {
        let total: u64 = rows.iter().map(value).sum();
        registry.register(name, help, ConstCounter::new(total));
    };
    sum("received_bytes", "Inner bytes received from peers", |row| {
        row.received_bytes
    });
    sum("sent_bytes", "Inner bytes sent to peers", |row| {
        row.sent_bytes
    });
    sum(
        "received_packets",
        "Inner packets received from peers",
        |row| row.received_packets,
    );
    sum("sent_packets", "Inner packets sent to peers", |row| {
        row.sent_packets
    });
}

fn register_drops(registry: &mut Registry, shown: &Shown) {
    let family = Family::<ReasonLabel, Counter>::default();
    for row in peers::drops(shown) {
        family
            .get_or_create(&ReasonLabel { reason: row.reason })
            .inc_by(row.packets);
    }
    registry.register("dropped_packets", "Packets dropped, by reason", family);
}

fn register_handshakes(registry: &mut Registry, shown: &Shown) {
    let Some(device) = shown.device.load_full() else {
        return;
    };
    let counts = device.handshakes();
    let family = Family::<HandshakeLabels, Counter>::default();
    for (message, direction, count) in [
        ("initiation", "sent", counts.initiations_sent),
        ("initiation", "received", counts.initiations_received),
        ("response", "sent", counts.responses_sent),
        ("response", "received", counts.responses_received),
        ("cookie-reply", "sent", counts.cookie_replies_sent),
        ("cookie-reply", "received", counts.cookie_replies_received),
    ] {
        family
            .get_or_create(&HandshakeLabels { message, direction })
            .inc_by(count);
    }
    registry.register(
        "handshake_messages",
        "Handshake messages, by kind and direction",
        family,
    );
}

/// One that the kernel refuses costs speed and nothing else, so nothing but this tells of it.
fn register_offloads(registry: &mut Registry, shown: &Shown) {
    let Some(offloads) = shown.offloads.load_full() else {
        return;
    };
    let family = Family::<OffloadLabels, Gauge>::default();
    for offload in Offload::ALL {
        let was_refused = offloads.was_refused(offload);
        let labels = OffloadLabels {
            offload: offload.as_str(),
            refused: if was_refused { "true" } else { "false" },
        };
        let is_used = i64::from(offloads.has(offload));
        family.get_or_create(&labels).set(is_used);
    }
    registry.register(
        "offload",
        "1 while the offload is in use; whether the kernel has refused it",
        family,
    );
}

/// Whose code it is shows in nothing but the processor's time.
fn register_cipher(registry: &mut Registry, shown: &Shown) {
    let Some(cipher) = shown.cipher.load_full() else {
        return;
    };
    let cipher = cipher.to_string();
    let family = Family::<CipherLabel, Gauge>::default();
    family.get_or_create(&CipherLabel { cipher }).set(1);
    registry.register("cipher", "1 for the code that seals packets", family);
}

/// One series for each of the first obstacles, so that an alert can name what to remove.
fn register_obstacles(registry: &mut Registry, status: &Status) {
    let family = Family::<ObstacleLabel, Gauge>::default();
    for what in &status.obstacles {
        let what = what.clone();
        family.get_or_create(&ObstacleLabel { what }).set(1);
    }
    registry.register("obstacle", "What stands in the way of pod traffic", family);
}

/// Every reason is there at all times, so that an alert can tell zero from unknown.
fn register_refusals(registry: &mut Registry, status: &Status) {
    let family = Family::<ReasonLabel, Gauge>::default();
    for reason in Reason::ALL.map(Reason::as_str) {
        let refused = status.refusals.values();
        let count = refused.filter(|refused| refused.reason == reason).count();
        let label = ReasonLabel {
            reason: reason.to_owned(),
        };
        family
            .get_or_create(&label)
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    registry.register("refused_nodes", "Nodes that are refused, by reason", family);
}

/// As with refusals, every kind is there at all times.
fn register_findings(registry: &mut Registry, status: &Status) {
    let family = Family::<KindLabel, Gauge>::default();
    for kind in Kind::ALL.map(Kind::as_str) {
        let findings = status.findings.iter();
        let count = findings.filter(|found| found.kind == kind).count();
        let label = KindLabel { kind };
        family
            .get_or_create(&label)
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    let help = "What keeps pods of this host from working, by kind: podwire-agent status tells";
    registry.register("host_findings", help, family);
}

/// Of a node that uses keys. Every phase is there at all times.
fn register_keys(registry: &mut Registry, status: &Status) {
    if status.public_key.is_none() {
        return;
    }
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let count = |length: usize| i64::try_from(length).unwrap_or(i64::MAX);
    let rotation = &status.rotation;
    let generation = ConstGauge::new(number(status.key_generation));
    registry.register("key_generation", "Generation of the own keys", generation);
    if let Ok(created) = rotation.key_created.parse::<jiff::Timestamp>() {
        let created = ConstGauge::new(created.as_second());
        let help = "When the own keys were made, in seconds since the Unix epoch";
        registry.register("key_created_timestamp_seconds", help, created);
    }
    let phases = Family::<PhaseLabel, Gauge>::default();
    let in_force = rotation.phase.split(' ').next();
    for phase in Phase::NAMES {
        let is_this = i64::from(in_force == Some(phase));
        phases.get_or_create(&PhaseLabel { phase }).set(is_this);
    }
    registry.register("rotation_phase", "1 for where the rotation stands", phases);
    let peers = Family::<StateLabel, Gauge>::default();
    let (confirmed, waiting) = (rotation.confirmed, rotation.waiting_total);
    for (state, length) in [("confirmed", confirmed), ("waiting", waiting)] {
        peers
            .get_or_create(&StateLabel { state })
            .set(count(length));
    }
    let help = "Peers with a session, during a rotation, by whether it is under the newer keys";
    registry.register("rotation_peers", help, peers);
    if let Some(seconds) = rotation.last_seconds {
        let help =
            "How long the last rotation took, from its announcement to the end of the old keys";
        registry.register("rotation_seconds", help, ConstGauge::new(number(seconds)));
    }
}

fn register_control(registry: &mut Registry, status: &Status) {
    let reconcile = &status.reconcile;
    let counters = [
        (
            "reconciles",
            "Passes of observe, plan and apply",
            reconcile.runs,
        ),
        ("reconcile_errors", "Passes that failed", reconcile.errors),
        (
            "kernel_changes",
            "Changes made to the kernel",
            reconcile.kernel_changes,
        ),
        (
            "peer_changes",
            "Peers added, changed or removed",
            reconcile.peer_changes,
        ),
        (
            "registry_writes",
            "Writes of the own record",
            status.registry.writes,
        ),
    ];
    for (name, help, value) in counters {
        registry.register(name, help, ConstCounter::new(value));
    }
    let number = |flag: bool| i64::from(flag);
    let count = |length: usize| i64::try_from(length).unwrap_or(i64::MAX);
    let gauges = [
        ("ready", "1 when the node is ready", number(status.ready)),
        (
            "registry_synchronised",
            "1 while the registry is followed",
            number(status.registry.synchronised),
        ),
        (
            "problems",
            "What is wrong with this node: podwire-agent status tells",
            count(status.problems.len()),
        ),
        (
            "unroutable_peers",
            "Peers with no way to go",
            count(status.unroutable.len()),
        ),
        (
            "plaintext_peers",
            "Peers with declared plaintext",
            count(status.plaintext.len()),
        ),
        (
            "obstacles",
            "Routes and rules of others in the way of pod traffic",
            count(status.obstacles_total),
        ),
    ];
    for (name, help, value) in gauges {
        registry.register(name, help, ConstGauge::new(value));
    }
}
