//! The data plane of this run: WireGuard device, TUN, sockets and lane threads, brought up
//! together.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use podwire_core::rotation::{Phase, Rotation};
use podwire_dataplane::{Device, DeviceConfig, Fate, HANDSHAKES_PER_SECOND, OwnKeys};
use ring::cipher::Cipher;
use tracing::{debug, info};

use crate::state::SentStamps;
use crate::transport::{
    Counter, EventQueue, LaneSockets, Offloads, OffloadsInUse, Transport, TunDevice,
};

/// What a data plane is made of.
pub(super) struct DataPlaneInputs<'a> {
    /// Own keys of every lane.
    pub(super) keys: OwnKeys,
    /// Where the rotation of these keys stands.
    pub(super) rotation: Rotation,
    /// Which process of this node this is: 4 bits.
    pub(super) process_generation: u8,
    /// Name of the TUN device.
    pub(super) device: &'a str,
    /// UDP port of lane 0.
    pub(super) listen_port: u16,
    /// Nobody can reach this node unasked.
    pub(super) keeps_open: bool,
    /// What the kernel shall do for many packets at once.
    pub(super) offloads: Offloads,
    /// Whose code seals and opens packets.
    pub(super) cipher: Cipher,
}

/// The running data plane.
#[derive(Debug)]
pub(super) struct DataPlane {
    device: Arc<Device>,
    /// Of the keys that the device has.
    rotation: Rotation,
    transport: Transport,
    events: Arc<EventQueue>,
    offloads: Arc<OffloadsInUse>,
    cipher: Cipher,
    name: String,
    lanes: usize,
    /// Whether the TUN device was opened after the plan that asks for it was made.
    fresh: bool,
}

impl DataPlane {
    /// Binds the sockets, makes or takes over the TUN device, starts the lanes.
    pub(super) fn start(inputs: DataPlaneInputs<'_>) -> anyhow::Result<Self> {
        let lanes = inputs.keys.base.len();
        let sockets = LaneSockets::bind_lanes(inputs.listen_port, lanes)?;
        let offloads = Arc::new(OffloadsInUse::new(inputs.offloads));
        let tun = TunDevice::open(inputs.device, lanes, &offloads)?;
        let mut seed = [0; 8];
        rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())
            .context("the operating system gives no random bytes")?;
        let device = Device::new(DeviceConfig {
            keys: inputs.keys,
            process_generation: inputs.process_generation,
            addresses: Vec::new(),
            handshakes_per_second: HANDSHAKES_PER_SECOND,
            keeps_open: inputs.keeps_open,
            seed: u64::from_ne_bytes(seed),
        })?;
        let transport = Transport::start(&device, tun, sockets, &offloads)?;
        info!(
            lanes,
            port = inputs.listen_port,
            device = inputs.device,
            cipher = %inputs.cipher,
            "data plane started"
        );
        Ok(Self {
            events: transport.events(),
            offloads,
            cipher: inputs.cipher,
            device,
            rotation: inputs.rotation,
            transport,
            name: inputs.device.to_owned(),
            lanes,
            fresh: true,
        })
    }

    /// The WireGuard device.
    pub(super) const fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Whether the device has the keys of this phase.
    pub(super) fn has_keys_of(&self, rotation: Rotation) -> bool {
        self.rotation == rotation
    }

    /// Replaces the own keys by those of another phase.
    pub(super) fn set_keys(
        &mut self,
        keys: OwnKeys,
        rotation: Rotation,
        now: Instant,
    ) -> anyhow::Result<()> {
        let fate = match rotation.phase {
            Phase::Revoked => Fate::Revoked,
            Phase::Settled | Phase::Announced | Phase::Promoted(_) | Phase::Withdrawn => {
                Fate::Replaced
            }
        };
        self.device.set_keys(keys, fate, now)?;
        self.rotation = rotation;
        Ok(())
    }

    /// What the kernel does for many packets at once.
    pub(super) const fn offloads(&self) -> &Arc<OffloadsInUse> {
        &self.offloads
    }

    /// Whose code seals and opens packets.
    pub(super) const fn cipher(&self) -> Cipher {
        self.cipher
    }

    /// The initiations so far: peers remember the stamp of each.
    pub(super) fn sent_stamps(&self) -> SentStamps {
        SentStamps {
            initiations: self.device.initiations_sent(),
            highest: self.device.highest_stamp(),
        }
    }

    /// Waits for a reason to reconcile. Dropping the future loses nothing.
    pub(super) async fn changed(&self) {
        let events = self.events.next().await;
        debug!(?events, "the transport told");
    }

    /// The transport's counters, summed over the lanes.
    pub(super) fn counters(&self) -> Vec<(Counter, u64)> {
        let lanes = self.transport.counters();
        let sum = |counter| lanes.iter().map(|counts| counts.get(counter)).sum();
        Counter::ALL
            .iter()
            .map(|counter| (*counter, sum(*counter)))
            .collect()
    }

    /// Whether the lanes have lost their device: one that has its name now is another.
    pub(super) fn has_lost_device(&self) -> bool {
        self.events.is_device_lost()
    }

    /// Whether the device was opened in this very pass.
    pub(super) const fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Makes the TUN device anew, or takes over the one that somebody else made in its place, if it
    /// is the planner's word that there is none; right after [`Self::start`] there is one.
    pub(super) fn ensure_device(&mut self) -> anyhow::Result<()> {
        if std::mem::replace(&mut self.fresh, false) {
            return Ok(());
        }
        let tun = TunDevice::open(&self.name, self.lanes, &self.offloads)?;
        self.transport.replace_tun(tun);
        debug!(device = self.name, "made the lost device anew");
        Ok(())
    }

    /// The pass that opened the TUN device is over.
    pub(super) const fn settle(&mut self) {
        self.fresh = false;
    }

    /// Stops the lane threads; the device stays.
    pub(super) fn stop(self) {
        self.transport.stop();
    }
}
