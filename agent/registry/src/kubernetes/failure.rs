//! How a request to the API server fails, and what that means for what comes next.

use std::time::Duration;

use kube::core::Status;

use super::access::{AccessError, chain, without_secrets};
use crate::refusals::printable;

/// Longest text of the other end that is repeated, in characters.
const MESSAGE_LENGTH_MAX: usize = 400;

/// The field that cannot be changed: a request that names another one means another Node.
const UID_FIELD: &str = "metadata.uid";

/// A request that failed. Each is one clear sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// No answer: no route, no listener, TLS, a connection that broke or timed out.
    #[error("the API server does not answer ({0}): check its address, certificate and network")]
    Unreachable(String),
    /// 401 or 403: credentials or permissions do not suffice.
    #[error("the API server denies it ({0}): check token, RBAC and admission policies")]
    Denied(String),
    /// 429 or 5xx: later.
    #[error("the API server is busy ({message})")]
    Busy {
        /// What it says.
        message: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// 410: what happened since is not known any more, so all is read anew.
    #[error("the API server has forgotten what was last read ({0})")]
    Gone(String),
    /// 404.
    #[error("not there ({0})")]
    Missing(String),
    /// 409: the object is another one, or was changed meanwhile.
    #[error("it conflicts with what is there ({0})")]
    Conflict(String),
    /// Any other answer.
    #[error("the API server refuses it ({0})")]
    Other(String),
    /// Kubeconfig, token or certificate cannot be used.
    #[error("{0}")]
    Access(String),
}

impl Failure {
    /// Whether there was an answer about what was asked for, not about who asks or when.
    pub(super) const fn is_about_the_request(&self) -> bool {
        match self {
            Self::Gone(_) | Self::Missing(_) | Self::Conflict(_) | Self::Other(_) => true,
            Self::Unreachable(_) | Self::Denied(_) | Self::Busy { .. } | Self::Access(_) => false,
        }
    }
}

impl From<AccessError> for Failure {
    fn from(error: AccessError) -> Self {
        Self::Access(error.to_string())
    }
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        if let kube::Error::Api(status) = &error {
            return Self::from(&**status);
        }
        if let kube::Error::SerdeError(error) = &error {
            return Self::Other(format!("an answer of no use: {error}"));
        }
        if let kube::Error::Auth(error) = &error {
            return Self::Access(without_secrets(error));
        }
        let cause = std::error::Error::source(&error);
        Self::Unreachable(cause.map_or_else(|| error.to_string(), chain))
    }
}

impl From<&Status> for Failure {
    fn from(status: &Status) -> Self {
        // A gateway in front of it sends no message, or a page.
        let message = if status.message.is_empty() {
            format!("HTTP {}", status.code)
        } else {
            printable(&status.message, MESSAGE_LENGTH_MAX)
        };
        let causes = status.details.iter().flat_map(|details| &details.causes);
        let is_other_node = causes.into_iter().any(|cause| cause.field == UID_FIELD);
        match status.code {
            401 | 403 => Self::Denied(message),
            404 => Self::Missing(message),
            409 => Self::Conflict(message),
            422 if is_other_node => Self::Conflict(message),
            410 => Self::Gone(message),
            429 | 500 | 502 | 503 | 504 => {
                let seconds = status
                    .details
                    .as_ref()
                    .map(|details| details.retry_after_seconds);
                Self::Busy {
                    message,
                    retry_after: seconds
                        .filter(|seconds| *seconds > 0)
                        .map(|seconds| Duration::from_secs(seconds.into())),
                }
            }
            _ => Self::Other(message),
        }
    }
}

impl From<tokio::time::error::Elapsed> for Failure {
    fn from(_: tokio::time::error::Elapsed) -> Self {
        Self::Unreachable("no answer in time".to_owned())
    }
}
