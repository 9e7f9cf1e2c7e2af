use proptest::prelude::*;

use super::*;

fn ethernet(ethertype: u16, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend(ethertype.to_be_bytes());
    frame.extend(body);
    frame
}

fn ipv4_packet(source: [u8; 4], destination: [u8; 4], protocol: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 20];
    packet[0] = 0x45;
    packet[9] = protocol;
    packet[12..16].copy_from_slice(&source);
    packet[16..20].copy_from_slice(&destination);
    packet.extend(body);
    packet
}

fn ipv6_packet(source: Ipv6Addr, destination: Ipv6Addr, next: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 40];
    packet[0] = 0x60;
    packet[6] = next;
    packet[8..24].copy_from_slice(&source.octets());
    packet[24..40].copy_from_slice(&destination.octets());
    packet.extend(body);
    packet
}

const POD_A: [u8; 4] = [10, 244, 1, 2];
const POD_B: [u8; 4] = [10, 244, 2, 2];
const NODE_A: [u8; 4] = [192, 0, 2, 11];
const NODE_B: [u8; 4] = [192, 0, 2, 12];

#[test]
fn a_packet_inside_a_vlan_tag_and_an_ip_tunnel_shows_both_pairs() {
    let inner = ipv4_packet(POD_A, POD_B, PROTOCOL_TCP, &[0; 20]);
    let outer = ipv4_packet(NODE_A, NODE_B, PROTOCOL_IPV4, &inner);
    let mut tagged = vec![0, 7];
    tagged.extend(ETHERTYPE_IPV4.to_be_bytes());
    tagged.extend(&outer);
    let frame = ethernet(0x8100, &tagged);
    let pairs: Vec<_> = parse(&frame)
        .layers
        .iter()
        .map(|layer| (layer.source, layer.destination))
        .collect();
    assert_eq!(
        pairs,
        [(NODE_A.into(), NODE_B.into()), (POD_A.into(), POD_B.into())]
    );
}

#[test]
fn a_packet_quoted_by_an_icmp_error_is_read() {
    let quoted = ipv4_packet(POD_A, POD_B, PROTOCOL_UDP, &[0; 8]);
    let mut error = vec![3, 4, 0, 0, 0, 0, 5, 0x78];
    error.extend(&quoted);
    let frame = ethernet(
        ETHERTYPE_IPV4,
        &ipv4_packet(NODE_A, NODE_B, PROTOCOL_ICMP, &error),
    );
    assert_eq!(parse(&frame).layers[1].source, IpAddr::from(POD_A));
}

#[test]
fn an_echo_request_quotes_nothing() {
    let looks_quoted = ipv4_packet(POD_A, POD_B, PROTOCOL_UDP, &[0; 8]);
    let mut echo = vec![8, 0, 0, 0, 0, 0, 0, 0];
    echo.extend(&looks_quoted);
    let frame = ethernet(
        ETHERTYPE_IPV4,
        &ipv4_packet(NODE_A, NODE_B, PROTOCOL_ICMP, &echo),
    );
    assert_eq!(parse(&frame).layers.len(), 1);
}

#[test]
fn udp_is_found_behind_ipv6_extension_headers() {
    let (source, destination) = ("2001:db8::b".parse(), "2001:db8::c".parse());
    let mut body = vec![PROTOCOL_UDP, 0, 1, 4, 0, 0, 0, 0];
    body.extend([0xca, 0xa8, 0xca, 0xa8, 0, 0, 0, 0, 4, 0, 0, 0]);
    let packet = ipv6_packet(
        source.expect("valid"),
        destination.expect("valid"),
        0,
        &body,
    );
    let frame = ethernet(ETHERTYPE_IPV6, &packet);
    let parsed = parse(&frame);
    let datagram = parsed.udp.expect("the datagram is whole");
    assert_eq!(
        (datagram.source_port, datagram.payload),
        (51880, &[4, 0, 0, 0][..])
    );
}

#[test]
fn a_later_fragment_has_addresses_and_no_ports() {
    let mut packet = ipv4_packet(POD_A, POD_B, PROTOCOL_UDP, &[0xff; 64]);
    packet[6..8].copy_from_slice(&185_u16.to_be_bytes());
    let frame = ethernet(ETHERTYPE_IPV4, &packet);
    let parsed = parse(&frame);
    assert!(parsed.layers[0].later_fragment);
    assert_eq!(parsed.udp, None);
}

proptest! {
    #[test]
    fn no_frame_makes_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        parse(&bytes);
    }

    #[test]
    fn no_packet_makes_the_reader_panic(
        version in prop_oneof![Just(0x45_u8), Just(0x60)],
        protocol in prop_oneof![Just(0_u8), Just(1), Just(4), Just(41), Just(44), Just(51), Just(58)],
        mut bytes in proptest::collection::vec(any::<u8>(), 41..200),
    ) {
        bytes[0] = version;
        bytes[if version == 0x45 { 9 } else { 6 }] = protocol;
        let ethertype = if version == 0x45 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
        let layers = parse(&ethernet(ethertype, &bytes)).layers.len();
        prop_assert!(layers <= DEPTH_MAX);
    }
}
