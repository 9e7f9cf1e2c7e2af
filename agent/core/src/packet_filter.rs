//! Whether a packet filter of somebody else (nftables, or iptables that is built on it) drops what
//! the mesh needs.
//!
//! A sample packet is sent through the rules as the kernel would send it. What of a rule is not
//! understood may match or not: only what is dropped either way is reported, so that nobody is sent
//! after a fault that is none.

mod iptables;
mod sample;
mod walk;

use std::collections::BTreeMap;
use std::fmt;

pub use self::sample::{Protocol, Sample};
pub use self::walk::dropping;

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
    /// What this node sends itself.
    Output,
    /// What leaves, after it was routed.
    Postrouting,
}

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Where packets come to it by themselves; none for one that others lead to.
    pub hook: Option<Hook>,
    /// Whether they come there before connection tracking has seen them.
    pub is_before_tracking: bool,
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
    /// Nothing for a packet: counts, logs.
    Nothing,
    /// Sets that of a packet, for all rules that it comes to from there on.
    Sets(Property),
    /// Goes on or not, and has changed any register: decides nothing.
    Unclear,
    /// What is not known at all: may decide anything.
    Unknown,
}

/// More is there than is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TooMuch {
    /// Of what.
    pub what: &'static str,
    /// So much is read.
    pub limit: usize,
}

impl fmt::Display for TooMuch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, limit } = self;
        write!(f, "more than {limit} {what}")
    }
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
    /// The mark of the packet or of its connection.
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

#[cfg(test)]
mod tests;
