//! The packet filters of others, as far as packets of the mesh can come to them.

mod expression;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io;

use netlink_packet_netfilter::NetfilterProtoFamily;
use netlink_packet_netfilter::nftables::{
    ChainMessage, NfTablesMessage, RuleAttribute, RuleMessage, SetElementList, SetElementMessage,
    TableMessage,
};
use podwire_core::packet_filter::{
    Chain, ChainName, Element, Expression, Hook, Ruleset, TableFamily, TooMuch, Verdict,
};
use rtnetlink::packet_core::DefaultNla;
use rustix::io::Errno;

use super::guard::{GUARD, STANDBY};
use super::nftables::{Dumped, Nftables, attributes_in};

/// Attribute numbers of `linux/netfilter/nf_tables.h`.
mod attribute {
    pub(super) const CHAIN_TABLE: u16 = 1;
    pub(super) const CHAIN_NAME: u16 = 3;
    pub(super) const CHAIN_HOOK: u16 = 4;
    pub(super) const CHAIN_POLICY: u16 = 5;
    pub(super) const CHAIN_TYPE: u16 = 7;
    pub(super) const HOOK_NUMBER: u16 = 1;
    pub(super) const HOOK_PRIORITY: u16 = 2;
    pub(super) const RULE_EXPRESSIONS: u16 = 4;
    pub(super) const SET_ELEMENTS: u16 = 3;
    pub(super) const TABLE_NAME: u16 = 1;
    pub(super) const TABLE_FLAGS: u16 = 2;
}

/// `NF_IP_PRI_CONNTRACK`.
const PRIORITY_TRACKING: i32 = -200;

/// `NFT_TABLE_F_DORMANT`.
const TABLE_DORMANT: u32 = 1;

/// Most chains whose names are read: the kernel names all or none, and kube-proxy makes some four
/// for each port of a Service. So many took 0.1 s when that was measured, and 50,000 took 0.8 s, as
/// the kernel counts from the first chain on for each of its messages.
const CHAINS_MAX: usize = 20_000;

/// Most rules that are read: a packet comes to some hundred at most, in filters.
const RULES_MAX: usize = 5_000;

/// Most sets that are read, each by a question of its own: one in every fifth rule.
const SETS_MAX: usize = 1_000;

/// Most elements of sets that are read: somebody's list of a country's addresses is not.
const ELEMENTS_MAX: usize = 10_000;

/// How nft(8) calls sets that stand in a rule. Others have names, and any number of elements.
const SETS_IN_RULES: [&str; 2] = ["__set", "__map"];

/// The number that every change of any table raises.
///
/// # Errors
///
/// The kernel's.
pub(super) fn generation() -> io::Result<u32> {
    Nftables::open()?.generation()
}

/// Reads the chains of others to which what passes this node, comes to it or leaves it comes by
/// itself, and those to which they lead. All of it or nothing: of a part, nothing could be said.
///
/// # Errors
///
/// The kernel's; and [`Errno::AGAIN`] where something changes meanwhile.
pub(super) fn read() -> io::Result<Result<Ruleset, TooMuch>> {
    let mut reader = Reader {
        nftables: Nftables::open()?,
        rules: Bound::new("rules", RULES_MAX),
        sets: Bound::new("sets", SETS_MAX),
        elements: Bound::new("elements of sets", ELEMENTS_MAX),
    };
    let before = reader.nftables.generation()?;
    match reader.read() {
        Ok(_) if reader.nftables.generation()? != before => Err(Errno::AGAIN.into()),
        Ok(ruleset) => Ok(Ok(ruleset)),
        Err(Stop::TooMuch(too_much)) => Ok(Err(too_much)),
        Err(Stop::Kernel(error)) => Err(error),
    }
}

/// Why reading ends before all is read.
enum Stop {
    Kernel(io::Error),
    TooMuch(TooMuch),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Kernel(error)
    }
}

/// How many of a thing are read.
struct Bound {
    what: &'static str,
    limit: usize,
    left: usize,
}

impl Bound {
    const fn new(what: &'static str, limit: usize) -> Self {
        Self {
            what,
            limit,
            left: limit,
        }
    }

    fn too_much(&self) -> Stop {
        let Self { what, limit, .. } = *self;
        Stop::TooMuch(TooMuch { what, limit })
    }

    fn spend(&mut self, count: usize) -> Result<(), Stop> {
        self.left = self
            .left
            .checked_sub(count)
            .ok_or_else(|| self.too_much())?;
        Ok(())
    }
}

struct Reader {
    nftables: Nftables,
    rules: Bound,
    sets: Bound,
    elements: Bound,
}

impl Reader {
    fn read(&mut self) -> Result<Ruleset, Stop> {
        let mut to_read = self.base_chains()?;
        let mut ruleset = Ruleset::new();
        while let Some((name, mut chain)) = to_read.pop() {
            if ruleset.contains_key(&name) {
                continue;
            }
            chain.rules = self.rules(&name)?;
            let targets = targets(&name, &chain).into_iter();
            to_read.extend(targets.map(|target| (target, Chain::default())));
            ruleset.insert(name, chain);
        }
        Ok(ruleset)
    }

    /// The chains to which packets come by themselves, without their rules.
    fn base_chains(&mut self) -> Result<Vec<(ChainName, Chain)>, Stop> {
        let dormant = self.dormant_tables()?;
        let all = NfTablesMessage::GetChain(ChainMessage {
            attributes: Vec::new(),
        });
        let bound = Bound::new("chains", CHAINS_MAX);
        let unspecified = NetfilterProtoFamily::Unspec;
        let chains = self
            .nftables
            .dump_bounded(unspecified, &all, bound.left, |dumped| {
                Ok((1, base_chain(&dumped)))
            })?;
        let mut chains = chains.ok_or_else(|| bound.too_much())?;
        chains.retain(|(name, _)| !dormant.contains(&(name.family, name.table.clone())));
        Ok(chains)
    }

    /// Tables that are switched off.
    fn dormant_tables(&mut self) -> Result<BTreeSet<(TableFamily, String)>, Stop> {
        let all = NfTablesMessage::GetTable(TableMessage {
            attributes: Vec::new(),
        });
        let bound = Bound::new("tables", CHAINS_MAX);
        let dormant = |dumped: &Dumped| {
            let flags = dumped.value(attribute::TABLE_FLAGS)?;
            let flags = u32::from_be_bytes(flags.try_into().ok()?);
            let name = text(dumped, attribute::TABLE_NAME)?;
            let family = family(dumped).filter(|_| flags & TABLE_DORMANT != 0)?;
            Some((family, name))
        };
        let unspecified = NetfilterProtoFamily::Unspec;
        let tables = self
            .nftables
            .dump_bounded(unspecified, &all, bound.left, |dumped| {
                Ok((1, dormant(&dumped)))
            })?;
        Ok(tables
            .ok_or_else(|| bound.too_much())?
            .into_iter()
            .collect())
    }

    fn rules(&mut self, name: &ChainName) -> Result<Vec<Vec<Expression>>, Stop> {
        let attributes = vec![
            RuleAttribute::Table(name.table.clone()),
            RuleAttribute::Chain(name.chain.clone()),
        ];
        let query = NfTablesMessage::GetRule(RuleMessage { attributes });
        let family = number(name.family);
        let lists = self
            .nftables
            .dump_bounded(family, &query, self.rules.left, |rule| {
                let list = rule.value(attribute::RULE_EXPRESSIONS);
                Ok((1, Some(list.unwrap_or_default())))
            })?;
        let lists = lists.ok_or_else(|| self.rules.too_much())?;
        // An empty chain takes a question, too.
        self.rules.spend(lists.len().max(1))?;
        lists
            .iter()
            .map(|list| expression::expressions(list, |set| self.elements(name, set)))
            .collect()
    }

    /// What is in a set that stands in a rule.
    fn elements(&mut self, of: &ChainName, set: &str) -> Result<Option<Vec<Element>>, Stop> {
        if !SETS_IN_RULES.iter().any(|start| set.starts_with(start)) {
            return Ok(None);
        }
        self.sets.spend(1)?;
        let attributes = vec![
            SetElementList::Table(of.table.clone()),
            SetElementList::Set(set.to_owned()),
        ];
        let query = NfTablesMessage::GetSetElement(SetElementMessage { attributes });
        let family = number(of.family);
        let parts = self
            .nftables
            .dump_bounded(family, &query, self.elements.left, |message| {
                let list = message.value(attribute::SET_ELEMENTS).unwrap_or_default();
                let (count, elements) = expression::elements_in(&list)?;
                Ok((count, Some((count, elements))))
            })?;
        let parts = parts.ok_or_else(|| self.elements.too_much())?;
        self.elements
            .spend(parts.iter().map(|(count, _)| count).sum())?;
        let all: Option<Vec<Vec<Element>>> = parts.into_iter().map(|(_, it)| it).collect();
        Ok(all.map(|all| all.into_iter().flatten().collect()))
    }
}

/// The chains to which a chain leads.
fn targets(name: &ChainName, chain: &Chain) -> Vec<ChainName> {
    let expressions = chain.rules.iter().flatten();
    let verdicts = expressions.flat_map(|expression| match expression {
        Expression::Verdict(verdict) => vec![verdict],
        Expression::Lookup { elements, .. } => {
            let verdicts = elements.iter().filter_map(|it| it.verdict.as_ref());
            verdicts.collect()
        }
        _ => Vec::new(),
    });
    let names = verdicts.filter_map(|verdict| match verdict {
        Verdict::Jump(chain) | Verdict::Goto(chain) => Some(ChainName {
            chain: chain.clone(),
            ..name.clone()
        }),
        _ => None,
    });
    names.collect()
}

/// A chain of somebody else to which IP packets come by themselves and that may drop them, without
/// its rules.
fn base_chain(dumped: &Dumped) -> Option<(ChainName, Chain)> {
    let nested = dumped.value(attribute::CHAIN_HOOK)?;
    let name = ChainName {
        family: family(dumped)?,
        table: text(dumped, attribute::CHAIN_TABLE)?,
        chain: text(dumped, attribute::CHAIN_NAME)?,
    };
    let is_ours = [GUARD, STANDBY]
        .map(|ours| ours.name)
        .contains(&name.table.as_str());
    if name.family == TableFamily::Inet && is_ours {
        return None;
    }
    // Chains that translate addresses are not read: most of kube-proxy's rules are theirs, and
    // iptables refuses to drop there.
    text(dumped, attribute::CHAIN_TYPE).filter(|kind| kind == "filter" || kind == "route")?;
    let policy = dumped.value(attribute::CHAIN_POLICY);
    let nested = attributes_in(&nested).ok()?;
    let chain = Chain {
        hook: Some(hook(&nested)?),
        is_before_tracking: priority(&nested)? <= PRIORITY_TRACKING,
        drops_by_policy: policy.is_some_and(|policy| policy == 0_u32.to_be_bytes()),
        rules: Vec::new(),
    };
    Some((name, chain))
}

const fn family(dumped: &Dumped) -> Option<TableFamily> {
    match dumped.family {
        NetfilterProtoFamily::Inet => Some(TableFamily::Inet),
        NetfilterProtoFamily::IPv4 => Some(TableFamily::Ip),
        NetfilterProtoFamily::IPv6 => Some(TableFamily::Ip6),
        _ => None,
    }
}

const fn number(family: TableFamily) -> NetfilterProtoFamily {
    match family {
        TableFamily::Inet => NetfilterProtoFamily::Inet,
        TableFamily::Ip => NetfilterProtoFamily::IPv4,
        TableFamily::Ip6 => NetfilterProtoFamily::IPv6,
    }
}

/// `NF_INET_*` (`linux/netfilter.h`).
fn hook(nested: &[DefaultNla]) -> Option<Hook> {
    let number = expression::value_of(nested, attribute::HOOK_NUMBER)?;
    match u32::from_be_bytes(number.try_into().ok()?) {
        0 => Some(Hook::Prerouting),
        1 => Some(Hook::Input),
        2 => Some(Hook::Forward),
        3 => Some(Hook::Output),
        4 => Some(Hook::Postrouting),
        _ => None,
    }
}

fn priority(nested: &[DefaultNla]) -> Option<i32> {
    let priority = expression::value_of(nested, attribute::HOOK_PRIORITY)?;
    Some(i32::from_be_bytes(priority.try_into().ok()?))
}

fn text(dumped: &Dumped, kind: u16) -> Option<String> {
    let bytes = dumped.value(kind)?;
    let text = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    Some(String::from_utf8_lossy(text).into_owned())
}
