//! What a node holds to while guards may not be derived anew: its own addresses seem to lie among
//! the cluster's pods, and guards for them would cut it off.

use crate::kernel::{Guard, Kernel, RouteAction};

/// Table, rules and covers as they were in `last`. What carries traffic is there only if both want
/// it: a peer that is gone, or no longer plaintext, does not stay; none comes that is not covered.
#[must_use]
pub fn held(last: &Kernel, now: Kernel) -> Kernel {
    let mut guard = last.guard.clone();
    if let (Guard::Installed(table), Guard::Installed(wanted)) = (&mut guard, &now.guard) {
        let plaintext = &mut table.host_network_cidrs;
        plaintext.retain(|cidr| wanted.host_network_cidrs.contains(cidr));
    }
    let is_admitted = |action: &RouteAction, destination| match (&guard, action) {
        (Guard::Installed(table), RouteAction::Via { .. }) => {
            table.host_network_cidrs.contains(destination)
        }
        (_, RouteAction::Via { .. }) => false,
        (_, RouteAction::Device { .. } | RouteAction::Unreachable) => true,
    };
    let routes = last.routes.iter().filter_map(|(key, before)| {
        if *before == RouteAction::Unreachable {
            return Some((*key, before.clone()));
        }
        let wanted = now.routes.get(key)?;
        is_admitted(wanted, &key.destination).then(|| (*key, wanted.clone()))
    });
    Kernel {
        routes: routes.collect(),
        rules: last.rules.clone(),
        guard,
        device: now.device,
        addresses: now.addresses,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ipnet::IpNet;

    use super::*;
    use crate::kernel::{GuardTable, RouteKey, Rule, RuleAction, Table};

    fn net(text: &str) -> IpNet {
        text.parse().expect("cidr")
    }

    fn device() -> RouteAction {
        RouteAction::Device {
            source: "10.244.1.0".parse().expect("address"),
            mtu: 1440,
        }
    }

    fn via() -> RouteAction {
        RouteAction::Via {
            gateway: "192.0.2.12".parse().expect("address"),
            link_index: 2,
        }
    }

    fn kernel(own: &str, plaintext: &[&str], routes: &[(&str, RouteAction)]) -> Kernel {
        let covers = routes
            .iter()
            .map(|(cidr, _)| (RouteKey::cover(net(cidr)), RouteAction::Unreachable));
        let traffic = routes
            .iter()
            .map(|(cidr, action)| (RouteKey::peer(Table::Peers, net(cidr)), action.clone()));
        Kernel {
            routes: covers.chain(traffic).collect(),
            rules: BTreeSet::from([Rule {
                action: RuleAction::LookupMain,
                destination: net(own),
            }]),
            guard: Guard::Installed(GuardTable {
                device: Some("podwire0".to_owned()),
                cluster_cidrs: [net("10.244.0.0/16")].into(),
                own_cidrs: [net(own)].into(),
                host_network_cidrs: plaintext.iter().map(|cidr| net(cidr)).collect(),
                underlay_links: BTreeSet::new(),
            }),
            ..Kernel::default()
        }
    }

    #[test]
    fn held_guards_stay_and_what_is_revoked_goes() {
        let (left, gone) = ("10.244.2.0/24", "10.244.3.0/24");
        let (closed, new) = ("10.244.4.0/24", "10.244.5.0/24");
        let last = kernel(
            "10.244.1.0/24",
            &[left, gone],
            &[(left, via()), (gone, via()), (closed, device())],
        );
        let now = kernel(
            "10.244.9.0/24",
            &[left, new],
            &[(left, via()), (new, via())],
        );
        let held = held(&last, now);
        assert_eq!(held.rules, last.rules);
        let Guard::Installed(table) = &held.guard else {
            panic!("no table");
        };
        assert_eq!(table.own_cidrs, [net("10.244.1.0/24")].into());
        assert_eq!(table.host_network_cidrs, [net(left)].into());
        let traffic = held
            .routes
            .iter()
            .filter(|(key, _)| key.table == Table::Peers);
        let traffic: Vec<_> = traffic
            .map(|(key, action)| (key.destination, action))
            .collect();
        assert_eq!(traffic, [(net(left), &via())]);
        for cidr in [left, gone, closed] {
            assert!(
                held.routes.contains_key(&RouteKey::cover(net(cidr))),
                "{cidr}"
            );
        }
    }

    #[test]
    fn what_was_encrypted_does_not_become_plaintext() {
        let cidr = "10.244.2.0/24";
        let last = kernel("10.244.1.0/24", &[], &[(cidr, device())]);
        let now = kernel("10.244.1.0/24", &[cidr], &[(cidr, via())]);
        let held = held(&last, now);
        assert!(
            !held
                .routes
                .contains_key(&RouteKey::peer(Table::Peers, net(cidr)))
        );
    }
}
