//! The kernel's state over netlink: observed, changed, watched, cleaned up.
//!
//! Effects only: what to change is decided by `podwire_core::plan`.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "netlink's attributes are an open set, of which a few are looked for"
)]

mod cleanup;
mod device;
mod error;
mod exchange;
mod foreign;
mod guard;
mod links;
mod nftables;
mod packet_filter;
mod pod_bridge;
mod route;
mod rule;
#[cfg(test)]
pub(crate) mod tests;
mod underlay;
mod watch;

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use podwire_core::kernel::{
    Change, Device, Guard, GuardTable, Kernel, RouteAction, Rule, Underlay,
};
use podwire_core::obstacles::Foreign;
use podwire_core::packet_filter::{Ruleset, TooMuch};
use podwire_core::underlay_links::Link;
use rtnetlink::Handle;
use tokio::task::JoinHandle;

pub(crate) use self::cleanup::Removed;
pub(crate) use self::error::{Error, has_net_admin};
pub(crate) use self::guard::GuardCounters;
pub(crate) use self::pod_bridge::{BridgeRemoval, is_stale};
pub(crate) use self::watch::Watch;

use self::guard::{InstallError, Installed};
use self::route::Routes;

/// A connection to the kernel of the current network namespace, for one device.
#[derive(Debug)]
pub(crate) struct Netlink {
    handle: Handle,
    connection: JoinHandle<()>,
    device_name: String,
    /// Index of the device, as last looked up.
    device_index: Option<u32>,
    /// Whether a process reads the device, as last looked up.
    is_read: bool,
    /// What has the device's name and is not ours, as last observed.
    obstacle: Option<Error>,
    /// The route tables that ours are in, as last dumped.
    routes: Routes,
    /// The guard table that this process installed.
    installed: Option<Installed>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Netlink {
    /// Opens a netlink socket. Takes a running tokio runtime, on which its answers are received.
    ///
    /// # Errors
    ///
    /// [`Error::Open`].
    pub(crate) fn open(device_name: &str) -> Result<Self, Error> {
        let (mut connection, handle, _) = rtnetlink::new_connection_with_strict_check()
            .map_err(|source| Error::Open { source })?;
        // Without these, a request that was acknowledged and one whose connection died look alike.
        connection.set_forward_ack(true);
        connection.set_forward_done(true);
        Ok(Self {
            handle,
            connection: tokio::spawn(connection),
            device_name: device_name.to_owned(),
            device_index: None,
            is_read: false,
            obstacle: None,
            routes: Routes::default(),
            installed: None,
        })
    }

    /// Observes the part of the kernel's state that is ours. A link that has the device's name and
    /// is none of ours is no device; [`Self::obstacle`] names it.
    ///
    /// # Errors
    ///
    /// [`Error::Read`].
    pub(crate) async fn observe(&mut self) -> Result<Kernel, Error> {
        let device = match self.device().await {
            Err(foreign @ Error::ForeignDevice { .. }) => {
                self.obstacle = Some(foreign);
                None
            }
            device => {
                self.obstacle = None;
                device?
            }
        };
        let addresses = match self.device_index {
            Some(index) => device::addresses(&self.handle, index)
                .await
                .map_err(|source| Error::Read {
                    what: "the device's addresses",
                    source,
                })?,
            None => Default::default(),
        };
        let rules = self.read_routes_and_rules().await?;
        let guard = self.observe_guard();
        Ok(Kernel {
            device,
            addresses,
            routes: self.routes.own(self.device_index),
            rules,
            guard,
        })
    }

    /// Looks at what others have set up for packets to the cluster's pods: routes beside ours
    /// as [`Self::observe`] saw them, policy rules, and the tables that these lead to.
    ///
    /// # Errors
    ///
    /// [`Error::Read`].
    pub(crate) async fn foreign(&self, guard: &GuardTable) -> Result<Foreign, Error> {
        foreign::read(&self.handle, &self.routes, guard)
            .await
            .map_err(|source| Error::Read {
                what: "the policy rules",
                source,
            })
    }

    /// Observes routes, rules and guard table alone: what a device of that name is does not matter
    /// yet.
    ///
    /// # Errors
    ///
    /// [`Error::Read`].
    pub(crate) async fn observe_guards(&mut self) -> Result<Kernel, Error> {
        let rules = self.read_routes_and_rules().await?;
        let guard = self.observe_guard();
        Ok(Kernel {
            routes: self.routes.own(None),
            rules,
            guard,
            ..Kernel::default()
        })
    }

    /// Dumps the route tables, and returns the policy rules that are ours.
    async fn read_routes_and_rules(&mut self) -> Result<BTreeSet<Rule>, Error> {
        let failed = |what| move |source| Error::Read { what, source };
        self.routes = Routes::read(&self.handle)
            .await
            .map_err(failed("the route tables"))?;
        rule::own(&self.handle)
            .await
            .map_err(failed("the policy rules"))
    }

    /// What had the device's name at the last observation, if that was no device of ours.
    pub(crate) fn obstacle(&mut self) -> Option<Error> {
        self.obstacle.take()
    }

    /// Whether a process reads the device, as last observed: one that this process has not opened
    /// is then somebody else's.
    pub(crate) fn device_in_use(&self) -> Option<Error> {
        self.is_read.then(|| Error::DeviceInUse {
            name: self.device_name.clone(),
        })
    }

    /// A table that cannot be read counts as missing: what hinders reading it hinders installing
    /// it, which then says so.
    pub(crate) fn observe_guard(&mut self) -> Guard {
        guard::observe(self.installed.as_mut()).unwrap_or_default()
    }

    /// Asks the kernel for the path to each address. Addresses with no path are left out: own and
    /// unreachable ones, and those whose route goes through the device itself.
    ///
    /// # Errors
    ///
    /// [`Error::Read`].
    pub(crate) async fn underlay(
        &mut self,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> Result<Underlay, Error> {
        underlay::underlay(&self.handle, addresses, &self.device_name)
            .await
            .map_err(|source| Error::Read {
                what: "the paths to the other nodes",
                source,
            })
    }

    /// The links of this node, with what routes of others beside ours, as [`Self::observe`] saw
    /// them, say of the pods of `own`.
    ///
    /// # Errors
    ///
    /// [`Error::Read`].
    pub(crate) async fn links(&self, own: &[IpNet]) -> Result<Vec<Link>, Error> {
        links::links(&self.handle, &self.routes, own)
            .await
            .map_err(|source| Error::Read {
                what: "the links",
                source,
            })
    }

    /// The addresses of this node from which it would talk to strangers; known before any registry
    /// is. Nothing is sent.
    ///
    /// # Errors
    ///
    /// [`Error::Read`].
    pub(crate) async fn own_sources(&self) -> Result<Vec<IpAddr>, Error> {
        links::own_sources(&self.handle, &self.device_name)
            .await
            .map_err(|source| Error::Read {
                what: "the routes to strangers",
                source,
            })
    }

    /// Carries out one change. Each is idempotent. A route is replaced with no moment in between
    /// without one; the guard table likewise.
    ///
    /// # Errors
    ///
    /// [`Error::CreateDevice`] for that change, which is the transport's; [`Error::RouteOccupied`]
    /// if somebody else's route has the key; otherwise what names the object that the kernel
    /// refused to change.
    pub(crate) async fn apply(&mut self, change: &Change) -> Result<(), Error> {
        let name = || self.device_name.clone();
        match change {
            Change::InstallGuard(table) => self.install_guard(table),
            Change::CreateDevice => Err(Error::CreateDevice { name: name() }),
            Change::SetDevice(device) => {
                let index = self.existing_device().await?;
                device::set(&self.handle, index, device)
                    .await
                    .map_err(|source| Error::Device {
                        name: self.device_name.clone(),
                        source,
                    })
            }
            Change::AddAddress(address) => {
                let index = self.existing_device().await?;
                device::add_address(&self.handle, index, *address)
                    .await
                    .map_err(|source| self.address_error(*address, source))
            }
            Change::RemoveAddress(address) => {
                let index = self.existing_device().await?;
                device::remove_address(&self.handle, index, *address)
                    .await
                    .map_err(|source| self.address_error(*address, source))
            }
            Change::SetRoute(key, action) => {
                // A route that refuses needs no device, and holds whatever has the device's name.
                if self.device_index.is_none() && matches!(action, RouteAction::Device { .. }) {
                    self.device().await?;
                }
                let done = self
                    .routes
                    .set(&self.handle, *key, action, self.device_index)
                    .await;
                if done.is_err() {
                    // The device may have been made anew, with another index.
                    self.device_index = None;
                }
                done
            }
            Change::RemoveRoute(key, _) => self.routes.remove(&self.handle, *key).await,
            Change::AddRule(rule) => {
                rule::add(&self.handle, rule)
                    .await
                    .map_err(|source| Error::Rule {
                        rule: *rule,
                        source,
                    })
            }
            Change::RemoveRule(rule) => {
                rule::remove(&self.handle, rule)
                    .await
                    .map_err(|source| Error::Rule {
                        rule: *rule,
                        source,
                    })
            }
        }
    }

    fn install_guard(&mut self, table: &GuardTable) -> Result<(), Error> {
        match guard::install(table) {
            Ok(installed) => {
                self.installed = Some(installed);
                Ok(())
            }
            Err(InstallError::Refused(source)) => Err(Error::guard("install", source)),
            Err(InstallError::Gone) => Err(Error::GuardGone),
            Err(InstallError::Unread(source)) => {
                self.installed = None;
                Err(Error::GuardUnread { source })
            }
        }
    }

    /// What the guards have stopped.
    ///
    /// # Errors
    ///
    /// [`Error::Guard`].
    #[expect(
        clippy::unused_self,
        reason = "the namespace is that of this connection's thread"
    )]
    pub(crate) fn guard_counters(&self) -> Result<GuardCounters, Error> {
        guard::counters().map_err(|source| Error::guard("read", source))
    }

    /// A number that changes with every packet filter of this node.
    ///
    /// # Errors
    ///
    /// [`Error::Read`].
    #[expect(
        clippy::unused_self,
        reason = "the namespace is that of this connection's thread"
    )]
    pub(crate) fn packet_filter_generation(&self) -> Result<u32, Error> {
        packet_filter::generation().map_err(|source| Error::Read {
            what: "the packet filters",
            source,
        })
    }

    /// The packet filters of others, unless that is too much.
    ///
    /// # Errors
    ///
    /// [`Error::Read`].
    #[expect(
        clippy::unused_self,
        reason = "the namespace is that of this connection's thread"
    )]
    pub(crate) fn packet_filters(&self) -> Result<Result<Ruleset, TooMuch>, Error> {
        packet_filter::read().map_err(|source| Error::Read {
            what: "the packet filters",
            source,
        })
    }

    fn address_error(&self, address: IpNet, source: std::io::Error) -> Error {
        Error::Address {
            address,
            name: self.device_name.clone(),
            source,
        }
    }

    /// Looks the device up, and remembers its index.
    async fn device(&mut self) -> Result<Option<Device>, Error> {
        self.device_index = None;
        let found = device::find(&self.handle, &self.device_name)
            .await
            .map_err(|source| Error::Read {
                what: "the device",
                source,
            })?;
        self.is_read = found.as_ref().is_some_and(|found| found.is_read);
        let Some(found) = found else { return Ok(None) };
        let device = found.device.map_err(|kind| Error::ForeignDevice {
            name: self.device_name.clone(),
            kind,
        })?;
        self.device_index = Some(found.index);
        Ok(Some(device))
    }

    async fn existing_device(&mut self) -> Result<u32, Error> {
        self.device().await?;
        self.device_index.ok_or_else(|| Error::NoDevice {
            name: self.device_name.clone(),
        })
    }
}
