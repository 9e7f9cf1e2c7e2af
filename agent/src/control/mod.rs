//! The control plane: observe, plan, apply.

mod agent;
mod boot;
pub(crate) mod cleanup;
mod contradictions;
mod data_plane;
mod forwarding;
mod generations;
mod incumbents;
mod mode;
mod obstacles;
mod own_record;
mod problems;
mod reconcile;
mod reopened;
pub(crate) mod run;
mod show;
pub(crate) mod status;
mod underlay_addresses;
