//! All keys of fifty nodes, a tenth of them at once, by an operator's keyctl: what it takes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, status, wait_whole};
use podwire_testbed::control_plane::{AGENT_USER, AuditEvent, Server, user_token};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{
    ControlPlane, IpVersion, Protocol, Testbed, cpu_seconds, keyctl, matrix, results, until,
};
use serde_json::Value;

use crate::rotation_watch::{RotationWatch, Stage};
use crate::scene::{Flows, annotation, cluster, join, topology};

/// Half an hour: for `make soak` alone.
pub(crate) const TESTS: &[Test] = &[(
    "an_operator_rotates_the_keys_of_fifty_nodes_a_tenth_at_once_and_no_datagram_is_lost",
    rotated,
)];

const NODES: u8 = 50;

/// Of these nodes the share that may be in rotation at once, and how many that are.
const SHARE: &str = "--max-unavailable=10%";
const AT_ONCE: usize = 5;

/// Between which datagrams are counted: the ends of some are in rotation together.
const PAIRS: [(u8, u8); 5] = [(1, 10), (2, 20), (5, 25), (30, 31), (40, 50)];

/// Asked, announced, promoted and retired: what the agent writes, and what it tells as Events.
const WRITES: usize = 3;

const OPERATOR: &str = "alice";

/// How often all pods ask all others: of sessions that live for three minutes none ends between.
const BEAT: Duration = Duration::from_secs(50);

/// How long the same mesh is measured without a rotation.
const REST: Duration = Duration::from_secs(250);

/// A promise: ten times three minutes and half a minute.
const WHOLE_MAX: Duration = Duration::from_secs(2_100);

/// Processor time since the start of these, in seconds.
#[derive(Debug, Clone, Copy)]
struct Usage {
    at: Instant,
    agents: f64,
    api_server: f64,
}

impl Usage {
    fn now(bed: &Testbed, cluster: &ControlPlane) -> Result<Self> {
        let agents = bed.nodes().iter();
        let agents = agents.map(|node| cpu_seconds(node.agent_pid()?));
        Ok(Self {
            at: Instant::now(),
            agents: agents.sum::<Result<f64>>()?,
            api_server: cpu_seconds(cluster.server_pid(Server::ApiServer)?)?,
        })
    }

    /// Of the agents and of the API server, for each second since `before`.
    fn each_second_since(self, before: Self) -> [f64; 2] {
        let seconds = self.at.duration_since(before.at).as_secs_f64();
        let [agents, api_server] = self.since(before);
        [agents / seconds, api_server / seconds]
    }

    fn since(self, before: Self) -> [f64; 2] {
        [
            self.agents - before.agents,
            self.api_server - before.api_server,
        ]
    }
}

/// Requests about Nodes and Events.
struct Requests {
    records: BTreeMap<String, usize>,
    events: BTreeMap<String, usize>,
    agents_reads: usize,
    asked: usize,
    lists: usize,
}

impl Requests {
    fn of(requests: &[AuditEvent]) -> Self {
        let of_agents = || requests.iter().filter(|it| it.user == AGENT_USER);
        let of_operator = || requests.iter().filter(|it| it.user == OPERATOR);
        let by_node = |resource: &str| {
            let mut counts = BTreeMap::new();
            let writes = of_agents().filter(|it| it.is_write() && it.resource == resource);
            for write in writes {
                *counts
                    .entry(write.node.clone().unwrap_or_default())
                    .or_default() += 1;
            }
            counts
        };
        Self {
            records: by_node("nodes"),
            events: by_node("events"),
            agents_reads: of_agents().filter(|it| it.verb == "get").count(),
            asked: of_operator().filter(|it| it.is_write()).count(),
            lists: of_operator().filter(|it| it.verb == "list").count(),
        }
    }

    /// Each agent wrote what belongs to a rotation and nothing else, and each was asked once.
    fn check(&self) -> Result<()> {
        for (what, counts) in [("records", &self.records), ("Events", &self.events)] {
            ensure!(
                counts.len() == usize::from(NODES) && counts.values().all(|it| *it == WRITES),
                "{what}: {counts:?}"
            );
        }
        ensure!(self.asked == usize::from(NODES), "{} requests", self.asked);
        Ok(())
    }
}

/// A rotation's steps, as the table names them.
const STEPS: [(&str, Stage, Stage); 3] = [
    (
        "from the request to the announcement",
        Stage::Asked,
        Stage::Announced,
    ),
    (
        "from there to the promotion",
        Stage::Announced,
        Stage::Promoted,
    ),
    (
        "from there to the end of the old keys",
        Stage::Promoted,
        Stage::Retired,
    ),
];

/// What was measured.
struct Measured {
    most: usize,
    /// How long each of [`STEPS`] took of each node, the shortest first.
    lasted: [Vec<Duration>; STEPS.len()],
    requests: Requests,
    datagrams: u64,
    whole: Duration,
    /// Of the agents and of the API server: in the whole time, and in as much time at rest.
    busy: [f64; 2],
    at_rest: [f64; 2],
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cores = thread::available_parallelism().map_or(0, usize::from);
        writeln!(f, "# All keys of a mesh, a tenth of it at once\n")?;
        writeln!(
            f,
            "A real API server and {NODES} agents of one lane on {cores} cores; \
             `keyctl rotate --all {SHARE}` as a holder of `podwire-operator`. All pods ask all \
             others every {} s, before and meanwhile.\n",
            BEAT.as_secs()
        )?;
        writeln!(f, "| what | |\n|---|---|")?;
        let (minutes, seconds) = (self.whole.as_secs() / 60, self.whole.as_secs() % 60);
        writeln!(
            f,
            "| from the first request to the last keys that were retired | {minutes} min {seconds} s |"
        )?;
        writeln!(
            f,
            "| nodes in rotation at one moment, at most | {} |",
            self.most
        )?;
        for ((what, ..), lasted) in STEPS.iter().zip(&self.lasted) {
            let median = lasted[lasted.len() / 2].as_secs_f64();
            let longest = lasted[lasted.len() - 1].as_secs_f64();
            writeln!(
                f,
                "| {what}: median, longest | {median:.1} s, {longest:.1} s |"
            )?;
        }
        let requests = &self.requests;
        let all = |counts: &BTreeMap<String, usize>| counts.values().sum::<usize>();
        writeln!(
            f,
            "| records written; Events | {}; {} |",
            all(&requests.records),
            all(&requests.events)
        )?;
        writeln!(
            f,
            "| requests written by keyctl; lists of all Nodes | {}; {} |",
            requests.asked, requests.lists
        )?;
        writeln!(
            f,
            "| Nodes read by agents, each its own | {} |",
            requests.agents_reads
        )?;
        let names = ["all agents together", "the API server"];
        for ((who, busy), rest) in names.iter().zip(self.busy).zip(self.at_rest) {
            let each = (busy - rest) / f64::from(NODES);
            writeln!(
                f,
                "| processor time of {who}; in as much time at rest; so for each rotation \
                 | {busy:.1} s; {rest:.1} s; {each:.2} s |"
            )?;
        }
        writeln!(
            f,
            "| datagrams between pods of {} pairs; lost | {}; 0 |",
            PAIRS.len(),
            self.datagrams
        )
    }
}

#[expect(clippy::print_stdout, reason = "the promise is to measure")]
fn rotated(context: &Context) -> Result<()> {
    let (bed, cluster) = cluster(context, &topology(NODES))?;
    // Of so many frames the search would cost the capture some; every header is still read.
    bed.capture().search_payloads(false)?;
    introduce(&bed)?;
    let numbers: Vec<u8> = (1..=NODES).collect();
    join(&bed, &cluster, &numbers)?;
    // It would take Nodes without a lease for dead.
    cluster.stop_server(Server::ControllerManager)?;
    let user = format!("--user={OPERATOR}");
    let role = "--clusterrole=podwire-operator";
    cluster.kubectl(
        &["create", "clusterrolebinding", "operators", role, &user],
        "",
    )?;
    wait_whole(&bed)?;

    let at_rest = at_rest(&bed, &cluster)?;
    let before = keys(&bed, &cluster)?;
    let requests = cluster.audit()?.len();
    let mut watch = RotationWatch::begin(&cluster)?;
    let flows = Flows::start(&bed, &PAIRS)?;
    let usage = Usage::now(&bed, &cluster)?;
    let run = run(&bed, &cluster, &mut watch)?;
    let busy = Usage::now(&bed, &cluster)?;
    println!("{}", run.out);
    let datagrams = flows.sent();
    flows.lost_nothing()?;
    ensure!(run.code == Some(0), "{run:?}");

    let seconds = busy.at.duration_since(usage.at).as_secs_f64();
    let measured = Measured {
        most: watch.most,
        whole: watch.whole()?,
        lasted: lasted(&watch)?,
        requests: wait_told(&cluster, requests)?,
        datagrams,
        busy: busy.since(usage),
        at_rest: at_rest.map(|each| each * seconds),
    };
    println!("{measured}");
    results::write("rotation-fleet", &measured.to_string())?;
    ensure!(measured.most == AT_ONCE, "{} at once", measured.most);
    ensure!(measured.whole <= WHOLE_MAX, "{:?}", measured.whole);
    let all = format!("promoted confirmed={0}/{0}", NODES - 1);
    let promotions = &watch.promotions;
    ensure!(promotions.values().all(|it| *it == all), "{promotions:?}");
    for ((name, old), (_, new)) in before.iter().zip(keys(&bed, &cluster)?) {
        ensure!(*old != new, "{name} still has its old key");
    }
    for node in bed.nodes() {
        let status = status(node)?;
        ensure!(status.refusals.is_empty(), "{}: {status:?}", node.name());
    }
    wait_whole(&bed)
}

/// Tells each node where all others are on their LAN. The kernel asks for 1,024 neighbours of a
/// family at most, of all namespaces together; those that it is told do not count.
fn introduce(bed: &Testbed) -> Result<()> {
    let mut neighbours = Vec::new();
    for node in bed.nodes() {
        let arguments = ["-j", "link", "show", "eth0"];
        let text = node.namespace().output("ip", &arguments, "")?;
        let links: Value = serde_json::from_str(&text)?;
        let link = links[0]["address"].as_str().context("no address")?;
        for address in node.manifest().addresses {
            let line = format!("neighbor replace {address} lladdr {link} dev eth0");
            neighbours.push((node.number(), line));
        }
    }
    bed.nodes().iter().try_for_each(|node| {
        let others = neighbours.iter().filter(|(of, _)| *of != node.number());
        let lines: Vec<_> = others.map(|(_, line)| line.clone()).collect();
        node.namespace().ip(&lines)
    })
}

/// What the mesh takes in a second without a rotation, and that it loses nothing.
fn at_rest(bed: &Testbed, cluster: &ControlPlane) -> Result<[f64; 2]> {
    let flows = Flows::start(bed, &PAIRS)?;
    let (start, usage) = (Instant::now(), Usage::now(bed, cluster)?);
    keep_in_touch(bed, || start.elapsed() >= REST)?;
    let each_second = Usage::now(bed, cluster)?.each_second_since(usage);
    flows
        .lost_nothing()
        .context("inconclusive: without a rotation")?;
    Ok(each_second)
}

/// Runs keyctl to its end, with all pairs in touch and all Nodes in sight.
fn run(bed: &Testbed, cluster: &ControlPlane, watch: &mut RotationWatch) -> Result<keyctl::Run> {
    let over = AtomicBool::new(false);
    let is_over = || over.load(Ordering::Relaxed);
    let arguments = ["rotate", "--all", SHARE, "--wait", "--timeout=1h"];
    thread::scope(|scope| {
        let run = scope.spawn(|| {
            let run = keyctl::run(bed, cluster, &user_token(OPERATOR), &arguments);
            over.store(true, Ordering::Relaxed);
            run
        });
        let talk = scope.spawn(|| keep_in_touch(bed, is_over));
        let followed = watch.follow(cluster, is_over);
        let talked = talk.join();
        let run = run.join();
        followed?;
        talked.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        run.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Each pod asks each other one once, and is answered, again and again until it is over. Over IPv4:
/// the kernel has a neighbour for each IPv6 destination, even behind a tunnel, and see [`introduce`].
fn keep_in_touch(bed: &Testbed, is_over: impl Fn() -> bool) -> Result<()> {
    while !is_over() {
        let start = Instant::now();
        let questions = bed.matrix().protocols(&[Protocol::Udp]);
        let questions = questions.versions(&[IpVersion::V4]).attempts(1);
        matrix::all_reached(&questions.run())?;
        until(BEAT * 2, "the next beat", || {
            ensure!(start.elapsed() >= BEAT || is_over(), "not yet");
            Ok(())
        })?;
    }
    Ok(())
}

/// The key of lane 0 of each node.
fn keys(bed: &Testbed, cluster: &ControlPlane) -> Result<Vec<(String, String)>> {
    let nodes = bed.nodes().iter();
    let keys = nodes.map(|node| {
        let key = annotation(cluster, node.name(), "public-key")?;
        Ok((node.name().to_owned(), key))
    });
    keys.collect()
}

/// All requests after the first `before`, once the server has noted as many as there must be.
fn wait_told(cluster: &ControlPlane, before: usize) -> Result<Requests> {
    until(CONVERGENCE, "all writes in the audit log", || {
        let requests = cluster.audit()?.split_off(before);
        let ours = |it: &&AuditEvent| it.user == AGENT_USER || it.user == OPERATOR;
        let refused = requests.iter().filter(ours).find(|it| it.code >= 300);
        ensure!(refused.is_none(), "{refused:?}");
        let requests = Requests::of(&requests);
        requests.check()?;
        Ok(requests)
    })
}

fn lasted(watch: &RotationWatch) -> Result<[Vec<Duration>; STEPS.len()]> {
    let mut all = [const { Vec::new() }; STEPS.len()];
    for (lasted, (_, from, to)) in all.iter_mut().zip(STEPS) {
        *lasted = watch.lasted(from, to)?;
    }
    Ok(all)
}
