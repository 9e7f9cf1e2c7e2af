//! How the API server is reached: address, credentials, and a connection whose end is noticed.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt as _};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use tokio::runtime::Handle;
use tokio::time::timeout;
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

/// How long a credential plugin may take: some ask a server of their own.
const PLUGIN_TIMEOUT: Duration = Duration::from_secs(30);

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
    #[error("cannot use the kubeconfig {}: {reason}", .path.display())]
    Kubeconfig {
        /// Its path.
        path: PathBuf,
        /// Why, without any of its content.
        reason: String,
    },
    /// Not in a pod with a service account.
    #[error(
        "cannot use the pod's service account ({}): is its token mounted? Outside of a pod name a \
         kubeconfig", chain(.0)
    )]
    ServiceAccount(#[source] Box<kube::config::InClusterError>),
    /// The override is no URL.
    #[error(
        "the API server's address is no URL such as https://192.0.2.1:6443 (without TLS, which \
         would show the token to everybody, only on this machine's loopback; without credentials)"
    )]
    ApiServer,
    /// Certificates or tokens cannot be used.
    #[error("cannot use the credentials for the API server: {0}")]
    Credentials(String),
    /// A credential plugin does not come to its end.
    #[error("the kubeconfig's credential plugin has not answered in time")]
    Slow,
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

/// What failed of getting credentials, without what a file or a plugin said: they hold secrets.
pub(super) fn without_secrets(error: &kube::client::AuthError) -> String {
    if let kube::client::AuthError::AuthExecRun { cmd, out } = error {
        return format!("the credential plugin {cmd} failed: {}", out.status);
    }
    if let kube::client::AuthError::AuthExecParse(_) = error {
        return "the credential plugin's answer cannot be read".to_owned();
    }
    chain(error)
}

/// The same of a kubeconfig.
fn kubeconfig_reason(error: &KubeconfigError) -> String {
    // That one quotes the lines around the mistake.
    if matches!(error, KubeconfigError::Parse(_)) {
        return "it is not the YAML of a kubeconfig".to_owned();
    }
    chain(error)
}

/// A client with the credentials as they are on disk now. It never retries by itself, and logs
/// nothing: losing the API server is not an error.
///
/// # Errors
/// When kubeconfig, service account or certificates cannot be used. The network is not used yet.
pub async fn client(access: &Access) -> Result<Client, AccessError> {
    let access = access.clone();
    let runtime = Handle::current();
    // kube waits for a credential plugin's end on the thread that asks.
    let made = tokio::task::spawn_blocking(move || runtime.block_on(connect(&access)));
    match timeout(PLUGIN_TIMEOUT, made).await {
        Ok(Ok(made)) => made,
        Ok(Err(stopped)) => match stopped.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(AccessError::Slow),
        },
        Err(_) => Err(AccessError::Slow),
    }
}

async fn connect(access: &Access) -> Result<Client, AccessError> {
    let config = config(access).await?;
    let credentials = |error: kube::Error| {
        AccessError::Credentials(if let kube::Error::Auth(error) = &error {
            without_secrets(error)
        } else {
            chain(&error)
        })
    };
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
        Some(path) => {
            let refused = |reason| AccessError::Kubeconfig {
                path: path.clone(),
                reason,
            };
            let kubeconfig =
                Kubeconfig::read_from(path).map_err(|error| refused(kubeconfig_reason(&error)))?;
            if let Some(cluster) = proxied(&kubeconfig, access.context.as_deref()) {
                return Err(refused(format!(
                    "its cluster {cluster} is behind a proxy (proxy-url), which is not supported: \
                     name an address that is reached without one"
                )));
            }
            from_kubeconfig(kubeconfig, access.context.clone())
                .await
                .map_err(|error| refused(kubeconfig_reason(&error)))?
        }
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

/// The cluster of the context, if a proxy is to be asked for it.
fn proxied<'a>(kubeconfig: &'a Kubeconfig, context: Option<&'a str>) -> Option<&'a str> {
    let name = context.or(kubeconfig.current_context.as_deref())?;
    let mut contexts = kubeconfig.contexts.iter();
    let context = contexts.find(|context| context.name == name)?;
    let name = &context.context.as_ref()?.cluster;
    let mut clusters = kubeconfig.clusters.iter();
    let cluster = clusters.find(|cluster| cluster.name == *name)?;
    let proxy = cluster.cluster.as_ref()?.proxy_url.as_ref();
    proxy.map(|_| name.as_str())
}

async fn from_kubeconfig(
    kubeconfig: Kubeconfig,
    context: Option<String>,
) -> Result<Config, KubeconfigError> {
    let options = KubeConfigOptions {
        context,
        ..KubeConfigOptions::default()
    };
    Config::from_custom_kubeconfig(kubeconfig, &options).await
}

fn url(text: &str) -> Result<Uri, AccessError> {
    let url: Uri = text.parse().map_err(|_| AccessError::ApiServer)?;
    let host = url.host().ok_or(AccessError::ApiServer)?;
    let address: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    let is_here = address.is_some_and(|address| address.is_loopback());
    let is_safe = url.scheme_str() == Some("https") || url.scheme_str() == Some("http") && is_here;
    let has_user = url
        .authority()
        .is_some_and(|authority| authority.as_str().contains('@'));
    if is_safe && !has_user {
        Ok(url)
    } else {
        Err(AccessError::ApiServer)
    }
}

impl Access {
    /// Checks what can be checked without looking at any file.
    ///
    /// # Errors
    /// When the API server's address is no URL that may be used.
    pub fn check(&self) -> Result<(), AccessError> {
        self.api_server
            .as_deref()
            .map_or(Ok(()), |text| url(text).map(drop))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_nowhere_without_tls_but_to_the_loopback() {
        for good in [
            "https://192.0.2.1:6443",
            "https://[2001:db8::1]:6443",
            "http://127.0.0.1:1",
        ] {
            assert!(url(good).is_ok(), "{good}");
        }
        for bad in [
            "http://192.0.2.1:6443",
            "192.0.2.1",
            "",
            "ftp://a",
            "https://u:p@192.0.2.1",
        ] {
            assert!(url(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_cluster_behind_a_proxy_is_refused_and_not_asked_directly() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("config");
        let text = |proxy: &str| {
            format!(
                "clusters: [{{name: c, cluster: {{server: \"https://192.0.2.1\"{proxy}}}}}]\n\
                 contexts: [{{name: x, context: {{cluster: c}}}}]\ncurrent-context: x\n"
            )
        };
        let access = Access {
            kubeconfig: Some(path.clone()),
            ..Access::default()
        };
        std::fs::write(&path, text("")).expect("written");
        assert!(config(&access).await.is_ok());
        std::fs::write(&path, text(", proxy-url: \"http://192.0.2.2\"")).expect("written");
        let refusal = config(&access).await.expect_err("refused").to_string();
        assert!(refusal.contains("cluster c is behind a proxy"), "{refusal}");
    }
}
