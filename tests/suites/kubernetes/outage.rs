//! The control plane's failures, which the testbed plays.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::control_plane::{Server, WITHOUT_WATCH_LIST};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{ControlPlane, Topology, until};

pub(crate) const TESTS: &[Test] = &[
    ("a_snapshot_takes_back_what_came_after_it", older_snapshot),
    (
        "an_api_server_is_stopped_paused_and_comes_back",
        stopped_and_paused,
    ),
    ("a_rotated_ca_is_trusted_by_those_who_have_it", rotated_ca),
    (
        "an_api_server_without_watch_list_refuses_to_stream_a_list",
        without_watch_list,
    ),
];

/// Generous: nothing here is measured.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// The value of an annotation that these tests write.
fn annotation(cluster: &ControlPlane) -> Result<String> {
    let node = cluster.node("node-1")?;
    let annotations = node.metadata.annotations.unwrap_or_default();
    Ok(annotations
        .get("podwire.test/at")
        .cloned()
        .unwrap_or_default())
}

fn annotate(cluster: &ControlPlane, value: &str) -> Result<()> {
    let annotation = format!("podwire.test/at={value}");
    let arguments = ["annotate", "--overwrite", "node", "node-1", &annotation];
    cluster.kubectl(&arguments, "").map(drop)
}

fn with_one_node(context: &Context) -> Result<ControlPlane> {
    let bed = context.testbed(&Topology::new().nodes(1).pods_per_node(0))?;
    let cluster = ControlPlane::start(&bed, &[])?;
    cluster.create_node("node-1", &bed.node(1).manifest().addresses)?;
    annotate(&cluster, "first")?;
    Ok(cluster)
}

fn older_snapshot(context: &Context) -> Result<()> {
    let cluster = with_one_node(context)?;
    let version = |cluster: &ControlPlane| -> Result<u64> {
        let version = cluster.node("node-1")?.metadata.resource_version;
        Ok(version.context("no resource version")?.parse()?)
    };
    let cidrs = cluster.pod_cidrs("node-1")?;
    let snapshot = cluster.snapshot()?;
    annotate(&cluster, "second")?;
    let later = version(&cluster)?;
    cluster.restore(&snapshot)?;
    ensure!(
        annotation(&cluster)? == "first",
        "{}",
        annotation(&cluster)?
    );
    ensure!(version(&cluster)? < later, "the resource version stayed");
    ensure!(cluster.pod_cidrs("node-1")? == cidrs, "other pod CIDRs");
    // It is a store that can be written, and the same snapshot serves again.
    annotate(&cluster, "third")?;
    cluster.restore(&snapshot)?;
    ensure!(
        annotation(&cluster)? == "first",
        "{}",
        annotation(&cluster)?
    );
    Ok(())
}

fn stopped_and_paused(context: &Context) -> Result<()> {
    let cluster = with_one_node(context)?;
    cluster.stop_server(Server::ApiServer)?;
    ensure!(annotation(&cluster).is_err(), "a stopped server answers");
    ensure!(
        cluster.stop_server(Server::ApiServer).is_err(),
        "stopped twice"
    );
    cluster.start_server(Server::ApiServer)?;
    ensure!(
        annotation(&cluster)? == "first",
        "{}",
        annotation(&cluster)?
    );
    cluster.pause_server(Server::ApiServer)?;
    let asked = ["get", "--raw", "/readyz", "--request-timeout=1s"];
    ensure!(cluster.kubectl(&asked, "").is_err(), "a paused one answers");
    cluster.resume_server(Server::ApiServer)?;
    until(DEADLINE, "its answer", || cluster.kubectl(&asked, ""))?;
    cluster.restart_server(Server::Etcd)?;
    until(DEADLINE, "a write after the store's restart", || {
        annotate(&cluster, "second")
    })
}

fn rotated_ca(context: &Context) -> Result<()> {
    let cluster = with_one_node(context)?;
    let before = cluster.client();
    let credentials = cluster.agent_credentials("node-1", DEADLINE)?;
    cluster.rotate_ca()?;
    let bundle = std::fs::read_to_string(cluster.ca_file())?;
    ensure!(bundle.matches("BEGIN CERTIFICATE").count() == 2, "{bundle}");
    let agents = std::fs::read_to_string(credentials.folder().join("ca.crt"))?;
    ensure!(agents == bundle, "{agents}");
    ensure!(
        annotation(&cluster)? == "first",
        "{}",
        annotation(&cluster)?
    );
    // kubectl trusts what is in the file.
    annotate(&cluster, "second")?;
    let answer = cluster.run(async { before.apiserver_version().await });
    let refusal = format!("{:?}", answer.err().context("the old CA is trusted")?);
    ensure!(refusal.contains("UnknownIssuer"), "{refusal}");
    Ok(())
}

fn without_watch_list(context: &Context) -> Result<()> {
    let cluster = with_one_node(context)?;
    let path = "/api/v1/nodes?watch=true&sendInitialEvents=true\
                &resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1";
    let streamed = cluster.kubectl(&["get", "--raw", path], "")?;
    ensure!(streamed.contains("initial-events-end"), "{streamed}");
    cluster.set_api_server_arguments(&[WITHOUT_WATCH_LIST]);
    cluster.restart_server(Server::ApiServer)?;
    let refusal = cluster.kubectl(&["get", "--raw", path], "");
    let refusal = format!("{:#}", refusal.err().context("it streams a list")?);
    ensure!(refusal.contains("sendInitialEvents"), "{refusal}");
    ensure!(
        annotation(&cluster)? == "first",
        "{}",
        annotation(&cluster)?
    );
    Ok(())
}
