//! Where Nodes are read, and what reading them finds.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kube::Client;
use podwire_core::node::{Node, NodeName};
use podwire_registry::directory;
use podwire_registry::kubernetes::{self, Access, AccessError, Failure};
use podwire_registry::nodes::{Loss, Nodes};

use crate::args::SourceArgs;
use crate::kubeconfig::{self, Unclear};
use crate::local_agent::{self, InTouch};
use crate::outcome::{EXIT_DENIED, EXIT_ERROR, EXIT_USAGE};
use crate::policies::Policies;
use crate::policy_reader;
use crate::selector::{InvalidSelector, Selector};

/// An API server, or a folder.
pub(crate) enum Source {
    Kubernetes(Client),
    Directory(PathBuf),
}

/// All that was read at one moment.
pub(crate) struct Snapshot {
    pub(crate) nodes: Nodes,
    /// `None` unless they were asked for.
    pub(crate) policies: Option<Policies>,
    /// `None` unless it was asked for, and this machine's agent answers.
    pub(crate) in_touch: Option<InTouch>,
}

/// What is read beside Nodes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted<'a> {
    pub(crate) policies: bool,
    /// Of the agent with this run folder: with whom it is in touch.
    pub(crate) in_touch: Option<&'a Path>,
}

/// Why nothing could be read. Each is one clear sentence.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error(transparent)]
    Kubeconfig(#[from] Unclear),
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error("cannot list Nodes: {0}")]
    Nodes(Failure),
    #[error("cannot read the admission policies: {0}")]
    Policies(Failure),
    #[error("cannot read the registry's folder {}: {loss}", .path.display())]
    Directory { path: PathBuf, loss: Loss },
    #[error(transparent)]
    Selector(#[from] InvalidSelector),
}

impl ReadError {
    pub(crate) const fn exit_code(&self) -> u8 {
        match self {
            Self::Nodes(Failure::Denied(_)) => EXIT_DENIED,
            Self::Kubeconfig(_)
            | Self::Access(_)
            | Self::Nodes(_)
            | Self::Policies(_)
            | Self::Directory { .. } => EXIT_ERROR,
            Self::Selector(_) => EXIT_USAGE,
        }
    }
}

impl Source {
    /// Nothing is read yet but the kubeconfig.
    pub(crate) async fn open(args: &SourceArgs) -> Result<Self, ReadError> {
        if let Some(path) = &args.directory {
            return Ok(Self::Directory(path.clone()));
        }
        let kubeconfig = kubeconfig::choose(
            args.kubeconfig.as_deref(),
            std::env::var_os("KUBECONFIG").as_deref(),
            std::env::home_dir().as_deref(),
            |path| path.exists(),
        )?;
        if kubeconfig.is_none() && args.context.is_some() {
            return Err(Unclear::ContextOfNone.into());
        }
        let access = Access {
            kubeconfig,
            context: args.context.clone(),
            ..Access::default()
        };
        Ok(Self::Kubernetes(kubernetes::client(&access).await?))
    }

    /// Reads all Nodes, and what else is wanted.
    pub(crate) async fn read(&self, wanted: Wanted<'_>) -> Result<Snapshot, ReadError> {
        let nodes = match self {
            Self::Kubernetes(client) => kubernetes::read_nodes(client)
                .await
                .map_err(ReadError::Nodes)?,
            Self::Directory(path) => directory::read(path).map_err(lost(path))?,
        };
        let policies = match self {
            _ if !wanted.policies => None,
            Self::Kubernetes(client) => Some(
                policy_reader::read(client)
                    .await
                    .map_err(ReadError::Policies)?,
            ),
            Self::Directory(_) => Some(Policies::NotInUse),
        };
        let in_touch = match wanted.in_touch {
            Some(run_dir) => local_agent::in_touch(run_dir).await,
            None => None,
        };
        Ok(Snapshot {
            nodes,
            policies,
            in_touch,
        })
    }

    /// All Nodes, as far as their keys and requests go.
    pub(crate) async fn look(&self) -> Result<BTreeMap<NodeName, Arc<Node>>, ReadError> {
        match self {
            Self::Kubernetes(client) => kubernetes::read_metadata(client, None)
                .await
                .map_err(ReadError::Nodes),
            Self::Directory(path) => Ok(directory::read(path).map_err(lost(path))?.nodes),
        }
    }

    /// The Nodes that a label selector chooses.
    pub(crate) async fn labelled(&self, selector: &str) -> Result<BTreeSet<NodeName>, ReadError> {
        match self {
            Self::Kubernetes(client) => {
                let chosen = kubernetes::read_metadata(client, Some(selector)).await;
                Ok(chosen.map_err(ReadError::Nodes)?.into_keys().collect())
            }
            Self::Directory(path) => {
                let selector: Selector = selector.parse()?;
                let chosen = directory::labelled(path, |labels| selector.chooses(labels));
                chosen.map_err(lost(path))
            }
        }
    }
}

fn lost(path: &Path) -> impl FnOnce(Loss) -> ReadError {
    let path = path.to_owned();
    |loss| ReadError::Directory { path, loss }
}
