//! The TUN device: its queues, and why it may not be had.

mod attach;
#[cfg(test)]
mod tests;

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use podwire_dataplane::coalesce::PIECES_MAX;
use podwire_dataplane::{VNET_HEADER, VnetHeader};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::offload::{Offload, OffloadsInUse};

/// Where every Linux system has the TUN driver's device file.
const DEVICE_FILE: &str = "/dev/net/tun";

/// Packets with a [`VnetHeader`] in front, and several queues, also where there is one lane: the
/// kernel refuses to attach with another choice than the device was made with, so that a restart
/// with another number of lanes would need another device.
#[expect(clippy::cast_possible_truncation, reason = "flags of 16 bits")]
const FLAGS: i16 =
    (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_MULTI_QUEUE | libc::IFF_VNET_HDR) as i16;

/// What the kernel may leave to us of TCP: checksums, and segmentation also of what carries CWR.
const TCP_OFFLOAD: libc::c_uint =
    libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;

/// The same of UDP, from Linux 6.2 on.
const UDP_OFFLOAD: libc::c_uint = libc::TUN_F_USO4 | libc::TUN_F_USO6;

/// The name of the probe's device: the kernel puts the first free number in the place of `%d`.
const PROBE_NAME: &str = "podwire-tun%d";

/// Why a TUN device cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TunError {
    /// No device file.
    #[error(
        "{DEVICE_FILE} is missing: load the driver with `modprobe tun`; in a pod, mount it from the \
         host (hostPath {DEVICE_FILE}, type CharDevice)"
    )]
    Missing(#[source] Errno),
    /// A device file, and no driver behind it.
    #[error("{DEVICE_FILE} has no driver behind it: load it on the host with `modprobe tun`")]
    NoDriver(#[source] Errno),
    /// Some other file.
    #[error(
        "{DEVICE_FILE} is not the TUN driver's device file: remove it and let `modprobe tun` make it; \
         in a pod, mount it from the host (hostPath {DEVICE_FILE}, type CharDevice)"
    )]
    NotADevice(#[source] Errno),
    /// The file's permissions.
    #[error("{DEVICE_FILE} may not be opened by this user: run as root, or `chmod 0666` it")]
    Permission(#[source] Errno),
    /// The device cgroup.
    #[error(
        "{DEVICE_FILE} is denied to this container: runc 1.2.0 to 1.2.3 do so by default, upgrade it \
         to 1.2.4 or newer; with another runtime, allow the device `c 10:200 rwm`"
    )]
    DeviceCgroup(#[source] Errno),
    /// No capability over this network namespace.
    #[error("device {name} may not be created or attached to: grant the capability NET_ADMIN")]
    Capability {
        /// The device's name.
        name: String,
        #[source]
        source: Errno,
    },
    /// A foreign device has the name.
    #[error(
        "the name {name} is taken by another network device, or by a TUN device made without \
         multi_queue: remove it with `ip link delete {name}` if nobody needs it, or choose another \
         name with --device"
    )]
    NameTaken {
        /// The device's name.
        name: String,
        #[source]
        source: Errno,
    },
    /// The driver's limit, 256 queues of one device.
    #[error(
        "device {name} has no queue left: another process holds them; see `lsof {DEVICE_FILE}`, or \
         remove the device with `ip link delete {name}`"
    )]
    Queues {
        /// The device's name.
        name: String,
        #[source]
        source: Errno,
    },
    /// Anything else.
    #[error("device {name} cannot be {action}: see the kernel log")]
    Kernel {
        /// The device's name.
        name: String,
        /// What was tried: opened, attached to, made persistent.
        action: &'static str,
        #[source]
        source: Errno,
    },
}

/// A persistent TUN device, by its queues.
#[derive(Debug)]
pub(crate) struct TunDevice {
    queues: Vec<TunQueue>,
    has_udp: bool,
}

impl TunDevice {
    /// Opens `queues` queues of the device of this name in the current network namespace: of the
    /// one that a predecessor left, else of a new one. The device outlives this process.
    ///
    /// # Errors
    /// [`TunError`], each kind with its remedy.
    pub(crate) fn open(
        name: &str,
        queues: usize,
        offloads: &OffloadsInUse,
    ) -> Result<Self, TunError> {
        let queues: Vec<_> = (0..queues)
            .map(|_| attach(name))
            .collect::<Result<_, _>>()?;
        let mut has_udp = false;
        if let Some(first) = queues.first() {
            let failed = |action| {
                move |source| TunError::Kernel {
                    name: name.to_owned(),
                    action,
                    source,
                }
            };
            attach::set_persistent(first.as_fd()).map_err(failed("made persistent"))?;
            let length = libc::c_int::try_from(VNET_HEADER).unwrap_or(libc::c_int::MAX);
            attach::set_header_length(first.as_fd(), length)
                .map_err(failed("given its packet header"))?;
            has_udp = first.set_offload(offloads);
        }
        Ok(Self { queues, has_udp })
    }

    /// Whether the kernel takes UDP datagrams that were joined, as it does if it gives us such.
    pub(super) fn has_udp_segmentation(&self) -> bool {
        self.has_udp
    }

    /// Checks that a TUN device can be had here, by making one that vanishes at once.
    ///
    /// # Errors
    /// [`TunError`].
    pub(crate) fn probe() -> Result<(), TunError> {
        attach(PROBE_NAME).map(drop)
    }

    /// The queues, one for each lane.
    pub(super) fn into_queues(self) -> Vec<TunQueue> {
        self.queues
    }

    /// How many queues there are.
    pub(super) fn queue_count(&self) -> usize {
        self.queues.len()
    }
}

/// One queue of the device: one packet for each call.
#[derive(Debug)]
pub(super) struct TunQueue {
    file: OwnedFd,
}

impl TunQueue {
    /// Sets what the kernel may leave undone: as much as is wanted and it can; whether UDP
    /// segmentation is among what it can.
    fn set_offload(&self, offloads: &OffloadsInUse) -> bool {
        // To learn what it can, also where it is not wanted.
        let has_udp = attach::set_offload(self.as_fd(), TCP_OFFLOAD | UDP_OFFLOAD).is_ok();
        let wanted = match (offloads.has(Offload::TunGso), has_udp) {
            (true, true) => return true,
            (true, false) => TCP_OFFLOAD,
            (false, _) => 0,
        };
        if let Err(error) = attach::set_offload(self.as_fd(), wanted) {
            // The device gives whole packets then, as it does when it is new.
            offloads.give_up(Offload::TunGso, error);
        }
        has_udp
    }

    /// Reads one packet into `room`, which must take the longest that there is: the kernel cuts off
    /// what does not fit. Returns its length and what is undone of it; none for a header that was
    /// never asked for.
    ///
    /// # Errors
    /// `AGAIN` when there is none, `BADFD` when the device was deleted.
    pub(super) fn read(&self, room: &mut [u8]) -> Result<Option<(usize, VnetHeader)>, Errno> {
        let mut header = [0; VNET_HEADER];
        let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(room)];
        let length = rustix::io::readv(&self.file, &mut parts)?;
        let header = VnetHeader::decode(&header);
        Ok(length.checked_sub(VNET_HEADER).zip(header))
    }

    /// Writes one packet, which is these pieces, at most [`PIECES_MAX`]; returns its bytes.
    ///
    /// # Errors
    /// `IO` when the device is down, `BADFD` when it was deleted, `INVAL` for what is no IP packet.
    pub(super) fn write<'a>(
        &self,
        header: &VnetHeader,
        mut packet: impl Iterator<Item = &'a [u8]>,
    ) -> Result<usize, Errno> {
        let header = header.encode();
        let mut parts = [IoSlice::new(&header); 1 + PIECES_MAX];
        let (mut count, mut bytes) = (1, 0);
        for (part, piece) in parts[1..].iter_mut().zip(&mut packet) {
            *part = IoSlice::new(piece);
            count += 1;
            bytes += piece.len();
        }
        debug_assert!(packet.next().is_none(), "more pieces than one write takes");
        rustix::io::writev(&self.file, &parts[..count]).map(|_| bytes)
    }
}

impl AsFd for TunQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn attach(name: &str) -> Result<TunQueue, TunError> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(DEVICE_FILE, flags, Mode::empty())
        .map_err(|source| open_error(name, source))?;
    attach::set_interface(file.as_fd(), name, FLAGS)
        .map_err(|source| attach_error(name, is_present(name), source))?;
    Ok(TunQueue { file })
}

/// Whether a network device has this name.
fn is_present(name: &str) -> bool {
    rustix::net::socket(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::DGRAM,
        None,
    )
    .and_then(|socket| rustix::net::netdevice::name_to_index(socket, name))
    .is_ok()
}

fn open_error(name: &str, source: Errno) -> TunError {
    match source {
        Errno::NOENT | Errno::NOTDIR => TunError::Missing(source),
        Errno::NODEV | Errno::NXIO => TunError::NoDriver(source),
        Errno::ISDIR => TunError::NotADevice(source),
        Errno::ACCESS => TunError::Permission(source),
        Errno::PERM => TunError::DeviceCgroup(source),
        _ => TunError::Kernel {
            name: name.to_owned(),
            action: "opened",
            source,
        },
    }
}

fn attach_error(name: &str, present: bool, source: Errno) -> TunError {
    let name = name.to_owned();
    match source {
        Errno::PERM => TunError::Capability { name, source },
        Errno::TOOBIG => TunError::Queues { name, source },
        Errno::NOTTY => TunError::NotADevice(source),
        // INVAL: another kind of device, or other flags; BUSY: a single queue that is in use.
        Errno::INVAL | Errno::BUSY | Errno::EXIST if present => {
            TunError::NameTaken { name, source }
        }
        _ => TunError::Kernel {
            name,
            action: "attached to",
            source,
        },
    }
}
