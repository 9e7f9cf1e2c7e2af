//! What a predecessor left is adopted or removed, never doubled; and a node that lost its state
//! folder is the same place under another key.

use std::fs;
use std::os::unix::net::UnixListener;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, peer, peers, status, wait_whole};
use podwire_testbed::kernel_state::KernelState;
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Node, Testbed, Topology, matrix, until};

pub(crate) const TESTS: &[Test] = &[(
    "what_a_predecessor_left_is_adopted_or_removed_and_never_doubled",
    leftovers,
)];

/// The device is there, and nothing about it is right; routes are doubled, strange, or of nodes
/// that are gone; the table is somebody's work.
const ALTERED: &str = "
    ip link set podwire0 down
    ip link set podwire0 mtu 1300 txqueuelen 7
    ip address flush dev podwire0
    ip address add 10.9.9.9/24 dev podwire0
    echo 1 > /proc/sys/net/ipv4/conf/podwire0/rp_filter
    echo 0 > /proc/sys/net/ipv6/conf/podwire0/addr_gen_mode
    ip link set podwire0 up
    ip route add 10.244.2.0/24 dev podwire0 proto 119 metric 1024
    ip route append 10.244.2.0/24 dev eth0 proto 119 metric 1024
    ip route add 10.244.2.0/24 dev podwire0 proto 119 metric 3
    ip route add 10.244.99.0/24 dev podwire0 proto 119 metric 1024
    ip route add unreachable 10.244.99.0/24 proto 119 metric 4000000
    ip route add fd00:10:244:99::/64 dev podwire0 proto 119 metric 1024
    ip route add 10.244.88.0/24 proto 119 nexthop dev eth0 nexthop dev podwire0
    ip route delete unreachable 10.244.0.0/16 proto 119 metric 4000000
    nft add rule inet podwire forward accept
    nft add chain inet podwire somebody";

/// The device is gone, a plain route is where the pair's was, and the table is another version's.
const OLD: &str = "
    ip link delete podwire0
    ip route add 10.244.2.0/24 via 192.0.2.12 proto 119 metric 1024
    ip route add fd00:10:244:2::/64 via 2001:db8::c proto 119 metric 1024
    nft delete table inet podwire
    nft add table inet podwire
    nft add chain inet podwire egress '{ type filter hook forward priority 5; }'";

/// Files that a kill may leave half-written.
const HALF_WRITTEN: [&str; 3] = [
    ".keys.aB3dE6",
    ".history.json.aB3dE6",
    ".snapshot.json.aB3dE6",
];

fn leftovers(context: &Context) -> Result<()> {
    let bed = context.mesh(&Topology::new().nodes(2).pods_per_node(1))?;
    wait_whole(&bed)?;
    let node = bed.node(1);
    let whole = KernelState::of(node)?;
    let socket = node.run_dir().join("admin.sock");

    node.kill_agent()?;
    shell(node, ALTERED)?;
    fs::remove_file(&socket)?;
    fs::write(&socket, "no socket at all")?;
    // A process id that somebody else has by now.
    fs::write(node.state_dir().join("lock"), "1\n")?;
    let record = bed.directory().record_path(node.name());
    let temporary = record.with_file_name(format!(".{}.podwire.yaml.aB3dE6", node.name()));
    fs::write(&temporary, "apiVersion: v1\nkind: No")?;
    for name in HALF_WRITTEN {
        fs::write(node.state_dir().join(name), "half-writ")?;
    }
    taken_over(&bed, &whole).context("everything altered")?;
    for path in HALF_WRITTEN
        .map(|name| node.state_dir().join(name))
        .iter()
        .chain([&temporary])
    {
        ensure!(!path.exists(), "{} is still there", path.display());
    }

    node.kill_agent()?;
    shell(node, OLD)?;
    fs::remove_file(&socket)?;
    // Whoever listened there is dead.
    drop(UnixListener::bind(&socket)?);
    taken_over(&bed, &whole).context("everything of another version")?;

    state_lost(&bed, &whole)
}

fn shell(node: &Node, script: &str) -> Result<()> {
    node.namespace().output("sh", &["-e"], script).map(drop)
}

/// The next agent makes the node whole.
fn taken_over(bed: &Testbed, whole: &KernelState) -> Result<()> {
    let node = bed.node(1);
    node.start_agent()?;
    node.wait_ready()?;
    until(CONVERGENCE, "the node to be whole", || {
        whole.is_that_of(node)
    })?;
    until(CONVERGENCE, "the mesh to be whole", || {
        matrix::all_reached(&bed.matrix().run())
    })
}

/// New keys, and nothing left of the old ones anywhere.
fn state_lost(bed: &Testbed, whole: &KernelState) -> Result<()> {
    let (node, other) = (bed.node(1), bed.node(2));
    let before = status(node)?.public_key.context("a key")?;
    node.kill_agent()?;
    node.forget_state()?;
    taken_over(bed, whole).context("without its state")?;
    let after = status(node)?.public_key.context("a key")?;
    ensure!(before != after, "the key came back from nowhere");
    let rows = peers(other)?;
    ensure!(
        rows.len() == 1 && rows[0].public_key.as_ref() == Some(&after),
        "peers of node-2: {rows:?}"
    );
    until(CONVERGENCE, "the old key to be forgotten", || {
        for told in [
            other.state_dir().join("snapshot.json"),
            node.state_dir().join("snapshot.json"),
            bed.directory().record_path(node.name()),
        ] {
            let text = fs::read_to_string(&told)?;
            ensure!(
                text.contains(&after) && !text.contains(&before),
                "{}: {text}",
                told.display()
            );
        }
        Ok(())
    })?;
    let row = peer(node, other.name())?;
    ensure!(row.state == "up", "{row:?}");
    Ok(())
}
