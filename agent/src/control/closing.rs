//! Which changes only ever close: these may go before anything is known of the mesh, and while a
//! guard cannot be had.

use ipnet::IpNet;
use podwire_core::kernel::{Change, Kernel, RouteAction};

use crate::netlink;

/// Whether a change adds a guard.
pub(super) const fn is_guard(change: &Change) -> bool {
    matches!(
        change,
        Change::InstallGuard(_)
            | Change::SetRoute(_, RouteAction::Unreachable)
            | Change::AddRule(_)
    )
}

/// Whether a change closes also while the table that should be there is not: a route that carries
/// traffic may go where a cover takes its packets, or where they were in plaintext anyway.
pub(super) fn closes_without_a_table(change: &Change, kernel: &Kernel) -> bool {
    let is_covered = |destination: &IpNet| {
        kernel.routes.iter().any(|(key, action)| {
            *action == RouteAction::Unreachable && key.destination.contains(destination)
        })
    };
    if let Change::RemoveRoute(key, action) = change {
        return match action {
            RouteAction::Via { .. } => true,
            RouteAction::Device { .. } => is_covered(&key.destination),
            RouteAction::Unreachable => false,
        };
    }
    // The next table may be the one that opens.
    is_guard(change) && !matches!(change, Change::InstallGuard(_))
}

/// Whether a change leads packets into the data plane, or takes its device.
pub(super) const fn needs_data_plane(change: &Change) -> bool {
    !is_guard(change) && !matches!(change, Change::RemoveRoute(..))
}

/// Whether the table is in force, and only what the kernel made of it was not seen.
pub(super) fn is_guard_unread(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref(),
        Some(netlink::Error::GuardUnread { .. })
    )
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use podwire_core::kernel::{GuardTable, RouteKey, Rule, RuleAction, Table};

    use super::*;

    const PEER: &str = "10.244.2.0/24";

    fn net(text: &str) -> IpNet {
        text.parse().expect("cidr")
    }

    fn covered_by(cidrs: &[&str]) -> Kernel {
        let cover = |cidr: &&str| (RouteKey::cover(net(cidr)), RouteAction::Unreachable);
        Kernel {
            routes: cidrs.iter().map(cover).collect(),
            ..Kernel::default()
        }
    }

    fn removal(action: RouteAction) -> Change {
        Change::RemoveRoute(RouteKey::peer(Table::Main, net(PEER)), action)
    }

    fn via() -> RouteAction {
        RouteAction::Via {
            gateway: "192.0.2.12".parse().expect("address"),
            link_index: 2,
        }
    }

    fn device() -> RouteAction {
        RouteAction::Device {
            source: "10.244.1.0".parse().expect("address"),
            mtu: 1440,
        }
    }

    #[test]
    fn a_revoked_route_goes_also_while_the_table_cannot_be_had() {
        for kernel in [covered_by(&[]), covered_by(&[PEER])] {
            assert!(closes_without_a_table(&removal(via()), &kernel));
        }
        for covers in [[PEER], ["10.244.0.0/16"]] {
            let kernel = covered_by(&covers);
            assert!(closes_without_a_table(&removal(device()), &kernel));
        }
        let uncovered = covered_by(&["10.244.3.0/24"]);
        assert!(!closes_without_a_table(&removal(device()), &uncovered));
    }

    #[test]
    fn nothing_opens_while_the_table_cannot_be_had() {
        let kernel = covered_by(&[PEER, "10.244.0.0/16"]);
        let key = RouteKey::peer(Table::Main, net(PEER));
        let rule = |action| Rule {
            action,
            destination: net(PEER),
        };
        let table = GuardTable {
            device: None,
            cluster_cidrs: [].into(),
            own_cidrs: [].into(),
            host_network_cidrs: [net(PEER)].into(),
            underlay_links: [].into(),
        };
        for change in [
            removal(RouteAction::Unreachable),
            Change::SetRoute(key, via()),
            Change::SetRoute(key, device()),
            Change::RemoveRule(rule(RuleAction::Refuse)),
            Change::InstallGuard(table),
            Change::CreateDevice,
        ] {
            assert!(!closes_without_a_table(&change, &kernel), "{change:?}");
        }
        for change in [
            Change::SetRoute(RouteKey::cover(net(PEER)), RouteAction::Unreachable),
            Change::AddRule(rule(RuleAction::Refuse)),
        ] {
            assert!(closes_without_a_table(&change, &kernel), "{change:?}");
        }
    }

    #[test]
    fn a_table_that_cannot_be_read_back_is_told_from_one_that_was_refused() {
        let unread = netlink::Error::GuardUnread {
            source: ErrorKind::WouldBlock.into(),
        };
        assert!(is_guard_unread(&unread.into()));
        let refused = netlink::Error::Guard {
            action: "install",
            has_net_admin: true,
            source: ErrorKind::WouldBlock.into(),
        };
        assert!(!is_guard_unread(&refused.into()));
    }
}
