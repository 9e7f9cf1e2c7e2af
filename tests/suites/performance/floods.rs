//! What other pairs keep of their packets while somebody floods a node.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, peer, status, wait_peers};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{
    Attack, Flood, FloodPlan, IpVersion, ProcessMemory, Testbed, Topology, WIREGUARD_PORTS,
    attackers, cpu_seconds, matrix, results, until,
};

pub(crate) const TESTS: &[Test] = &[(
    "other_pairs_keep_their_packets_in_floods_of_10000_a_second",
    floods,
)];

/// The promise: of each pair's packets, in percent.
const KEPT_MIN: f64 = 90.0;

/// The promise's rate.
const RATE: u32 = 10_000;

/// Beyond the promise, to see where it ends.
const HIGHER_RATE: u32 = 50_000;

/// How long each flood is.
const DURATION: Duration = Duration::from_secs(8);

/// Packets a second of each measured pair and direction.
const MEASURED_RATE: u32 = 1_000;

/// What of a rate the generator must have kept for its row to mean anything, in percent.
const SENT_MIN: u64 = 90;

/// How much an agent may grow over all floods, in KiB.
const GROWTH_MAX: u64 = 64 * 1024;

/// Inner bytes of a full packet.
const PACKET_BYTES: usize = 1_400;

/// The port that nobody reads.
const DISCARD: u16 = 9;

/// The victim, the peer that it must not lose, one that floods, and one that never answers.
const VICTIM: u8 = 1;
const PEER: u8 = 2;
const FLOODER: u8 = 3;
const UNREACHABLE: u8 = 4;

/// One flood, and who sends it.
struct Case {
    name: String,
    sender: Sender,
    plan: Option<FloodPlan>,
}

enum Sender {
    Outside,
    Pod(u8),
}

/// What a case has shown.
struct Row {
    name: String,
    planned_per_second: u64,
    sent_per_second: u64,
    kept: [f64; 2],
    longest_gap: Duration,
    cpu_percent: f64,
    memory: ProcessMemory,
}

fn floods(context: &Context) -> Result<()> {
    // One lane: with more, what is measured might use another one than what is flooded.
    let topology = Topology::new()
        .nodes(4)
        .pods_per_node(2)
        .agent_arguments(&["--lanes", "1"]);
    let bed = context.testbed(&topology)?;
    bed.start_agents()?;
    wait_peers(&bed)?;
    // Before its first session with anybody.
    bed.node(UNREACHABLE).stop_agent()?;
    for (from, to) in [(VICTIM, PEER), (VICTIM, FLOODER)] {
        let target = bed.pod(to, 1).host().address(IpVersion::V4)?;
        let counter = bed.tcp_counter(bed.pod(from, 1).host(), target, MEASURED_RATE)?;
        counter.wait_for_more(u64::from(MEASURED_RATE), CONVERGENCE)?;
        counter.stop()?;
    }
    // The search for cookies would take the processors that are measured.
    bed.capture().search_payloads(false)?;
    let memory = ProcessMemory::of(bed.node(VICTIM).agent_pid()?)?;
    let rows = cases(&bed)?
        .into_iter()
        .map(|case| measure(&bed, case))
        .collect::<Result<Vec<_>>>()?;
    let through = through_a_flood(&bed)?;
    bed.node(UNREACHABLE).start_agent()?;
    bed.node(UNREACHABLE).wait_ready()?;
    until(CONVERGENCE, "the mesh to be whole", || {
        matrix::all_reached(&bed.matrix().run())
    })?;
    results::write("floods", &report(&rows, through, memory))?;
    for row in rows
        .iter()
        .filter(|row| row.planned_per_second <= u64::from(RATE))
    {
        let (sent, planned) = (row.sent_per_second, row.planned_per_second);
        ensure!(
            sent * 100 >= planned * SENT_MIN,
            "{}: only {sent} of {planned} a second were sent; is the machine busy?",
            row.name
        );
        let kept = row.kept[0].min(row.kept[1]);
        ensure!(kept >= KEPT_MIN, "{}: {kept:.1} % were kept", row.name);
    }
    let last = rows.last().map_or(memory, |row| row.memory);
    ensure!(
        last.peak <= memory.peak + GROWTH_MAX,
        "{memory:?} before, {last:?} after"
    );
    Ok(())
}

fn cases(bed: &Testbed) -> Result<Vec<Case>> {
    let victim = bed.node(VICTIM);
    let key = status(victim)?.public_key.context("a key")?;
    let initiations = |name: &str, version, count, per_second, attack| -> Result<Case> {
        let sources = attackers(bed, version, count)?;
        let address = victim.host().address(version)?;
        Ok(Case {
            name: name.to_owned(),
            sender: Sender::Outside,
            plan: Some(FloodPlan {
                sources,
                target: SocketAddr::new(address, WIREGUARD_PORTS.start),
                per_second,
                attack,
            }),
        })
    };
    let packets = |name: &str, from, to, per_second| -> Result<Case> {
        let target: IpAddr = bed.pod(to, 2).host().address(IpVersion::V4)?;
        Ok(Case {
            name: name.to_owned(),
            sender: Sender::Pod(from),
            plan: Some(FloodPlan {
                sources: Vec::new(),
                target: SocketAddr::new(target, DISCARD),
                per_second,
                attack: Attack::Payload(vec![0x5a; PACKET_BYTES]),
            }),
        })
    };
    let (forged, sealed) = (Attack::Forged, Attack::Sealed(key.clone()));
    let with_cookie = Attack::WithCookie(key);
    let (v4, v6) = (IpVersion::V4, IpVersion::V6);
    let (data, tun) = (
        "full packets from a peer",
        "full packets for a peer that never answers",
    );
    Ok(vec![
        Case {
            name: "none".to_owned(),
            sender: Sender::Outside,
            plan: None,
        },
        initiations("no mac1, one source", v4, 1, RATE, forged.clone())?,
        initiations("no mac1, 256 sources", v4, 256, RATE, forged)?,
        initiations("mac1, one source", v4, 1, RATE, sealed.clone())?,
        initiations("mac1, 256 sources", v4, 256, RATE, sealed.clone())?,
        initiations("mac1, 256 networks, IPv6", v6, 256, RATE, sealed.clone())?,
        initiations(
            "mac1 and cookie, one source",
            v4,
            1,
            RATE,
            with_cookie.clone(),
        )?,
        initiations("mac1 and cookie, 256 sources", v4, 256, RATE, with_cookie)?,
        packets(data, FLOODER, VICTIM, RATE)?,
        packets(tun, VICTIM, UNREACHABLE, RATE)?,
        initiations("mac1, 256 sources", v4, 256, HIGHER_RATE, sealed)?,
        packets(data, FLOODER, VICTIM, HIGHER_RATE)?,
        packets(tun, VICTIM, UNREACHABLE, HIGHER_RATE)?,
    ])
}

fn measure(bed: &Testbed, case: Case) -> Result<Row> {
    let process = bed.node(VICTIM).agent_pid()?;
    let (one, two) = (bed.pod(VICTIM, 1).host(), bed.pod(PEER, 1).host());
    let counters = [
        bed.udp_counter(one, two, IpVersion::V4, MEASURED_RATE)?,
        bed.udp_counter(two, one, IpVersion::V6, MEASURED_RATE)?,
    ];
    let cpu = cpu_seconds(process)?;
    let start = Instant::now();
    let flood = match (&case.plan, &case.sender) {
        (None, _) => None,
        (Some(plan), Sender::Outside) => Some(Flood::start(bed.outside().namespace(), plan)?),
        (Some(plan), Sender::Pod(node)) => {
            let pod = bed.pod(*node, 2).host();
            Some(Flood::start(pod.namespace(), plan)?)
        }
    };
    until(DURATION * 4, "the end of the flood", || {
        ensure!(start.elapsed() >= DURATION, "it goes on");
        Ok(())
    })?;
    let sent_per_second = flood.map_or(0, |flood| flood.stop().per_second());
    let cpu_percent = (cpu_seconds(process)? - cpu) * 100.0 / start.elapsed().as_secs_f64();
    let counts = counters.map(podwire_testbed::UdpCounter::stop);
    let [one, two] = counts.map(|count| {
        let count = count?;
        #[expect(clippy::cast_precision_loss, reason = "a share for people")]
        let kept = count.received as f64 * 100.0 / count.sent as f64;
        Ok::<_, anyhow::Error>((kept, count.longest_gap))
    });
    let ((kept_one, gap_one), (kept_two, gap_two)) = (one?, two?);
    let planned_per_second = case.plan.map_or(0, |plan| u64::from(plan.per_second));
    Ok(Row {
        name: case.name,
        planned_per_second,
        sent_per_second,
        kept: [kept_one, kept_two],
        longest_gap: gap_one.max(gap_two),
        cpu_percent,
        memory: ProcessMemory::of(process)?,
    })
}

/// How long a peer that was killed takes to its next session while handshakes are flooded.
fn through_a_flood(bed: &Testbed) -> Result<Duration> {
    let victim = bed.node(VICTIM);
    let plan = FloodPlan {
        sources: attackers(bed, IpVersion::V4, 256)?,
        target: SocketAddr::new(victim.host().address(IpVersion::V4)?, WIREGUARD_PORTS.start),
        per_second: RATE,
        attack: Attack::Sealed(status(victim)?.public_key.context("a key")?),
    };
    let other = bed.node(PEER);
    let _flood = Flood::start(bed.outside().namespace(), &plan)?;
    other.kill_agent()?;
    other.start_agent()?;
    other.wait_ready()?;
    let start = Instant::now();
    until(CONVERGENCE, "the peer's session in the flood", || {
        let state = peer(other, victim.name())?.state;
        ensure!(state == "up", "it is {state}");
        Ok(())
    })?;
    Ok(start.elapsed())
}

fn report(rows: &[Row], through: Duration, before: ProcessMemory) -> String {
    let profile = if cfg!(debug_assertions) {
        "unoptimised"
    } else {
        "optimised"
    };
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let mut text = format!(
        "# Floods\n\nFour nodes of one lane each, the flood and the measuring share {processors} processors; agents \
         are {profile}. Each flood lasts {} s; meanwhile two pods of other nodes exchange \
         {MEASURED_RATE} packets a second each way with the victim's pods. At up to {RATE} a second \
         they keep at least {KEPT_MIN} % (asserted); the rows above that rate show what is beyond.\n\n\
         | flood | sent a second | kept, from the victim | kept, to the victim | longest gap | \
         processor of the agent | resident memory |\n|---|---|---|---|---|---|---|\n",
        DURATION.as_secs(),
    );
    for row in rows {
        let _ = writeln!(
            text,
            "| {} | {} | {:.2} % | {:.2} % | {} ms | {:.0} % | {} MiB |",
            row.name,
            row.sent_per_second,
            row.kept[0],
            row.kept[1],
            row.longest_gap.as_millis(),
            row.cpu_percent,
            row.memory.resident / 1024,
        );
    }
    let peak = rows.last().map_or(before.peak, |row| row.memory.peak);
    let _ = writeln!(
        text,
        "\nThe agent's peak grew from {} to {} MiB. A peer that was killed and started again had \
         its next session with the victim {:.1} s after it was ready, in a flood of {RATE} \
         initiations with mac1 a second.",
        before.peak / 1024,
        peak / 1024,
        through.as_secs_f64(),
    );
    text
}
