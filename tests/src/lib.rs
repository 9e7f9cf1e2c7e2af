//! Network namespaces, nodes, pods, links, captures and probes for Podwire's tests.
//!
//! A scenario is a [`Topology`]; started, it is a [`Testbed`] of real processes and real packets
//! inside namespaces that only this process holds. [`sandbox::enter`] comes first, before any
//! thread; [`suite`] does it for tests. The addressing plan is in [`mod@address`].
//!
//! | variable | effect |
//! |---|---|
//! | `KUBEBUILDER_ASSETS` | a folder with Kubernetes' servers, which then are not built |
//! | `PODWIRE_AGENT_BIN` | this agent is tested, and none is built |
//! | `PODWIRE_RESULTS` | where suites write what people read later; else `target/results` |
//! | `PODWIRE_SERVERS` | where Kubernetes' servers are built and kept; else in the user's cache |
//! | `PODWIRE_SOAK` | suites run their long cases in place of their short ones |
//! | `PODWIRE_TESTBED_HOLD` | a failed test waits for Enter before it takes its network down |
//! | `PODWIRE_TESTBED_LOGS` | where logs of failed tests are kept; else `target/testbed-logs` |
//! | `PODWIRE_TESTBED_PCAP` | the underlay's traffic is kept beside the logs |

pub mod address;
pub mod agent_view;
pub mod binaries;
mod bystanders;
pub mod capture;
mod child_process;
pub mod cluster;
mod confinement;
pub mod control_plane;
mod cookie;
mod counter;
mod device_cgroup;
mod echo;
mod empty_folder;
pub mod fault_plan;
mod flood;
pub mod foreign_wireguard;
pub mod forged;
mod host;
mod hung_folder;
mod impair;
mod interface;
mod iperf;
mod keeper;
pub mod kernel_state;
pub mod keyctl;
pub mod kubernetes_mesh;
pub mod leftovers;
mod link;
pub mod matrix;
pub mod mode_change;
mod namespace;
mod nat;
mod node;
mod paper_node;
mod pod;
mod probe;
mod process_memory;
pub mod pulse;
mod registry;
pub mod results;
pub mod sandbox;
mod scratch;
mod sender;
pub mod sniffer;
pub mod suite;
mod testbed;
pub mod thief;
mod topology;
mod traffic;
pub mod train;
mod tun;
pub mod uapi;
mod underlay;
mod until;
pub mod whole_program;
pub mod wire;
pub mod wireguard_daemon;

pub use address::{Family, IpVersion};
pub use bystanders::Bystanders;
pub use capture::CaptureReport;
pub use cluster::{Cluster, ClusterNode, ClusterPlan};
pub use confinement::Confinement;
pub use control_plane::ControlPlane;
pub use cookie::Cookie;
pub use counter::{TcpCount, TcpCounter, UdpCount, UdpCounter};
pub use echo::ECHO_PORT;
pub use flood::{Attack, Flood, FloodCount, FloodPlan, attackers};
pub use host::Host;
pub use hung_folder::HungFolder;
pub use impair::{Impairment, ImpairmentId, Messages};
pub use iperf::{Iperf, IperfDirection, IperfResult, cpu_seconds};
pub use link::{Link, LinkCount, LinkQuality};
pub use matrix::{Matrix, PairResult};
pub use namespace::Namespace;
pub use nat::Nat;
pub use node::Node;
pub use paper_node::PaperNode;
pub use pod::{Pod, PodId};
pub use probe::{Answer, Probe, ProbeError, Protocol};
pub use process_memory::ProcessMemory;
pub use registry::{Directory, Manifest};
pub use scratch::Scratch;
pub use sender::Sender;
pub use testbed::{Testbed, WIREGUARD_PORTS};
pub use topology::Topology;
pub use traffic::{FlowCount, Traffic};
pub use tun::TunFile;
pub use underlay::{Underlay, UnderlayKind};
pub use until::until;
pub use wire::Wire;
