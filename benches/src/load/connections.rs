//! TCP connections, opened and closed again, as many as go.

use std::io::Read as _;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
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

/// Opens connections from one host to an address of another for so long, and returns how many were
/// opened and closed a second.
///
/// # Errors
/// When none could be opened.
pub(crate) fn measure(from: &Host, to: &Host, address: IpAddr, duration: Duration) -> Result<f64> {
    let target = SocketAddr::new(address, PORT);
    let listener = to
        .namespace()
        .run(|| TcpListener::bind(target))
        .with_context(|| format!("waiting at {target}"))?;
    let (stop, count) = (Stop::default(), Arc::new(AtomicU64::new(0)));
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| accept(&listener, &stop));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    from.namespace().run(|| {
                        while start.elapsed() < duration {
                            if connect(target).is_ok() {
                                count.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    });
                })
            })
            .collect();
        clients.into_iter().for_each(|client| drop(client.join()));
        let seconds = start.elapsed().as_secs_f64();
        stop.set();
        // The one who accepts sees it with the next connection.
        let _ = from.namespace().run(|| connect(target));
        let opened = count.load(Ordering::Relaxed);
        ensure!(opened > 0, "no connection to {target} could be opened");
        #[expect(clippy::cast_precision_loss, reason = "a count of a second")]
        let rate = opened as f64 / seconds;
        Ok(rate)
    })
}

/// Opens a connection, waits until the other end has closed it, and closes this one.
fn connect(target: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.read_exact(&mut [0]).map_or(Ok(()), |()| Ok(()))
}

fn accept(listener: &TcpListener, stop: &Stop) {
    while !stop.is_set() {
        if let Ok((stream, _)) = listener.accept() {
            // No TIME_WAIT: tens of thousands of them would use up the ports.
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
    }
}
