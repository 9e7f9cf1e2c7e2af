//! A node that is no node of Podwire's: a daemon of WireGuard in user space, and a record that says
//! what its peers need to know.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use podwire_testbed::uapi::Peer;
use podwire_testbed::wireguard_daemon::{Key, PORT, WireguardDaemon, endpoint, peer};
use podwire_testbed::{IpVersion, Testbed};
use x25519_dalek::{PublicKey, StaticSecret};

use crate::Initiator;

/// It ends with this value.
pub(crate) struct ForeignNode {
    daemon: WireguardDaemon,
    secret: StaticSecret,
    version: IpVersion,
    initiator: Initiator,
}

impl ForeignNode {
    /// Starts and configures it on node `number`, and publishes its record. Who is not to initiate
    /// is told no endpoint. `others` are its peers, with the keys that it knows of them.
    pub(crate) fn start(
        bed: &Testbed,
        number: u8,
        program: &Path,
        (version, initiator): (IpVersion, Initiator),
        others: &[(u8, Key)],
    ) -> Result<Self> {
        let mut secret = [0; 32];
        rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::empty())?;
        let node = Self {
            daemon: WireguardDaemon::start(bed, number, program)?,
            secret: StaticSecret::from(secret),
            version,
            initiator,
        };
        let peers = node.configure(bed, others)?;
        node.daemon.route(bed.node(number), &peers)?;
        let endpoint = endpoint(bed, number, version)?;
        let endpoint = (initiator != Initiator::Foreign).then_some(endpoint);
        publish(bed, number, &PublicKey::from(&node.secret), endpoint)?;
        Ok(node)
    }

    /// Gives it other keys of its peers, as its operator does. Returns them as it has them now.
    pub(crate) fn configure(&self, bed: &Testbed, others: &[(u8, Key)]) -> Result<Vec<Peer>> {
        let knows_endpoints = self.initiator != Initiator::Podwire;
        let peers = others.iter().map(|(number, key)| {
            let endpoint = endpoint(bed, *number, self.version)?;
            Ok(peer(
                bed,
                *number,
                *key,
                knows_endpoints.then_some(endpoint),
            ))
        });
        let peers: Vec<_> = peers.collect::<Result<_>>()?;
        let uapi = self.daemon.uapi();
        uapi.configure(&self.secret.to_bytes(), PORT, &peers)?;
        Ok(peers)
    }
}

fn publish(bed: &Testbed, number: u8, key: &PublicKey, endpoint: Option<SocketAddr>) -> Result<()> {
    let manifest = bed.node(number).manifest();
    let cidrs: Vec<String> = manifest.pod_cidrs.iter().map(ToString::to_string).collect();
    let mut annotations = vec![
        ("mode", "encrypted".to_owned()),
        ("public-key", STANDARD.encode(key.as_bytes())),
        ("pod-cidrs", cidrs.join(",")),
        ("key-generation", "1".to_owned()),
        ("epoch", "1".to_owned()),
    ];
    annotations.extend(endpoint.map(|endpoint| ("endpoints", endpoint.to_string())));
    let lines = annotations
        .iter()
        .map(|(name, value)| format!("    podwire.dev/{name}: '{value}'\n"));
    let text = format!(
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: {}\n  uid: {}\n  annotations:\n{}",
        manifest.name,
        manifest.uid,
        lines.collect::<String>()
    );
    let path = bed.directory().record_path(&manifest.name);
    bed.directory().replace(&path, &text)
}
