//! The bridge that the CNI plugin `bridge` makes for pods, under a name of ours: the plugin never
//! removes it.

use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};

use super::error::Error;
use super::{Netlink, device};

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BridgeRemoval {
    /// There is no bridge of that name.
    NotThere,
    /// It is gone.
    Removed,
    /// So many pods are behind it.
    Kept(usize),
}

impl Netlink {
    /// Removes the bridge of this name, unless it has ports. May be repeated.
    ///
    /// # Errors
    ///
    /// [`Error::Read`], [`Error::Device`].
    pub(crate) async fn remove_pod_bridge(&self, name: &str) -> Result<BridgeRemoval, Error> {
        let links = device::all_links(&self.handle)
            .await
            .map_err(|source| Error::Read {
                what: "the links",
                source,
            })?;
        let Some(bridge) = links.iter().find(|link| is_bridge(link, name)) else {
            return Ok(BridgeRemoval::NotThere);
        };
        let index = bridge.header.index;
        let ports = links.iter().filter(|link| is_port(link, index)).count();
        if ports > 0 {
            return Ok(BridgeRemoval::Kept(ports));
        }
        device::remove(&self.handle, index)
            .await
            .map_err(|source| Error::Device {
                name: name.to_owned(),
                source,
            })?;
        Ok(BridgeRemoval::Removed)
    }
}

impl Netlink {
    /// Removes the addresses of the bridge of this name that are outside the `own` pod CIDRs: the
    /// plugin leaves those of another Node's time, and their connected route comes before ours to
    /// the node that has that CIDR now. Returns what was removed.
    ///
    /// # Errors
    ///
    /// [`Error::Read`], [`Error::Device`].
    pub(crate) async fn remove_stale_bridge_addresses(
        &self,
        name: &str,
        own: &[IpNet],
    ) -> Result<Vec<IpNet>, Error> {
        let failed = |what| move |source| Error::Read { what, source };
        let links = device::all_links(&self.handle).await;
        let links = links.map_err(failed("the links"))?;
        let Some(bridge) = links.iter().find(|link| is_bridge(link, name)) else {
            return Ok(Vec::new());
        };
        let index = bridge.header.index;
        let found = device::addresses(&self.handle, index).await;
        let found = found.map_err(failed("the addresses of the bridge"))?;
        let mut stale: Vec<IpNet> = found.into_iter().collect();
        stale.retain(|network| is_stale(network.addr(), own));
        for network in &stale {
            device::remove_address(&self.handle, index, *network)
                .await
                .map_err(|source| Error::Device {
                    name: name.to_owned(),
                    source,
                })?;
        }
        Ok(stale)
    }
}

/// Whether an address of the bridge is none of the `own` pod CIDRs, once these are known. The
/// kernel gives link-local ones.
pub(crate) fn is_stale(address: IpAddr, own: &[IpNet]) -> bool {
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !own.is_empty() && !is_link_local && !own.iter().any(|cidr| cidr.contains(&address))
}

fn is_bridge(link: &LinkMessage, name: &str) -> bool {
    let is_named = |attribute: &LinkAttribute| match attribute {
        LinkAttribute::IfName(found) => found == name,
        _ => false,
    };
    let is_kind = |attribute: &LinkAttribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.contains(&LinkInfo::Kind(InfoKind::Bridge)),
        _ => false,
    };
    link.attributes.iter().any(is_named) && link.attributes.iter().any(is_kind)
}

fn is_port(link: &LinkMessage, of: u32) -> bool {
    let mut attributes = link.attributes.iter();
    attributes.any(|attribute| *attribute == LinkAttribute::Controller(of))
}

#[cfg(test)]
mod tests {
    use super::super::tests::namespace::{Namespace, ip};
    use super::*;

    #[test]
    fn only_addresses_outside_the_own_pod_cidrs_leave_the_bridge() {
        Namespace::new().block_on(async || {
            ip("link add podwire-bridge type bridge");
            ip("link add cni0 type bridge");
            ip("link set podwire-bridge up");
            for address in ["10.244.1.1/24", "fd00:10:244:1::1/64", "fe80::1/64"] {
                ip(&format!("address add {address} dev podwire-bridge"));
            }
            for old in ["10.244.7.1/24", "fd00:10:244:7::1/64"] {
                ip(&format!("address add {old} dev podwire-bridge"));
            }
            ip("address add 10.244.8.1/24 dev cni0");
            let own = ["10.244.1.0/24", "fd00:10:244:1::/64"].map(|it| it.parse().expect("cidr"));
            let netlink = Netlink::open("podwire0").expect("a socket");
            let remove = async |own: &[IpNet]| {
                let removed = netlink.remove_stale_bridge_addresses("podwire-bridge", own);
                let removed = removed.await.expect("removed");
                removed.iter().map(ToString::to_string).collect::<Vec<_>>()
            };
            assert!(remove(&[]).await.is_empty());
            let old = ["10.244.7.1/24", "fd00:10:244:7::1/64"];
            assert_eq!(remove(&own).await, old);
            assert!(remove(&own).await.is_empty());
            let left = device::all_addresses(&netlink.handle).await.expect("read");
            let has = |text: &str| left.iter().any(|(_, it)| it.to_string() == text);
            assert!(has("10.244.1.1/24") && has("fe80::1/64") && has("10.244.8.1/24"));
        });
    }

    #[test]
    fn a_bridge_of_pods_goes_once_no_pod_is_behind_it_and_nothing_else_goes() {
        Namespace::new().block_on(async || {
            ip("link add podwire-bridge type bridge");
            ip("link add cni0 type bridge");
            ip("link add pod1 master podwire-bridge type veth peer name far");
            let netlink = Netlink::open("podwire0").expect("a socket");
            let remove = async |name: &str| {
                let removed = netlink.remove_pod_bridge(name).await;
                removed.expect("asked")
            };
            assert_eq!(remove("podwire-bridge").await, BridgeRemoval::Kept(1));
            assert_eq!(remove("pod1").await, BridgeRemoval::NotThere);
            ip("link set pod1 nomaster");
            assert_eq!(remove("podwire-bridge").await, BridgeRemoval::Removed);
            assert_eq!(remove("podwire-bridge").await, BridgeRemoval::NotThere);
            ip("link show dev cni0");
            ip("link show dev pod1");
        });
    }
}
