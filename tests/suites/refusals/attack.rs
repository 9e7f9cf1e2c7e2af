//! A node that says what it likes about itself: what it puts into the registry.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use podwire_testbed::{Manifest, Node, Testbed};

/// The annotations of a record, without their prefix.
pub(crate) type Annotations = BTreeMap<String, String>;

/// What stands in the place of a record.
#[derive(Clone)]
pub(crate) enum Record {
    /// The annotations, as an agent writes them.
    Annotations,
    /// Any bytes.
    Bytes(Vec<u8>),
    /// A folder.
    Folder,
    /// Nothing.
    Absent,
}

/// What one node puts into the registry, and what it knows of the others.
#[derive(Clone)]
pub(crate) struct Attack {
    pub(crate) manifest: Manifest,
    /// Replaces the manifest.
    pub(crate) manifest_bytes: Option<Vec<u8>>,
    pub(crate) annotations: Annotations,
    pub(crate) record: Record,
    pub(crate) requests: Option<Vec<u8>>,
    /// Node 1's record.
    pub(crate) observer: Annotations,
    /// Node 2's record.
    pub(crate) victim: Annotations,
}

impl Attack {
    /// What node 3 honestly is, once its agent has published.
    pub(crate) fn of(bed: &Testbed) -> Result<Self> {
        Ok(Self {
            manifest: bed.node(3).manifest(),
            manifest_bytes: None,
            annotations: published(bed, bed.node(3))?,
            record: Record::Annotations,
            requests: None,
            observer: published(bed, bed.node(1))?,
            victim: published(bed, bed.node(2))?,
        })
    }

    pub(crate) fn set(&mut self, annotation: &str, value: impl Into<String>) {
        self.annotations.insert(annotation.to_owned(), value.into());
    }

    /// Claims these CIDRs; the cluster, or whoever writes its manifest, agrees.
    pub(crate) fn be_given(&mut self, cidrs: &[&str]) {
        self.set("pod-cidrs", cidrs.join(","));
        let parsed = cidrs.iter().filter_map(|cidr| cidr.parse().ok());
        self.manifest.pod_cidrs = parsed.collect();
    }

    /// Has this address too; its Node says so.
    pub(crate) fn be_at(&mut self, address: &str) {
        self.manifest
            .addresses
            .extend(address.parse::<IpAddr>().ok());
    }

    pub(crate) fn bytes(&mut self, bytes: impl Into<Vec<u8>>) {
        self.record = Record::Bytes(bytes.into());
    }

    /// The record as an agent writes it, with all annotations.
    pub(crate) fn text(&self) -> String {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let mut text = format!(
            "apiVersion: v1\nkind: Node\nmetadata:\n  name: {}\n  uid: {}\n  annotations:\n",
            quoted(&self.manifest.name),
            quoted(&self.manifest.uid)
        );
        for (key, value) in &self.annotations {
            let key = quoted(&format!("podwire.dev/{key}"));
            let _ = writeln!(text, "    {key}: {}", quoted(value));
        }
        text
    }

    /// Puts it all into the registry, as whoever has taken over node 3 would.
    pub(crate) fn publish(&self, bed: &Testbed) -> Result<()> {
        let (directory, node) = (bed.directory(), bed.node(3));
        if let Some(bytes) = &self.manifest_bytes {
            replace(&directory.manifest_path(node.name()), Some(bytes))?;
        } else {
            let manifest = self.manifest.clone();
            node.edit_manifest(|own| *own = manifest)?;
        }
        let record = directory.record_path(node.name());
        match &self.record {
            Record::Annotations => replace(&record, Some(self.text().as_bytes()))?,
            Record::Bytes(bytes) => replace(&record, Some(bytes))?,
            Record::Absent => replace(&record, None)?,
            Record::Folder => {
                replace(&record, None)?;
                fs::create_dir(&record).with_context(|| format!("making {}", record.display()))?;
            }
        }
        let requests = directory.path().join("node-3.request.yaml");
        replace(&requests, self.requests.as_deref())
    }
}

/// Replaces a file whole, or removes it.
fn replace(path: &PathBuf, bytes: Option<&[u8]>) -> Result<()> {
    if path.is_dir() {
        fs::remove_dir(path)?;
    }
    let done = match bytes {
        Some(bytes) => {
            let temporary = path.with_file_name(".attack");
            fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, path))
        }
        None if path.exists() => fs::remove_file(path),
        None => Ok(()),
    };
    done.with_context(|| format!("replacing {}", path.display()))
}

/// What a node's agent has published.
fn published(bed: &Testbed, node: &Node) -> Result<Annotations> {
    let path = bed.directory().record_path(node.name());
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let annotations: Annotations = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("podwire.dev/")?.split_once(": "))
        .map(|(key, value)| (key.to_owned(), value.trim_matches(['"', '\'']).to_owned()))
        .collect();
    anyhow::ensure!(annotations.contains_key("public-key"), "no key in {text}");
    Ok(annotations)
}
