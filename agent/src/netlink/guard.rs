//! The guard table `inet podwire` (DESIGN.md section 7): installed, observed, counted, removed.
//!
//! While it is replaced `inet podwire_standby` guards.
//!
//! Whether the kernel still holds what was installed is told by comparison with a dump taken right
//! after the installation; what a rule looks like in a dump differs between kernels.

mod expression;
mod ruleset;
mod sets;
#[cfg(test)]
mod tests;

use std::io;

use netlink_packet_netfilter::nftables::{
    ChainMessage, NfTablesMessage, RuleAttribute, RuleMessage, SetAttribute, SetElementList,
    SetElementMessage, SetMessage,
};
use podwire_core::kernel::{Guard, GuardTable};
use rtnetlink::packet_core::DefaultNla;

use self::ruleset::{EGRESS_REFUSED, INGRESS_DROPPED, InForce, Table};
pub(super) use self::ruleset::{GUARD, STANDBY};
use super::nftables::{Dumped, Nftables, attributes_in, value};

/// Attribute numbers of `linux/netfilter/nf_tables.h`.
mod attribute {
    pub(super) const CHAIN_TABLE: u16 = 1;
    pub(super) const CHAIN_HANDLE: u16 = 2;
    pub(super) const CHAIN_USE: u16 = 6;
    pub(super) const CHAIN_COUNTERS: u16 = 8;
    pub(super) const TABLE_USE: u16 = 3;
    pub(super) const TABLE_HANDLE: u16 = 4;
    pub(super) const RULE_HANDLE: u16 = 3;
    pub(super) const RULE_POSITION: u16 = 6;
    pub(super) const SET_NAME: u16 = 2;
    pub(super) const SET_HANDLE: u16 = 16;
    pub(super) const SET_ELEMENTS: u16 = 3;
    pub(super) const OBJECT_TABLE: u16 = 1;
    pub(super) const OBJECT_NAME: u16 = 2;
    pub(super) const OBJECT_DATA: u16 = 4;
    pub(super) const OBJECT_USE: u16 = 5;
    pub(super) const OBJECT_HANDLE: u16 = 6;
    pub(super) const COUNTER_PACKETS: u16 = 2;
}

/// Packets that the guards stopped since the table was first installed, but for some that they
/// stopped while it was replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct GuardCounters {
    /// To the cluster's pod CIDRs, by a way that would have been plaintext.
    pub(crate) egress_refused: u64,
    /// From the cluster's pod CIDRs, by a link that they cannot come from.
    pub(crate) ingress_dropped: u64,
}

/// What was installed, and how the kernel shows it.
#[derive(Debug)]
pub(super) struct Installed {
    table: GuardTable,
    fingerprint: Fingerprint,
    /// The generation at which the kernel was last seen to hold it.
    generation: u32,
}

/// Everything in the table but handles, use counts and counter values.
type Fingerprint = Vec<Vec<u8>>;

/// Why a table is not installed, or not known to be.
#[derive(Debug)]
pub(super) enum InstallError {
    /// The kernel does not take it. What was in force before still is, or the standby.
    Refused(io::Error),
    /// Somebody takes it away again and again.
    Gone,
    /// It is in force, and was not seen, or not alone.
    Unread(io::Error),
}

/// Replaces the whole table; the counters go on from where they were.
pub(super) fn install(table: &GuardTable) -> Result<Installed, InstallError> {
    /// Somebody who flushes all tables may do so between two transactions, and more than once.
    const ATTEMPTS: usize = 5;
    for _ in 0..ATTEMPTS {
        match install_once(table) {
            Err(InstallError::Gone) => {}
            other => return other,
        }
    }
    Err(InstallError::Gone)
}

fn install_once(table: &GuardTable) -> Result<Installed, InstallError> {
    let mut nftables = replace(table)?;
    // At once: what others change until then would be vouched for.
    let (generation, dumped) =
        consistent(&mut nftables, fingerprint).map_err(InstallError::Unread)?;
    // While it stands alone the standby stays.
    let fingerprint = dumped.filter(has_rules).ok_or(InstallError::Gone)?;
    take_down(&mut nftables, STANDBY).map_err(InstallError::Unread)?;
    Ok(Installed {
        table: table.clone(),
        fingerprint,
        generation,
    })
}

fn replace(table: &GuardTable) -> Result<Nftables, InstallError> {
    let refused = InstallError::Refused;
    let mut nftables = Nftables::open().map_err(refused)?;
    let counted = read_counters(&mut nftables).map_err(refused)?;
    let in_force = in_force(&mut nftables).map_err(refused)?;
    if in_force == InForce::Guard {
        // Its sets must not change under its rules.
        take_down(&mut nftables, STANDBY).map_err(refused)?;
    }
    let steps = ruleset::replace(table, counted, in_force);
    match carry_out(&mut nftables, steps) {
        // The kernel has all that such a table takes, as one is in force.
        Err(error) if error.kind() == io::ErrorKind::NotFound && in_force != InForce::Nothing => {
            Err(InstallError::Gone)
        }
        Err(error) => Err(refused(error)),
        Ok(()) => Ok(nftables),
    }
}

/// All rules of a table come and go in one transaction.
fn in_force(nftables: &mut Nftables) -> io::Result<InForce> {
    let read = |nftables: &mut Nftables| {
        let mut has_rules = |place| io::Result::Ok(!nftables.dump(&rules_of(place))?.is_empty());
        Ok(if has_rules(GUARD)? {
            InForce::Guard
        } else if has_rules(STANDBY)? {
            InForce::Standby
        } else {
            InForce::Nothing
        })
    };
    consistent(nftables, read).map(|(_, in_force)| in_force)
}

/// Whether there was such a table.
fn take_down(nftables: &mut Nftables, place: Table) -> io::Result<bool> {
    let is_there = table(nftables, place)?.is_some();
    if is_there {
        carry_out(nftables, ruleset::remove(place))?;
    }
    Ok(is_there)
}

fn carry_out(
    nftables: &mut Nftables,
    transactions: impl IntoIterator<Item = Vec<NfTablesMessage>>,
) -> io::Result<()> {
    let mut transactions = transactions.into_iter();
    transactions.try_for_each(|messages| nftables.transaction(messages))
}

fn table(nftables: &mut Nftables, place: Table) -> io::Result<Option<Dumped>> {
    nftables.get(NfTablesMessage::GetTable(place.message()))
}

fn rules_of(place: Table) -> NfTablesMessage {
    let attributes = vec![RuleAttribute::Table(place.name.to_owned())];
    NfTablesMessage::GetRule(RuleMessage { attributes })
}

/// Compares what is in the kernel with what was installed. A table without rules is none.
pub(super) fn observe(installed: Option<&mut Installed>) -> io::Result<Guard> {
    let mut nftables = Nftables::open()?;
    if let Some(installed) = &installed
        && nftables.generation()? == installed.generation
    {
        return Ok(Guard::Installed(installed.table.clone()));
    }
    if in_force(&mut nftables)? == InForce::Nothing {
        return Ok(Guard::Missing);
    }
    let Some(installed) = installed else {
        return Ok(Guard::Altered);
    };
    let (generation, dumped) = consistent(&mut nftables, fingerprint)?;
    let is_alone = table(&mut nftables, STANDBY)?.is_none();
    Ok(
        if is_alone && dumped.as_ref() == Some(&installed.fingerprint) {
            installed.generation = generation;
            Guard::Installed(installed.table.clone())
        } else {
            Guard::Altered
        },
    )
}

/// What the guards have stopped; zero where there is no table.
pub(super) fn counters() -> io::Result<GuardCounters> {
    read_counters(&mut Nftables::open()?)
}

/// Removes the table and its standby; whether there was either.
pub(super) fn remove() -> io::Result<bool> {
    let mut nftables = Nftables::open()?;
    let guard = take_down(&mut nftables, GUARD)?;
    let standby = take_down(&mut nftables, STANDBY)?;
    Ok(guard || standby)
}

/// What is read while no table changes, and its generation.
fn consistent<T>(
    nftables: &mut Nftables,
    read: impl Fn(&mut Nftables) -> io::Result<T>,
) -> io::Result<(u32, T)> {
    /// Changes of other tables come in bursts, of some milliseconds between them.
    const ATTEMPTS: usize = 20;
    for _ in 0..ATTEMPTS {
        let before = nftables.generation()?;
        let read = match read(nftables) {
            // Removed between two of the dumps.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        if nftables.generation()? == before {
            return Ok((before, read));
        }
    }
    Err(io::ErrorKind::WouldBlock.into())
}

/// What a rule begins with in a fingerprint.
const RULE: &str = "rule";

fn has_rules(fingerprint: &Fingerprint) -> bool {
    fingerprint
        .iter()
        .any(|entry| entry.starts_with(RULE.as_bytes()))
}

fn fingerprint(nftables: &mut Nftables) -> io::Result<Option<Fingerprint>> {
    use attribute::{
        CHAIN_COUNTERS, CHAIN_HANDLE, CHAIN_TABLE, CHAIN_USE, OBJECT_DATA, OBJECT_HANDLE,
        OBJECT_TABLE, OBJECT_USE, RULE_HANDLE, RULE_POSITION, SET_HANDLE, SET_NAME, TABLE_HANDLE,
        TABLE_USE,
    };
    let Some(found) = table(nftables, GUARD)? else {
        return Ok(None);
    };
    let mut print = vec![stable("table", &found, &[TABLE_USE, TABLE_HANDLE])];

    let all = NfTablesMessage::GetChain(ChainMessage {
        attributes: Vec::new(),
    });
    for chain in nftables
        .dump(&all)?
        .iter()
        .filter(|chain| is_ours(chain, CHAIN_TABLE))
    {
        print.push(stable(
            "chain",
            chain,
            &[CHAIN_HANDLE, CHAIN_USE, CHAIN_COUNTERS],
        ));
    }
    for (position, rule) in nftables.dump(&rules_of(GUARD))?.iter().enumerate() {
        // The order of the rules counts, that of the dump of all else does not.
        let place = format!("{RULE} {position:4}");
        print.push(stable(&place, rule, &[RULE_HANDLE, RULE_POSITION]));
    }
    let objects = NfTablesMessage::GetObject(vec![text(OBJECT_TABLE, GUARD.name)]);
    for object in &nftables.dump(&objects)? {
        print.push(stable(
            "object",
            object,
            &[OBJECT_DATA, OBJECT_USE, OBJECT_HANDLE],
        ));
    }
    let attributes = vec![SetAttribute::Table(GUARD.name.to_owned())];
    let sets = NfTablesMessage::GetSet(SetMessage { attributes });
    for set in &nftables.dump(&sets)? {
        print.push(stable("set", set, &[SET_HANDLE]));
        let name = set.value(SET_NAME).ok_or(io::ErrorKind::InvalidData)?;
        elements(nftables, &name, &mut print)?;
    }
    print.sort_unstable();
    Ok(Some(print))
}

/// One entry for each element: how many come in one message is the kernel's affair.
fn elements(nftables: &mut Nftables, set: &[u8], print: &mut Fingerprint) -> io::Result<()> {
    let name = String::from_utf8_lossy(set)
        .trim_end_matches('\0')
        .to_owned();
    let attributes = vec![
        SetElementList::Table(GUARD.name.to_owned()),
        SetElementList::Set(name),
    ];
    let query = NfTablesMessage::GetSetElement(SetElementMessage { attributes });
    for message in &nftables.dump(&query)? {
        let list = message.value(attribute::SET_ELEMENTS).unwrap_or_default();
        for element in attributes_in(&list)? {
            print.push([b"element ", set, &value(&element)].concat());
        }
    }
    Ok(())
}

fn is_ours(dumped: &Dumped, table: u16) -> bool {
    dumped
        .value(table)
        .is_some_and(|name| name.strip_suffix(b"\0") == Some(GUARD.name.as_bytes()))
}

/// The object without the attributes that change by themselves.
fn stable(kind: &str, dumped: &Dumped, volatile: &[u16]) -> Vec<u8> {
    use rtnetlink::packet_core::{NLA_TYPE_MASK, Nla as _};
    let mut bytes = kind.as_bytes().to_vec();
    for attribute in &dumped.attributes {
        let number = attribute.kind() & NLA_TYPE_MASK;
        if !volatile.contains(&number) {
            bytes.extend(number.to_be_bytes());
            bytes.extend(value(attribute));
        }
    }
    bytes
}

fn text(kind: u16, text: &str) -> DefaultNla {
    DefaultNla::new(kind, [text.as_bytes(), b"\0"].concat())
}

fn read_counters(nftables: &mut Nftables) -> io::Result<GuardCounters> {
    let query = NfTablesMessage::GetObject(vec![text(attribute::OBJECT_TABLE, GUARD.name)]);
    let mut counters = GuardCounters::default();
    for object in nftables.dump(&query)? {
        let name = object.value(attribute::OBJECT_NAME).unwrap_or_default();
        let data = object.value(attribute::OBJECT_DATA).unwrap_or_default();
        let data = Dumped {
            family: object.family,
            attributes: attributes_in(&data)?,
        };
        let packets = data
            .value(attribute::COUNTER_PACKETS)
            .and_then(|be| be.try_into().ok());
        let packets = packets.map_or(0, u64::from_be_bytes);
        match name.strip_suffix(b"\0") {
            Some(name) if name == EGRESS_REFUSED.as_bytes() => counters.egress_refused = packets,
            Some(name) if name == INGRESS_DROPPED.as_bytes() => counters.ingress_dropped = packets,
            _ => {}
        }
    }
    Ok(counters)
}
