//! One pass: derive the mesh, observe, plan, apply, publish.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use podwire_core::desired_kernel::{DesiredKernel, DeviceOptions, desired_kernel, path_mtus};
use podwire_core::endpoint_order::in_order;
use podwire_core::held::held;
use podwire_core::kernel::{Change, Guard, Kernel, Underlay};
use podwire_core::mesh::{DesiredMesh, EncryptedPair, OwnNode, Pair, desired_mesh};
use podwire_core::node::NodeName;
use podwire_core::plan::plan;
use podwire_core::record::Mode;
use podwire_dataplane::PeerConfig;
use tracing::{debug, info, warn};

use super::agent::Agent;
use super::cause::Cause;
use super::cipher;
use super::closing::{closes_without_a_table, is_guard, is_guard_unread, needs_data_plane};
use super::contradictions::{self, Contradiction};
use super::data_plane::{DataPlane, DataPlaneInputs};
use super::endpoints_in_use::endpoints_in_use;
use super::forwarding;
use super::mode::ModeDecision;
use super::reopened::reopened;
use super::underlay_addresses::underlay_addresses;

/// Packets that the device queues while a lane's thread is busy or being replaced. Measured: 2,000
/// lose 0.2 to 0.5 % of a flood where the kernel's 500 lose 12 to 15 %.
const TRANSMIT_QUEUE_LENGTH: u32 = 2000;

/// How many times as long as it took a pass is followed by none for what can wait: news of nodes,
/// and what failed. So they take a fifth of a processor;
const RESTS: u32 = 4;
/// and at most this long, as a change counts within a second.
const REST_MAX: Duration = Duration::from_millis(500);

impl Agent {
    /// Brings kernel, data plane and record to what the registry says. What fails is shown and
    /// tried again.
    ///
    /// # Errors
    /// `--mode encrypted` without a TUN device.
    pub(crate) async fn reconcile(&mut self, cause: Cause) -> anyhow::Result<()> {
        let started = Instant::now();
        self.progress.runs += 1;
        self.passed = started;
        self.take_nodes();
        self.decide_mode()?;
        let done = self.pass().await;
        let elapsed = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.progress.longest_ms = self.progress.longest_ms.max(elapsed);
        debug!(
            ?cause,
            elapsed_ms = elapsed,
            ok = done.is_ok(),
            "reconciled"
        );
        self.rests_until = Instant::now() + (RESTS * started.elapsed()).min(REST_MAX);
        self.tried(done);
        let in_use = self.peers_in_use();
        self.rotate_keys(&in_use);
        self.publish();
        let declared = matches!(self.mode, ModeDecision::Declared(_));
        self.converged = self.nodes.is_synchronised()
            && declared
            && self
                .own_node()
                .is_some_and(|node| !node.pod_cidrs.is_empty())
            && self.publishing.is_none()
            && !self.problems.any();
        self.ready |= self.converged;
        self.look_at_nodes();
        self.show();
        Ok(())
    }

    fn tried(&mut self, done: anyhow::Result<()>) {
        if let Err(error) = &done {
            self.progress.errors += 1;
            self.progress.last_error = Some(format!("{error:#}"));
        }
        let what = "cannot bring this node to the desired state";
        self.problems.reconcile.set(what, done);
    }

    async fn pass(&mut self) -> anyhow::Result<()> {
        let mut own = self.own();
        let last = self.shown.kernel.load_full();
        let is_lockout = self.is_lockout(&mut own);
        if is_lockout && last.guard == Guard::Missing {
            // Guards for such prefixes would cut the node itself off: what is in force stays.
            return Ok(());
        }
        let mesh = Arc::new(desired_mesh(
            &self.nodes.nodes,
            &own,
            &self.incumbents,
            &self.config.policy,
        ));
        self.tell_differences(&mesh);
        self.problems
            .forwarding
            .put(forwarding::problem(&own.pod_cidrs));
        self.in_use = endpoints_in_use(&self.peers_in_use());
        let mut underlay = self.netlink.underlay(underlay_addresses(&mesh)).await?;
        for (address, path) in &mut underlay {
            path.in_use = self.in_use.contains(address);
        }
        let mut observed = self.netlink.observe().await?;
        if self.is_device_lost() {
            // One of its name is somebody else's work, and nobody reads it.
            observed.device = None;
        }
        self.look_at_links(&mesh, &underlay).await?;
        let obstacle = self.netlink.obstacle();
        self.watch.complete();
        let encrypted = self.mode == ModeDecision::Declared(Mode::Encrypted);
        let mut desired = desired_kernel(
            &mesh,
            &underlay,
            &self.underlay_links.guarded,
            DeviceOptions {
                name: &self.config.device,
                transmit_queue_length: TRANSMIT_QUEUE_LENGTH,
                usable: encrypted && obstacle.is_none(),
            },
        );
        if is_lockout {
            desired.kernel = held(&last, desired.kernel);
        }
        let reopened = reopened(self.mesh.as_deref(), &mesh);
        self.mesh = Some(Arc::clone(&mesh));
        self.shown.mesh.store(Some(Arc::clone(&mesh)));
        self.shown
            .unroutable
            .store(Arc::new(desired.unroutable.clone()));
        let done = self.bring_about(&mesh, &underlay, observed, &desired).await;
        if let Some(data_plane) = &self.data_plane {
            let device = data_plane.device();
            reopened
                .iter()
                .for_each(|name| device.request_handshake(name));
        }
        self.look_for_obstacles(&desired.kernel).await;
        done?;
        if !is_lockout {
            self.tidy_pod_bridge(&own.pod_cidrs).await?;
        }
        obstacle
            .filter(|_| encrypted)
            .map_or(Ok(()), |obstacle| Err(obstacle.into()))
    }

    /// Whether an own address lies among the cluster's pods, as the registry tells. What else is
    /// known of this node counts.
    fn is_lockout(&mut self, own: &mut OwnNode) -> bool {
        let cluster_cidrs = &self.config.policy.cluster_cidrs;
        let checked = contradictions::check(own, cluster_cidrs);
        let is_lockout = matches!(checked, Err(Contradiction::NodeAddress { .. }));
        own.addresses
            .retain(|address| contradictions::check_address(*address, cluster_cidrs).is_ok());
        self.problems
            .configuration
            .put(checked.err().map(|found| found.to_string()));
        is_lockout
    }

    /// Whether the lanes are without the device, whatever has its name: they have noticed, or the
    /// kernel says that nobody reads it.
    fn is_device_lost(&self) -> bool {
        self.data_plane.as_ref().is_some_and(|data_plane| {
            data_plane.has_lost_device() || self.netlink.device_in_use().is_none()
        })
    }

    /// Guards first, then the data plane with its peers, then what leads packets into it.
    async fn bring_about(
        &mut self,
        mesh: &DesiredMesh,
        underlay: &Underlay,
        mut kernel: Kernel,
        desired: &DesiredKernel,
    ) -> anyhow::Result<()> {
        let damage = self.healing.damage(&kernel, &desired.kernel);
        let mut changes = plan(&kernel, &desired.kernel);
        // Routes of a predecessor stay until it is known what they should be.
        let blind = mesh.own.pod_cidrs.is_empty();
        // So does a table of a predecessor, which knows the local pods.
        let is_kept = blind && kernel.guard != Guard::Missing;
        changes.retain(|change| {
            !(blind && !is_guard(change) || is_kept && matches!(change, Change::InstallGuard(_)))
        });
        self.guarded = kernel.guard != Guard::Missing;
        // Without a device to be had, there is no data plane to be started.
        let has_device = !blind && desired.kernel.device.is_some();
        let done = self
            .carry_out(&changes, &mut kernel, has_device, mesh, underlay)
            .await;
        self.healing
            .passed(kernel, &damage, done.is_ok(), Instant::now());
        if let Some(data_plane) = &mut self.data_plane {
            data_plane.settle();
        }
        if done.is_ok() {
            self.shown.kernel.store(Arc::new(desired.kernel.clone()));
        }
        done
    }

    /// Carries changes out, the data plane between those that close and the others, where there is
    /// a device for it. `kernel` is then what they have made of it. A data plane that runs learns
    /// its peers in any case.
    async fn carry_out(
        &mut self,
        changes: &[Change],
        kernel: &mut Kernel,
        has_device: bool,
        mesh: &DesiredMesh,
        underlay: &Underlay,
    ) -> anyhow::Result<()> {
        let (mut failed, mut is_open, mut is_prepared) = (None, false, false);
        for change in changes {
            if is_open && !closes_without_a_table(change, kernel) {
                continue;
            }
            if has_device && needs_data_plane(change) && !is_prepared {
                self.prepare_data_plane(mesh, underlay)?;
                is_prepared = true;
            }
            let done = self.apply(change).await;
            if matches!(change, Change::InstallGuard(_)) {
                let is_unread = done.as_ref().is_err_and(is_guard_unread);
                // What came of a failure is nobody else's damage.
                if is_unread {
                    kernel.guard = Guard::Altered;
                } else if done.is_err() {
                    kernel.guard = self.netlink.observe_guard();
                }
                // One guard is installed also where the other one cannot be; nothing else is.
                is_open = done.is_err() && !is_unread;
                self.guarded |= !is_open;
            }
            match (done, change) {
                (Ok(()), _) => {
                    let before = std::mem::take(kernel);
                    *kernel = podwire_core::plan::apply(before, std::slice::from_ref(change));
                }
                (Err(error), Change::CreateDevice | Change::SetDevice(_)) => return Err(error),
                // One peer's route, or an address of one family, keeps no other from its own.
                (Err(error), _) => drop(failed.get_or_insert(error)),
            }
        }
        if has_device && !is_open && !is_prepared {
            self.prepare_data_plane(mesh, underlay)?;
        } else if !is_prepared && !mesh.own.pod_cidrs.is_empty() {
            // Without them a peer might have been given what is this node's own.
            self.tell_peers(mesh, underlay);
        }
        failed.map_or(Ok(()), Err)
    }

    async fn apply(&mut self, change: &Change) -> anyhow::Result<()> {
        debug!(?change, "changing the kernel");
        if let (Change::CreateDevice, Some(data_plane)) = (change, &mut self.data_plane) {
            let in_use = self.netlink.device_in_use();
            if let Some(in_use) = in_use.filter(|_| !data_plane.is_fresh()) {
                return Err(in_use.into());
            }
            // A data plane that has just started has made the device.
            data_plane.ensure_device()?;
        } else {
            self.netlink.apply(change).await?;
        }
        self.progress.kernel_changes += 1;
        Ok(())
    }

    /// Starts the data plane where this node is encrypted, and tells it its peers.
    fn prepare_data_plane(
        &mut self,
        mesh: &DesiredMesh,
        underlay: &Underlay,
    ) -> anyhow::Result<()> {
        if self.mode != ModeDecision::Declared(Mode::Encrypted) {
            return Ok(());
        }
        if self.data_plane.is_none() {
            if let Some(in_use) = self.netlink.device_in_use() {
                return Err(in_use.into());
            }
            let has_predecessor = self.state.ever_encrypted();
            // From here on a failure never makes this node plaintext.
            self.state.keep_ever_encrypted()?;
            let started = DataPlane::start(DataPlaneInputs {
                keys: self.state.own_keys()?,
                rotation: self.state.rotation(),
                process_generation: self.state.process_generation(),
                device: &self.config.device,
                listen_port: self.config.listen_port,
                keeps_open: !self.config.publish_endpoint,
                offloads: self.config.offloads,
                cipher: cipher::choose(self.config.cipher),
            })?;
            if has_predecessor {
                started.device().succeed(Instant::now());
            }
            self.shown.device.store(Some(Arc::clone(started.device())));
            let offloads = Arc::clone(started.offloads());
            self.shown.offloads.store(Some(offloads));
            self.shown.cipher.store(Some(Arc::new(started.cipher())));
            self.data_plane = Some(started);
        }
        self.tell_peers(mesh, underlay);
        Ok(())
    }

    /// Tells a data plane that runs its peers.
    fn tell_peers(&mut self, mesh: &DesiredMesh, underlay: &Underlay) {
        if let Some(data_plane) = &self.data_plane {
            let device = data_plane.device();
            let peers = peer_configs(mesh, underlay);
            let changes = device.set_peers(&peers, Instant::now());
            let count = changes.added + changes.changed + changes.removed;
            self.progress.peer_changes += u64::try_from(count).unwrap_or(u64::MAX);
        }
    }

    /// One line a peer that came, went or changed its pair.
    fn tell_differences(&self, mesh: &DesiredMesh) {
        let empty = BTreeMap::new();
        let before = self.mesh.as_ref().map_or(&empty, |mesh| &mesh.peers);
        for (name, peer) in &mesh.peers {
            if before.get(name).is_none_or(|known| known.pair != peer.pair) {
                match &peer.pair {
                    Pair::Encrypted(_) => info!(peer = %name, "encrypted pair"),
                    Pair::HostNetwork => warn!(peer = %name, "plaintext pair, as declared"),
                    Pair::Closed(reason) => warn!(peer = %name, ?reason, "closed pair"),
                }
            }
        }
        for name in before.keys().filter(|name| !mesh.peers.contains_key(*name)) {
            info!(peer = %name, "no peer any more");
        }
    }
}

/// The peer table of the data plane, from the mesh and the paths of the underlay.
fn peer_configs(mesh: &DesiredMesh, underlay: &Underlay) -> BTreeMap<NodeName, PeerConfig> {
    let path_mtus = path_mtus(mesh, underlay);
    let encrypted = mesh
        .peers
        .iter()
        .filter_map(|(name, peer)| match &peer.pair {
            Pair::Encrypted(pair) => Some((name, peer, pair, *path_mtus.get(name)?)),
            Pair::HostNetwork | Pair::Closed(_) => None,
        });
    encrypted
        .map(|(name, peer, pair, path_mtu)| {
            let config = PeerConfig {
                uid: peer.uid.clone(),
                pair: EncryptedPair {
                    endpoints: in_order(&pair.endpoints, underlay),
                    ..pair.clone()
                },
                allowed_ips: peer.pod_cidrs.clone(),
                path_mtu,
            };
            (name.clone(), config)
        })
        .collect()
}
