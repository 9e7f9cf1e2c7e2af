//! Wakes the control loop when links, addresses, routes or nftables change.

use std::io;

use futures_util::FutureExt as _;
use rtnetlink::MulticastGroup;
use rtnetlink::sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use rtnetlink::sys::{AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket};

use super::error::Error;

/// `NFNLGRP_NFTABLES` (`linux/netfilter/nfnetlink.h`).
const GROUP_NFTABLES: u32 = 7;

/// The groups that tell of what is observed, and of the underlay. The per-device settings have
/// groups of their own.
const GROUPS: [MulticastGroup; 9] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
    MulticastGroup::Ipv4Netconf,
    MulticastGroup::Ipv6Netconf,
];

/// Notifications are only counted, so that few bytes of each are enough.
const GLANCE: usize = 64;

/// A subscription to the kernel's notifications. It tells that something changed, never what: the
/// loop observes again. Own changes wake it too, and then there is nothing to do.
pub(crate) struct Watch {
    route: TokioSocket,
    /// None where the kernel has no nftables, or not for this process.
    nftables: Option<TokioSocket>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

impl Watch {
    /// Subscribes. What changes from here on is told, so observe after this.
    pub(crate) fn open() -> Result<Self, Error> {
        let groups = GROUPS.map(|group| group as u32);
        let route = subscribe(NETLINK_ROUTE, &groups).map_err(|source| Error::Open { source })?;
        let mut watch = Self {
            route,
            nftables: None,
        };
        watch.complete();
        Ok(watch)
    }

    /// Subscribes to nftables if that was refused so far. What refuses it refuses the guard table
    /// too, and says so there.
    pub(crate) fn complete(&mut self) {
        if self.nftables.is_none() {
            self.nftables = subscribe(NETLINK_NETFILTER, &[GROUP_NFTABLES]).ok();
        }
    }

    /// Waits until something has changed since the last call; any number of changes are one.
    ///
    /// Dropping the future loses nothing.
    pub(crate) async fn changed(&mut self) {
        let nftables = async {
            match &self.nftables {
                Some(socket) => notification(socket).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = notification(&self.route) => {}
            () = nftables => {}
        }
        for socket in [&self.route].into_iter().chain(&self.nftables) {
            while notification(socket).now_or_never().is_some() {}
        }
    }
}

fn subscribe(protocol: isize, groups: &[u32]) -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(protocol)?;
    socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
    for group in groups {
        socket.socket_ref().add_membership(*group)?;
    }
    Ok(socket)
}

/// One notification, or the error ENOBUFS, which says that there were more than the socket holds:
/// then something has changed, too.
async fn notification(socket: &TokioSocket) {
    let mut glance = Vec::with_capacity(GLANCE);
    if let Err(error) = socket.recv(&mut glance).await {
        tracing::debug!(%error, "netlink notifications were lost");
    }
}
