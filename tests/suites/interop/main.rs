//! Lane 0 with other people's WireGuard, in both roles, over both versions of IP, through a rekey
//! and through a rotation of keys.
//!
//! `make test-interop` runs it; plain `cargo test` does not (`test = false` in the manifest): it
//! builds programs of others, one of them with Go.

mod foreign_node;
mod rotation;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, peer, wait_status};
use podwire_testbed::foreign_wireguard::{BORINGTUN_CLI, ForeignWireguard, WIREGUARD_GO};
use podwire_testbed::suite::{self, Case, Context};
use podwire_testbed::{
    Family, IpVersion, Iperf, IperfDirection, Testbed, Topology, matrix, until, wireguard_daemon,
};

use foreign_node::ForeignNode;

/// Its name in tests, what it is, and its program once it is built.
type Foreign = (&'static str, ForeignWireguard, OnceLock<PathBuf>);

/// A sentence, and what it says as code, with the program of the other WireGuard.
pub(crate) type RotationTest = (&'static str, fn(&Context, &Path) -> Result<()>);

/// Those that others run; each with its program, built before the tests.
static FOREIGN: [Foreign; 2] = [
    ("wireguard_go", WIREGUARD_GO, OnceLock::new()),
    ("boringtun_cli", BORINGTUN_CLI, OnceLock::new()),
];

/// Tests at a time: all rekeys, which wait for the same two minutes. Rotations come after them, as
/// their bulk transfers leave others no time.
const AT_A_TIME: usize = 8;

/// Who makes the first handshake, and so each rekey.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Initiator {
    Podwire,
    Foreign,
    /// Each knows where the other is.
    Either,
}

fn main() -> ExitCode {
    for (_, foreign, program) in &FOREIGN {
        #[expect(clippy::print_stderr, reason = "a build takes a minute")]
        let built = foreign.program(|| eprintln!("building {}", foreign.version()));
        match built {
            Ok(path) => drop(program.set(path)),
            #[expect(clippy::print_stderr, reason = "the reason of the exit code")]
            Err(error) => {
                eprintln!("{error:#}");
                return ExitCode::FAILURE;
            }
        }
    }
    if suite::is_soak() {
        // They count every datagram.
        return suite::run_cases(cases_of(rotation::LONG_TESTS), 1);
    }
    let mut cases = rekeys();
    cases.extend(cases_of(rotation::TESTS));
    suite::run_cases(cases, AT_A_TIME)
}

/// With the reference, in Go.
fn cases_of(tests: &'static [RotationTest]) -> Vec<Case> {
    let case = |(name, test): &'static RotationTest| Case {
        name: (*name).to_owned(),
        test: Box::new(move |context| {
            let (_, _, program) = &FOREIGN[0];
            test(context, program.get().context("it was built")?)
        }),
    };
    tests.iter().map(case).collect()
}

fn rekeys() -> Vec<Case> {
    let mut cases = Vec::new();
    for foreign in &FOREIGN {
        for version in [IpVersion::V4, IpVersion::V6] {
            for initiator in [Initiator::Podwire, Initiator::Foreign] {
                let who = format!("{initiator:?}").to_lowercase();
                let number = if version == IpVersion::V4 { 4 } else { 6 };
                let name = format!(
                    "{}_over_ipv{number}_is_spoken_with_through_a_rekey_when_{who}_initiates",
                    foreign.0
                );
                let test =
                    move |context: &Context| interoperate(context, foreign, version, initiator);
                cases.push(Case {
                    name,
                    test: Box::new(test),
                });
            }
        }
    }
    cases
}

/// WireGuard makes a new session when one is 120 s old and used.
const REKEY_DEADLINE: Duration = Duration::from_secs(180);

/// Datagrams a second each way, over the rekey.
const RATE: u32 = 100;

fn interoperate(
    context: &Context,
    foreign: &Foreign,
    version: IpVersion,
    initiator: Initiator,
) -> Result<()> {
    let (_, foreign, program) = foreign;
    let program = program.get().context("it was built")?;
    let family = match version {
        IpVersion::V4 => Family::V4,
        IpVersion::V6 => Family::V6,
    };
    // Two lanes, of which the other node knows one.
    let topology = Topology::new()
        .nodes(2)
        .pods_per_node(1)
        .underlay_family_only(family)
        .agent_arguments(&["--lanes", "2"]);
    let bed = context.testbed(&topology)?;
    bed.capture().search_payloads(false)?;
    for node in bed.nodes() {
        node.edit_manifest(|_| ())?;
    }
    bed.node(1).start_agent()?;
    bed.node(1).wait_ready()?;
    let own_key = wireguard_daemon::public_key(&bed, 1)?;
    let _foreign = ForeignNode::start(&bed, 2, program, (version, initiator), &[(1, own_key)])
        .with_context(|| foreign.version())?;
    wait_status(bed.node(1), "the foreign node for a peer", |status| {
        status.peers.encrypted == 1
    })?;
    let (one, two) = (bed.pod(1, 1).host(), bed.pod(2, 1).host());
    let first = match initiator {
        Initiator::Podwire | Initiator::Either => (one, two),
        Initiator::Foreign => (two, one),
    };
    until(CONVERGENCE, "the first packet", || {
        let target = first.1.address(IpVersion::V4)?;
        bed.probe(first.0, podwire_testbed::Protocol::Udp, target)
            .ask()?;
        Ok(())
    })?;
    matrix::all_reached(&bed.matrix().run())?;
    bulk(&bed)?;
    let before = handshakes(&bed)?;
    let ways = [(one, two), (two, one)];
    let counters: Vec<_> = ways
        .iter()
        .flat_map(|way| [IpVersion::V4, IpVersion::V6].map(|version| (way, version)))
        .map(|((from, to), version)| bed.udp_counter(from, to, version, RATE))
        .collect::<Result<_>>()?;
    until(REKEY_DEADLINE, "a rekey", || {
        let now = handshakes(&bed)?;
        ensure!(now > before, "{now} handshakes, as before");
        Ok(())
    })?;
    bulk(&bed)?;
    for counter in counters {
        let count = counter.stop()?;
        // Their own queues are short: what a bulk transfer pushes out of them is no fault of the
        // rekey's.
        let lost = count.lost() * 100 / count.sent.max(1);
        ensure!(count.sent > 0 && lost < 5, "{count:?}");
    }
    match handshakes(&bed)? {
        0 => bail!("no handshake was counted"),
        _ => Ok(()),
    }
}

/// Both ways at once, and each alone.
fn bulk(bed: &Testbed) -> Result<()> {
    let (one, two) = (bed.pod(1, 1).host(), bed.pod(2, 1).host());
    for version in [IpVersion::V4, IpVersion::V6] {
        let found = Iperf::new(one, two)
            .version(version)
            .seconds(1)
            .streams(2)
            .direction(IperfDirection::Both)
            .run()?;
        ensure!(found.bytes > 1 << 20, "{version}: {found:?}");
    }
    Ok(())
}

/// Completed handshakes of node 1 with node 2.
fn handshakes(bed: &Testbed) -> Result<u64> {
    Ok(peer(bed.node(1), "node-2")?.handshakes)
}
