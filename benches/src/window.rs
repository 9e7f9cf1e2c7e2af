//! Processor time, memory and the machine's load between two moments.

use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

use anyhow::{Context as _, Result};
use podwire_testbed::ProcessMemory;

use crate::sample::{Costs, MachineCost, ProcessCost};

/// A process whose time counts, and its name in results.
#[derive(Debug, Clone)]
pub(crate) struct Counted {
    pub(crate) name: String,
    pub(crate) id: u32,
}

/// A window that has begun.
#[derive(Debug)]
pub(crate) struct Window<'a> {
    processes: &'a [Counted],
    began: Instant,
    times: Vec<Times>,
    machine: Machine,
}

/// Clock ticks of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Times {
    user: u64,
    system: u64,
}

/// Clock ticks of all processors together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Machine {
    busy: u64,
    steal: u64,
}

impl<'a> Window<'a> {
    /// Begins.
    ///
    /// # Errors
    /// When one of the processes has ended.
    pub(crate) fn begin(processes: &'a [Counted]) -> Result<Self> {
        Ok(Self {
            processes,
            began: Instant::now(),
            times: times(processes)?,
            machine: machine()?,
        })
    }

    /// Ends: what was spent, without bytes and packets.
    ///
    /// # Errors
    /// When one of the processes has ended.
    pub(crate) fn end(self) -> Result<Costs> {
        let seconds = self.began.elapsed().as_secs_f64();
        let (times, machine) = (times(self.processes)?, machine()?);
        let mut costs = BTreeMap::new();
        for ((process, before), after) in self.processes.iter().zip(&self.times).zip(&times) {
            let cost = ProcessCost {
                user: as_seconds(after.user - before.user),
                system: as_seconds(after.system - before.system),
                resident_kib: ProcessMemory::of(process.id)?.resident,
            };
            costs.insert(process.name.clone(), cost);
        }
        Ok(Costs {
            seconds,
            processes: costs,
            machine: MachineCost {
                busy: as_seconds(machine.busy - self.machine.busy),
                steal: as_seconds(machine.steal - self.machine.steal),
            },
            ..Costs::default()
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "ticks of a window are few")]
fn as_seconds(ticks: u64) -> f64 {
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

fn times(processes: &[Counted]) -> Result<Vec<Times>> {
    let one = |process: &Counted| {
        let path = format!("/proc/{}/stat", process.id);
        let text = fs::read_to_string(&path)
            .with_context(|| format!("{} has ended: reading {path}", process.name))?;
        times_in(&text).with_context(|| format!("reading {path}"))
    };
    processes.iter().map(one).collect()
}

/// proc(5): the name is in parentheses and may contain anything; utime is the 12th field after it.
fn times_in(stat: &str) -> Option<Times> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse().ok();
    Some(Times {
        user: next()?,
        system: next()?,
    })
}

fn machine() -> Result<Machine> {
    let text = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
    machine_in(&text).context("reading /proc/stat")
}

/// proc(5): user, nice, system, idle, iowait, irq, softirq, steal.
fn machine_in(stat: &str) -> Option<Machine> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line
        .split_whitespace()
        .map_while(|field| field.parse().ok())
        .collect();
    let at = |index: usize| ticks.get(index).copied();
    Some(Machine {
        busy: at(0)? + at(1)? + at(2)? + at(5)? + at(6)?,
        steal: at(7)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "42 (a ) b) S 1 2 3 4 5 6 7 8 9 10 110 22 0 0 20 0";
        let times = times_in(stat).expect("times");
        assert_eq!((times.user, times.system), (110, 22));
        assert_eq!(times_in("42 (short) S 1"), None);
    }

    #[test]
    fn the_machine_is_busy_with_everything_but_idling_and_waiting() {
        let stat = "cpu  1 2 4 1000 2000 8 16 32 0 0\ncpu0 9 9 9 9 9 9 9 9\n";
        let machine = machine_in(stat).expect("ticks");
        assert_eq!((machine.busy, machine.steal), (31, 32));
    }

    #[test]
    fn a_window_sees_what_this_process_spends() {
        let own = [Counted {
            name: "own".to_owned(),
            id: std::process::id(),
        }];
        let window = Window::begin(&own).expect("it runs");
        let end = Instant::now() + std::time::Duration::from_millis(300);
        while Instant::now() < end {}
        let costs = window.end().expect("it runs");
        let own = &costs.processes["own"];
        assert!(own.user + own.system > 0.1, "{own:?}");
        assert!(
            own.resident_kib > 0 && costs.machine.busy > 0.1,
            "{costs:?}"
        );
    }
}
