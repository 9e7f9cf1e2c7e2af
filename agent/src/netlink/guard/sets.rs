//! The sets that the guard table's rules ask, as netlink messages.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_netfilter::nftables::{
    DataAttribute, ListAttribute, NfTablesMessage, SetAttribute, SetElementAttribute,
    SetElementFlags, SetElementList, SetElementMessage, SetFlags, SetMessage,
};
use podwire_core::kernel::GuardTable;

use super::expression::{Family, LINK_NAME_LENGTH, link_name};
use super::ruleset::{CLUSTER, HOST_NETWORK, OWN, Table, UNDERLAY_LINKS, UNTRANSLATED, name};

/// A message's attribute holds 64 KiB, an element under 50 bytes.
const ELEMENTS_PER_MESSAGE: usize = 1000;

/// Type numbers of nft(8) by which it prints a set's elements.
mod set_type {
    pub(super) const IPV4_ADDRESS: u32 = 7;
    pub(super) const IPV6_ADDRESS: u32 = 8;
    pub(super) const LINK_NAME: u32 = 41;
}

/// User data by which nft(8) knows that a set's keys are in the host's byte order, as link names
/// are: type (`NFTNL_UDATA_SET_KEYBYTEORDER`), length, value. Without it, it prints them empty.
fn keys_in_host_order() -> Vec<u8> {
    [&[0, 4][..], &1_u32.to_ne_bytes()].concat()
}

impl Table {
    pub(super) fn sets(self, table: &GuardTable) -> Vec<NfTablesMessage> {
        let untranslated = untranslated(&table.cluster_cidrs);
        let prefixes = [
            (CLUSTER, &table.cluster_cidrs),
            (OWN, &table.own_cidrs),
            (HOST_NETWORK, &table.host_network_cidrs),
            (UNTRANSLATED, &untranslated),
        ];
        let mut messages = Vec::new();
        for (set, cidrs) in prefixes {
            messages.extend(self.prefix_set(&name(set, Family::V4), Family::V4, ranges4(cidrs)));
            messages.extend(self.prefix_set(&name(set, Family::V6), Family::V6, ranges6(cidrs)));
        }
        let mut attributes = self.set_attributes(
            UNDERLAY_LINKS,
            set_type::LINK_NAME,
            LINK_NAME_LENGTH,
            SetFlags::empty(),
        );
        attributes.push(SetAttribute::UserData(keys_in_host_order()));
        messages.push(NfTablesMessage::NewSet(SetMessage { attributes }));
        let links = table
            .underlay_links
            .iter()
            .map(|name| element(link_name(name), false));
        messages.extend(self.element_messages(UNDERLAY_LINKS, links.collect()));
        messages
    }

    fn prefix_set(self, set: &str, family: Family, ranges: Vec<Range>) -> Vec<NfTablesMessage> {
        let (kind, length) = match family {
            Family::V4 => (set_type::IPV4_ADDRESS, 4),
            Family::V6 => (set_type::IPV6_ADDRESS, 16),
        };
        let attributes = self.set_attributes(set, kind, length, SetFlags::Interval);
        let mut messages = vec![NfTablesMessage::NewSet(SetMessage { attributes })];
        let elements = ranges.into_iter().flat_map(|(start, end)| {
            std::iter::once(element(start, false)).chain(end.map(|end| element(end, true)))
        });
        messages.extend(self.element_messages(set, elements.collect()));
        messages
    }

    fn element_messages(self, set: &str, elements: Vec<Element>) -> Vec<NfTablesMessage> {
        let message = |elements: &[Element]| {
            let attributes = vec![
                SetElementList::Table(self.name.to_owned()),
                SetElementList::Set(set.to_owned()),
                SetElementList::Elements(elements.to_vec()),
            ];
            NfTablesMessage::NewSetElement(SetElementMessage { attributes })
        };
        elements.chunks(ELEMENTS_PER_MESSAGE).map(message).collect()
    }

    fn set_attributes(
        self,
        set: &str,
        kind: u32,
        key_length: usize,
        flags: SetFlags,
    ) -> Vec<SetAttribute> {
        let key_length = u32::try_from(key_length).expect("a key is at most 16 bytes");
        vec![
            SetAttribute::Table(self.name.to_owned()),
            SetAttribute::Name(set.to_owned()),
            SetAttribute::Flags(flags),
            SetAttribute::KeyType(kind),
            SetAttribute::KeyLen(key_length),
            // The kernel asks for one; elements and rules go by name.
            SetAttribute::Id(0),
        ]
    }
}

/// Never translated: pod traffic, and what is for all on a link (a bridge shows its pods' multicast
/// to this hook where `br_netfilter` is loaded).
fn untranslated(cluster: &BTreeSet<IpNet>) -> BTreeSet<IpNet> {
    let multicast4 = Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4);
    let broadcast = Ipv4Net::new_assert(Ipv4Addr::BROADCAST, 32);
    let multicast6 = Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8);
    let everybody = [multicast4.into(), broadcast.into(), multicast6.into()];
    cluster.iter().copied().chain(everybody).collect()
}

/// First address of a range, and the address after its last, unless that was the family's last.
type Range = (Vec<u8>, Option<Vec<u8>>);

/// The kernel wants ranges that do not overlap.
fn ranges4(cidrs: &BTreeSet<IpNet>) -> Vec<Range> {
    let cidrs = cidrs.iter().filter_map(|cidr| match cidr {
        IpNet::V4(cidr) => Some(cidr.trunc()),
        IpNet::V6(_) => None,
    });
    let range = |cidr: Ipv4Net| {
        let end = u32::from(cidr.broadcast()).checked_add(1);
        (
            cidr.network().octets().to_vec(),
            end.map(|end| end.to_be_bytes().to_vec()),
        )
    };
    Ipv4Net::aggregate(&cidrs.collect())
        .into_iter()
        .map(range)
        .collect()
}

fn ranges6(cidrs: &BTreeSet<IpNet>) -> Vec<Range> {
    let cidrs = cidrs.iter().filter_map(|cidr| match cidr {
        IpNet::V4(_) => None,
        IpNet::V6(cidr) => Some(cidr.trunc()),
    });
    let range = |cidr: Ipv6Net| {
        let end = u128::from(cidr.broadcast()).checked_add(1);
        (
            cidr.network().octets().to_vec(),
            end.map(|end| end.to_be_bytes().to_vec()),
        )
    };
    Ipv6Net::aggregate(&cidrs.collect())
        .into_iter()
        .map(range)
        .collect()
}

type Element = ListAttribute<SetElementAttribute>;

fn element(key: Vec<u8>, is_end: bool) -> Element {
    let mut attributes = vec![SetElementAttribute::Key(DataAttribute::Value(key))];
    if is_end {
        attributes.push(SetElementAttribute::Flags(SetElementFlags::IntervalEnd));
    }
    ListAttribute::Element(attributes)
}
