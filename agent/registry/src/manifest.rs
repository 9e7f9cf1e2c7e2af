//! Node manifests: the part of Kubernetes' Node that Podwire reads, as YAML.

use std::collections::BTreeMap;
use std::net::{AddrParseError, IpAddr};

use ipnet::{AddrParseError as CidrParseError, IpNet};
use podwire_core::node::{InvalidNodeName, Node, NodeName};
use podwire_core::record::{ANNOTATION_PREFIX, REQUEST_PREFIX};
use serde::{Deserialize, Serialize};

/// Largest manifest that is read, in bytes: above what a Kubernetes object may have with its
/// annotations at their limit, and small enough to be read whole.
pub const MANIFEST_SIZE_MAX: usize = 1024 * 1024;

/// Most annotations of one manifest. Podwire needs a dozen; real Nodes carry a few dozen.
pub const ANNOTATIONS_MAX: usize = 1024;

/// Most bytes in the keys and values of one manifest's annotations: Kubernetes' own limit.
pub const ANNOTATIONS_SIZE_MAX: usize = 256 * 1024;

/// Most pod CIDRs of one Node. Kubernetes allows one for each family; a few more do no harm.
pub const POD_CIDRS_MAX: usize = 16;

/// Most addresses of one Node: more than the interfaces that a machine has.
pub const ADDRESSES_MAX: usize = 64;

/// How much of a refused value a message repeats, in characters.
const EXCERPT_LENGTH: usize = 64;

/// Why a manifest was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file system refused.
    #[error("the file cannot be read: check its permissions")]
    Unreadable(#[source] std::io::Error),
    /// A folder, a pipe, a socket, a device.
    #[error("not a regular file")]
    NotAFile,
    /// Larger than [`MANIFEST_SIZE_MAX`].
    #[error("larger than {MANIFEST_SIZE_MAX} bytes")]
    TooLarge,
    /// Not UTF-8.
    #[error("not text in UTF-8")]
    NotText(#[source] std::str::Utf8Error),
    /// Not YAML, more than one document, a field of another type, or YAML made to exhaust its
    /// reader.
    #[error("not one YAML document that describes a Node")]
    Syntax(#[source] Box<serde_saphyr::Error>),
    /// Another kind of object.
    #[error("apiVersion {api_version:?}, kind {kind:?} is not a Node: expected v1, Node")]
    NotANode {
        /// `apiVersion`.
        api_version: String,
        /// `kind`.
        kind: String,
    },
    /// The manifest is about another Node than its file's name says.
    #[error("metadata.name is {found:?}, but the file's name says {expected}")]
    WrongName {
        /// `metadata.name`.
        found: String,
        /// The Node that the file's name names.
        expected: NodeName,
    },
    /// `metadata.name` is none that a Node can have.
    #[error(transparent)]
    InvalidName(#[from] InvalidNodeName),
    /// A field that Podwire needs is not there or empty.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// `metadata.creationTimestamp` is no time.
    #[error("metadata.creationTimestamp {text:?} is not an RFC 3339 time")]
    InvalidCreationTimestamp {
        /// What was found.
        text: String,
        /// Why it is no time.
        #[source]
        source: jiff::Error,
    },
    /// An entry of `spec.podCIDRs` is no prefix.
    #[error("spec.podCIDRs has {text:?}, which is not a prefix such as 10.244.1.0/24")]
    InvalidPodCidr {
        /// What was found.
        text: String,
        /// Why it is no prefix.
        #[source]
        source: CidrParseError,
    },
    /// An entry of `spec.podCIDRs` has bits set behind its prefix.
    #[error("spec.podCIDRs has {0}, which has host bits set: is {trunc} meant?", trunc = .0.trunc())]
    PodCidrHostBits(IpNet),
    /// More than [`POD_CIDRS_MAX`].
    #[error("{0} pod CIDRs: at most {POD_CIDRS_MAX} are taken")]
    TooManyPodCidrs(usize),
    /// An address of `status.addresses` of type InternalIP or ExternalIP is none.
    #[error("status.addresses has {text:?}, which is not an IP address")]
    InvalidAddress {
        /// What was found.
        text: String,
        /// Why it is no address.
        #[source]
        source: AddrParseError,
    },
    /// More than [`ADDRESSES_MAX`].
    #[error("{0} addresses: at most {ADDRESSES_MAX} are taken")]
    TooManyAddresses(usize),
    /// More than [`ANNOTATIONS_MAX`].
    #[error("{0} annotations: at most {ANNOTATIONS_MAX} are taken")]
    TooManyAnnotations(usize),
    /// More than [`ANNOTATIONS_SIZE_MAX`] bytes of annotations.
    #[error("{0} bytes of annotations: at most {ANNOTATIONS_SIZE_MAX} are taken")]
    AnnotationsTooLarge(usize),
}

/// What the agent or the operator says beside a Node's manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Annotated {
    /// The `metadata.uid` of the Node that is meant.
    pub uid: String,
    /// All annotations.
    pub annotations: BTreeMap<String, String>,
}

/// A Node as it is written, whole or its metadata alone, in YAML or an API server's JSON. What
/// Podwire does not need is skipped while it is read.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    pub(crate) metadata: Metadata,
    #[serde(default, skip_serializing)]
    spec: Option<Spec>,
    #[serde(default, skip_serializing)]
    status: Option<Status>,
}

/// `metadata` of a Node.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Metadata {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) uid: String,
    /// Of an API server only.
    #[serde(default, skip_serializing)]
    pub(crate) resource_version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    creation_timestamp: Option<String>,
    #[serde(default)]
    pub(crate) annotations: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Spec {
    #[serde(default, rename = "podCIDRs")]
    pod_cidrs: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Status {
    #[serde(default)]
    addresses: Option<Vec<Address>>,
    #[serde(default)]
    conditions: Option<Vec<Condition>>,
}

#[derive(Clone, Debug, Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Address {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

/// Reads an operator's Node manifest. The Node carries its annotations of Podwire's two prefixes.
///
/// # Errors
/// One reason, the first that is found.
pub fn parse_node(name: &NodeName, bytes: &[u8]) -> Result<Node, ManifestError> {
    parse(name, bytes)?.into_named(name.clone())
}

/// Reads a manifest that carries annotations only: an agent's record or an operator's requests.
///
/// # Errors
/// One reason, the first that is found.
pub fn parse_annotated(name: &NodeName, bytes: &[u8]) -> Result<Annotated, ManifestError> {
    let metadata = parse(name, bytes)?.metadata;
    Ok(Annotated {
        uid: metadata.uid,
        annotations: metadata.annotations.unwrap_or_default(),
    })
}

/// Writes a manifest that carries annotations only; [`parse_annotated`] reads it back.
///
/// # Errors
/// None that text can cause.
pub fn write_annotated(
    name: &NodeName,
    annotated: Annotated,
) -> Result<String, serde_saphyr::ser_error::Error> {
    serde_saphyr::to_string(&Manifest {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        metadata: Metadata {
            name: name.to_string(),
            uid: annotated.uid,
            resource_version: String::new(),
            creation_timestamp: None,
            annotations: Some(annotated.annotations),
        },
        spec: None,
        status: None,
    })
}

/// A Node as peers are to see it. What the agent and the operator wrote beside the manifest counts
/// only while it names this Node's uid; then it alone speaks for its prefix.
#[must_use]
pub fn join(manifest: &Node, record: Option<&Annotated>, requests: Option<&Annotated>) -> Node {
    let mut node = manifest.clone();
    for (part, prefix) in [(record, ANNOTATION_PREFIX), (requests, REQUEST_PREFIX)] {
        let Some(part) = part.filter(|part| part.uid == manifest.uid) else {
            continue;
        };
        node.annotations.retain(|key, _| !key.starts_with(prefix));
        let own = part
            .annotations
            .iter()
            .filter(|(key, _)| key.starts_with(prefix));
        node.annotations
            .extend(own.map(|(key, value)| (key.clone(), value.clone())));
    }
    node
}

fn parse(name: &NodeName, bytes: &[u8]) -> Result<Manifest, ManifestError> {
    if bytes.len() > MANIFEST_SIZE_MAX {
        return Err(ManifestError::TooLarge);
    }
    let text = std::str::from_utf8(bytes).map_err(ManifestError::NotText)?;
    let manifest: Manifest = serde_saphyr::from_str_with_options(text, limits())
        .map_err(|error| ManifestError::Syntax(Box::new(error)))?;
    if manifest.api_version != "v1" || manifest.kind != "Node" {
        return Err(ManifestError::NotANode {
            api_version: excerpt(&manifest.api_version),
            kind: excerpt(&manifest.kind),
        });
    }
    if manifest.metadata.name != name.as_str() {
        let found = excerpt(&manifest.metadata.name);
        return Err(ManifestError::WrongName {
            found,
            expected: name.clone(),
        });
    }
    if manifest.metadata.uid.is_empty() {
        return Err(ManifestError::Missing("metadata.uid"));
    }
    manifest.metadata.check_annotations()?;
    Ok(manifest)
}

impl Metadata {
    fn check_annotations(&self) -> Result<(), ManifestError> {
        let annotations = self.annotations.iter().flatten();
        let count = annotations.clone().count();
        if count > ANNOTATIONS_MAX {
            return Err(ManifestError::TooManyAnnotations(count));
        }
        let size = annotations
            .map(|(key, value)| key.len() + value.len())
            .sum();
        if size > ANNOTATIONS_SIZE_MAX {
            return Err(ManifestError::AnnotationsTooLarge(size));
        }
        Ok(())
    }
}

impl Manifest {
    /// The Node that an API server's object describes. The Node carries its annotations of
    /// Podwire's two prefixes.
    pub(crate) fn into_node(self) -> Result<Node, ManifestError> {
        self.metadata.check_annotations()?;
        let name = self.metadata.name.parse()?;
        self.into_named(name)
    }

    /// Whether the condition of this type is there and `False`.
    pub(crate) fn is_denied(&self, condition: &str) -> bool {
        let status = self.status.as_ref();
        let mut conditions = status
            .and_then(|status| status.conditions.as_ref())
            .into_iter()
            .flatten();
        conditions.any(|found| found.kind == condition && found.status == "False")
    }

    fn into_named(self, name: NodeName) -> Result<Node, ManifestError> {
        let created = created(self.metadata.creation_timestamp.as_deref())?;
        let spec = self.spec.unwrap_or_default();
        let pod_cidrs = pod_cidrs(&spec.pod_cidrs.unwrap_or_default())?;
        let status = self.status.unwrap_or_default();
        let addresses = addresses(&status.addresses.unwrap_or_default())?;
        let mut annotations = self.metadata.annotations.unwrap_or_default();
        annotations
            .retain(|key, _| key.starts_with(ANNOTATION_PREFIX) || key.starts_with(REQUEST_PREFIX));
        Ok(Node {
            name,
            uid: self.metadata.uid,
            created,
            pod_cidrs,
            addresses,
            annotations,
            is_record_unread: false,
        })
    }
}

/// A manifest has no use for anchors: a reader that follows none cannot be made to expand them. The
/// library's other limits (depth, events, bytes) hold as they are. Snippets would repeat a file's
/// content in logs.
pub(crate) fn limits() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_aliases: 0, max_anchors: 0 },
        with_snippet: false,
    }
}

fn created(text: Option<&str>) -> Result<i64, ManifestError> {
    let text = text.ok_or(ManifestError::Missing("metadata.creationTimestamp"))?;
    let time: jiff::Timestamp =
        text.parse()
            .map_err(|source| ManifestError::InvalidCreationTimestamp {
                text: excerpt(text),
                source,
            })?;
    Ok(time.as_second())
}

fn pod_cidrs(texts: &[String]) -> Result<Vec<IpNet>, ManifestError> {
    if texts.len() > POD_CIDRS_MAX {
        return Err(ManifestError::TooManyPodCidrs(texts.len()));
    }
    let parse = |text: &String| {
        let cidr: IpNet = text
            .parse()
            .map_err(|source| ManifestError::InvalidPodCidr {
                text: excerpt(text),
                source,
            })?;
        if cidr == cidr.trunc() {
            Ok(cidr)
        } else {
            Err(ManifestError::PodCidrHostBits(cidr))
        }
    };
    texts.iter().map(parse).collect()
}

/// Addresses of type InternalIP, then of type ExternalIP; host names and other types are no
/// addresses.
fn addresses(entries: &[Address]) -> Result<Vec<IpAddr>, ManifestError> {
    if entries.len() > ADDRESSES_MAX {
        return Err(ManifestError::TooManyAddresses(entries.len()));
    }
    let of = |kind: &'static str| entries.iter().filter(move |entry| entry.kind == kind);
    let parse = |entry: &Address| {
        entry
            .address
            .parse()
            .map_err(|source| ManifestError::InvalidAddress {
                text: excerpt(&entry.address),
                source,
            })
    };
    of("InternalIP")
        .chain(of("ExternalIP"))
        .map(parse)
        .collect()
}

fn excerpt(text: &str) -> String {
    text.chars().take(EXCERPT_LENGTH).collect()
}

#[cfg(test)]
mod tests;
