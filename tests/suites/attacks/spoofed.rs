//! Packets that claim to come from a pod: on the underlay, and inside a tunnel that another node's
//! key seals.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::address::{self, IpVersion};
use podwire_testbed::agent_view::{CONVERGENCE, wait_peers};
use podwire_testbed::forged::{self, Extra};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::wire::put_into_device;
use podwire_testbed::{Testbed, Topology, Wire, matrix, until};

use crate::copies::{Drops, assert_counted};

pub(crate) const TESTS: &[Test] = &[(
    "what_claims_a_pods_address_and_is_not_that_pod_is_dropped_and_counted",
    spoofed,
)];

const VERSIONS: [IpVersion; 2] = [IpVersion::V4, IpVersion::V6];

/// Where the pod of node 2 listens.
const PORT: u16 = 6666;

/// Everything of a version that an attacker may put between the headers; `next` is where a route
/// goes on.
fn extras(next: IpAddr) -> Vec<Extra> {
    match next {
        IpAddr::V4(next) => vec![
            Extra::Nothing,
            Extra::RecordRoute,
            Extra::LooseSourceRoute(next),
            Extra::StrictSourceRoute(next),
        ],
        IpAddr::V6(next) => vec![
            Extra::Nothing,
            Extra::HopByHop,
            Extra::RoutingHeader(0, next),
            Extra::RoutingHeader(4, next),
        ],
    }
}

const fn is_route(extra: Extra) -> bool {
    matches!(
        extra,
        Extra::LooseSourceRoute(_) | Extra::StrictSourceRoute(_) | Extra::RoutingHeader(..)
    )
}

/// The listener in the pod of node 2, one for each version.
struct Pod {
    addresses: [IpAddr; 2],
    sockets: [UdpSocket; 2],
}

impl Pod {
    fn listen(bed: &Testbed) -> Result<Self> {
        let host = bed.pod(2, 1).host();
        let addresses = [host.address(IpVersion::V4)?, host.address(IpVersion::V6)?];
        let bind = |address: IpAddr| host.namespace().run(|| UdpSocket::bind((address, PORT)));
        let sockets = [bind(addresses[0])?, bind(addresses[1])?];
        for socket in &sockets {
            socket.set_nonblocking(true)?;
        }
        Ok(Self { addresses, sockets })
    }

    fn endpoint(&self, version: IpVersion) -> SocketAddr {
        SocketAddr::new(self.addresses[place(version)], PORT)
    }

    /// What has arrived since the last call.
    fn received(&self) -> Result<usize> {
        let mut count = 0;
        for socket in &self.sockets {
            loop {
                match socket.recv(&mut [0; 64]) {
                    Ok(_) => count += 1,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error).context("reading in the pod"),
                }
            }
        }
        Ok(count)
    }
}

const fn place(version: IpVersion) -> usize {
    match version {
        IpVersion::V4 => 0,
        IpVersion::V6 => 1,
    }
}

fn spoofed(context: &Context) -> Result<()> {
    let bed = context.mesh(&Topology::new().nodes(3).pods_per_node(1))?;
    wait_peers(&bed)?;
    until(CONVERGENCE, "the mesh to be whole", || {
        matrix::all_reached(&bed.matrix().run())
    })?;
    let pod = Pod::listen(&bed)?;
    from_the_underlay(&bed, &pod)?;
    out_of_a_tunnel(&bed, &pod)?;
    ensure!(pod.received()? == 0, "something got through");
    honest_options_pass(&bed, &pod)?;
    routes_are_not_sent(&bed)?;
    ensure!(pod.received()? == 0, "a source-routed packet got through");
    matrix::all_reached(&bed.matrix().run())
}

/// Nobody outside the tunnel is a pod: not a remote one, nor the node's own, nor one that nobody
/// has; whether it writes to the pod or to the node.
fn from_the_underlay(bed: &Testbed, pod: &Pod) -> Result<()> {
    let wire = Wire::tap(bed, 2)?;
    assert_counted(bed.node(2), || {
        let mut sent = 0;
        for version in VERSIONS {
            let sources = [1, 2, 200].map(|node| address::pod(address::pod_cidr(node, version), 1));
            let node = bed.node(2).host().address(version)?;
            for (source, target) in sources
                .iter()
                .flat_map(|source| [(source, pod.endpoint(version).ip()), (source, node)])
            {
                for extra in extras(pod.endpoint(version).ip()) {
                    let ends = [*source, target].map(|address| SocketAddr::new(address, PORT));
                    wire.put(&forged::udp(ends[0], ends[1], extra, b"plaintext"))?;
                    sent += 1;
                }
            }
        }
        Ok(Drops::from([("guard-ingress", sent)]))
    })
}

/// Node 1's own root hands these to its device, past its guards: they are sealed with its valid
/// key, and are not from its pods.
fn out_of_a_tunnel(bed: &Testbed, pod: &Pod) -> Result<()> {
    assert_counted(bed.node(2), || {
        let mut sent = 0;
        for version in VERSIONS {
            let sources = [
                address::pod(address::pod_cidr(3, version), 1),
                address::pod(address::pod_cidr(2, version), 1),
                address::outside_host(version),
                bed.node(1).host().address(version)?,
            ];
            let target = pod.endpoint(version);
            for source in sources {
                let source = SocketAddr::new(source, PORT);
                for extra in extras(target.ip()).into_iter().filter(|e| !is_route(*e)) {
                    let packet = forged::udp(source, target, extra, b"spoofed");
                    put_into_device(bed.node(1).namespace(), "podwire0", &packet)?;
                    sent += 1;
                }
            }
        }
        Ok(Drops::from([("source-not-allowed", sent)]))
    })
}

/// An honest pod may want to know its way.
fn honest_options_pass(bed: &Testbed, pod: &Pod) -> Result<()> {
    let mut sent = 0;
    for version in VERSIONS {
        let source = SocketAddr::new(bed.pod(1, 1).host().address(version)?, PORT);
        let target = pod.endpoint(version);
        for extra in extras(target.ip()).into_iter().filter(|e| !is_route(*e)) {
            let packet = forged::udp(source, target, extra, b"honest");
            put_into_device(bed.node(1).namespace(), "podwire0", &packet)?;
            sent += 1;
        }
    }
    let mut received = 0;
    until(CONVERGENCE, "the honest packets", || {
        received += pod.received()?;
        ensure!(received == sent, "{received} of {sent}");
        Ok(())
    })
}

/// A packet that names its own way does not even leave, whoever sends it.
fn routes_are_not_sent(bed: &Testbed) -> Result<()> {
    assert_counted(bed.node(1), || {
        let mut sent = 0;
        for version in VERSIONS {
            let source = SocketAddr::new(bed.pod(1, 1).host().address(version)?, PORT);
            // To node 2 itself, and on to its pod or to node 3's.
            let target = address::pod_cidr(2, version);
            for next in [2, 3].map(|node| address::pod(address::pod_cidr(node, version), 1)) {
                for extra in extras(next).into_iter().filter(|e| is_route(*e)) {
                    let target = SocketAddr::new(address::bridge(target), PORT);
                    let packet = forged::udp(source, target, extra, b"routed");
                    put_into_device(bed.node(1).namespace(), "podwire0", &packet)?;
                    sent += 1;
                }
            }
        }
        Ok(Drops::from([("source-routed", sent)]))
    })
}
