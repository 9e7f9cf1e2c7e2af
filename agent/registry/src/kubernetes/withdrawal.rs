//! Taking the own record back, when a node leaves the mesh for good.

use std::collections::BTreeMap;

use podwire_core::node::NodeName;
use serde::de::IgnoredAny;

use super::access::{self, Access};
use super::failure::Failure;
use super::requests::{self, Extent, within};
use super::{PublishError, publication, record_in};

/// Removes a Node's record: all annotations that are an agent's to write, in one request, and
/// nothing else. Returns how many there were; none of a Node that is gone.
///
/// # Errors
/// Typed; nothing is half-removed then.
pub async fn withdraw(access: &Access, own: &NodeName) -> Result<usize, PublishError> {
    let not_taken = |failure| PublishError::NotTaken {
        node: own.clone(),
        failure,
    };
    let client = access::client(access).await?;
    let found = requests::get(&client, Extent::Metadata, own).await;
    let Some(found) = found.map_err(not_taken)? else {
        return Ok(0);
    };
    // However many there are: a record that nobody would read has to go, too.
    let held = record_in(&found.metadata.annotations.unwrap_or_default());
    if held.is_empty() {
        return Ok(0);
    }
    let request = publication(own, &found.metadata.uid, &BTreeMap::new(), &held)
        .map_err(|error| not_taken(Failure::Other(error.to_string())))?;
    within(client.request::<IgnoredAny>(request))
        .await
        .map_err(not_taken)?;
    Ok(held.len())
}
