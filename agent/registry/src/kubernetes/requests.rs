//! Requests to the API server, each with its deadline.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kube::Client;
use kube::api::{GetParams, ListParams};
use kube::core::Request;
use podwire_core::node::NodeName;
use serde::Deserialize;
use tokio::time::timeout;

use super::contents::Source;
use super::failure::Failure;
use crate::manifest::Manifest;
use crate::nodes::Nodes;

/// Where Nodes are.
pub(super) const NODES: &str = "/api/v1/nodes";

/// How long one answer may take: a page of a list on a server that is busy comes within it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// Nodes of one page: 100 whole ones are up to 2 MB, which are in memory twice at once.
const PAGE: u32 = 100;

/// A page of a list. Unlike the library's type it skips what is not needed while it is read:
/// managed fields alone take more memory than all else together.
#[derive(Debug, Deserialize)]
struct Page {
    #[serde(default)]
    metadata: PageMetadata,
    /// `null` for none.
    items: Option<Vec<Manifest>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMetadata {
    #[serde(default)]
    resource_version: String,
    #[serde(default, rename = "continue")]
    continue_token: String,
}

/// Waits for an answer, not for ever.
pub(super) async fn within<T>(answer: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
    Ok(timeout(ANSWER_TIMEOUT, answer).await??)
}

/// What a list holds of each Node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// All.
    Whole,
    /// Its metadata.
    Metadata,
}

/// Lists all Nodes, a page at a time, each given to `take`. Returns the revision of the list.
pub(super) async fn list(
    client: &Client,
    extent: Extent,
    take: impl FnMut(Manifest),
) -> Result<String, Failure> {
    list_by(client, extent, ListParams::default(), take).await
}

/// As [`list`], of the Nodes that these parameters choose.
pub(super) async fn list_by(
    client: &Client,
    extent: Extent,
    parameters: ListParams,
    mut take: impl FnMut(Manifest),
) -> Result<String, Failure> {
    let mut parameters = parameters.limit(PAGE);
    loop {
        let page = page(client, extent, &parameters).await?;
        page.items.into_iter().flatten().for_each(&mut take);
        if page.metadata.continue_token.is_empty() {
            return Ok(page.metadata.resource_version);
        }
        parameters.continue_token = Some(page.metadata.continue_token);
    }
}

async fn page(client: &Client, extent: Extent, parameters: &ListParams) -> Result<Page, Failure> {
    let request = Request::new(NODES);
    let request = match extent {
        Extent::Whole => request.list(parameters),
        Extent::Metadata => request.list_metadata(parameters),
    };
    let request = request.map_err(|error| Failure::Other(error.to_string()))?;
    within(client.request(request)).await
}

/// The API server's revision now.
pub(super) async fn revision(client: &Client) -> Result<String, Failure> {
    let parameters = ListParams::default().limit(1);
    let page = page(client, Extent::Metadata, &parameters).await?;
    Ok(page.metadata.resource_version)
}

/// One Node; `None` when it is not there.
pub(super) async fn get(
    client: &Client,
    extent: Extent,
    name: &NodeName,
) -> Result<Option<Manifest>, Failure> {
    let (request, parameters) = (Request::new(NODES), GetParams::default());
    let request = match extent {
        Extent::Whole => request.get(name.as_str(), &parameters),
        Extent::Metadata => request.get_metadata(name.as_str(), &parameters),
    };
    let request = request.map_err(|error| Failure::Other(error.to_string()))?;
    match within(client.request(request)).await {
        Ok(object) => Ok(Some(object)),
        Err(Failure::Missing(_)) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// All Nodes at one moment, by one list.
///
/// # Errors
/// When the list cannot be had whole.
pub async fn read_nodes(client: &Client) -> Result<Nodes, Failure> {
    let mut contents = super::contents::Contents::whole(BTreeMap::new());
    contents.begin();
    let now = Instant::now();
    list(client, Extent::Whole, |object| {
        contents.fetched(object, Source::List, now);
    })
    .await?;
    if !contents.complete(true) {
        return Ok(Nodes::default());
    }
    let nodes = contents.changed().unwrap_or_default();
    Ok(Nodes::clone(&nodes))
}
