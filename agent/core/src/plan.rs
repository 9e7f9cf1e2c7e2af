//! The changes from the observed to the desired kernel state, in an order that opens nothing.
//!
//! 1. Close: the guard stops admitting what is not settled; missing `unreachable` routes and rules
//!    appear; then those routes go that are not wanted, or whose pair changes its mode.
//! 2. Build: device, addresses, then the routes that use them as their source.
//! 3. Clear: addresses that no route uses any more, rules, and `unreachable` routes that another
//!    now covers.
//! 4. Open: the guard admits declared host-network peers, whose routes are in place.
//!
//! So a pair that changes its mode is closed in between: its old route is gone before its new one
//! comes, and it passes in plaintext only after the last step. Who applies the changes stops at the
//! first that fails, and observes again.

use ipnet::IpNet;

use crate::kernel::{Change, Device, Guard, GuardTable, Kernel, RouteAction, RouteKey, Table};

/// What the kernel gives a new TUN device, before anything is set.
const NEW_DEVICE: Device = Device {
    mtu: 1500,
    up: false,
    transmit_queue_length: 500,
    fixed_settings: false,
};

/// The changes that turn `observed` into `desired`, in the order in which to apply them; none when
/// there is nothing to do. A device or a guard that is observed and not desired stays: only
/// `cleanup` removes them.
#[must_use]
pub fn plan(observed: &Kernel, desired: &Kernel) -> Vec<Change> {
    let mut planned = Planned {
        kernel: observed.clone(),
        changes: Vec::new(),
    };
    if let Guard::Installed(table) = &desired.guard {
        planned.set_guard(closing_guard(table, observed, desired));
    }
    planned.set_routes(desired, is_guard);
    for rule in desired.rules.difference(&observed.rules) {
        planned.push(Change::AddRule(*rule));
    }
    planned.remove_routes(|key, action| {
        !is_guard(action) && desired.routes.get(key).map(kind) != Some(kind(action))
    });
    if let Some(device) = &desired.device {
        planned.set_device(device);
    }
    let added: Vec<IpNet> = desired
        .addresses
        .difference(&planned.kernel.addresses)
        .copied()
        .collect();
    added
        .into_iter()
        .for_each(|address| planned.push(Change::AddAddress(address)));
    planned.set_routes(desired, |action| !is_guard(action));
    let removed: Vec<IpNet> = planned
        .kernel
        .addresses
        .difference(&desired.addresses)
        .copied()
        .collect();
    removed
        .into_iter()
        .for_each(|address| planned.push(Change::RemoveAddress(address)));
    for rule in observed.rules.difference(&desired.rules) {
        planned.push(Change::RemoveRule(*rule));
    }
    planned.remove_routes(|key, _| !desired.routes.contains_key(key));
    if let Guard::Installed(table) = &desired.guard {
        planned.set_guard(table.clone());
    }
    planned.changes
}

/// The kernel state after these changes: a model of what the kernel does with them. A change that
/// the kernel would refuse leaves it as it is.
#[must_use]
pub fn apply(mut kernel: Kernel, changes: &[Change]) -> Kernel {
    for change in changes {
        apply_one(&mut kernel, change);
    }
    kernel
}

/// The desired table without the host-network peers whose plain route is yet to come.
fn closing_guard(table: &GuardTable, observed: &Kernel, desired: &Kernel) -> GuardTable {
    let is_via = |kernel: &Kernel, cidr: &IpNet| {
        let route = kernel.routes.get(&RouteKey::peer(Table::Peers, *cidr));
        matches!(route, Some(RouteAction::Via { .. }))
    };
    let mut table = table.clone();
    table
        .host_network_cidrs
        .retain(|cidr| is_via(observed, cidr) || !is_via(desired, cidr));
    table
}

fn is_guard(action: &RouteAction) -> bool {
    kind(action) == Kind::Unreachable
}

#[derive(PartialEq, Eq)]
enum Kind {
    Device,
    Via,
    Unreachable,
}

const fn kind(action: &RouteAction) -> Kind {
    match action {
        RouteAction::Device { .. } => Kind::Device,
        RouteAction::Via { .. } => Kind::Via,
        RouteAction::Unreachable => Kind::Unreachable,
    }
}

/// The changes so far, and the state that they lead to. Each step is planned from that state,
/// because the kernel does things of its own accord: a new device MTU changes routes, for one.
struct Planned {
    kernel: Kernel,
    changes: Vec<Change>,
}

impl Planned {
    fn push(&mut self, change: Change) {
        apply_one(&mut self.kernel, &change);
        self.changes.push(change);
    }

    fn set_guard(&mut self, table: GuardTable) {
        if !matches!(&self.kernel.guard, Guard::Installed(installed) if *installed == table) {
            self.push(Change::InstallGuard(table));
        }
    }

    fn set_device(&mut self, device: &Device) {
        if self.kernel.device.is_none() {
            self.push(Change::CreateDevice);
        }
        if self.kernel.device.as_ref() != Some(device) {
            self.push(Change::SetDevice(device.clone()));
        }
    }

    fn set_routes(&mut self, desired: &Kernel, chosen: impl Fn(&RouteAction) -> bool) {
        for (key, action) in desired.routes.iter().filter(|(_, action)| chosen(action)) {
            if self.kernel.routes.get(key) != Some(action) {
                self.push(Change::SetRoute(*key, action.clone()));
            }
        }
    }

    fn remove_routes(&mut self, chosen: impl Fn(&RouteKey, &RouteAction) -> bool) {
        let routes = self
            .kernel
            .routes
            .iter()
            .filter(|(key, action)| chosen(key, action));
        let routes: Vec<Change> = routes
            .map(|(key, action)| Change::RemoveRoute(*key, action.clone()))
            .collect();
        routes.into_iter().for_each(|change| self.push(change));
    }
}

fn apply_one(kernel: &mut Kernel, change: &Change) {
    match change {
        Change::InstallGuard(table) => kernel.guard = Guard::Installed(table.clone()),
        Change::CreateDevice => drop(kernel.device.get_or_insert(NEW_DEVICE)),
        Change::SetDevice(device) => set_device(kernel, device),
        Change::AddAddress(address) => {
            if kernel.device.is_some() {
                kernel.addresses.insert(*address);
            }
        }
        Change::RemoveAddress(address) => {
            kernel.addresses.remove(address);
            // IPv4 takes the routes with that source along; for IPv6 they lose it.
            kernel
                .routes
                .retain(|_, action| source(action) != Some(*address));
        }
        Change::SetRoute(key, action) => {
            let up = kernel.device.as_ref().is_some_and(|device| device.up);
            let accepted =
                source(action).is_none_or(|source| up && kernel.addresses.contains(&source));
            if accepted {
                kernel.routes.insert(*key, action.clone());
            }
        }
        Change::RemoveRoute(key, _) => drop(kernel.routes.remove(key)),
        Change::AddRule(rule) => drop(kernel.rules.insert(*rule)),
        Change::RemoveRule(rule) => drop(kernel.rules.remove(rule)),
    }
}

fn source(action: &RouteAction) -> Option<IpNet> {
    match action {
        RouteAction::Device { source, .. } => Some(IpNet::from(*source)),
        RouteAction::Via { .. } | RouteAction::Unreachable => None,
    }
}

fn set_device(kernel: &mut Kernel, device: &Device) {
    let Some(before) = kernel.device.replace(device.clone()) else {
        kernel.device = None;
        return;
    };
    if !device.up {
        // A device that goes down loses its routes, and its IPv6 addresses.
        kernel.routes.retain(|_, action| source(action).is_none());
        kernel
            .addresses
            .retain(|address| matches!(address, IpNet::V4(_)));
    }
    if device.mtu != before.mtu {
        for (key, action) in &mut kernel.routes {
            // net/ipv6/route.c, rt6_mtu_change_route: IPv6 routes follow the device, up and down.
            if let (IpNet::V6(_), RouteAction::Device { mtu, .. }) = (key.destination, action)
                && (*mtu >= device.mtu || *mtu == before.mtu)
            {
                *mtu = device.mtu;
            }
        }
    }
}

#[cfg(test)]
mod tests;
