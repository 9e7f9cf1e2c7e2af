//! All peers: an immutable snapshot behind one pointer.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use podwire_core::allowed_ips::AllowedIps;
use podwire_core::key::PublicKey;
use podwire_core::node::NodeName;

use crate::endpoint::of_lane;
use crate::own_keys::KeyRing;
use crate::peer::{Peer, PeerConfig, PeerState};
use crate::status::PeerChanges;

/// The peers by everything that a packet names them by.
pub(crate) struct PeerTable {
    by_name: BTreeMap<NodeName, Arc<Peer>>,
    by_ordinal: Vec<Option<Arc<Peer>>>,
    /// Ordinal and lane of each key.
    by_key: HashMap<PublicKey, (u32, usize)>,
    allowed_ips: AllowedIps<u32>,
    /// The endpoints of all lanes.
    named: HashSet<SocketAddr>,
    /// The own keys: of the table, so that a peer and the keys by which it is met are of one time.
    own: Arc<KeyRing>,
    version: u64,
}

/// What became of each peer that the new table does not have as it was.
#[derive(Debug, Default)]
pub(crate) struct Replaced {
    pub(crate) changes: PeerChanges,
    /// Peers that are new.
    pub(crate) added: Vec<NodeName>,
    /// Peers with another configuration: before and after.
    pub(crate) changed: Vec<(Arc<Peer>, Arc<Peer>)>,
    /// Peers that are gone.
    pub(crate) removed: Vec<Arc<Peer>>,
}

impl PeerTable {
    /// A table without peers.
    pub(crate) fn new(own: Arc<KeyRing>) -> Self {
        Self {
            by_name: BTreeMap::new(),
            by_ordinal: Vec::new(),
            by_key: HashMap::new(),
            allowed_ips: AllowedIps::default(),
            named: HashSet::new(),
            own,
            version: 0,
        }
    }

    /// A table of the next version, with as many places and no peer yet.
    fn empty(&self, own: Arc<KeyRing>) -> Self {
        Self {
            by_ordinal: vec![None; self.by_ordinal.len()],
            version: self.version + 1,
            ..Self::new(own)
        }
    }

    /// The same peers under other own keys.
    pub(crate) fn with_own_keys(&self, own: KeyRing) -> Self {
        let own = Arc::new(own);
        let mut table = self.empty(Arc::clone(&own));
        for peer in self.peers() {
            table.insert(Arc::new(peer.with_own_keys(&own, table.version)));
        }
        table
    }

    /// The table for `configs`. Peers whose configuration is the same are the same; one with
    /// another uid is gone, and another of its name is new.
    pub(crate) fn next(
        &self,
        configs: &BTreeMap<NodeName, PeerConfig>,
        own_lanes: usize,
    ) -> (Self, Replaced) {
        let mut table = self.empty(Arc::clone(&self.own));
        let mut replaced = Replaced::default();
        let make = |name: &NodeName, config: &PeerConfig, state| {
            let own = Arc::clone(&self.own);
            Arc::new(Peer::new(
                name.clone(),
                config.clone(),
                self.version + 1,
                own,
                state,
            ))
        };
        let mut added = Vec::new();
        for (name, config) in configs {
            match self.by_name.get(name) {
                Some(peer) if peer.config == *config => table.insert(Arc::clone(peer)),
                Some(before) if before.config.uid == config.uid => {
                    let state = Arc::clone(&before.state);
                    let after = make(name, config, state);
                    after.keep_path_mtu(before);
                    table.insert(Arc::clone(&after));
                    replaced.changed.push((Arc::clone(before), after));
                }
                Some(_) | None => added.push((name, config)),
            }
        }
        let gone = self.by_name.iter().filter(|(name, peer)| {
            let config = configs.get(*name);
            config.is_none_or(|config| config.uid != peer.config.uid)
        });
        replaced
            .removed
            .extend(gone.map(|(_, peer)| Arc::clone(peer)));
        replaced.changes = PeerChanges {
            added: added.len(),
            changed: replaced.changed.len(),
            removed: replaced.removed.len(),
        };
        for (name, config) in added {
            replaced.added.push(name.clone());
            let state = Arc::new(PeerState::new(table.free_ordinal(), own_lanes));
            table.insert(make(name, config, state));
        }
        (table, replaced)
    }

    fn free_ordinal(&mut self) -> u32 {
        let free = self.by_ordinal.iter().position(Option::is_none);
        let ordinal = free.unwrap_or_else(|| {
            self.by_ordinal.push(None);
            self.by_ordinal.len() - 1
        });
        u32::try_from(ordinal).expect("a mesh has fewer than 2^32 nodes")
    }

    fn insert(&mut self, peer: Arc<Peer>) {
        let ordinal = peer.state.ordinal;
        let pair = &peer.config.pair;
        // One that a lane keeps over generations comes more than once.
        for keys in [&pair.lanes, &pair.next, &pair.previous] {
            for (lane, key) in keys.iter().map(|lane| lane.key).enumerate() {
                self.by_key.entry(key).or_insert((ordinal, lane));
            }
        }
        for prefix in &peer.config.allowed_ips {
            self.allowed_ips.insert(*prefix, ordinal);
        }
        let pair = &peer.config.pair;
        let numbers = 0..pair.endpoints.len();
        let endpoints = numbers
            .flat_map(|number| (0..peer.lanes).filter_map(move |lane| of_lane(pair, number, lane)));
        self.named.extend(endpoints);
        self.by_name.insert(peer.name.clone(), Arc::clone(&peer));
        self.by_ordinal[ordinal as usize] = Some(peer);
    }

    /// The own keys.
    pub(crate) fn own(&self) -> &Arc<KeyRing> {
        &self.own
    }

    /// Every peer, by name.
    pub(crate) fn peers(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.by_name.values()
    }

    pub(crate) fn by_name(&self, name: &NodeName) -> Option<&Arc<Peer>> {
        self.by_name.get(name)
    }

    pub(crate) fn by_ordinal(&self, ordinal: u32) -> Option<&Arc<Peer>> {
        self.by_ordinal.get(ordinal as usize)?.as_ref()
    }

    /// The peer that this state belongs to, if it is still there.
    pub(crate) fn by_state(&self, state: &Arc<PeerState>) -> Option<&Arc<Peer>> {
        self.by_ordinal(state.ordinal)
            .filter(|peer| Arc::ptr_eq(&peer.state, state))
    }

    /// The peer that has this key on its lane `lane`, if both nodes have that lane.
    pub(crate) fn by_key(&self, key: &PublicKey, lane: usize) -> Option<&Arc<Peer>> {
        let (ordinal, of_lane) = *self.by_key.get(key)?;
        self.by_ordinal(ordinal)
            .filter(|peer| of_lane == lane && lane < peer.lanes)
    }

    /// The peer that owns an inner address (cryptokey routing).
    pub(crate) fn owner(&self, address: IpAddr) -> Option<u32> {
        self.allowed_ips.longest_match(address).copied()
    }

    /// Whether this is an endpoint of a lane of some peer.
    pub(crate) fn names(&self, endpoint: SocketAddr) -> bool {
        self.named.contains(&endpoint)
    }

    /// The peers whose record names this address for an endpoint.
    pub(crate) fn by_endpoint(&self, endpoint: SocketAddr) -> impl Iterator<Item = &Arc<Peer>> {
        let is_named = move |peer: &&Arc<Peer>| {
            peer.config
                .pair
                .endpoints
                .iter()
                .any(|named| named.ip() == endpoint.ip())
        };
        self.peers().filter(is_named)
    }
}
