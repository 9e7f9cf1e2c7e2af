//! Whole transports, each in a network namespace of its own, with real packets.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use podwire_core::key::PrivateKey;
use podwire_core::mesh::EncryptedPair;
use podwire_core::node::NodeName;
use podwire_core::record;
use podwire_dataplane::{DeviceConfig, OwnKeys, PeerConfig};

use super::events::TransportEvents;
use super::udp::UdpError;
use super::*;
use crate::netlink::tests::namespace::{Namespace, ip, nft, set};

const DEVICE: &str = "podwire0";
const PORT: u16 = 51880;
const DEADLINE: Duration = Duration::from_secs(30);
/// After so long without an answer the question is asked again: the first ones of a session wait
/// for a handshake.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// A port of a pod at which nobody answers.
const DISCARD_PORT: u16 = 9;

/// Two namespaces side by side, 192.0.2.1 and 192.0.2.2, 2001:db8::1 and 2001:db8::2.
pub(super) fn neighbours(mtu: u32) -> (Namespace, Namespace) {
    let (left, right) = (Namespace::new(), Namespace::new());
    left.connect("wire", &right, "wire");
    for (namespace, host) in [(&left, 1), (&right, 2)] {
        namespace.run(|| {
            ip(&format!("link set wire mtu {mtu}"));
            ip(&format!("address add 192.0.2.{host}/24 dev wire"));
            ip(&format!("address add 2001:db8::{host}/64 dev wire nodad"));
        });
    }
    (left, right)
}

/// A node: a transport, the device behind it, and one pod, whose address is the node's own.
struct Node {
    number: u8,
    namespace: Namespace,
    device: Arc<Device>,
    keys: Vec<PrivateKey>,
    transport: Transport,
}

fn private_key(node: u8, lane: usize) -> PrivateKey {
    let text = format!("{:A<43}=", format!("node{node}lane{lane}"));
    PrivateKey::from_base64(&text).expect("base64 of 32 bytes")
}

fn keys(node: u8, lanes: usize) -> Vec<PrivateKey> {
    (0..lanes).map(|lane| private_key(node, lane)).collect()
}

/// The addresses of a node's pod, one of each family.
fn pod(node: u8) -> [IpAddr; 2] {
    ["10.244.N.2", "fd00:10:244:N::2"].map(|text| {
        text.replace('N', &node.to_string())
            .parse()
            .expect("an address")
    })
}

impl Node {
    fn start(number: u8, namespace: Namespace, lanes: usize) -> Self {
        let config = DeviceConfig {
            keys: OwnKeys::of(keys(number, lanes)),
            process_generation: 0,
            addresses: Vec::new(),
            handshakes_per_second: 200,
            keeps_open: false,
            seed: u64::from(number),
        };
        let device = Device::new(config).expect("a device");
        let transport = namespace.run(|| {
            let sockets = bind_lanes(lanes);
            let offloads = Arc::new(OffloadsInUse::new(Offloads::default()));
            let tun = TunDevice::open(DEVICE, lanes, &offloads).expect("a TUN device");
            set_up_device(number);
            Transport::start(&device, tun, sockets, &offloads).expect("threads")
        });
        Self {
            number,
            namespace,
            device,
            keys: keys(number, lanes),
            transport,
        }
    }

    /// Takes `other` for a peer at this address.
    fn add_peer(&self, other: &Self, endpoint: &str, path_mtu: u32) {
        let lanes = other
            .keys
            .iter()
            .zip(PORT..)
            .map(|(key, port)| record::Lane {
                port,
                key: key.public_key(),
            });
        let pair = EncryptedPair {
            endpoints: vec![SocketAddr::new(endpoint.parse().expect("an address"), PORT)],
            lanes: lanes.collect(),
            next: Vec::new(),
            previous: Vec::new(),
            is_revoked: false,
            key_generation: 0,
            epoch: 0,
        };
        let allowed_ips = ["10.244.N.0/24", "fd00:10:244:N::/64"].map(|text| {
            text.replace('N', &other.number.to_string())
                .parse()
                .expect("a prefix")
        });
        let config = PeerConfig {
            uid: format!("uid-{}", other.number),
            pair,
            allowed_ips: allowed_ips.to_vec(),
            path_mtu,
        };
        let name: NodeName = format!("node-{}", other.number).parse().expect("a name");
        self.device
            .set_peers(&BTreeMap::from([(name, config)]), Instant::now());
    }

    /// A socket of the node's pod.
    fn socket(&self, family: usize) -> UdpSocket {
        self.namespace.run(|| {
            let socket = UdpSocket::bind((pod(self.number)[family], 0)).expect("own address");
            socket.set_read_timeout(Some(ASK_AGAIN)).expect("a timeout");
            socket
        })
    }

    fn count(&self, counter: Counter) -> u64 {
        self.transport
            .counters()
            .iter()
            .map(|counts| counts.get(counter))
            .sum()
    }
}

/// Binds, also right after a predecessor let go: a program that another test starts at that moment
/// holds copies of all descriptors until it runs.
fn bind_lanes(lanes: usize) -> Vec<LaneSockets> {
    let start = Instant::now();
    loop {
        match LaneSockets::bind_lanes(PORT, lanes) {
            Err(UdpError::PortTaken { .. }) if start.elapsed() < DEADLINE => thread::yield_now(),
            sockets => return sockets.expect("sockets"),
        }
    }
}

/// Addresses and routes of the TUN device in the calling thread's namespace.
fn set_up_device(node: u8) {
    let [v4, v6] = pod(node);
    ip(&format!("address add {v4}/32 dev {DEVICE}"));
    ip(&format!("address add {v6}/128 dev {DEVICE} nodad"));
    ip(&format!("link set {DEVICE} mtu 1420 up"));
    ip(&format!(
        "route replace 10.244.0.0/16 dev {DEVICE} src {v4}"
    ));
    ip(&format!(
        "-6 route replace fd00:10:244::/48 dev {DEVICE} src {v6}"
    ));
}

/// Two nodes that are peers over the underlay addresses of this family.
fn pair(lanes: (usize, usize), underlay: usize) -> (Node, Node) {
    let (left, right) = neighbours(1500);
    let left = Node::start(1, left, lanes.0);
    let right = Node::start(2, right, lanes.1);
    left.add_peer(&right, ["192.0.2.2", "2001:db8::2"][underlay], 1500);
    right.add_peer(&left, ["192.0.2.1", "2001:db8::1"][underlay], 1500);
    (left, right)
}

/// Asks and asks again until `answerer`'s pod has answered with the same bytes.
fn echo(asker: &Node, answerer: &Node, family: usize, bytes: &[u8]) {
    let [from, to] = [asker.socket(family), answerer.socket(family)];
    let own = from.local_addr().expect("its address");
    let target = to.local_addr().expect("its address");
    let (start, mut room) = (Instant::now(), vec![0; 65_536]);
    loop {
        assert!(
            start.elapsed() < DEADLINE,
            "family {family}: no answer to {}",
            bytes.len()
        );
        // A route or the device may be away for the moment.
        let Ok(_) = from.send_to(bytes, target) else {
            std::thread::yield_now();
            continue;
        };
        let Ok((length, sender)) = to.recv_from(&mut room) else {
            continue;
        };
        assert_eq!(sender, own, "source kept");
        assert!(room[..length] == *bytes, "the same bytes");
        to.send_to(&room[..length], sender).expect("a way back");
        if from
            .recv_from(&mut room)
            .is_ok_and(|(length, _)| room[..length] == *bytes)
        {
            return;
        }
    }
}

/// Looks until the condition holds.
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "waited for {what}");
        std::thread::yield_now();
    }
}

fn next_events(node: &Node) -> TransportEvents {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let events = node.transport.events();
    runtime
        .expect("a runtime")
        .block_on(async { tokio::time::timeout(DEADLINE, events.next()).await })
        .expect("an event before the deadline")
}

#[test]
fn pods_talk_over_either_underlay_with_any_lane_counts() {
    for (lanes, underlay) in [
        ((1, 1), 0),
        ((1, 1), 1),
        ((2, 2), 0),
        ((2, 1), 1),
        ((1, 3), 0),
    ] {
        let (left, right) = pair(lanes, underlay);
        for family in [0, 1] {
            for length in [1, 100, 1372, 60_000] {
                echo(&left, &right, family, &vec![0x5A; length]);
                echo(&right, &left, family, &vec![0xA5; length]);
            }
        }
        assert!(left.count(Counter::PacketsWritten) > 0, "{lanes:?}");
        assert!(right.count(Counter::DatagramsReceived) > 0, "{lanes:?}");
    }
}

/// A batch that was not full used to lie until the lane's next tick, up to 250 ms. So many round
/// trips would then have taken more than the deadline; now they take a hundredth of it.
#[test]
fn a_lone_datagram_does_not_wait_for_the_next_tick() {
    const ROUND_TRIPS: usize = 400;
    let (left, right) = pair((1, 1), 0);
    let start = Instant::now();
    for _ in 0..ROUND_TRIPS {
        echo(&left, &right, 0, b"alone");
        assert!(start.elapsed() < DEADLINE, "each packet waited for a tick");
    }
}

#[test]
fn each_of_two_lanes_carries_flows_of_its_own() {
    let (left, right) = pair((2, 2), 0);
    until("traffic on both lanes of both nodes", || {
        echo(&left, &right, 0, b"another flow");
        [&left, &right].iter().all(|node| {
            let lanes = node.transport.counters();
            // Handshakes alone are but a few datagrams.
            lanes
                .iter()
                .all(|counts| counts.get(Counter::DatagramsSent) > 10)
        })
    });
}

#[test]
fn a_lane_whose_port_is_blocked_leaves_its_flows_to_lane_0() {
    let (left, right) = pair((2, 2), 0);
    for node in [&left, &right] {
        node.namespace.run(|| {
            nft("add table inet test; add chain inet test in { type filter hook input priority 0; }");
            nft(&format!("add rule inet test in udp dport {} drop", PORT + 1));
        });
    }
    for _ in 0..40 {
        echo(&left, &right, 0, b"any flow");
    }
    for node in [&left, &right] {
        let counters = node.transport.counters();
        assert_eq!(
            counters[1].get(Counter::DatagramsReceived),
            0,
            "the port is blocked"
        );
    }
    // The answerer's flows follow the queue by which the questions came.
    let read = left.transport.counters()[1].get(Counter::PacketsRead);
    assert!(read > 0, "some flows of the asker start on queue 1");
}

#[test]
fn a_device_that_somebody_deletes_is_told_and_replaced() {
    let (mut left, right) = pair((2, 2), 0);
    echo(&left, &right, 0, b"before");
    left.namespace.run(|| ip(&format!("link delete {DEVICE}")));
    assert!(next_events(&left).device_lost);
    until("both lanes to notice", || {
        left.count(Counter::DeviceLost) == 2
    });
    let tun = left.namespace.run(|| {
        let tun = TunDevice::open(DEVICE, 2, &OffloadsInUse::new(Offloads::default()))
            .expect("another device");
        set_up_device(left.number);
        tun
    });
    left.transport.replace_tun(tun);
    echo(&left, &right, 0, b"after");
    echo(&right, &left, 1, b"after");
}

#[test]
fn a_transport_that_stops_leaves_its_device_to_the_next() {
    let (left, right) = pair((1, 1), 0);
    echo(&left, &right, 0, b"before");
    let Node {
        number,
        namespace,
        transport,
        ..
    } = left;
    let index = || namespace.run(|| ip(&format!("-oneline link show {DEVICE}")));
    let before = index();
    transport.stop();
    assert_eq!(before.split(':').next(), index().split(':').next());
    namespace.run(|| ip(&format!("address flush dev {DEVICE}")));
    let left = Node::start(number, namespace, 1);
    left.add_peer(&right, "192.0.2.2", 1500);
    echo(&left, &right, 0, b"after");
}

#[test]
fn a_path_that_becomes_narrower_is_learnt_told_and_reported_to_the_pod() {
    for underlay in [0, 1] {
        let (left, right) = pair((1, 1), underlay);
        echo(&left, &right, 0, &[1; 1372]);
        for node in [&left, &right] {
            node.namespace.run(|| ip("link set wire mtu 1400"));
        }
        let pod_socket = left.socket(0);
        rustix::net::sockopt::set_ip_mtu_discover(
            &pod_socket,
            rustix::net::sockopt::Ipv4PathMtuDiscovery::DO,
        )
        .expect("an option of every socket");
        until("the pod to be told by ICMP", || {
            match pod_socket.send_to(&[2; 1392], (pod(2)[0], DISCARD_PORT)) {
                Ok(_) => false,
                Err(error) => error.raw_os_error() == Some(libc::EMSGSIZE),
            }
        });
        let endpoint: IpAddr = ["192.0.2.2", "2001:db8::2"][underlay]
            .parse()
            .expect("an address");
        assert!(next_events(&left).path_mtu_changed.contains(&endpoint));
        assert!(left.count(Counter::SendTooBig) > 0);
        echo(&left, &right, 0, &[3; 1300]);
    }
}

#[test]
fn ipv6_pods_talk_over_a_path_that_is_narrower_than_their_least_packet() {
    for underlay in [0, 1] {
        let (left, right) = pair((1, 1), underlay);
        for node in [&left, &right] {
            node.namespace.run(|| {
                ip("link set wire mtu 1280");
                ip(&format!(
                    "-6 route replace fd00:10:244::/48 dev {DEVICE} mtu 1280"
                ));
            });
        }
        left.add_peer(&right, ["192.0.2.2", "2001:db8::2"][underlay], 1280);
        right.add_peer(&left, ["192.0.2.1", "2001:db8::1"][underlay], 1280);
        echo(&left, &right, 1, &[4; 1280 - 48]);
        echo(&left, &right, 1, &[4; 10_000]);
        assert!(left.count(Counter::DatagramsFragmented) > 0);
        assert!(right.count(Counter::DatagramsFragmented) > 0);
    }
}

#[test]
fn a_full_socket_buffer_stops_the_lane_from_reading_and_not_from_receiving() {
    let (left, right) = pair((1, 1), 0);
    echo(&left, &right, 0, b"before");
    // The neighbour no longer answers for its address, and what waits for it is not dropped for
    // long.
    right
        .namespace
        .run(|| set("ipv4/conf/wire/arp_ignore", "8"));
    let link_address = right.namespace.run(|| {
        let link = ip("-oneline link show wire");
        let mut words = link
            .split_whitespace()
            .skip_while(|word| *word != "link/ether");
        words.nth(1).expect("an Ethernet address").to_owned()
    });
    left.namespace.run(|| {
        set("ipv4/neigh/wire/unres_qlen_bytes", "1000000000");
        set("ipv4/neigh/wire/retrans_time_ms", "600000");
        ip("neighbour flush dev wire");
    });
    let flood = left.socket(0);
    until("the socket's buffer to fill", || {
        match flood.send_to(&[5; 1300], (pod(2)[0], DISCARD_PORT)) {
            Ok(_) => {}
            // The device's queue is full.
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}"),
        }
        left.count(Counter::SendBlocked) > 0
    });
    let greeting = right.socket(0);
    let greet = || {
        let before = left.count(Counter::PacketsWritten);
        greeting
            .send_to(b"hello", (pod(1)[0], DISCARD_PORT))
            .expect("sent");
        until("a packet from the peer meanwhile", || {
            left.count(Counter::PacketsWritten) > before
        });
    };
    greet();
    let read = left.count(Counter::PacketsRead);
    for _ in 0..100 {
        // The lane has gone round between the greetings, and has left these where they are.
        let _ = flood.send_to(&[5; 1300], (pod(2)[0], DISCARD_PORT));
        greet();
    }
    assert_eq!(left.count(Counter::PacketsRead), read);
    left.namespace.run(|| {
        ip(&format!(
            "neighbour replace 192.0.2.2 lladdr {link_address} dev wire"
        ))
    });
    echo(&left, &right, 0, b"after");
}
