//! The control plane: observe, plan, apply.

mod agent;
mod boot;
mod cipher;
pub(crate) mod cleanup;
mod closing;
mod contradictions;
mod data_plane;
mod endpoints_in_use;
mod forwarding;
mod generations;
mod healing;
mod incumbents;
mod links;
mod mode;
mod obstacles;
mod own_record;
mod problems;
mod publishing;
mod reconcile;
pub(crate) mod refusals;
mod reopened;
mod repeat_log;
pub(crate) mod run;
mod show;
pub(crate) mod status;
mod underlay_addresses;
