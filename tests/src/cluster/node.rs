//! A real node: a machine with container runtime, kubelet and proxy.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use super::machine::Machine;
use super::pods::KEPT;
use super::root;
use super::services::{self, ProxyMode, Service};
use crate::address::IpVersion;
use crate::child_process::ChildProcess;
use crate::control_plane::{ControlPlane, PROXY_TOKEN, kubelet_token, program};
use crate::namespace::Namespace;
use crate::until::until;

/// What a node's processes start.
const PROGRAMS: [&str; 7] = [
    "containerd",
    "containerd-shim-runc-v2",
    "ctr",
    "kube-proxy",
    "kubelet",
    "pod-tools",
    "runc",
];

/// What containers of a node get their network by.
const PLUGINS: [&str; 5] = ["bridge", "host-local", "loopback", "portmap", "ptp"];

/// Where images are on a disk while they are imported.
const IMAGES: &str = "/var/tmp";

/// containerd answers within a second; the machine may be busy.
const RUNTIME_DEADLINE: Duration = Duration::from_secs(60);

/// A node of a cluster. Dropping it takes its power away.
#[derive(Debug)]
pub struct ClusterNode {
    number: u8,
    namespace: Arc<Namespace>,
    addresses: Vec<IpAddr>,
    proxy: ProxyMode,
    /// What tells its machine from those of other clusters.
    unique: String,
    disk: PathBuf,
    logs: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    // Waited for before the machine, whose first process ends after them.
    services: BTreeMap<Service, ChildProcess>,
    started: BTreeMap<Service, Instant>,
    machine: Option<Machine>,
    /// Starts of anything, which number the logs.
    runs: usize,
}

impl ClusterNode {
    /// A node that has no disk yet and no power. `folder` is for its disk.
    pub(super) fn new(
        node: &crate::Node,
        proxy: ProxyMode,
        cluster: &str,
        folder: &Path,
        logs: &Path,
    ) -> Self {
        Self {
            number: node.number(),
            namespace: Arc::clone(node.namespace()),
            addresses: node.host().addresses(),
            proxy,
            unique: format!("{cluster}-{}", node.name()),
            disk: folder.join(node.name()),
            logs: logs.to_owned(),
            state: Mutex::default(),
        }
    }

    /// Its number, from 1.
    #[must_use]
    pub fn number(&self) -> u8 {
        self.number
    }

    /// Its name, `node-N`.
    #[must_use]
    pub fn name(&self) -> &str {
        self.namespace.name()
    }

    /// Its addresses, IPv4 first.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// The path of a file of its disk, for this process; what is under `/run` is not on it.
    #[must_use]
    pub fn on_disk(&self, path: &str) -> PathBuf {
        self.disk.join(path.trim_start_matches('/'))
    }

    /// The path of a file that it has now, under `/run` too, for this process.
    ///
    /// # Errors
    /// When it is switched off.
    pub fn path(&self, path: &str) -> Result<PathBuf> {
        let state = self.lock();
        Ok(self.machine(&state)?.path(path))
    }

    /// Writes a file of its disk, whole or not at all, in a folder that is made where it is not.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let path = self.on_disk(path);
        let folder = path.parent().context("a file is in a folder")?;
        fs::create_dir_all(folder)?;
        // No name that containerd takes for a configuration, which it reads as soon as it is there.
        let temporary = path.with_extension("next");
        fs::write(&temporary, text)
            .and_then(|()| fs::rename(&temporary, &path))
            .with_context(|| format!("writing {}", path.display()))
    }

    /// Runs a program in all of its namespaces, with `input` as its standard input.
    ///
    /// # Errors
    /// When it is switched off, and when the program fails, with its message.
    pub fn run(&self, program: &str, arguments: &[&str], input: &str) -> Result<String> {
        let state = self.lock();
        self.machine(&state)?.output(program, arguments, input)
    }

    /// The command line that opens a shell inside, from outside this process.
    ///
    /// # Errors
    /// When it is switched off.
    pub fn enter_command(&self) -> Result<String> {
        let state = self.lock();
        Ok(self.machine(&state)?.enter_command())
    }

    /// Starts one of its services again, which is killed: containers stay.
    ///
    /// # Errors
    /// When it is switched off.
    pub fn restart(&self, service: Service) -> Result<()> {
        self.stop(service)?;
        self.start(service)
    }

    /// Kills one of its services.
    ///
    /// # Errors
    /// When it does not run.
    pub fn stop(&self, service: Service) -> Result<()> {
        let process = self.lock().services.remove(&service);
        let mut process = process.with_context(|| format!("{service} does not run"))?;
        process.end(Signal::KILL).map(drop)
    }

    /// Starts a service that does not run.
    ///
    /// # Errors
    /// When it is switched off.
    pub fn start(&self, service: Service) -> Result<()> {
        let mut state = self.lock();
        ensure!(
            !state.services.contains_key(&service),
            "{service} of {} runs already",
            self.name()
        );
        let log = self.next_log(&mut state, service.name());
        let machine = self.machine(&state)?;
        let command = service.command(self.name(), &self.addresses, self.proxy);
        let started = Instant::now();
        let process = ChildProcess::start_by(|command| machine.spawn(command), command, log)?;
        state.services.insert(service, process);
        state.started.insert(service, started);
        Ok(())
    }

    /// When a service was started last.
    ///
    /// # Errors
    /// When it was not yet.
    pub fn started(&self, service: Service) -> Result<Instant> {
        let started = self.lock().started.get(&service).copied();
        started.with_context(|| format!("{service} was not started yet"))
    }

    /// Gives containerd, which must run, the images of these archives.
    ///
    /// # Errors
    /// ctr's message.
    pub fn import(&self, archives: &[PathBuf]) -> Result<()> {
        self.wait_for_runtime()?;
        for archive in archives {
            let name = archive.file_name().context("an archive has a name")?;
            let path = format!("{IMAGES}/{}", name.display());
            fs::copy(archive, self.on_disk(&path))
                .with_context(|| format!("copying {}", archive.display()))?;
            self.ctr(&["images", "import", "--local", &path])?;
            fs::remove_file(self.on_disk(&path))?;
        }
        self.name_as_kubernetes_does()
    }

    /// Kubernetes takes a name without a registry for one of Docker Hub's.
    fn name_as_kubernetes_does(&self) -> Result<()> {
        for name in self.ctr(&["images", "list", "--quiet"])?.lines() {
            let first = name.split('/').next().unwrap_or_default();
            let has_registry = name.contains('/') && first.contains(['.', ':']);
            if !has_registry && !name.starts_with("sha256:") {
                let library = if name.contains('/') { "" } else { "library/" };
                let whole = format!("docker.io/{library}{name}");
                self.ctr(&["images", "tag", "--force", name, &whole])?;
            }
        }
        Ok(())
    }

    fn ctr(&self, arguments: &[&str]) -> Result<String> {
        let arguments = [&["--namespace", "k8s.io"], arguments].concat();
        self.run("ctr", &arguments, "")
    }

    fn wait_for_runtime(&self) -> Result<()> {
        until(RUNTIME_DEADLINE, "containerd to answer", || {
            self.ctr(&["version"]).map(drop)
        })
    }

    /// Puts an empty disk in the place of the one that it has, which must be switched off, and
    /// installs it.
    pub(super) fn install(&self, plane: &ControlPlane) -> Result<()> {
        if self.disk.exists() {
            fs::remove_dir_all(&self.disk)
                .with_context(|| format!("removing {}", self.disk.display()))?;
        }
        root::install(&self.disk).with_context(|| format!("installing {}", self.disk.display()))?;
        for plugin in PLUGINS {
            let file = self.on_disk(&format!("/opt/cni/bin/{plugin}"));
            fs::copy(program(plugin)?, file)?;
        }
        let versions: Vec<_> = self.addresses.iter().map(|a| IpVersion::of(*a)).collect();
        let kubelet = services::kubelet(&versions);
        self.write(services::KUBELET_CONFIGURATION, &kubelet.to_string())?;
        self.write(services::CONTAINERD_CONFIGURATION, &services::containerd())?;
        self.write(services::CA_FILE, &fs::read_to_string(plane.ca_file())?)?;
        for (file, token) in [
            (services::KUBELET_KUBECONFIG, &*kubelet_token(self.name())),
            (services::PROXY_KUBECONFIG, PROXY_TOKEN),
        ] {
            let kubeconfig = plane.kubeconfig(Path::new(services::CA_FILE), token);
            self.write(file, &kubeconfig)?;
        }
        Ok(())
    }

    /// Gives it power: its machine boots, and its services start.
    pub(super) fn power_on(&self) -> Result<()> {
        {
            let mut state = self.lock();
            ensure!(state.machine.is_none(), "{} runs already", self.name());
            let log = self.next_log(&mut state, "init");
            let programs = PROGRAMS.map(program).into_iter().collect::<Result<_>>()?;
            let machine = Machine::boot(&self.namespace, &self.unique, &self.disk, programs, log)?;
            state.machine = Some(machine);
        }
        Service::ALL
            .into_iter()
            .try_for_each(|service| self.start(service))
    }

    /// Takes its power away.
    pub(super) fn power_off(&self) -> Result<()> {
        let mut state = self.lock();
        self.machine(&state)?
            .kill_all()
            .with_context(|| format!("switching {} off", self.name()))?;
        state.services.clear();
        state.machine = None;
        Ok(())
    }

    /// Copies what its containers have written to the folder of logs.
    pub(super) fn keep_pods_logs(&self) {
        let pods = fs::read_dir(self.on_disk("/var/log/pods"));
        for pod in pods.into_iter().flatten().flatten() {
            let containers = fs::read_dir(pod.path()).into_iter().flatten().flatten();
            for container in containers {
                for log in fs::read_dir(container.path())
                    .into_iter()
                    .flatten()
                    .flatten()
                {
                    let name = [self.name().into(), pod.file_name(), container.file_name()]
                        .map(|part: std::ffi::OsString| part.to_string_lossy().into_owned())
                        .join(".");
                    let name = format!("{KEPT}{name}.{}", log.file_name().to_string_lossy());
                    // For people: a log that cannot be kept is no failure of a test.
                    let _ = fs::copy(log.path(), self.logs.join(name));
                }
            }
        }
    }

    fn next_log(&self, state: &mut State, what: &str) -> PathBuf {
        state.runs += 1;
        let name = format!("{}.{what}.{}.log", self.name(), state.runs);
        self.logs.join(name)
    }

    fn machine<'a>(&self, state: &'a State) -> Result<&'a Machine> {
        let machine = state.machine.as_ref();
        machine.with_context(|| format!("{} is switched off", self.name()))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
