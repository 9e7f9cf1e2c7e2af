//! Who may ask the API server from the beginning: its file of static tokens.
//!
//! Tokens are names: nobody but the test is on this network.

use std::fmt::Write as _;

use crate::address::NODES_MAX;

/// Of `admin`, in `system:masters`: it may do everything.
pub const ADMIN_TOKEN: &str = "admin";

/// Of the controllers.
pub(super) const CONTROLLER_MANAGER_TOKEN: &str = "controller-manager";

/// Of the scheduler.
pub(super) const SCHEDULER_TOKEN: &str = "scheduler";

/// Of every node's proxy of Services.
pub(crate) const PROXY_TOKEN: &str = "proxy";

/// Ordinary users, in no group: they may do what a test grants them.
const USERS: [&str; 2] = ["alice", "mallory"];

/// The token of a node's kubelet: `system:node:NAME`, in `system:nodes`. There is one for each
/// node that a topology can have.
#[must_use]
pub fn kubelet_token(node: &str) -> String {
    format!("kubelet-of-{node}")
}

/// The token of the ordinary users `alice` and `mallory`.
#[must_use]
pub fn user_token(user: &str) -> String {
    format!("user-{user}")
}

/// Lines of token, user name, uid and groups.
pub(super) fn file() -> String {
    let mut text = format!(
        "{ADMIN_TOKEN},admin,admin,system:masters\n\
         {CONTROLLER_MANAGER_TOKEN},system:kube-controller-manager,controller-manager\n\
         {SCHEDULER_TOKEN},system:kube-scheduler,scheduler\n\
         {PROXY_TOKEN},system:kube-proxy,proxy\n"
    );
    for user in USERS {
        let _ = writeln!(text, "{},{user},{user}", user_token(user));
    }
    for number in 1..=NODES_MAX {
        let node = format!("node-{number}");
        let token = kubelet_token(&node);
        let _ = writeln!(text, "{token},system:node:{node},{node},system:nodes");
    }
    text
}

/// The file without one of them.
pub(super) fn file_without(token: &str) -> String {
    let is_left = |line: &&str| line.split(',').next() != Some(token);
    let file = file();
    file.lines()
        .filter(is_left)
        .fold(String::new(), |mut text, line| {
            let _ = writeln!(text, "{line}");
            text
        })
}
