//! The guard with real packets, and with `nft` as the witness of what is installed.

mod replacement;

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use podwire_core::kernel::{Guard, GuardTable};
use rustix::io::Errno;

use super::super::tests::namespace::{Namespace, ip, nft, set, up};
use super::{GuardCounters, Installed, counters, install, observe, remove};

/// Long enough for any machine; every packet here arrives at once or never.
const DEADLINE: Duration = Duration::from_secs(30);

const PORT: u16 = 4000;

fn nets(prefixes: &[&str]) -> BTreeSet<IpNet> {
    prefixes
        .iter()
        .map(|prefix| prefix.parse().expect("a prefix"))
        .collect()
}

fn table() -> GuardTable {
    GuardTable {
        device: Some("podwire0".into()),
        cluster_cidrs: nets(&["10.244.0.0/16", "fd00:10:244::/48"]),
        own_cidrs: nets(&[
            "10.244.1.0/24",
            "10.244.101.0/24",
            "fd00:10:244:1::/64",
            "fd00:10:244:101::/64",
        ]),
        host_network_cidrs: BTreeSet::new(),
        underlay_links: ["underlay".to_owned()].into(),
    }
}

fn with_host_network() -> GuardTable {
    let host_network_cidrs = nets(&["10.244.2.0/24", "fd00:10:244:2::/64"]);
    GuardTable {
        host_network_cidrs,
        ..table()
    }
}

/// The addresses of one family.
struct Addresses {
    pod: &'static str,
    own_pods: [IpNet; 2],
    node: &'static str,
    peer: &'static str,
    peer_pod: &'static str,
    remote_pod: &'static str,
    service: &'static str,
}

fn families() -> [Addresses; 2] {
    let own = |prefixes: [&str; 2]| prefixes.map(|prefix| prefix.parse().expect("a prefix"));
    [
        Addresses {
            pod: "10.244.1.5",
            own_pods: own(["10.244.1.0/24", "10.244.101.0/24"]),
            node: "192.0.2.11",
            peer: "192.0.2.12",
            peer_pod: "10.244.2.7",
            remote_pod: "10.244.3.7",
            service: "198.51.100.1",
        },
        Addresses {
            pod: "fd00:10:244:1::5",
            own_pods: own(["fd00:10:244:1::/64", "fd00:10:244:101::/64"]),
            node: "2001:db8::11",
            peer: "2001:db8::12",
            peer_pod: "fd00:10:244:2::7",
            remote_pod: "fd00:10:244:3::7",
            service: "2001:db8:5::1",
        },
    ]
}

fn node() {
    set("ipv4/ip_forward", "1");
    set("ipv6/conf/all/forwarding", "1");
    ip("link add bridge0 type bridge");
    up("bridge0");
    ip("link set pod0 master bridge0");
    addresses("bridge0", ["10.244.1.1/24", "fd00:10:244:1::1/64"]);
    addresses("underlay", ["192.0.2.11/24", "2001:db8::11/64"]);
    addresses("podwire0", ["10.244.1.0/32", "10.244.101.0/32"]);
    addresses(
        "podwire0",
        ["fd00:10:244:1:ffff::/128", "fd00:10:244:101:ffff::/128"],
    );
    each("route add {} via 192.0.2.12", ["default", "10.244.2.0/24"]);
    each(
        "-6 route add {} via 2001:db8::12",
        ["default", "fd00:10:244:2::/64"],
    );
    each(
        "route add {} dev podwire0",
        ["10.244.3.0/24", "fd00:10:244:3::/64"],
    );
}

/// A node with a pod on a bridge. Its underlay has a peer, to which a foreign route leads that
/// peer's pods in plaintext; at the far end of its device (a cable here: the guard knows it by
/// name) is another node's pod.
struct Lab {
    node: Namespace,
    pod: Namespace,
    peer: Namespace,
    far_end: Namespace,
}

impl Lab {
    fn new() -> Self {
        let lab = Self {
            node: Namespace::new(),
            pod: Namespace::new(),
            peer: Namespace::new(),
            far_end: Namespace::new(),
        };
        lab.node.connect("underlay", &lab.peer, "eth0");
        lab.node.connect("pod0", &lab.pod, "eth0");
        lab.node.connect("podwire0", &lab.far_end, "tunnel");
        lab.node.run(node);
        lab.pod.run(|| {
            addresses("eth0", ["10.244.1.5/24", "fd00:10:244:1::5/64"]);
            each(
                "route add default via {}",
                ["10.244.1.1", "fd00:10:244:1::1"],
            );
        });
        lab.peer.run(|| {
            addresses("eth0", ["192.0.2.12/24", "2001:db8::12/64"]);
            addresses("lo", ["10.244.2.7/32", "fd00:10:244:2::7/128"]);
            ip("route add 10.244.0.0/16 via 192.0.2.11");
            ip("route add fd00:10:244::/48 via 2001:db8::11");
        });
        lab.far_end.run(|| {
            addresses("lo", ["10.244.3.7/32", "fd00:10:244:3::7/128"]);
            each(
                "route add {} dev tunnel",
                ["10.244.0.0/16", "fd00:10:244::/48"],
            );
        });
        // A TUN device has no neighbours to ask for: each end takes what the other sends.
        let far_end = lab.far_end.run(|| {
            ip("link set tunnel arp off");
            mac("tunnel")
        });
        lab.node
            .run(|| ip(&format!("link set podwire0 arp off address {far_end}")));
        lab
    }

    fn install(&self, table: &GuardTable) {
        self.node.run(|| install(table).expect("installed"));
    }

    fn counted(&self) -> GuardCounters {
        self.node.run(|| counters().expect("counters"))
    }
}

fn mac(link: &str) -> String {
    let shown = ip(&format!("-o link show dev {link}"));
    shown
        .split("link/ether ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .expect("one")
        .into()
}

fn each<const N: usize>(command: &str, values: [&str; N]) {
    for value in values {
        ip(&command.replace("{}", value));
    }
}

fn addresses<const N: usize>(link: &str, addresses: [&str; N]) {
    for address in addresses {
        let nodad = if address.contains(':') { "nodad" } else { "" };
        ip(&format!("address add {address} dev {link} {nodad}"));
    }
}

/// Makes an address one's own, at once.
fn claim(address: &str) {
    let length = if address.contains(':') {
        "128 nodad"
    } else {
        "32"
    };
    ip(&format!("address add dev lo {address}/{length}"));
}

/// A UDP socket on `address` inside the namespace; it stays there.
fn socket(namespace: &Namespace, address: &str, port: u16) -> UdpSocket {
    let address: IpAddr = address.parse().expect("an address");
    let socket = namespace.run(|| UdpSocket::bind(SocketAddr::new(address, port)));
    let socket = socket.unwrap_or_else(|error| panic!("{address}: {error}"));
    socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    socket
}

fn any(address: &str) -> &'static str {
    if address.contains(':') {
        "::"
    } else {
        "0.0.0.0"
    }
}

fn send(socket: &UdpSocket, to: &str, what: &str) -> io::Result<()> {
    socket.send_to(what.as_bytes(), (to, PORT)).map(|_| ())
}

/// The next datagram and its source.
fn receive(socket: &UdpSocket) -> (String, IpAddr) {
    let mut buffer = [0; 64];
    loop {
        match socket.recv_from(&mut buffer) {
            // With a deadline, the kernel does not start the call again after a signal.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            received => {
                let (length, from) = received.expect("a datagram");
                let what = String::from_utf8_lossy(&buffer[..length]).into_owned();
                return (what, from.ip().to_canonical());
            }
        }
    }
}

/// Sends, and returns the error that the kernel reports back.
fn refusal(namespace: &Namespace, to: &str) -> io::Error {
    let socket = socket(namespace, any(to), 0);
    socket.connect((to, PORT)).expect("a route");
    let sent = socket.send(b"plaintext");
    sent.and_then(|_| socket.recv(&mut [0; 64]))
        .expect_err("refused")
}

fn is_refusal(error: &io::Error) -> bool {
    // Admin-prohibited in either family; EPERM is what the sender's own netfilter says.
    matches!(
        Errno::from_io_error(error),
        Some(Errno::HOSTUNREACH | Errno::ACCESS | Errno::PERM)
    )
}

/// Packets wait for their neighbour's answer before they are on their way.
fn until(holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < DEADLINE, "in vain");
        std::thread::yield_now();
    }
}

#[test]
fn a_foreign_route_opens_no_plaintext_path() {
    let lab = Lab::new();
    lab.install(&table());
    let peer = socket(&lab.peer, "::", PORT);
    for family in families() {
        for (from, hops) in [(&lab.pod, "forwarded"), (&lab.node, "own")] {
            let before = lab.counted().egress_refused;
            let error = refusal(from, family.peer_pod);
            assert!(is_refusal(&error), "{hops}: {error}");
            assert!(lab.counted().egress_refused > before, "{hops}");
            let error = from.run(|| TcpStream::connect((family.peer_pod, PORT)));
            let error = error.expect_err("refused");
            assert_ne!(error.kind(), ErrorKind::ConnectionRefused, "never a reset");
            assert!(is_refusal(&error), "{hops}: {error}");
        }
        // What arrives first is what was sent last: nothing else had arrived.
        let pod = socket(&lab.pod, family.pod, 0);
        send(&pod, family.peer, "marker").expect("sent");
        let (what, from) = receive(&peer);
        assert_eq!(
            (what.as_str(), from.to_string().as_str()),
            ("marker", family.node)
        );
    }
}

/// The cable that stands for the device here is somebody else's in this test.
#[test]
fn a_link_that_only_has_the_devices_name_opens_no_plaintext_path() {
    let lab = Lab::new();
    for family in families() {
        let far_end = socket(&lab.far_end, family.remote_pod, PORT);
        let pod = socket(&lab.pod, family.pod, PORT);
        lab.install(&table());
        send(&pod, family.remote_pod, "by the device").expect("sent");
        assert_eq!(receive(&far_end).0, "by the device");
        lab.install(&GuardTable {
            device: None,
            ..table()
        });
        for from in [&lab.pod, &lab.node] {
            let error = refusal(from, family.remote_pod);
            assert!(is_refusal(&error), "{error}");
        }
        let before = lab.counted().ingress_dropped;
        send(&far_end, family.pod, "forged").expect("sent");
        until(|| lab.counted().ingress_dropped > before);
    }
}

#[test]
fn declared_host_network_peers_are_reached_untranslated() {
    let lab = Lab::new();
    lab.install(&with_host_network());
    for family in families() {
        let peer = socket(&lab.peer, family.peer_pod, PORT);
        let pod = socket(&lab.pod, family.pod, PORT);
        send(&pod, family.peer_pod, "there").expect("sent");
        assert_eq!(
            receive(&peer),
            ("there".into(), family.pod.parse().expect("an address"))
        );
        send(&peer, family.pod, "back").expect("sent");
        assert_eq!(receive(&pod).1.to_string(), family.peer_pod);
    }
    assert_eq!(lab.counted(), GuardCounters::default());
}

#[test]
fn what_claims_to_be_a_pod_is_dropped_unless_it_can_be_one() {
    let lab = Lab::new();
    lab.install(&table());
    for family in families() {
        // Other nodes' pods and this node's own, by the underlay.
        let other = family.pod.replace(":5", ":9").replace(".5", ".9");
        lab.peer.run(|| claim(&other));
        let spoofed = [family.peer_pod, &other];
        let node = socket(&lab.node, family.node, PORT);
        let pod = socket(&lab.pod, family.pod, PORT);
        for source in &spoofed {
            let spoofer = socket(&lab.peer, source, 0);
            let before = lab.counted().ingress_dropped;
            for target in [family.pod, family.node] {
                send(&spoofer, target, "spoofed").expect("sent");
            }
            until(|| lab.counted().ingress_dropped == before + 2);
        }
        // A pod that takes another node's pod's address.
        let stolen = family.remote_pod;
        lab.pod.run(|| claim(stolen));
        let before = lab.counted().ingress_dropped;
        send(&socket(&lab.pod, stolen, 0), family.node, "stolen").expect("sent");
        until(|| lab.counted().ingress_dropped == before + 1);
        // Who may: a node by its own address, and a local pod.
        send(&socket(&lab.peer, family.peer, 0), family.pod, "peer").expect("sent");
        assert_eq!(receive(&pod).0, "peer");
        send(&socket(&lab.pod, family.pod, 0), family.node, "pod").expect("sent");
        assert_eq!(
            receive(&node),
            ("pod".into(), family.pod.parse().expect("an address"))
        );
    }
}

#[test]
fn what_comes_by_another_link_than_the_route_back_is_dropped() {
    let lab = Lab::new();
    lab.install(&with_host_network());
    let stranger = Namespace::new();
    lab.node.connect("other", &stranger, "eth0");
    lab.node.run(|| {
        addresses("other", ["192.0.2.129/25", "2001:db8:7::1/64"]);
    });
    stranger.run(|| {
        addresses("eth0", ["192.0.2.130/25", "2001:db8:7::2/64"]);
        addresses("lo", ["10.244.1.9/32", "10.244.2.7/32"]);
        addresses("lo", ["fd00:10:244:1::9/128", "fd00:10:244:2::7/128"]);
    });
    for (sources, target) in [
        (["10.244.1.9", "10.244.2.7"], "192.0.2.129"),
        (["fd00:10:244:1::9", "fd00:10:244:2::7"], "2001:db8:7::1"),
    ] {
        for source in sources {
            let before = lab.counted().ingress_dropped;
            send(&socket(&stranger, source, 0), target, "spoofed").expect("sent");
            until(|| lab.counted().ingress_dropped == before + 1);
        }
    }
}

#[test]
fn pods_reach_the_outside_under_the_nodes_address_and_pods_under_their_own() {
    let lab = Lab::new();
    lab.install(&table());
    for family in families() {
        let peer = socket(&lab.peer, family.peer, PORT);
        let pod = socket(&lab.pod, family.pod, PORT);
        send(&pod, family.peer, "outside").expect("sent");
        assert_eq!(
            receive(&peer),
            ("outside".into(), family.node.parse().expect("an address"))
        );

        let remote = socket(&lab.far_end, family.remote_pod, PORT);
        send(&pod, family.remote_pod, "pod").expect("sent");
        assert_eq!(
            receive(&remote),
            ("pod".into(), family.pod.parse().expect("an address"))
        );
        send(&remote, family.pod, "back").expect("sent");
        assert_eq!(receive(&pod).1.to_string(), family.remote_pod);
    }
    assert_eq!(lab.counted(), GuardCounters::default());
}

#[test]
fn the_node_reaches_remote_pods_under_an_address_of_its_own_pods() {
    let lab = Lab::new();
    lab.install(&table());
    lab.node.run(|| {
        nft(
            "table inet services { chain output { type nat hook output priority -100; \
             ip daddr 198.51.100.1 dnat ip to 10.244.3.7; \
             ip6 daddr 2001:db8:5::1 dnat ip6 to fd00:10:244:3::7; } }",
        );
    });
    for family in families() {
        let remote = socket(&lab.far_end, family.remote_pod, PORT);
        // Bound to the node's address, and by a Service, whose first route is another link's.
        let bound = socket(&lab.node, family.node, 0);
        let free = socket(&lab.node, any(family.node), 0);
        for (socket, to) in [(&bound, family.remote_pod), (&free, family.service)] {
            send(socket, to, to).expect("sent");
            let (what, from) = receive(&remote);
            assert_eq!(what, to);
            assert!(
                family.own_pods.iter().any(|own| own.contains(&from)),
                "{from}"
            );
        }
    }
    assert_eq!(lab.counted(), GuardCounters::default());
}

#[test]
fn a_service_behind_a_foreign_route_opens_no_plaintext_path() {
    let lab = Lab::new();
    lab.install(&table());
    lab.node.run(|| {
        nft("table inet services { \
             chain output { type nat hook output priority -100; jump services; } \
             chain prerouting { type nat hook prerouting priority -100; jump services; } \
             chain services { \
             ip daddr 198.51.100.1 dnat ip to 10.244.2.7; \
             ip6 daddr 2001:db8:5::1 dnat ip6 to fd00:10:244:2::7; } }");
    });
    let peer = socket(&lab.peer, "::", PORT);
    for family in families() {
        for from in [&lab.node, &lab.pod] {
            let before = lab.counted().egress_refused;
            // The last line drops, and the sender's own is told so at once.
            let _ = send(
                &socket(from, any(family.service), 0),
                family.service,
                "plaintext",
            );
            until(|| lab.counted().egress_refused == before + 1);
        }
        send(&socket(&lab.node, family.node, 0), family.peer, "marker").expect("sent");
        assert_eq!(receive(&peer).0, "marker");
    }
}

#[test]
fn packets_for_own_pods_never_leave_by_the_underlay() {
    let lab = Lab::new();
    lab.install(&table());
    lab.node.run(|| {
        ip("link delete bridge0");
        each("route add {} via 192.0.2.12", ["10.244.1.0/24"]);
        each("-6 route add {} via 2001:db8::12", ["fd00:10:244:1::/64"]);
    });
    for family in families() {
        assert!(is_refusal(&refusal(&lab.node, family.pod)));
    }
}

/// A table that was installed, and what is told of it.
struct Watched {
    node: Namespace,
    installed: Installed,
}

impl Watched {
    fn new() -> Self {
        let node = Namespace::new();
        let installed = node.run(|| install(&with_host_network()).expect("installed"));
        Self { node, installed }
    }

    fn observe(&mut self) -> Guard {
        let installed = &mut self.installed;
        self.node
            .run(|| observe(Some(installed)).expect("observed"))
    }
}

#[test]
fn any_alteration_is_noticed_and_healed() {
    let alterations = [
        "add rule inet podwire forward accept",
        "insert rule inet podwire ingress accept",
        "add chain inet podwire stranger",
        "flush chain inet podwire ingress",
        "flush set inet podwire cluster4",
        "add element inet podwire host_network4 { 10.244.9.0/24 }",
        "add element inet podwire underlay_links { \"eth9\" }",
        "delete element inet podwire cluster6 { fd00:10:244::/48 }",
        "add set inet podwire stranger { type ipv4_addr; }",
        "add counter inet podwire stranger",
        "add table inet podwire { flags dormant; }",
        "chain inet podwire forward { policy drop; }",
    ];
    let mut watched = Watched::new();
    for alteration in alterations {
        assert_eq!(watched.observe(), Guard::Installed(with_host_network()));
        watched.node.run(|| nft(alteration));
        assert_eq!(watched.observe(), Guard::Altered, "{alteration}");
        assert_eq!(watched.observe(), Guard::Altered, "still: {alteration}");
        watched.installed = watched
            .node
            .run(|| install(&with_host_network()).expect("healed"));
    }
    assert_eq!(watched.observe(), Guard::Installed(with_host_network()));
    for removal in [
        "delete table inet podwire",
        "flush table inet podwire",
        "flush ruleset",
    ] {
        watched.node.run(|| nft(removal));
        assert_eq!(watched.observe(), Guard::Missing, "{removal}");
        watched.installed = watched
            .node
            .run(|| install(&with_host_network()).expect("healed"));
    }
}

#[test]
fn the_order_of_the_rules_counts() {
    let mut watched = Watched::new();
    watched.node.run(|| {
        let shown = nft("--handle list chain inet podwire forward");
        let rule = shown
            .lines()
            .find(|line| line.contains("oifname \"lo\""))
            .expect("a rule");
        let handle = rule.rsplit(' ').next().expect("its handle");
        nft(&format!("delete rule inet podwire forward handle {handle}"));
        nft("add rule inet podwire forward oifname \"lo\" accept");
    });
    assert_eq!(watched.observe(), Guard::Altered);
}

#[test]
fn what_is_no_alteration_is_not_taken_for_one() {
    let mut watched = Watched::new();
    for other in [
        "table inet somebody { chain forward { type filter hook forward priority 0; } }",
        "table ip podwire { chain forward { type filter hook forward priority 0; } }",
        "delete table inet somebody",
        "reset counters table inet podwire",
    ] {
        watched.node.run(|| nft(other));
        assert_eq!(
            watched.observe(),
            Guard::Installed(with_host_network()),
            "{other}"
        );
    }
    // What a reader of the same name in another family must not be confused by.
    assert!(
        watched
            .node
            .run(|| nft("list tables"))
            .contains("table ip podwire")
    );
}

#[test]
fn nobody_vouches_for_a_predecessors_table() {
    Namespace::new().run(|| {
        assert_eq!(observe(None).expect("observed"), Guard::Missing);
        install(&table()).expect("installed");
        assert_eq!(observe(None).expect("observed"), Guard::Altered);
        assert!(remove().expect("removed"));
        assert!(!remove().expect("nothing there"));
        assert_eq!(observe(None).expect("observed"), Guard::Missing);
    });
}

#[test]
fn counters_outlive_a_replacement_of_the_table() {
    let lab = Lab::new();
    lab.install(&table());
    refusal(&lab.pod, "10.244.2.7");
    let before = lab.counted();
    assert_eq!(
        before,
        GuardCounters {
            egress_refused: 1,
            ingress_dropped: 0
        }
    );
    lab.install(&with_host_network());
    assert_eq!(lab.counted(), before);
    let mut installed = lab.node.run(|| install(&table()).expect("installed"));
    refusal(&lab.pod, "10.244.2.7");
    assert_eq!(lab.counted().egress_refused, 2);
    // Counters that moved are no alteration, also where something else forces a look.
    lab.node.run(|| {
        nft("add table inet somebody");
        assert_eq!(
            observe(Some(&mut installed)).expect("observed"),
            Guard::Installed(table())
        );
    });
}

#[test]
fn nft_reads_the_table_as_it_is_meant() {
    Namespace::new().run(|| {
        let mut table = with_host_network();
        // Overlapping and adjacent prefixes, and the last of a family.
        table
            .cluster_cidrs
            .extend(nets(&["10.244.3.0/24", "10.245.0.0/16", "255.0.0.0/8"]));
        install(&table).expect("installed");
        let shown = nft("list table inet podwire");
        for part in [
            "elements = { 10.244.0.0/15, 255.0.0.0/8 }",
            "elements = { \"underlay\" }",
            "type filter hook prerouting priority raw; policy accept;",
            "type filter hook forward priority filter - 10; policy accept;",
            "type filter hook output priority mangle; policy accept;",
            "type filter hook postrouting priority mangle; policy accept;",
            "type nat hook postrouting priority srcnat; policy accept;",
            "ip daddr != @cluster4 accept",
            "ip6 daddr @own6 oifname != @underlay_links accept",
            "counter name \"egress_refused\" reject with icmpx admin-prohibited",
            "counter name \"egress_refused\" drop",
            "counter name \"ingress_dropped\" drop",
            "ip saddr @own4 iifname != @underlay_links fib saddr . iif oif != 0 accept",
            "oifname \"podwire0\" ip6 saddr != @own6 masquerade",
        ] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
    });
}
