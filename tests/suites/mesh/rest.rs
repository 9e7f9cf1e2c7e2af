//! A mesh in which nothing happens does nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Node, Testbed, Topology, matrix, until};

use podwire_testbed::agent_view::{CONVERGENCE, status};

pub(crate) const TESTS: &[Test] = &[("a_mesh_at_rest_for_a_minute_does_nothing", at_rest)];

/// As long as the promise says.
const REST: Duration = Duration::from_secs(60);

/// Traffic is over when nothing has happened for this long: longer than WireGuard's keepalive of
/// 10 s, which still follows the last packet, and than the 15 s after which a bridge tells once
/// more of a port that has come up.
const SETTLED: Duration = Duration::from_secs(17);

/// It must have settled by then.
const SETTLE_DEADLINE: Duration = Duration::from_secs(60);

/// Programs that print every change of a namespace: links, addresses, routes; and nftables.
/// Neighbours are left out: the underlay's own ARP is no change of ours.
const MONITORS: [(&str, &[&str]); 2] = [
    ("ip", &["monitor", "link", "address", "route", "rule"]),
    ("nft", &["monitor"]),
];

/// A monitor of one namespace that writes into a file.
struct Monitor {
    name: String,
    output: PathBuf,
    child: Child,
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Monitor {
    fn start(bed: &Testbed, node: &Node, program: &str, arguments: &[&str]) -> Result<Self> {
        let name = format!("{}.{program}", node.name());
        let output = bed.folder().join(format!("{name}.monitor"));
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .stdin(Stdio::null())
            .stdout(File::create(&output)?)
            .stderr(Stdio::null());
        let child = node.namespace().spawn(command)?;
        let monitor = Self {
            name,
            output,
            child,
        };
        // It listens once it has seen a change that this test makes: one that misses changes
        // would prove nothing.
        until(CONVERGENCE, &format!("{} to listen", monitor.name), || {
            provoke(node)?;
            ensure!(
                monitor.text()?.contains("canary"),
                "it printed {:?}",
                monitor.text()?
            );
            Ok(())
        })?;
        Ok(monitor)
    }

    fn text(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(&self.output)?).into_owned())
    }
}

/// A link and a table that come and go.
fn provoke(node: &Node) -> Result<()> {
    node.namespace().ip(&[
        "link add canary type bridge".to_owned(),
        "link delete canary".to_owned(),
    ])?;
    node.namespace()
        .nft("add table inet canary\ndelete table inet canary\n")
}

/// Everything that may not change, by name.
type Observed = BTreeMap<String, String>;

fn observe(bed: &Testbed, monitors: &[Monitor]) -> Result<Observed> {
    let mut observed = Observed::new();
    let folder = bed.directory().path();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        observed.insert(name, file(&entry.metadata()?));
    }
    observed.insert(
        "the registry's folder".to_owned(),
        file(&fs::metadata(folder)?),
    );
    for monitor in monitors {
        observed.insert(monitor.name.clone(), monitor.text()?);
    }
    for node in bed.nodes() {
        observed.insert(format!("the log of {}", node.name()), node.log());
    }
    Ok(observed)
}

/// A file that is written, or replaced by another one with the same contents, differs in these.
fn file(metadata: &fs::Metadata) -> String {
    format!(
        "inode {} written {}.{:09} changed {}.{:09}",
        metadata.ino(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec()
    )
}

/// What of `after` differs from `before`, in words.
fn difference(before: &Observed, after: &Observed) -> Option<String> {
    let names: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let changed: Vec<_> = names
        .into_iter()
        .filter(|name| before.get(*name) != after.get(*name))
        .map(|name| {
            let old = before.get(name).map_or("nothing", String::as_str);
            let new = after.get(name).map_or("nothing", String::as_str);
            // Logs and monitors grow: what is new is what counts.
            format!("{name}: {}", new.strip_prefix(old).unwrap_or(new).trim())
        })
        .collect();
    if changed.is_empty() {
        None
    } else {
        Some(changed.join("\n"))
    }
}

fn at_rest(context: &Context) -> Result<()> {
    let bed = context.mesh(&Topology::new().pods_per_node(1))?;
    matrix::all_reached(&bed.matrix().run())?;
    let mut monitors = Vec::new();
    for node in bed.nodes() {
        for (program, arguments) in MONITORS {
            monitors.push(Monitor::start(&bed, node, program, arguments)?);
        }
    }
    let mut last = observe(&bed, &monitors)?;
    let mut since = Instant::now();
    until(SETTLE_DEADLINE, "the mesh to settle", || {
        let now = observe(&bed, &monitors)?;
        if let Some(difference) = difference(&last, &now) {
            (last, since) = (now, Instant::now());
            bail!("it did something: {difference}");
        }
        ensure!(
            since.elapsed() >= SETTLED,
            "still for {} s",
            since.elapsed().as_secs()
        );
        Ok(())
    })?;
    let counts = |node: &Node| {
        let status = status(node)?;
        anyhow::Ok((
            status.registry.writes,
            status.reconcile.kernel_changes,
            status.reconcile.errors,
        ))
    };
    let before = bed.nodes().iter().map(counts).collect::<Result<Vec<_>>>()?;
    let start = Instant::now();
    let outcome = until(2 * REST, "a minute at rest", || {
        let now = observe(&bed, &monitors)?;
        if let Some(difference) = difference(&last, &now) {
            // Not worth waiting for: the outer error says so at once.
            return Ok(Err(difference));
        }
        ensure!(
            start.elapsed() >= REST,
            "{} s so far",
            start.elapsed().as_secs()
        );
        Ok(Ok(()))
    })?;
    if let Err(difference) = outcome {
        bail!(
            "at rest for {} s, then:\n{difference}",
            start.elapsed().as_secs()
        );
    }
    let after = bed.nodes().iter().map(counts).collect::<Result<Vec<_>>>()?;
    ensure!(
        before == after,
        "writes, kernel changes, errors: {before:?}, then {after:?}"
    );
    // The mesh is still one.
    matrix::all_reached(&bed.matrix().run()).context("after the rest")
}
