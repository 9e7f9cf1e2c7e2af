//! Keys as reports show them.

use podwire_core::record::{Lane, LaneKeys};
use serde::Serialize;

/// How much of a key tells it from others, in characters.
const SHORT_LENGTH: usize = 8;

/// The keys of one generation. Never without a lane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct KeysView {
    /// Lane 0's key, which `wg` would show.
    public_key: String,
    /// All lanes, lane 0 first.
    lanes: Vec<LaneView>,
}

/// One lane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct LaneView {
    /// Where it receives; `null` for lane 0 of a node that names no endpoint.
    port: Option<u16>,
    public_key: String,
}

impl KeysView {
    /// `port` is that of lane 0, or 0.
    pub(crate) fn new(keys: &LaneKeys, port: u16) -> Self {
        Self {
            public_key: keys.public_key.to_string(),
            lanes: keys.all_lanes(port).iter().map(LaneView::new).collect(),
        }
    }

    /// Lane 0's key.
    pub(crate) fn public_key(&self) -> &str {
        &self.public_key
    }

    /// How many lanes there are.
    pub(crate) fn lanes(&self) -> usize {
        self.lanes.len()
    }
}

impl LaneView {
    fn new(lane: &Lane) -> Self {
        Self {
            port: Some(lane.port).filter(|port| *port != 0),
            public_key: lane.key.to_string(),
        }
    }
}

/// Enough of a key to tell it from others.
pub(crate) fn short(key: &str) -> String {
    key.chars().take(SHORT_LENGTH).collect()
}
