//! What somebody else did to the kernel state that is ours, to be told in words.
//!
//! Damage is what is neither as this node left it nor as it should be now. What the registry
//! changed meanwhile is no damage, nor is what a removed or downed device takes with it.

use std::fmt;

use ipnet::IpNet;

use crate::kernel::{Device, Guard, Kernel, RouteAction, RouteKey, Rule};

/// One thing that somebody else changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Damage {
    /// The table `inet podwire` is not there.
    TableMissing,
    /// The table `inet podwire` is not as it was installed.
    TableAltered,
    /// The device is not there, nor anything on it.
    DeviceMissing,
    /// The device is down, and has lost its routes.
    DeviceDown,
    /// The device has another MTU.
    DeviceMtu(u32),
    /// The device has another queue length.
    DeviceQueue(u32),
    /// Reverse path filter, forwarding or address generation of the device.
    DeviceSettings,
    /// An address of the device is not there.
    AddressMissing(IpNet),
    /// The device has an address that is not ours.
    AddressAdded(IpNet),
    /// A route of ours is not there.
    RouteMissing(RouteKey),
    /// A route of ours leads elsewhere.
    RouteChanged(RouteKey),
    /// A route of protocol 119 that this node did not make.
    RouteAdded(RouteKey),
    /// A policy rule of ours is not there.
    RuleMissing(Rule),
    /// A policy rule of protocol 119 that this node did not make.
    RuleAdded(Rule),
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TableMissing => f.write_str("table inet podwire missing"),
            Self::TableAltered => f.write_str("table inet podwire altered"),
            Self::DeviceMissing => f.write_str("device missing"),
            Self::DeviceDown => f.write_str("device down"),
            Self::DeviceMtu(mtu) => write!(f, "device with an MTU of {mtu}"),
            Self::DeviceQueue(length) => write!(f, "device with a queue of {length}"),
            Self::DeviceSettings => {
                f.write_str("device with another rp_filter, forwarding or addr_gen_mode")
            }
            Self::AddressMissing(address) => write!(f, "address {address} missing"),
            Self::AddressAdded(address) => write!(f, "address {address} added"),
            Self::RouteMissing(key) => write!(f, "route {key} missing"),
            Self::RouteChanged(key) => write!(f, "route {key} changed"),
            Self::RouteAdded(key) => write!(f, "route {key} added"),
            Self::RuleMissing(rule) => write!(f, "{rule} missing"),
            Self::RuleAdded(rule) => write!(f, "{rule} added"),
        }
    }
}

/// What of `observed` is neither as it was `left` by this node's last pass nor as `desired`.
#[must_use]
pub fn damage(left: &Kernel, observed: &Kernel, desired: &Kernel) -> Vec<Damage> {
    let mut found = Vec::new();
    found.extend(table(left, observed, desired));
    found.extend(rules(left, observed, desired));
    let device = device(left, observed, desired);
    found.extend(&device);
    let lost = |damage| device.contains(&damage);
    let bare = lost(Damage::DeviceMissing);
    if !bare {
        let down = lost(Damage::DeviceDown);
        found.extend(addresses(left, observed, desired, down));
    }
    let follows = Followers {
        gone: bare || lost(Damage::DeviceDown),
        moved: device.iter().any(|d| matches!(d, Damage::DeviceMtu(_))),
    };
    found.extend(routes(left, observed, desired, &follows));
    found
}

fn table(left: &Kernel, observed: &Kernel, desired: &Kernel) -> Option<Damage> {
    if observed.guard == left.guard || observed.guard == desired.guard {
        return None;
    }
    match observed.guard {
        Guard::Missing => Some(Damage::TableMissing),
        Guard::Altered | Guard::Installed(_) => Some(Damage::TableAltered),
    }
}

fn rules<'a>(
    left: &'a Kernel,
    observed: &'a Kernel,
    desired: &'a Kernel,
) -> impl Iterator<Item = Damage> + 'a {
    let missing = left.rules.intersection(&desired.rules);
    let missing = missing.filter(|rule| !observed.rules.contains(*rule));
    let added = observed.rules.difference(&left.rules);
    let added = added.filter(|rule| !desired.rules.contains(*rule));
    missing
        .map(|rule| Damage::RuleMissing(*rule))
        .chain(added.map(|rule| Damage::RuleAdded(*rule)))
}

fn device(left: &Kernel, observed: &Kernel, desired: &Kernel) -> Vec<Damage> {
    // A device that this node never had, or does not want any more, is nobody's damage.
    let (Some(before), Some(wanted)) = (&left.device, &desired.device) else {
        return Vec::new();
    };
    let Some(now) = &observed.device else {
        return vec![Damage::DeviceMissing];
    };
    let mut found = Vec::new();
    let mut compare = |is_same: fn(&Device, &Device) -> bool, damage| {
        if !is_same(now, before) && !is_same(now, wanted) {
            found.push(damage);
        }
    };
    compare(|a, b| a.up == b.up, Damage::DeviceDown);
    compare(|a, b| a.mtu == b.mtu, Damage::DeviceMtu(now.mtu));
    compare(
        |a, b| a.transmit_queue_length == b.transmit_queue_length,
        Damage::DeviceQueue(now.transmit_queue_length),
    );
    compare(
        |a, b| a.fixed_settings == b.fixed_settings,
        Damage::DeviceSettings,
    );
    found
}

fn addresses<'a>(
    left: &'a Kernel,
    observed: &'a Kernel,
    desired: &'a Kernel,
    down: bool,
) -> impl Iterator<Item = Damage> + 'a {
    let missing = left
        .addresses
        .intersection(&desired.addresses)
        .filter(|address| !observed.addresses.contains(*address))
        // A device that goes down loses its IPv6 addresses.
        .filter(move |address| !(down && address.addr().is_ipv6()));
    let added = observed.addresses.iter().filter(|address| {
        !left.addresses.contains(*address) && !desired.addresses.contains(*address)
    });
    missing
        .map(|address| Damage::AddressMissing(*address))
        .chain(added.map(|address| Damage::AddressAdded(*address)))
}

/// What happened to the device, as far as routes into it follow.
struct Followers {
    /// They are gone with it.
    gone: bool,
    /// IPv6 routes took its MTU over.
    moved: bool,
}

fn routes(left: &Kernel, observed: &Kernel, desired: &Kernel, device: &Followers) -> Vec<Damage> {
    let mut found = Vec::new();
    for (key, before) in &left.routes {
        let into_device = matches!(before, RouteAction::Device { .. });
        let wanted = desired.routes.get(key);
        match observed.routes.get(key) {
            Some(now) if now == before || Some(now) == wanted => {}
            Some(_) if into_device && device.moved && key.destination.addr().is_ipv6() => {}
            Some(_) => found.push(Damage::RouteChanged(*key)),
            None if wanted.is_none() || (into_device && device.gone) => {}
            None if lost_source(before, left, observed) => {}
            None => found.push(Damage::RouteMissing(*key)),
        }
    }
    for (key, now) in &observed.routes {
        if !left.routes.contains_key(key) && desired.routes.get(key) != Some(now) {
            found.push(Damage::RouteAdded(*key));
        }
    }
    found
}

/// Whether a route went with the address that is its source.
fn lost_source(action: &RouteAction, left: &Kernel, observed: &Kernel) -> bool {
    let RouteAction::Device { source, .. } = action else {
        return false;
    };
    let source = IpNet::from(*source);
    left.addresses.contains(&source) && !observed.addresses.contains(&source)
}

#[cfg(test)]
mod tests;
