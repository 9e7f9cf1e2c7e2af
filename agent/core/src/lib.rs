//! The pure core of Podwire: keys, node record, desired mesh, plan, allowed IPs and MTU.
//!
//! Nothing here reads a clock, a file, a socket or the order of a hash map: every decision is a
//! function of its arguments.
//!
//! ```text
//! Node (annotations) --annotations::parse--> Record --claim--> desired_mesh --> DesiredMesh
//! [Link] + Underlay --underlay_links--> names of links
//! DesiredMesh + Underlay + these --desired_kernel--> desired Kernel
//! plan(observed Kernel, desired Kernel) --> [Change]
//! ```
#![forbid(unsafe_code)]

pub mod allowed_ips;
pub mod annotations;
mod claim;
pub mod cni_configuration;
pub mod damage;
pub mod desired_kernel;
pub mod endpoint_order;
pub mod finding;
pub mod generation;
pub mod held;
pub mod kernel;
pub mod key;
pub mod mesh;
pub mod mtu;
pub mod needed_traffic;
pub mod node;
pub mod obstacles;
pub mod packet_filter;
pub mod plan;
pub mod pod_mtu;
pub mod record;
pub mod refusal;
pub mod request;
pub mod reverse_path;
pub mod underlay_links;
