//! Kubernetes' own tests of networks, those that every conformant cluster passes, on plain routes
//! and on Podwire: the mesh changes none of their results.
//!
//! `make conformance` runs it: it takes longer than `make e2e` may.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::cluster::{IMAGE_REGISTRIES, IMAGE_REGISTRIES_VARIABLE, conformance_images};
use podwire_testbed::control_plane::{ADMIN_TOKEN, program};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Cluster, IpVersion, Testbed, address, results};
use serde_json::Value;

use crate::{plain_network, podwire, scene};

pub(crate) const TESTS: &[Test] = &[(
    "kubernetes_own_tests_of_networks_end_on_podwire_as_on_plain_routes",
    kubernetes_own_tests_of_networks_end_on_podwire_as_on_plain_routes,
)];

/// Some tests want to see pods on two nodes.
const NODES: u8 = 2;

/// Of the suite's names, which say whose they are.
const FOCUS: &str = r"\[sig-network\].*\[Conformance\]";

/// As many as Kubernetes 1.36 has: fewer were not the whole.
const TESTS_MIN: usize = 47;

/// They wait for their pods most of the time.
const PROCESSES: &str = "--procs=6";

/// Of one run: a single test may look for a name for ten minutes.
const TIMEOUT: &str = "--timeout=45m";

/// What became of each test, by its name: `passed` or another word of ginkgo's.
type Outcomes = BTreeMap<String, String>;

fn kubernetes_own_tests_of_networks_end_on_podwire_as_on_plain_routes(
    context: &Context,
) -> Result<()> {
    let plain = {
        let (bed, cluster) = cluster(context)?;
        plain_network::connect(&bed, &cluster)?;
        run(&bed, &cluster, "plain")?
    };
    let podwire = {
        let (bed, cluster) = cluster(context)?;
        podwire::roll_out(&cluster, "")?;
        run(&bed, &cluster, "podwire")?
    };
    let path = results::write("conformance", &table(&plain, &podwire))?;
    ensure!(
        plain == podwire && plain.len() >= TESTS_MIN && plain.values().all(|it| it == "passed"),
        "not all of {TESTS_MIN} passed on both: see {}",
        path.display()
    );
    Ok(())
}

fn cluster(context: &Context) -> Result<(Arc<Testbed>, Cluster)> {
    let (bed, cluster) = scene::cluster(context, NODES, &podwire::plan()?)?;
    cluster.import(&[conformance_images(&bed.folder())?])?;
    // The API server asks pods by its proxy, as a host of the network that nodes are in.
    let versions = [IpVersion::V4, IpVersion::V6];
    bed.allow_one_sided_with(&versions.map(|version| address::router(address::lan(0, version))));
    let mut routes = Vec::new();
    for node in cluster.nodes() {
        routes.extend(plain_network::routes_to(&cluster, node)?);
    }
    bed.underlay().namespace().ip(&routes)?;
    Ok((bed, cluster))
}

/// Runs the tests in the API server's namespace.
fn run(bed: &Testbed, cluster: &Cluster, network: &str) -> Result<Outcomes> {
    cluster.wait_ready()?;
    let folder = bed.folder().join("logs");
    let kubeconfig = folder.join("conformance.kubeconfig");
    cluster.plane().write_kubeconfig(&kubeconfig, ADMIN_TOKEN)?;
    let log = File::create(folder.join(format!("{network}-tests.log")))?;
    let report = format!("{network}-tests.json");
    let mut ginkgo = Command::new(program("ginkgo")?);
    ginkgo
        .args([PROCESSES, TIMEOUT, "--no-color"])
        .arg(format!("--json-report={report}"))
        .arg(format!("--focus={FOCUS}"))
        .arg(format!("--output-dir={}", folder.display()))
        .arg(program("e2e.test")?)
        .args(["--", "--provider=skeleton"])
        .arg(format!("--kubeconfig={}", kubeconfig.display()))
        .env(
            IMAGE_REGISTRIES_VARIABLE,
            bed.folder().join(IMAGE_REGISTRIES),
        )
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    // Its exit code tells of failed tests, which its report does, too.
    bed.underlay().namespace().spawn(ginkgo)?.wait()?;
    outcomes(&folder.join(report))
}

/// Reads ginkgo's report.
fn outcomes(report: &Path) -> Result<Outcomes> {
    let report = fs::read(report).context("ginkgo wrote no report: see the log of the tests")?;
    let suites: Vec<Value> = serde_json::from_slice(&report)?;
    let specs = suites
        .iter()
        .filter_map(|suite| suite["SpecReports"].as_array());
    let specs = specs.flatten().filter(|spec| spec["LeafNodeType"] == "It");
    let run = specs.filter(|spec| spec["State"] != "skipped");
    run.map(|spec| {
        let containers = spec["ContainerHierarchyTexts"].as_array();
        let mut words: Vec<_> = containers
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        words.extend(spec["LeafNodeText"].as_str());
        let state = spec["State"].as_str().context("a state is a word")?;
        Ok((words.join(" "), state.to_owned()))
    })
    .collect()
}

/// The list of all, for people.
fn table(plain: &Outcomes, podwire: &Outcomes) -> String {
    let mut text = String::from(
        "# Kubernetes' own conformance tests of networks\n\n\
         `make conformance` writes this: what became of each on a whole cluster with plain host \
         routes, and of each on one with Podwire. The tests are those of the version in \
         `tests/servers/conformance`, unchanged. The images that they ask for are not the \
         published ones: `agnhost` built from the same version, with Debian's curl, dig, nc and \
         shell beside it, which also stands for nginx, of which the tests want that it runs.\n\n\
         | test | plain routes | Podwire |\n|---|---|---|\n",
    );
    let names: BTreeSet<_> = plain.keys().chain(podwire.keys()).collect();
    for name in names {
        let [plain, podwire] =
            [plain, podwire].map(|outcomes| outcomes.get(name).map_or("not run", String::as_str));
        let _ = writeln!(text, "| {name} | {plain} | {podwire} |");
    }
    text
}
