//! Where the servers keep what is theirs, and what network they serve.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use rcgen::KeyPair;

use super::access::kubeconfig_text;
use super::certificates::Authority;
use super::server::API_PORT;
use super::{audit, router_addresses, static_tokens};
use crate::address::{self, IpVersion};
use crate::testbed::Testbed;

/// The folder of a control plane and what follows from its testbed.
#[derive(Debug)]
pub(super) struct Layout {
    folder: PathBuf,
    logs: PathBuf,
    cluster_cidrs: Vec<IpNet>,
    addresses: Vec<IpAddr>,
    has_kubelets: bool,
}

impl Layout {
    /// Makes the folder, with all that stays the same for the control plane's whole life.
    pub(super) fn create(bed: &Testbed, has_kubelets: bool) -> Result<Self> {
        let versions = bed.topology().family.versions();
        let layout = Self {
            folder: bed.folder().join("control-plane"),
            logs: bed.folder().join("logs"),
            cluster_cidrs: versions.iter().map(|v| address::cluster_cidr(*v)).collect(),
            addresses: router_addresses(bed),
            has_kubelets,
        };
        fs::create_dir_all(&layout.folder).context("making the control plane's folder")?;
        let accounts = KeyPair::generate()?;
        layout.write("service-accounts.key", &accounts.serialize_pem())?;
        layout.write("service-accounts.pub", &accounts.public_key_pem())?;
        layout.write("tokens.csv", &static_tokens::file())?;
        layout.write("audit-policy.yaml", audit::POLICY)?;
        Ok(layout)
    }

    /// What an authority signs, and the files of those who trust it.
    pub(super) fn write_files(&self, authority: &Authority) -> Result<()> {
        let mut names = self.addresses.clone();
        names.extend([IpVersion::V4, IpVersion::V6].map(address::api_service));
        let serving = authority.serving_certificate(&names)?;
        self.write("serving.crt", &serving.certificate)?;
        self.write("serving.key", &serving.key)?;
        if self.has_kubelets {
            let client = authority.kubelet_client_certificate()?;
            self.write("kubelet-client.crt", &client.certificate)?;
            self.write("kubelet-client.key", &client.key)?;
        }
        for (name, token) in [
            (
                "controller-manager",
                static_tokens::CONTROLLER_MANAGER_TOKEN,
            ),
            ("scheduler", static_tokens::SCHEDULER_TOKEN),
        ] {
            let user = serde_json::json!({"token": token});
            let kubeconfig = kubeconfig_text(&self.url(), &self.path("ca.crt"), &user);
            self.write(&format!("{name}.kubeconfig"), &kubeconfig)?;
        }
        // Of nobody: who asks says so with each request.
        let kubeconfig = kubeconfig_text(&self.url(), &self.path("ca.crt"), &serde_json::json!({}));
        self.write("kubeconfig", &kubeconfig)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(super) fn logs(&self) -> &Path {
        &self.logs
    }

    /// Pods' networks, one a family.
    pub(super) fn cluster_cidrs(&self) -> &[IpNet] {
        &self.cluster_cidrs
    }

    /// Whether nodes are real ones, with pods to schedule.
    pub(super) fn has_kubelets(&self) -> bool {
        self.has_kubelets
    }

    /// The API's addresses; the first is in LAN 0 and of the underlay's first family.
    pub(super) fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Where those look for the API who are told no version of IP.
    pub(super) fn url(&self) -> String {
        format!("https://{}", SocketAddr::new(self.addresses[0], API_PORT))
    }

    /// Writes or replaces a file, atomically.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<()> {
        replace(&self.path(name), text)
    }
}

/// Writes or replaces a file, atomically: who reads it may be running.
pub(super) fn replace(path: &Path, text: &str) -> Result<()> {
    let temporary = path.with_extension("next");
    fs::write(&temporary, text)
        .and_then(|()| fs::rename(&temporary, path))
        .with_context(|| format!("writing {}", path.display()))
}
