//! A node that starts no handshake.

use anyhow::{Context as _, Result};

use super::Node;

impl Node {
    /// From now on no handshake initiation leaves the node, so that its peers get no help from it:
    /// type 1 is the first byte behind the UDP header.
    ///
    /// # Errors
    /// nft's.
    pub fn mute_initiations(&self) -> Result<()> {
        let table = "table inet mute {\n  chain output {\n    type filter hook output priority 0;\n    \
                     udp sport 51880-51887 @th,64,8 1 drop\n  }\n}\n";
        self.namespace()
            .nft(table)
            .with_context(|| format!("muting {}", self.name()))
    }

    /// Handshake initiations leave the node again.
    ///
    /// # Errors
    /// nft's, when it is not muted.
    pub fn unmute_initiations(&self) -> Result<()> {
        self.namespace().nft("delete table inet mute\n")
    }
}
