//! Against the kernel's UDP, in network namespaces of their own.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use super::*;
use crate::netlink::tests::namespace::{Namespace, ip, set};
use crate::transport::tests::neighbours;

const PORT: u16 = 51880;
const DEADLINE: Duration = Duration::from_secs(20);

fn endpoint(address: &str) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), PORT)
}

/// A batch with one datagram of each of these lengths, filled with its number.
fn batch(to: SocketAddr, lengths: &[usize]) -> UnderlayBatch {
    let mut batch = UnderlayBatch::with_capacity(4 * ROOM_MIN, lengths.len());
    for (number, length) in (0_u8..).zip(lengths) {
        batch.room()[..*length].fill(number);
        batch.commit_front(0, to, *length);
    }
    batch
}

/// Sends one datagram of this length.
fn send(socket: &Socket, to: SocketAddr, length: usize) -> Sent {
    socket.send(batch(to, &[length]).iter())
}

/// Receives until `count` datagrams are there: sender, lane and bytes of each.
fn receive(socket: &Socket, count: usize) -> Vec<(SocketAddr, usize, Vec<u8>)> {
    let mut all = Vec::new();
    let mut batch = UnderlayBatch::with_capacity(RECEIVE_ROOM, RECEIVE_MESSAGES);
    let start = Instant::now();
    while all.len() < count {
        assert!(
            start.elapsed() < DEADLINE,
            "{} of {count} datagrams came",
            all.len()
        );
        batch.clear();
        match socket.receive(3, &mut batch) {
            Ok(received) => assert_eq!(received.datagrams, batch.len()),
            Err(error) => assert_eq!(error, Errno::AGAIN),
        }
        all.extend(
            batch
                .iter()
                .map(|(d, bytes)| (d.endpoint, d.lane, bytes.to_vec())),
        );
        std::thread::yield_now();
    }
    all
}

#[test]
fn a_taken_port_is_named_with_its_holder() {
    Namespace::new().run(|| {
        let _taken = UdpSocket::bind(("::", PORT + 1)).expect("a port of this namespace");
        let error = LaneSockets::bind_lanes(PORT, 2).expect_err("the second lane's port");
        assert!(
            matches!(error, UdpError::PortTaken { port, .. } if port == PORT + 1),
            "{error:?}"
        );
        let message = error.to_string();
        assert!(message.contains("51881"), "{message}");
        assert!(
            message.contains(&format!("process {}", std::process::id())),
            "{message}"
        );
    });
}

#[test]
fn lanes_listen_on_ports_behind_each_other_with_both_families() {
    Namespace::new().run(|| {
        let lanes = LaneSockets::bind_lanes(PORT, 3).expect("sockets");
        assert_eq!(lanes.len(), 3);
        for (address, family) in [("127.0.0.1", Family::V4), ("::1", Family::V6)] {
            let client = UdpSocket::bind((address, 0)).expect("a client");
            let from = client.local_addr().expect("its address");
            for (lane, port) in lanes.iter().zip(PORT..) {
                client.send_to(b"hello", (address, port)).expect("sent");
                let socket = lane.socket(family).expect("both families");
                assert_eq!(receive(socket, 1), [(from, 3, b"hello".to_vec())]);
            }
        }
    });
}

#[test]
fn a_batch_keeps_order_lengths_and_bytes() {
    let (left, right) = neighbours(1500);
    let left = left.run(|| LaneSockets::bind(PORT).expect("sockets"));
    let right = right.run(|| LaneSockets::bind(PORT).expect("sockets"));
    for (family, from, to) in [
        (Family::V4, "192.0.2.1", "192.0.2.2"),
        (Family::V6, "2001:db8::1", "2001:db8::2"),
    ] {
        let (left, right) = (
            left.socket(family).expect("v"),
            right.socket(family).expect("v"),
        );
        let lengths: Vec<usize> = (0..75).map(|i| i * 19).collect();
        let mut batch = batch(endpoint(to), &lengths);
        while !batch.is_empty() {
            match left.send(batch.iter()) {
                Sent::Taken(count) => batch.consume(count),
                other @ (Sent::Blocked | Sent::Refused(_)) => panic!("{other:?}"),
            }
        }
        let received = receive(right, lengths.len());
        for (number, ((sender, _, bytes), length)) in (0..).zip(received.iter().zip(&lengths)) {
            assert_eq!(*sender, endpoint(from));
            assert_eq!(*bytes, vec![number; *length]);
        }
    }
}

#[test]
fn a_datagram_of_the_greatest_length_arrives_whole() {
    Namespace::new().run(|| {
        ip("link set lo mtu 65536");
        let sockets = LaneSockets::bind(PORT).expect("sockets");
        for (address, family) in [("127.0.0.1", Family::V4), ("::1", Family::V6)] {
            let socket = sockets.socket(family).expect("both families");
            let length = 65_536 - header_bytes(family) - 1;
            assert_eq!(send(socket, endpoint(address), length), Sent::Taken(1));
            assert_eq!(receive(socket, 1)[0].2.len(), length);
        }
    });
}

#[test]
fn a_datagram_beyond_the_links_mtu_is_refused_and_the_mtu_told() {
    let (left, _right) = neighbours(1400);
    left.run(|| {
        let sockets = LaneSockets::bind(PORT).expect("sockets");
        for (to, family) in [("192.0.2.2", Family::V4), ("2001:db8::2", Family::V6)] {
            let (to, socket) = (endpoint(to), sockets.socket(family).expect("both families"));
            let fits = 1400 - header_bytes(family);
            assert_eq!(send(socket, to, fits), Sent::Taken(1));
            assert_eq!(send(socket, to, fits + 1), Sent::Refused(Errno::MSGSIZE));
            assert_eq!(path_mtu(&to), Some(1400));
            let bytes = vec![0; fits + 1];
            assert_eq!(
                socket.send_again(&to, &bytes, Some(1400)),
                Err(Errno::MSGSIZE)
            );
            assert_eq!(socket.send_again(&to, &bytes[1..], Some(1400)), Ok(()));
        }
    });
}

#[test]
fn the_least_ipv6_packet_passes_a_narrower_path_in_fragments() {
    let (left, right) = neighbours(1280);
    let right = right.run(|| LaneSockets::bind(PORT).expect("sockets"));
    left.run(|| {
        let sockets = LaneSockets::bind(PORT).expect("sockets");
        for (to, family) in [("192.0.2.2", Family::V4), ("2001:db8::2", Family::V6)] {
            let (to, socket) = (endpoint(to), sockets.socket(family).expect("both families"));
            assert_eq!(
                send(socket, to, FRAGMENTABLE_MAX),
                Sent::Refused(Errno::MSGSIZE)
            );
            assert_eq!(socket.send_again(&to, &[7; FRAGMENTABLE_MAX], None), Ok(()));
            let received = receive(right.socket(family).expect("both families"), 1);
            assert_eq!(received[0].2, [7; FRAGMENTABLE_MAX]);
            // Only that one: others carry DF as before.
            assert_eq!(
                send(socket, to, FRAGMENTABLE_MAX),
                Sent::Refused(Errno::MSGSIZE)
            );
        }
    });
}

#[test]
fn a_router_with_a_narrower_link_is_learnt_of() {
    let (left, router, right) = (Namespace::new(), Namespace::new(), Namespace::new());
    left.connect("wire", &router, "left");
    right.connect("wire", &router, "right");
    router.run(|| {
        set("ipv4/ip_forward", "1");
        set("ipv6/conf/all/forwarding", "1");
        ip("link set right mtu 1300");
        for (link, net) in [("left", 1), ("right", 2)] {
            ip(&format!(
                "address add 198.51.100.{net}/31 peer 192.0.2.{net} dev {link}"
            ));
            ip(&format!(
                "address add 2001:db8:ff::{net}/128 peer 2001:db8::{net} dev {link} nodad"
            ));
        }
    });
    for (namespace, host) in [(&left, 1), (&right, 2)] {
        namespace.run(|| {
            ip(&format!("address add 192.0.2.{host}/32 dev wire"));
            ip(&format!("address add 2001:db8::{host}/128 dev wire nodad"));
            ip(&format!(
                "route add 198.51.100.{host}/32 dev wire src 192.0.2.{host}"
            ));
            ip(&format!(
                "route add default via 198.51.100.{host} src 192.0.2.{host}"
            ));
            ip(&format!(
                "-6 route add 2001:db8:ff::{host}/128 dev wire src 2001:db8::{host}"
            ));
            ip(&format!(
                "-6 route add default via 2001:db8:ff::{host} src 2001:db8::{host}"
            ));
        });
    }
    left.run(|| {
        let sockets = LaneSockets::bind(PORT).expect("sockets");
        for (to, family) in [("192.0.2.2", Family::V4), ("2001:db8::2", Family::V6)] {
            let (to, socket) = (endpoint(to), sockets.socket(family).expect("both families"));
            let start = Instant::now();
            while send(socket, to, 1400) != Sent::Refused(Errno::MSGSIZE) {
                assert!(
                    start.elapsed() < DEADLINE,
                    "{family}: no ICMP too-big was heeded"
                );
                std::thread::yield_now();
            }
            assert_eq!(path_mtu(&to), Some(1300), "{family}");
        }
    });
}

#[test]
fn an_endpoint_without_a_route_is_refused_and_has_no_mtu() {
    Namespace::new().run(|| {
        let sockets = LaneSockets::bind(PORT).expect("sockets");
        for (to, family) in [("192.0.2.2", Family::V4), ("2001:db8::2", Family::V6)] {
            let socket = sockets.socket(family).expect("both families");
            assert_eq!(
                send(socket, endpoint(to), 100),
                Sent::Refused(Errno::NETUNREACH)
            );
            assert_eq!(path_mtu(&endpoint(to)), None);
        }
    });
}

#[test]
fn nobody_at_the_endpoint_is_no_error() {
    Namespace::new().run(|| {
        let sockets = LaneSockets::bind(PORT).expect("sockets");
        for (address, family) in [("127.0.0.1", Family::V4), ("::1", Family::V6)] {
            let socket = sockets.socket(family).expect("both families");
            let nobody = SocketAddr::new(address.parse().expect("an address"), PORT + 1);
            // The ICMP error to the first is there before the second leaves.
            assert_eq!(send(socket, nobody, 100), Sent::Taken(1));
            assert_eq!(send(socket, nobody, 100), Sent::Taken(1));
        }
    });
}
