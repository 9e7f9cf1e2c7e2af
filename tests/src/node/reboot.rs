//! What ends with a boot and what does not, and pods that come and go as a container runtime has
//! it.

use std::fs;

use anyhow::{Context as _, Result, ensure};

use super::{Node, prepare_node};
use crate::underlay::Underlay;

impl Node {
    /// Loses power and boots: every process, socket, device, route and table is gone, and so is
    /// what is under `/run`; the disk is as it was. Then the node is on its link again, without
    /// agent and pods: a container runtime makes pods once the agent is ready
    /// ([`Self::create_pods`]).
    pub(crate) fn reboot(&self, underlay: &Underlay) -> Result<()> {
        ensure!(
            self.link.is_none(),
            "{} has a userspace link, which cannot boot",
            self.name()
        );
        if self.agent_pid().is_ok() {
            self.kill_agent()?;
        }
        let hardware_address = self.hardware_address()?;
        // Off the network first: whoever still holds a socket in the old namespace sends nowhere.
        self.namespace().ip(&["link delete eth0".to_owned()])?;
        self.host.stop_servers();
        self.namespace().renew()?;
        for pod in &self.pods {
            pod.host().stop_servers();
            pod.host().namespace().renew()?;
        }
        let run = &self.folders.run;
        fs::remove_dir_all(run)
            .and_then(|()| fs::create_dir(run))
            .with_context(|| format!("emptying {}", run.display()))?;
        prepare_node(self.namespace(), &self.topology)?;
        let addresses = self.host.addresses();
        let mut lines = self.underlay_lines(underlay, &addresses);
        // The same machine: its neighbours know it.
        lines.push(format!("link set eth0 address {hardware_address}"));
        self.namespace().ip(&lines)?;
        underlay.attach(&[self.number])?;
        self.host.set_addresses(addresses)
    }

    /// Takes every pod's link, and the bridge with its routes to them: what is left of a node's
    /// last pod, or of each pod with a CNI plugin that routes to pods.
    ///
    /// # Errors
    /// ip's, when they are gone already.
    pub fn delete_pods(&self) -> Result<()> {
        let mut lines = vec!["link delete cni0".to_owned()];
        for pod in &self.pods {
            pod.host().stop_servers();
            lines.push(format!("link delete {}", pod.port()));
        }
        self.namespace().ip(&lines)
    }

    /// Makes the bridge and every pod, after [`Self::delete_pods`] or a boot.
    ///
    /// # Errors
    /// ip's, when they are there.
    pub fn create_pods(&self) -> Result<()> {
        let cidrs = self.manifest().pod_cidrs;
        for pod in &self.pods {
            pod.prepare()?;
        }
        self.namespace().ip(&self.pod_lines(&cidrs))?;
        self.pods.iter().try_for_each(|pod| pod.configure(&cidrs))
    }

    fn hardware_address(&self) -> Result<String> {
        let text = self
            .namespace()
            .output("ip", &["-j", "link", "show", "eth0"], "")?;
        let links: serde_json::Value = serde_json::from_str(&text)?;
        links[0]["address"]
            .as_str()
            .map(str::to_owned)
            .with_context(|| format!("no address in {text}"))
    }
}
