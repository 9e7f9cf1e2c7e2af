//! `keyctl verify`: every record against the rules, and the policies that hold the rules up.

use jiff::Timestamp;
use podwire_core::mesh::Policy;
use podwire_registry::nodes::Nodes;
use podwire_registry::refusals::{Reason, Refused, printable};
use serde::Serialize;

use crate::outcome::Outcome;
use crate::output::{Report, Row, cell};
use crate::policies::{Installed, Policies, WARNING_LENGTH_MAX};
use crate::rules::seen_by_nobody;
use crate::status::record_of;
use crate::verdict::{State, Verdicts};

/// Longest message about a policy: two names and a warning fit.
const MESSAGE_LENGTH_MAX: usize = 2 * WARNING_LENGTH_MAX;

/// What is checked, in the order of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Check {
    /// Each node has a record that can be read.
    Records,
    /// Each record claims what its Node has, and nobody else's.
    Claims,
    /// No key is named by two.
    Keys,
    /// What is plaintext was asked for.
    Plaintext,
    /// The admission policies are in force.
    Policies,
}

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum CheckResult {
    /// Nothing is wrong.
    Ok,
    /// Something is; a finding each.
    Failed,
    /// There is nothing to check here.
    Skipped,
    /// The user may not read what is to be checked.
    Denied,
}

/// One finding, or a check that found nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    name: Check,
    result: CheckResult,
    /// What it is about, such as `node/node-1`.
    object: Option<String>,
    /// A word: why a node does not count.
    reason: Option<&'static str>,
    message: String,
}

impl Check {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Records => "records",
            Self::Claims => "claims",
            Self::Keys => "keys",
            Self::Plaintext => "plaintext",
            Self::Policies => "policies",
        }
    }

    /// The check that a node fails for this reason.
    const fn of(reason: Reason) -> Self {
        match reason {
            Reason::NoRecord
            | Reason::UnreadableManifest
            | Reason::UnreadableRecord
            | Reason::UnreadableRequests
            | Reason::Misnamed
            | Reason::GenerationWentBack => Self::Records,
            Reason::NoPodCidrs
            | Reason::DefaultRoute
            | Reason::NotItsPodCidrs
            | Reason::ContainsNodeAddress
            | Reason::OutsideClusterCidrs
            | Reason::EndpointUnusable
            | Reason::EndpointInClusterCidrs
            | Reason::EndpointForeign
            | Reason::AddressInPodCidrs
            | Reason::PodCidrsTaken => Self::Claims,
            Reason::KeyTaken | Reason::KeyContested => Self::Keys,
        }
    }

    /// What it says that is well, for a check that found nothing.
    fn all_is_well(self, nodes: &Nodes, is_cluster_known: bool) -> String {
        let count = nodes.nodes.len();
        match self {
            Self::Records => format!("{count} nodes, each with a record that can be read"),
            Self::Claims if is_cluster_known => {
                "each record claims what its Node has, inside the cluster's pod CIDRs".to_owned()
            }
            Self::Claims => "each record claims what its Node has; whether that lies inside the \
                             cluster's pod CIDRs needs --cluster-cidr"
                .to_owned(),
            Self::Keys => "no key is named by two nodes".to_owned(),
            Self::Plaintext => "no node is plaintext without a request".to_owned(),
            Self::Policies => "all policies of deploy/base are in force".to_owned(),
        }
    }
}

impl CheckResult {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Denied => "denied",
        }
    }

    const fn outcome(self) -> Outcome {
        match self {
            Self::Ok | Self::Skipped => Outcome::Ok,
            Self::Failed => Outcome::Degraded,
            Self::Denied => Outcome::Denied,
        }
    }
}

/// Every check, with what it found. `is_cluster_known` is whether the policy has the cluster's own
/// CIDRs, and not those of its Nodes in their place.
pub(crate) fn report(
    nodes: &Nodes,
    policies: &Policies,
    policy: &Policy,
    is_cluster_known: bool,
) -> Report<Finding> {
    let mut found = of_nodes(nodes, policy);
    found.extend(of_policies(policies));
    let checks = [
        Check::Records,
        Check::Claims,
        Check::Keys,
        Check::Plaintext,
        Check::Policies,
    ];
    let mut rows = Vec::new();
    for check in checks {
        let of_check = found.iter().filter(|finding| finding.name == check);
        let before = rows.len();
        rows.extend(of_check.cloned());
        if rows.len() == before {
            rows.push(Finding {
                name: check,
                result: CheckResult::Ok,
                object: None,
                reason: None,
                message: check.all_is_well(nodes, is_cluster_known),
            });
        }
    }
    let outcomes = rows.iter().map(|row| row.result.outcome());
    Report {
        outcome: outcomes.max().unwrap_or(Outcome::Ok),
        rows,
        note: None,
    }
}

fn of_nodes(nodes: &Nodes, policy: &Policy) -> Vec<Finding> {
    let mesh = seen_by_nobody(nodes, policy);
    let verdicts = Verdicts::new(nodes, &mesh);
    let finding = |name, object: &str, reason: &'static str, message| Finding {
        name,
        result: CheckResult::Failed,
        object: Some(format!("node/{object}")),
        reason: Some(reason),
        message,
    };
    let refused = verdicts.refused().map(|(name, refused)| {
        let Refused { reason, message } = refused;
        finding(Check::of(*reason), name, reason.as_str(), message.clone())
    });
    let plaintext = mesh.peers.keys().filter_map(|name| {
        let node = nodes.nodes.get(name)?;
        let record = record_of(node)?;
        let verdict = verdicts.on(name.as_str(), Some((&**node, &record)), true);
        let is_undeclared = verdict.state == State::Undeclared;
        let message = verdict.message.filter(|_| is_undeclared)?;
        let reason = verdict.state.reason()?;
        Some(finding(Check::Plaintext, name.as_str(), reason, message))
    });
    refused.chain(plaintext).collect()
}

fn of_policies(policies: &Policies) -> Vec<Finding> {
    let finding = |result, object: Option<&str>, message: &str| Finding {
        name: Check::Policies,
        result,
        object: object.map(|name| format!("validatingadmissionpolicy/{name}")),
        reason: None,
        message: printable(message, MESSAGE_LENGTH_MAX),
    };
    match policies {
        Policies::NotInUse => {
            let message = "a folder has none: its file permissions say who may write what";
            vec![finding(CheckResult::Skipped, None, message)]
        }
        Policies::Denied(why) => {
            let message = format!("you may not read them: {why}");
            vec![finding(CheckResult::Denied, None, &message)]
        }
        Policies::Read(installed) => {
            let of_one = |one: &Installed| {
                let failed =
                    |problem: String| finding(CheckResult::Failed, Some(one.name), &problem);
                one.problems().into_iter().map(failed).collect::<Vec<_>>()
            };
            installed.iter().flat_map(of_one).collect()
        }
    }
}

impl Row for Finding {
    const KIND: &'static str = "FindingList";
    const COLUMNS: &'static [&'static str] = &["NAME", "RESULT", "OBJECT", "MESSAGE"];
    const WIDE_COLUMNS: &'static [&'static str] = &[];

    fn cells(&self, _: Timestamp) -> Vec<String> {
        vec![
            self.name.as_str().to_owned(),
            self.result.as_str().to_owned(),
            cell(self.object.as_ref()),
            self.message.clone(),
        ]
    }

    fn wide_cells(&self, _now: Timestamp) -> Vec<String> {
        Vec::new()
    }

    fn object(&self) -> Option<String> {
        self.object.clone()
    }
}
