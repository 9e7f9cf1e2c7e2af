//! Sends a sample packet through the rules.

use std::collections::BTreeMap;

use super::{
    Chain, ChainName, Comparison, Dropped, Element, Expression, Hook, Property, Ruleset, Sample,
    Verdict, iptables,
};

/// Chains that lead to each other are followed so deep (the kernel's `NFT_JUMP_STACK_SIZE`).
const DEPTH_MAX: usize = 16;

/// Bits by which connection tracking's state is told (`NF_CT_STATE_BIT`): here, a new one.
pub(super) const STATE_NEW: u32 = 8;

/// Every chain that drops this packet, whatever is not understood.
#[must_use]
pub fn dropping(ruleset: &Ruleset, sample: &Sample) -> Vec<Dropped> {
    let is_ipv6 = sample.source.is_ipv6();
    let met = ruleset.iter().filter(|(name, chain)| {
        name.family.takes(is_ipv6) && chain.hook.is_some_and(|hook| sample.hooks.contains(&hook))
    });
    met.filter_map(|(name, chain)| {
        let mut walk = Walk {
            ruleset,
            sample,
            hook: chain.hook?,
            known: BTreeMap::new(),
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
    /// Of chains that it came to: many rules may lead to the same one, and so on from there.
    known: BTreeMap<ChainName, Outcome>,
}

impl<'a> Walk<'a> {
    fn chain(&mut self, name: &ChainName, depth: usize) -> Outcome {
        if let Some(known) = self.known.get(name) {
            return known.clone();
        }
        let unclear = Outcome {
            fate: Fate::End,
            may_pass: true,
        };
        let Some(chain) = self.ruleset.get(name).filter(|_| depth > 0) else {
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
                } => registers.get(register).and_then(|value| {
                    let found = element(value, elements)?;
                    if let Some(decided) = found.and_then(|found| found.verdict.as_ref()) {
                        verdict = Some(decided);
                    }
                    Some(found.is_some() != *is_inverted)
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
