//! A machine's file systems. Its root is its disk; of this machine it has programs and devices.

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive,
    mount_change, mount_remount, unmount,
};
use rustix::process::{chdir, pivot_root};

use super::cgroup::Hierarchy;

/// Where a machine has its servers.
pub(super) const PROGRAMS: &str = "/usr/local/bin";

/// What every disk has from the beginning.
const FOLDERS: [&str; 15] = [
    "dev",
    "etc/alternatives",
    "etc/cni/net.d",
    "etc/kubernetes",
    "opt/cni/bin",
    "proc",
    "root",
    "run",
    "sys",
    "tmp",
    "usr",
    "var/lib/containerd",
    "var/lib/kubelet",
    "var/log",
    "var/tmp",
];

/// Links of the root into `/usr`, as all distributions have them.
pub(super) const MERGED: [&str; 5] = ["bin", "lib", "lib32", "lib64", "sbin"];

/// Files of this machine without which programs do not find libraries, or name protocols.
const COPIED: [&str; 3] = ["etc/ld.so.cache", "etc/protocols", "etc/services"];

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/usr/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nnogroup:x:65534:\n";
const HOSTS: &str = "127.0.0.1 localhost\n::1 localhost\n";

/// Gives a disk what its machine boots from.
pub(super) fn install(disk: &Path) -> Result<()> {
    for folder in FOLDERS {
        fs::create_dir_all(disk.join(folder))?;
    }
    for name in MERGED {
        if let Ok(target) = fs::read_link(Path::new("/").join(name)) {
            symlink(target, disk.join(name))?;
        }
    }
    symlink("/run", disk.join("var/run"))?;
    for file in COPIED {
        let source = Path::new("/").join(file);
        if source.is_file() {
            fs::copy(&source, disk.join(file))?;
        }
    }
    fs::write(disk.join("etc/passwd"), PASSWD)?;
    fs::write(disk.join("etc/group"), GROUP)?;
    fs::write(disk.join("etc/hosts"), HOSTS)?;
    // There is nobody whom it could ask.
    fs::write(disk.join("etc/resolv.conf"), "")?;
    Ok(())
}

/// Makes a disk the calling thread's root, with these programs; the thread must have a mount
/// namespace of its own and be in the machine's other ones. `/proc` is left to the first process.
pub(super) fn enter(disk: &Path, programs: &[PathBuf], hierarchies: &[Hierarchy]) -> Result<()> {
    bind(disk, disk)?;
    bind_this_machines(disk)?;
    in_memory(&disk.join("run"))?;
    bind_programs(&disk.join(PROGRAMS.trim_start_matches('/')), programs)?;
    // Of the machine's own network namespace, which `ip netns exec` would do, too; but that hides
    // the groups, without which no kubelet starts.
    let sys = disk.join("sys");
    mount("sysfs", &sys, "sysfs", MountFlags::empty(), None).context("mounting a sysfs")?;
    mount_hierarchies(&sys.join("fs/cgroup"), hierarchies)?;
    chdir(disk)?;
    pivot_root(".", ".").context("changing the root")?;
    unmount(".", UnmountFlags::DETACH).context("leaving the old root")?;
    chdir("/")?;
    // As every distribution has it: kubelet's volumes must be seen by containers.
    let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    mount_change("/", shared).context("sharing mounts with containers")
}

fn bind_this_machines(disk: &Path) -> Result<()> {
    for folder in ["usr", "etc/alternatives"] {
        let source = Path::new("/").join(folder);
        if source.is_dir() {
            bind(&source, &disk.join(folder))?;
            mount_remount(disk.join(folder), MountFlags::BIND | MountFlags::RDONLY, "")
                .with_context(|| format!("making {folder} read-only"))?;
        }
    }
    mount_bind_recursive("/dev", disk.join("dev")).context("binding /dev")
}

/// Makes programs a folder's, by links into the folders that have them. A file that is bound over
/// another would not do: runc starts its own program from an overlay of the folder that it is in,
/// which has no mounts.
fn bind_programs(folder: &Path, programs: &[PathBuf]) -> Result<()> {
    in_memory(folder)?;
    for (number, program) in programs.iter().enumerate() {
        let (Some(source), Some(name)) = (program.parent(), program.file_name()) else {
            bail!("{} is no program", program.display());
        };
        let bound = format!("from-{number}");
        fs::create_dir(folder.join(&bound))?;
        bind(source, &folder.join(&bound))?;
        symlink(Path::new(&bound).join(name), folder.join(name))?;
    }
    Ok(())
}

fn mount_hierarchies(folder: &Path, hierarchies: &[Hierarchy]) -> Result<()> {
    in_memory(folder)?;
    for hierarchy in hierarchies {
        let point = folder.join(&hierarchy.name);
        fs::create_dir(&point)?;
        let options = CString::new(hierarchy.options.as_str())?;
        mount(
            "cgroup",
            &point,
            "cgroup",
            MountFlags::empty(),
            options.as_c_str(),
        )
        .with_context(|| format!("mounting the groups of {}", hierarchy.name))?;
    }
    Ok(())
}

fn bind(source: &Path, target: &Path) -> Result<()> {
    mount_bind(source, target).with_context(|| format!("binding {}", source.display()))
}

fn in_memory(folder: &Path) -> Result<()> {
    let options = CString::new("mode=755")?;
    mount(
        "tmpfs",
        folder,
        "tmpfs",
        MountFlags::empty(),
        options.as_c_str(),
    )
    .with_context(|| format!("mounting a tmpfs on {}", folder.display()))
}
