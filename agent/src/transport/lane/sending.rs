//! How a lane sends what it has, and what it does about what the kernel refuses.

use std::net::SocketAddr;

use podwire_dataplane::Datagram;
use rustix::io::Errno;
use tracing::debug;

use super::LaneThread;
use crate::transport::counters::Counter;
use crate::transport::offload::Offload;
use crate::transport::udp::{self, Family, Sent};

impl LaneThread {
    /// Sends all datagrams, unless a socket's buffer is full.
    pub(super) fn send_datagrams(&mut self) {
        self.blocked = None;
        while let Some((lane, family)) = self.next_socket() {
            let socket = self
                .sockets
                .get(lane)
                .and_then(|sockets| sockets.socket(family));
            let Some(socket) = socket else {
                let train = self.send.iter().next();
                let datagrams = train.map_or(0, |(datagram, _)| datagram.segments());
                self.count(Counter::SendNoSocket, datagrams);
                self.send.consume(1);
                continue;
            };
            let run = self
                .send
                .iter()
                .take_while(|(d, _)| d.lane == lane && Family::of(&d.endpoint) == family);
            let sent = socket.send(run);
            self.count(Counter::SendCalls, 1);
            match sent {
                Sent::Taken(count) => {
                    let taken = self.send.iter().take(count);
                    let (datagrams, bytes) = taken.fold((0, 0), |(datagrams, bytes), (d, _)| {
                        (datagrams + d.segments(), bytes + d.length)
                    });
                    self.count(Counter::DatagramsSent, datagrams);
                    self.count(Counter::DatagramBytesSent, bytes);
                    self.send.consume(count);
                }
                Sent::Blocked => {
                    self.count(Counter::SendBlocked, 1);
                    self.blocked = Some((lane, family));
                    return;
                }
                Sent::Refused(error) if self.is_about_a_train(error) => self.split_train(error),
                Sent::Refused(error) => {
                    self.handle_refusal(lane, family, error);
                    self.send.consume(1);
                }
            }
        }
        self.send.clear();
    }

    /// The socket that the first datagram leaves by: lane and family.
    fn next_socket(&self) -> Option<(usize, Family)> {
        let (datagram, _) = self.send.iter().next()?;
        Some((datagram.lane, Family::of(&datagram.endpoint)))
    }

    /// Whether the kernel may have refused the first datagram because it is several.
    fn is_about_a_train(&self, error: Errno) -> bool {
        let is_train = |(datagram, _): (&Datagram, &[u8])| datagram.segments() > 1;
        matches!(error, Errno::IO | Errno::INVAL | Errno::MSGSIZE)
            && self.send.iter().next().is_some_and(is_train)
    }

    /// Sends the datagrams of the first train one by one. Whether it is segmentation that the
    /// kernel does not do, or the path that is too narrow, it does not always say.
    fn split_train(&mut self, error: Errno) {
        let Some((datagram, _)) = self.send.iter().next() else {
            return;
        };
        let is_unknown = match error {
            Errno::IO => true,
            // A peer that is followed may have been seen at port 0, which takes nothing at all.
            Errno::INVAL => {
                let endpoint = &datagram.endpoint;
                endpoint.port() != 0 && udp::fits_path(endpoint, datagram.segment_size)
            }
            _ => false,
        };
        if is_unknown {
            self.offloads.give_up(Offload::UdpGso, error);
            self.send.set_segments_max(1);
        }
        self.send.split();
    }

    /// The kernel refused the first datagram.
    fn handle_refusal(&mut self, lane: usize, family: Family, error: Errno) {
        let Some((datagram, bytes)) = self.send.iter().next() else {
            return;
        };
        let (endpoint, datagrams) = (datagram.endpoint, datagram.segments());
        let length = bytes.len();
        if error != Errno::MSGSIZE {
            // Expected on a network: the peer's handshake tells whether it is there.
            debug!(lane, %endpoint, %error, "cannot send");
            return self.count(send_fault(error), datagrams);
        }
        let path_mtu = if udp::must_fit(length) {
            udp::path_mtu(&endpoint)
        } else {
            None
        };
        let again = match self
            .sockets
            .get(lane)
            .and_then(|sockets| sockets.socket(family))
        {
            Some(socket) => socket.send_again(&endpoint, bytes, path_mtu),
            None => return,
        };
        debug!(lane, %endpoint, length, ?path_mtu, "the path is too narrow");
        match again {
            Ok(()) => {
                self.count(Counter::DatagramsSent, 1);
                self.count(Counter::DatagramBytesSent, length);
                self.count(
                    Counter::DatagramsFragmented,
                    usize::from(!udp::must_fit(length)),
                );
            }
            Err(error) => self.count(send_fault(error), 1),
        }
        if let Some(path_mtu) = path_mtu {
            self.tell_path_mtu(endpoint, path_mtu);
        }
    }

    fn tell_path_mtu(&mut self, endpoint: SocketAddr, path_mtu: u32) {
        self.lane.handle_path_mtu(endpoint, path_mtu);
        self.events.path_mtu_changed(endpoint.ip());
    }
}

fn send_fault(error: Errno) -> Counter {
    match error {
        Errno::MSGSIZE => Counter::SendTooBig,
        Errno::NETUNREACH
        | Errno::HOSTUNREACH
        | Errno::NETDOWN
        | Errno::HOSTDOWN
        | Errno::CONNREFUSED
        | Errno::ADDRNOTAVAIL => Counter::SendUnreachable,
        Errno::PERM | Errno::ACCESS => Counter::SendRefused,
        Errno::NOBUFS | Errno::NOMEM => Counter::SendNoBuffers,
        _ => Counter::SendFailed,
    }
}
