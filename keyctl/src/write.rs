//! Writes requests where Nodes are.

use podwire_core::node::NodeName;
use podwire_core::request::{Request, Verb};
use podwire_registry::directory::{self, ChangeError};
use podwire_registry::kubernetes::{self, Failure};
use podwire_registry::request_change::RequestChange;

use crate::outcome::{EXIT_DENIED, EXIT_ERROR};
use crate::source::Source;

/// Why a request was not written. Each is one clear sentence.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    #[error("cannot ask the API server for the name of whoever asks it: {0}")]
    User(Failure),
    #[error("the user name {0:?} cannot stand in a request: use a ServiceAccount's credentials")]
    Name(String),
    #[error("cannot write the request to Node {node}: {failure}")]
    Node { node: NodeName, failure: Failure },
    #[error("{error}{cause}", cause = cause(.error))]
    File { error: ChangeError },
}

/// Whether it helps to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// It may be taken later.
    TryAgain,
    /// The Node is another one by now.
    ItIsGone,
    /// None.
    None,
}

impl WriteError {
    pub(crate) const fn exit_code(&self) -> u8 {
        match self {
            Self::User(Failure::Denied(_))
            | Self::Name(_)
            | Self::Node {
                failure: Failure::Denied(_),
                ..
            } => EXIT_DENIED,
            Self::User(_) | Self::Node { .. } | Self::File { .. } => EXIT_ERROR,
        }
    }

    pub(crate) const fn remedy(&self) -> Remedy {
        match self {
            Self::Node { failure, .. } => match failure {
                Failure::Conflict(_) | Failure::Missing(_) => Remedy::ItIsGone,
                Failure::Unreachable(_) | Failure::Busy { .. } => Remedy::TryAgain,
                Failure::Denied(_) | Failure::Gone(_) | Failure::Other(_) | Failure::Access(_) => {
                    Remedy::None
                }
            },
            Self::File {
                error: ChangeError::Replaced(..),
            } => Remedy::ItIsGone,
            Self::User(_) | Self::Name(_) | Self::File { .. } => Remedy::None,
        }
    }
}

fn cause(error: &ChangeError) -> String {
    let mut text = String::new();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Who writes requests, and whether they are written at all.
pub(crate) struct Writer<'a> {
    source: &'a Source,
    by: String,
    is_dry_run: bool,
}

impl<'a> Writer<'a> {
    /// One in the name of whoever runs this.
    ///
    /// # Errors
    /// When that name cannot be had, or cannot stand in a request.
    pub(crate) async fn new(source: &'a Source, is_dry_run: bool) -> Result<Self, WriteError> {
        let by = match source {
            Source::Kubernetes(client) => kubernetes::user_name(client)
                .await
                .map_err(WriteError::User)?,
            Source::Directory(_) => directory::user_name(std::env::var("USER").ok().as_deref()),
        };
        let writer = Self {
            source,
            by,
            is_dry_run,
        };
        let request = writer.request(Verb::Rotate, u64::MAX);
        if Request::parse(request.verb, &request.value()).is_err() {
            return Err(WriteError::Name(request.by));
        }
        Ok(writer)
    }

    /// Whether nothing is written.
    pub(crate) const fn is_dry_run(&self) -> bool {
        self.is_dry_run
    }

    /// A request about the keys of this generation.
    fn request(&self, verb: Verb, if_key_generation: u64) -> Request {
        Request {
            verb,
            if_key_generation,
            by: self.by.clone(),
        }
    }

    /// Asks the Node of this uid.
    pub(crate) async fn ask(
        &self,
        node: &NodeName,
        uid: &str,
        verb: Verb,
        generation: u64,
    ) -> Result<(), WriteError> {
        let change = RequestChange::Make(self.request(verb, generation));
        self.change(node, uid, &change).await
    }

    /// Takes back what this program has asked of the Node of this uid, about keys of
    /// that generation: another request stays.
    pub(crate) async fn take_back(
        &self,
        node: &NodeName,
        uid: &str,
        verb: Verb,
        generation: u64,
    ) -> Result<(), WriteError> {
        let change = RequestChange::TakeBack(self.request(verb, generation));
        self.change(node, uid, &change).await
    }

    async fn change(
        &self,
        node: &NodeName,
        uid: &str,
        change: &RequestChange,
    ) -> Result<(), WriteError> {
        match self.source {
            Source::Kubernetes(client) => {
                kubernetes::change_requests(client, node, uid, change, self.is_dry_run)
                    .await
                    .map_err(|failure| WriteError::Node {
                        node: node.clone(),
                        failure,
                    })
            }
            Source::Directory(path) => {
                directory::change_requests(path, node, uid, change, self.is_dry_run)
                    .map_err(|error| WriteError::File { error })
            }
        }
    }
}
