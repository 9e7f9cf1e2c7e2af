//! The packet filters of others, as far as packets of the mesh can come to them.

mod expression;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io;

use netlink_packet_netfilter::NetfilterProtoFamily;
use netlink_packet_netfilter::nftables::{
    ChainMessage, NfTablesMessage, RuleAttribute, RuleMessage, SetElementList, SetElementMessage,
};
use podwire_core::packet_filter::{
    Chain, ChainName, Element, Expression, Hook, Ruleset, TableFamily, Verdict,
};

use super::guard::TABLE;
use super::nftables::{Dumped, Nftables, attributes_in};

/// Attribute numbers of `linux/netfilter/nf_tables.h`.
mod attribute {
    pub(super) const CHAIN_TABLE: u16 = 1;
    pub(super) const CHAIN_NAME: u16 = 3;
    pub(super) const CHAIN_HOOK: u16 = 4;
    pub(super) const CHAIN_POLICY: u16 = 5;
    pub(super) const CHAIN_TYPE: u16 = 7;
    pub(super) const HOOK_NUMBER: u16 = 1;
    pub(super) const RULE_EXPRESSIONS: u16 = 4;
    pub(super) const SET_ELEMENTS: u16 = 3;
}

/// Most rules that are read: a packet comes to some hundred at most, in filters. What lies beyond
/// is taken for what is not understood.
const RULES_MAX: usize = 5_000;

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

/// Reads the chains of others to which forwarded packets and those for this node come, and those
/// to which they lead.
///
/// # Errors
///
/// The kernel's.
pub(super) fn read() -> io::Result<Ruleset> {
    let mut nftables = Nftables::open()?;
    let all = NfTablesMessage::GetChain(ChainMessage {
        attributes: Vec::new(),
    });
    let dumped = nftables.dump_of(NetfilterProtoFamily::Unspec, &all)?;
    let chains = dumped.iter().filter_map(chain);
    let (based, others): (Vec<_>, Vec<_>) = chains.partition(|(_, chain)| chain.hook.is_some());
    let mut known: BTreeSet<ChainName> = others.into_iter().map(|(name, _)| name).collect();
    let mut to_read = based;
    let (mut ruleset, mut count) = (Ruleset::new(), 0);
    while let Some((name, mut chain)) = to_read.pop() {
        if count >= RULES_MAX {
            break;
        }
        chain.rules = rules(&mut nftables, &name)?;
        count += chain.rules.len();
        for target in targets(&name, &chain) {
            if let Some(target) = known.take(&target) {
                to_read.push((target, Chain::default()));
            }
        }
        ruleset.insert(name, chain);
    }
    Ok(ruleset)
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

/// A chain of somebody else that filters IP packets, without its rules.
fn chain(dumped: &Dumped) -> Option<(ChainName, Chain)> {
    let family = match dumped.family {
        NetfilterProtoFamily::Inet => TableFamily::Inet,
        NetfilterProtoFamily::IPv4 => TableFamily::Ip,
        NetfilterProtoFamily::IPv6 => TableFamily::Ip6,
        _ => return None,
    };
    let name = ChainName {
        family,
        table: text(dumped, attribute::CHAIN_TABLE)?,
        chain: text(dumped, attribute::CHAIN_NAME)?,
    };
    if family == TableFamily::Inet && name.table == TABLE {
        return None;
    }
    let mut chain = Chain::default();
    if let Some(hook) = dumped.value(attribute::CHAIN_HOOK) {
        // Chains that translate addresses see the first packet of a connection only, and drop none.
        let is_filter = text(dumped, attribute::CHAIN_TYPE).is_some_and(|kind| kind == "filter");
        chain.hook = Some(self::hook(&hook).filter(|_| is_filter)?);
        let policy = dumped.value(attribute::CHAIN_POLICY);
        chain.drops_by_policy = policy.is_some_and(|policy| policy == 0_u32.to_be_bytes());
    }
    Some((name, chain))
}

/// `NF_INET_*` (`linux/netfilter.h`).
fn hook(nested: &[u8]) -> Option<Hook> {
    let attributes = attributes_in(nested).ok()?;
    let number = expression::value_of(&attributes, attribute::HOOK_NUMBER)?;
    match u32::from_be_bytes(number.try_into().ok()?) {
        0 => Some(Hook::Prerouting),
        1 => Some(Hook::Input),
        2 => Some(Hook::Forward),
        4 => Some(Hook::Postrouting),
        _ => None,
    }
}

fn rules(nftables: &mut Nftables, name: &ChainName) -> io::Result<Vec<Vec<Expression>>> {
    let family = match name.family {
        TableFamily::Inet => NetfilterProtoFamily::Inet,
        TableFamily::Ip => NetfilterProtoFamily::IPv4,
        TableFamily::Ip6 => NetfilterProtoFamily::IPv6,
    };
    let attributes = vec![
        RuleAttribute::Table(name.table.clone()),
        RuleAttribute::Chain(name.chain.clone()),
    ];
    let query = NfTablesMessage::GetRule(RuleMessage { attributes });
    let dumped = nftables.dump_of(family, &query)?;
    let lists = dumped
        .iter()
        .map(|rule| rule.value(attribute::RULE_EXPRESSIONS).unwrap_or_default());
    lists
        .map(|list| {
            expression::expressions(&list, |set| elements(nftables, family, &name.table, set))
        })
        .collect()
}

/// What is in a set that stands in a rule.
fn elements(
    nftables: &mut Nftables,
    family: NetfilterProtoFamily,
    table: &str,
    set: &str,
) -> io::Result<Option<Vec<Element>>> {
    if !SETS_IN_RULES.iter().any(|start| set.starts_with(start)) {
        return Ok(None);
    }
    let attributes = vec![
        SetElementList::Table(table.to_owned()),
        SetElementList::Set(set.to_owned()),
    ];
    let query = NfTablesMessage::GetSetElement(SetElementMessage { attributes });
    let mut all = Vec::new();
    for message in nftables.dump_of(family, &query)? {
        let list = message.value(attribute::SET_ELEMENTS).unwrap_or_default();
        let Some(elements) = expression::elements_in(&list)? else {
            return Ok(None);
        };
        all.extend(elements);
    }
    Ok(Some(all))
}

fn text(dumped: &Dumped, kind: u16) -> Option<String> {
    let bytes = dumped.value(kind)?;
    let text = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    Some(String::from_utf8_lossy(text).into_owned())
}
