//! One agent: what it holds, what wakes it, what it does between two wake-ups.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use podwire_core::annotations;
use podwire_core::generation::WentBack;
use podwire_core::key::PublicKey;
use podwire_core::mesh::{DesiredMesh, Incumbents, OwnNode, Pair};
use podwire_core::node::{Node, NodeName};
use podwire_core::record::{Mode, Record};
use podwire_core::underlay_links::{Link, UnderlayLinks};
use podwire_dataplane::PeerStatus;
use podwire_registry::nodes::Nodes;
use podwire_registry::registry::Registry;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use crate::admin::{GuardCounts, ShownHandle};
use crate::args::ModeArg;
use crate::config::Config;
use crate::control::boot;
use crate::control::cause::Cause;
use crate::control::cni_configuration::Cni;
use crate::control::contradictions;
use crate::control::data_plane::DataPlane;
use crate::control::endpoints_in_use::{endpoints_in_use, fallbacks};
use crate::control::events::Events;
use crate::control::findings::Findings;
use crate::control::generations;
use crate::control::healing::Healing;
use crate::control::host_checks::HostChecks;
use crate::control::incumbents;
use crate::control::key_rotation::KeyRotation;
use crate::control::mode::{self, ModeDecision, ModeInputs};
use crate::control::network_available::Announcement;
use crate::control::obstacles::Obstacles;
use crate::control::problems::Problems;
use crate::control::publishing::Publishing;
use crate::control::registry::{self, Opened};
use crate::control::show::OfNodes;
use crate::control::status::ReconcileStatus;
use crate::control::write_budget::WriteBudget;
use crate::netlink::{self, Netlink, Watch};
use crate::state::State;
use crate::transport::TunDevice;

/// Longest time between two passes. The kernel tells nobody when a path MTU that it has learnt
/// expires.
const VERIFY_INTERVAL: Duration = Duration::from_secs(30);

/// Least time between two writes of the snapshot, each of which is synced to the disk as a whole.
const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(2);

/// The agent of this node.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(super) config: Config,
    pub(super) state: State,
    pub(super) netlink: Netlink,
    pub(super) watch: Watch,
    /// When the kernel is observed after the last notification.
    pub(super) kernel_due: Option<Instant>,
    pub(super) healing: Healing,
    pub(super) obstacles: Obstacles,
    pub(super) findings: Findings,
    pub(super) host_checks: HostChecks,
    pub(super) cni: Cni,
    /// As the last pass saw them.
    pub(super) links: Vec<Link>,
    pub(super) underlay_links: UnderlayLinks,
    pub(super) registry: Registry,
    pub(super) nodes_receiver: watch::Receiver<Arc<Nodes>>,
    watcher: JoinHandle<Infallible>,
    /// Must be over before anything is written.
    pub(super) tidying: Option<JoinHandle<()>>,
    pub(super) publishing: Option<Publishing>,
    pub(super) write_budget: WriteBudget,
    /// What the registry told last; the snapshot's nodes until it has told anything.
    pub(super) nodes: Arc<Nodes>,
    /// Records that do not count, because a newer one was seen.
    pub(super) went_back: BTreeMap<NodeName, WentBack>,
    /// The own Node as it was last known: an own manifest that is missing or malformed for a moment
    /// must not cut the local pods off.
    own_known: Option<Arc<Node>>,
    pub(super) incumbents: Incumbents,
    pub(super) mode: ModeDecision,
    pub(super) data_plane: Option<DataPlane>,
    pub(super) rotation: KeyRotation,
    pub(super) mesh: Option<Arc<DesiredMesh>>,
    /// Where peers were found when the last pass began.
    pub(super) in_use: BTreeSet<IpAddr>,
    pub(super) shown: ShownHandle,
    pub(super) of_nodes: OfNodes,
    pub(super) progress: ReconcileStatus,
    pub(super) problems: Problems,
    pub(super) events: Events,
    pub(super) announcement: Announcement,
    pub(super) registry_writes: u64,
    /// Whether the guard table is in force, as of the last pass.
    pub(super) guarded: bool,
    snapshot_kept: Option<Instant>,
    /// Whether nodes or incumbents may differ from the snapshot on disk.
    has_news_to_keep: bool,
    /// When the last pass began.
    pub(super) passed: Instant,
    /// Until then there is none for what can wait: with thousands of peers passes take long.
    pub(super) rests_until: Instant,
    /// Whether a whole pass over synchronised nodes has succeeded.
    pub(super) converged: bool,
    /// Whether that ever was so: a node that is ready stays ready while its registry or a peer is
    /// away.
    pub(super) ready: bool,
}

/// Whether the guards of the start are in force.
async fn close(netlink: &mut Netlink, config: &Config) -> bool {
    let (name, device) = (&config.node_name, &config.device);
    let closed = boot::close(netlink, name, &config.policy, device).await;
    let is_closed = closed.is_ok();
    if let Err(error) = closed {
        let error = anyhow::Error::new(error);
        warn!("cannot install the guards of the start: {error:#}");
    }
    is_closed
}

impl Agent {
    /// Opens everything, installs the guards from what the disk knows, and brings up what the last
    /// known mesh needs. The registry is followed from here on.
    ///
    /// # Errors
    /// What only an operator can mend: flags that contradict this machine, a state folder that
    /// cannot be used, `--mode encrypted` without a TUN device. Whatever else stands in the way
    /// (a port, a name, nftables) is shown and tried again, and the node stays closed meanwhile.
    pub(crate) async fn start(config: Config) -> anyhow::Result<Self> {
        let policy = &config.policy;
        let mut netlink = Netlink::open(&config.device)?;
        match netlink.own_sources().await {
            Ok(sources) => sources.into_iter().try_for_each(|address| {
                contradictions::check_address(address, &policy.cluster_cidrs)
            })?,
            // The registry tells the own addresses later.
            Err(error) => debug!(%error, "cannot look for the own addresses"),
        }
        let guarded = close(&mut netlink, &config).await;
        let state = State::open(&config.state_dir, config.lanes, SystemTime::now())?;
        let watch = Watch::open()?;
        let Opened {
            registry,
            watcher,
            tidying,
        } = registry::open(&config, &state)?;
        let nodes_receiver = registry.nodes();
        let snapshot = state.snapshot();
        let mut agent = Self {
            own_known: snapshot.nodes.get(&config.node_name).cloned(),
            nodes: Arc::new(Nodes {
                nodes: snapshot.nodes,
                ..Nodes::default()
            }),
            went_back: BTreeMap::new(),
            incumbents: snapshot.incumbents,
            config,
            state,
            netlink,
            watch,
            kernel_due: None,
            healing: Healing::default(),
            obstacles: Obstacles::default(),
            findings: Findings::default(),
            host_checks: HostChecks::default(),
            cni: Cni::default(),
            links: Vec::new(),
            underlay_links: UnderlayLinks::default(),
            registry,
            nodes_receiver,
            watcher,
            tidying,
            publishing: None,
            write_budget: WriteBudget::default(),
            mode: ModeDecision::Undecided,
            data_plane: None,
            rotation: KeyRotation::default(),
            mesh: None,
            in_use: BTreeSet::new(),
            shown: ShownHandle::default(),
            of_nodes: OfNodes::default(),
            progress: ReconcileStatus::default(),
            problems: Problems::default(),
            events: Events::default(),
            announcement: Announcement::default(),
            registry_writes: 0,
            guarded,
            snapshot_kept: None,
            has_news_to_keep: true,
            passed: Instant::now(),
            rests_until: Instant::now(),
            converged: false,
            ready: false,
        };
        agent.decide_mode()?;
        agent.reconcile(Cause::Start).await?;
        Ok(agent)
    }

    /// What the admin side shows.
    pub(crate) fn shown(&self) -> ShownHandle {
        Arc::clone(&self.shown)
    }

    /// Takes over what the registry told last.
    pub(super) fn take_nodes(&mut self) {
        let told = self.nodes_receiver.borrow_and_update().clone();
        self.has_news_to_keep = true;
        self.nodes = if told.nodes.is_empty() && !told.is_synchronised() {
            // Before the registry has told anything, the snapshot is what is known.
            Arc::new(Nodes {
                nodes: self.nodes.nodes.clone(),
                ..(*told).clone()
            })
        } else {
            let (held, went_back) =
                generations::hold_newer(&self.nodes, told, &self.config.node_name);
            self.went_back = went_back;
            held
        };
        if self.nodes.is_synchronised() {
            // Before the pass, so that what a deleted Node held is free for another one at once.
            self.incumbents = incumbents::remaining(&self.incumbents, &self.nodes);
        }
        if let Some(own) = self.own_node() {
            self.own_known = Some(Arc::clone(own));
        }
    }

    /// The own Node, once the registry or the snapshot knows it.
    pub(super) fn own_node(&self) -> Option<&Arc<Node>> {
        self.nodes.nodes.get(&self.config.node_name)
    }

    /// The record that this node has published, if it can be read.
    pub(super) fn own_published(&self) -> Option<Record> {
        annotations::parse(&self.own_node()?.annotations)
            .ok()
            .flatten()
    }

    /// The mode that the own record says, as it was last known.
    fn mode_published(&self) -> Option<Mode> {
        let record = annotations::parse(&self.own_known.as_ref()?.annotations);
        Some(record.ok().flatten()?.mode)
    }

    /// What this node knows of itself.
    pub(super) fn own(&self) -> OwnNode {
        let node = self.own_known.as_ref();
        OwnNode {
            name: self.config.node_name.clone(),
            mode: self.mode.in_force(self.mode_published()),
            pod_cidrs: node.map(|node| node.pod_cidrs.clone()).unwrap_or_default(),
            addresses: node.map(|node| node.addresses.clone()).unwrap_or_default(),
            public_keys: self.state.public_keys(),
        }
    }

    /// Whether the own record says that this node was encrypted; `None` while that is not known.
    fn was_encrypted_by_record(&self) -> Option<bool> {
        // A record that cannot be read says nothing: no decision from the absence of data.
        if !self.nodes.is_synchronised() || self.nodes.rejected.contains_key(&self.config.node_name)
        {
            return None;
        }
        match annotations::parse(&self.own_node()?.annotations) {
            Ok(record) => Some(record.is_some_and(|own| own.mode == Mode::Encrypted)),
            Err(_) => None,
        }
    }

    /// Decides the mode, again and again while it is open: a device may become usable, the registry
    /// may tell the own record.
    pub(super) fn decide_mode(&mut self) -> anyhow::Result<()> {
        if matches!(self.mode, ModeDecision::Declared(_)) {
            return Ok(());
        }
        let probed = TunDevice::probe();
        let decision = mode::decide(ModeInputs {
            asked: self.config.mode,
            tun_usable: probed.is_ok(),
            has_net_admin: netlink::has_net_admin(),
            was_encrypted_by_disk: self.state.ever_encrypted(),
            was_encrypted_by_record: self.was_encrypted_by_record(),
        });
        if decision == ModeDecision::Refused {
            let error = probed.err().context("a refused mode has a reason")?;
            return Err(anyhow::Error::new(error).context("--mode encrypted, but no TUN device"));
        }
        let problem = match (&probed, decision) {
            (Err(error), ModeDecision::Closed) => Some(format!(
                "closed: this node was encrypted, or may change nothing in the kernel, and its TUN \
                 device cannot be used ({error}); --mode host-network asks for plaintext"
            )),
            (Err(error), ModeDecision::Undecided) => Some(format!(
                "the TUN device cannot be used ({error}); waiting for the registry to tell \
                 whether this node ever was encrypted"
            )),
            _ => None,
        };
        if decision != self.mode {
            info!(?decision, asked = ?self.config.mode, "mode of this node");
            if let (ModeArg::Auto, Err(error), ModeDecision::Declared(_)) =
                (self.config.mode, &probed, decision)
            {
                let text =
                    format!("in host-network mode, in plaintext, for want of a device: {error}");
                warn!("{text}");
                self.problems.fallback = Some(text);
            }
        }
        self.problems.device.put(problem);
        self.mode = decision;
        Ok(())
    }

    /// Between two wake-ups: keeps what must survive a crash, and tries again what failed.
    pub(crate) async fn housekeep(&mut self) -> anyhow::Result<()> {
        let in_use = self.peers_in_use();
        self.remember_incumbents(&in_use);
        self.rotate_keys(&in_use);
        let kept = self.keep_stamp().and_then(|()| self.keep_snapshot());
        self.problems
            .state
            .set("cannot keep the state of this node", kept);
        self.healing.sum_up(Instant::now());
        self.sum_up_obstacles(Instant::now());
        // A registry that is lost tells when it is back.
        let is_lacking = self.nodes.is_synchronised() && !self.converged;
        let is_rested = Instant::now() >= self.rests_until;
        if is_rested && (is_lacking || self.problems.any()) {
            self.reconcile(Cause::Retry).await?;
        } else if is_rested && self.is_peer_elsewhere(&endpoints_in_use(&in_use)) {
            self.reconcile(Cause::Endpoint).await?;
        } else if self.passed.elapsed() >= VERIFY_INTERVAL {
            self.reconcile(Cause::Verify).await?;
        }
        let counters = self.netlink.guard_counters().unwrap_or_default();
        self.shown.guard.store(Arc::new(GuardCounts {
            egress: counters.egress_refused,
            ingress: counters.ingress_dropped,
        }));
        if let Some(data_plane) = &self.data_plane {
            self.shown.transport.store(Arc::new(data_plane.counters()));
        }
        self.keep_cni_configuration();
        self.look_at_host();
        self.show();
        self.tell_events();
        self.announce_network();
        Ok(())
    }

    /// The peers with which the data plane has to do at the moment.
    pub(super) fn peers_in_use(&self) -> Vec<PeerStatus> {
        self.data_plane
            .as_ref()
            .map(|data_plane| data_plane.device().peers_in_use(Instant::now()))
            .unwrap_or_default()
    }

    /// Whether the last pass took another endpoint for the one in use of some peer.
    fn is_peer_elsewhere(&self, in_use: &BTreeSet<IpAddr>) -> bool {
        // Of thousands of peers hardly any moves in half a second.
        *in_use != self.in_use
            && self
                .mesh
                .as_ref()
                .is_some_and(|mesh| fallbacks(mesh, &self.in_use) != fallbacks(mesh, in_use))
    }

    /// Remembers the highest TAI64N stamp that peers may have seen; a clock that went back behind
    /// it starts another epoch.
    fn keep_stamp(&mut self) -> anyhow::Result<()> {
        let Some(data_plane) = &self.data_plane else {
            return Ok(());
        };
        let now = SystemTime::now();
        let is_behind = self.state.keep_stamp(now, data_plane.sent_stamps())?;
        // While peers cannot be told, sessions of before go on, and peers take their stamps.
        if is_behind && self.nodes.is_synchronised() {
            self.state.begin_epoch(now)?;
            data_plane.device().begin_epoch(Instant::now());
            warn!(
                epoch = self.state.epoch(),
                "the clock went back behind a stamp that peers have seen: another epoch begins"
            );
            // The record that peers read has to say so.
            self.converged = false;
        }
        Ok(())
    }

    fn remember_incumbents(&mut self, in_use: &[PeerStatus]) {
        let (Some(_), Some(mesh)) = (&self.data_plane, &self.mesh) else {
            return;
        };
        let confirmed = in_use
            .iter()
            .filter_map(|peer| Some((&peer.name, peer.lanes.first()?.confirmed_key?)));
        self.count_peers_up(mesh.as_ref(), confirmed.clone());
        self.has_news_to_keep |= incumbents::confirm(&mut self.incumbents, mesh, confirmed);
    }

    fn count_peers_up<'a>(
        &self,
        mesh: &DesiredMesh,
        confirmed: impl Iterator<Item = (&'a NodeName, PublicKey)>,
    ) {
        let up = confirmed.filter(|(name, _)| {
            let peer = mesh.peers.get(*name);
            peer.is_some_and(|peer| matches!(peer.pair, Pair::Encrypted(_)))
        });
        let peers_up = &self.shown.peers_up;
        peers_up.store(up.count(), std::sync::atomic::Ordering::Relaxed);
    }

    /// Writes the last known mesh to disk, if it changed; the guards of the next boot come from it.
    fn keep_snapshot(&mut self) -> anyhow::Result<()> {
        let due = self
            .snapshot_kept
            .is_none_or(|at| at.elapsed() >= SNAPSHOT_INTERVAL);
        if due && self.has_news_to_keep && self.nodes.is_synchronised() {
            let mut nodes = self.nodes.nodes.clone();
            if let Some(own) = &self.own_known {
                nodes
                    .entry(own.name.clone())
                    .or_insert_with(|| Arc::clone(own));
            }
            self.state.keep_snapshot(&nodes, &self.incumbents)?;
            self.has_news_to_keep = false;
            self.snapshot_kept = Some(Instant::now());
        }
        Ok(())
    }

    /// Stops the threads. Device, routes, guards and record stay: a node that is restarted is the
    /// same node, and one that is not stays closed.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        self.keep_stamp()?;
        self.snapshot_kept = None;
        self.keep_snapshot()?;
        self.watcher.abort();
        if let Some(data_plane) = self.data_plane.take() {
            data_plane.stop();
        }
        Ok(())
    }
}
