//! How this node takes part (DESIGN.md section 7): a failure never downgrades a node that was
//! encrypted.

use podwire_core::record::Mode;

use crate::args::ModeArg;

/// What is known when the mode is decided.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ModeInputs {
    /// `--mode`.
    pub(crate) asked: ModeArg,
    /// Whether a TUN device can be used here.
    pub(crate) tun_usable: bool,
    /// Whether this process has the capability NET_ADMIN: without it there are no plain routes
    /// either.
    pub(crate) has_net_admin: bool,
    /// Whether the disk says that this node ever was encrypted.
    pub(crate) was_encrypted_by_disk: bool,
    /// Whether the own published record says so; `None` while the registry has not answered.
    pub(crate) was_encrypted_by_record: Option<bool>,
}

/// The decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ModeDecision {
    /// Take part in this mode.
    Declared(Mode),
    /// Encrypted, but without a usable device: nothing passes until it can be had.
    Closed,
    /// No decision from the absence of data: the registry has to tell the own record first.
    Undecided,
    /// `--mode encrypted` without a usable device.
    Refused,
}

impl ModeDecision {
    /// The mode that pairs of this node are derived under, given what its record says. Plaintext
    /// waits for the record: until peers have read there that it is declared, they take none, and
    /// what is sent so is told to the underlay alone. Whatever is not declared is closed: an
    /// encrypted node without a device.
    pub(crate) fn in_force(self, published: Option<Mode>) -> Mode {
        match self {
            Self::Declared(Mode::HostNetwork) if published == Some(Mode::HostNetwork) => {
                Mode::HostNetwork
            }
            Self::Declared(_) | Self::Closed | Self::Undecided | Self::Refused => Mode::Encrypted,
        }
    }

    /// The word for status.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Declared(Mode::Encrypted) => "encrypted",
            Self::Declared(Mode::HostNetwork) => "host-network",
            Self::Closed => "closed",
            Self::Undecided | Self::Refused => "undecided",
        }
    }
}

/// Decides the mode of this node.
pub(crate) fn decide(inputs: ModeInputs) -> ModeDecision {
    match inputs.asked {
        ModeArg::HostNetwork => ModeDecision::Declared(Mode::HostNetwork),
        ModeArg::Encrypted | ModeArg::Auto if inputs.tun_usable => {
            ModeDecision::Declared(Mode::Encrypted)
        }
        ModeArg::Encrypted => ModeDecision::Refused,
        ModeArg::Auto if inputs.was_encrypted_by_disk || !inputs.has_net_admin => {
            ModeDecision::Closed
        }
        ModeArg::Auto => match inputs.was_encrypted_by_record {
            None => ModeDecision::Undecided,
            Some(true) => ModeDecision::Closed,
            Some(false) => ModeDecision::Declared(Mode::HostNetwork),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INPUTS: ModeInputs = ModeInputs {
        asked: ModeArg::Auto,
        tun_usable: false,
        has_net_admin: true,
        was_encrypted_by_disk: false,
        was_encrypted_by_record: Some(false),
    };

    #[test]
    fn auto_is_encrypted_where_the_device_is_usable() {
        let inputs = ModeInputs {
            tun_usable: true,
            was_encrypted_by_record: None,
            ..INPUTS
        };
        assert_eq!(decide(inputs), ModeDecision::Declared(Mode::Encrypted));
    }

    #[test]
    fn auto_without_a_device_is_host_network_only_once_the_own_record_is_known() {
        assert_eq!(decide(INPUTS), ModeDecision::Declared(Mode::HostNetwork));
        let unknown = ModeInputs {
            was_encrypted_by_record: None,
            ..INPUTS
        };
        assert_eq!(decide(unknown), ModeDecision::Undecided);
    }

    #[test]
    fn a_node_that_ever_was_encrypted_stays_closed_when_its_device_fails() {
        let disk = ModeInputs {
            was_encrypted_by_disk: true,
            ..INPUTS
        };
        assert_eq!(decide(disk), ModeDecision::Closed);
        let record = ModeInputs {
            was_encrypted_by_record: Some(true),
            ..INPUTS
        };
        assert_eq!(decide(record), ModeDecision::Closed);
    }

    #[test]
    fn a_node_that_may_change_nothing_in_the_kernel_declares_nothing() {
        let inputs = ModeInputs {
            has_net_admin: false,
            ..INPUTS
        };
        assert_eq!(decide(inputs), ModeDecision::Closed);
    }

    #[test]
    fn an_operator_may_ask_a_node_that_was_encrypted_for_host_network_mode() {
        let inputs = ModeInputs {
            asked: ModeArg::HostNetwork,
            tun_usable: true,
            has_net_admin: true,
            was_encrypted_by_disk: true,
            was_encrypted_by_record: Some(true),
        };
        assert_eq!(decide(inputs), ModeDecision::Declared(Mode::HostNetwork));
    }

    #[test]
    fn plaintext_waits_for_the_record_that_declares_it() {
        let decided = ModeDecision::Declared(Mode::HostNetwork);
        assert_eq!(decided.in_force(None), Mode::Encrypted);
        assert_eq!(decided.in_force(Some(Mode::Encrypted)), Mode::Encrypted);
        let published = Some(Mode::HostNetwork);
        assert_eq!(decided.in_force(published), Mode::HostNetwork);
        // A record says what was, or what somebody else wrote: the decision counts.
        for decision in [
            ModeDecision::Declared(Mode::Encrypted),
            ModeDecision::Closed,
            ModeDecision::Undecided,
        ] {
            assert_eq!(decision.in_force(published), Mode::Encrypted);
        }
    }

    #[test]
    fn encrypted_without_a_device_refuses() {
        assert_eq!(
            decide(ModeInputs {
                asked: ModeArg::Encrypted,
                ..INPUTS
            }),
            ModeDecision::Refused
        );
    }
}
