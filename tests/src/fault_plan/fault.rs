//! The kinds of faults.

use std::fmt;

/// What happens to a node, or to all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// SIGKILL, and a start later.
    Killed,
    /// SIGTERM, and a start later.
    Terminated,
    /// SIGSTOP, and SIGCONT later.
    Stopped,
    /// SIGKILL to every agent, and a start of all later.
    AllKilled,
    /// SIGKILL and an empty state folder: the node starts with another key.
    StateLost,
    /// SIGKILL and no key file: the next start refuses, until the file is back.
    KeysLost,
    /// The device is deleted.
    DeviceDeleted,
    /// The device is set down.
    DeviceDown,
    /// All routes of protocol 119 are flushed in all tables, `unreachable` ones among them.
    RoutesFlushed,
    /// All addresses of the device are flushed.
    AddressesFlushed,
    /// `nft flush ruleset`.
    TableFlushed,
    /// One rule of the table is deleted.
    RuleDeleted,
    /// MTU, queue length, reverse path filter or forwarding of the device is changed.
    SettingsChanged,
    /// A foreign route to a peer's pods with a better metric.
    BetterRoute,
    /// Foreign routes to the halves of a peer's pod CIDRs.
    LongerRoute,
    /// The record is deleted; the old one is put back later.
    RecordDeleted,
    /// The record is no YAML; the old one is put back later.
    RecordGarbled,
    /// The record is empty; the old one is put back later.
    RecordZeroed,
    /// The Node is deleted, and created with another uid later.
    NodeCreatedAgain,
    /// The node moves to another address, and back later.
    AddressChanged,
    /// The node moves to other pod CIDRs, and back later.
    PodCidrChanged,
    /// Nothing that the node sends arrives.
    Mute,
    /// Nothing that is sent to the node arrives.
    Deaf,
    /// Both.
    Blackholed,
    /// A fifth of what the node sends is lost.
    Lossy,
    /// Nothing passes to the port of one lane of the node.
    LaneBlocked,
    /// The node's link has a smaller MTU.
    MtuChanged,
    /// The registry's folder is renamed, and back later.
    RegistryAway,
    /// All policy rules of protocol 119 are flushed.
    RulesFlushed,
    /// The wall clock is set an hour back or a year ahead, and right again later.
    ClockSet,
}

/// What can be taken from a node only once at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// The agent's process.
    Process,
    /// A route that is not ours.
    ForeignRoute,
    /// What the registry says of the node.
    Registry,
    /// The MTU of its link.
    LinkMtu,
    /// Its wall clock.
    Clock,
}

impl Fault {
    /// All kinds, each as likely as any other. What is appended changes every plan: then the fixed
    /// seeds of `make test` are other plans too.
    pub const ALL: [Self; 30] = [
        Self::Killed,
        Self::Terminated,
        Self::Stopped,
        Self::AllKilled,
        Self::StateLost,
        Self::KeysLost,
        Self::DeviceDeleted,
        Self::DeviceDown,
        Self::RoutesFlushed,
        Self::AddressesFlushed,
        Self::TableFlushed,
        Self::RuleDeleted,
        Self::SettingsChanged,
        Self::BetterRoute,
        Self::LongerRoute,
        Self::RecordDeleted,
        Self::RecordGarbled,
        Self::RecordZeroed,
        Self::NodeCreatedAgain,
        Self::AddressChanged,
        Self::PodCidrChanged,
        Self::Mute,
        Self::Deaf,
        Self::Blackholed,
        Self::Lossy,
        Self::LaneBlocked,
        Self::MtuChanged,
        Self::RegistryAway,
        Self::RulesFlushed,
        Self::ClockSet,
    ];

    /// Whether it hits all nodes at once.
    #[must_use]
    pub fn is_of_all(self) -> bool {
        matches!(self, Self::AllKilled | Self::RegistryAway)
    }

    /// Whether it has to do with a second node.
    #[must_use]
    pub fn names_peer(self) -> bool {
        matches!(self, Self::BetterRoute | Self::LongerRoute)
    }

    /// Whether it goes on until it is undone; any other one the agent undoes by itself.
    #[must_use]
    pub fn lasts(self) -> bool {
        !matches!(
            self,
            Self::DeviceDeleted
                | Self::DeviceDown
                | Self::RoutesFlushed
                | Self::AddressesFlushed
                | Self::TableFlushed
                | Self::RuleDeleted
                | Self::SettingsChanged
                | Self::RulesFlushed
        )
    }

    /// What it takes; `None` for what may happen at any time beside anything.
    #[must_use]
    pub fn subject(self) -> Option<Subject> {
        match self {
            Self::Killed
            | Self::Terminated
            | Self::Stopped
            | Self::AllKilled
            | Self::StateLost
            | Self::KeysLost => Some(Subject::Process),
            Self::BetterRoute | Self::LongerRoute => Some(Subject::ForeignRoute),
            Self::RecordDeleted
            | Self::RecordGarbled
            | Self::RecordZeroed
            | Self::NodeCreatedAgain
            | Self::AddressChanged
            | Self::PodCidrChanged
            | Self::RegistryAway => Some(Subject::Registry),
            Self::MtuChanged => Some(Subject::LinkMtu),
            Self::ClockSet => Some(Subject::Clock),
            Self::DeviceDeleted
            | Self::DeviceDown
            | Self::RoutesFlushed
            | Self::AddressesFlushed
            | Self::TableFlushed
            | Self::RuleDeleted
            | Self::SettingsChanged
            | Self::RulesFlushed
            | Self::Mute
            | Self::Deaf
            | Self::Blackholed
            | Self::Lossy
            | Self::LaneBlocked => None,
        }
    }
}

impl Fault {
    /// Whether the two together may leave a node without a guard, for as long as its agent is dead:
    /// however long one is after the other.
    pub(super) fn leaves_no_guard_with(self, other: Self) -> bool {
        let is_of_table = |fault| matches!(fault, Self::TableFlushed | Self::RuleDeleted);
        self == Self::RulesFlushed && is_of_table(other)
            || other == Self::RulesFlushed && is_of_table(self)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Killed => "agent killed",
            Self::Terminated => "agent terminated",
            Self::Stopped => "agent stopped",
            Self::AllKilled => "agents killed",
            Self::StateLost => "state folder lost",
            Self::KeysLost => "key file lost",
            Self::DeviceDeleted => "device deleted",
            Self::DeviceDown => "device down",
            Self::RoutesFlushed => "routes flushed",
            Self::AddressesFlushed => "addresses flushed",
            Self::TableFlushed => "table flushed",
            Self::RuleDeleted => "rule deleted",
            Self::SettingsChanged => "device settings changed",
            Self::BetterRoute => "better foreign route to",
            Self::LongerRoute => "longer foreign route to",
            Self::RecordDeleted => "record deleted",
            Self::RecordGarbled => "record garbled",
            Self::RecordZeroed => "record zeroed",
            Self::NodeCreatedAgain => "Node created again",
            Self::AddressChanged => "address changed",
            Self::PodCidrChanged => "pod CIDRs changed",
            Self::Mute => "mute",
            Self::Deaf => "deaf",
            Self::Blackholed => "blackholed",
            Self::Lossy => "20 % loss",
            Self::LaneBlocked => "port of a lane blocked",
            Self::MtuChanged => "MTU changed",
            Self::RegistryAway => "registry away",
            Self::RulesFlushed => "policy rules flushed",
            Self::ClockSet => "clock set",
        })
    }
}
