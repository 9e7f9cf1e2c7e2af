//! The record that this node publishes about itself.

use std::net::{IpAddr, SocketAddr};

use podwire_core::key::PublicKey;
use podwire_core::node::{Node, can_be_a_node};
use podwire_core::record::{Lane, LaneKeys, Mode, Record};
use podwire_core::rotation::{Rotation, Told};

/// What the record is made of beside the own Node.
#[derive(Clone, Debug)]
pub(crate) struct OwnRecordInputs<'a> {
    /// The declared mode.
    pub(crate) mode: Mode,
    /// Own public keys.
    pub(crate) keys: &'a Told<Vec<PublicKey>>,
    /// UDP port of lane 0.
    pub(crate) listen_port: u16,
    /// Whether endpoints are published (`--no-endpoint` unset).
    pub(crate) publish_endpoint: bool,
    /// Where the rotation of the keys stands.
    pub(crate) rotation: Rotation,
    /// When the keys were made, RFC 3339.
    pub(crate) key_created: String,
    /// Own epoch.
    pub(crate) epoch: u64,
}

/// Builds the own record from what the registry says about the own Node: claims are exactly what
/// peers check them against.
pub(crate) fn own_record(node: &Node, inputs: &OwnRecordInputs<'_>) -> Record {
    let encrypted = inputs.mode == Mode::Encrypted;
    let lane_keys = |keys: Option<&Vec<PublicKey>>| {
        let (first, others) = keys?.split_first().filter(|_| encrypted)?;
        let lanes = (1..).zip(others).map(|(lane, key)| Lane {
            port: inputs.listen_port + lane,
            key: *key,
        });
        Some(LaneKeys {
            public_key: *first,
            lanes: lanes.collect(),
        })
    };
    let Rotation {
        key_generation,
        phase,
    } = inputs.rotation;
    Record {
        mode: inputs.mode,
        pod_cidrs: node.pod_cidrs.clone(),
        // Those of host-network mode are nobody's to send to, but they tell peers, who see records
        // alone, that an address of the Node changed.
        endpoints: if inputs.publish_endpoint {
            endpoints(&node.addresses, inputs.listen_port)
        } else {
            Vec::new()
        },
        current: lane_keys(Some(&inputs.keys.current)),
        next: lane_keys(inputs.keys.next.as_ref()),
        previous: lane_keys(inputs.keys.previous.as_ref()),
        key_generation,
        key_created: Some(inputs.key_created.clone()),
        rotation_phase: phase.told().filter(|_| encrypted),
        epoch: inputs.epoch,
    }
}

/// The first address of each family, in the Node's order of preference. Peers refuse a record with
/// one at which no other node can be.
fn endpoints(addresses: &[IpAddr], port: u16) -> Vec<SocketAddr> {
    let fit = addresses.iter().filter(|address| can_be_a_node(**address));
    let first = |v4: bool| fit.clone().find(|address| address.is_ipv4() == v4);
    let mut chosen: Vec<&IpAddr> = [first(true), first(false)].into_iter().flatten().collect();
    chosen.sort_by_key(|address| addresses.iter().position(|other| other == *address));
    chosen
        .into_iter()
        .map(|address| SocketAddr::new(*address, port))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use podwire_core::rotation::Phase;

    use super::*;

    fn key(byte: u8) -> PublicKey {
        PublicKey::from_bytes([byte; 32]).expect("not zero")
    }

    fn node(addresses: &[&str]) -> Node {
        Node {
            name: "node-1".parse().expect("name"),
            uid: "1".to_owned(),
            created: 0,
            pod_cidrs: vec!["10.244.1.0/24".parse().expect("cidr")],
            addresses: addresses
                .iter()
                .map(|a| a.parse().expect("address"))
                .collect(),
            annotations: BTreeMap::new(),
            is_record_unread: false,
        }
    }

    fn current(keys: &[PublicKey]) -> Told<Vec<PublicKey>> {
        Told {
            current: keys.to_vec(),
            next: None,
            previous: None,
        }
    }

    fn inputs(mode: Mode, keys: &Told<Vec<PublicKey>>) -> OwnRecordInputs<'_> {
        OwnRecordInputs {
            mode,
            keys,
            listen_port: 51880,
            publish_endpoint: true,
            rotation: Rotation::FIRST,
            key_created: "2026-01-01T00:00:00Z".to_owned(),
            epoch: 0,
        }
    }

    #[test]
    fn one_endpoint_a_family_in_the_nodes_order() {
        let node = node(&["2001:db8::11", "192.0.2.11", "192.0.2.99"]);
        let record = own_record(&node, &inputs(Mode::Encrypted, &current(&[key(1), key(2)])));
        let endpoints: Vec<String> = record.endpoints.iter().map(ToString::to_string).collect();
        assert_eq!(endpoints, ["[2001:db8::11]:51880", "192.0.2.11:51880"]);
    }

    #[test]
    fn an_address_at_which_no_other_node_can_be_is_no_endpoint() {
        let odd = ["fe80::1", "169.254.1.1", "::ffff:192.0.2.11", "127.0.0.1"];
        let node = node(&[&odd[..], &["192.0.2.11"]].concat());
        let record = own_record(&node, &inputs(Mode::Encrypted, &current(&[key(1)])));
        let endpoints: Vec<String> = record.endpoints.iter().map(ToString::to_string).collect();
        assert_eq!(endpoints, ["192.0.2.11:51880"]);
    }

    #[test]
    fn lane_i_has_its_own_key_and_the_port_after_lane_0s() {
        let record = own_record(
            &node(&["192.0.2.11"]),
            &inputs(Mode::Encrypted, &current(&[key(1), key(2), key(3)])),
        );
        let keys = record.current.expect("encrypted");
        assert_eq!(keys.public_key, key(1));
        let lanes: Vec<(u16, PublicKey)> = keys
            .lanes
            .iter()
            .map(|lane| (lane.port, lane.key))
            .collect();
        assert_eq!(lanes, [(51881, key(2)), (51882, key(3))]);
    }

    #[test]
    fn a_host_network_record_names_its_addresses_and_no_key() {
        let record = own_record(
            &node(&["192.0.2.11"]),
            &inputs(Mode::HostNetwork, &current(&[key(1)])),
        );
        assert_eq!(record.current, None);
        assert_eq!(record.endpoints.len(), 1);
    }

    #[test]
    fn a_rotation_is_told_by_an_encrypted_node_alone() {
        let keys = Told {
            next: Some(vec![key(3), key(4)]),
            previous: Some(vec![key(5)]),
            ..current(&[key(1), key(2)])
        };
        let phase = Phase::Announced;
        let inputs = |mode| OwnRecordInputs {
            rotation: Rotation {
                key_generation: 4,
                phase,
            },
            ..inputs(mode, &keys)
        };
        let told = own_record(&node(&["192.0.2.11"]), &inputs(Mode::Encrypted));
        let next = told.next.expect("announced");
        let lane = Lane {
            port: 51881,
            key: key(4),
        };
        assert_eq!((next.public_key, next.lanes), (key(3), vec![lane]));
        assert_eq!(told.previous.map(|keys| keys.public_key), Some(key(5)));
        assert_eq!(told.rotation_phase.as_deref(), Some("announced"));
        assert_eq!(told.key_generation, 4);
        let plain = own_record(&node(&["192.0.2.11"]), &inputs(Mode::HostNetwork));
        assert_eq!((plain.next, plain.previous), (None, None));
        assert_eq!(plain.rotation_phase, None);
    }

    #[test]
    fn a_node_behind_nat_publishes_no_endpoint() {
        let keys = current(&[key(1)]);
        let inputs = OwnRecordInputs {
            publish_endpoint: false,
            ..inputs(Mode::Encrypted, &keys)
        };
        assert!(
            own_record(&node(&["192.0.2.11"]), &inputs)
                .endpoints
                .is_empty()
        );
    }
}
