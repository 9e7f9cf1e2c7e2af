//! A whole cluster on this machine, for hands-on work, until Ctrl-C.
//!
//! Everything lives in namespaces of this process: nothing of the host is touched or left.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum, value_parser};
use podwire_testbed::address::NODES_MAX;
use podwire_testbed::cluster::{self, Cluster, ClusterPlan, POD_IMAGE, ProxyMode};
use podwire_testbed::control_plane::{ADMIN_TOKEN, program};
use podwire_testbed::{Testbed, Topology};
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};

/// Brings up a cluster of real nodes on this machine and keeps it until Ctrl-C: API server,
/// controllers and scheduler; containerd, kubelet and kube-proxy on each node; CoreDNS.
///
/// Nodes are Ready, and pods start, when something brings a CNI configuration.
#[derive(Debug, Parser)]
#[command(name = "cluster", version)]
struct CommandLine {
    /// Nodes.
    #[arg(long, default_value_t = 3)]
    #[arg(value_parser = value_parser!(u8).range(1..=i64::from(NODES_MAX)))]
    nodes: u8,
    /// What kube-proxy works by.
    #[arg(long, value_enum, default_value_t = Proxy::Nftables)]
    proxy: Proxy,
    /// An archive of an OCI image that every node shall have; may be given several times.
    #[arg(long, value_name = "FILE")]
    image: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Proxy {
    Nftables,
    Iptables,
}

/// Single-threaded until the sandbox is entered: the kernel moves a whole process only then.
fn main() -> ExitCode {
    match run(&CommandLine::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(line: &CommandLine) -> Result<()> {
    cluster::enter()?;
    let plan = ClusterPlan {
        proxy: match line.proxy {
            Proxy::Nftables => ProxyMode::Nftables,
            Proxy::Iptables => ProxyMode::Iptables,
        },
        images: line.image.clone(),
    };
    complain(&format!("starting a cluster of {} nodes", line.nodes));
    let topology = Topology::new().nodes(line.nodes).container_runtime();
    let bed = Arc::new(topology.start("cluster")?);
    let cluster = Cluster::start(&bed, &plan)?;
    let kubeconfig = bed.folder().join("kubeconfig");
    cluster.plane().write_kubeconfig(&kubeconfig, ADMIN_TOKEN)?;
    wait_for_signal(&instructions(&bed, &cluster, &kubeconfig)?)?;
    complain("taking the cluster down");
    drop(cluster);
    Ok(())
}

fn instructions(bed: &Testbed, cluster: &Cluster, kubeconfig: &std::path::Path) -> Result<String> {
    let underlay = bed.underlay().namespace();
    let mut text = format!(
        "The API is served in the network between the nodes. A shell there, with kubectl:\n\
         {} env KUBECONFIG={} PATH={}:$PATH bash\n\n\
         Enter the nodes (a shell, or a command at the end of the line):\n",
        underlay.enter_command(),
        kubeconfig.display(),
        program("kubectl")?
            .parent()
            .context("a program is in a folder")?
            .display(),
    );
    for node in cluster.nodes() {
        let _ = writeln!(text, "{:<12} {}", node.name(), node.enter_command()?);
    }
    let outside = bed.outside().namespace();
    let _ = writeln!(text, "{:<12} {}", outside.name(), outside.enter_command());
    let _ = writeln!(
        text,
        "\nAn image for pods: {POD_IMAGE}, imagePullPolicy: Never"
    );
    let _ = writeln!(text, "Logs: {}", bed.folder().join("logs").display());
    text.push_str("Ctrl-C takes it all down.\n");
    Ok(text)
}

/// Shows a text, and returns at SIGINT or SIGTERM.
fn wait_for_signal(text: &str) -> Result<()> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).context("waiting for Ctrl-C")?;
        let mut terminate = signal(SignalKind::terminate()).context("waiting for SIGTERM")?;
        // Only now: whoever reads it may send a signal at once.
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()?;
        tokio::select! {
            _ = interrupt.recv() => (),
            _ = terminate.recv() => (),
        }
        Ok(())
    })
}

/// There is nobody left to tell when that fails.
fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
