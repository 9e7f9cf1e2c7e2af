//! One TCP stream from each of many hosts to one, for as long as it is wanted.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};
use podwire_testbed::Host;
use socket2::{Domain, Socket, Type};

use super::Stop;

const PORT: u16 = 5304;

/// What a program writes or reads at a time.
const CHUNK: usize = 128 << 10;

/// How soon a stream's end sees that it shall end.
const PATIENCE: Duration = Duration::from_millis(200);

/// Streams that run until this value goes.
#[derive(Debug)]
pub(crate) struct Bulk {
    received: Arc<AtomicU64>,
    stop: Stop,
    threads: Vec<JoinHandle<()>>,
}

impl Bulk {
    /// Starts a stream from each host to an address of another, with this TCP congestion control.
    ///
    /// # Errors
    /// When one of them cannot connect.
    pub(crate) fn start(
        from: &[&Host],
        to: &Host,
        address: IpAddr,
        congestion: &str,
    ) -> Result<Self> {
        let target = SocketAddr::new(address, PORT);
        let listener = to
            .namespace()
            .run(|| TcpListener::bind(target))
            .with_context(|| format!("waiting at {target}"))?;
        let mut bulk = Self {
            received: Arc::new(AtomicU64::new(0)),
            stop: Stop::default(),
            threads: Vec::new(),
        };
        for host in from {
            let sender = host
                .namespace()
                .run(|| connect(target, congestion))
                .with_context(|| format!("connecting from {} to {target}", host.name()))?;
            let (receiver, _) = listener.accept()?;
            sender.set_write_timeout(Some(PATIENCE))?;
            receiver.set_read_timeout(Some(PATIENCE))?;
            let stop = bulk.stop.clone();
            bulk.spawn("bulk-sender", move || send(sender, &stop))?;
            let (stop, received) = (bulk.stop.clone(), Arc::clone(&bulk.received));
            bulk.spawn("bulk-receiver", move || receive(receiver, &received, &stop))?;
        }
        Ok(bulk)
    }

    /// Payload bytes that have arrived.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run)?;
        self.threads.push(thread);
        Ok(())
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        self.stop.set();
        self.threads
            .drain(..)
            .for_each(|thread| drop(thread.join()));
    }
}

/// A stream with this congestion control from its first segment on.
fn connect(target: SocketAddr, congestion: &str) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
    socket.set_tcp_congestion(congestion.as_bytes())?;
    socket.connect_timeout(&target.into(), 10 * PATIENCE)?;
    Ok(socket.into())
}

fn send(mut stream: TcpStream, stop: &Stop) {
    let chunk = vec![0x5a; CHUNK];
    while !stop.is_set() {
        match stream.write(&chunk) {
            Ok(_) => {}
            Err(error) if is_timeout(&error) => {}
            Err(_) => return,
        }
    }
}

fn receive(mut stream: TcpStream, received: &AtomicU64, stop: &Stop) {
    let mut chunk = vec![0; CHUNK];
    while !stop.is_set() {
        match stream.read(&mut chunk) {
            Ok(0) => return,
            Ok(length) => drop(received.fetch_add(length as u64, Ordering::Relaxed)),
            Err(error) if is_timeout(&error) => {}
            Err(_) => return,
        }
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
}
