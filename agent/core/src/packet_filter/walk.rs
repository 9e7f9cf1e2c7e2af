//! Sends a sample packet through the rules.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Chain, ChainName, Comparison, Dropped, Element, Expression, Hook, Property, Ruleset, Sample,
    Verdict, iptables,
};

/// Chains that lead to each other are followed so deep (the kernel's `NFT_JUMP_STACK_SIZE`).
const DEPTH_MAX: usize = 16;

/// Bits by which connection tracking's state is told (`NF_CT_STATE_BIT`): here, a new one.
const STATE_NEW: u32 = 8;

/// What rules set and others ask for.
const SETTABLE: [Property; 2] = [Property::Mark, Property::ConnectionState];

/// kube-proxy's chain that accepts by a mark of its own, which it sets on what goes through a
/// Service: no sample does. Any other mark may be set where nothing is read (chains that translate,
/// eBPF), so that it is not known.
const KUBE_PROXY: &str = "KUBE-FORWARD";

/// Every chain that drops this packet, whatever is not understood.
#[must_use]
pub fn dropping(ruleset: &Ruleset, sample: &Sample) -> Vec<Dropped> {
    let is_ipv6 = sample.source.is_ipv6();
    let met: Vec<(&ChainName, &Chain, Hook)> = ruleset
        .iter()
        .filter(|(name, _)| name.family.takes(is_ipv6))
        .filter_map(|(name, chain)| Some((name, chain, chain.hook?)))
        .filter(|(_, _, hook)| sample.hooks.contains(hook))
        .collect();
    // With less that is known, it may come to more rules, and each may set something.
    let anything = BTreeSet::from(SETTABLE);
    let walks = met.iter().map(|(name, chain, hook)| {
        let base = (*hook, chain.is_before_tracking);
        let mut walk = Walk::new(ruleset, sample, base, &anything);
        walk.chain(name, DEPTH_MAX);
        walk.sets
    });
    let set: BTreeSet<Property> = walks.flatten().collect();
    met.into_iter()
        .filter_map(|(name, chain, hook)| {
            let base = (hook, chain.is_before_tracking);
            let outcome = Walk::new(ruleset, sample, base, &set).chain(name, DEPTH_MAX);
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
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    Accepted,
    Dropped(String, usize),
    End,
}

#[derive(Clone)]
struct Outcome {
    fate: Fate,
    /// Whether what is not understood may have let it pass before.
    may_pass: bool,
}

struct Walk<'a> {
    ruleset: &'a Ruleset,
    sample: &'a Sample,
    hook: Hook,
    is_before_tracking: bool,
    /// What rules may have set before: not known, then.
    set: &'a BTreeSet<Property>,
    /// What rules on this way may set.
    sets: BTreeSet<Property>,
    /// Of chains that it came to: many rules may lead to the same one, and so on from there.
    known: BTreeMap<ChainName, Outcome>,
}

impl<'a> Walk<'a> {
    const fn new(
        ruleset: &'a Ruleset,
        sample: &'a Sample,
        (hook, is_before_tracking): (Hook, bool),
        set: &'a BTreeSet<Property>,
    ) -> Self {
        Self {
            ruleset,
            sample,
            hook,
            is_before_tracking,
            set,
            sets: BTreeSet::new(),
            known: BTreeMap::new(),
        }
    }

    fn chain(&mut self, name: &ChainName, depth: usize) -> Outcome {
        if let Some(known) = self.known.get(name) {
            return known.clone();
        }
        let unclear = Outcome {
            fate: Fate::End,
            may_pass: true,
        };
        let Some(chain) = self.ruleset.get(name).filter(|_| depth > 0) else {
            self.may_set_anything();
            return unclear;
        };
        // For a chain that leads back to itself, which the kernel refuses.
        self.known.insert(name.clone(), unclear);
        let outcome = self.through(name, chain, depth);
        self.known.insert(name.clone(), outcome.clone());
        outcome
    }

    fn through(&mut self, name: &ChainName, chain: &'a Chain, depth: usize) -> Outcome {
        let end = |fate, may_pass| Outcome { fate, may_pass };
        let mut may_pass = false;
        for (number, rule) in (1..).zip(&chain.rules) {
            let Some((is_certain, verdict)) = self.rule(&name.chain, rule) else {
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
                Verdict::Elsewhere => {
                    self.may_set_anything();
                    may_pass = true;
                    continue;
                }
                Verdict::Accept | Verdict::Return => {
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
    fn rule<'r>(&mut self, chain: &str, rule: &'r [Expression]) -> Option<(bool, &'r Verdict)> {
        let mut registers = Registers::new();
        let (mut is_certain, mut verdict) = (true, None);
        for expression in rule {
            let goes_on = match expression {
                Expression::Load(register, property) => {
                    put(&mut registers, *register, self.property(*property, chain));
                    Some(true)
                }
                Expression::Bitwise {
                    from,
                    to,
                    mask,
                    flips,
                } => {
                    let value = registers.get(from);
                    let value = value.map(|value| bitwise(value, mask, flips));
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
                } => registers
                    .get(register)
                    .and_then(|value| Some(is_within(value, from, to)? != *is_inverted)),
                Expression::Lookup {
                    register,
                    is_inverted,
                    elements,
                } => registers.get(register).and_then(|value| {
                    let found = element(value, elements)?;
                    if let Some(decided) = found.and_then(|found| found.verdict.as_ref()) {
                        verdict = Some(decided);
                    }
                    Some(found.is_some() != *is_inverted)
                }),
                Expression::Match(name, data) => {
                    let (mark, state) = (self.mark(chain), self.connection_state());
                    iptables::goes_on(name, data, mark, state)
                }
                Expression::Verdict(decided) => {
                    verdict = Some(decided);
                    Some(true)
                }
                Expression::Nothing => Some(true),
                Expression::Sets(property) => {
                    self.may_set(*property);
                    Some(true)
                }
                Expression::Unclear => {
                    registers.clear();
                    None
                }
                Expression::Unknown => return Some((false, &Verdict::Elsewhere)),
            };
            match goes_on {
                Some(true) => {}
                Some(false) => return None,
                None => is_certain = false,
            }
        }
        verdict.map(|verdict| (is_certain, verdict))
    }

    /// What connection tracking knows, no rule changes after it.
    fn may_set(&mut self, property: Property) {
        if property != Property::ConnectionState || self.is_before_tracking {
            self.sets.insert(property);
        }
    }

    fn may_set_anything(&mut self) {
        for property in SETTABLE {
            self.may_set(property);
        }
    }

    fn mark(&self, chain: &str) -> Option<u32> {
        (chain == KUBE_PROXY && !self.set.contains(&Property::Mark)).then_some(0)
    }

    fn connection_state(&self) -> Option<u32> {
        (!self.set.contains(&Property::ConnectionState)).then_some(STATE_NEW)
    }

    /// None where it is not known.
    fn property(&self, property: Property, chain: &str) -> Option<Vec<u8>> {
        let sample = self.sample;
        let is_ipv6 = sample.source.is_ipv6();
        match property {
            // Of one that there is not, some kernels show an empty name, others none.
            Property::IncomingLink => sample.incoming.as_deref().map(link_name),
            Property::OutgoingLink => match self.hook {
                Hook::Prerouting => None,
                Hook::Input | Hook::Forward | Hook::Output | Hook::Postrouting => {
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
            Property::Mark => self.mark(chain).map(|mark| mark.to_ne_bytes().to_vec()),
            Property::ConnectionStatus => Some(vec![0; 4]),
            Property::ConnectionState => {
                let state = self.connection_state();
                state.map(|state| state.to_ne_bytes().to_vec())
            }
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

fn is_within(value: &[u8], from: &[u8], to: &[u8]) -> Option<bool> {
    let value = value.get(..from.len())?;
    Some(from <= value && value <= to)
}

fn bitwise(value: &[u8], mask: &[u8], flips: &[u8]) -> Vec<u8> {
    let bytes = value.iter().zip(mask.iter().zip(flips));
    bytes
        .map(|(byte, (mask, flip))| (byte & mask) ^ flip)
        .collect()
}

/// The element that has a value: a range goes from a key to the next one. None where that is not
/// known: a key of several values, of which the register has the first only.
fn element<'e>(value: &[u8], elements: &'e [Element]) -> Option<Option<&'e Element>> {
    let has_ranges = elements.iter().any(|element| element.is_end);
    let mut nearest: Option<&'e Element> = None;
    // Where one range ends, another may begin.
    let order = |element: &'e Element| (&element.key, !element.is_end);
    for element in elements {
        let value = value.get(..element.key.len())?;
        let is_candidate = if has_ranges {
            element.key.as_slice() <= value
        } else {
            element.key == value
        };
        if is_candidate && nearest.is_none_or(|nearest| order(nearest) <= order(element)) {
            nearest = Some(element);
        }
    }
    Some(nearest.filter(|element| !element.is_end))
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
