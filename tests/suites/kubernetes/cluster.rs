//! The control plane itself: what every other test of this suite relies on.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::control_plane::{self, ADMIN_TOKEN, Server};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{ControlPlane, Family, IpVersion, Topology, UnderlayKind, address, until};

use crate::outage::DEADLINE;

pub(crate) const TESTS: &[Test] = &[
    (
        "the_controllers_give_each_node_pod_cidrs_of_both_families",
        pod_cidrs,
    ),
    ("one_family_alone_has_a_cluster_too", single_families),
    (
        "pod_cidrs_come_late_when_the_controllers_do",
        late_controllers,
    ),
    (
        "nodes_of_both_lans_reach_the_api_over_both_families",
        reach_from_nodes,
    ),
    ("the_audit_log_has_one_write_for_one_write", audited_writes),
];

fn pod_cidrs(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().pods_per_node(1))?;
    let cluster = ControlPlane::start(&bed, &[])?;
    let mut seen = BTreeSet::new();
    for node in bed.nodes() {
        cluster.join(node)?;
        let cidrs = cluster.pod_cidrs(node.name())?;
        for (cidr, version) in cidrs.iter().zip([IpVersion::V4, IpVersion::V6]) {
            let prefix = address::pod_cidr(1, version).prefix_len();
            let within = address::cluster_cidr(version).contains(cidr);
            ensure!(within && cidr.prefix_len() == prefix, "{cidr}");
            ensure!(seen.insert(*cidr), "{cidr} was given twice");
            let pod = node.pod(1).host().address(version)?;
            ensure!(cidr.contains(&pod), "a pod of {} has {pod}", node.name());
        }
        ensure!(cidrs.len() == 2, "{cidrs:?}");
        // What its kubelet told, and what kubectl says of it.
        let path = "jsonpath={.status.addresses[*].address}";
        let told = cluster.kubectl(&["get", "node", node.name(), "-o", path], "")?;
        let addresses: Vec<_> = node.manifest().addresses;
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        ensure!(told == addresses.join(" "), "{told}");
    }
    Ok(())
}

fn single_families(context: &Context) -> Result<()> {
    for family in [Family::V4, Family::V6] {
        let topology = Topology::new().nodes(1).pods_per_node(0).family(family);
        let bed = context.testbed(&topology)?;
        let cluster = ControlPlane::start(&bed, &[])?;
        let node = bed.node(1);
        cluster.create_node(node.name(), &node.manifest().addresses)?;
        let cidrs = cluster.pod_cidrs(node.name())?;
        let versions: Vec<_> = cidrs
            .iter()
            .map(|cidr| IpVersion::of(cidr.addr()))
            .collect();
        ensure!(versions == family.versions(), "{family:?}: {cidrs:?}");
    }
    Ok(())
}

fn late_controllers(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(1).pods_per_node(0))?;
    let cluster = ControlPlane::start(&bed, &[])?;
    cluster.stop_server(Server::ControllerManager)?;
    let node = bed.node(1);
    cluster.create_node(node.name(), &node.manifest().addresses)?;
    cluster.heartbeat(node.name())?;
    let spec = cluster.node(node.name())?.spec.unwrap_or_default();
    ensure!(spec.pod_cidrs.is_none(), "{:?}", spec.pod_cidrs);
    cluster.start_server(Server::ControllerManager)?;
    ensure!(cluster.pod_cidrs(node.name())?.len() == 2);
    cluster.delete_node(node.name())?;
    ensure!(cluster.node(node.name()).is_err(), "it is there");
    Ok(())
}

/// By kubectl, which trusts the CA alone: the certificate must name each address.
fn reach_from_nodes(context: &Context) -> Result<()> {
    let topology = Topology::new().nodes(2).pods_per_node(0);
    let bed = context.testbed(&topology.underlay(UnderlayKind::TwoLans))?;
    let cluster = ControlPlane::start(&bed, &[])?;
    let kubectl = control_plane::program("kubectl")?.display().to_string();
    let kubeconfig = bed.folder().join("admin.kubeconfig");
    cluster.write_kubeconfig(&kubeconfig, ADMIN_TOKEN)?;
    let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
    for node in bed.nodes() {
        for version in [IpVersion::V4, IpVersion::V6] {
            let server = format!("--server={}", cluster.url(version));
            let asked = [kubeconfig.as_str(), &server, "get", "--raw", "/readyz"];
            let said = node.namespace().output(&kubectl, &asked, "");
            let said = said.with_context(|| format!("{} over {version}", node.name()))?;
            ensure!(said == "ok", "{said}");
        }
    }
    Ok(())
}

fn audited_writes(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(1).pods_per_node(0))?;
    let cluster = ControlPlane::start(&bed, &[])?;
    let node = bed.node(1);
    cluster.create_node(node.name(), &node.manifest().addresses)?;
    let by_admin = || -> Result<Vec<_>> {
        let mut events = cluster.audit()?;
        events.retain(|event| event.user == "admin" && event.is_write());
        Ok(events)
    };
    ensure!(by_admin()?.is_empty(), "{:?}", by_admin()?);
    cluster.node(node.name())?;
    cluster.kubectl(&["annotate", "node", node.name(), "podwire.test/a=b"], "")?;
    let writes = until(DEADLINE, "the write in the audit log", || {
        let writes = by_admin()?;
        ensure!(!writes.is_empty(), "it has none");
        Ok(writes)
    })?;
    let [write] = &writes[..] else {
        anyhow::bail!("{writes:?}");
    };
    ensure!(
        write.verb == "patch" && write.name == node.name() && write.code == 200,
        "{write:?}"
    );
    // Those of its kubelet have their own author.
    let kubelet = format!("system:node:{}", node.name());
    until(DEADLINE, "the kubelet's writes in the audit log", || {
        let events = cluster.audit()?;
        let own = events.iter().filter(|event| event.user == kubelet);
        let own: Vec<_> = own.map(|event| event.verb.as_str()).collect();
        ensure!(own == ["create", "patch"], "{own:?}");
        Ok(())
    })
}
