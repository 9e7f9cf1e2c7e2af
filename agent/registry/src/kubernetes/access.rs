//! How the API server is reached: address, credentials, and a connection whose end is noticed.

use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt as _};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tower::{BoxError, ServiceBuilder};
use tower_http::decompression::DecompressionLayer;

/// How long a connection may take to be made: a server on another continent answers within it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A watch is silent for minutes, so the kernel asks whether the other end is still there: from
/// here on after a silence of this long,
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
/// this often,
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// and this many times in vain: a black hole is noticed after 20 s.
const KEEPALIVE_RETRIES: u32 = 3;

/// The same for what was sent and not acknowledged, which keepalives do not ask about.
const USER_TIMEOUT: Duration = Duration::from_secs(20);

/// Where the API server is, and who asks. Without a kubeconfig a pod's own: address from the
/// environment, token and CA from its service account's folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// A kubeconfig's path.
    pub kubeconfig: Option<PathBuf>,
    /// Which context of it; its current one unless told.
    pub context: Option<String>,
    /// The API server's URL in place of the one that they name: on a node whose Service network
    /// does not work yet.
    pub api_server: Option<String>,
}

/// Why the API server cannot even be asked.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The kubeconfig cannot be used.
    #[error("cannot use the kubeconfig {}: {}", .path.display(), chain(.source))]
    Kubeconfig {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<kube::config::KubeconfigError>,
    },
    /// Not in a pod with a service account.
    #[error(
        "cannot use the pod's service account ({}): is its token mounted? Outside of a pod name a \
         kubeconfig", chain(.0)
    )]
    ServiceAccount(#[source] Box<kube::config::InClusterError>),
    /// The override is no URL.
    #[error("the API server's address {0:?} is no URL such as https://192.0.2.1:6443")]
    ApiServer(String),
    /// Certificates or tokens cannot be used.
    #[error("cannot use the credentials for the API server: {}", chain(.0))]
    Credentials(#[source] Box<kube::Error>),
}

/// An error with its causes, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some repeat what they are caused by.
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// A client with the credentials as they are on disk now. It never retries by itself, and logs
/// nothing: losing the API server is not an error.
///
/// # Errors
/// When kubeconfig, service account or certificates cannot be used. The network is not used yet.
pub async fn client(access: &Access) -> Result<Client, AccessError> {
    let config = config(access).await?;
    let credentials = |error| AccessError::Credentials(Box::new(error));
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_keepalive(Some(KEEPALIVE_IDLE));
    connector.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    connector.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    connector.set_tcp_user_timeout(Some(USER_TIMEOUT));
    let connector = config
        .rustls_https_connector_with_connector(connector)
        .map_err(credentials)?;
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new());
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .layer(DecompressionLayer::new())
        .option_layer(config.auth_layer().map_err(credentials)?)
        .layer(config.extra_headers_layer().map_err(credentials)?)
        .map_err(BoxError::from)
        .service(http.build::<_, Body>(connector));
    Ok(Client::new(service, config.default_namespace))
}

async fn config(access: &Access) -> Result<Config, AccessError> {
    let url = access.api_server.as_deref().map(url).transpose()?;
    let mut config = match &access.kubeconfig {
        Some(path) => from_kubeconfig(path, access.context.clone())
            .await
            .map_err(|error| AccessError::Kubeconfig {
                path: path.clone(),
                source: Box::new(error),
            })?,
        // The address of the environment is not needed where another one is told.
        None if url.is_some() => Config::incluster_dns().map_err(service_account)?,
        None => Config::incluster_env().map_err(service_account)?,
    };
    if let Some(url) = url {
        config.cluster_url = url;
    }
    Ok(config)
}

fn service_account(error: kube::config::InClusterError) -> AccessError {
    AccessError::ServiceAccount(Box::new(error))
}

async fn from_kubeconfig(
    path: &std::path::Path,
    context: Option<String>,
) -> Result<Config, kube::config::KubeconfigError> {
    let kubeconfig = Kubeconfig::read_from(path)?;
    let options = KubeConfigOptions {
        context,
        ..KubeConfigOptions::default()
    };
    Config::from_custom_kubeconfig(kubeconfig, &options).await
}

fn url(text: &str) -> Result<Uri, AccessError> {
    let url: Option<Uri> = text.parse().ok();
    url.filter(|url| matches!(url.scheme_str(), Some("https" | "http")) && url.host().is_some())
        .ok_or_else(|| AccessError::ApiServer(text.to_owned()))
}

impl Access {
    /// Checks what can be checked without looking at any file.
    ///
    /// # Errors
    /// When the API server's address is no URL.
    pub fn check(&self) -> Result<(), AccessError> {
        self.api_server
            .as_deref()
            .map_or(Ok(()), |text| url(text).map(drop))
    }
}
