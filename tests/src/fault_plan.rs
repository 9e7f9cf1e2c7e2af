//! Which faults hit which node, and when: a pure function of a seed.
//!
//! Every plan has five nodes, of which three are victims. Faults overlap as they happen to; what
//! may not is told by [`Conflict`], by name.

mod fault;

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

pub use fault::{Fault, Subject};

/// Nodes of a plan.
pub const NODES: u8 = 5;

/// Nodes that faults are aimed at: few enough that several meet at one node, and that two nodes are
/// left which only faults of all nodes may disturb.
const VICTIMS: usize = 3;

/// Faults of a plan.
const FAULTS_MIN: u32 = 6;
const FAULTS_MAX: u32 = 12;

/// Faults begin within this.
const BEGIN_WITHIN: Duration = Duration::from_secs(6);

/// Faults that last, last so long.
const LASTS_MIN: Duration = Duration::from_millis(300);
const LASTS_MAX: Duration = Duration::from_secs(3);

/// In every eighth plan faults last four times as long: past WireGuard's timers of 5 and 10 s, at
/// which sessions change by themselves. In every plan it would double the time of a soak.
const LONG_EVERY: u64 = 8;
const LONG_FACTOR: u32 = 4;

/// The grain of every time: fewer digits to read.
const TICK: Duration = Duration::from_millis(100);

/// A fault that is drawn and conflicts is drawn again, so many times in all.
const DRAWS_MAX: usize = 200;

/// One fault of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// When it begins, from the start of the plan.
    pub at: Duration,
    /// For how long it lasts; what it undoes by itself lasts no time.
    pub lasts: Duration,
    /// The node that it hits; of a fault of all nodes, any.
    pub node: u8,
    /// What happens.
    pub fault: Fault,
    /// Another node, for faults that have to do with two.
    pub peer: u8,
    /// A number from which a fault that has to choose something chooses it.
    pub choice: u32,
}

impl Planned {
    /// When it is over.
    #[must_use]
    pub fn end(&self) -> Duration {
        self.at + self.lasts
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.at <= other.end() && other.at <= self.end()
    }

    fn meets(&self, other: &Self) -> bool {
        self.node == other.node || self.fault.is_of_all() || other.fault.is_of_all()
    }
}

impl fmt::Display for Planned {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:4.1} s ", self.at.as_secs_f64())?;
        if self.fault.is_of_all() {
            write!(formatter, "all nodes: ")?;
        } else {
            write!(formatter, "node-{}: ", self.node)?;
        }
        write!(formatter, "{}", self.fault)?;
        if self.fault.names_peer() {
            write!(formatter, " node-{}", self.peer)?;
        }
        if self.lasts > Duration::ZERO {
            write!(formatter, ", for {:.1} s", self.lasts.as_secs_f64())?;
        }
        Ok(())
    }
}

/// All faults of a seed, in the order in which they begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultPlan {
    /// What it was made from.
    pub seed: u64,
    /// What happens.
    pub faults: Vec<Planned>,
}

impl FaultPlan {
    /// The plan of a seed: always the same.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut draw = Draw::new(seed);
        let mut victims: Vec<u8> = (1..=NODES).collect();
        while victims.len() > VICTIMS {
            let spared = draw.one_of(&victims);
            victims.retain(|node| *node != spared);
        }
        let count = FAULTS_MIN + draw.below(FAULTS_MAX - FAULTS_MIN + 1);
        let is_long = seed % LONG_EVERY == LONG_EVERY - 1;
        let mut faults: Vec<Planned> = Vec::new();
        for _ in 0..DRAWS_MAX {
            if faults.len() == count as usize {
                break;
            }
            let planned = one(&mut draw, &victims, is_long);
            let mut all = faults.clone();
            all.push(planned);
            if !conflict(&all) {
                faults = all;
            }
        }
        // Stable: what begins together keeps the order in which it was drawn.
        faults.sort_by_key(|planned| planned.at);
        Self { seed, faults }
    }

    /// When its last fault is over.
    #[must_use]
    pub fn end(&self) -> Duration {
        self.faults
            .iter()
            .map(Planned::end)
            .max()
            .unwrap_or_default()
    }

    /// Nodes that no fault is aimed at; empty when one hits what all nodes need to reach each
    /// other.
    #[must_use]
    pub fn bystanders(&self) -> BTreeSet<u8> {
        if self
            .faults
            .iter()
            .any(|planned| planned.fault == Fault::AllKilled)
        {
            return BTreeSet::new();
        }
        let hit = |node: &u8| {
            let mut aimed = self.faults.iter().filter(|p| !p.fault.is_of_all());
            aimed.any(|planned| planned.node == *node)
        };
        (1..=NODES).filter(|node| !hit(node)).collect()
    }
}

impl fmt::Display for FaultPlan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "the faults of seed {}:", self.seed)?;
        self.faults
            .iter()
            .try_for_each(|planned| writeln!(formatter, "  {planned}"))
    }
}

fn one(draw: &mut Draw, victims: &[u8], is_long: bool) -> Planned {
    // Everything is drawn, needed or not: what one kind of fault needs moves no other draw.
    let fault = draw.one_of(&Fault::ALL);
    let node = draw.one_of(victims);
    let others: Vec<u8> = (1..=NODES).filter(|other| *other != node).collect();
    let peer = draw.one_of(&others);
    let at = draw.time(Duration::ZERO, BEGIN_WITHIN);
    let lasts = draw.time(LASTS_MIN, LASTS_MAX);
    let factor = if is_long { LONG_FACTOR } else { 1 };
    Planned {
        at,
        lasts: if fault.lasts() {
            lasts * factor
        } else {
            Duration::ZERO
        },
        node,
        fault,
        peer,
        choice: draw.below(u32::MAX),
    }
}

/// Whether one of these faults would act on what another has taken away, or undo it, or leave no
/// guard with it. Any others go together: they leave at least one guard.
fn conflict(faults: &[Planned]) -> bool {
    let mut pairs = (1..faults.len()).flat_map(|i| (0..i).map(move |j| (&faults[j], &faults[i])));
    pairs.any(|(one, other)| {
        if one.node == other.node && one.fault.leaves_no_guard_with(other.fault) {
            return true;
        }
        let is_same = one.fault.subject() == other.fault.subject();
        is_same && one.fault.subject().is_some() && one.meets(other) && one.overlaps(other)
    })
}

/// Numbers from a seed (SplitMix64): our own, because another version of a library would make other
/// plans of the same seeds.
struct Draw(u64);

impl Draw {
    fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Evenly enough: bounds are small.
    fn below(&mut self, bound: u32) -> u32 {
        u32::try_from(self.next() % u64::from(bound)).expect("it is below a u32")
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        let count = u32::try_from(choices.len()).expect("choices are few");
        choices[self.below(count) as usize]
    }

    /// A time from `first` to `last`.
    fn time(&mut self, first: Duration, last: Duration) -> Duration {
        let ticks = (last - first).as_millis() / TICK.as_millis();
        let ticks = u32::try_from(ticks).expect("times are seconds");
        first + TICK * self.below(ticks + 1)
    }
}

#[cfg(test)]
mod tests;
