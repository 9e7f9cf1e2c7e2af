//! A real Kubernetes control plane in the underlay: etcd, API server and controllers.
//!
//! It runs in the router's namespace, so that nodes reach the API at the router's addresses, and a
//! test's own requests are made there too ([`ControlPlane::run`]). Its programs must be there
//! before the sandbox is entered: [`build_servers`].
//!
//! ```no_run
//! use podwire_testbed::{ControlPlane, Topology};
//!
//! let bed = Topology::new().nodes(3).start("a scenario")?;
//! let cluster = ControlPlane::start(&bed, &[])?;
//! cluster.kubectl(&["apply", "-k", "deploy/base"], "")?;
//! for node in bed.nodes() {
//!     cluster.join(node)?;
//!     node.start_agent()?;
//! }
//! # anyhow::Ok(())
//! ```

mod access;
mod agent_credentials;
mod audit;
mod certificates;
pub mod kubelet;
mod layout;
mod programs;
mod server;
mod short_token;
mod snapshot;
mod static_tokens;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use kube::Client;
use kube::api::ListParams;
use rustix::process::Signal;

use crate::address::{self, IpVersion};
use crate::child_process::{self, ChildProcess};
use crate::namespace::Namespace;
use crate::testbed::Testbed;
use crate::until::until;
use access::Access;
use certificates::Authority;
use layout::Layout;

pub use agent_credentials::{AGENT_NAMESPACE, AGENT_USER, AgentCredentials};
pub use audit::AuditEvent;
pub use programs::{
    build_conformance, build_node_servers, build_policy_servers, build_servers, program,
};
pub use server::{API_PORT, Server, WITHOUT_WATCH_LIST};
pub use snapshot::Snapshot;
pub(crate) use static_tokens::PROXY_TOKEN;
pub use static_tokens::{ADMIN_TOKEN, kubelet_token, user_token};

/// The API server is ready within four seconds; the machine may be busy.
const READY_DEADLINE: Duration = Duration::from_secs(90);

/// For the answer of a server that is ready; it is asked anew after that while it is not.
const READY_ANSWER: Duration = Duration::from_secs(2);

/// Lines of a server's log in the message of its end.
const TAIL_LINES: usize = 20;

/// A running control plane. Dropping it kills its processes.
#[allow(
    missing_debug_implementations,
    reason = "kube's client, which it has, is not Debug"
)]
pub struct ControlPlane {
    layout: Layout,
    namespace: Arc<Namespace>,
    state: Mutex<State>,
    // After the state, whose client has tasks in it.
    access: Access,
}

struct State {
    processes: BTreeMap<Server, ChildProcess>,
    /// Runs of all servers, which number their logs.
    runs: usize,
    api_server_arguments: Vec<String>,
    authority: Authority,
    admin: Client,
}

impl ControlPlane {
    /// Starts all servers in the testbed's underlay, the API server with these arguments after its
    /// own, such as [`WITHOUT_WATCH_LIST`]. They are ready when this returns.
    ///
    /// Pods' and underlay's families are the topology's. Logs are in the testbed's folder of logs.
    ///
    /// # Errors
    /// When [`build_servers`] was not called, and when a server ends or is not ready.
    pub fn start(bed: &Testbed, api_server_arguments: &[&str]) -> Result<Self> {
        Self::start_with(bed, api_server_arguments, false)
    }

    /// As [`Self::start`], for real nodes: there is a scheduler, and the API server asks kubelets.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_for_kubelets(bed: &Testbed, api_server_arguments: &[&str]) -> Result<Self> {
        let plane = Self::start_with(bed, api_server_arguments, true)?;
        plane.start_server(Server::Scheduler)?;
        Ok(plane)
    }

    fn start_with(bed: &Testbed, arguments: &[&str], has_kubelets: bool) -> Result<Self> {
        let namespace = Arc::clone(bed.underlay().namespace());
        let layout = Layout::create(bed, has_kubelets)?;
        let authority = Authority::new(1)?;
        layout.write("ca.crt", &authority.pem())?;
        layout.write_files(&authority)?;
        let access = Access::new(&namespace)?;
        let admin = access.client(&layout.url(), &authority, ADMIN_TOKEN)?;
        let plane = Self {
            layout,
            namespace,
            state: Mutex::new(State {
                processes: BTreeMap::new(),
                runs: 0,
                api_server_arguments: Vec::new(),
                authority,
                admin,
            }),
            access,
        };
        plane.set_api_server_arguments(arguments);
        for server in Server::ALL {
            plane.start_server(server)?;
        }
        Ok(plane)
    }

    /// The API's URL at the router's address of a version in LAN 0, which both LANs reach.
    #[must_use]
    pub fn url(&self, version: IpVersion) -> String {
        let router = address::router(address::lan(0, version));
        format!("https://{}", SocketAddr::new(router, API_PORT))
    }

    /// The file with the certificates of those whom clients shall trust.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.layout.path("ca.crt")
    }

    /// Replaces the further arguments of the API server's next start.
    pub fn set_api_server_arguments(&self, arguments: &[&str]) {
        let arguments = arguments.iter().map(|text| (*text).to_owned());
        self.lock().api_server_arguments = arguments.collect();
    }

    /// Starts a server that does not run. The API server is ready when this returns.
    ///
    /// # Errors
    /// When it runs already, ends, or is not ready in time.
    pub fn start_server(&self, server: Server) -> Result<()> {
        {
            let mut state = self.lock();
            ensure!(
                !state.processes.contains_key(&server),
                "the {server} runs already"
            );
            state.runs += 1;
            let log = format!("{server}.{}.log", state.runs);
            let mut command = server.command(&self.layout)?;
            if server == Server::ApiServer {
                command.args(&state.api_server_arguments);
            }
            let process =
                ChildProcess::start(&self.namespace, command, self.layout.logs().join(log))?;
            state.processes.insert(server, process);
        }
        match server {
            Server::ApiServer => {
                self.wait_ready()?;
                Server::CLIENTS
                    .into_iter()
                    .try_for_each(|client| self.revive(client))
            }
            Server::Etcd | Server::ControllerManager | Server::Scheduler => Ok(()),
        }
    }

    /// Kills a server (SIGKILL): its connections end at once, its data stays.
    ///
    /// # Errors
    /// When it does not run.
    pub fn stop_server(&self, server: Server) -> Result<()> {
        let process = self.lock().processes.remove(&server);
        let mut process = process.with_context(|| format!("the {server} does not run"))?;
        process
            .end(Signal::KILL)
            .with_context(|| format!("stopping the {server}"))?;
        Ok(())
    }

    /// Stops a server where it is (SIGSTOP): connections stay and nothing answers.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause_server(&self, server: Server) -> Result<()> {
        self.signal(server, Signal::STOP)
    }

    /// Lets a paused server go on (SIGCONT).
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume_server(&self, server: Server) -> Result<()> {
        self.signal(server, Signal::CONT)
    }

    /// Kills a server, if it runs, and starts it again.
    ///
    /// # Errors
    /// As [`Self::start_server`].
    pub fn restart_server(&self, server: Server) -> Result<()> {
        self.forget(server);
        self.start_server(server)
    }

    /// Kills a server, if it runs.
    fn forget(&self, server: Server) {
        let process = self.lock().processes.remove(&server);
        // Its end is waited for, and not under the lock.
        drop(process);
    }

    /// Starts a server again that ended by itself, as a node does: the controllers end when they
    /// lose the API while they start.
    fn revive(&self, server: Server) -> Result<()> {
        let ended = match self.lock().processes.get_mut(&server) {
            Some(process) => process.ended()?.is_some(),
            None => false,
        };
        if ended {
            self.restart_server(server)?;
        }
        Ok(())
    }

    /// Another certificate authority: its certificate stands before the last one's in
    /// [`Self::ca_file`] and in every folder of [`AgentCredentials`], and all servers are started
    /// again with what it signed. A client that still has only the last one's trusts the server no
    /// more.
    ///
    /// # Errors
    /// The file system's, and as [`Self::start_server`].
    pub fn rotate_ca(&self) -> Result<()> {
        {
            let mut state = self.lock();
            let next = Authority::new(state.authority.generation() + 1)?;
            let bundle = next.pem() + &state.authority.pem();
            self.layout.write("ca.crt", &bundle)?;
            self.layout.write_files(&next)?;
            agent_credentials::replace_ca(&self.layout, &bundle)?;
            state.admin = self.access.client(&self.layout.url(), &next, ADMIN_TOKEN)?;
            state.authority = next;
        }
        self.restart_server(Server::ApiServer)?;
        self.restart_server(Server::ControllerManager)?;
        if self.layout.has_kubelets() {
            self.restart_server(Server::Scheduler)?;
        }
        Ok(())
    }

    /// Takes a kubelet's credentials: the API server, which is started again, knows them no more.
    ///
    /// # Errors
    /// The file system's, and as [`Self::start_server`].
    pub fn revoke_kubelet(&self, node: &str) -> Result<()> {
        let tokens = static_tokens::file_without(&kubelet_token(node));
        self.layout.write("tokens.csv", &tokens)?;
        self.restart_server(Server::ApiServer)
    }

    /// Waits until the API server says that it is ready.
    fn wait_ready(&self) -> Result<()> {
        let what = "the API server to be ready";
        until(READY_DEADLINE, what, || {
            if let Err(ended) = self.check_alive(Server::ApiServer) {
                // Not worth waiting for: the outer error says so at once.
                return Ok(Err(ended));
            }
            let client = self.client();
            // A path that is no resource: this is how kube's requests are made without its types.
            let question = kube::core::Request::new("/readyz").list(&ListParams::default())?;
            self.ask_within(READY_ANSWER, client.request_text(question))?;
            Ok(Ok(()))
        })?
        .context(what)
    }

    fn check_alive(&self, server: Server) -> Result<()> {
        let mut state = self.lock();
        let process = state.processes.get_mut(&server);
        let process = process.with_context(|| format!("the {server} does not run"))?;
        if let Some(status) = process.ended()? {
            bail!(
                "the {server} ended: {}\n{}",
                child_process::describe(status),
                child_process::tail(process.log(), TAIL_LINES)
            );
        }
        Ok(())
    }

    /// The process id of a server.
    ///
    /// # Errors
    /// When it does not run.
    pub fn server_pid(&self, server: Server) -> Result<u32> {
        let state = self.lock();
        let process = state.processes.get(&server);
        let process = process.with_context(|| format!("the {server} does not run"))?;
        Ok(process.id())
    }

    fn signal(&self, server: Server, signal: Signal) -> Result<()> {
        let state = self.lock();
        let process = state.processes.get(&server);
        process
            .with_context(|| format!("the {server} does not run"))?
            .signal(signal)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The router's addresses in all LANs: where nodes find the API, and what its certificate names.
fn router_addresses(bed: &Testbed) -> Vec<IpAddr> {
    let versions = bed.underlay().family().versions();
    let lans = 0..bed.underlay().kind().lans();
    lans.flat_map(|lan| versions.iter().map(move |version| (lan, *version)))
        .map(|(lan, version)| address::router(address::lan(lan, version)))
        .collect()
}
