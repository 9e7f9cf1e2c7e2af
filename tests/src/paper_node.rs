//! Nodes that exist in the registry only: as many as a test wants.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use anyhow::Result;

use crate::registry::{Directory, Manifest};

/// One node that exists in the registry only. Its address is of the range for benchmarks
/// (RFC 2544): the documentation ranges have too few.
#[derive(Debug, Clone)]
pub struct PaperNode {
    number: u32,
    key_generation: u32,
}

impl PaperNode {
    /// Where their pods are: a /24 of it each.
    pub const CLUSTER_CIDR: &str = "10.128.0.0/10";

    /// The node of this number, from 0 to 16,383.
    #[must_use]
    pub fn new(number: u32) -> Self {
        Self {
            number,
            key_generation: 1,
        }
    }

    /// Writes its manifest and its record.
    ///
    /// # Errors
    /// The file system's.
    pub fn join(&self, directory: &Directory) -> Result<()> {
        directory.apply(&self.manifest()?)?;
        self.publish(directory)
    }

    /// Publishes another key.
    ///
    /// # Errors
    /// The file system's.
    pub fn rotate(&mut self, directory: &Directory) -> Result<()> {
        self.key_generation += 1;
        self.publish(directory)
    }

    /// Its name in the registry.
    #[must_use]
    pub fn name(&self) -> String {
        format!("record-{}", self.number)
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 0).to_bits() + 1 + self.number)
    }

    /// Where its pods are.
    #[must_use]
    pub fn pod_cidr(&self) -> String {
        let base = Ipv4Addr::new(10, 128, 0, 0).to_bits();
        format!("{}/24", Ipv4Addr::from_bits(base + (self.number << 8)))
    }

    fn uid(&self) -> String {
        format!("00000000-0000-4000-9000-{:012}", self.number)
    }

    /// Its key: 32 bytes that differ in each record and generation. Any of them is an X25519 public
    /// key as long as the high bit is not set, as in all that `wg pubkey` prints.
    #[must_use]
    pub fn public_key(&self) -> String {
        let mut state = (u64::from(self.number) << 32) + u64::from(self.key_generation);
        let mut bytes = Vec::new();
        for _ in 0..4 {
            // splitmix64
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            bytes.extend((word ^ (word >> 31)).to_le_bytes());
        }
        if let Some(last) = bytes.last_mut() {
            *last &= 0x7f;
        }
        base64(&bytes)
    }

    fn manifest(&self) -> Result<Manifest> {
        Ok(Manifest {
            name: self.name(),
            uid: self.uid(),
            created: "2026-01-01T00:00:00Z".to_owned(),
            annotations: [].into(),
            pod_cidrs: vec![self.pod_cidr().parse()?],
            addresses: vec![self.address().into()],
        })
    }

    /// The annotations of its record.
    #[must_use]
    pub fn record(&self) -> BTreeMap<String, String> {
        let record = [
            ("mode", "encrypted".to_owned()),
            ("public-key", self.public_key()),
            ("pod-cidrs", self.pod_cidr()),
            ("endpoints", format!("{}:51880", self.address())),
            ("key-generation", self.key_generation.to_string()),
        ];
        record
            .into_iter()
            .map(|(key, value)| (format!("podwire.dev/{key}"), value))
            .collect()
    }

    fn publish(&self, directory: &Directory) -> Result<()> {
        let mut yaml = format!(
            "apiVersion: v1\nkind: Node\nmetadata:\n  name: {}\n  uid: {}\n  annotations:\n",
            self.name(),
            self.uid(),
        );
        for (key, value) in self.record() {
            let _ = writeln!(yaml, "    {key}: \"{value}\"");
        }
        directory.replace(&directory.record_path(&self.name()), &yaml)
    }
}

/// RFC 4648 §4, with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut group = [0; 4];
        group[1..=chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes(group);
        for place in 0..4 {
            let sextet = (bits >> (18 - 6 * place)) & 63;
            let letter = if place <= chunk.len() {
                ALPHABET[sextet as usize]
            } else {
                b'='
            };
            text.push(char::from(letter));
        }
    }
    text
}
