//! Which links lead to other machines, as of this pass, and what is told about them.

use ipnet::IpNet;
use podwire_core::cni_configuration::BRIDGE;
use podwire_core::kernel::Underlay;
use podwire_core::mesh::DesiredMesh;
use podwire_core::needed_traffic::{Host, needed};
use podwire_core::reverse_path::strict_ways;
use podwire_core::underlay_links::underlay_links;
use tracing::info;

use super::agent::Agent;
use super::bridge_netfilter::filters_bridged;
use crate::netlink::is_stale;

impl Agent {
    /// Looks at the links again, after the routes.
    ///
    /// # Errors
    /// The kernel's; what was known then stays.
    pub(super) async fn look_at_links(
        &mut self,
        mesh: &DesiredMesh,
        paths: &Underlay,
    ) -> anyhow::Result<()> {
        self.links = self.netlink.links(&mesh.own.pod_cidrs).await?;
        let device = &self.config.device;
        self.underlay_links =
            underlay_links(&self.links, paths, mesh, device, &self.underlay_links);
        self.host_checks.strict_ways = strict_ways(&mesh.own, &self.links, paths);
        let host = Host {
            links: &self.links,
            paths,
            device,
            ports: (self.config.listen_port, self.config.last_port()),
            plugin: self.config.cni.as_ref().and_then(|cni| cni.plugin),
            filters_bridged: filters_bridged(),
        };
        self.host_checks.needed = needed(mesh, host);
        let shared: Vec<_> = self.underlay_links.shared.iter().cloned().collect();
        let problem = (!shared.is_empty()).then(|| {
            format!(
                "{} leads to other machines and carries pods of this node, so that no guard keeps \
                 packets for these pods from leaving by it in plaintext: give the pods a bridge of \
                 their own",
                shared.join(", ")
            )
        });
        self.problems.shared_links.put(problem);
        Ok(())
    }

    /// Takes addresses of before off the bridge of pods.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) async fn tidy_pod_bridge(&self, own: &[IpNet]) -> anyhow::Result<()> {
        let mut links = self.links.iter();
        let is_due = links
            .any(|link| link.name == BRIDGE && link.addresses.iter().any(|it| is_stale(*it, own)));
        if is_due {
            let removed = self
                .netlink
                .remove_stale_bridge_addresses(BRIDGE, own)
                .await?;
            info!(
                bridge = BRIDGE,
                ?removed,
                "addresses outside the own pod CIDRs removed"
            );
        }
        Ok(())
    }
}
