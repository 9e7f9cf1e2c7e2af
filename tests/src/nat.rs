//! A router that hides a node: it gives the node's datagrams other ports, and lets in only what
//! answers them.

use std::fmt::Write as _;
use std::ops::RangeInclusive;

use anyhow::{Context as _, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use crate::address::{self, IpVersion};
use crate::namespace::Namespace;
use crate::testbed::{Testbed, WIREGUARD_PORTS};
use crate::underlay::UnderlayKind;

/// `IPCTNL_MSG_CT_DELETE` of `NFNL_SUBSYS_CTNETLINK` (linux/netfilter/nfnetlink_conntrack.h):
/// without attributes it deletes every entry.
const DELETE_CONNECTIONS: u16 = 1 << 8 | 2;
const NLM_F_REQUEST_ACK: u16 = 0x1 | 0x4;

/// Network address translation between two LANs, in front of the second one.
#[derive(Debug)]
pub struct Nat<'a> {
    bed: &'a Testbed,
}

impl<'a> Nat<'a> {
    /// Hides the nodes of LAN 1: their datagrams leave with these ports, under the router's
    /// address.
    ///
    /// # Errors
    /// nft's; also when the underlay has one LAN only.
    pub fn in_front_of_lan_1(bed: &'a Testbed, ports: RangeInclusive<u16>) -> Result<Self> {
        ensure!(
            bed.underlay().kind() == UnderlayKind::TwoLans,
            "there is one LAN"
        );
        let nat = Self { bed };
        nat.rebind(ports)?;
        Ok(nat)
    }

    /// Gives other ports, and forgets all connections: as a router does that was restarted.
    ///
    /// # Errors
    /// nft's or the kernel's.
    pub fn rebind(&self, ports: RangeInclusive<u16>) -> Result<()> {
        let (first, last) = (ports.start(), ports.end());
        let wireguard = format!("{}-{}", WIREGUARD_PORTS.start, WIREGUARD_PORTS.end - 1);
        let mut rules = String::new();
        for version in self.bed.underlay().family().versions() {
            let family = match version {
                IpVersion::V4 => "ip",
                IpVersion::V6 => "ip6",
            };
            let hidden = address::lan(1, *version);
            let _ = writeln!(
                rules,
                "{family} saddr {hidden} oifname \"lan0\" udp dport {wireguard} \
                 masquerade to :{first}-{last}"
            );
        }
        self.router().nft(&format!(
            "table inet nat\ndelete table inet nat\ntable inet nat {{\n\
             chain forward {{ type filter hook forward priority 0; \
             oifname \"lan1\" ct state new counter drop; }}\n\
             chain postrouting {{ type nat hook postrouting priority 100;\n{rules}}}\n}}\n"
        ))?;
        forget_connections(self.router())
    }

    fn router(&self) -> &Namespace {
        self.bed.underlay().namespace()
    }
}

/// Deletes every entry of the connection tracking.
fn forget_connections(namespace: &Namespace) -> Result<()> {
    let mut request = Vec::new();
    request.extend(20_u32.to_ne_bytes());
    request.extend(DELETE_CONNECTIONS.to_ne_bytes());
    request.extend(NLM_F_REQUEST_ACK.to_ne_bytes());
    // Sequence and port; any family, version 0, no resource.
    request.extend([0; 12]);
    let answer = namespace.run(|| {
        let socket = Socket::new(
            Domain::from(libc::AF_NETLINK),
            Type::RAW,
            Some(Protocol::from(libc::NETLINK_NETFILTER)),
        )?;
        socket.send(&request)?;
        let mut answer = [0; 64];
        let length = std::io::Read::read(&mut &socket, &mut answer)?;
        std::io::Result::Ok(answer[..length].to_vec())
    })?;
    // An acknowledgement is an error message of number 0, behind its header of 16 bytes.
    let number = answer.get(16..20).context("a short answer")?;
    ensure!(number == [0; 4], "the kernel refused: {answer:?}");
    Ok(())
}
