//! The guards of a boot: installed before anything else can fail.

use std::collections::{BTreeMap, BTreeSet};

use podwire_core::desired_kernel::{DeviceOptions, desired_kernel};
use podwire_core::kernel::{Change, Guard, Underlay};
use podwire_core::mesh::{Incumbents, OwnNode, Policy, desired_mesh};
use podwire_core::node::NodeName;
use podwire_core::plan::plan;
use podwire_core::record::Mode;

use super::closing::is_guard;
use crate::netlink::{self, Netlink};

/// Closes the cluster's pod CIDRs, knowing nothing but the flags: a start that fails later, for a
/// damaged key or a full disk, leaves the node closed. A table that is there knows more and stays;
/// what is missing beside it, or all, is put in place.
///
/// # Errors
/// The first one. Table and covers are installed each also where the other cannot be.
pub(super) async fn close(
    netlink: &mut Netlink,
    name: &NodeName,
    policy: &Policy,
    device: &str,
) -> Result<(), netlink::Error> {
    let observed = netlink.observe_guards().await?;
    let own = OwnNode {
        name: name.clone(),
        mode: Mode::Encrypted,
        pod_cidrs: Vec::new(),
        addresses: Vec::new(),
        public_keys: Vec::new(),
    };
    let mesh = desired_mesh(&BTreeMap::new(), &own, &Incumbents::new(), policy);
    let options = DeviceOptions {
        name: device,
        transmit_queue_length: 0,
        usable: false,
    };
    let closed = desired_kernel(&mesh, &Underlay::new(), &BTreeSet::new(), options).kernel;
    let has_table = observed.guard != Guard::Missing;
    let wanted = |change: &&Change| {
        is_guard(change) && !(has_table && matches!(change, Change::InstallGuard(_)))
    };
    let mut failed = None;
    for change in plan(&observed, &closed).iter().filter(wanted) {
        if let Err(error) = netlink.apply(change).await {
            failed.get_or_insert(error);
        }
    }
    failed.map_or(Ok(()), Err)
}
