//! An end of probes: a pod, a node, or the host outside.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};

use crate::address::IpVersion;
use crate::echo::{EchoServer, EchoServers};
use crate::namespace::Namespace;

/// A namespace with addresses where echo servers answer.
#[derive(Debug)]
pub struct Host {
    namespace: Arc<Namespace>,
    servers: EchoServers,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    addresses: Vec<IpAddr>,
    server: Option<EchoServer>,
}

impl Host {
    pub(crate) fn new(namespace: Arc<Namespace>, servers: &EchoServers) -> Self {
        Self {
            namespace,
            servers: servers.clone(),
            state: Mutex::default(),
        }
    }

    /// Its name, for messages.
    #[must_use]
    pub fn name(&self) -> &str {
        self.namespace.name()
    }

    /// Where it lives.
    #[must_use]
    pub fn namespace(&self) -> &Arc<Namespace> {
        &self.namespace
    }

    /// Its addresses, IPv4 first.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.lock().addresses.clone()
    }

    /// Its first address of a version.
    ///
    /// # Errors
    /// When it has none.
    pub fn address(&self, version: IpVersion) -> Result<IpAddr> {
        self.lock()
            .addresses
            .iter()
            .copied()
            .find(|address| IpVersion::of(*address) == version)
            .with_context(|| format!("{} has no {version} address", self.name()))
    }

    /// Starts its echo servers anew at these addresses.
    pub(crate) fn set_addresses(&self, addresses: Vec<IpAddr>) -> Result<()> {
        let mut state = self.lock();
        // The old servers' ports must be free before the new ones bind.
        state.server = None;
        state.server = Some(self.servers.start(&self.namespace, &addresses)?);
        state.addresses = addresses;
        Ok(())
    }

    /// Ends its echo servers: the host is down. It keeps its addresses for when it is up again.
    pub(crate) fn stop_servers(&self) {
        self.lock().server = None;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
