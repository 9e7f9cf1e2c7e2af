//! Offloads on and off on either side: every byte arrives, whatever the kernel does for us.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{sample, wait_peers};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Host, IpVersion, Node, Testbed, Topology, train};

use crate::bulk::Bulk;

pub(crate) const TESTS: &[Test] = &[
    (
        "every_combination_of_offloads_on_either_side_carries_every_byte",
        combinations,
    ),
    (
        "datagrams_that_a_pod_sends_in_one_piece_arrive_as_they_were",
        trains,
    ),
    (
        "a_pod_without_segmentation_of_its_own_exchanges_every_byte",
        pods_without,
    ),
];

const OFFLOADS: [&str; 4] = ["tun-gso", "tun-gro", "udp-gso", "udp-gro"];

/// A node for each combination.
const NODES: u8 = 1 << OFFLOADS.len();

/// What one exchange carries: more than a train, and more than a packet of the kernel's.
const BYTES: usize = 300_000;

const VERSIONS: [IpVersion; 2] = [IpVersion::V4, IpVersion::V6];

/// The agent's flag for a combination: a bit for each that is off.
fn switches(off: u8) -> String {
    let switch = |(number, name): (usize, &&str)| {
        let is_off = off >> number & 1 > 0;
        format!("{name}={}", if is_off { "off" } else { "on" })
    };
    let switches: Vec<_> = OFFLOADS.iter().enumerate().map(switch).collect();
    switches.join(",")
}

fn mesh(context: &Context, combinations: &[u8]) -> Result<std::sync::Arc<Testbed>> {
    let nodes = u8::try_from(combinations.len())?;
    let bed = context.testbed(&Topology::new().nodes(nodes).pods_per_node(1))?;
    for (node, off) in bed.nodes().iter().zip(combinations) {
        node.set_agent_arguments(&["--lanes", "1", "--offload", &switches(*off)]);
    }
    bed.start_agents()?;
    wait_peers(&bed)?;
    Ok(bed)
}

/// What is not off is used, as this kernel can, or nothing here would be a test of it.
fn are_in_use(node: &Node, off: u8) -> Result<()> {
    for (number, name) in OFFLOADS.iter().enumerate() {
        let metric = format!("podwire_offload{{offload=\"{name}\",refused=\"false\"}}");
        let is_used = sample(node, &metric)? == 1;
        let is_wanted = off >> number & 1 == 0;
        ensure!(is_used == is_wanted, "{name} of {}: {is_used}", node.name());
    }
    Ok(())
}

fn combinations(context: &Context) -> Result<()> {
    let all: Vec<u8> = (0..NODES).collect();
    let bed = mesh(context, &all)?;
    for (node, off) in bed.nodes().iter().zip(0..NODES) {
        are_in_use(node, off)?;
    }
    for from in bed.pods() {
        for to in bed.pods().filter(|to| to.id() != from.id()) {
            // Each pair twice, from either end, once by each version.
            let version = VERSIONS[usize::from(from.id() < to.id())];
            let target = to.host().address(version)?;
            Bulk::connect(&bed, from.host(), target, BYTES)?
                .exchange()
                .with_context(|| format!("{version} from {} to {}", from.id(), to.id()))?;
        }
    }
    Ok(())
}

/// Bytes of each datagram and how many a call sends: a video frame's, a voice's, odd ones.
const TRAINS: [(usize, usize); 4] = [(1200, 50), (64, 64), (333, 17), (1, 3)];

/// Whatever was lost by then is lost.
const DEADLINE: Duration = Duration::from_secs(20);

fn trains(context: &Context) -> Result<()> {
    for (from, to) in [(0, 0), (0, NODES - 1), (NODES - 1, 0)] {
        let bed = mesh(context, &[from, to])?;
        for version in VERSIONS {
            for (bytes, count) in TRAINS {
                one_train(&bed, version, bytes, count)
                    .with_context(|| format!("{count} times {bytes} over {version}"))?;
            }
        }
    }
    Ok(())
}

fn one_train(bed: &Testbed, version: IpVersion, bytes: usize, count: usize) -> Result<()> {
    let (from, to) = (bed.pod(1, 1).host(), bed.pod(2, 1).host());
    let bind = |host: &Host| {
        let address: IpAddr = host.address(version)?;
        let namespace = host.namespace();
        anyhow::Ok(namespace.run(|| UdpSocket::bind(SocketAddr::new(address, 0)))?)
    };
    let (sender, receiver) = (bind(from)?, bind(to)?);
    receiver.set_read_timeout(Some(DEADLINE))?;
    let secret = bed.secret().bytes().iter().copied().cycle();
    let mut sent: Vec<u8> = secret.take(bytes * count).collect();
    for (datagram, number) in sent.chunks_mut(bytes).zip(0..) {
        datagram[0] = number;
    }
    train::send(&sender, receiver.local_addr()?, &sent, bytes)?;
    let start = Instant::now();
    let mut room = vec![0; bytes + 1];
    for expected in sent.chunks(bytes) {
        ensure!(start.elapsed() < DEADLINE, "they come too slowly");
        let length = receiver.recv(&mut room).context("one is missing")?;
        ensure!(room[..length] == *expected, "{length} bytes came");
    }
    Ok(())
}

fn pods_without(context: &Context) -> Result<()> {
    let bed = mesh(context, &[0, 0])?;
    for version in VERSIONS {
        for without in [1, 2] {
            for pod in [1, 2] {
                let segments = if pod == without { 1 } else { 64 };
                let link = format!("link set eth0 gso_max_segs {segments}");
                bed.pod(pod, 1).host().namespace().ip(&[link])?;
            }
            for (from, to) in [(1, 2), (2, 1)] {
                let target = bed.pod(to, 1).host().address(version)?;
                Bulk::connect(&bed, bed.pod(from, 1).host(), target, BYTES)?
                    .exchange()
                    .with_context(|| format!("{version}, pod {without} without, from {from}"))?;
            }
        }
    }
    Ok(())
}
