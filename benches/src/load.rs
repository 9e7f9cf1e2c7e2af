//! Our own traffic, where iperf3's is too slow or counts too coarsely.

pub(crate) mod bulk;
pub(crate) mod connections;
pub(crate) mod datagrams;
pub(crate) mod round_trips;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};
use podwire_testbed::Host;

/// How soon whoever waits in a pod sees that it shall end.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Ends the threads of a load when it goes, whatever became of the measurement.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A UDP socket in a pod and the thread that serves it until this value goes.
#[derive(Debug)]
struct UdpService {
    target: SocketAddr,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl UdpService {
    /// Waits at an address of the host. `serve` looks at its [`Stop`] whenever nothing came for
    /// [`LOOK_INTERVAL`].
    fn start(
        host: &Host,
        target: SocketAddr,
        serve: impl FnOnce(&UdpSocket, &Stop) + Send + 'static,
    ) -> Result<Self> {
        let socket = host
            .namespace()
            .run(|| UdpSocket::bind(target))
            .with_context(|| format!("waiting at {target}"))?;
        socket.set_read_timeout(Some(LOOK_INTERVAL))?;
        let stop = Stop::default();
        let thread = thread::Builder::new().name("service".to_owned()).spawn({
            let stop = stop.clone();
            move || serve(&socket, &stop)
        })?;
        Ok(Self {
            target,
            stop,
            thread: Some(thread),
        })
    }

    /// A socket of another host, for one that may have no way to it yet.
    fn socket(&self, from: &Host) -> Result<UdpSocket> {
        let any: IpAddr = match self.target {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        Ok(from.namespace().run(|| UdpSocket::bind((any, 0)))?)
    }

    /// A socket of another host that sends to it and hears nobody else.
    fn connect(&self, from: &Host) -> Result<UdpSocket> {
        let socket = self.socket(from)?;
        socket.connect(self.target)?;
        Ok(socket)
    }
}

impl Drop for UdpService {
    fn drop(&mut self) {
        self.stop.set();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
