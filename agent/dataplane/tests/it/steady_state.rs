//! What a packet costs once a session is there.

use std::net::SocketAddr;

use podwire_dataplane::{DeliveryBatch, OverlayBatch, UnderlayBatch};

use crate::packets::Packet;
use crate::simulation::{Network, seconds};

#[test]
fn a_packet_allocates_nothing_on_its_way_out_and_in() {
    let mut network = Network::new(&[2, 2, 2]);
    for peer in [1, 2] {
        network.send(0, 0, &Packet::new(0, peer).bytes());
        network.send(0, 1, &Packet::new(0, peer).bytes());
    }
    network.run(seconds(1));
    for lane in [0, 1] {
        let mut packets = OverlayBatch::with_capacity(1 << 18, 100);
        for n in 0..100_usize {
            let peer = 1 + usize::from(n % 10 == 0);
            let length = 100 + 13 * n;
            let packet = Packet::new(0, peer).length(length.min(1440)).bytes();
            packets.room()[..packet.len()].copy_from_slice(&packet);
            packets.commit_front(packet.len());
        }
        let mut send = UnderlayBatch::with_capacity(1 << 18, 100);
        let mut deliver = DeliveryBatch::with_capacity(1 << 18, 100);
        let mut sender = network.nodes[0].device.lane(lane, network.now);
        let out = allocation_counter::measure(|| {
            sender.handle_overlay(network.now, &mut packets, &mut send, &mut deliver);
        });
        assert!(packets.is_empty());
        assert_eq!((send.len(), out.count_total), (100, 0));

        let mut datagrams = UnderlayBatch::with_capacity(1 << 18, 100);
        let source: SocketAddr = "192.0.2.11:51880".parse().expect("an address");
        let to: SocketAddr = "192.0.2.12:51880".parse().expect("an address");
        for (_, bytes) in send
            .iter()
            .filter(|(datagram, _)| datagram.endpoint.ip() == to.ip())
        {
            datagrams.room()[..bytes.len()].copy_from_slice(bytes);
            datagrams.commit_front(lane, source, bytes.len());
        }
        send.clear();
        let mut receiver = network.nodes[1].device.lane(lane, network.now);
        let back = allocation_counter::measure(|| {
            receiver.handle_underlay(network.now, &mut datagrams, &mut send, &mut deliver);
        });
        assert!(datagrams.is_empty());
        assert_eq!((deliver.len(), back.count_total), (90, 0));
    }
}

#[test]
fn ticks_of_a_live_session_allocate_nothing() {
    let mut network = Network::new(&[1, 1]);
    network.ping(0, 1, 0);
    network.run(seconds(1));
    let mut send = UnderlayBatch::with_capacity(1 << 17, 100);
    let mut deliver = DeliveryBatch::with_capacity(1 << 17, 100);
    network.with_lane(0, 0, |lane, now| {
        let ticks = allocation_counter::measure(|| {
            for _ in 0..10 {
                lane.handle_timeout(lane.poll_timeout().max(now), &mut send, &mut deliver);
            }
        });
        assert_eq!(ticks.count_total, 0);
    });
}
