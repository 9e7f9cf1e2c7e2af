//! How answers look on a terminal: aligned columns, as kubectl prints them.

use comfy_table::{ContentArrangement, Table, presets};

use crate::control::status::{
    CniStatus, DeviceStatus, DropRow, PeerRow, Refused, RegistryStatus, RotationStatus, Status,
};

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().copied());
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// Bytes with a binary unit, as `wg show` prints them.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut scale = 1_u64;
    while unit + 1 < UNITS.len() && count / scale >= 1024 {
        scale *= 1024;
        unit += 1;
    }
    if unit == 0 {
        return format!("{count} B");
    }
    let whole = count / scale;
    let hundredths = (count % scale) * 100 / scale;
    format!("{whole}.{hundredths:02} {}", UNITS[unit])
}

/// `podwire-agent peers`.
pub(crate) fn peers(rows: &[PeerRow]) -> String {
    let mut table = table(&[
        "NODE",
        "MODE",
        "STATE",
        "LANES",
        "HANDSHAKE",
        "RECEIVED",
        "SENT",
        "ENDPOINT",
        "POD-CIDRS",
    ]);
    for row in rows {
        table.add_row([
            row.node.clone(),
            row.mode.clone(),
            row.state.clone(),
            if row.lanes == 0 {
                "-".to_owned()
            } else {
                format!("{}/{}", row.lanes_up, row.lanes)
            },
            row.latest_handshake_seconds
                .map_or_else(|| "-".to_owned(), |age| format!("{age}s ago")),
            bytes(row.received_bytes),
            bytes(row.sent_bytes),
            row.endpoint.clone().unwrap_or_else(|| "-".to_owned()),
            row.pod_cidrs.join(","),
        ]);
    }
    trimmed(&table)
}

/// `podwire-agent drops`: reasons that never occurred are left out.
pub(crate) fn drops(rows: &[DropRow]) -> String {
    let mut table = table(&["REASON", "PACKETS"]);
    for row in rows.iter().filter(|row| row.packets > 0) {
        table.add_row([row.reason.clone(), row.packets.to_string()]);
    }
    if rows.iter().all(|row| row.packets == 0) {
        return "no packet was dropped\n".to_owned();
    }
    trimmed(&table)
}

/// `podwire-agent status`.
pub(crate) fn status(status: &Status) -> String {
    let ready = if status.ready { "ready" } else { "NOT READY" };
    let mut lines = vec![
        format!("node        {} ({ready})", status.node),
        format!("mode        {}", status.mode),
    ];
    lines.extend(identity(status));
    lines.extend(rotation(status));
    lines.push(device(&status.device));
    lines.push(format!("pod CIDRs   {}", status.pod_cidrs.join(", ")));
    lines.push(registry(&status.registry));
    lines.extend(status.cni.as_ref().map(cni));
    let peers = &status.peers;
    lines.push(format!(
        "peers       {}: {} encrypted ({} up), {} host-network, {} closed",
        peers.total, peers.encrypted, peers.up, peers.host_network, peers.closed
    ));
    if !status.plaintext.is_empty() {
        let with = status.plaintext.join(", ");
        lines.push(format!("PLAINTEXT   with {with} (declared)"));
    }
    let closed = status.closed.iter();
    lines.extend(closed.map(|(node, why)| format!("closed      {node}: {why}")));
    lines.extend(status.refusals.iter().map(|(node, refused)| {
        let Refused { reason, message } = refused;
        format!("refused     {node}: {message} ({reason})")
    }));
    let unroutable = status.unroutable.iter();
    lines.extend(unroutable.map(|(node, why)| format!("unroutable  {node}: {why}")));
    let findings = status.findings.iter();
    lines.extend(findings.map(|found| format!("host        {}", found.message)));
    let unnamed = status.obstacles_total - status.obstacles.len();
    let unnamed = (unnamed > 0).then(|| format!("and {unnamed} more"));
    let obstacles = status.obstacles.iter().cloned().chain(unnamed);
    lines.extend(obstacles.map(|what| format!("in the way  {what}")));
    lines.extend(
        status
            .problems
            .iter()
            .map(|problem| format!("problem     {problem}")),
    );
    lines.join("\n") + "\n"
}

/// Key and ports; nothing for a node that does not encrypt.
fn identity(status: &Status) -> Vec<String> {
    let Some(key) = &status.public_key else {
        return Vec::new();
    };
    let (first, lanes) = (usize::from(status.listen_port), status.lanes);
    let ports = if lanes > 1 {
        format!("{first}-{} ({lanes} lanes)", first + lanes - 1)
    } else {
        first.to_string()
    };
    vec![
        format!(
            "public key  {key} (generation {}, epoch {})",
            status.key_generation, status.epoch
        ),
        format!("listening   UDP {ports}"),
    ]
}

/// How the rotation of the keys goes; nothing while there is nothing to tell.
fn rotation(status: &Status) -> Vec<String> {
    let RotationStatus {
        phase,
        newer_public_key,
        confirmed,
        waiting,
        waiting_total,
        request,
        ..
    } = &status.rotation;
    let mut lines = Vec::new();
    if status.public_key.is_some() && !matches!(phase.as_str(), "" | "settled") {
        lines.push(format!("rotation    {phase}"));
    }
    if confirmed + waiting_total > 0 {
        lines.push(format!("            {confirmed} peers use the newer keys"));
    }
    if *waiting_total > 0 {
        let named = waiting.join(", ");
        let more = waiting_total - waiting.len();
        let more = (more > 0).then(|| format!(" and {more} more"));
        let more = more.unwrap_or_default();
        lines.push(format!("waiting     for {named}{more}"));
        let newer = newer_public_key.as_deref().unwrap_or_default();
        lines.push(format!(
            "            where no agent runs, configure this node's key {newer}"
        ));
    }
    lines.extend(request.as_ref().map(|asked| format!("request     {asked}")));
    lines
}

fn device(device: &DeviceStatus) -> String {
    let DeviceStatus {
        name,
        up,
        mtu,
        addresses,
        routes,
        guard,
    } = device;
    let state = if *up {
        format!("{name} up, MTU {mtu}, {}", addresses.join(", "))
    } else {
        format!("no {name}")
    };
    format!("device      {state}; {routes} routes, guard {guard}")
}

fn cni(cni: &CniStatus) -> String {
    let CniStatus {
        configuration,
        in_place,
        plugin,
        mtu,
    } = cni;
    let state = if *in_place {
        "in place"
    } else {
        "not in place"
    };
    let mtu = mtu.map(|mtu| format!(", MTU {mtu}")).unwrap_or_default();
    format!("cni         {configuration} {state}; {plugin}{mtu}")
}

fn registry(registry: &RegistryStatus) -> String {
    let state = match (&registry.lost, registry.synchronised) {
        (Some(reason), _) => format!("LOST: {reason}; the last known mesh stays in force"),
        (None, true) => "synchronised".to_owned(),
        (None, false) => "not yet synchronised".to_owned(),
    };
    format!(
        "registry    {}, {} nodes, {state}",
        registry.kind, registry.nodes
    )
}

fn trimmed(table: &Table) -> String {
    let lines: Vec<String> = table
        .to_string()
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect();
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_read_as_wg_prints_them() {
        let shown: Vec<String> = [0, 1023, 1024, 1536, 5 << 30]
            .into_iter()
            .map(bytes)
            .collect();
        assert_eq!(shown, ["0 B", "1023 B", "1.00 KiB", "1.50 KiB", "5.00 GiB"]);
    }

    #[test]
    fn a_node_that_is_not_ready_says_why() {
        let status = Status {
            node: "node-1".to_owned(),
            problems: vec!["the registry has not answered yet".to_owned()],
            ..Status::default()
        };
        let text = super::status(&status);
        assert!(
            text.contains("NOT READY") && text.contains("registry has not answered"),
            "{text}"
        );
    }

    #[test]
    fn a_rotation_names_the_peers_that_it_waits_for() {
        let settled = Status {
            public_key: Some("KEY".to_owned()),
            rotation: RotationStatus {
                phase: "settled".to_owned(),
                ..RotationStatus::default()
            },
            ..Status::default()
        };
        assert!(rotation(&settled).is_empty());
        let announced = Status {
            rotation: RotationStatus {
                phase: "announced".to_owned(),
                newer_public_key: Some("NEWER".to_owned()),
                confirmed: 4,
                waiting: vec!["router-1".to_owned(), "router-2".to_owned()],
                waiting_total: 5,
                request: Some("rotate of key generation 4 by alice: under way".to_owned()),
                ..RotationStatus::default()
            },
            ..settled
        };
        let expected = [
            "rotation    announced",
            "            4 peers use the newer keys",
            "waiting     for router-1, router-2 and 3 more",
            "            where no agent runs, configure this node's key NEWER",
            "request     rotate of key generation 4 by alice: under way",
        ];
        assert_eq!(rotation(&announced), expected);
    }

    #[test]
    fn drops_that_never_occurred_are_left_out() {
        let rows = [("no-peer", 0), ("too-big", 2)].map(|(reason, packets)| DropRow {
            reason: reason.to_owned(),
            packets,
        });
        assert_eq!(drops(&rows), "REASON   PACKETS\ntoo-big  2\n");
    }
}
