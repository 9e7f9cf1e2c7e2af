//! The agent of a node: starting, asking and ending it.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::Node;
use super::agent_log::error_lines;
use super::clock::use_clock;
use crate::address;
use crate::child_process::{self, ChildProcess};
use crate::confinement::{Confined, Confinement};
use crate::tun::TunFile;
use crate::until::until;

/// What the agents of all suites shall have in their environment has this in front instead of
/// `PODWIRE_`, such as `TESTBED_PODWIRE_OFFLOAD` (`make test-fallbacks`).
const FOR_AGENTS: &str = "TESTBED_PODWIRE_";

/// A first start makes keys and a device and reads the registry; the machine may be busy.
const READY_DEADLINE: Duration = Duration::from_secs(60);

/// A node's agent: how it is started next, and its runs.
#[derive(Debug, Default)]
pub(super) struct AgentState {
    pub(super) arguments: Vec<String>,
    /// How it reaches the Kubernetes API, which then is its registry in the folder's place.
    kubeconfig: Option<PathBuf>,
    /// Where it finds the registry's folder, if not in its place.
    pub(super) view: Option<PathBuf>,
    environment: Vec<(String, String)>,
    /// Whether it sees a TUN device, once a test has said so.
    tun: Option<bool>,
    /// What sets its wall clock, if that is not the machine's.
    pub(super) clock: Option<PathBuf>,
    confinement: Option<Confinement>,
    process: Option<ChildProcess>,
    /// After the process, which must have ended when it goes.
    confined: Option<Confined>,
    /// Logs of all runs, in order.
    logs: Vec<PathBuf>,
}

impl AgentState {
    pub(super) fn new(arguments: Vec<String>) -> Self {
        Self {
            arguments,
            ..Self::default()
        }
    }
}

impl Node {
    /// Replaces the further arguments of the agent's next start, such as `--lanes 2`.
    pub fn set_agent_arguments(&self, arguments: &[&str]) {
        self.lock().agent.arguments = arguments.iter().map(|text| (*text).to_owned()).collect();
    }

    /// Sets an environment variable for the agent's next starts.
    pub fn set_agent_environment(&self, name: &str, value: &str) {
        self.lock()
            .agent
            .environment
            .push((name.to_owned(), value.to_owned()));
    }

    /// From its next start the agent's registry is the Kubernetes API that this file leads to.
    pub fn use_kubernetes(&self, kubeconfig: &Path) {
        self.lock().agent.kubeconfig = Some(kubeconfig.to_owned());
    }

    /// From its next start the agent sees `/dev/net/tun`, or not, whatever the topology said.
    pub fn set_tun(&self, visible: bool) {
        self.lock().agent.tun = Some(visible);
    }

    /// From its next start this is kept from the agent; with `None` nothing is.
    pub fn confine_agent(&self, confinement: Option<Confinement>) {
        self.lock().agent.confinement = confinement;
    }

    /// How what is kept from the running agent is kept from it, in words.
    ///
    /// # Errors
    /// When nothing is.
    pub fn means_of_confinement(&self) -> Result<&'static str> {
        let state = self.lock();
        let confined = state.agent.confined.as_ref();
        Ok(confined.context("nothing is kept from the agent")?.means)
    }

    /// The program that is the node's agent.
    ///
    /// # Errors
    /// When the topology names none.
    pub fn agent_program(&self) -> Result<&Path> {
        let program = self.topology.agent_program.as_deref();
        program.context("the topology names no agent")
    }

    /// Starts the agent and returns at once.
    ///
    /// # Errors
    /// When it runs already or cannot start.
    pub fn start_agent(&self) -> Result<()> {
        let mut state = self.lock();
        if let Some(agent) = &mut state.agent.process
            && agent.ended()?.is_none()
        {
            bail!("the agent of {} runs already", self.name());
        }
        let log = self.folders.logs.join(format!(
            "{}.{}.log",
            self.name(),
            state.agent.logs.len() + 1
        ));
        let mut command = self.agent_command()?;
        let registry = match &state.agent.kubeconfig {
            Some(kubeconfig) => ("--kubeconfig", kubeconfig.as_path()),
            None => {
                let view = state.agent.view.as_deref();
                ("--directory", view.unwrap_or_else(|| self.directory.path()))
            }
        };
        let cluster: Vec<_> = self
            .topology
            .family
            .versions()
            .iter()
            .map(|version| address::cluster_cidr(*version).to_string())
            .collect();
        command
            .args(["run", "--node-name", self.name()])
            .arg(registry.0)
            .arg(registry.1)
            .args(["--cluster-cidr", &cluster.join(",")])
            .arg("--state-dir")
            .arg(&self.folders.state)
            .arg("--run-dir")
            .arg(&self.folders.run)
            .args(&state.agent.arguments)
            .envs(state.agent.environment.iter().cloned());
        if let Some(clock) = &state.agent.clock {
            use_clock(&mut command, clock)?;
        }
        let has_tun = state.agent.tun;
        let has_tun = has_tun.unwrap_or_else(|| self.topology.has_tun(self.number));
        let hidden = (!has_tun).then_some(Confinement::TunFile(TunFile::Missing));
        let confinement = state.agent.confinement.or(hidden);
        state.agent.process = None;
        state.agent.confined = None;
        if let Some(confinement) = confinement {
            state.agent.confined = Some(confinement.apply(&mut command)?);
        }
        state.agent.logs.push(log.clone());
        state.agent.process = Some(ChildProcess::start(self.namespace(), command, log)?);
        Ok(())
    }

    /// Waits until the agent says that it is ready.
    ///
    /// # Errors
    /// After a minute, or at once when it ended.
    pub fn wait_ready(&self) -> Result<()> {
        let what = format!("the agent of {} to be ready", self.name());
        until(READY_DEADLINE, &what, || {
            if let Some(status) = self.agent_ended()? {
                // Not worth waiting for: the outer error says so at once.
                return Ok(Err(anyhow!(
                    "it ended: {}\n{}",
                    child_process::describe(status),
                    self.log_tail(20)
                )));
            }
            self.agent_output(&["healthz"]).map(|_| Ok(()))
        })?
        .with_context(|| what)
    }

    /// What `podwire-agent status -o json` prints.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn status_json(&self) -> Result<serde_json::Value> {
        let text = self.agent_output(&["status", "-o", "json"])?;
        serde_json::from_str(&text).with_context(|| format!("status of {}: {text}", self.name()))
    }

    /// The standard output of another command of the agent, such as `["peers", "-o", "json"]`.
    ///
    /// # Errors
    /// When it fails; its standard error is in the message.
    pub fn agent_output(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.agent_command()?;
        command
            .args(arguments)
            .arg("--run-dir")
            .arg(&self.folders.run);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = self.namespace().spawn(command)?.wait_with_output()?;
        ensure!(
            output.status.success(),
            "`podwire-agent {}` on {}: {} {}",
            arguments.join(" "),
            self.name(),
            child_process::describe(output.status),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The process id of the running agent.
    ///
    /// # Errors
    /// When none runs.
    pub fn agent_pid(&self) -> Result<u32> {
        let mut state = self.lock();
        if let Some(agent) = &mut state.agent.process
            && agent.ended()?.is_none()
        {
            return Ok(agent.id());
        }
        bail!("no agent runs on {}", self.name());
    }

    /// Ends the agent with SIGTERM and waits for its end.
    ///
    /// # Errors
    /// When none runs, or it does not end.
    pub fn stop_agent(&self) -> Result<ExitStatus> {
        self.end_agent(Signal::TERM)
    }

    /// Kills the agent with SIGKILL and waits for its end.
    ///
    /// # Errors
    /// When none runs.
    pub fn kill_agent(&self) -> Result<ExitStatus> {
        self.end_agent(Signal::KILL)
    }

    /// Stops the agent's process where it is (SIGSTOP): it does nothing and is not gone.
    ///
    /// # Errors
    /// When none runs.
    pub fn pause_agent(&self) -> Result<()> {
        self.signal_agent(Signal::STOP)
    }

    /// Lets a stopped agent go on (SIGCONT).
    ///
    /// # Errors
    /// When none runs.
    pub fn resume_agent(&self) -> Result<()> {
        self.signal_agent(Signal::CONT)
    }

    fn signal_agent(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.agent_pid()?)
            .ok()
            .and_then(Pid::from_raw);
        kill_process(pid.context("a child's id is not 0")?, signal)
            .with_context(|| format!("signalling the agent of {}", self.name()))
    }

    /// Waits for an agent that shall end by itself and takes note of its end.
    ///
    /// # Errors
    /// When none was started, or it still runs at the deadline.
    pub fn wait_agent_end(&self, deadline: Duration) -> Result<ExitStatus> {
        let what = format!("the end of the agent of {}", self.name());
        let status = until(deadline, &what, || {
            self.agent_ended()?.ok_or_else(|| anyhow!("it runs"))
        })?;
        self.lock().agent.process = None;
        Ok(status)
    }

    /// The last lines of the log of the agent's last run.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        self.lock()
            .agent
            .logs
            .last()
            .map_or_else(String::new, |log| child_process::tail(log, lines))
    }

    /// The whole log of the agent's last run.
    #[must_use]
    pub fn log(&self) -> String {
        self.log_tail(usize::MAX)
    }

    /// Log lines of level ERROR and panics, of all runs.
    pub(crate) fn error_lines(&self) -> Vec<String> {
        self.lock()
            .agent
            .logs
            .iter()
            .flat_map(|log| error_lines(log))
            .collect()
    }

    /// Complains about an agent that ended though nobody ended it.
    pub(crate) fn check_agent_alive(&self) -> Result<()> {
        match self.agent_ended()? {
            Some(status) => bail!(
                "the agent of {} ended: {}",
                self.name(),
                child_process::describe(status)
            ),
            None => Ok(()),
        }
    }

    fn end_agent(&self, signal: Signal) -> Result<ExitStatus> {
        let mut agent = self
            .lock()
            .agent
            .process
            .take()
            .with_context(|| format!("no agent runs on {}", self.name()))?;
        agent.end(signal).with_context(|| {
            format!(
                "ending the agent of {}; its log is {}",
                self.name(),
                agent.log().display()
            )
        })
    }

    /// `None` also when no agent was started.
    fn agent_ended(&self) -> Result<Option<ExitStatus>> {
        self.lock()
            .agent
            .process
            .as_mut()
            .map_or(Ok(None), ChildProcess::ended)
    }

    fn agent_command(&self) -> Result<Command> {
        let mut command = Command::new(self.agent_program()?);
        for (name, value) in std::env::vars_os() {
            // The agent reads its flags from these too: the caller's own must not count.
            if name.to_string_lossy().starts_with("PODWIRE_") {
                command.env_remove(&name);
            }
            if let Some(meant) = name.to_str().and_then(|name| name.strip_prefix(FOR_AGENTS)) {
                command.env(format!("PODWIRE_{meant}"), value);
            }
        }
        command.env("NO_COLOR", "1").env("RUST_BACKTRACE", "1");
        Ok(command)
    }
}
