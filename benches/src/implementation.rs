//! What is compared with what.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// One way for a pod's packet to another node.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Implementation {
    /// Host routes that somebody made by hand: the most that this machine can do.
    Plain,
    /// The kernel's vxlan device: what an overlay without encryption costs.
    Vxlan,
    /// The kernel's WireGuard.
    KernelWireguard,
    /// Podwire, every node in host-network mode.
    PodwireHostNetwork,
    /// Podwire, encrypted, one lane.
    #[value(name = "podwire-1-lane")]
    #[serde(rename = "podwire-1-lane")]
    PodwireOneLane,
    /// Podwire, encrypted, as many lanes as it takes by itself.
    Podwire,
    /// Podwire with a cipher that does nothing: all but the cipher. No shipped build has it.
    NullCipher,
    /// The WireGuard project's program for user space.
    WireguardGo,
    /// Cloudflare's, the library that Podwire is built on.
    BoringtunCli,
    /// Mullvad's fork of it.
    Gotatun,
}

impl Implementation {
    /// Whether its packets travel inside WireGuard's, where the capture finds no pod's.
    pub(crate) fn is_wireguard(self) -> bool {
        self == Self::KernelWireguard || self.has_process() && self != Self::PodwireHostNetwork
    }

    /// Whether a process of it runs on each node, which can be started.
    pub(crate) fn has_process(self) -> bool {
        !matches!(self, Self::Plain | Self::Vxlan | Self::KernelWireguard)
    }

    /// Whether it is Podwire otherwise than by default, to be compared with itself.
    pub(crate) fn is_variant_of_podwire(self) -> bool {
        self.is_podwire() && self != Self::Podwire
    }

    /// Whether Podwire's agent carries it or sets it up.
    pub(crate) fn is_podwire(self) -> bool {
        matches!(
            self,
            Self::PodwireHostNetwork | Self::PodwireOneLane | Self::Podwire | Self::NullCipher
        )
    }
}

impl fmt::Display for Implementation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Plain => "plain routes",
            Self::Vxlan => "kernel vxlan",
            Self::KernelWireguard => "kernel WireGuard",
            Self::PodwireHostNetwork => "Podwire, host-network",
            Self::PodwireOneLane => "Podwire, 1 lane",
            Self::Podwire => "Podwire",
            Self::NullCipher => "Podwire, null cipher",
            Self::WireguardGo => "wireguard-go",
            Self::BoringtunCli => "boringtun-cli",
            Self::Gotatun => "gotatun",
        })
    }
}
