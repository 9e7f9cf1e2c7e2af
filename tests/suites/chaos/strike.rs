//! What a fault of a plan does to a testbed, and what ends it.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use podwire_testbed::fault_plan::{Fault, Planned};
use podwire_testbed::{Impairment, ImpairmentId, IpVersion, Node, Testbed, WIREGUARD_PORTS};
use serde_json::Value;

/// Better than the metric of our routes, 1024.
const BETTER_METRIC: u32 = 10;

/// Numbers of the places that nodes move to: no node and no pod is there.
const OTHER_ADDRESS: u8 = 50;
const OTHER_CIDR: u8 = 100;

/// What a path that is to be mended loses.
const LOSS_PERCENT: f64 = 20.0;

const LINK_MTU: u16 = 1500;
const SMALLER_LINK_MTU: u16 = 1400;

/// Seconds by which a clock is wrong: an hour back, a year ahead.
const CLOCKS: [i64; 2] = [-3600, 365 * 24 * 3600];

/// Lanes of every agent.
pub(crate) const LANES: u16 = 2;

/// How a fault that is under way ends.
pub(crate) enum End {
    /// By the agent, without our doing.
    ByItself,
    /// It has not begun: an earlier fault has left nothing to act on.
    Void,
    StartAgent,
    StartAllAgents,
    ResumeAgent,
    /// An agent that could not start gets its keys back.
    ReturnKeys,
    RemoveRoutes(Vec<String>),
    /// The record as it was, whatever the agent has written since.
    ReturnRecord(String),
    CreateNode,
    ReturnToAddress,
    ReturnToCidrs,
    Heal(Vec<ImpairmentId>),
    ReturnMtu,
    ReturnRegistry,
    SetClockRight,
}

/// Begins a fault.
pub(crate) fn begin(bed: &Testbed, planned: &Planned) -> Result<End> {
    let number = planned.node;
    let node = bed.node(number);
    let hole = Impairment::blackhole;
    match planned.fault {
        Fault::Killed => node.kill_agent().map(|_| End::StartAgent),
        Fault::Terminated => node.stop_agent().map(|_| End::StartAgent),
        Fault::Stopped => node.pause_agent().map(|()| End::ResumeAgent),
        Fault::AllKilled => kill_all(bed),
        Fault::StateLost => lose_state(node),
        Fault::KeysLost => lose_keys(node),
        Fault::DeviceDeleted => Ok(hit(ip(node, "link delete podwire0"))),
        Fault::DeviceDown => Ok(hit(ip(node, "link set podwire0 down"))),
        Fault::RoutesFlushed => Ok(hit(flush(node, &["route", "flush", "table", "all"]))),
        Fault::RulesFlushed => Ok(hit(flush(node, &["rule", "flush"]))),
        Fault::ClockSet => {
            let seconds = CLOCKS[planned.choice as usize % CLOCKS.len()];
            node.set_clock(seconds).map(|()| End::SetClockRight)
        }
        Fault::AddressesFlushed => Ok(hit(ip(node, "address flush dev podwire0"))),
        Fault::TableFlushed => Ok(hit(node.namespace().nft("flush ruleset\n"))),
        Fault::RuleDeleted => Ok(hit(delete_rule(node, planned.choice))),
        Fault::SettingsChanged => Ok(hit(change_setting(node, planned.choice))),
        Fault::BetterRoute => lead_astray(bed, planned, |cidr| Ok(vec![cidr])),
        Fault::LongerRoute => lead_astray(bed, planned, |cidr| {
            Ok(cidr.subnets(cidr.prefix_len() + 1)?.collect())
        }),
        Fault::RecordDeleted => spoil_record(bed, node, None),
        Fault::RecordGarbled => spoil_record(bed, node, Some("\0{[: not a record")),
        Fault::RecordZeroed => spoil_record(bed, node, Some("")),
        Fault::NodeCreatedAgain => node.delete_manifest().map(|()| End::CreateNode),
        Fault::AddressChanged => {
            let moved = node.change_address(OTHER_ADDRESS + number);
            moved.map(|()| End::ReturnToAddress)
        }
        Fault::PodCidrChanged => {
            let moved = node.change_pod_cidrs(OTHER_CIDR + number);
            moved.map(|()| End::ReturnToCidrs)
        }
        Fault::Mute => impair(bed, &[hole().from(number)]),
        Fault::Deaf => impair(bed, &[hole().to(number)]),
        Fault::Blackholed => impair(bed, &[hole().from(number), hole().to(number)]),
        Fault::Lossy => impair(bed, &[Impairment::loss(LOSS_PERCENT).from(number)]),
        Fault::LaneBlocked => {
            let lane = u16::try_from(planned.choice % u32::from(LANES))?;
            let port = WIREGUARD_PORTS.start + lane;
            impair(bed, &[hole().to(number).udp_port(port)])
        }
        Fault::MtuChanged => node.set_mtu(SMALLER_LINK_MTU).map(|()| End::ReturnMtu),
        Fault::RegistryAway => {
            let folder = bed.directory().path();
            fs::rename(folder, away(folder)).context("taking the registry away")?;
            Ok(End::ReturnRegistry)
        }
    }
}

/// Ends a fault.
pub(crate) fn end(bed: &Testbed, planned: &Planned, end: End) -> Result<()> {
    let node = bed.node(planned.node);
    match end {
        End::ByItself | End::Void => Ok(()),
        End::SetClockRight => node.set_clock(0),
        End::StartAgent => node.start_agent(),
        End::StartAllAgents => bed.nodes().iter().try_for_each(Node::start_agent),
        End::ResumeAgent => node.resume_agent(),
        End::ReturnKeys => return_keys(node),
        End::RemoveRoutes(routes) => {
            for route in routes {
                // Gone already where the node lost the address that its gateway is a neighbour of.
                let _ = node.namespace().ip(&[format!("route del {route}")]);
            }
            Ok(())
        }
        End::ReturnRecord(text) => {
            let path = bed.directory().record_path(node.name());
            bed.directory().replace(&path, &text)
        }
        End::CreateNode => node.edit_manifest(|manifest| {
            manifest.uid = format!("ffffffff-0000-4000-8000-{:012}", planned.choice);
            manifest.created = "2026-02-02T00:00:00Z".to_owned();
        }),
        End::ReturnToAddress => node.change_address(planned.node),
        End::ReturnToCidrs => node.change_pod_cidrs(planned.node),
        End::Heal(impairments) => impairments.into_iter().try_for_each(|id| bed.heal(id)),
        End::ReturnMtu => node.set_mtu(LINK_MTU),
        End::ReturnRegistry => {
            let folder = bed.directory().path();
            fs::rename(away(folder), folder).context("bringing the registry back")
        }
    }
}

fn away(folder: &Path) -> std::path::PathBuf {
    folder.with_extension("away")
}

fn kill_all(bed: &Testbed) -> Result<End> {
    for node in bed.nodes() {
        node.kill_agent()?;
    }
    Ok(End::StartAllAgents)
}

fn lose_state(node: &Node) -> Result<End> {
    node.kill_agent()?;
    fs::remove_dir_all(node.state_dir())?;
    Ok(End::StartAgent)
}

/// The agent that is started here ends by itself: keys are never silently made anew.
fn lose_keys(node: &Node) -> Result<End> {
    node.kill_agent()?;
    // There are none yet where the state was lost and the agent killed again at once.
    if fs::rename(keys(node), lost_keys(node)).is_err() {
        return Ok(End::StartAgent);
    }
    node.start_agent()?;
    Ok(End::ReturnKeys)
}

fn return_keys(node: &Node) -> Result<()> {
    // It has ended, or is about to; one that has made keys anew must not go on with them.
    let _ = node.kill_agent();
    fs::rename(lost_keys(node), keys(node)).context("bringing the keys back")?;
    node.start_agent()
}

fn keys(node: &Node) -> std::path::PathBuf {
    node.state_dir().join("keys")
}

fn lost_keys(node: &Node) -> std::path::PathBuf {
    node.state_dir().with_extension("lost-keys")
}

fn ip(node: &Node, line: &str) -> Result<()> {
    node.namespace().ip(&[line.to_owned()])
}

/// A fault that the agent undoes. It is void where an earlier one has left nothing to act on; that
/// no kind always is, is seen over all seeds.
fn hit(outcome: Result<()>) -> End {
    match outcome {
        Ok(()) => End::ByItself,
        Err(_) => End::Void,
    }
}

/// Flushes what is of protocol 119 of a kind of object.
fn flush(node: &Node, what: &[&str]) -> Result<()> {
    ["-4", "-6"].iter().try_for_each(|version| {
        let arguments = [&[*version], what, &["proto", "119"]].concat();
        node.namespace().output("ip", &arguments, "").map(drop)
    })
}

fn change_setting(node: &Node, choice: u32) -> Result<()> {
    let sysctl = |key, value| node.namespace().sysctl(&[(key, value)]);
    match choice % 4 {
        0 => ip(node, "link set podwire0 mtu 1300"),
        1 => ip(node, "link set podwire0 txqueuelen 100"),
        2 => sysctl("ipv4/conf/podwire0/forwarding", "0"),
        _ => sysctl("ipv4/conf/podwire0/rp_filter", "1"),
    }
}

/// Deletes one of the rules of the table.
fn delete_rule(node: &Node, choice: u32) -> Result<()> {
    let arguments = ["-j", "-a", "list", "table", "inet", "podwire"];
    let text = node.namespace().output("nft", &arguments, "")?;
    let listed: Value = serde_json::from_str(&text)?;
    let rules: Vec<_> = listed["nftables"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|object| {
            let rule = &object["rule"];
            Some((rule["chain"].as_str()?, rule["handle"].as_u64()?))
        })
        .collect();
    let (chain, handle) = rules
        .get(choice as usize % rules.len().max(1))
        .context("the table has no rules")?;
    node.namespace().nft(&format!(
        "delete rule inet podwire {chain} handle {handle}\n"
    ))
}

/// Routes that lead packets for a peer's pods straight to that node, in plaintext.
fn lead_astray(
    bed: &Testbed,
    planned: &Planned,
    parts: impl Fn(IpNet) -> Result<Vec<IpNet>>,
) -> Result<End> {
    let (node, peer) = (bed.node(planned.node), bed.node(planned.peer));
    let mut routes = Vec::new();
    for cidr in peer.manifest().pod_cidrs {
        let gateway = peer.host().address(IpVersion::of(cidr.addr()))?;
        let way = format!("via {gateway} dev eth0 metric {BETTER_METRIC} proto static");
        routes.extend(parts(cidr)?.iter().map(|part| format!("{part} {way}")));
    }
    let lines: Vec<_> = routes.iter().map(|r| format!("route add {r}")).collect();
    node.namespace().ip(&lines)?;
    Ok(End::RemoveRoutes(routes))
}

/// Puts something else where the record was, or nothing.
fn spoil_record(bed: &Testbed, node: &Node, text: Option<&str>) -> Result<End> {
    let path = bed.directory().record_path(node.name());
    // A node that was created again, or lost its record, may not have written one yet.
    let Ok(before) = fs::read_to_string(&path) else {
        return Ok(End::Void);
    };
    match text {
        Some(text) => bed.directory().replace(&path, text)?,
        None => fs::remove_file(&path)?,
    }
    Ok(End::ReturnRecord(before))
}

fn impair(bed: &Testbed, impairments: &[Impairment]) -> Result<End> {
    let impaired = impairments.iter().map(|impairment| bed.impair(impairment));
    Ok(End::Heal(impaired.collect::<Result<_>>()?))
}
