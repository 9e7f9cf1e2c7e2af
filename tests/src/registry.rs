//! The directory registry from the operator's side: Node manifests.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::{fs, io};

use anyhow::{Context as _, Result};
use ipnet::IpNet;

/// One Node as its operator writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// `metadata.name`, also the file's name.
    pub name: String,
    /// `metadata.uid`: another one makes it another Node.
    pub uid: String,
    /// `metadata.creationTimestamp`, RFC 3339.
    pub created: String,
    /// `metadata.annotations`, the operator's only.
    pub annotations: BTreeMap<String, String>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<IpNet>,
    /// `status.addresses` of type InternalIP.
    pub addresses: Vec<IpAddr>,
}

impl Manifest {
    /// The manifest as YAML. Values are quoted as JSON strings, which YAML reads.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let mut yaml = format!(
            "apiVersion: v1\nkind: Node\nmetadata:\n  name: {}\n  uid: {}\n  creationTimestamp: {}\n",
            quoted(&self.name),
            quoted(&self.uid),
            quoted(&self.created)
        );
        if !self.annotations.is_empty() {
            yaml.push_str("  annotations:\n");
            for (key, value) in &self.annotations {
                let _ = writeln!(yaml, "    {}: {}", quoted(key), quoted(value));
            }
        }
        let cidrs: Vec<_> = self
            .pod_cidrs
            .iter()
            .map(|cidr| quoted(&cidr.to_string()))
            .collect();
        let addresses: Vec<_> = self
            .addresses
            .iter()
            .map(|address| {
                format!(
                    "{{type: InternalIP, address: {}}}",
                    quoted(&address.to_string())
                )
            })
            .collect();
        let _ = writeln!(yaml, "spec:\n  podCIDRs: [{}]", cidrs.join(", "));
        let _ = writeln!(yaml, "status:\n  addresses: [{}]", addresses.join(", "));
        yaml
    }
}

/// The folder that all agents of a testbed read.
#[derive(Debug, Clone)]
pub struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Makes the folder.
    pub(crate) fn create(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self { path })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A Node's manifest.
    #[must_use]
    pub fn manifest_path(&self, node: &str) -> PathBuf {
        self.path.join(format!("{node}.yaml"))
    }

    /// What the Node's agent published.
    #[must_use]
    pub fn record_path(&self, node: &str) -> PathBuf {
        self.path.join(format!("{node}.podwire.yaml"))
    }

    /// Writes or replaces a manifest, atomically.
    ///
    /// # Errors
    /// The file system's.
    pub fn apply(&self, manifest: &Manifest) -> Result<()> {
        let path = self.manifest_path(&manifest.name);
        self.replace(&path, &manifest.to_yaml())
    }

    /// Writes any file of the registry atomically, also one that an agent owns.
    ///
    /// # Errors
    /// The file system's.
    pub fn replace(&self, path: &Path, text: &str) -> Result<()> {
        let name = path.file_name().unwrap_or_default().display();
        let temporary = self.path.join(format!(".{name}.testbed"));
        fs::write(&temporary, text)
            .and_then(|()| fs::rename(&temporary, path))
            .with_context(|| format!("writing {}", path.display()))
    }

    /// Deletes a Node as its operator does; its agent's own file stays.
    ///
    /// # Errors
    /// The file system's, but for a manifest that is not there.
    pub fn delete(&self, node: &str) -> Result<()> {
        let path = self.manifest_path(node);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("deleting {}", path.display()))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}
