//! The programs that are compared, at pinned versions, built once into a cache.
//!
//! All of it happens before the sandbox: a build needs the host's network.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use podwire_testbed::foreign_wireguard::{
    self, BORINGTUN_CLI, ForeignWireguard, GOTATUN, WIREGUARD_GO,
};

use crate::implementation::Implementation;
use crate::null_cipher;

/// The peers.
const PEERS: [(Implementation, ForeignWireguard); 3] = [
    (Implementation::WireguardGo, WIREGUARD_GO),
    (Implementation::BoringtunCli, BORINGTUN_CLI),
    (Implementation::Gotatun, GOTATUN),
];

/// Where each program is, and why others are not.
#[derive(Debug, Default)]
pub(crate) struct Programs {
    found: BTreeMap<Implementation, PathBuf>,
    pub(crate) missing: BTreeMap<Implementation, String>,
    /// What was compared, as results tell it.
    pub(crate) versions: BTreeMap<String, String>,
}

impl Programs {
    /// Builds what these implementations need and the cache does not have. What cannot be had is
    /// [`Self::missing`].
    ///
    /// # Errors
    /// When Podwire itself cannot be built.
    pub(crate) fn prepare(wanted: &[Implementation], tell: impl Fn(&str)) -> Result<Self> {
        let mut programs = Self::default();
        if wanted
            .iter()
            .any(|one| one.is_podwire() && *one != Implementation::NullCipher)
        {
            tell("building podwire-agent");
            let agent = podwire_testbed::binaries::agent()?;
            let agent = std::path::absolute(agent)?;
            let shipped =
                |one: &&Implementation| one.is_podwire() && **one != Implementation::NullCipher;
            for implementation in wanted.iter().filter(shipped) {
                programs.found.insert(*implementation, agent.clone());
            }
        }
        if wanted.contains(&Implementation::NullCipher) {
            tell("building podwire-agent with a cipher that does nothing");
            programs.put(
                Implementation::NullCipher,
                null_cipher::build(&foreign_wireguard::cache()?),
            );
        }
        for (implementation, peer) in PEERS {
            if !wanted.contains(&implementation) {
                continue;
            }
            let built = peer.program(|| tell(&format!("building {}", peer.version())));
            if built.is_ok() {
                let key = implementation.to_string();
                programs.versions.insert(key, peer.version());
            }
            programs.put(implementation, built);
        }
        Ok(programs)
    }

    /// The program of an implementation.
    ///
    /// # Errors
    /// When it could not be had.
    pub(crate) fn of(&self, implementation: Implementation) -> Result<&Path> {
        self.found
            .get(&implementation)
            .map(PathBuf::as_path)
            .ok_or_else(|| {
                let reason = self.missing.get(&implementation);
                anyhow!("{}", reason.map_or("it was not prepared", String::as_str))
            })
    }

    fn put(&mut self, implementation: Implementation, built: Result<PathBuf>) {
        match built {
            Ok(path) => drop(self.found.insert(implementation, path)),
            Err(error) => drop(self.missing.insert(implementation, format!("{error:#}"))),
        }
    }
}
