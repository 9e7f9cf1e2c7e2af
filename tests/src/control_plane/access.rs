//! A test's own ways to the API: kube's client and kubectl.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::certificates::Authority;
use super::layout::replace;
use super::programs::program;
use super::{ADMIN_TOKEN, ControlPlane};
use crate::namespace::Namespace;

/// A server that runs has answered by then, also on a busy machine.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

/// Where requests are made: on threads inside the control plane's namespace.
pub(super) struct Access {
    namespace: Arc<Namespace>,
    runtime: Runtime,
}

impl Access {
    pub(super) fn new(namespace: &Arc<Namespace>) -> Result<Self> {
        Ok(Self {
            namespace: Arc::clone(namespace),
            runtime: namespace.runtime().context("starting a runtime")?,
        })
    }

    fn run<T: Send>(&self, future: impl Future<Output = T> + Send) -> T {
        self.namespace.run(|| self.runtime.block_on(future))
    }

    /// A client that trusts `authority`. It connects with its first request.
    pub(super) fn client(&self, url: &str, authority: &Authority, token: &str) -> Result<Client> {
        let mut config = Config::new(url.parse()?);
        config.root_cert = Some(vec![authority.der()]);
        config.auth_info.token = (!token.is_empty()).then(|| token.to_owned().into());
        // Its tasks live in the runtime that it is made in.
        let client = self.run(async { Client::try_from(config) });
        client.context("making a client")
    }
}

impl ControlPlane {
    /// Runs what uses a client: connections are made from inside the namespace.
    pub fn run<T: Send>(&self, future: impl Future<Output = T> + Send) -> T {
        self.access.run(future)
    }

    /// The admin's client, for [`Self::run`]. After [`Self::rotate_ca`] it must be taken anew.
    #[must_use]
    pub fn client(&self) -> Client {
        self.lock().admin.clone()
    }

    /// A client of whoever has the token; with an empty one, of nobody.
    ///
    /// # Errors
    /// When a header cannot hold the token.
    pub fn client_as(&self, token: &str) -> Result<Client> {
        let state = self.lock();
        self.access
            .client(&self.layout.url(), &state.authority, token)
    }

    /// Runs kubectl as admin, with `input` as its standard input, and returns its output.
    ///
    /// # Errors
    /// kubectl's message.
    pub fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String> {
        self.kubectl_as(ADMIN_TOKEN, arguments, input)
    }

    /// Runs kubectl as whoever has the token.
    ///
    /// # Errors
    /// kubectl's message.
    pub fn kubectl_as(&self, token: &str, arguments: &[&str], input: &str) -> Result<String> {
        let program = program("kubectl")?.display().to_string();
        let options = [
            format!("--kubeconfig={}", self.layout.path("kubeconfig").display()),
            format!("--cache-dir={}", self.layout.path("cache").display()),
            format!("--token={token}"),
        ];
        let mut all: Vec<_> = options.iter().map(String::as_str).collect();
        all.extend(arguments);
        self.namespace.output(&program, &all, input)
    }

    /// Writes a kubeconfig of whoever has the token, for anybody on the underlay.
    ///
    /// # Errors
    /// The file system's.
    pub fn write_kubeconfig(&self, path: &Path, token: &str) -> Result<()> {
        replace(path, &self.kubeconfig(&self.ca_file(), token))
    }

    /// A kubeconfig of whoever has the token, for a machine of the underlay where the
    /// authority's certificate is `ca_file`.
    #[must_use]
    pub fn kubeconfig(&self, ca_file: &Path, token: &str) -> String {
        kubeconfig_text(&self.layout.url(), ca_file, &json!({"token": token}))
    }

    /// The answer to one request.
    pub(super) fn ask<T: Send>(
        &self,
        request: impl Future<Output = kube::Result<T>> + Send,
    ) -> Result<T> {
        self.ask_within(ANSWER_DEADLINE, request)
    }

    pub(super) fn ask_within<T: Send>(
        &self,
        deadline: Duration,
        request: impl Future<Output = kube::Result<T>> + Send,
    ) -> Result<T> {
        let answer = self.run(async { timeout(deadline, request).await });
        Ok(answer.with_context(|| format!("no answer in {} s", deadline.as_secs()))??)
    }
}

/// A kubeconfig with one context. JSON is YAML, too.
pub(super) fn kubeconfig_text(url: &str, ca_file: &Path, user: &Value) -> String {
    let name = "podwire";
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": name, "cluster": {"server": url, "certificate-authority": ca_file}},
        ],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    });
    format!("{kubeconfig:#}\n")
}
