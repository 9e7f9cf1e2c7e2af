//! The bridge that the CNI plugin `bridge` makes for pods, under a name of ours: the plugin never
//! removes it.

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
