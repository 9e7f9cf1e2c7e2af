//! Where Podwire finds and publishes nodes.
//!
//! A registry tells which Nodes there are ([`nodes::Nodes`], replaced as a whole, unchanged Nodes
//! shared) and takes the record that an agent publishes about its own Node. Losing the registry
//! changes nothing: the last Nodes stay in force, and their state says that it is lost.
#![forbid(unsafe_code)]

pub mod atomic_file;
pub mod directory;
pub mod kubernetes;
pub mod manifest;
pub mod nodes;
pub mod refusals;
pub mod registry;
pub mod request_change;
