//! What a sender sees while something is broken.

use std::fmt;
use std::net::IpAddr;
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use podwire_testbed::agent_view::CONVERGENCE;
use podwire_testbed::{IpVersion, ProbeError, Protocol, until};

use crate::scene::{Scene, Site};

/// What a datagram is not answered with by then is silence: answers and errors take milliseconds.
const DATAGRAM_SILENCE: Duration = Duration::from_millis(500);

/// The same for a connection, which does not heed an error that comes while connect(2) still has
/// the socket, as it does over a pod's link: only that about its first repetition, after a second.
const CONNECTION_SILENCE: Duration = Duration::from_millis(1300);

/// What became of one question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sight {
    /// The answer.
    Answer,
    /// An error to the very first packet: the kernel's, or an ICMP error but "port unreachable".
    Unreachable,
    /// Nothing.
    Silence,
}

impl fmt::Display for Sight {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Answer => "answer",
            Self::Unreachable => "unreachable",
            Self::Silence => "silence",
        })
    }
}

/// One question and what its sender saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) site: Site,
    pub(crate) protocol: Protocol,
    pub(crate) version: IpVersion,
    pub(crate) sight: Sight,
}

/// What every site sees over TCP and UDP, IPv4 and IPv6, once it is what it is expected to see.
/// Silence and errors are waited out, as errors are rare and sessions take a moment; an answer
/// where none is expected is not, nor is anything that no fault has.
pub(crate) fn see(scene: &Scene, expected: &[(Site, Sight)]) -> Result<Vec<Seen>> {
    thread::scope(|scope| {
        let mut asking = Vec::new();
        for (site, sight) in expected {
            for target in site.targets(&scene.bed) {
                asking.push(scope.spawn(move || ask_until(scene, *site, target, *sight)));
            }
        }
        let seen = asking.into_iter().map(joined).collect::<Result<Vec<_>>>()?;
        Ok(seen.concat())
    })
}

fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Where errors are expected, one after the other: the kernel sends a pod one a second, once it has
/// sent five.
fn ask_until(scene: &Scene, site: Site, target: IpAddr, expected: Sight) -> Result<Vec<Seen>> {
    let protocols = [Protocol::Udp, Protocol::Tcp];
    let one = |protocol| sight_until(scene, site, protocol, target, expected);
    if expected == Sight::Unreachable {
        return protocols.into_iter().map(one).collect();
    }
    thread::scope(|scope| {
        let asking = protocols.map(|protocol| scope.spawn(move || one(protocol)));
        asking.into_iter().map(joined).collect()
    })
}

fn sight_until(
    scene: &Scene,
    site: Site,
    protocol: Protocol,
    target: IpAddr,
    expected: Sight,
) -> Result<Seen> {
    let version = IpVersion::of(target);
    let what = format!("{site:?} to see \"{expected}\" over {protocol} and {version}");
    let sight = until(CONVERGENCE, &what, || {
        match ask(scene, site, protocol, target) {
            Ok(sight) if sight != expected && sight != Sight::Answer => {
                bail!("it saw \"{sight}\"")
            }
            other => Ok(other),
        }
    })?;
    let sight = sight.with_context(|| what.clone())?;
    ensure!(sight == expected, "{what}: it saw \"{sight}\"");
    Ok(Seen {
        site,
        protocol,
        version,
        sight,
    })
}

fn ask(scene: &Scene, site: Site, protocol: Protocol, target: IpAddr) -> Result<Sight> {
    let silence = match protocol {
        Protocol::Tcp => CONNECTION_SILENCE,
        Protocol::Udp | Protocol::Icmp => DATAGRAM_SILENCE,
    };
    let asker = site.bystander(&scene.bed);
    let probe = scene.bed.probe(asker, protocol, target);
    match probe.timeout(silence).hear_errors().ask() {
        Ok(_) => Ok(Sight::Answer),
        Err(ProbeError::Timeout) => Ok(Sight::Silence),
        Err(ProbeError::Unreachable(_)) => Ok(Sight::Unreachable),
        // A TCP reset would end connections for good, and is never Podwire's answer.
        Err(other) => bail!("an outcome that no fault has: {other}"),
    }
}
