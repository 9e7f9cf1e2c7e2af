//! The expressions of rules as the kernel shows them (`linux/netfilter/nf_tables.h`).

use std::io;

use podwire_core::packet_filter::{Comparison, Element, Expression, Property, Verdict};
use rtnetlink::packet_core::{DefaultNla, NLA_TYPE_MASK, Nla as _};

use super::super::nftables::{attributes_in, value};

/// Attribute numbers.
mod attribute {
    pub(super) const NAME: u16 = 1;
    pub(super) const DATA: u16 = 2;
    pub(super) const DATA_VALUE: u16 = 1;
    pub(super) const DATA_VERDICT: u16 = 2;
    pub(super) const VERDICT_CODE: u16 = 1;
    pub(super) const VERDICT_CHAIN: u16 = 2;
    /// Of `meta`, `ct`, `payload` and `immediate`.
    pub(super) const DESTINATION: u16 = 1;
    /// Of `meta` and `ct`.
    pub(super) const KEY: u16 = 2;
    pub(super) const PAYLOAD_BASE: u16 = 2;
    pub(super) const PAYLOAD_OFFSET: u16 = 3;
    pub(super) const PAYLOAD_LENGTH: u16 = 4;
    pub(super) const IMMEDIATE_DATA: u16 = 2;
    /// Of `cmp`, `range` and `bitwise`.
    pub(super) const SOURCE: u16 = 1;
    /// Of `cmp` and `range`.
    pub(super) const OPERATOR: u16 = 2;
    pub(super) const COMPARE_DATA: u16 = 3;
    pub(super) const RANGE_FROM: u16 = 3;
    pub(super) const RANGE_TO: u16 = 4;
    pub(super) const BITWISE_DESTINATION: u16 = 2;
    pub(super) const BITWISE_MASK: u16 = 4;
    pub(super) const BITWISE_FLIPS: u16 = 5;
    pub(super) const BITWISE_OPERATOR: u16 = 6;
    /// Of iptables' own matches.
    pub(super) const MATCH_REVISION: u16 = 2;
    pub(super) const MATCH_DATA: u16 = 3;
    /// Of `objref`.
    pub(super) const OBJECT_KIND: u16 = 1;
    pub(super) const LOOKUP_SET: u16 = 1;
    pub(super) const LOOKUP_SOURCE: u16 = 2;
    pub(super) const LOOKUP_DESTINATION: u16 = 3;
    pub(super) const LOOKUP_FLAGS: u16 = 5;
    pub(super) const ELEMENT_KEY: u16 = 1;
    pub(super) const ELEMENT_DATA: u16 = 2;
    pub(super) const ELEMENT_FLAGS: u16 = 3;
    pub(super) const ELEMENT_KEY_END: u16 = 10;
}

/// `NFT_REG_VERDICT`: a lookup into it decides.
const REGISTER_VERDICT: u32 = 0;

/// `NFT_SET_ELEM_INTERVAL_END` and `NFT_SET_ELEM_CATCHALL`.
const FLAG_END: u32 = 1;
const FLAG_ALL_OTHERS: u32 = 2;

/// What goes on or not, or writes a register, and decides nothing, whatever it is about.
const UNDECIDED: [&str; 21] = [
    "bitwise",
    "byteorder",
    "cmp",
    "connlimit",
    "ct",
    "dynset",
    "exthdr",
    "fib",
    "flow_offload",
    "hash",
    "limit",
    "match",
    "meta",
    "numgen",
    "osf",
    "payload",
    "quota",
    "range",
    "rt",
    "socket",
    "xfrm",
];

/// The expressions of a rule; what is not known is told apart. What is in a set is asked for, and
/// is none where that would be too much.
pub(super) fn expressions<E: From<io::Error>>(
    list: &[u8],
    mut elements: impl FnMut(&str) -> Result<Option<Vec<Element>>, E>,
) -> Result<Vec<Expression>, E> {
    attributes_in(list)?
        .iter()
        .map(|element| {
            let parts = attributes_in(&value(element))?;
            let name = value_of(&parts, attribute::NAME).unwrap_or_default();
            let data = value_of(&parts, attribute::DATA).unwrap_or_default();
            let attributes = Attributes(attributes_in(&data)?);
            let name = String::from_utf8_lossy(&name);
            let name = name.trim_end_matches('\0');
            if name == "lookup" {
                return attributes.lookup(&mut elements);
            }
            let is_undecided = UNDECIDED.contains(&name);
            Ok(attributes.expression(name).unwrap_or(if is_undecided {
                Expression::Unclear
            } else {
                Expression::Unknown
            }))
        })
        .collect()
}

/// How many elements are in a message about them, and which; none where it has one for all others,
/// or ranges of several values in one.
pub(super) fn elements_in(list: &[u8]) -> io::Result<(usize, Option<Vec<Element>>)> {
    let elements = attributes_in(list)?;
    let count = elements.len();
    let elements = elements.iter().map(|element| {
        let element = Attributes(attributes_in(&value(element))?);
        let flags = element.number(attribute::ELEMENT_FLAGS).unwrap_or(0);
        let key = element.data(attribute::ELEMENT_KEY);
        let has_key_end = value_of(&element.0, attribute::ELEMENT_KEY_END).is_some();
        let data = element.nested(attribute::ELEMENT_DATA);
        let verdict = data.and_then(|data| data.nested(attribute::DATA_VERDICT));
        let element = key.map(|key| Element {
            key,
            is_end: flags & FLAG_END != 0,
            verdict: verdict.and_then(|verdict| verdict.verdict()),
        });
        Ok(element.filter(|_| flags & FLAG_ALL_OTHERS == 0 && !has_key_end))
    });
    let elements: io::Result<Option<Vec<Element>>> = elements.collect();
    Ok((count, elements?))
}

/// The bytes of the attribute of this number.
pub(super) fn value_of(attributes: &[DefaultNla], kind: u16) -> Option<Vec<u8>> {
    let mut attributes = attributes.iter();
    let found = attributes.find(|attribute| attribute.kind() & NLA_TYPE_MASK == kind);
    found.map(value)
}

/// The attributes of one expression.
struct Attributes(Vec<DefaultNla>);

impl Attributes {
    /// None where it is not understood.
    fn expression(&self, name: &str) -> Option<Expression> {
        match name {
            "meta" => match self.number(attribute::DESTINATION) {
                Some(register) => Some(Expression::Load(register, self.meta()?)),
                None => Some(Expression::Sets(self.meta()?)),
            },
            "ct" => match self.number(attribute::DESTINATION) {
                Some(register) => Some(Expression::Load(register, self.connection()?)),
                None => Some(Expression::Sets(self.connection()?)),
            },
            "payload" => {
                let register = self.number(attribute::DESTINATION)?;
                Some(Expression::Load(register, self.payload()?))
            }
            "immediate" => self.immediate(),
            "cmp" => Some(Expression::Compare(
                self.number(attribute::SOURCE)?,
                comparison(self.number(attribute::OPERATOR)?)?,
                self.data(attribute::COMPARE_DATA)?,
            )),
            "range" => Some(Expression::Range {
                register: self.number(attribute::SOURCE)?,
                is_inverted: self.number(attribute::OPERATOR)? != 0,
                from: self.data(attribute::RANGE_FROM)?,
                to: self.data(attribute::RANGE_TO)?,
            }),
            "bitwise" => self.bitwise(),
            "match" => self.match_of_iptables(),
            "target" => Some(self.target()),
            "reject" => Some(Expression::Verdict(Verdict::Drop)),
            "masq" | "nat" | "redir" => Some(Expression::Verdict(Verdict::Accept)),
            "queue" | "fwd" | "dup" | "tproxy" | "synproxy" => {
                Some(Expression::Verdict(Verdict::Elsewhere))
            }
            "counter" | "log" | "last" => Some(Expression::Nothing),
            "notrack" => Some(Expression::Sets(Property::ConnectionState)),
            "objref" => self.object(),
            _ => None,
        }
    }

    /// `NFT_OBJECT_*`. None for one that answers for the packet's receiver, and for what a map
    /// names.
    fn object(&self) -> Option<Expression> {
        Some(match self.number(attribute::OBJECT_KIND)? {
            // Counter, helper, tunnel, timeout, secmark, expectation.
            1 | 3 | 6..=9 => Expression::Nothing,
            // Quota, limit, limit of connections.
            2 | 4 | 5 => Expression::Unclear,
            _ => return None,
        })
    }

    /// `NFT_META_*`.
    fn meta(&self) -> Option<Property> {
        Some(match self.number(attribute::KEY)? {
            1 => Property::EtherType,
            3 => Property::Mark,
            6 => Property::IncomingLink,
            7 => Property::OutgoingLink,
            15 => Property::Version,
            16 => Property::Protocol,
            _ => Property::Other,
        })
    }

    /// `NFT_CT_*`.
    fn connection(&self) -> Option<Property> {
        Some(match self.number(attribute::KEY)? {
            0 => Property::ConnectionState,
            2 => Property::ConnectionStatus,
            3 => Property::Mark,
            _ => Property::Other,
        })
    }

    /// `NFT_PAYLOAD_*_HEADER`.
    fn payload(&self) -> Option<Property> {
        let size = |kind| usize::try_from(self.number(kind)?).ok();
        let offset = size(attribute::PAYLOAD_OFFSET)?;
        let length = size(attribute::PAYLOAD_LENGTH)?;
        Some(match self.number(attribute::PAYLOAD_BASE)? {
            1 => Property::NetworkHeader(offset, length),
            2 => Property::TransportHeader(offset, length),
            _ => Property::Other,
        })
    }

    fn immediate(&self) -> Option<Expression> {
        let data = self.nested(attribute::IMMEDIATE_DATA)?;
        let Some(verdict) = data.nested(attribute::DATA_VERDICT) else {
            let register = self.number(attribute::DESTINATION)?;
            return Some(Expression::Load(register, Property::Other));
        };
        let verdict = verdict.verdict();
        Some(verdict.map_or(Expression::Nothing, Expression::Verdict))
    }

    /// None for one that only goes on.
    fn verdict(&self) -> Option<Verdict> {
        let chain = || {
            let bytes = value_of(&self.0, attribute::VERDICT_CHAIN).unwrap_or_default();
            let name = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
            String::from_utf8_lossy(name).into_owned()
        };
        let code = self.number(attribute::VERDICT_CODE).map(u32::cast_signed);
        // `NF_*` and `NFT_*`: the latter are negative.
        Some(match code {
            Some(-1) => return None,
            Some(0) => Verdict::Drop,
            Some(1) => Verdict::Accept,
            Some(-3) => Verdict::Jump(chain()),
            Some(-4) => Verdict::Goto(chain()),
            Some(-5) => Verdict::Return,
            Some(_) | None => Verdict::Elsewhere,
        })
    }

    fn lookup<E>(
        &self,
        elements: &mut impl FnMut(&str) -> Result<Option<Vec<Element>>, E>,
    ) -> Result<Expression, E> {
        let decides = match self.number(attribute::LOOKUP_DESTINATION) {
            None => false,
            Some(REGISTER_VERDICT) => true,
            // A value, for a register that then is not known.
            Some(_) => return Ok(Expression::Unclear),
        };
        let unknown = if decides {
            Expression::Verdict(Verdict::Elsewhere)
        } else {
            Expression::Unclear
        };
        let set = value_of(&self.0, attribute::LOOKUP_SET).unwrap_or_default();
        let set = String::from_utf8_lossy(&set);
        let register = self.number(attribute::LOOKUP_SOURCE);
        let (Some(elements), Some(register)) = (elements(set.trim_end_matches('\0'))?, register)
        else {
            return Ok(unknown);
        };
        Ok(Expression::Lookup {
            register,
            is_inverted: self.number(attribute::LOOKUP_FLAGS).unwrap_or(0) != 0,
            elements,
        })
    }

    /// `NFT_BITWISE_BOOL` (or none): the other operators shift, or take a second register.
    fn bitwise(&self) -> Option<Expression> {
        if self.number(attribute::BITWISE_OPERATOR).unwrap_or(0) != 0 {
            return None;
        }
        Some(Expression::Bitwise {
            from: self.number(attribute::SOURCE)?,
            to: self.number(attribute::BITWISE_DESTINATION)?,
            mask: self.data(attribute::BITWISE_MASK)?,
            flips: self.data(attribute::BITWISE_FLIPS)?,
        })
    }

    fn match_of_iptables(&self) -> Option<Expression> {
        let name = self.name()?;
        // Earlier ones have another layout.
        let revision = self.number(attribute::MATCH_REVISION)?;
        if name == "conntrack" && revision < 2 || name == "mark" && revision < 1 {
            return None;
        }
        let data = value_of(&self.0, attribute::MATCH_DATA)?;
        Some(Expression::Match(name, data))
    }

    /// What iptables does by a module of its own.
    fn target(&self) -> Expression {
        match self.name().unwrap_or_default().as_str() {
            "REJECT" => Expression::Verdict(Verdict::Drop),
            "LOG" | "NFLOG" | "TCPMSS" | "TRACE" | "CLASSIFY" | "DSCP" | "TOS" => {
                Expression::Nothing
            }
            "MARK" | "CONNMARK" => Expression::Sets(Property::Mark),
            "CT" | "NOTRACK" => Expression::Sets(Property::ConnectionState),
            _ => Expression::Unknown,
        }
    }

    fn name(&self) -> Option<String> {
        let name = value_of(&self.0, attribute::NAME)?;
        let name = String::from_utf8_lossy(&name);
        Some(name.trim_end_matches('\0').to_owned())
    }

    fn number(&self, kind: u16) -> Option<u32> {
        let bytes = value_of(&self.0, kind)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    }

    fn nested(&self, kind: u16) -> Option<Self> {
        attributes_in(&value_of(&self.0, kind)?).ok().map(Self)
    }

    fn data(&self, kind: u16) -> Option<Vec<u8>> {
        value_of(&self.nested(kind)?.0, attribute::DATA_VALUE)
    }
}

/// `NFT_CMP_*`.
fn comparison(number: u32) -> Option<Comparison> {
    let ordered = |less, or_equal| Comparison::Ordered { less, or_equal };
    Some(match number {
        0 => Comparison::Equal,
        1 => Comparison::NotEqual,
        2 => ordered(true, false),
        3 => ordered(true, true),
        4 => ordered(false, false),
        5 => ordered(false, true),
        _ => return None,
    })
}
