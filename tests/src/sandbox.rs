//! The process's private corner of the kernel, entered once before any thread exists.
//!
//! As root only a network namespace is made; without root a user namespace comes first, inside
//! which the process has every capability over the namespaces that it makes. All of it is held by
//! the process alone: it goes when the process goes, also by SIGKILL.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::{CapabilitySet, UnshareFlags};

/// What the testbed runs, and the Debian package that has it.
const PROGRAMS: [(&str, &str); 3] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("iperf3", "iperf3"),
];

/// Where the TUN device lives on every Linux system.
const TUN_DEVICE: &str = "/dev/net/tun";

/// What refuses user namespaces by one setting: its path, the refusing value, and the remedy.
const REFUSING_SETTINGS: [(&str, &str, &str); 3] = [
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "run `sysctl kernel.apparmor_restrict_unprivileged_userns=0`",
    ),
    (
        "/proc/sys/kernel/unprivileged_userns_clone",
        "0",
        "run `sysctl kernel.unprivileged_userns_clone=1`",
    ),
    (
        "/proc/sys/user/max_user_namespaces",
        "0",
        "run `sysctl user.max_user_namespaces=10000`",
    ),
];

/// Whether the sandbox was entered, and how.
static ENTERED: OnceLock<Privilege> = OnceLock::new();

/// Where the process's capabilities come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Privilege {
    /// It had CAP_SYS_ADMIN at its start.
    Inherited,
    /// It has them inside its own user namespace only.
    UserNamespace,
}

/// Why the sandbox cannot be entered. Each message ends with its remedy; none is worth a retry.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Programs are missing on this machine.
    #[error("missing {programs}: run `apt-get install {packages}`")]
    MissingPrograms {
        /// The programs, separated by commas.
        programs: String,
        /// The Debian packages that have them, separated by spaces.
        packages: String,
    },
    /// A namespace can be changed for a whole process only while it has one thread.
    #[error("the sandbox was entered with {threads} threads: call it first in main()")]
    TooLate {
        /// Threads that the process had.
        threads: usize,
    },
    /// The kernel refused the user namespace, or a network namespace inside it.
    #[error("this kernel refuses user namespaces: {remedy}, or run as root")]
    UserNamespaceRefused {
        /// What would allow them here.
        remedy: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel refused a network namespace to root.
    #[error("the kernel refuses new network namespaces: run as root with CAP_SYS_ADMIN")]
    NetworkNamespaceRefused(#[source] io::Error),
    /// No TUN device on this machine.
    #[error("{TUN_DEVICE} is missing: run `modprobe tun` (in a container: add the device)")]
    TunMissing(#[source] io::Error),
    /// There is a TUN device, but not for this user.
    #[error(
        "{TUN_DEVICE} cannot be opened by this user: run `chmod 0666 {TUN_DEVICE}` \
         (udev's own default), or run as root"
    )]
    TunRefused(#[source] io::Error),
}

/// Moves the process into its own network namespace, and into its own user and mount namespaces
/// where it has no CAP_SYS_ADMIN.
///
/// Call it before any thread exists. Programs that need the host's network, such as a build that
/// downloads, must have run before. A second call does nothing.
///
/// # Errors
/// [`SandboxError`], with the remedy.
pub fn enter() -> Result<(), SandboxError> {
    if ENTERED.get().is_some() {
        return Ok(());
    }
    check_programs()?;
    let threads = fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads > 1 {
        return Err(SandboxError::TooLate { threads });
    }
    let privilege = if has_capabilities() {
        Privilege::Inherited
    } else {
        enter_user_namespace().map_err(refused)?;
        Privilege::UserNamespace
    };
    let namespaces = match privilege {
        Privilege::Inherited => UnshareFlags::NEWNET,
        // A mount can be made, even one that is attached nowhere, only by the owner of the
        // calling process's mount namespace.
        Privilege::UserNamespace => UnshareFlags::NEWNET | UnshareFlags::NEWNS,
    };
    unshare(namespaces).map_err(|error| match privilege {
        Privilege::Inherited => SandboxError::NetworkNamespaceRefused(error),
        // AppArmor lets a user namespace be made and takes its capabilities away.
        Privilege::UserNamespace => refused(error),
    })?;
    ENTERED.get_or_init(|| privilege);
    Ok(())
}

/// Gives the process a mount namespace of its own, and in it an empty `/run` in memory: what other
/// people's daemons put there is seen by nobody else, and gone with the process.
///
/// Call it after [`enter`], before any thread exists.
///
/// # Errors
/// The kernel's.
pub fn private_run_folder() -> io::Result<()> {
    unshare(UnshareFlags::NEWNS)?;
    // Else the machine would see the mount.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private)?;
    mount("tmpfs", "/run", "tmpfs", MountFlags::empty(), None)?;
    fs::create_dir("/run/wireguard")
}

/// Checks that a TUN device can be opened here.
///
/// # Errors
/// [`SandboxError::TunMissing`] or [`SandboxError::TunRefused`].
pub fn require_tun() -> Result<(), SandboxError> {
    match OpenOptions::new().read(true).write(true).open(TUN_DEVICE) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(SandboxError::TunRefused(error))
        }
        Err(error) => Err(SandboxError::TunMissing(error)),
    }
}

/// Whether the process is root outside of any user namespace of its own, once the sandbox was
/// entered.
#[must_use]
pub fn is_real_root() -> bool {
    privilege() == Some(Privilege::Inherited)
}

/// How the sandbox was entered; `None` before.
pub(crate) fn privilege() -> Option<Privilege> {
    ENTERED.get().copied()
}

/// `unshare(2)` for the calling thread.
#[expect(
    unsafe_code,
    reason = "rustix has no safe form; no flag here touches file descriptors"
)]
pub(crate) fn unshare(namespaces: UnshareFlags) -> io::Result<()> {
    debug_assert!(!namespaces.contains(UnshareFlags::FILES));
    // SAFETY: only CLONE_FILES can make descriptors of other threads unusable; it is not given.
    unsafe { rustix::thread::unshare_unsafe(namespaces) }.map_err(io::Error::from)
}

fn check_programs() -> Result<(), SandboxError> {
    let missing: Vec<_> = PROGRAMS
        .into_iter()
        .filter(|(program, _)| find_program(program).is_none())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing.iter().map(|(program, _)| *program).collect();
    let packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    Err(SandboxError::MissingPrograms {
        programs: names.join(", "),
        packages: packages.join(" "),
    })
}

/// Finds a program in PATH and in the system folders that a user's PATH leaves out on Debian.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

/// A refusal with the remedy that this machine's settings call for.
fn refused(source: io::Error) -> SandboxError {
    let remedy = REFUSING_SETTINGS
        .into_iter()
        .find(|(path, refusing, _)| {
            fs::read_to_string(path).is_ok_and(|value| value.trim() == *refusing)
        })
        .map_or("in a container, add CAP_SYS_ADMIN", |(_, _, remedy)| remedy);
    SandboxError::UserNamespaceRefused {
        remedy: remedy.to_owned(),
        source,
    }
}

fn has_capabilities() -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| {
        sets.effective
            .contains(CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN)
    })
}

fn enter_user_namespace() -> io::Result<()> {
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    unshare(UnshareFlags::NEWUSER)?;
    // The kernel takes a group map from an unprivileged process only after this.
    write(Path::new("/proc/self/setgroups"), "deny")?;
    write(
        Path::new("/proc/self/uid_map"),
        &format!("0 {} 1", user.as_raw()),
    )?;
    write(
        Path::new("/proc/self/gid_map"),
        &format!("0 {} 1", group.as_raw()),
    )
}

/// Writes in one `write(2)`, which the map files demand.
fn write(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write as _;
    let mut file: File = OpenOptions::new().write(true).open(path)?;
    file.write_all(text.as_bytes())
}
