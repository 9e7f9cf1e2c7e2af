//! A machine's own part of the control groups: the whole tree, as its kubelet sees it.
//!
//! Of the first version, where a thread can be moved alone: a thread that has joined every group
//! and then makes a cgroup namespace sees them as the roots of the tree, and so do its children.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::until::until;

/// What the groups' names begin with; the id of their testbed's process follows.
const PREFIX: &str = "podwire-cluster-";

/// A killed process leaves its group within moments, also on a busy machine.
const EMPTY_DEADLINE: Duration = Duration::from_secs(20);

/// Options of a mount that say nothing of what is mounted.
const COMMON_OPTIONS: [&str; 4] = ["rw", "ro", "xattr", "clone_children"];

/// What a group of the cpuset hierarchy must have before it can have processes.
const CPUSET_FILES: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];

/// One of the mounted trees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// Its name below `/sys/fs/cgroup`.
    pub(super) name: String,
    /// What it is mounted with: its controllers.
    pub(super) options: String,
    /// Our own group in it.
    own: PathBuf,
}

/// A group in every hierarchy; removed with this value, by when its processes must have ended.
#[derive(Debug)]
pub(super) struct Cgroups {
    name: String,
    hierarchies: Vec<Hierarchy>,
}

impl Cgroups {
    /// Makes them, inside our own: what limits us limits them.
    pub(super) fn new(machine: &str) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let own = fs::read_to_string("/proc/thread-self/cgroup")?;
        let hierarchies = hierarchies(&mounts, &own);
        ensure!(
            !hierarchies.is_empty(),
            "no hierarchy of cgroup v1 is mounted, which is what a testbed's kubelet is given: \
             boot with systemd.unified_cgroup_hierarchy=0, or mount them below /sys/fs/cgroup"
        );
        let cgroups = Self {
            name: format!("{PREFIX}{}-{machine}", std::process::id()),
            hierarchies,
        };
        for hierarchy in &cgroups.hierarchies {
            let group = hierarchy.own.join(&cgroups.name);
            fs::create_dir(&group).with_context(|| format!("making {}", group.display()))?;
            for file in CPUSET_FILES {
                if group.join(file).exists() {
                    fs::write(group.join(file), fs::read(hierarchy.own.join(file))?)?;
                }
            }
        }
        Ok(cgroups)
    }

    pub(super) fn hierarchies(&self) -> &[Hierarchy] {
        &self.hierarchies
    }

    /// The files that a thread joins them by, writing 0.
    pub(super) fn tasks(&self) -> Vec<PathBuf> {
        let tasks = |hierarchy: &Hierarchy| hierarchy.own.join(&self.name).join("tasks");
        self.hierarchies.iter().map(tasks).collect()
    }

    /// Removes them and all below.
    fn remove(&self) -> Result<()> {
        for hierarchy in &self.hierarchies {
            let group = hierarchy.own.join(&self.name);
            until(EMPTY_DEADLINE, "a machine's groups to be empty", || {
                remove(&group)
            })?;
        }
        Ok(())
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        let _ = self.remove();
    }
}

/// Removes the groups of testbeds that were killed.
pub(super) fn remove_stale() -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let own = fs::read_to_string("/proc/thread-self/cgroup")?;
    for hierarchy in hierarchies(&mounts, &own) {
        for entry in fs::read_dir(&hierarchy.own)? {
            let entry = entry?;
            if is_stale(&entry.file_name().to_string_lossy(), is_running) {
                until(EMPTY_DEADLINE, "a killed test's groups to be empty", || {
                    remove(&entry.path())
                })?;
            }
        }
    }
    Ok(())
}

fn is_running(process: u32) -> bool {
    Path::new(&format!("/proc/{process}")).exists()
}

/// Whether a group's name is a testbed's whose process has ended.
fn is_stale(name: &str, is_running: impl Fn(u32) -> bool) -> bool {
    name.strip_prefix(PREFIX)
        .and_then(|rest| rest.split('-').next())
        .and_then(|process| process.parse().ok())
        .is_some_and(|process| !is_running(process))
}

/// Removes a group after those inside it. Its files go with it.
fn remove(group: &Path) -> Result<()> {
    if !group.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(group).with_context(|| format!("removing {}", group.display()))
}

/// The hierarchies of the first version, with our own group in each, from what `/proc` says.
fn hierarchies(mounts: &str, own: &str) -> Vec<Hierarchy> {
    let hierarchy = |line: &str| {
        let (mount, kind) = line.split_once(" - ")?;
        let [file_system, _, options] = kind.split(' ').collect::<Vec<_>>()[..] else {
            return None;
        };
        if file_system != "cgroup" {
            return None;
        }
        let point = Path::new(mount.split(' ').nth(4)?);
        let options: Vec<_> = options
            .split(',')
            .filter(|option| !COMMON_OPTIONS.contains(option) && !is_agent(option))
            .collect();
        let group = own.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let controllers: Vec<_> = fields.next()?.split(',').collect();
            let same = controllers.iter().all(|one| options.contains(one));
            same.then(|| fields.next()).flatten()
        })?;
        Some(Hierarchy {
            name: point.file_name()?.to_str()?.to_owned(),
            options: options.join(","),
            own: point.join(group.trim_start_matches('/')),
        })
    };
    mounts.lines().filter_map(hierarchy).collect()
}

/// A program that the kernel starts when a group is empty: the machine's own business.
fn is_agent(option: &str) -> bool {
    option.starts_with("release_agent=")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hierarchy_is_found_with_our_own_group_in_it() {
        let mounts = "21 1 0:5 / /proc rw - proc proc rw\n\
            33 30 0:29 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
            34 30 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            35 30 0:31 / /sys/fs/cgroup/systemd rw - cgroup cgroup \
            rw,xattr,release_agent=/lib/agent,name=systemd\n\
            36 30 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let own = "9:name=systemd:/\n4:memory:/a/b\n1:cpu,cpuacct:/c\n0::/\n";
        let found: Vec<_> = hierarchies(mounts, own)
            .into_iter()
            .map(|h| (h.name, h.options, h.own.display().to_string()))
            .collect();
        let expected = [
            ("memory", "memory", "/sys/fs/cgroup/memory/a/b"),
            ("cpu,cpuacct", "cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct/c"),
            ("systemd", "name=systemd", "/sys/fs/cgroup/systemd/"),
        ]
        .map(|(name, options, own)| (name.to_owned(), options.to_owned(), own.to_owned()));
        assert_eq!(found, expected);
    }

    #[test]
    fn only_groups_of_ended_testbeds_are_stale() {
        let is_running = |process| process == 12;
        assert!(is_stale("podwire-cluster-11-0-node-1", is_running));
        for name in [
            "podwire-cluster-12-0-node-1",
            "kubepods",
            "podwire-cluster-x",
        ] {
            assert!(!is_stale(name, is_running), "{name}");
        }
    }
}
