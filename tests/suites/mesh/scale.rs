//! A thousand nodes in the registry, one of them real.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Directory, Family, Manifest, Node, Testbed, Topology, until};

use podwire_testbed::agent_view::{CONVERGENCE, Status, peer, routes, status, wait_status};

pub(crate) const TESTS: &[Test] = &[(
    "a_thousand_records_converge_and_one_change_touches_one_peer",
    scale,
)];

/// Records beside the real node's own.
const OTHERS: u32 = 999;

/// Where their pods are: /24s of this.
const CLUSTER: &str = "10.128.0.0/10";

/// Reading a thousand records and making a thousand routes.
const DEADLINE: Duration = Duration::from_secs(120);

/// One node that exists in the registry only. Its address is of the range for benchmarks
/// (RFC 2544): the documentation ranges have too few.
struct Record {
    number: u32,
    key_generation: u32,
}

impl Record {
    fn name(&self) -> String {
        format!("record-{}", self.number)
    }

    fn address(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 0).to_bits() + 1 + self.number)
    }

    fn pod_cidr(&self) -> String {
        let base = Ipv4Addr::new(10, 128, 0, 0).to_bits();
        format!("{}/24", Ipv4Addr::from_bits(base + (self.number << 8)))
    }

    fn uid(&self) -> String {
        format!("00000000-0000-4000-9000-{:012}", self.number)
    }

    /// 32 bytes that differ in each record and generation. Any of them is an X25519 public key as
    /// long as the high bit is not set, as in all that `wg pubkey` prints.
    fn public_key(&self) -> String {
        let mut state = (u64::from(self.number) << 32) + u64::from(self.key_generation);
        let mut bytes = Vec::new();
        for _ in 0..4 {
            // splitmix64
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            bytes.extend((word ^ (word >> 31)).to_le_bytes());
        }
        if let Some(last) = bytes.last_mut() {
            *last &= 0x7f;
        }
        base64(&bytes)
    }

    fn manifest(&self) -> Result<Manifest> {
        Ok(Manifest {
            name: self.name(),
            uid: self.uid(),
            created: "2026-01-01T00:00:00Z".to_owned(),
            annotations: [].into(),
            pod_cidrs: vec![self.pod_cidr().parse()?],
            addresses: vec![self.address().into()],
        })
    }

    fn publish(&self, directory: &Directory) -> Result<()> {
        let record = format!(
            "apiVersion: v1\nkind: Node\nmetadata:\n  name: {}\n  uid: {}\n  annotations:\n    \
             podwire.dev/mode: encrypted\n    podwire.dev/public-key: {}\n    \
             podwire.dev/pod-cidrs: {}\n    podwire.dev/endpoints: {}:51880\n    \
             podwire.dev/key-generation: \"{}\"\n",
            self.name(),
            self.uid(),
            self.public_key(),
            self.pod_cidr(),
            self.address(),
            self.key_generation
        );
        directory.replace(&directory.record_path(&self.name()), &record)
    }
}

/// RFC 4648 §4, with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut group = [0; 4];
        group[1..=chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes(group);
        for place in 0..4 {
            let sextet = (bits >> (18 - 6 * place)) & 63;
            let letter = if place <= chunk.len() {
                ALPHABET[sextet as usize]
            } else {
                b'='
            };
            text.push(char::from(letter));
        }
    }
    text
}

/// Resident memory of a node's agent in KiB.
fn resident_kib(node: &Node) -> Result<u64> {
    let path = format!("/proc/{}/status", node.agent_pid()?);
    let text = std::fs::read_to_string(&path)?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line
        .and_then(|line| line.split_whitespace().next())
        .context("no VmRSS")?;
    Ok(kib.parse()?)
}

#[expect(
    clippy::print_stdout,
    reason = "the promise is to print time and memory"
)]
fn scale(context: &Context) -> Result<()> {
    let topology = Topology::new()
        .nodes(1)
        .pods_per_node(1)
        .family(Family::V4)
        .agent_arguments(&["--cluster-cidr", CLUSTER]);
    let bed = context.testbed(&topology)?;
    let mut records: Vec<_> = (0..OTHERS)
        .map(|number| Record {
            number,
            key_generation: 1,
        })
        .collect();
    for record in &records {
        bed.directory().apply(&record.manifest()?)?;
        record.publish(bed.directory())?;
    }
    let node = bed.node(1);
    let start = Instant::now();
    bed.start_agents()?;
    let ready = start.elapsed();
    let expected = OTHERS as usize;
    let before = until(DEADLINE, "all peers and routes", || {
        let status = status(node)?;
        ensure!(
            status.peers.encrypted == expected && status.refusals.is_empty(),
            "{status:?}"
        );
        let routes = routes(node)?;
        for record in &records {
            let prefix = format!("{} dev podwire0", record.pod_cidr());
            ensure!(
                routes.iter().any(|line| line.starts_with(&prefix)),
                "no route {prefix}"
            );
        }
        Ok(status)
    })?;
    let converged = start.elapsed();
    println!(
        "{} records: ready after {:.2} s, all routes seen after {:.2} s, {} KiB resident",
        OTHERS + 1,
        ready.as_secs_f64(),
        converged.as_secs_f64(),
        resident_kib(node)?
    );
    ensure!(
        before.peers.total == expected && before.reconcile.errors == 0,
        "{before:?}"
    );
    one_change(&bed, &mut records[500], &before)
}

/// Another key of one node: one peer changes, and nothing in the kernel.
#[expect(
    clippy::print_stdout,
    reason = "the promise is to print time and memory"
)]
fn one_change(bed: &Testbed, changed: &mut Record, before: &Status) -> Result<()> {
    let node = bed.node(1);
    changed.key_generation = 2;
    changed.publish(bed.directory())?;
    let start = Instant::now();
    until(CONVERGENCE, "the changed key", || {
        let row = peer(node, &changed.name())?;
        ensure!(row.public_key == Some(changed.public_key()), "{row:?}");
        Ok(())
    })?;
    println!(
        "one changed record: seen after {:.2} s",
        start.elapsed().as_secs_f64()
    );
    let after = wait_status(node, "the change to be counted", |status| {
        status.reconcile.peer_changes > before.reconcile.peer_changes
    })?;
    let peers = after.reconcile.peer_changes - before.reconcile.peer_changes;
    ensure!(peers == 1, "{peers} peers changed for one record");
    let kernel = after.reconcile.kernel_changes - before.reconcile.kernel_changes;
    ensure!(
        kernel == 0,
        "{kernel} changes of the kernel for a changed key"
    );
    ensure!(after.reconcile.errors == 0, "{after:?}");
    Ok(())
}
