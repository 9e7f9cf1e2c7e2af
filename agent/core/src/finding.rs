//! What is found at a host that keeps pods from working, or cannot be looked at, and that Podwire
//! never changes: it is an operator's, or another program's. Each is told with its remedy.

use std::fmt;

use crate::needed_traffic::Filtered;
use crate::packet_filter::TooMuch;
use crate::pod_mtu::OtherMtu;
use crate::reverse_path::StrictWay;

/// One such thing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// A CNI configuration of somebody else that the runtime takes instead of ours.
    OtherConfigurationFirst {
        /// The folder of CNI configurations.
        folder: String,
        /// Its name there.
        file: String,
        /// Ours.
        own: &'static str,
    },
    /// Somebody keeps changing our CNI configuration.
    ConfigurationFought {
        /// Path of its link.
        link: String,
    },
    /// CNI plugins that the configuration names are not installed.
    PluginsMissing {
        /// The folder of CNI plugins.
        folder: String,
        /// Their names.
        programs: Vec<&'static str>,
    },
    /// Pods that were made with another MTU.
    PodMtu(OtherMtu),
    /// What bridged pods send each other passes by Services.
    BridgeNetfilterOff {
        /// The settings, as sysctl(8) names them.
        settings: Vec<&'static str>,
    },
    /// A reverse path filter drops what peers send.
    StrictWay(StrictWay),
    /// A packet filter drops what is needed.
    Filtered(Filtered),
    /// Packet filters are not looked at, since there are too many.
    FiltersNotLookedAt(TooMuch),
}

/// The kinds of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// [`Finding::OtherConfigurationFirst`].
    OtherConfigurationFirst,
    /// [`Finding::ConfigurationFought`].
    ConfigurationFought,
    /// [`Finding::PluginsMissing`].
    PluginsMissing,
    /// [`Finding::PodMtu`].
    PodMtu,
    /// [`Finding::BridgeNetfilterOff`].
    BridgeNetfilterOff,
    /// [`Finding::StrictWay`].
    StrictWay,
    /// [`Finding::Filtered`].
    Filtered,
    /// [`Finding::FiltersNotLookedAt`].
    FiltersNotLookedAt,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::OtherConfigurationFirst,
        Self::ConfigurationFought,
        Self::PluginsMissing,
        Self::PodMtu,
        Self::BridgeNetfilterOff,
        Self::StrictWay,
        Self::Filtered,
        Self::FiltersNotLookedAt,
    ];

    /// A word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OtherConfigurationFirst => "cni-configuration",
            Self::ConfigurationFought => "cni-fight",
            Self::PluginsMissing => "cni-plugins",
            Self::PodMtu => "pod-mtu",
            Self::BridgeNetfilterOff => "bridge-netfilter",
            Self::StrictWay => "reverse-path",
            Self::Filtered => "packet-filter",
            Self::FiltersNotLookedAt => "packet-filter-not-looked-at",
        }
    }
}

impl Finding {
    /// Which kind it is of.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::OtherConfigurationFirst { .. } => Kind::OtherConfigurationFirst,
            Self::ConfigurationFought { .. } => Kind::ConfigurationFought,
            Self::PluginsMissing { .. } => Kind::PluginsMissing,
            Self::PodMtu(_) => Kind::PodMtu,
            Self::BridgeNetfilterOff { .. } => Kind::BridgeNetfilterOff,
            Self::StrictWay(_) => Kind::StrictWay,
            Self::Filtered(_) => Kind::Filtered,
            Self::FiltersNotLookedAt(_) => Kind::FiltersNotLookedAt,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherConfigurationFirst { folder, file, own } => write!(
                f,
                "{folder}/{file} sorts before {own}, so that the container runtime takes that one \
                 and new pods are not in the mesh: move it out of the folder"
            ),
            Self::ConfigurationFought { link } => write!(
                f,
                "another program keeps changing {link} or its file, so that it is put back only \
                 once a minute: stop that program (what chains a plugin of its own, such as \
                 istio-cni and linkerd-cni), or write the CNI configuration by yourself and run \
                 the agent with --cni-plugin none"
            ),
            Self::PluginsMissing { folder, programs } => write!(
                f,
                "no {} in {folder}, so that no pod starts: install the reference CNI plugins there",
                programs.join(", ")
            ),
            Self::PodMtu(OtherMtu {
                count,
                first,
                found,
                wanted,
            }) => write!(
                f,
                "pods with another MTU than {wanted}: {count}, of which the one at {first} has \
                 {found}: recreate them (kubectl drain, or kubectl delete pod)"
            ),
            Self::StrictWay(StrictWay { link, back }) => write!(
                f,
                "what peers send to {link} is dropped there, since the way back leaves by {back} \
                 and the reverse path filter is strict: `sysctl -w net.ipv4.conf.{link}.rp_filter=2`"
            ),
            Self::Filtered(filtered) => filtered.fmt(f),
            Self::FiltersNotLookedAt(too_much) => write!(
                f,
                "the packet filters are not looked at, since they have {too_much}: where pods do \
                 not reach each other, see by yourself what drops their packets (nft list ruleset)"
            ),
            Self::BridgeNetfilterOff { settings } => {
                let settings: Vec<String> = settings.iter().map(|it| format!("{it}=1")).collect();
                write!(
                    f,
                    "the bridge lets packets pass by the packet filter, so that a pod does not \
                     reach a Service whose pod is on the same node: `modprobe br_netfilter` and \
                     `sysctl -w {}`, or --cni-plugin ptp",
                    settings.join(" ")
                )
            }
        }
    }
}
