//! The rules that every agent follows, applied from where keyctl stands.
//!
//! An agent knows more: which keys handshakes have confirmed, and which generation it has seen. So
//! where two nodes claim the same, an agent may keep the younger one that it has met before, and
//! keyctl tells the older one, as an agent does that starts anew.

use ipnet::IpNet;
use podwire_core::mesh::{
    DesiredMesh, HostNetworkPeers, Incumbents, OwnNode, Policy, desired_mesh,
};
use podwire_core::node::{Node, NodeName};
use podwire_core::record::{Mode, REQUEST_PREFIX, Record};
use podwire_registry::nodes::Nodes;

use crate::args::{HostNetworkPeersArg, RulesArgs};

/// The request by which an operator chooses a node's mode.
const MODE_REQUEST: &str = "mode";

/// What a mode request says for host-network mode, beside who asks.
const HOST_NETWORK: &str = "to=host-network";

/// What the agents were told. Unless the cluster's CIDRs are named, they are all that Nodes have in
/// `spec.podCIDRs`: any complete `--cluster-cidr` covers these, so that the rules which need it
/// refuse nothing that an agent would not.
pub(crate) fn policy(args: &RulesArgs, nodes: &Nodes) -> Policy {
    let of_nodes = || {
        let specs = nodes.nodes.values().flat_map(|node| &node.pod_cidrs);
        // Nodes have no default route for pods; what lies in it would be all addresses.
        let specs: Vec<IpNet> = specs
            .filter(|cidr| cidr.prefix_len() > 0)
            .copied()
            .collect();
        IpNet::aggregate(&specs)
    };
    Policy {
        cluster_cidrs: if args.cluster_cidr.is_empty() {
            of_nodes()
        } else {
            args.cluster_cidr.clone()
        },
        host_network_peers: match args.host_network_peers {
            HostNetworkPeersArg::Allow => HostNetworkPeers::Allow,
            HostNetworkPeersArg::Refuse => HostNetworkPeers::Refuse,
        },
        endpoint_cidrs: args.allow_endpoint.clone(),
    }
}

/// What the rules say of every Node, seen by nobody: a node that has nothing and is none of them.
pub(crate) fn seen_by_nobody(nodes: &Nodes, policy: &Policy) -> DesiredMesh {
    let names = (0_u64..).filter_map(|number| format!("nobody-{number}").parse().ok());
    let mut free = names.filter(|name: &NodeName| !nodes.nodes.contains_key(name));
    let nobody = OwnNode {
        name: free.next().expect("there are more numbers than Nodes"),
        mode: Mode::Encrypted,
        pod_cidrs: Vec::new(),
        addresses: Vec::new(),
        public_keys: Vec::new(),
    };
    desired_mesh(&nodes.nodes, &nobody, &Incumbents::new(), policy)
}

/// What the rules say of every other Node, seen by the one that has this record.
pub(crate) fn seen_by(node: &Node, record: &Record, nodes: &Nodes, policy: &Policy) -> DesiredMesh {
    let own = OwnNode {
        name: node.name.clone(),
        mode: record.mode,
        pod_cidrs: node.pod_cidrs.clone(),
        addresses: node.addresses.clone(),
        public_keys: record.public_keys().collect(),
    };
    desired_mesh(&nodes.nodes, &own, &Incumbents::new(), policy)
}

/// Whether an operator's request asks this node for host-network mode. Its record says only that
/// its agent went into it: by a flag, by such a request, or because it found no TUN device.
pub(crate) fn asks_for_host_network(node: &Node) -> bool {
    let request = node
        .annotations
        .get(&format!("{REQUEST_PREFIX}{MODE_REQUEST}"));
    request.is_some_and(|request| request.split(',').any(|item| item == HOST_NETWORK))
}
