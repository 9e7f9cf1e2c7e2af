//! A machine: every namespace of its own but the users', a disk, and a first process.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use rustix::thread::UnshareFlags;

use super::cgroup::Cgroups;
use super::root;
use crate::child_process::ChildProcess;
use crate::keeper::Keeper;
use crate::namespace::Namespace;
use crate::sandbox;

/// The search path of every process: this machine's own may have anything.
const SEARCH_PATH: &str = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the first process's children do as soon as it runs: /proc shows the process ids of whoever
/// mounts it. Settings of the kernel that are no namespace's, and that kubelet sets, become files
/// of the machine's own: else one test would change them for everybody.
const BOOT_SCRIPT: &str = "\
mount -t proc proc /proc
for setting in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops \
  kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
  copy=/run/kernel-settings/$setting
  mkdir -p ${copy%/*}
  cat /proc/sys/$setting >$copy
  mount --bind $copy /proc/sys/$setting
done
";

/// A machine that runs. Dropping it takes its power away.
#[derive(Debug)]
pub(super) struct Machine {
    // In this order: the first process's end is everybody's, and then nobody is in the groups.
    init: ChildProcess,
    keeper: Keeper,
    _cgroups: Cgroups,
}

impl Machine {
    /// Boots `disk` in a network namespace that is there already. `unique` tells it from the
    /// machines of other clusters of this process; it has these programs in [`root::PROGRAMS`],
    /// `pod-tools` among them.
    pub(super) fn boot(
        namespace: &Namespace,
        unique: &str,
        disk: &Path,
        programs: Vec<PathBuf>,
        log: PathBuf,
    ) -> Result<Self> {
        let name = namespace.name().to_owned();
        let cgroups = Cgroups::new(unique)?;
        let (tasks, hierarchies) = (cgroups.tasks(), cgroups.hierarchies().to_vec());
        let (enter_network, host_name) = (namespace.entrance(), name.clone());
        let disk = disk.to_owned();
        let (keeper, ()) = Keeper::start(&name, move || {
            for file in tasks {
                fs::write(&file, "0").with_context(|| format!("joining {}", file.display()))?;
            }
            enter_network();
            sandbox::unshare(
                UnshareFlags::NEWCGROUP
                    | UnshareFlags::NEWIPC
                    | UnshareFlags::NEWNS
                    | UnshareFlags::NEWPID
                    | UnshareFlags::NEWUTS,
            )?;
            fs::write("/proc/sys/kernel/hostname", host_name)?;
            root::enter(&disk, &programs, &hierarchies)
        })
        .with_context(|| format!("booting {name}"))?;
        // The first process of a process namespace: with it all others end.
        let mut command = command("pod-tools");
        command.arg("pause");
        let init = ChildProcess::start_by(|command| keeper.spawn(command), command, log)?;
        let machine = Self {
            init,
            keeper,
            _cgroups: cgroups,
        };
        machine.output("sh", &["-e"], BOOT_SCRIPT)?;
        Ok(machine)
    }

    /// Starts one of its programs.
    pub(super) fn spawn(&self, command: Command) -> Result<Child> {
        self.keeper.spawn(command)
    }

    /// Runs a program to its end.
    pub(super) fn output(&self, program: &str, arguments: &[&str], input: &str) -> Result<String> {
        let mut command = command(program);
        command.args(arguments);
        self.keeper.output(command, input)
    }

    /// The path of a file of the machine, for this process.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.init.id())).join(path.trim_start_matches('/'))
    }

    /// The command line that opens a shell inside, from outside this process.
    pub(super) fn enter_command(&self) -> String {
        format!("nsenter --target {} --all", self.init.id())
    }

    /// Kills every process of it. Those that this process has started must be waited for before
    /// this value goes: the first process ends after all others, and they after they were waited
    /// for.
    pub(super) fn kill_all(&self) -> Result<()> {
        self.init.signal(Signal::KILL)
    }
}

/// A command of a machine, with nothing of this process's environment.
pub(super) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", SEARCH_PATH)
        .env("HOME", "/root");
    command
}
