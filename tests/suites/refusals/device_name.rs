//! The device's name belongs to somebody else: it is named, left alone, and no way out.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, status, wait_peers, wait_status};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Bystanders, Node, Testbed, Topology, matrix, until};

use rustix::process::{Pid, Signal, kill_process};

use crate::closed::{nothing_passes, tells};

pub(crate) const TESTS: &[Test] = &[
    (
        "a_foreign_link_of_the_devices_name_is_named_left_alone_and_no_way_out",
        foreign_links,
    ),
    (
        "a_device_that_another_agent_reads_is_not_shared",
        a_second_agent,
    ),
];

/// Links of others, and the word for each.
const FOREIGN: [(&str, &str); 4] = [
    (
        "link add podwire0 type veth peer name other",
        "of kind veth",
    ),
    ("link add podwire0 type bridge", "of kind bridge"),
    ("tuntap add podwire0 mode tap multi_queue", "a TAP device"),
    (
        "tuntap add podwire0 mode tun",
        "a TUN device made without multi_queue",
    ),
];

fn whole(bed: &Testbed) -> Result<()> {
    bed.nodes().iter().try_for_each(Node::wait_ready)?;
    wait_peers(bed)?;
    until(CONVERGENCE, "the mesh to be whole", || {
        matrix::all_reached(&bed.matrix().run())
    })
}

fn foreign_links(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(2).pods_per_node(1))?;
    let node = bed.node(1);
    for other in bed.nodes() {
        other.edit_manifest(|_| ())?;
    }
    bed.node(2).start_agent()?;
    bed.node(2).wait_ready()?;
    for (add, kind) in FOREIGN {
        node.namespace().ip(&[add.to_owned()])?;
        node.namespace().nft(WITNESS)?;
        leads_out(&bed)?;
        let before = link(node)?;
        node.start_agent()?;
        let status = tells(node, &["podwire0 is taken", kind, "--device"])?;
        ensure!(!status.ready && status.plaintext.is_empty(), "{status:?}");
        nothing_passes(&bed).context(kind)?;
        stayed_in(node).context(kind)?;
        ensure!(link(node)? == before, "{kind}: the link was changed");
        // Without the link the agent goes on by itself.
        node.namespace().nft("delete table inet witness\n")?;
        node.namespace().ip(&["link del podwire0".to_owned()])?;
        whole(&bed).with_context(|| format!("after {kind}"))?;
        node.stop_agent()?;
        node.namespace().ip(&["link del podwire0".to_owned()])?;
    }
    // A link that takes the place of the device while the agent runs.
    node.start_agent()?;
    whole(&bed)?;
    node.namespace().nft(WITNESS)?;
    // The agent makes a lost device anew in some milliseconds: it is held while that happens.
    let agent = i32::try_from(node.agent_pid()?)
        .ok()
        .and_then(Pid::from_raw);
    let agent = agent.context("an agent's process id is not 0")?;
    kill_process(agent, Signal::STOP)?;
    let lines = ["link del podwire0", FOREIGN[0].0];
    let replaced = node.namespace().ip(&lines.map(str::to_owned));
    kill_process(agent, Signal::CONT)?;
    replaced?;
    leads_out(&bed)?;
    tells(node, &["podwire0 is taken", FOREIGN[0].1])?;
    nothing_passes(&bed)?;
    stayed_in(node)?;
    node.namespace().ip(&["link del podwire0".to_owned()])?;
    whole(&bed)
}

/// Somebody's routes lead node 2's pods into the foreign link, which is up and asks for no
/// neighbour.
fn leads_out(bed: &Testbed) -> Result<()> {
    let node = bed.node(1);
    let mut lines: Vec<String> = Vec::new();
    for name in ["podwire0", "other"] {
        if node
            .namespace()
            .output("ip", &["link", "show", name], "")
            .is_ok()
        {
            lines.push(format!("link set {name} addrgenmode none"));
            lines.push(format!("link set {name} arp off up"));
        }
    }
    for cidr in bed.node(2).manifest().pod_cidrs {
        lines.push(format!("route add {cidr} dev podwire0 metric 1"));
    }
    node.namespace().ip(&lines)
}

/// The foreign link as others see it, without what counts or settles by itself.
fn link(node: &Node) -> Result<String> {
    let text = node
        .namespace()
        .output("ip", &["-d", "link", "show", "podwire0"], "")?;
    let line = text.lines().next().unwrap_or_default();
    Ok(line.split(" state ").next().unwrap_or_default().to_owned())
}

/// Counts what goes to a pod by the foreign link, after everybody else was asked.
const WITNESS: &str = "table inet witness {\n  counter led_out { }\n  chain postrouting {\n    \
    type filter hook postrouting priority 1000;\n    \
    oifname \"podwire0\" ip daddr 10.244.0.0/16 counter name led_out\n    \
    oifname \"podwire0\" ip6 daddr fd00:10:244::/48 counter name led_out\n  }\n}\n";

/// Not one packet to a pod left by the foreign link.
fn stayed_in(node: &Node) -> Result<()> {
    let arguments = ["list", "counter", "inet", "witness", "led_out"];
    let text = node.namespace().output("nft", &arguments, "")?;
    ensure!(text.contains("packets 0 "), "packets were led out: {text}");
    Ok(())
}

/// Another state folder and other ports, but the same device: two readers would each take half of
/// the packets.
fn a_second_agent(context: &Context) -> Result<()> {
    let topology = Topology::new().nodes(2).pods_per_node(1);
    let bed = context.mesh(&topology)?;
    whole(&bed)?;
    let bystanders = Bystanders::watch(&bed)?;
    let node = bed.node(1);
    let folder = bed.folder().join("second");
    let mut command = Command::new(node.agent_program()?);
    let flags = [
        "run",
        "--node-name=node-1",
        "--cluster-cidr=10.244.0.0/16,fd00:10:244::/48",
        "--metrics-address=127.0.0.1:9999",
        "--listen-port=52000",
    ];
    command.args(flags.map(OsStr::new)).arg("--directory");
    command.arg(bed.directory().path()).arg("--state-dir");
    command.arg(folder.join("state")).arg("--run-dir");
    command.arg(folder.join("run")).stdin(Stdio::null());
    let log = folder.with_extension("log");
    let file = std::fs::File::create(&log)?;
    command.stdout(file.try_clone()?).stderr(file);
    let mut second = node.namespace().spawn(command)?;
    let told = until(CONVERGENCE, "the second agent to say why", || {
        let text = std::fs::read_to_string(&log)?;
        ensure!(
            text.contains("podwire0 is in use by another process"),
            "{text}"
        );
        Ok(())
    });
    second.kill()?;
    second.wait()?;
    told?;
    bystanders.untouched(0)?;
    ensure!(status(node)?.ready, "the first agent suffered");
    wait_status(node, "the first agent to go on", |status| {
        status.problems.is_empty()
    })?;
    Ok(())
}
