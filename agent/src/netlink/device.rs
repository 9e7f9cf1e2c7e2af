//! The TUN device: its settings and addresses.

use std::collections::BTreeSet;
use std::io;

use ipnet::IpNet;
use podwire_core::kernel::Device;
use rtnetlink::Handle;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_REPLACE, Nla as _};
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};
use rtnetlink::packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InetDevConf, InfoData, InfoKind,
    InfoTun, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;

use super::exchange::{change, dump, get};

/// Reverse path filter "loose" (`net.ipv4.conf.*.rp_filter` = 2, RFC 3704 section 2.4): the kernel
/// takes the larger of the device's and `all`, so this undoes a strict `all`, with which packets of
/// a peer would be dropped while its route is not there yet.
const REVERSE_PATH_LOOSE: i32 = 2;

/// `net.ipv4.conf.*.forwarding`: pods' packets pass through.
const FORWARDING: i32 = 1;

/// A link of the device's name.
pub(super) struct Found {
    pub(super) index: u32,
    /// Its settings, or what it is instead of a TUN device that can be ours.
    pub(super) device: Result<Device, String>,
    /// Whether a process has it open.
    pub(super) is_read: bool,
}

/// What the driver says of a TUN device of several queues.
#[derive(Default)]
struct Queues {
    are_several: bool,
    open: u32,
}

/// Looks a link up by name.
pub(super) async fn find(handle: &Handle, name: &str) -> io::Result<Option<Found>> {
    let mut query = LinkMessage::default();
    query
        .attributes
        .push(LinkAttribute::IfName(name.to_owned()));
    match get(handle, RouteNetlinkMessage::GetLink(query)).await {
        Ok(RouteNetlinkMessage::NewLink(link)) => Ok(Some(found(&link))),
        Ok(_) => Err(io::ErrorKind::InvalidData.into()),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

fn found(link: &LinkMessage) -> Found {
    let mut device = Device {
        mtu: 0,
        up: link.header.flags.contains(LinkFlags::Up),
        transmit_queue_length: 0,
        fixed_settings: false,
    };
    let (mut kind, mut queues) = (None, Queues::default());
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Mtu(mtu) => device.mtu = *mtu,
            LinkAttribute::TxQueueLen(length) => device.transmit_queue_length = *length,
            LinkAttribute::AfSpecUnspec(families) => device.fixed_settings = are_fixed(families),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(found) => kind = Some(found),
                        LinkInfo::Data(InfoData::Tun(attributes)) => {
                            queues = read_queues(attributes)
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let layer = link.header.link_layer_type;
    let device = match kind {
        Some(InfoKind::Tun) if layer != LinkLayerType::None => Err("a TAP device".to_owned()),
        Some(InfoKind::Tun) if !queues.are_several => {
            Err("a TUN device made without multi_queue".to_owned())
        }
        Some(InfoKind::Tun) => Ok(device),
        Some(kind) => Err(format!("of kind {kind}")),
        None => Err(format!("of type {}", format!("{layer:?}").to_lowercase())),
    };
    Found {
        index: link.header.index,
        device,
        is_read: queues.open > 0,
    }
}

fn read_queues(attributes: &[InfoTun]) -> Queues {
    /// `IFLA_TUN_MULTI_QUEUE`: one byte. `IFLA_TUN_NUM_QUEUES`: four (`linux/if_link.h`).
    const SEVERAL: u16 = 7;
    const OPEN: u16 = 8;
    let mut queues = Queues::default();
    for attribute in attributes {
        let InfoTun::Other(attribute) = attribute else {
            continue;
        };
        let mut value = vec![0; attribute.value_len()];
        attribute.emit_value(&mut value);
        match (attribute.kind(), value.as_slice()) {
            (SEVERAL, [flag, ..]) => queues.are_several = *flag != 0,
            (OPEN, value) => {
                queues.open = value.first_chunk().map_or(0, |n| u32::from_ne_bytes(*n));
            }
            _ => {}
        }
    }
    queues
}

/// Whether the per-device settings are those that [`set`] writes. There are none of IPv6 where the
/// kernel or the device has none.
fn are_fixed(families: &[AfSpecUnspec]) -> bool {
    let setting = |family: &AfSpecUnspec| match family {
        AfSpecUnspec::Inet(attributes) => attributes.iter().all(|attribute| match attribute {
            AfSpecInet::DevConf(conf) => {
                conf.forwarding == FORWARDING && conf.rp_filter == REVERSE_PATH_LOOSE
            }
            _ => true,
        }),
        AfSpecUnspec::Inet6(attributes) => attributes.iter().all(|attribute| match attribute {
            AfSpecInet6::AddrGenMode(mode) => *mode == In6AddrGenMode::None,
            _ => true,
        }),
        _ => true,
    };
    families.iter().all(setting)
}

/// Sets MTU, queue length, state and per-device settings. `/proc/sys` is read-only in a pod, hence
/// the attributes of the address families.
pub(super) async fn set(handle: &Handle, index: u32, device: &Device) -> io::Result<()> {
    // Before the device goes up: that is when the kernel would add a link-local address.
    let quiet = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    match set_link(
        handle,
        index,
        vec![LinkAttribute::AfSpecUnspec(vec![quiet])],
        None,
    )
    .await
    {
        // No IPv6 in this kernel or on this device: nothing to keep quiet.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::AFNOSUPPORT) => {}
        other => other?,
    }
    let mut conf = InetDevConf::default();
    conf.forwarding = FORWARDING;
    conf.rp_filter = REVERSE_PATH_LOOSE;
    let attributes = vec![
        LinkAttribute::Mtu(device.mtu),
        LinkAttribute::TxQueueLen(device.transmit_queue_length),
        LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet(vec![AfSpecInet::DevConfRequest(
            conf,
        )])]),
    ];
    set_link(handle, index, attributes, Some(device.up)).await
}

async fn set_link(
    handle: &Handle,
    index: u32,
    attributes: Vec<LinkAttribute>,
    up: Option<bool>,
) -> io::Result<()> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes = attributes;
    if let Some(up) = up {
        link.header.change_mask = LinkFlags::Up;
        link.header.flags = if up {
            LinkFlags::Up
        } else {
            LinkFlags::empty()
        };
    }
    change(handle, RouteNetlinkMessage::SetLink(link), 0).await
}

/// Removes a link.
pub(super) async fn remove(handle: &Handle, index: u32) -> io::Result<()> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    change(handle, RouteNetlinkMessage::DelLink(link), 0).await
}

/// The addresses of a link.
pub(super) async fn addresses(handle: &Handle, index: u32) -> io::Result<BTreeSet<IpNet>> {
    let all = all_addresses(handle).await?.into_iter();
    let of_link = all.filter(|(link, _)| *link == index);
    Ok(of_link.map(|(_, network)| network).collect())
}

/// All links.
pub(super) async fn all_links(handle: &Handle) -> io::Result<Vec<LinkMessage>> {
    let query = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let links = dump(handle, query).await?.into_iter();
    let links = links.filter_map(|message| match message {
        RouteNetlinkMessage::NewLink(link) => Some(link),
        _ => None,
    });
    Ok(links.collect())
}

/// All addresses, each with the index of its link.
pub(super) async fn all_addresses(handle: &Handle) -> io::Result<Vec<(u32, IpNet)>> {
    let query = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let all = dump(handle, query).await?;
    let addresses = all.iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewAddress(address) => Some((address.header.index, network(address)?)),
        _ => None,
    });
    Ok(addresses.collect())
}

fn network(message: &AddressMessage) -> Option<IpNet> {
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            // On a link with a far end, IFA_ADDRESS is that end.
            AddressAttribute::Local(local) => address = Some(*local),
            AddressAttribute::Address(either) => address = address.or(Some(*either)),
            _ => {}
        }
    }
    let address = address?;
    IpNet::new(address, message.header.prefix_len).ok()
}

fn address_message(index: u32, network: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = network.prefix_len();
    message.header.family = match network {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    message.attributes = vec![
        AddressAttribute::Local(network.addr()),
        AddressAttribute::Address(network.addr()),
    ];
    message
}

/// Adds an address, usable at once and with no connected route: every route is a `Change` of its
/// own.
pub(super) async fn add_address(handle: &Handle, index: u32, network: IpNet) -> io::Result<()> {
    let mut message = address_message(index, network);
    let mut flags = AddressFlags::Noprefixroute;
    if let IpNet::V6(_) = network {
        // Nobody else is on this link, and a tentative address cannot be a route's source yet.
        flags |= AddressFlags::Nodad;
        message.header.flags = AddressHeaderFlags::Nodad;
    }
    message.attributes.push(AddressAttribute::Flags(flags));
    change(
        handle,
        RouteNetlinkMessage::NewAddress(message),
        NLM_F_CREATE | NLM_F_REPLACE,
    )
    .await
}

/// Removes an address; one that is gone already is removed.
pub(super) async fn remove_address(handle: &Handle, index: u32, network: IpNet) -> io::Result<()> {
    let message = address_message(index, network);
    match change(handle, RouteNetlinkMessage::DelAddress(message), 0).await {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::ADDRNOTAVAIL) => Ok(()),
        other => other,
    }
}
