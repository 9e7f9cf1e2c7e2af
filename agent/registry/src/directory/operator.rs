//! What an operator's program does in the folder: chooses Nodes by labels, and changes requests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use podwire_core::node::NodeName;
use podwire_core::record::REQUEST_PREFIX;
use serde::Deserialize;

use super::folder;
use crate::atomic_file::{self, ReplaceError};
use crate::manifest::{self, Annotated, ManifestError};
use crate::nodes::{Loss, Part};
use crate::request_change::RequestChange;

/// Mode of a request: the agent whose Node it is about may read it, and so may all others.
const REQUEST_MODE: u32 = 0o644;

/// Why the requests on a Node were not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The Node was deleted, or created again under the same name.
    #[error("the Node {0} with uid {1} is not there any more: it was deleted or created again")]
    Replaced(NodeName, String),
    /// A file that says what is in force cannot be read, and would be lost.
    #[error("{} cannot be read ({reason}): mend or remove it", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: ManifestError,
    },
    /// The requests cannot be put into YAML.
    #[error("cannot write the request as YAML")]
    Yaml(#[source] Box<serde_saphyr::ser_error::Error>),
    /// The file system refused.
    #[error("cannot write the request")]
    Replace(#[from] ReplaceError),
}

/// Changes the requests on the Node that has this name and uid; other requests stay as they are in
/// force. For a dry run all is done but the writing.
///
/// # Errors
/// Typed; nothing is half-written then.
pub fn change_requests(
    path: &Path,
    node: &NodeName,
    uid: &str,
    change: &RequestChange,
    is_dry_run: bool,
) -> Result<(), ChangeError> {
    let mut annotations = in_force(path, node, uid)?;
    if !change.has_effect(&annotations) {
        return Ok(());
    }
    for (key, value) in change.annotations() {
        match value {
            Some(value) => annotations.insert(key, value),
            None => annotations.remove(&key),
        };
    }
    let uid = uid.to_owned();
    let text = manifest::write_annotated(node, Annotated { uid, annotations })
        .map_err(|error| ChangeError::Yaml(Box::new(error)))?;
    if !is_dry_run {
        let file = path.join(folder::file_name(node, Part::Requests));
        atomic_file::replace(&file, text.as_bytes(), REQUEST_MODE)?;
    }
    Ok(())
}

/// All requests in force on a Node: a file of requests speaks for all of them, so those in the
/// Node's manifest have to be in it.
fn in_force(
    path: &Path,
    node: &NodeName,
    uid: &str,
) -> Result<BTreeMap<String, String>, ChangeError> {
    let read = |part| {
        let file = path.join(folder::file_name(node, part));
        match folder::read_file(&file) {
            Err(ManifestError::Unreadable(error))
                if error.kind() == std::io::ErrorKind::NotFound =>
            {
                Ok(None)
            }
            Ok(bytes) => Ok(Some((file, bytes))),
            Err(reason) => Err(ChangeError::Unreadable { path: file, reason }),
        }
    };
    let unreadable = |path: PathBuf| |reason| ChangeError::Unreadable { path, reason };
    let found = read(Part::Manifest)?
        .map(|(file, bytes)| manifest::parse_node(node, &bytes).map_err(unreadable(file)))
        .transpose()?;
    let Some(found) = found.filter(|found| found.uid == uid) else {
        return Err(ChangeError::Replaced(node.clone(), uid.to_owned()));
    };
    let requests = read(Part::Requests)?
        .map(|(file, bytes)| manifest::parse_annotated(node, &bytes).map_err(unreadable(file)))
        .transpose()?;
    let mut annotations = manifest::join(&found, None, requests.as_ref()).annotations;
    annotations.retain(|key, _| key.starts_with(REQUEST_PREFIX));
    Ok(annotations)
}

/// Who asks, as far as a folder can tell: the name that the user goes by, or the user's number
/// where that name is none that can stand in a request.
#[must_use]
pub fn user_name(name: Option<&str>) -> String {
    let is_name = |name: &&str| {
        let is_allowed = |byte: u8| byte.is_ascii_graphic() && byte != b',' && byte != b'=';
        !name.is_empty() && name.bytes().all(is_allowed)
    };
    name.filter(is_name).map_or_else(
        || format!("uid:{}", rustix::process::getuid().as_raw()),
        str::to_owned,
    )
}

/// What `labelled` reads of a manifest.
#[derive(Debug, Deserialize)]
struct Labelled {
    metadata: Labels,
}

#[derive(Debug, Deserialize)]
struct Labels {
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

/// The Nodes whose labels are as `is_chosen` wants them. One that cannot be read has none.
///
/// # Errors
/// As [`super::read`].
pub fn labelled(
    path: &Path,
    is_chosen: impl Fn(&BTreeMap<String, String>) -> bool,
) -> Result<BTreeSet<NodeName>, Loss> {
    let names = super::read(path)?.nodes.into_keys();
    Ok(names
        .filter(|name| is_chosen(&labels(path, name)))
        .collect())
}

fn labels(path: &Path, node: &NodeName) -> BTreeMap<String, String> {
    let file = path.join(folder::file_name(node, Part::Manifest));
    let bytes = folder::read_file(&file).unwrap_or_default();
    let read: Option<Labelled> = std::str::from_utf8(&bytes)
        .ok()
        .and_then(|text| serde_saphyr::from_str_with_options(text, manifest::limits()).ok());
    read.and_then(|read| read.metadata.labels)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
