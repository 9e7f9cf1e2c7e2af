//! The CNI configuration that an agent makes: when, with what in it, what of others it touches
//! (nothing), and what it says of a host on which no pod would start.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, program, run_program, sample, status, wait_status};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Node, Testbed, Topology, matrix, until};
use serde_json::{Value, json};

pub(crate) const TESTS: &[Test] = &[
    (
        "the_cni_configuration_appears_only_once_the_node_is_ready",
        only_once_ready,
    ),
    (
        "after_a_reboot_the_cni_link_leads_nowhere_until_the_node_is_ready_again",
        a_reboot,
    ),
    (
        "a_cni_link_or_file_that_somebody_changes_is_back_with_one_line_and_other_files_stay",
        healing,
    ),
    (
        "what_keeps_pods_from_starting_is_named_with_its_remedy_and_not_touched",
        findings,
    ),
    (
        "without_a_plugin_the_cni_configuration_of_before_goes_and_none_comes",
        none,
    ),
    (
        "addresses_of_other_pod_cidrs_leave_the_bridge_of_pods",
        stale_addresses,
    ),
    (
        "pods_of_a_host_network_node_get_the_mtu_of_its_own_link",
        host_network,
    ),
    (
        "cleanup_takes_the_cni_link_and_file_and_a_bridge_without_pods_and_nothing_else",
        cleanup,
    ),
];

const LINK: &str = "05-podwire.conflist";

/// Where a node's container runtime would look, if there were one.
fn folder(node: &Node) -> Result<PathBuf> {
    let beside = node
        .run_dir()
        .parent()
        .context("the run folder lies somewhere")?;
    Ok(beside.join("net.d"))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("test folders have plain names")
}

/// A node with that folder, whose agent shall write there when it starts.
fn with_folder(bed: &Testbed, node: u8, further: &[&str]) -> Result<PathBuf> {
    let node = bed.node(node);
    let folder = folder(node)?;
    fs::create_dir_all(&folder)?;
    let mut arguments = vec!["--cni-configuration-directory", text(&folder)];
    arguments.extend(further);
    node.set_agent_arguments(&arguments);
    Ok(folder)
}

/// One node, ready, with its configuration in place.
fn one_node(context: &Context, further: &[&str]) -> Result<(std::sync::Arc<Testbed>, PathBuf)> {
    let bed = context.testbed(&Topology::new().nodes(1).pods_per_node(2))?;
    let folder = with_folder(&bed, 1, further)?;
    bed.start_agents()?;
    wait_configuration(&folder)?;
    Ok((bed, folder))
}

/// What a runtime would read, once it can.
fn wait_configuration(folder: &Path) -> Result<Value> {
    until(CONVERGENCE, "a CNI configuration", || {
        let text = fs::read_to_string(folder.join(LINK))?;
        Ok(serde_json::from_str(&text)?)
    })
}

/// Every file of the folder with its content, but for our link.
fn others(folder: &Path) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != LINK {
            found.insert(name, fs::read_to_string(entry.path())?);
        }
    }
    Ok(found)
}

/// Which link it is: one that is made again is another.
fn inode(path: &Path) -> Result<u64> {
    Ok(fs::symlink_metadata(path)?.ino())
}

fn only_once_ready(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(2).pods_per_node(1))?;
    let node = bed.node(1);
    let folder = with_folder(&bed, 1, &["--cni-plugin", "ptp"])?;
    fs::write(folder.join("10-other.conflist"), "somebody's")?;
    let before = others(&folder)?;
    bed.nodes()
        .iter()
        .try_for_each(|node| node.edit_manifest(|_| ()))?;
    node.namespace().sysctl(&[("ipv4/ip_forward", "0")])?;
    node.start_agent()?;
    // All is in place but that; it is looked for again and again.
    wait_status(node, "many passes without forwarding", |status| {
        !status.ready && status.registry.synchronised && status.reconcile.runs > 10
    })?;
    let link = folder.join(LINK);
    ensure!(
        fs::symlink_metadata(&link).is_err(),
        "it is there before the node is ready"
    );
    let cni = status(node)?.cni.context("nothing is said of it")?;
    ensure!(!cni.in_place && cni.mtu.is_none(), "{cni:?}");
    node.namespace().sysctl(&[("ipv4/ip_forward", "1")])?;
    node.wait_ready()?;
    let found = wait_configuration(&folder)?;
    let target = fs::read_link(&link)?;
    ensure!(
        target.parent() == Some(node.run_dir()),
        "it leads to {}",
        target.display()
    );
    let interface = &found["plugins"][0];
    ensure!(
        found["name"] == "podwire" && interface["type"] == "ptp",
        "{found}"
    );
    // An underlay of both families leaves this.
    ensure!(interface["mtu"] == json!(1420), "{found}");
    let subnets: Vec<_> = interface["ipam"]["ranges"]
        .as_array()
        .context("no ranges")?
        .iter()
        .map(|set| set[0]["subnet"].clone())
        .collect();
    let expected = node.manifest().pod_cidrs;
    let expected: Vec<_> = expected
        .iter()
        .map(|cidr| json!(cidr.to_string()))
        .collect();
    ensure!(subnets == expected, "{subnets:?}");
    ensure!(others(&folder)? == before, "other files changed");
    let shown = node.agent_output(&["status"])?;
    let says = format!("{} in place; ptp, MTU 1420", link.display());
    ensure!(shown.contains(&says), "{says} is not in:\n{shown}");
    // Without the flag there is none.
    bed.node(2).start_agent()?;
    bed.node(2).wait_ready()?;
    ensure!(status(bed.node(2))?.cni.is_none(), "it was not asked for");
    Ok(())
}

fn a_reboot(context: &Context) -> Result<()> {
    let (bed, folder) = one_node(context, &[])?;
    let node = bed.node(1);
    let link = folder.join(LINK);
    let before = wait_configuration(&folder)?;
    node.stop_agent()?;
    ensure!(
        wait_configuration(&folder)? == before,
        "the end of the agent changed it"
    );
    bed.reboot(1)?;
    let dangling = inode(&link)?;
    ensure!(!link.exists(), "it leads somewhere after a reboot");
    node.namespace().sysctl(&[("ipv4/ip_forward", "0")])?;
    node.start_agent()?;
    wait_status(node, "many passes without forwarding", |status| {
        !status.ready && status.registry.synchronised && status.reconcile.runs > 10
    })?;
    ensure!(
        !link.exists(),
        "it leads somewhere before the node is ready"
    );
    node.namespace().sysctl(&[("ipv4/ip_forward", "1")])?;
    node.wait_ready()?;
    ensure!(wait_configuration(&folder)? == before, "it is another one");
    until(CONVERGENCE, "the link to be made after its target", || {
        ensure!(inode(&link)? != dangling, "it is the one from before");
        Ok(())
    })?;
    // A runtime may have looked while the agent was away.
    let made = inode(&link)?;
    node.kill_agent()?;
    ensure!(link.exists(), "it went with the agent");
    node.start_agent()?;
    node.wait_ready()?;
    until(CONVERGENCE, "the link to be made again", || {
        ensure!(inode(&link)? != made, "it is the one from before");
        Ok(())
    })
}

fn healing(context: &Context) -> Result<()> {
    let (bed, folder) = one_node(context, &[])?;
    let node = bed.node(1);
    let link = folder.join(LINK);
    let expected = fs::read_to_string(&link)?;
    let target = fs::read_link(&link)?;
    for name in [
        "10-other.conflist",
        "99-loopback.conf",
        ".05-podwire.conflist",
    ] {
        fs::write(folder.join(name), name)?;
    }
    let before = others(&folder)?;
    let damages: [(&str, &dyn Fn() -> Result<()>); 3] = [
        ("the link is removed", &|| Ok(fs::remove_file(&link)?)),
        ("the link leads elsewhere", &|| {
            fs::remove_file(&link)?;
            Ok(symlink("/dev/null", &link)?)
        }),
        ("the file is removed", &|| Ok(fs::remove_file(&target)?)),
    ];
    for (what, damage) in damages {
        damage()?;
        until(CONVERGENCE, &format!("all to be back after {what}"), || {
            ensure!(fs::read_link(&link)? == target, "no such link");
            ensure!(fs::read_to_string(&link)? == expected, "another content");
            Ok(())
        })?;
    }
    ensure!(others(&folder)? == before, "other files changed");
    let log = node.log();
    let lines = log
        .lines()
        .filter(|line| line.contains("put back the CNI configuration"));
    // The same once more within a minute is counted, not told.
    let lines = lines.count();
    ensure!(lines == 2, "{lines} lines in {log}");
    // At rest nothing is written.
    let made = (inode(&link)?, inode(&target)?);
    looked_at(node, &folder, "-first.conf")?;
    ensure!(
        made == (inode(&link)?, inode(&target)?),
        "it was written again"
    );
    // Once more within the minute is a fight.
    wait_findings(node, "cni-fight", &[text(&link), "--cni-plugin none"])?;
    fs::write(&target, "{}")?;
    looked_at(node, &folder, "+first.conf")?;
    ensure!(fs::read_to_string(&target)? == "{}", "it is fought");
    wait_status(node, "a configuration that is not in place", |status| {
        status.cni.as_ref().is_some_and(|cni| !cni.in_place)
    })?;
    Ok(())
}

/// Waits until the agent has looked after its configuration again: it then tells this file, which
/// sorts before all that are there.
fn looked_at(node: &Node, folder: &Path, file: &str) -> Result<()> {
    fs::write(folder.join(file), "")?;
    wait_findings(node, "cni-configuration", &[file])
}

fn none(context: &Context) -> Result<()> {
    let (bed, folder) = one_node(context, &[])?;
    let node = bed.node(1);
    let target = fs::read_link(folder.join(LINK))?;
    fs::write(folder.join("10-other.conflist"), "somebody's")?;
    let before = others(&folder)?;
    node.stop_agent()?;
    with_folder(&bed, 1, &["--cni-plugin", "none"])?;
    node.start_agent()?;
    node.wait_ready()?;
    until(CONVERGENCE, "link and file to go", || {
        let link = fs::symlink_metadata(folder.join(LINK));
        ensure!(link.is_err() && !target.exists(), "they are there");
        Ok(())
    })?;
    ensure!(others(&folder)? == before, "other files changed");
    ensure!(status(node)?.cni.is_none(), "it shows one");
    Ok(())
}

fn stale_addresses(context: &Context) -> Result<()> {
    let (bed, _) = one_node(context, &[])?;
    let node = bed.node(1);
    node.namespace().ip(&[
        "link add podwire-bridge type bridge".to_owned(),
        "address add 10.244.77.1/24 dev podwire-bridge".to_owned(),
        "link set podwire-bridge up".to_owned(),
    ])?;
    until(CONVERGENCE, "the address of before to go", || {
        let shown = ["address", "show", "dev", "podwire-bridge"];
        let found = node.namespace().output("ip", &shown, "")?;
        ensure!(!found.contains("10.244.77.1"), "{found}");
        Ok(())
    })
}

/// Messages of the findings of these kinds, once there are so many.
fn wait_findings(node: &Node, kind: &str, words: &[&str]) -> Result<()> {
    let what = format!("{kind} to be found, and {words:?} to be said");
    let expected = u64::from(!words.is_empty());
    until(CONVERGENCE, &what, || {
        let found = status(node)?.findings;
        let of_kind: Vec<_> = found.iter().filter(|found| found.kind == kind).collect();
        let says = |text: &str| words.iter().all(|word| text.contains(word));
        ensure!(
            of_kind.iter().all(|found| says(&found.message)),
            "{found:?}"
        );
        ensure!(u64::try_from(of_kind.len())? == expected, "{found:?}");
        let name = format!("podwire_host_findings{{kind=\"{kind}\"}}");
        ensure!(sample(node, &name)? == expected, "another number in {name}");
        let log = node.log();
        ensure!(log.lines().any(says), "not in the log: {log}");
        Ok(())
    })
}

fn findings(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(1).pods_per_node(2))?;
    let node = bed.node(1);
    let plugins = node.run_dir().with_file_name("bin");
    fs::create_dir_all(&plugins)?;
    let put = |program: &str, mode| -> Result<()> {
        let path = plugins.join(program);
        fs::write(&path, "")?;
        Ok(fs::set_permissions(
            &path,
            fs::Permissions::from_mode(mode),
        )?)
    };
    for program in ["bridge", "host-local"] {
        put(program, 0o755)?;
    }
    put("portmap", 0o644)?;
    let folder = with_folder(&bed, 1, &["--cni-plugin-directory", text(&plugins)])?;
    bed.start_agents()?;
    wait_configuration(&folder)?;
    let at = text(&plugins);
    wait_findings(
        node,
        "cni-plugins",
        &["no portmap, loopback in", at, "install"],
    )?;
    put("portmap", 0o755)?;
    put("loopback", 0o755)?;
    wait_findings(node, "cni-plugins", &[])?;

    wait_findings(node, "cni-configuration", &[])?;
    let other = folder.join("00-flannel.conflist");
    fs::write(&other, "somebody's")?;
    let words = [text(&other), LINK, "move it out"];
    wait_findings(node, "cni-configuration", &words)?;
    ensure!(
        fs::read_to_string(&other)? == "somebody's",
        "it was touched"
    );
    let shown = node.agent_output(&["status"])?;
    let line = shown.lines().find(|line| line.starts_with("host "));
    ensure!(line.is_some(), "no line of it in:\n{shown}");
    fs::rename(&other, folder.join("10-flannel.conflist"))?;
    wait_findings(node, "cni-configuration", &[])?;

    // The testbed's pods have Ethernet's.
    let words = ["another MTU than 1420: 2", "pod1 has 1500", "recreate"];
    wait_findings(node, "pod-mtu", &words)?;
    for (pod, words) in [(1, ["1420: 1", "pod2 has 1500"].as_slice()), (2, &[])] {
        let port = node.pod(pod).port();
        node.namespace()
            .ip(&[format!("link set {port} mtu 1420")])?;
        wait_findings(node, "pod-mtu", words)?;
    }
    ensure!(status(node)?.ready, "the node is not ready for all that");
    Ok(())
}

fn host_network(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(2).pods_per_node(1).mtu(1400))?;
    bed.expect_plaintext();
    let folder = with_folder(&bed, 1, &["--mode", "host-network"])?;
    bed.node(2).set_agent_arguments(&["--mode", "host-network"]);
    bed.start_agents()?;
    let found = wait_configuration(&folder)?;
    ensure!(found["plugins"][0]["mtu"] == json!(1400), "{found}");
    matrix::all_reached(&bed.matrix().run())
}

fn cleanup(context: &Context) -> Result<()> {
    let (bed, folder) = one_node(context, &[])?;
    let node = bed.node(1);
    let link = folder.join(LINK);
    let target = fs::read_link(&link)?;
    fs::write(folder.join("10-other.conflist"), "somebody's")?;
    let foreign = others(&folder)?;
    let program = program(node)?;
    node.namespace().ip(&[
        "link add podwire-bridge type bridge".to_owned(),
        "link add left type veth peer name far".to_owned(),
        "link set left master podwire-bridge".to_owned(),
    ])?;
    node.stop_agent()?;
    let clean_up = || -> Result<String> {
        let output = run_program(
            node,
            &program,
            &[
                OsStr::new("cleanup"),
                OsStr::new("--state-dir"),
                node.state_dir().as_os_str(),
                OsStr::new("--run-dir"),
                node.run_dir().as_os_str(),
                OsStr::new("--cni-configuration-directory"),
                folder.as_os_str(),
            ],
        )?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {said}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let has_bridge = || {
        node.namespace()
            .output("ip", &["link", "show", "podwire-bridge"], "")
    };
    let said = clean_up()?;
    ensure!(said.contains("link removed, file removed"), "{said}");
    ensure!(said.contains("kept, with 1 pods behind it"), "{said}");
    ensure!(
        fs::symlink_metadata(&link).is_err() && !target.exists(),
        "link or file are there"
    );
    has_bridge().context("a bridge with a pod behind it went")?;
    node.namespace()
        .ip(&["link set left nomaster".to_owned()])?;
    let said = clean_up()?;
    ensure!(said.contains("bridge podwire-bridge removed"), "{said}");
    ensure!(has_bridge().is_err(), "the bridge is there");
    for kept in ["left", "cni0"] {
        node.namespace().output("ip", &["link", "show", kept], "")?;
    }
    ensure!(others(&folder)? == foreign, "other files changed");
    let again = clean_up()?;
    ensure!(
        again.contains("link was not there, file was not there"),
        "{again}"
    );
    Ok(())
}
