//! Removing the own record from the registry, when this node leaves the mesh for good.

use anyhow::Context as _;
use podwire_core::node::NodeName;
use podwire_registry::{directory, kubernetes};

use crate::config::RegistryConfig;

/// Removes it, and returns of how many parts it was: annotations of an API server's Node, or one
/// file.
pub(super) async fn withdraw(node: &NodeName, registry: &RegistryConfig) -> anyhow::Result<usize> {
    match registry {
        RegistryConfig::Directory(path) => directory::withdraw(path, node)
            .map(usize::from)
            .with_context(|| format!("cannot remove the record of {node} from {}", path.display())),
        RegistryConfig::Kubernetes(access) => kubernetes::withdraw(access, node)
            .await
            .with_context(|| format!("cannot remove the record of {node}; clean up again")),
    }
}
