//! What others have set up at a host that drops what the mesh needs: it is named with a remedy that
//! helps, and not touched.

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, sample, status, wait_whole};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{IpVersion, Node, Protocol, Testbed, Topology, until};

pub(crate) const TESTS: &[Test] = &[
    (
        "a_packet_filter_that_drops_what_the_mesh_needs_is_named_with_a_rule_that_mends_it",
        packet_filters,
    ),
    (
        "a_strict_reverse_path_filter_is_named_where_the_way_back_is_another",
        reverse_path,
    ),
];

/// As Docker leaves it, and as many a host's own firewall has it.
const FILTERS: [(&str, &str); 4] = [
    (
        "ip filter FORWARD",
        "table ip filter {\n  chain FORWARD {\n    \
         type filter hook forward priority 0; policy drop;\n    \
         ct state related,established accept\n    jump DOCKER-USER\n    \
         iifname \"docker0\" accept\n  }\n  chain DOCKER-USER {\n    return\n  }\n}\n",
    ),
    (
        "inet firewall forward",
        "table inet firewall {\n  chain forward {\n    \
         type filter hook forward priority 10; policy accept;\n    \
         ct state vmap { established : accept, related : accept }\n    \
         meta nfproto ipv6 goto zone\n  }\n  chain zone {\n    counter reject\n  }\n}\n",
    ),
    (
        "ip firewall input",
        "table ip firewall {\n  chain input {\n    \
         type filter hook input priority 0; policy drop;\n    \
         ct state established,related accept\n    iifname \"lo\" accept\n    \
         meta l4proto icmp accept\n    tcp dport 22 accept\n    \
         # The other lane is forgotten.\n    udp dport 51880 accept\n  }\n}\n",
    ),
    (
        "ip firewall output",
        "table ip firewall {\n  chain output {\n    \
         type filter hook output priority 0; policy drop;\n    \
         ct state established,related accept\n    oifname \"lo\" accept\n    \
         meta l4proto icmp accept\n    udp dport 53 accept\n  }\n}\n",
    ),
];

/// What is said of this kind, once there are so many findings of it.
fn wait_findings(node: &Node, kind: &str, count: usize) -> Result<Vec<String>> {
    until(CONVERGENCE, &format!("{count} findings of {kind}"), || {
        let found = status(node)?.findings.into_iter();
        let found: Vec<_> = found.filter(|found| found.kind == kind).collect();
        ensure!(found.len() == count, "{found:?}");
        let name = format!("podwire_host_findings{{kind=\"{kind}\"}}");
        ensure!(
            sample(node, &name)? == u64::try_from(count)?,
            "another number in {name}"
        );
        Ok(found.into_iter().map(|found| found.message).collect())
    })
}

fn rule_set(node: &Node) -> Result<String> {
    node.namespace()
        .output("nft", &["-s", "list", "ruleset"], "")
}

/// A connection that is new to the node's packet filters.
fn passes(bed: &Testbed) -> Result<()> {
    for version in [IpVersion::V4, IpVersion::V6] {
        for (from, to) in [(1, 2), (2, 1)] {
            let target = bed.pod(to, 1).host().address(version)?;
            bed.probe(bed.pod(from, 1).host(), Protocol::Tcp, target)
                .ask()?;
        }
    }
    Ok(())
}

fn packet_filters(context: &Context) -> Result<()> {
    let topology = Topology::new().nodes(2).pods_per_node(1);
    let bed = context.mesh(&topology.agent_arguments(&["--lanes", "2"]))?;
    wait_whole(&bed)?;
    let node = bed.node(1);
    wait_findings(node, "packet-filter", 0)?;
    for (chain, table) in FILTERS {
        node.namespace().nft(table)?;
        let found = wait_findings(node, "packet-filter", 1)?.remove(0);
        ensure!(found.contains(&format!("filter {chain} drops")), "{found}");
        ensure!(node.log().contains(&found), "not in the log");
        let text = node.agent_output(&["status"])?;
        ensure!(text.contains(&found), "not in `status`:\n{text}");
        let before = rule_set(node)?;
        if chain.starts_with("ip firewall") {
            // What is established goes on.
            passes(&bed).context("beside a firewall for new peers")?;
        } else {
            ensure!(passes(&bed).is_err(), "it passes {chain}");
        }
        ensure!(rule_set(node)? == before, "the rules were touched");
        // As it is said, word by word.
        let remedies = found.split('`').skip(1).step_by(2);
        for remedy in remedies {
            let words: Vec<_> = remedy.split(' ').collect();
            ensure!(words[0] == "nft", "{remedy}");
            node.namespace().output("nft", &words[1..], "")?;
        }
        wait_findings(node, "packet-filter", 0)?;
        passes(&bed).with_context(|| format!("after the remedy for {chain}"))?;
    }
    ensure!(status(node)?.ready, "the node is not ready for all that");
    Ok(())
}

fn reverse_path(context: &Context) -> Result<()> {
    let bed = context.mesh(&Topology::new().nodes(2).pods_per_node(1))?;
    wait_whole(&bed)?;
    let node = bed.node(1);
    let strict = |value| {
        node.namespace().sysctl(&[
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/eth0/rp_filter", value),
        ])
    };
    strict("1")?;
    wait_findings(node, "reverse-path", 0)?;
    // The way back to node 2, and to nobody else, leaves by another link.
    node.namespace().ip(&[
        "link add eth1 type veth peer name eth1-far".to_owned(),
        "link set eth1-far up".to_owned(),
        "link set eth1 up".to_owned(),
        "route add 192.0.2.12/32 dev eth1".to_owned(),
    ])?;
    let found = wait_findings(node, "reverse-path", 1)?.remove(0);
    for words in [
        "to eth0",
        "by eth1",
        "`sysctl -w net.ipv4.conf.eth0.rp_filter=2`",
    ] {
        ensure!(found.contains(words), "{words} is not in {found}");
    }
    ensure!(node.log().contains(&found), "not in the log");
    strict("2")?;
    wait_findings(node, "reverse-path", 0)?;
    node.namespace().ip(&["link delete eth1".to_owned()])?;
    wait_whole(&bed)
}
