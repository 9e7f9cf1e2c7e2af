//! The expressions that the guard's rules are made of, as `nft --debug=netlink` prints them.

use netlink_packet_netfilter::nftables::{
    Cmp, DataAttribute, ExpressionAttribute, Expressions, Immediate, ListAttribute, Lookup, Meta,
    MetaKey, Operator, Payload, Register, Verdict, VerdictAttribute,
};
use rtnetlink::packet_core::DefaultNla;

/// Numbers of `linux/netfilter/nf_tables.h` that the message crate leaves to us.
mod number {
    pub(super) const PAYLOAD_NETWORK_HEADER: u32 = 1;
    pub(super) const LOOKUP_INVERTED: u32 = 1;
    pub(super) const VERDICT_DROP: u32 = 0;
    pub(super) const VERDICT_ACCEPT: u32 = 1;
    pub(super) const REGISTER_1: u32 = 1;
    pub(super) const OBJECT_COUNTER: u32 = 1;
    pub(super) const OBJREF_TYPE: u16 = 1;
    pub(super) const OBJREF_NAME: u16 = 2;
    pub(super) const REJECT_TYPE: u16 = 1;
    pub(super) const REJECT_CODE: u16 = 2;
    pub(super) const REJECT_ICMPX: u32 = 2;
    pub(super) const ICMPX_ADMIN_PROHIBITED: u8 = 3;
    pub(super) const FIB_REGISTER: u16 = 1;
    pub(super) const FIB_RESULT: u16 = 2;
    pub(super) const FIB_FLAGS: u16 = 3;
    pub(super) const FIB_RESULT_OIF: u32 = 1;
    pub(super) const FIB_SADDR: u32 = 1;
    pub(super) const FIB_IIF: u32 = 8;
}

/// Length of an interface name in the kernel, padded with zeros (`IFNAMSIZ`).
pub(super) const LINK_NAME_LENGTH: usize = 16;

/// An address family, and where its header has the addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    /// Both.
    pub(super) const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// `NFPROTO_IPV4` and `NFPROTO_IPV6`.
    fn protocol(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }

    fn address_length(self) -> u32 {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }

    fn offset(self, field: Field) -> u32 {
        match (self, field) {
            (Self::V4, Field::Source) => 12,
            (Self::V4, Field::Destination) => 16,
            (Self::V6, Field::Source) => 8,
            (Self::V6, Field::Destination) => 24,
        }
    }
}

/// An address of a packet.
#[derive(Clone, Copy, Debug)]
pub(super) enum Field {
    Source,
    Destination,
}

/// A direction as seen from this node.
#[derive(Clone, Copy, Debug)]
pub(super) enum Direction {
    Incoming,
    Outgoing,
}

impl Direction {
    fn link_name(self) -> MetaKey {
        match self {
            Self::Incoming => MetaKey::Iifname,
            Self::Outgoing => MetaKey::Oifname,
        }
    }
}

/// The expressions of a rule, in the order in which they are asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Rule(Vec<ListAttribute<ExpressionAttribute>>);

impl Rule {
    /// A rule for every packet.
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// The expressions.
    pub(super) fn into_expressions(self) -> Vec<ListAttribute<ExpressionAttribute>> {
        self.0
    }

    /// `meta nfproto ipv4`, `ip saddr @set`, and the like.
    pub(super) fn address_in(self, family: Family, field: Field, set: &str) -> Self {
        self.address(family, field).lookup(set, 0)
    }

    /// The same with `!=`.
    pub(super) fn address_not_in(self, family: Family, field: Field, set: &str) -> Self {
        self.address(family, field)
            .lookup(set, number::LOOKUP_INVERTED)
    }

    /// `oifname "name"`.
    pub(super) fn link_is(self, direction: Direction, name: &str) -> Self {
        self.meta(direction.link_name())
            .compare(Operator::Equal, link_name(name))
    }

    /// `oifname != "name"`.
    pub(super) fn link_is_not(self, direction: Direction, name: &str) -> Self {
        self.meta(direction.link_name())
            .compare(Operator::NotEqual, link_name(name))
    }

    /// `oifname != @set`.
    pub(super) fn link_not_in(self, direction: Direction, set: &str) -> Self {
        self.meta(direction.link_name())
            .lookup(set, number::LOOKUP_INVERTED)
    }

    /// `fib saddr . iif oif != 0`: the route to the source leaves by the link that it came in by.
    pub(super) fn route_back_by_same_link(self) -> Self {
        let attributes = vec![
            word(number::FIB_REGISTER, number::REGISTER_1),
            word(number::FIB_RESULT, number::FIB_RESULT_OIF),
            word(number::FIB_FLAGS, number::FIB_SADDR | number::FIB_IIF),
        ];
        self.other("fib", attributes)
            .compare(Operator::NotEqual, vec![0; size_of::<u32>()])
    }

    /// `counter name "name"`.
    pub(super) fn counter(self, name: &str) -> Self {
        let name = DefaultNla::new(number::OBJREF_NAME, [name.as_bytes(), b"\0"].concat());
        self.other(
            "objref",
            vec![word(number::OBJREF_TYPE, number::OBJECT_COUNTER), name],
        )
    }

    /// `accept`.
    pub(super) fn accept(self) -> Self {
        self.verdict(number::VERDICT_ACCEPT)
    }

    /// `drop`.
    pub(super) fn drop(self) -> Self {
        self.verdict(number::VERDICT_DROP)
    }

    /// `reject with icmpx admin-prohibited`: never a TCP reset, which would end connections that
    /// go on once the peer is back.
    pub(super) fn reject(self) -> Self {
        let attributes = vec![
            word(number::REJECT_TYPE, number::REJECT_ICMPX),
            DefaultNla::new(number::REJECT_CODE, vec![number::ICMPX_ADMIN_PROHIBITED]),
        ];
        self.other("reject", attributes)
    }

    /// `masquerade`.
    pub(super) fn masquerade(self) -> Self {
        self.other("masq", Vec::new())
    }

    fn push(mut self, expression: Expressions) -> Self {
        self.0.push(expression.into());
        self
    }

    fn other(self, name: &str, attributes: Vec<DefaultNla>) -> Self {
        self.push(Expressions::Other {
            expression_type: name.to_owned(),
            attributes,
        })
    }

    fn address(self, family: Family, field: Field) -> Self {
        self.meta(MetaKey::Nfproto)
            .compare(Operator::Equal, vec![family.protocol()])
            .push(Expressions::Payload(vec![
                Payload::DestinationRegister(Register::Reg1),
                Payload::Base(number::PAYLOAD_NETWORK_HEADER),
                Payload::Offset(family.offset(field)),
                Payload::Len(family.address_length()),
            ]))
    }

    fn meta(self, key: MetaKey) -> Self {
        self.push(Expressions::Meta(vec![
            Meta::DestinationRegister(Register::Reg1),
            Meta::Key(key),
        ]))
    }

    fn compare(self, operator: Operator, data: Vec<u8>) -> Self {
        self.push(Expressions::Cmp(vec![
            Cmp::SourceRegister(Register::Reg1),
            Cmp::Op(operator),
            Cmp::Data(DataAttribute::Value(data)),
        ]))
    }

    fn lookup(self, set: &str, flags: u32) -> Self {
        self.push(Expressions::Lookup(vec![
            Lookup::Set(set.to_owned()),
            Lookup::SourceRegister(Register::Reg1),
            Lookup::Flags(flags),
        ]))
    }

    fn verdict(self, code: u32) -> Self {
        let verdict = vec![VerdictAttribute::Code(Verdict::Other(code))];
        self.push(Expressions::Immediate(vec![
            Immediate::DestinationRegister(Register::Verdict),
            Immediate::Data(DataAttribute::Verdict(verdict)),
        ]))
    }
}

/// A link's name as a set's key or an operand.
pub(super) fn link_name(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(LINK_NAME_LENGTH, 0);
    bytes
}

fn word(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}
