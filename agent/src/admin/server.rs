//! The HTTP servers: a UNIX socket for the command line, a TCP port for Prometheus.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Json;
use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;
use tracing::warn;

use super::{RUN_DIR_MODE, SOCKET_NAME, ShownHandle, metrics, peers, requests};
use crate::control::status::Status;

/// How soon a server that could not listen tries again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Connections at a time of one server. Any local process may open one to the metrics port, and
/// each takes a file descriptor, of which healing needs some too. One command or scraper takes one.
const CONNECTIONS_MAX: usize = 32;

/// From a connection to the end of its answer. Asking takes milliseconds, also with thousands of
/// peers.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(10);

/// How long a text of metrics is given to whoever asks next. Any local process may ask for it as
/// often as it likes, on the thread that keeps the node healed, and thousands of peers make it a
/// matter of milliseconds; a scraper comes every fifteen seconds.
const METRICS_AGE_MAX: Duration = Duration::from_millis(500);

/// Longest request with its headers; a scraper's has some hundred bytes.
const REQUEST_BYTES_MAX: usize = 16 << 10;

/// The control loop turns twice a second, and the longest of its passes, among thousands of peers
/// on a busy machine, takes seconds. A restart for nothing costs the node's pods as much.
const TURN_AGE_MAX: Duration = Duration::from_secs(30);

/// Only root may ask: the answers name every peer's address.
const SOCKET_MODE: u32 = 0o600;

/// Why the agent cannot be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdminError {
    #[error("cannot listen on {path}: {source}; is the run folder writable, or --run-dir wrong?")]
    Socket {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "cannot serve metrics on {address}: {source}; choose another --metrics-address or stop what \
         holds the port"
    )]
    Metrics {
        address: SocketAddr,
        source: std::io::Error,
    },
}

/// The requests of the admin socket and of the metrics port, as an agent answers them that has not
/// begun yet.
pub fn routes() -> [Router; 2] {
    let shown = ShownHandle::default();
    [router(Arc::clone(&shown)), metrics_router(shown)]
}

fn router(shown: ShownHandle) -> Router {
    Router::new()
        .route(
            "/status",
            get(async |State(shown): State<ShownHandle>| {
                Json(shown.status.load_full().as_ref().clone())
            }),
        )
        .route(
            "/peers",
            get(async |State(shown): State<ShownHandle>| Json(peers::rows(&shown, now()))),
        )
        .route(
            "/drops",
            get(async |State(shown): State<ShownHandle>| Json(peers::drops(&shown))),
        )
        .route("/healthz", get(healthz))
        // Not on the metrics port: a flood of it would have the agent restarted.
        .route("/livez", get(livez))
        // Nor this: who may open the socket may as well read the keys.
        .route(
            "/requests/{verb}",
            post(requests::take).layer(DefaultBodyLimit::max(requests::BODY_BYTES_MAX)),
        )
        .fallback(async || unknown("/status, /peers, /drops, /healthz, /livez and /requests/VERB"))
        .method_not_allowed_fallback(wrong_method)
        .with_state(shown)
}

fn metrics_router(shown: ShownHandle) -> Router {
    let recent = Arc::new(RecentText::default());
    Router::new()
        .route(
            "/metrics",
            get(async move |State(shown): State<ShownHandle>| {
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                let status = shown.status.load_full();
                let text = recent.get(now(), status, |now| metrics::text(&shown, now));
                ([(header::CONTENT_TYPE, kind)], text)
            }),
        )
        .route("/healthz", get(healthz))
        .fallback(async || unknown("/metrics and /healthz"))
        .method_not_allowed_fallback(wrong_method)
        .with_state(shown)
}

/// The text of metrics that was made last: when, and of which status.
#[derive(Default)]
struct RecentText(Mutex<Option<(Instant, Arc<Status>, String)>>);

impl RecentText {
    /// What a pass of the control loop has changed is shown at once.
    fn get(
        &self,
        now: Instant,
        status: Arc<Status>,
        make: impl FnOnce(Instant) -> String,
    ) -> String {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*recent {
            Some((at, of, text))
                if Arc::ptr_eq(of, &status) && now.duration_since(*at) < METRICS_AGE_MAX =>
            {
                text.clone()
            }
            _ => recent.insert((now, status, make(now))).2.clone(),
        }
    }
}

fn unknown(allowed: &str) -> impl IntoResponse + use<> {
    let text = format!("no such question: allowed are {allowed}\n");
    (StatusCode::NOT_FOUND, text)
}

async fn wrong_method() -> impl IntoResponse {
    let text = "questions are asked with GET, requests with POST\n";
    (StatusCode::METHOD_NOT_ALLOWED, text)
}

async fn healthz(State(shown): State<ShownHandle>) -> impl IntoResponse {
    let status = shown.status.load();
    if status.ready {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not ready: {}\n", status.problems.join("; ")),
        )
    }
}

/// Looks at nothing but the loop itself: what else is wrong, a restart does not mend.
async fn livez(State(shown): State<ShownHandle>) -> impl IntoResponse {
    let turned = shown.turned.load();
    match liveness(turned.as_deref().copied(), now()) {
        Ok(()) => (StatusCode::OK, "live\n".to_owned()),
        Err(text) => (StatusCode::SERVICE_UNAVAILABLE, text),
    }
}

fn liveness(turned: Option<Instant>, now: Instant) -> Result<(), String> {
    let Some(turned) = turned else {
        return Err("the control loop has not begun\n".to_owned());
    };
    let age = now.saturating_duration_since(turned);
    if age > TURN_AGE_MAX {
        return Err(format!(
            "the control loop has not turned for {} s\n",
            age.as_secs()
        ));
    }
    Ok(())
}

fn now() -> Instant {
    Instant::now()
}

/// Serves the admin socket for ever; what hinders it is logged once and tried again.
pub(crate) async fn serve_socket(run_dir: PathBuf, shown: ShownHandle) -> Infallible {
    let path = run_dir.join(SOCKET_NAME);
    serve_for_ever(|| async {
        let failed = |source| AdminError::Socket {
            path: path.clone(),
            source,
        };
        let listener = bind_socket(&run_dir, &path).map_err(failed)?;
        Ok(answer(listener, router(Arc::clone(&shown))).await)
    })
    .await
}

/// Serves Prometheus for ever; what hinders it is logged once and tried again.
pub(crate) async fn serve_metrics(address: SocketAddr, shown: ShownHandle) -> Infallible {
    serve_for_ever(|| async {
        let failed = |source| AdminError::Metrics { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        Ok(answer(listener, metrics_router(Arc::clone(&shown))).await)
    })
    .await
}

async fn serve_for_ever<S>(serve: impl Fn() -> S) -> Infallible
where
    S: Future<Output = Result<Infallible, AdminError>>,
{
    let mut told = None;
    loop {
        let Err(error) = serve().await;
        let text = error.to_string();
        if told.as_ref() != Some(&text) {
            warn!("{text}; trying again");
            told = Some(text);
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

/// Answers one question a connection, for ever. Where too many are open, the oldest is closed: it
/// is one that never asks, for whoever asks is answered at once.
async fn answer<L: Listener>(mut listener: L, router: Router) -> Infallible {
    let mut connections: VecDeque<JoinHandle<()>> = VecDeque::new();
    loop {
        let (stream, _) = listener.accept().await;
        connections.retain(|connection| !connection.is_finished());
        if connections.len() >= CONNECTIONS_MAX
            && let Some(oldest) = connections.pop_front()
        {
            oldest.abort();
        }
        let service = TowerToHyperService::new(router.clone());
        let answered = http1::Builder::new()
            .keep_alive(false)
            .max_buf_size(REQUEST_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service);
        connections.push_back(tokio::spawn(async move {
            // What a client does wrong is its own affair.
            let _ = tokio::time::timeout(CONNECTION_DEADLINE, answered).await;
        }));
        // A flood of connections keeps nobody from being answered, nor the node from being healed.
        tokio::task::yield_now().await;
    }
}

fn bind_socket(run_dir: &Path, path: &Path) -> io::Result<UnixListener> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(RUN_DIR_MODE)
        .create(run_dir)?;
    // The state folder's lock says that no other agent runs: a socket that is there is a dead
    // one's.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[test]
    fn metrics_are_made_twice_a_second_at_most_unless_the_status_is_another() {
        let recent = RecentText::default();
        let start = Instant::now();
        let mut made = 0;
        let mut get = |at, status: &Arc<Status>| {
            let now = start + Duration::from_millis(at);
            recent.get(now, Arc::clone(status), |_| {
                made += 1;
                made.to_string()
            })
        };
        let [one, other] = [Arc::new(Status::default()), Arc::new(Status::default())];
        for at in 0..1000 {
            assert_eq!(get(at, &one), if at < 500 { "1" } else { "2" });
        }
        assert_eq!(get(999, &other), "3");
        assert_eq!(get(1400, &other), "3");
    }

    #[test]
    fn an_agent_lives_while_its_loop_turns() {
        let start = Instant::now();
        assert!(liveness(None, start).is_err());
        assert_eq!(liveness(Some(start), start + TURN_AGE_MAX), Ok(()));
        let late = start + TURN_AGE_MAX + Duration::from_secs(1);
        let text = liveness(Some(start), late).expect_err("it stands still");
        assert!(text.contains("31 s"), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_question_is_ended_after_ten_seconds() -> io::Result<()> {
        let [router, _] = routes();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let _server = tokio::spawn(answer(listener, router));
        let asked = tokio::time::Instant::now();
        let stream = TcpStream::connect(address).await?;
        stream.try_write(b"GET /status HT")?;
        stream.readable().await?;
        assert_eq!(
            stream.try_read(&mut [0])?,
            0,
            "half a question was answered"
        );
        assert_eq!(asked.elapsed().as_secs(), 10);
        Ok(())
    }
}
