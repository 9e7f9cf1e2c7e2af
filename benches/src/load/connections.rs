//! TCP connections, opened and closed again, as many as go.

use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::Host;
use socket2::SockRef;

use super::Stop;

const PORT: u16 = 5303;

/// Clients at a time: enough that a round trip's time is not what limits.
const CLIENTS: usize = 16;

/// A connection takes milliseconds on any of these paths.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long whoever accepts waits before it looks whether it shall end.
const ACCEPT_TIMEOUT: Duration = Duration::from_millis(50);

/// What was opened and closed again in a window.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Connections {
    pub(crate) opened: u64,
    pub(crate) seconds: f64,
}

/// Opens connections from one host to an address of another for so long.
///
/// # Errors
/// When none could be opened.
pub(crate) fn measure(
    from: &Host,
    to: &Host,
    address: IpAddr,
    duration: Duration,
) -> Result<Connections> {
    let target = SocketAddr::new(address, PORT);
    let listener = to
        .namespace()
        .run(|| TcpListener::bind(target))
        .with_context(|| format!("waiting at {target}"))?;
    // So that whoever accepts sees when it shall end, also where nothing arrives any more.
    SockRef::from(&listener).set_read_timeout(Some(ACCEPT_TIMEOUT))?;
    let (stop, count) = (Stop::default(), AtomicU64::new(0));
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| accept(&listener, &stop));
        let client = || {
            from.namespace().run(|| {
                while start.elapsed() < duration {
                    // What ends later than the window is not in it.
                    if connect(target).is_ok() && start.elapsed() < duration {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        clients.into_iter().for_each(|client| drop(client.join()));
        stop.set();
    });
    let opened = count.load(Ordering::Relaxed);
    ensure!(opened > 0, "no connection to {target} could be opened");
    Ok(Connections {
        opened,
        seconds: duration.as_secs_f64(),
    })
}

/// Opens a connection, waits until the other end has closed it, and closes this one.
fn connect(target: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    match stream.read(&mut [0]) {
        // A reset is how the other end closes.
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
        Err(error) => Err(error),
    }
}

fn accept(listener: &TcpListener, stop: &Stop) {
    while !stop.is_set() {
        if let Ok((stream, _)) = listener.accept() {
            // No TIME_WAIT: tens of thousands of them would use up the ports.
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
    }
}
