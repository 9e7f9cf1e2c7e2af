//! Requests to the admin socket and to the metrics port: what a local process may send.
//!
//! A byte for which of the two, then what a connection carries. HTTP itself is hyper's to read;
//! of a request ours look at its method and path only.

use std::cell::RefCell;
use std::future::pending;
use std::io;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::input::Input;

/// Generous: the machine may be busy.
const DEADLINE: Duration = Duration::from_secs(30);
/// What a socket holds.
const SOCKET_BYTES: usize = 64 * 1024;
/// Turns of the runtime after which a request is answered; each byte may begin another.
const TURNS: usize = 64;
/// Whose answer is always the same.
const QUESTION: &[u8] = b"GET /healthz HTTP/1.0\r\n\r\n";

thread_local! {
    static SERVER: RefCell<Server> = RefCell::new(Server::new());
}

struct Server {
    runtime: Runtime,
    routes: [Router; 2],
}

/// One connection, in memory.
struct OneConnection(Option<DuplexStream>);

impl Listener for OneConnection {
    type Io = DuplexStream;
    type Addr = ();

    async fn accept(&mut self) -> (DuplexStream, ()) {
        match self.0.take() {
            Some(connection) => (connection, ()),
            None => pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

/// One input.
pub fn one(data: &[u8]) {
    let mut input = Input::new(data);
    let which = usize::from(input.byte() & 1);
    let bytes = input.rest();
    SERVER.with_borrow(|server| {
        let answers = server.ask(which, bytes);
        if bytes.starts_with(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n") {
            assert!(answers.starts_with(b"HTTP/1.1 503"), "{answers:?}");
        }
        if !answers.is_empty() {
            assert!(answers.starts_with(b"HTTP/1."), "{answers:?}");
            let status = answers.get(9..12).unwrap_or_default();
            let is_known = [b"200", b"400", b"404", b"405", b"414", b"431", b"503"]
                .iter()
                .any(|known| *known == status);
            assert!(is_known, "{}", String::from_utf8_lossy(&answers));
        }
        let again = server.ask(which, QUESTION);
        assert!(again.starts_with(b"HTTP/1.0 503"), "it has not begun yet");
    });
}

impl Server {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime without I/O");
        Self {
            runtime,
            routes: podwire_agent::routes(),
        }
    }

    /// All that a connection brings back that carries `bytes` and is then closed.
    fn ask(&self, which: usize, bytes: &[u8]) -> Vec<u8> {
        self.runtime.block_on(async {
            let (client, server) = tokio::io::duplex(SOCKET_BYTES);
            let service = axum::serve(OneConnection(Some(server)), self.routes[which].clone());
            let serving = tokio::spawn(service.into_future());
            let (mut reader, mut writer) = tokio::io::split(client);
            let mut answers = Vec::new();
            let exchange = async {
                let write = async {
                    // It may be closed before all is written, as after a request that is none.
                    let _ = writer.write_all(bytes).await;
                    // Nothing here waits for anything but turns, so that after some all is said;
                    // a request whose sender is gone would not be answered.
                    for _ in 0..TURNS + bytes.len() {
                        tokio::task::yield_now().await;
                    }
                    let _ = writer.shutdown().await;
                };
                tokio::join!(write, reader.read_to_end(&mut answers))
            };
            let (_, read) = timeout(DEADLINE, exchange).await.expect("it hangs");
            serving.abort();
            // A connection that is cut off in the midst of a request is no answer.
            let _ = read;
            answers
        })
    }
}
