//! Host-network mode: plaintext where it is declared, and nowhere else.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{IpVersion, Protocol, Testbed, Topology, UnderlayKind, matrix};

use podwire_testbed::agent_view::{CONVERGENCE, peer, status, wait_status};

pub(crate) const TESTS: &[Test] = &[
    (
        "host_network_nodes_reach_each_other_in_plaintext_that_the_capture_sees",
        all,
    ),
    (
        "a_host_network_node_leaves_the_pair_of_others_encrypted",
        mixed,
    ),
    ("refused_host_network_peers_exchange_nothing", refused),
    (
        "host_network_nodes_across_a_router_are_unroutable",
        across_a_router,
    ),
    (
        "a_node_without_a_tun_device_is_host_network_or_refuses",
        without_tun,
    ),
    (
        "a_node_that_was_encrypted_stays_closed_without_a_tun_device",
        closed,
    ),
];

const HOST_NETWORK: [&str; 2] = ["--mode", "host-network"];

fn all(context: &Context) -> Result<()> {
    let bed = context.mesh(&Topology::new().agent_arguments(&HOST_NETWORK))?;
    bed.expect_plaintext();
    matrix::all_reached(&bed.matrix().run())?;
    let report = bed.capture().report()?;
    ensure!(
        report.plaintext.frames > 0 && report.cookies.frames > 0,
        "{report:?}"
    );
    ensure!(report.wireguard.initiation.frames == 0, "{report:?}");
    let status = status(bed.node(1))?;
    ensure!(status.mode == "host-network", "{status:?}");
    ensure!(status.plaintext == ["node-2", "node-3"], "{status:?}");
    ensure!(
        status.peers.host_network == 2 && status.peers.encrypted == 0,
        "{status:?}"
    );
    Ok(())
}

/// Every pod of one node asks every pod of another, both versions, and back.
fn pair(bed: &Testbed, nodes: [u8; 2]) -> Result<()> {
    for (from, to) in [(nodes[0], nodes[1]), (nodes[1], nodes[0])] {
        for target in bed.pod(to, 1).addresses() {
            for protocol in Protocol::ALL {
                bed.probe(bed.pod(from, 1).host(), protocol, target)
                    .ask()
                    .with_context(|| format!("{protocol} from node {from} to {target}"))?;
            }
        }
    }
    Ok(())
}

/// Plaintext frames, by address or by cookie, that `traffic` made.
fn plaintext_of(bed: &Testbed, traffic: impl FnOnce() -> Result<()>) -> Result<u64> {
    let before = bed.capture().report()?.plaintext_frames();
    traffic()?;
    Ok(bed.capture().report()?.plaintext_frames() - before)
}

fn mixed(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().pods_per_node(1))?;
    bed.node(3).set_agent_arguments(&HOST_NETWORK);
    bed.expect_plaintext();
    bed.start_agents()?;
    for node in [bed.node(1), bed.node(2)] {
        wait_status(node, "one declared plaintext peer", |status| {
            status.mode == "encrypted"
                && status.plaintext == ["node-3"]
                && (status.peers.encrypted, status.peers.host_network) == (1, 1)
        })?;
        let row = peer(node, "node-3")?;
        ensure!(
            (row.mode.as_str(), row.state.as_str()) == ("host-network", "plaintext"),
            "{row:?}"
        );
    }
    wait_status(bed.node(3), "two declared plaintext peers", |status| {
        status.mode == "host-network" && status.plaintext == ["node-1", "node-2"]
    })?;
    for with_node_3 in [[1, 3], [2, 3]] {
        let encrypted = plaintext_of(&bed, || pair(&bed, [1, 2]))?;
        ensure!(
            encrypted == 0,
            "{encrypted} frames of the encrypted pair were plaintext"
        );
        let declared = plaintext_of(&bed, || pair(&bed, with_node_3))?;
        ensure!(
            declared > 0,
            "the capture saw nothing of the plaintext pair {with_node_3:?}"
        );
    }
    Ok(())
}

fn refused(context: &Context) -> Result<()> {
    let strict = ["--host-network-peers", "refuse"];
    let topology = Topology::new().pods_per_node(1).agent_arguments(&strict);
    let bed = context.testbed(&topology)?;
    bed.node(3)
        .set_agent_arguments(&[&strict[..], &HOST_NETWORK].concat());
    bed.start_agents()?;
    for node in [bed.node(1), bed.node(2)] {
        wait_status(node, "one closed peer", |status| {
            status.plaintext.is_empty() && (status.peers.encrypted, status.peers.closed) == (1, 1)
        })?;
        let why = status(node)?.closed.remove("node-3");
        let why = why.context("node-3 is not among the closed")?;
        ensure!(why.contains("--host-network-peers refuse"), "{why}");
        let row = peer(node, "node-3")?;
        ensure!(
            (row.mode.as_str(), row.state.as_str()) == ("closed", "closed"),
            "{row:?}"
        );
    }
    pair(&bed, [1, 2])?;
    nothing_passes(&bed, &[(1, 3), (3, 1), (2, 3), (3, 2)])
}

/// No question is answered. What reaches the underlay all the same fails the test at its end.
fn nothing_passes(bed: &Testbed, pairs: &[(u8, u8)]) -> Result<()> {
    for (from, to) in pairs {
        for target in bed.pod(*to, 1).addresses() {
            for protocol in Protocol::ALL {
                let probe = bed.probe(bed.pod(*from, 1).host(), protocol, target);
                let answer = probe.timeout(Duration::from_millis(300)).ask();
                ensure!(
                    answer.is_err(),
                    "{protocol} passed from node {from} to {target}"
                );
            }
        }
    }
    Ok(())
}

fn across_a_router(context: &Context) -> Result<()> {
    let topology = Topology::new()
        .nodes(2)
        .pods_per_node(1)
        .underlay(UnderlayKind::TwoLans)
        .agent_arguments(&HOST_NETWORK);
    let bed = context.mesh(&topology)?;
    for (node, other) in [(bed.node(1), "node-2"), (bed.node(2), "node-1")] {
        let status = wait_status(node, "an unroutable peer", |status| {
            status.unroutable.contains_key(other)
        })?;
        let reason = &status.unroutable[other];
        ensure!(
            reason.contains("link"),
            "a reason that does not say why: {reason}"
        );
    }
    nothing_passes(&bed, &[(1, 2), (2, 1)])
}

fn without_tun(context: &Context) -> Result<()> {
    let bed = context.mesh(&Topology::new().nodes(2).pods_per_node(1).without_tun(2))?;
    bed.expect_plaintext();
    let node = bed.node(2);
    ensure!(status(node)?.mode == "host-network", "{:?}", status(node)?);
    ensure!(
        status(bed.node(1))?.mode == "encrypted",
        "{:?}",
        status(bed.node(1))?
    );
    wait_status(bed.node(1), "a plaintext peer", |status| {
        status.plaintext == ["node-2"]
    })?;
    pair(&bed, [1, 2])?;

    // The same node, told that it must encrypt, says why it cannot and what to do.
    bed.expect_error("/dev/net/tun");
    node.stop_agent()?;
    node.set_agent_arguments(&["--mode", "encrypted"]);
    node.start_agent()?;
    let ended = node.wait_agent_end(CONVERGENCE)?;
    let log = node.log();
    ensure!(ended.code() == Some(1), "it ended with {ended}: {log}");
    for word in ["/dev/net/tun", "modprobe tun"] {
        ensure!(log.contains(word), "{word:?} is not in what it says: {log}");
    }
    Ok(())
}

fn closed(context: &Context) -> Result<()> {
    let bed = context.mesh(&Topology::new().pods_per_node(1))?;
    matrix::all_reached(&bed.matrix().run())?;
    let node = bed.node(3);
    node.stop_agent()?;
    node.set_tun(false);
    node.start_agent()?;
    let status = wait_status(node, "to be closed", |status| status.mode == "closed")?;
    ensure!(
        !status.problems.is_empty() && status.plaintext.is_empty(),
        "{status:?}"
    );
    ensure!(
        status
            .problems
            .iter()
            .any(|problem| problem.contains("tun")),
        "it does not say why: {:?}",
        status.problems
    );
    nothing_passes(&bed, &[(1, 3), (3, 1), (2, 3), (3, 2)])?;
    pair(&bed, [1, 2])?;
    for other in [bed.node(1), bed.node(2)] {
        let plaintext = podwire_testbed::agent_view::status(other)?.plaintext;
        ensure!(
            plaintext.is_empty(),
            "{} declares plaintext with {plaintext:?}",
            other.name()
        );
    }
    // The device comes back: so does the node, under its old key.
    node.stop_agent()?;
    node.set_tun(true);
    node.start_agent()?;
    node.wait_ready()?;
    let probe = bed.probe(
        bed.pod(3, 1).host(),
        Protocol::Tcp,
        bed.pod(1, 1).host().address(IpVersion::V4)?,
    );
    podwire_testbed::until(CONVERGENCE, "the node to be back", || Ok(probe.ask()?))?;
    Ok(())
}
