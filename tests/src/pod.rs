//! A pod: a namespace behind its node's bridge.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Result;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::address::{self, Family};
use crate::echo::EchoServers;
use crate::host::Host;
use crate::namespace::Namespace;
use crate::underlay::{address_line, prepare};

/// Which pod: numbers from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodId {
    /// Its node.
    pub node: u8,
    /// Its number on that node.
    pub pod: u8,
}

impl fmt::Display for PodId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "pod-{}-{}", self.node, self.pod)
    }
}

/// A pod.
#[derive(Debug)]
pub struct Pod {
    id: PodId,
    host: Host,
    family: Family,
}

impl Pod {
    /// Makes the namespace; its node then makes the link into it.
    pub(crate) fn new(id: PodId, family: Family, servers: &EchoServers) -> Result<Self> {
        let namespace = Arc::new(Namespace::new(&id.to_string())?);
        let pod = Self {
            id,
            host: Host::new(namespace, servers),
            family,
        };
        pod.prepare()?;
        Ok(pod)
    }

    /// Readies its namespace for its link.
    pub(crate) fn prepare(&self) -> Result<()> {
        prepare(self.host.namespace(), self.family)
    }

    /// Which pod it is.
    #[must_use]
    pub fn id(&self) -> PodId {
        self.id
    }

    /// The pod as an end of probes.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its addresses, IPv4 first.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.host.addresses()
    }

    /// The lines of ip(8) for the node that make the link into this pod.
    pub(crate) fn link_lines(&self, mtu: u16) -> Vec<String> {
        let (port, namespace) = (self.port(), self.host.namespace().path());
        vec![
            format!(
                "link add {port} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}",
                namespace.display()
            ),
            format!("link set {port} master cni0 up"),
        ]
    }

    /// The node's end of its link.
    #[must_use]
    pub fn port(&self) -> String {
        format!("pod{}", self.id.pod)
    }

    /// Gives the pod its addresses in `cidrs`, in place of those that it has.
    pub(crate) fn configure(&self, cidrs: &[IpNet]) -> Result<()> {
        let mut lines = vec![
            "link set lo up".to_owned(),
            "link set eth0 up".to_owned(),
            "address flush dev eth0 scope global".to_owned(),
        ];
        let mut addresses = Vec::new();
        for cidr in cidrs {
            let own = address::pod(*cidr, self.id.pod);
            lines.push(address_line("eth0", own, *cidr));
            lines.push(format!(
                "route replace default via {}",
                address::bridge(*cidr)
            ));
            addresses.push(own);
        }
        self.host.namespace().ip(&lines)?;
        self.host.set_addresses(addresses)
    }
}
