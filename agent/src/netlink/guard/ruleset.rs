//! The guard table as netlink messages: which packet may go where, and under which source.

use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Hook, HookNumber, InetHookNumber, NfTablesMessage, RuleAttribute,
    RuleMessage, TableAttribute, TableMessage,
};
use podwire_core::kernel::GuardTable;
use rtnetlink::packet_core::{DefaultNla, NLA_F_NESTED};

use super::GuardCounters;
use super::expression::{Direction, Family, Field, Rule};

/// A table of ours in the family `inet`.
#[derive(Clone, Copy)]
pub(in crate::netlink) struct Table {
    pub(in crate::netlink) name: &'static str,
    /// What is added to the priorities of its filters.
    lag: i32,
}

/// The guard table.
pub(in crate::netlink) const GUARD: Table = Table {
    name: "podwire",
    lag: 0,
};

/// Guards while the other one is replaced. Asked after it, which counts.
pub(in crate::netlink) const STANDBY: Table = Table {
    name: "podwire_standby",
    lag: 1,
};

/// Which of the tables guards the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InForce {
    Nothing,
    /// [`GUARD`], whatever there is beside it.
    Guard,
    /// [`STANDBY`] alone: an agent was killed while it replaced the other one.
    Standby,
}

/// Counter of packets that the egress guard refused.
pub(super) const EGRESS_REFUSED: &str = "egress_refused";

/// Counter of packets that the ingress guard dropped.
pub(super) const INGRESS_DROPPED: &str = "ingress_dropped";

const LOOPBACK: &str = "lo";

/// Sets, of which there is one in each family.
pub(super) const CLUSTER: &str = "cluster";
pub(super) const OWN: &str = "own";
pub(super) const HOST_NETWORK: &str = "host_network";
pub(super) const UNTRANSLATED: &str = "untranslated";

/// The set of link names.
pub(super) const UNDERLAY_LINKS: &str = "underlay_links";

/// Before connection tracking, so that what is dropped costs no entry (`NF_IP_PRI_RAW`).
const PRIORITY_RAW: i32 = -300;
/// Before destination translation (`NF_IP_PRI_MANGLE`).
const PRIORITY_MANGLE: i32 = -150;
/// Just before the filter of others: what they accept was asked here first.
const PRIORITY_BEFORE_FILTER: i32 = -10;
/// Where sources are translated (`NF_IP_PRI_NAT_SRC`).
const PRIORITY_SOURCE_TRANSLATION: i32 = 100;

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

/// Messages that take effect together.
type Transaction = Vec<NfTablesMessage>;

/// Puts a table into force as [`GUARD`], one transaction after the other.
///
/// No transaction replaces a table at once. What it removes has no elements in its sets before its
/// rules are gone, and what it adds has rules before elements: for some microseconds packets pass
/// both, or are refused by both. So a standby guards meanwhile, and no transaction changes sets
/// that a rule asks. Where nothing guards all comes at once, or nothing does.
pub(super) fn replace(
    table: &GuardTable,
    counted: GuardCounters,
    in_force: InForce,
) -> Vec<Transaction> {
    let guard = [prepare(GUARD, table, counted), rules(GUARD, table)];
    if in_force == InForce::Nothing {
        return vec![guard.concat()];
    }
    let mut steps = Vec::new();
    if in_force == InForce::Guard {
        steps.push(prepare(STANDBY, table, GuardCounters::default()));
        steps.push(rules(STANDBY, table));
        steps.push(flush(GUARD));
    }
    steps.extend(guard);
    steps
}

/// Removes a table in the same way, also where there is none.
pub(super) fn remove(place: Table) -> [Transaction; 2] {
    [flush(place), delete(place)]
}

/// Takes every rule of a table, which then lets everything pass.
fn flush(place: Table) -> Transaction {
    let attributes = vec![RuleAttribute::Table(place.name.to_owned())];
    vec![
        // Else there might be none.
        NfTablesMessage::NewTable(place.message()),
        NfTablesMessage::DeleteRule(RuleMessage { attributes }),
    ]
}

fn delete(place: Table) -> Transaction {
    vec![
        NfTablesMessage::NewTable(place.message()),
        NfTablesMessage::DeleteTable(place.message()),
    ]
}

/// A table without rules, instead of whatever has that name.
fn prepare(place: Table, table: &GuardTable, counted: GuardCounters) -> Transaction {
    let mut messages = delete(place);
    messages.push(NfTablesMessage::NewTable(place.message()));
    messages.push(place.counter(EGRESS_REFUSED, counted.egress_refused));
    messages.push(place.counter(INGRESS_DROPPED, counted.ingress_dropped));
    messages.extend(place.sets(table));
    messages
}

/// The rules of a table that is prepared.
fn rules(place: Table, table: &GuardTable) -> Transaction {
    let mut messages = Vec::new();
    for chain in chains(table.device.as_deref()) {
        messages.push(place.chain(&chain));
        let rules = chain.rules.into_iter();
        messages.extend(rules.map(|rule| place.rule(chain.name, rule)));
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

pub(super) fn name(set: &str, family: Family) -> String {
    match family {
        Family::V4 => format!("{set}4"),
        Family::V6 => format!("{set}6"),
    }
}

impl Table {
    pub(super) fn message(self) -> TableMessage {
        TableMessage {
            attributes: vec![TableAttribute::Name(self.name.to_owned())],
        }
    }

    fn chain(self, chain: &Chain) -> NfTablesMessage {
        // The newest at one priority is asked first: ours stays before those of others there.
        let lag = if chain.kind == "nat" { 0 } else { self.lag };
        let priority = chain.priority + lag;
        let attributes = vec![
            ChainAttribute::Table(self.name.to_owned()),
            ChainAttribute::Name(chain.name.to_owned()),
            ChainAttribute::Hook(vec![
                Hook::Number(HookNumber::Inet(chain.hook)),
                Hook::Priority(priority.cast_unsigned()),
            ]),
            ChainAttribute::Policy(number::POLICY_ACCEPT),
            ChainAttribute::Type(chain.kind.to_owned()),
        ];
        NfTablesMessage::NewChain(ChainMessage { attributes })
    }

    fn rule(self, chain: &str, rule: Rule) -> NfTablesMessage {
        let attributes = vec![
            RuleAttribute::Table(self.name.to_owned()),
            RuleAttribute::Chain(chain.to_owned()),
            RuleAttribute::Expressions(rule.into_expressions()),
        ];
        NfTablesMessage::NewRule(RuleMessage { attributes })
    }

    fn counter(self, name: &str, packets: u64) -> NfTablesMessage {
        use rtnetlink::packet_core::Emitable as _;
        let text = |kind, text: &str| DefaultNla::new(kind, [text.as_bytes(), b"\0"].concat());
        let start = [
            DefaultNla::new(number::COUNTER_BYTES, 0_u64.to_be_bytes().to_vec()),
            DefaultNla::new(number::COUNTER_PACKETS, packets.to_be_bytes().to_vec()),
        ];
        let mut data = vec![0; start.as_slice().buffer_len()];
        start.as_slice().emit(&mut data);
        NfTablesMessage::NewObject(vec![
            text(number::OBJECT_TABLE, self.name),
            text(number::OBJECT_NAME, name),
            DefaultNla::new(
                number::OBJECT_TYPE,
                number::OBJECT_COUNTER.to_be_bytes().to_vec(),
            ),
            DefaultNla::new(number::OBJECT_DATA | NLA_F_NESTED, data),
        ])
    }
}
