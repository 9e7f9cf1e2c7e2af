//! Removes everything that is ours from the kernel, and nothing else.

use podwire_core::kernel::Change;

use super::error::Error;
use super::{Netlink, device, guard};

/// What a cleanup found and removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Removed {
    /// The TUN device.
    pub(crate) device: bool,
    /// Number of routes of protocol 119.
    pub(crate) routes: usize,
    /// Number of policy rules of protocol 119.
    pub(crate) rules: usize,
    /// The table `inet podwire`, or its standby.
    pub(crate) guard: bool,
}

impl Netlink {
    /// Removes the device (only if it is a TUN device), all routes and policy rules of protocol 119
    /// and the table `inet podwire` with its standby, in this order: the guards go last. May be
    /// repeated.
    ///
    /// # Errors
    ///
    /// What could not be removed. A link of the device's name that is not ours is no error: it
    /// stays.
    pub(crate) async fn cleanup(&mut self) -> Result<Removed, Error> {
        let mut removed = Removed::default();
        // Before the device goes and takes some of them with it.
        let rules = self.read_routes_and_rules().await?;
        let mut routes = std::mem::take(&mut self.routes);
        removed.routes = routes.count();
        removed.rules = rules.len();
        match self.device().await {
            Ok(_) | Err(Error::ForeignDevice { .. }) => {}
            Err(error) => return Err(error),
        }
        if let Some(index) = self.device_index.take() {
            device::remove(&self.handle, index)
                .await
                .map_err(|source| Error::Device {
                    name: self.device_name.clone(),
                    source,
                })?;
            removed.device = true;
        }
        for key in routes.own(None).into_keys() {
            routes.remove(&self.handle, key).await?;
        }
        for rule in rules {
            self.apply(&Change::RemoveRule(rule)).await?;
        }
        removed.guard = guard::remove().map_err(|source| Error::guard("remove", source))?;
        self.installed = None;
        Ok(removed)
    }
}
