//! The TUN device: its queues, and why it may not be had.

mod attach;
#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Where every Linux system has the TUN driver's device file.
const DEVICE_FILE: &str = "/dev/net/tun";

/// Packets without a header of the driver's own, and several queues, also where there is one lane:
/// the kernel refuses to attach with another choice than the device was made with, so that a
/// restart with another number of lanes would need another device.
#[expect(clippy::cast_possible_truncation, reason = "flags of 16 bits")]
const FLAGS: i16 = (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_MULTI_QUEUE) as i16;

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
}

impl TunDevice {
    /// Opens `queues` queues of the device of this name in the current network namespace: of the
    /// one that a predecessor left, else of a new one. The device outlives this process.
    ///
    /// # Errors
    /// [`TunError`], each kind with its remedy.
    pub(crate) fn open(name: &str, queues: usize) -> Result<Self, TunError> {
        let queues: Vec<_> = (0..queues)
            .map(|_| attach(name))
            .collect::<Result<_, _>>()?;
        if let Some(first) = queues.first() {
            attach::set_persistent(first.file.as_fd()).map_err(|source| TunError::Kernel {
                name: name.to_owned(),
                action: "made persistent",
                source,
            })?;
        }
        Ok(Self { queues })
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

/// One queue of the device: whole IP packets, one for each call.
#[derive(Debug)]
pub(super) struct TunQueue {
    file: OwnedFd,
}

impl TunQueue {
    /// Reads one packet into `room`, which must take the largest of the device's MTU: the kernel
    /// cuts off what does not fit.
    ///
    /// # Errors
    /// `AGAIN` when there is none, `BADFD` when the device was deleted.
    pub(super) fn read(&self, room: &mut [u8]) -> Result<usize, Errno> {
        rustix::io::read(&self.file, room)
    }

    /// Writes one packet.
    ///
    /// # Errors
    /// `IO` when the device is down, `BADFD` when it was deleted, `INVAL` for what is no IP packet.
    pub(super) fn write(&self, packet: &[u8]) -> Result<(), Errno> {
        rustix::io::write(&self.file, packet).map(drop)
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
