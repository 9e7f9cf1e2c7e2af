//! What can go wrong between Podwire and the kernel.

use std::io;

use ipnet::IpNet;
use podwire_core::kernel::{RouteKey, Rule};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;

/// A request that the kernel refused, or an object that is not ours.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// No netlink socket.
    #[error("cannot open a netlink socket{}", remedy(source))]
    Open {
        #[source]
        source: io::Error,
    },
    /// A dump failed.
    #[error("cannot read {what} from the kernel{}", remedy(source))]
    Read {
        /// What was asked for.
        what: &'static str,
        #[source]
        source: io::Error,
    },
    /// The device's name belongs to something else.
    #[error(
        "the name {name} is taken by another link, {kind}: remove or rename it, or choose another \
         name with --device"
    )]
    ForeignDevice {
        /// Name of the link.
        name: String,
        /// What it is.
        kind: String,
    },
    /// Somebody else reads the device of that name: two readers would each get half the packets.
    #[error(
        "device {name} is in use by another process (`lsof /dev/net/tun` shows which): stop it, or \
         choose another name with --device"
    )]
    DeviceInUse {
        /// Name of the device.
        name: String,
    },
    /// The device is not there.
    #[error("device {name} does not exist: it was removed, the next reconcile creates it again")]
    NoDevice {
        /// Name of the device.
        name: String,
    },
    /// Creating the device takes `/dev/net/tun`, which the transport owns.
    #[error("device {name} is created by the transport, not by netlink")]
    CreateDevice {
        /// Name of the device.
        name: String,
    },
    /// MTU, queue length, state or per-device settings were refused.
    #[error("cannot set up device {name}{}", remedy(source))]
    Device {
        /// Name of the device.
        name: String,
        #[source]
        source: io::Error,
    },
    /// An address of the device was refused.
    #[error(
        "cannot change address {address} of device {name}{}",
        family_remedy(address, source)
    )]
    Address {
        /// The address.
        address: IpNet,
        /// Name of the device.
        name: String,
        #[source]
        source: io::Error,
    },
    /// A route was refused.
    #[error(
        "cannot change the route to {key}{}",
        family_remedy(&key.destination, source)
    )]
    Route {
        /// The route.
        key: RouteKey,
        #[source]
        source: io::Error,
    },
    /// Somebody else's route has the destination and metric of ours.
    #[error(
        "a route to {key} of protocol {protocol} stands in the way of Podwire's: remove it, or give \
         it another metric"
    )]
    RouteOccupied {
        /// The route.
        key: RouteKey,
        /// Protocol number of the other route.
        protocol: u8,
    },
    /// A policy rule was refused.
    #[error("cannot change the {rule}{}", rule_remedy(&rule.destination, source))]
    Rule {
        /// The rule.
        rule: Rule,
        #[source]
        source: io::Error,
    },
    /// The guard table was refused.
    #[error(
        "cannot {action} the nftables table inet podwire{}",
        guard_remedy(source, *.has_net_admin)
    )]
    Guard {
        /// What was to be done.
        action: &'static str,
        /// Whether this process has the capability NET_ADMIN.
        has_net_admin: bool,
        #[source]
        source: io::Error,
    },
    /// The guard table was taken away, as often as it was installed.
    #[error(
        "the nftables table inet podwire is gone as soon as it is installed: something flushes \
         nftables without end, find and stop it"
    )]
    GuardGone,
    /// The guard table was installed, and what the kernel made of it was not seen.
    #[error(
        "the nftables table inet podwire is in force and cannot be read back, so that a change of \
         it would not be noticed: does something change nftables without end?"
    )]
    GuardUnread {
        #[source]
        source: io::Error,
    },
}

impl Error {
    pub(super) fn guard(action: &'static str, source: io::Error) -> Self {
        Self::Guard {
            action,
            has_net_admin: has_net_admin(),
            source,
        }
    }
}

/// Whether this process has the capability NET_ADMIN, be it for this network namespace or not.
pub(crate) fn has_net_admin() -> bool {
    rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(CapabilitySet::NET_ADMIN))
}

/// The likely cause and what to do about it, to follow the name of the object.
fn remedy(error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::PERM | Errno::ACCESS) => {
            ": it takes the capability NET_ADMIN in this network namespace"
        }
        Some(Errno::OPNOTSUPP | Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT) => {
            ": the kernel was built without it, or its module is not loaded"
        }
        Some(Errno::NETUNREACH | Errno::HOSTUNREACH) => {
            ": the gateway is on none of the connected links"
        }
        Some(Errno::NETDOWN) => ": the link is down",
        Some(Errno::NODEV) => ": the link is gone",
        Some(Errno::NOBUFS | Errno::NOMEM) => ": the kernel is out of memory",
        _ => "",
    }
}

fn family_remedy(network: &IpNet, error: &io::Error) -> &'static str {
    match (network, Errno::from_io_error(error)) {
        // What the kernel says where net.ipv6.conf.*.disable_ipv6 is set.
        (IpNet::V6(_), Some(Errno::ACCESS)) => {
            ": IPv6 is disabled here, `sysctl -w net.ipv6.conf.all.disable_ipv6=0` enables it on \
             every device; without IPv6, leave its CIDRs out of the cluster"
        }
        _ => remedy(error),
    }
}

fn rule_remedy(network: &IpNet, error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::EXIST) => ": somebody else has the same rule, inverted: remove it",
        _ => family_remedy(network, error),
    }
}

fn guard_remedy(error: &io::Error, has_net_admin: bool) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::PERM | Errno::ACCESS) if !has_net_admin => {
            ": grant this process the capability NET_ADMIN"
        }
        Some(Errno::PERM | Errno::ACCESS) => {
            ": nftables is denied to this process, which has the capability NET_ADMIN: look at its \
             seccomp profile, its security module, and whose user namespace it is in"
        }
        // No netfilter sockets; no nftables behind them; an expression that is not there.
        Some(
            Errno::PROTONOSUPPORT
            | Errno::AFNOSUPPORT
            | Errno::OPNOTSUPP
            | Errno::INVAL
            | Errno::NOENT,
        ) => {
            ": this kernel has no nftables, or not all of it: load it with `modprobe -a nf_tables \
             nft_fib_inet nft_reject_inet nft_masq`"
        }
        _ => remedy(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nftables_that_is_denied_is_told_from_nftables_that_is_absent() {
        let told = |errno: Errno, has_net_admin| {
            Error::Guard {
                action: "install",
                has_net_admin,
                source: errno.into(),
            }
            .to_string()
        };
        assert!(told(Errno::PERM, false).contains("capability NET_ADMIN"));
        assert!(told(Errno::PERM, true).contains("seccomp"));
        for absent in [Errno::PROTONOSUPPORT, Errno::OPNOTSUPP, Errno::INVAL] {
            assert!(told(absent, true).contains("modprobe"), "{absent}");
        }
    }
}
