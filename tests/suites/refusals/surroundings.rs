//! What a node may lack: each lack is told apart, with its remedy, the node is closed meanwhile,
//! and works once it is there.

use std::net::UdpSocket;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, Status, routes, wait_peers, wait_status};
use podwire_testbed::kernel_state::guard_table;
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{
    Bystanders, Confinement, IpVersion, Protocol, Testbed, Topology, matrix, until,
};
use rustix::io::Errno;

use crate::closed::{nothing_passes, tells, tells_after};

pub(crate) const TESTS: &[Test] = &[
    (
        "a_taken_port_is_named_and_the_node_waits_closed_until_it_is_free",
        a_taken_port,
    ),
    (
        "a_node_without_net_admin_declares_nothing_and_says_what_to_grant",
        no_net_admin,
    ),
    (
        "nftables_denied_is_told_from_nftables_absent_and_either_leaves_the_node_closed",
        no_nftables,
    ),
    (
        "without_ipv6_the_other_family_works_and_the_setting_is_named",
        no_ipv6,
    ),
    (
        "forwarding_that_is_off_is_named_and_the_node_is_not_ready",
        no_forwarding,
    ),
];

fn two_nodes() -> Topology {
    Topology::new()
        .nodes(2)
        .pods_per_node(1)
        .agent_arguments(&["--lanes", "2"])
}

/// All manifests, and every agent but node 1's.
fn start_others(bed: &Testbed) -> Result<()> {
    for node in bed.nodes() {
        node.edit_manifest(|_| ())?;
    }
    bed.node(2).start_agent()?;
    bed.node(2).wait_ready()
}

fn whole(bed: &Testbed) -> Result<()> {
    bed.node(1).wait_ready()?;
    wait_peers(bed)?;
    until(CONVERGENCE, "the mesh to be whole", || {
        matrix::all_reached(&bed.matrix().run())
    })
}

/// Of lane 0 in one family, and of lane 1 in the other.
fn a_taken_port(context: &Context) -> Result<()> {
    let bed = context.testbed(&two_nodes())?;
    let node = bed.node(1);
    start_others(&bed)?;
    for (address, port, family) in [("0.0.0.0", 51880, "IPv4"), ("::1", 51881, "IPv6")] {
        let holder = node
            .namespace()
            .run(|| UdpSocket::bind((address, port)))
            .context("taking the port")?;
        let port = port.to_string();
        node.start_agent()?;
        let words = [port.as_str(), family, "taken by", "--listen-port"];
        let status = tells(node, &words)?;
        ensure!(!status.ready && status.mode == "encrypted", "{status:?}");
        nothing_passes(&bed)?;
        let links = node.namespace().output("ip", &["-o", "link", "show"], "")?;
        ensure!(!links.contains("podwire0"), "a device was made: {links}");
        drop(holder);
        whole(&bed)?;
        wait_status(node, "no problem", |status| status.problems.is_empty())?;
        node.stop_agent()?;
        // The next round begins without a device.
        node.namespace().ip(&["link del podwire0".to_owned()])?;
    }
    node.start_agent()?;
    whole(&bed)
}

fn no_net_admin(context: &Context) -> Result<()> {
    let bed = context.testbed(&two_nodes())?;
    let node = bed.node(1);
    start_others(&bed)?;
    node.confine_agent(Some(Confinement::NetAdmin));
    node.start_agent()?;
    let status = tells(node, &["grant", "capability NET_ADMIN"])?;
    ensure!(
        !status.ready && status.mode == "closed" && status.plaintext.is_empty(),
        "{status:?}"
    );
    let record = bed.directory().record_path(node.name());
    ensure!(!record.exists(), "it published a record");
    // With it, all is well; and without it again, what is there stays there.
    node.stop_agent()?;
    node.confine_agent(None);
    node.start_agent()?;
    whole(&bed)?;
    node.stop_agent()?;
    node.confine_agent(Some(Confinement::NetAdmin));
    let before = (routes(node)?, guard_table(node)?);
    node.start_agent()?;
    tells(node, &["grant", "capability NET_ADMIN"])?;
    ensure!(
        before == (routes(node)?, guard_table(node)?),
        "the guards changed"
    );
    nothing_passes(&bed)
}

fn no_nftables(context: &Context) -> Result<()> {
    let bed = context.testbed(&two_nodes())?;
    let node = bed.node(1);
    start_others(&bed)?;
    for (errno, says) in [
        (Errno::PERM, "seccomp profile"),
        (Errno::PROTONOSUPPORT, "modprobe -a nf_tables"),
    ] {
        node.confine_agent(Some(Confinement::Netfilter(errno)));
        node.start_agent()?;
        let status = tells(node, &["nftables table inet podwire", says])?;
        ensure!(!status.ready && status.plaintext.is_empty(), "{status:?}");
        let covers = routes(node)?;
        ensure!(
            covers.len() >= 2 && covers.iter().all(|route| route.starts_with("unreachable")),
            "not just covers: {covers:?}"
        );
        // The one guard that is there holds alone.
        nothing_passes(&bed)?;
        node.stop_agent()?;
    }
    node.confine_agent(None);
    node.start_agent()?;
    whole(&bed)
}

/// The families of the pods that node 2's pod reaches on node 1.
fn reached(bed: &Testbed, version: IpVersion) -> Result<()> {
    let (from, to) = (bed.pod(1, 1).host(), bed.pod(2, 1).host());
    for (from, to) in [(from, to), (to, from)] {
        let probe = bed.probe(from, Protocol::Udp, to.address(version)?);
        until(CONVERGENCE, "a pod to be reached", || Ok(probe.ask()?))?;
    }
    Ok(())
}

fn no_ipv6(context: &Context) -> Result<()> {
    // Endpoints are IPv4: an underlay that loses its IPv6 addresses is another matter.
    let topology = two_nodes().underlay_family_only(podwire_testbed::Family::V4);
    let bed = context.testbed(&topology)?;
    let node = bed.node(1);
    start_others(&bed)?;
    let switch = |device: &str, value: &str| {
        let key = format!("ipv6/conf/{device}/disable_ipv6");
        node.namespace().sysctl(&[(&key, value)])
    };
    switch("all", "1")?;
    node.start_agent()?;
    let says = ["IPv6 is disabled", "net.ipv6.conf.all.disable_ipv6=0"];
    let status = tells(node, &says)?;
    ensure!(!status.ready, "{status:?}");
    reached(&bed, IpVersion::V4)?;
    switch("all", "0")?;
    // The bridge's own addresses went with the setting.
    let bridge: Vec<_> = node.manifest().pod_cidrs.iter().map(bridge_line).collect();
    node.namespace().ip(&bridge)?;
    whole(&bed)?;

    // At the device alone, on a node that works: the other family notices nothing.
    let connection = bed.tcp_counter(
        bed.pod(1, 1).host(),
        bed.pod(2, 1).host().address(IpVersion::V4)?,
        50,
    )?;
    connection.wait_for_more(50, CONVERGENCE)?;
    let logged = node.log().lines().count();
    switch("podwire0", "1")?;
    tells_after(node, logged, &says)?;
    let target = bed.pod(2, 1).host().address(IpVersion::V6)?;
    let probe = bed.probe(bed.pod(1, 1).host(), Protocol::Udp, target);
    ensure!(probe.ask().is_err(), "IPv6 passes without IPv6");
    switch("podwire0", "0")?;
    whole(&bed)?;
    let count = connection.stop()?;
    ensure!(
        count.broken.is_none() && count.echoed == count.sent,
        "{count:?}"
    );
    Ok(())
}

fn bridge_line(cidr: &ipnet::IpNet) -> String {
    let address = podwire_testbed::address::bridge(*cidr);
    format!(
        "address replace {address}/{} dev cni0{}",
        cidr.prefix_len(),
        if address.is_ipv6() { " nodad" } else { "" }
    )
}

fn no_forwarding(context: &Context) -> Result<()> {
    let bed = context.testbed(&two_nodes())?;
    let node = bed.node(1);
    start_others(&bed)?;
    let settings = [
        ("ipv4/ip_forward", "net.ipv4.ip_forward=1"),
        ("ipv6/conf/all/forwarding", "net.ipv6.conf.all.forwarding=1"),
    ];
    for (setting, _) in settings {
        node.namespace().sysctl(&[(setting, "0")])?;
    }
    node.start_agent()?;
    // From the start, both.
    let words = settings.map(|(_, remedy)| remedy);
    let status = tells(node, &words)?;
    ensure!(!status.ready, "{status:?}");
    nothing_passes(&bed)?;
    for (setting, _) in settings {
        node.namespace().sysctl(&[(setting, "1")])?;
    }
    whole(&bed)?;
    // Of a node that works, one by one. Its peers notice nothing else.
    for (setting, remedy) in settings {
        let logged = node.log().lines().count();
        node.namespace().sysctl(&[(setting, "0")])?;
        let status = tells_after(node, logged, &[remedy])?;
        ensure!(!status.ready, "{status:?}");
        node.namespace().sysctl(&[(setting, "1")])?;
        let well = |status: &Status| status.ready && status.problems.is_empty();
        wait_status(node, "forwarding to be on again", well)?;
    }
    let bystanders = Bystanders::watch(&bed)?;
    bystanders.untouched(0)
}
