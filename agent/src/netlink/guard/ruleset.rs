//! The guard table as netlink messages: which packet may go where, and under which source.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, DataAttribute, Hook, HookNumber, InetHookNumber, ListAttribute,
    NfTablesMessage, RuleAttribute, RuleMessage, SetAttribute, SetElementAttribute,
    SetElementFlags, SetElementList, SetElementMessage, SetFlags, SetMessage, TableAttribute,
    TableMessage,
};
use podwire_core::kernel::GuardTable;
use rtnetlink::packet_core::{DefaultNla, NLA_F_NESTED};

use super::GuardCounters;
use super::expression::{Direction, Family, Field, LINK_NAME_LENGTH, Rule, link_name};

/// Name of the table, in the family `inet`.
pub(in crate::netlink) const TABLE: &str = "podwire";

/// Counter of packets that the egress guard refused.
pub(super) const EGRESS_REFUSED: &str = "egress_refused";

/// Counter of packets that the ingress guard dropped.
pub(super) const INGRESS_DROPPED: &str = "ingress_dropped";

const LOOPBACK: &str = "lo";

/// Sets, of which there is one in each family.
const CLUSTER: &str = "cluster";
const OWN: &str = "own";
const HOST_NETWORK: &str = "host_network";
const UNTRANSLATED: &str = "untranslated";

/// The set of link names.
const UNDERLAY_LINKS: &str = "underlay_links";

/// Before connection tracking, so that what is dropped costs no entry (`NF_IP_PRI_RAW`).
const PRIORITY_RAW: i32 = -300;
/// Before destination translation (`NF_IP_PRI_MANGLE`).
const PRIORITY_MANGLE: i32 = -150;
/// Just before the filter of others: what they accept was asked here first.
const PRIORITY_BEFORE_FILTER: i32 = -10;
/// Where sources are translated (`NF_IP_PRI_NAT_SRC`).
const PRIORITY_SOURCE_TRANSLATION: i32 = 100;

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

/// Numbers of `linux/netfilter/nf_tables.h` that the message crate leaves to us.
mod number {
    pub(super) const OBJECT_TABLE: u16 = 1;
    pub(super) const OBJECT_NAME: u16 = 2;
    pub(super) const OBJECT_TYPE: u16 = 3;
    pub(super) const OBJECT_DATA: u16 = 4;
    pub(super) const OBJECT_COUNTER: u32 = 1;
    pub(super) const COUNTER_BYTES: u16 = 1;
    pub(super) const COUNTER_PACKETS: u16 = 2;
    pub(super) const POLICY_ACCEPT: u32 = 1;
}

/// Removes the table.
pub(super) fn remove() -> Vec<NfTablesMessage> {
    vec![NfTablesMessage::DeleteTable(table_message())]
}

/// Replaces the table whole. Adding it first makes the removal succeed also where there is none.
pub(super) fn replace(table: &GuardTable, counted: GuardCounters) -> Vec<NfTablesMessage> {
    let mut messages = vec![NfTablesMessage::NewTable(table_message())];
    messages.extend(remove());
    messages.push(NfTablesMessage::NewTable(table_message()));
    messages.push(counter(EGRESS_REFUSED, counted.egress_refused));
    messages.push(counter(INGRESS_DROPPED, counted.ingress_dropped));
    messages.extend(sets(table));
    for chain in chains(table.device.as_deref()) {
        messages.push(chain.message());
        messages.extend(
            chain
                .rules
                .into_iter()
                .map(|rule| rule_message(chain.name, rule)),
        );
    }
    messages
}

/// A base chain.
struct Chain {
    name: &'static str,
    kind: &'static str,
    hook: InetHookNumber,
    priority: i32,
    rules: Vec<Rule>,
}

fn chains(device: Option<&str>) -> Vec<Chain> {
    let filter = |name, hook, priority, rules| Chain {
        name,
        kind: "filter",
        hook,
        priority,
        rules,
    };
    let refuse = || Rule::new().counter(EGRESS_REFUSED);
    vec![
        filter(
            "ingress",
            InetHookNumber::PreRouting,
            PRIORITY_RAW,
            ingress(device),
        ),
        filter(
            "forward",
            InetHookNumber::Forward,
            PRIORITY_BEFORE_FILTER,
            egress(device, refuse().reject()),
        ),
        // After destination translation this hook still names the link of the first route, so a
        // packet to a Service would be judged by the wrong link. It is asked again below.
        filter(
            "output",
            InetHookNumber::LocalOut,
            PRIORITY_MANGLE,
            egress(device, refuse().reject()),
        ),
        // The last line, where the link is final, for forwarded and own packets alike; this hook
        // knows no reject.
        filter(
            "postrouting",
            InetHookNumber::PostRouting,
            PRIORITY_MANGLE,
            egress(device, refuse().drop()),
        ),
        Chain {
            name: "source_translation",
            kind: "nat",
            hook: InetHookNumber::PostRouting,
            priority: PRIORITY_SOURCE_TRANSLATION,
            rules: source_translation(device),
        },
    ]
}

/// What a guard lets pass; all else it refuses. Each accepts, so that their order says only what is
/// found soonest: what pods exchange, of which every packet is asked about at every hook.
struct Accepted {
    device: Option<Rule>,
    own_pods: [Rule; 2],
    loopback: Rule,
    outside: [Rule; 2],
    host_network: [Rule; 2],
}

impl Accepted {
    fn or(self, refuse: Rule) -> Vec<Rule> {
        let mut rules: Vec<Rule> = self.device.into_iter().collect();
        rules.extend(self.own_pods);
        rules.push(self.loopback);
        rules.extend(self.outside);
        rules.extend(self.host_network);
        rules.push(refuse);
        rules
    }
}

/// What goes to a pod of the cluster leaves by the device, or to a local pod, or to a declared
/// host-network peer.
fn egress(device: Option<&str>, refuse: Rule) -> Vec<Rule> {
    let by = |link: &str| Rule::new().link_is(Direction::Outgoing, link).accept();
    let to = |set, family| Rule::new().address_in(family, Field::Destination, &name(set, family));
    let accepted = Accepted {
        device: device.map(by),
        own_pods: Family::ALL.map(|family| {
            to(OWN, family)
                .link_not_in(Direction::Outgoing, UNDERLAY_LINKS)
                .accept()
        }),
        loopback: by(LOOPBACK),
        outside: Family::ALL.map(|family| {
            Rule::new()
                .address_not_in(family, Field::Destination, &name(CLUSTER, family))
                .accept()
        }),
        host_network: Family::ALL.map(|family| to(HOST_NETWORK, family).accept()),
    };
    accepted.or(refuse)
}

/// What comes from a pod of the cluster comes by the device, or from a local pod, or from a
/// declared host-network peer, each by the link that the route to it leaves by.
fn ingress(device: Option<&str>) -> Vec<Rule> {
    let by = |link: &str| Rule::new().link_is(Direction::Incoming, link).accept();
    let from = |set, family| Rule::new().address_in(family, Field::Source, &name(set, family));
    let accepted = Accepted {
        device: device.map(by),
        own_pods: Family::ALL.map(|family| {
            from(OWN, family)
                .link_not_in(Direction::Incoming, UNDERLAY_LINKS)
                .route_back_by_same_link()
                .accept()
        }),
        loopback: by(LOOPBACK),
        outside: Family::ALL.map(|family| {
            Rule::new()
                .address_not_in(family, Field::Source, &name(CLUSTER, family))
                .accept()
        }),
        host_network: Family::ALL.map(|family| {
            from(HOST_NETWORK, family)
                .route_back_by_same_link()
                .accept()
        }),
    };
    accepted.or(Rule::new().counter(INGRESS_DROPPED).drop())
}

/// Pods reach the outside, and other nodes' own addresses, under this node's address; the node
/// itself reaches remote pods under the device's. Between pods nothing is translated.
fn source_translation(device: Option<&str>) -> Vec<Rule> {
    let mut rules = Vec::new();
    for family in Family::ALL {
        let own = name(OWN, family);
        let to_outside = Rule::new()
            .address_in(family, Field::Source, &own)
            .address_not_in(family, Field::Destination, &name(UNTRANSLATED, family));
        let not_by = |rule: Rule, link| rule.link_is_not(Direction::Outgoing, link);
        let to_outside = device
            .into_iter()
            .chain([LOOPBACK])
            .fold(to_outside, not_by);
        rules.push(to_outside.masquerade());
        rules.extend(device.map(|device| {
            Rule::new()
                .link_is(Direction::Outgoing, device)
                .address_not_in(family, Field::Source, &own)
                .masquerade()
        }));
    }
    rules
}

fn name(set: &str, family: Family) -> String {
    match family {
        Family::V4 => format!("{set}4"),
        Family::V6 => format!("{set}6"),
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

fn sets(table: &GuardTable) -> Vec<NfTablesMessage> {
    let untranslated = untranslated(&table.cluster_cidrs);
    let prefixes = [
        (CLUSTER, &table.cluster_cidrs),
        (OWN, &table.own_cidrs),
        (HOST_NETWORK, &table.host_network_cidrs),
        (UNTRANSLATED, &untranslated),
    ];
    let mut messages = Vec::new();
    for (set, cidrs) in prefixes {
        messages.extend(prefix_set(
            &name(set, Family::V4),
            Family::V4,
            ranges4(cidrs),
        ));
        messages.extend(prefix_set(
            &name(set, Family::V6),
            Family::V6,
            ranges6(cidrs),
        ));
    }
    let mut attributes = set_attributes(
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
    messages.extend(element_messages(UNDERLAY_LINKS, links.collect()));
    messages
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

fn prefix_set(set: &str, family: Family, ranges: Vec<Range>) -> Vec<NfTablesMessage> {
    let (kind, length) = match family {
        Family::V4 => (set_type::IPV4_ADDRESS, 4),
        Family::V6 => (set_type::IPV6_ADDRESS, 16),
    };
    let attributes = set_attributes(set, kind, length, SetFlags::Interval);
    let mut messages = vec![NfTablesMessage::NewSet(SetMessage { attributes })];
    let elements = ranges.into_iter().flat_map(|(start, end)| {
        std::iter::once(element(start, false)).chain(end.map(|end| element(end, true)))
    });
    messages.extend(element_messages(set, elements.collect()));
    messages
}

type Element = ListAttribute<SetElementAttribute>;

fn element(key: Vec<u8>, is_end: bool) -> Element {
    let mut attributes = vec![SetElementAttribute::Key(DataAttribute::Value(key))];
    if is_end {
        attributes.push(SetElementAttribute::Flags(SetElementFlags::IntervalEnd));
    }
    ListAttribute::Element(attributes)
}

fn element_messages(set: &str, elements: Vec<Element>) -> Vec<NfTablesMessage> {
    let message = |elements: &[Element]| {
        let attributes = vec![
            SetElementList::Table(TABLE.to_owned()),
            SetElementList::Set(set.to_owned()),
            SetElementList::Elements(elements.to_vec()),
        ];
        NfTablesMessage::NewSetElement(SetElementMessage { attributes })
    };
    elements.chunks(ELEMENTS_PER_MESSAGE).map(message).collect()
}

fn set_attributes(set: &str, kind: u32, key_length: usize, flags: SetFlags) -> Vec<SetAttribute> {
    let key_length = u32::try_from(key_length).expect("a key is at most 16 bytes");
    vec![
        SetAttribute::Table(TABLE.to_owned()),
        SetAttribute::Name(set.to_owned()),
        SetAttribute::Flags(flags),
        SetAttribute::KeyType(kind),
        SetAttribute::KeyLen(key_length),
        // The kernel asks for one; elements and rules go by name.
        SetAttribute::Id(0),
    ]
}

fn table_message() -> TableMessage {
    TableMessage {
        attributes: vec![TableAttribute::Name(TABLE.to_owned())],
    }
}

impl Chain {
    fn message(&self) -> NfTablesMessage {
        let attributes = vec![
            ChainAttribute::Table(TABLE.to_owned()),
            ChainAttribute::Name(self.name.to_owned()),
            ChainAttribute::Hook(vec![
                Hook::Number(HookNumber::Inet(self.hook)),
                Hook::Priority(self.priority.cast_unsigned()),
            ]),
            ChainAttribute::Policy(number::POLICY_ACCEPT),
            ChainAttribute::Type(self.kind.to_owned()),
        ];
        NfTablesMessage::NewChain(ChainMessage { attributes })
    }
}

fn rule_message(chain: &str, rule: Rule) -> NfTablesMessage {
    let attributes = vec![
        RuleAttribute::Table(TABLE.to_owned()),
        RuleAttribute::Chain(chain.to_owned()),
        RuleAttribute::Expressions(rule.into_expressions()),
    ];
    NfTablesMessage::NewRule(RuleMessage { attributes })
}

fn counter(name: &str, packets: u64) -> NfTablesMessage {
    use rtnetlink::packet_core::Emitable as _;
    let text = |kind, text: &str| DefaultNla::new(kind, [text.as_bytes(), b"\0"].concat());
    let start = [
        DefaultNla::new(number::COUNTER_BYTES, 0_u64.to_be_bytes().to_vec()),
        DefaultNla::new(number::COUNTER_PACKETS, packets.to_be_bytes().to_vec()),
    ];
    let mut data = vec![0; start.as_slice().buffer_len()];
    start.as_slice().emit(&mut data);
    NfTablesMessage::NewObject(vec![
        text(number::OBJECT_TABLE, TABLE),
        text(number::OBJECT_NAME, name),
        DefaultNla::new(
            number::OBJECT_TYPE,
            number::OBJECT_COUNTER.to_be_bytes().to_vec(),
        ),
        DefaultNla::new(number::OBJECT_DATA | NLA_F_NESTED, data),
    ])
}
