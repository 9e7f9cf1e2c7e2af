//! What can go wrong between Podwire and the kernel.

use std::io;

use ipnet::IpNet;
use podwire_core::kernel::RouteKey;
use rustix::io::Errno;

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
        "link {name} exists and is no TUN device but {kind}: remove or rename it, or choose \
         another name with --device"
    )]
    ForeignDevice {
        /// Name of the link.
        name: String,
        /// What the kernel says that it is.
        kind: String,
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
        address_remedy(address, source)
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
        "cannot change the route to {} metric {}{}", key.destination, key.metric, remedy(source)
    )]
    Route {
        /// The route.
        key: RouteKey,
        #[source]
        source: io::Error,
    },
    /// Somebody else's route has the destination and metric of ours.
    #[error(
        "a route to {} metric {} of protocol {protocol} stands in the way of Podwire's: remove it, \
         or give it another metric", key.destination, key.metric
    )]
    RouteOccupied {
        /// The route.
        key: RouteKey,
        /// Protocol number of the other route.
        protocol: u8,
    },
    /// The guard table was refused.
    #[error("cannot {action} the nftables table inet podwire{}", remedy(source))]
    Guard {
        /// What was to be done.
        action: &'static str,
        #[source]
        source: io::Error,
    },
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

fn address_remedy(address: &IpNet, error: &io::Error) -> &'static str {
    match (address, Errno::from_io_error(error)) {
        // What the kernel says where net.ipv6.conf.*.disable_ipv6 is set.
        (IpNet::V6(_), Some(Errno::ACCESS)) => {
            ": IPv6 is disabled on it, set net.ipv6.conf.default.disable_ipv6 to 0 beforehand"
        }
        _ => remedy(error),
    }
}
