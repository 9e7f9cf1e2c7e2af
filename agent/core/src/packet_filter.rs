//! Whether a packet filter of somebody else (nftables, or iptables that is built on it) drops what
//! the mesh needs.
//!
//! A sample packet is sent through the rules as the kernel would send it. What of a rule is not
//! understood may match or not: only what is dropped either way is reported, so that nobody is sent
//! after a fault that is none.

mod iptables;
mod sample;

use std::collections::BTreeMap;
use std::fmt;

pub use self::sample::{Protocol, Sample};

/// A family of tables that IP packets pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TableFamily {
    /// Both versions.
    Inet,
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
}

impl TableFamily {
    /// Whether packets of that version pass it.
    #[must_use]
    pub const fn takes(self, is_ipv6: bool) -> bool {
        match self {
            Self::Inet => true,
            Self::Ip => !is_ipv6,
            Self::Ip6 => is_ipv6,
        }
    }

    /// As nft(8) calls it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
        }
    }
}

/// Which chain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChainName {
    /// Family of its table.
    pub family: TableFamily,
    /// Name of its table.
    pub table: String,
    /// Its own name.
    pub chain: String,
}

impl fmt::Display for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            family,
            table,
            chain,
        } = self;
        write!(f, "{} {table} {chain}", family.as_str())
    }
}

/// Where a packet meets chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// All that comes in, before it is routed.
    Prerouting,
    /// What is for this node.
    Input,
    /// What passes.
    Forward,
    /// What leaves, after it was routed.
    Postrouting,
}

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Where packets come to it by themselves; none for one that others lead to.
    pub hook: Option<Hook>,
    /// What becomes of a packet that comes to its end there.
    pub drops_by_policy: bool,
    /// Its rules, in order.
    pub rules: Vec<Vec<Expression>>,
}

/// The chains of others, as far as packets can come to them.
pub type Ruleset = BTreeMap<ChainName, Chain>;

/// A part of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// Puts something of the packet into a register.
    Load(u32, Property),
    /// Puts `register & mask ^ flips` into another.
    Bitwise {
        /// From here.
        from: u32,
        /// To there.
        to: u32,
        /// Bits that stay.
        mask: Vec<u8>,
        /// Bits that are flipped then.
        flips: Vec<u8>,
    },
    /// Goes on if a register compares so with a value, of which it has at least the length.
    Compare(u32, Comparison, Vec<u8>),
    /// Goes on if a register is within two values, or is not.
    Range {
        /// The register.
        register: u32,
        /// Whether it shall be outside.
        is_inverted: bool,
        /// The first value.
        from: Vec<u8>,
        /// The last one.
        to: Vec<u8>,
    },
    /// Goes on if a register is in a set, or is not; decides, where the set says so.
    Lookup {
        /// The register.
        register: u32,
        /// Whether it shall not be in it.
        is_inverted: bool,
        /// What is in it.
        elements: Vec<Element>,
    },
    /// Goes on if a match of iptables' own does: its name and its data.
    Match(String, Vec<u8>),
    /// Decides.
    Verdict(Verdict),
    /// Nothing for a packet: counts, logs, marks.
    Nothing,
    /// What is not understood: goes on or not, and has changed any register.
    Unknown,
}

/// A part of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// A value, or the first of several.
    pub key: Vec<u8>,
    /// Whether it is the first value after a range.
    pub is_end: bool,
    /// What is decided for it.
    pub verdict: Option<Verdict>,
}

/// Something of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Property {
    /// Name of the link that it came in by, padded with zeros.
    IncomingLink,
    /// Name of the link that it leaves by.
    OutgoingLink,
    /// Its version, as a number of nftables.
    Version,
    /// Its version, as on Ethernet.
    EtherType,
    /// What is in it, as in an IP header.
    Protocol,
    /// The mark that this node has set.
    Mark,
    /// What connection tracking knows: one bit of a word.
    ConnectionState,
    /// What else connection tracking knows: a word of flags.
    ConnectionStatus,
    /// Bytes of its IP header.
    NetworkHeader(usize, usize),
    /// Bytes of the header after it.
    TransportHeader(usize, usize),
    /// Anything else.
    Other,
}

/// How bytes compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// The same.
    Equal,
    /// Not the same.
    NotEqual,
    /// Before, or after, in the order of bytes, or the same.
    Ordered {
        /// Before.
        less: bool,
        /// Also the same.
        or_equal: bool,
    },
}

/// A decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Ends this chain and all that led to it.
    Accept,
    /// The packet's end: dropped, or refused with an answer.
    Drop,
    /// On with the chain that led here.
    Return,
    /// Another chain, and then on.
    Jump(String),
    /// Another chain, and then on where this one would have gone at its end.
    Goto(String),
    /// To a program, or what is not known.
    Elsewhere,
}

/// What drops a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dropped {
    /// The chain to which the packet came by itself: what is accepted at its start passes it.
    pub base: ChainName,
    /// The chain whose rule it is, and its number there, from 1; none where it is the policy.
    pub rule: Option<(String, usize)>,
}

/// Chains that lead to each other are followed so deep (the kernel's `NFT_JUMP_STACK_SIZE`).
const DEPTH_MAX: usize = 16;

/// Bits by which connection tracking's state is told (`NF_CT_STATE_BIT`): here, a new one.
const STATE_NEW: u32 = 8;

/// Every chain that drops this packet, whatever is not understood.
#[must_use]
pub fn dropping(ruleset: &Ruleset, sample: &Sample) -> Vec<Dropped> {
    let is_ipv6 = sample.source.is_ipv6();
    let met = ruleset.iter().filter(|(name, chain)| {
        name.family.takes(is_ipv6) && chain.hook.is_some_and(|hook| sample.hooks.contains(&hook))
    });
    met.filter_map(|(name, chain)| {
        let walk = Walk {
            ruleset,
            sample,
            hook: chain.hook?,
        };
        let outcome = walk.chain(name, DEPTH_MAX);
        let rule = match outcome.fate {
            Fate::Dropped(chain, number) => Some((chain, number)),
            Fate::End if chain.drops_by_policy => None,
            Fate::End | Fate::Accepted => return None,
        };
        (!outcome.may_pass).then(|| Dropped {
            base: name.clone(),
            rule,
        })
    })
    .collect()
}

/// Where a packet comes to in a chain.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Accepted,
    Dropped(String, usize),
    End,
}

struct Outcome {
    fate: Fate,
    /// Whether what is not understood may have let it pass before.
    may_pass: bool,
}

struct Walk<'a> {
    ruleset: &'a Ruleset,
    sample: &'a Sample,
    hook: Hook,
}

impl Walk<'_> {
    fn chain(&self, name: &ChainName, depth: usize) -> Outcome {
        let end = |fate, may_pass| Outcome { fate, may_pass };
        let Some(chain) = self.ruleset.get(name).filter(|_| depth > 0) else {
            return end(Fate::End, true);
        };
        let mut may_pass = false;
        for (number, rule) in (1..).zip(&chain.rules) {
            let Some((is_certain, verdict)) = self.rule(rule) else {
                continue;
            };
            let (target, is_goto) = match verdict {
                Verdict::Accept if is_certain => return end(Fate::Accepted, may_pass),
                Verdict::Drop if is_certain => {
                    return end(Fate::Dropped(name.chain.clone(), number), may_pass);
                }
                Verdict::Return if is_certain => return end(Fate::End, may_pass),
                // Whether or not it is dropped here, what comes next tells of the rest.
                Verdict::Drop => continue,
                Verdict::Accept | Verdict::Return | Verdict::Elsewhere => {
                    may_pass = true;
                    continue;
                }
                Verdict::Jump(target) => (target, false),
                Verdict::Goto(target) => (target, true),
            };
            let target = ChainName {
                chain: target.clone(),
                ..name.clone()
            };
            let there = self.chain(&target, depth - 1);
            may_pass |= there.may_pass;
            match there.fate {
                Fate::End if is_goto && is_certain => return end(Fate::End, may_pass),
                Fate::End => may_pass |= is_goto,
                fate if is_certain => return end(fate, may_pass),
                Fate::Accepted => may_pass = true,
                Fate::Dropped(..) => {}
            }
        }
        end(Fate::End, may_pass)
    }

    /// What a rule decides, and whether it surely does; none for one that surely does not, or
    /// decides nothing.
    fn rule<'r>(&self, rule: &'r [Expression]) -> Option<(bool, &'r Verdict)> {
        let mut registers = Registers::new();
        let (mut is_certain, mut verdict) = (true, None);
        for expression in rule {
            let goes_on = match expression {
                Expression::Load(register, property) => {
                    put(&mut registers, *register, self.property(*property));
                    Some(true)
                }
                Expression::Bitwise {
                    from,
                    to,
                    mask,
                    flips,
                } => {
                    let bits = mask.iter().zip(flips);
                    let value: Option<Vec<u8>> = registers.get(from).map(|value| {
                        let bytes = value.iter().zip(bits);
                        bytes
                            .map(|(byte, (mask, flip))| (byte & mask) ^ flip)
                            .collect()
                    });
                    put(&mut registers, *to, value);
                    Some(true)
                }
                Expression::Compare(register, comparison, operand) => registers
                    .get(register)
                    .and_then(|value| compare(value, *comparison, operand)),
                Expression::Range {
                    register,
                    is_inverted,
                    from,
                    to,
                } => registers.get(register).and_then(|value| {
                    let value = value.get(..from.len())?;
                    let is_within = from.as_slice() <= value && value <= to.as_slice();
                    Some(is_within != *is_inverted)
                }),
                Expression::Lookup {
                    register,
                    is_inverted,
                    elements,
                } => registers.get(register).map(|value| {
                    let found = element(value, elements);
                    if let Some(decided) = found.and_then(|found| found.verdict.as_ref()) {
                        verdict = Some(decided);
                    }
                    found.is_some() != *is_inverted
                }),
                Expression::Match(name, data) => iptables::goes_on(name, data),
                Expression::Verdict(decided) => {
                    verdict = Some(decided);
                    Some(true)
                }
                Expression::Nothing => Some(true),
                Expression::Unknown => {
                    registers.clear();
                    None
                }
            };
            match goes_on {
                Some(true) => {}
                Some(false) => return None,
                None => is_certain = false,
            }
        }
        verdict.map(|verdict| (is_certain, verdict))
    }

    fn property(&self, property: Property) -> Option<Vec<u8>> {
        let sample = self.sample;
        let is_ipv6 = sample.source.is_ipv6();
        match property {
            Property::IncomingLink => Some(link_name(&sample.incoming)),
            Property::OutgoingLink => match self.hook {
                Hook::Prerouting => None,
                Hook::Input | Hook::Forward | Hook::Postrouting => {
                    sample.outgoing.as_deref().map(link_name)
                }
            },
            // NFPROTO_IPV6 and NFPROTO_IPV4.
            Property::Version => Some(vec![if is_ipv6 { 10 } else { 2 }]),
            Property::EtherType => {
                let number: u16 = if is_ipv6 { 0x86dd } else { 0x0800 };
                Some(number.to_be_bytes().to_vec())
            }
            Property::Protocol => Some(vec![sample.protocol.number()]),
            Property::Mark | Property::ConnectionStatus => Some(vec![0; 4]),
            Property::ConnectionState => Some(STATE_NEW.to_ne_bytes().to_vec()),
            Property::NetworkHeader(offset, length) => {
                part(&sample.network_header(), offset, length)
            }
            Property::TransportHeader(offset, length) => {
                part(&sample.transport_header(), offset, length)
            }
            Property::Other => None,
        }
    }
}

/// What is known of the registers.
type Registers = BTreeMap<u32, Vec<u8>>;

fn put(registers: &mut Registers, register: u32, value: Option<Vec<u8>>) {
    match value {
        Some(value) => registers.insert(register, value),
        None => registers.remove(&register),
    };
}

/// The element that has a value: a range goes from a key to the next one.
fn element<'e>(value: &[u8], elements: &'e [Element]) -> Option<&'e Element> {
    let has_ranges = elements.iter().any(|element| element.is_end);
    let is_candidate = |element: &&Element| {
        let value = value.get(..element.key.len()).unwrap_or(value);
        if has_ranges {
            element.key.as_slice() <= value
        } else {
            element.key == value
        }
    };
    let candidates = elements.iter().filter(is_candidate);
    // Where one range ends, another may begin.
    let nearest = candidates.max_by_key(|element| (&element.key, !element.is_end));
    nearest.filter(|element| !element.is_end)
}

fn part(bytes: &[u8], offset: usize, length: usize) -> Option<Vec<u8>> {
    let end = offset.checked_add(length)?;
    bytes.get(offset..end).map(<[u8]>::to_vec)
}

fn compare(value: &[u8], comparison: Comparison, operand: &[u8]) -> Option<bool> {
    let value = value.get(..operand.len())?;
    Some(match comparison {
        Comparison::Equal => value == operand,
        Comparison::NotEqual => value != operand,
        Comparison::Ordered { less, or_equal } => {
            let is_before = if less {
                value < operand
            } else {
                value > operand
            };
            is_before || (or_equal && value == operand)
        }
    })
}

/// As the kernel keeps it (`IFNAMSIZ`).
fn link_name(name: &str) -> Vec<u8> {
    const LENGTH: usize = 16;
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(LENGTH, 0);
    bytes
}

#[cfg(test)]
mod tests;
