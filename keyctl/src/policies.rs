//! The admission policies that keep a node from speaking for another, and whether they are in
//! force.

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};

/// The policies of `deploy/base`, by the name that each shares with its binding: an agent writes
/// its own Node's record only, nobody else writes records, a kubelet does not choose its pod CIDRs,
/// and an operator changes nothing but requests.
pub(crate) const NAMES: [&str; 4] = [
    "podwire-agent-own-node",
    "podwire-annotations",
    "podwire-kubelet",
    "podwire-operator",
];

/// Where policies come from, for remedies.
const REMEDY: &str = "kubectl apply -k deploy/base";

/// Longest warning of the API server that is repeated, in characters.
pub(crate) const WARNING_LENGTH_MAX: usize = 200;

/// What is known of the policies.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Policies {
    /// A folder has none: who may write which file is up to the file system.
    NotInUse,
    /// The user may not read them; what the API server says.
    Denied(String),
    /// As they are on the cluster.
    Read(Vec<Installed>),
}

/// One policy as it is on the cluster.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Installed {
    pub(crate) name: &'static str,
    pub(crate) policy: Option<ValidatingAdmissionPolicy>,
    pub(crate) binding: Option<ValidatingAdmissionPolicyBinding>,
}

impl Installed {
    /// Why the policy is not in force as a whole; empty when it is.
    pub(crate) fn problems(&self) -> Vec<String> {
        let Some(policy) = &self.policy else {
            return vec![format!("it is not there: {REMEDY}")];
        };
        let mut problems = policy_problems(policy);
        problems.extend(self.binding_problem());
        problems
    }

    fn binding_problem(&self) -> Option<String> {
        let bound = self.binding.as_ref().and_then(|it| it.spec.as_ref());
        let bound = bound.filter(|spec| spec.policy_name.as_deref() == Some(self.name));
        let Some(spec) = bound else {
            return Some(format!("no binding of its name binds it: {REMEDY}"));
        };
        let actions = spec.validation_actions.as_deref().unwrap_or_default();
        if !actions.iter().any(|action| action == "Deny") {
            let actions = actions.join(", ");
            return Some(format!(
                "its binding's validationActions are [{actions}], so that it denies nothing: \
                 {REMEDY}"
            ));
        }
        // A policy is to hold for every Node and without parameters.
        let narrowed = spec.match_resources.is_some() || spec.param_ref.is_some();
        narrowed.then(|| {
            format!(
                "its binding has matchResources or paramRef, so that it may leave Nodes out: \
                 {REMEDY}"
            )
        })
    }
}

fn policy_problems(policy: &ValidatingAdmissionPolicy) -> Vec<String> {
    let mut problems = Vec::new();
    let failure_policy = policy.spec.as_ref().map(|spec| &spec.failure_policy);
    // Fail is the default.
    if let Some(Some(other)) = failure_policy
        && other != "Fail"
    {
        problems.push(format!(
            "its failurePolicy is {other}, so that an error in it lets everything pass: {REMEDY}"
        ));
    }
    let checked = policy
        .status
        .as_ref()
        .and_then(|it| it.type_checking.as_ref());
    let warnings = checked.and_then(|it| it.expression_warnings.as_ref());
    problems.extend(warnings.into_iter().flatten().map(|found| {
        // The lines after the first one draw an arrow.
        let first = found.warning.lines().find(|line| !line.trim().is_empty());
        let warning: String = first
            .unwrap_or_default()
            .chars()
            .take(WARNING_LENGTH_MAX)
            .collect();
        format!(
            "the API server warns of {}: {}",
            found.field_ref,
            warning.trim()
        )
    }));
    problems
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NAME: &str = NAMES[0];

    fn installed(policy: &serde_json::Value, binding: &serde_json::Value) -> Installed {
        Installed {
            name: NAME,
            policy: serde_json::from_value(policy.clone()).expect("a policy"),
            binding: serde_json::from_value(binding.clone()).expect("a binding"),
        }
    }

    fn policy(spec: &serde_json::Value) -> serde_json::Value {
        json!({"metadata": {"name": NAME}, "spec": spec})
    }

    fn bound(spec: &serde_json::Value) -> Installed {
        installed(
            &policy(&json!({"failurePolicy": "Fail"})),
            &json!({"metadata": {"name": NAME}, "spec": spec}),
        )
    }

    #[track_caller]
    fn one_problem(installed: &Installed, expected: &str) {
        let problems = installed.problems();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains(expected), "{problems:?}");
    }

    #[test]
    fn a_policy_that_is_bound_and_denies_is_in_force() {
        let spec = json!({"policyName": NAME, "validationActions": ["Deny", "Audit"]});
        assert_eq!(bound(&spec).problems(), [""; 0]);
        let by_default = installed(&policy(&json!({})), &json!({"metadata": {}, "spec": spec}));
        assert_eq!(by_default.problems(), [""; 0]);
    }

    #[test]
    fn a_policy_that_is_missing_not_bound_or_denies_nothing_is_told() {
        let nothing = Installed {
            name: NAME,
            policy: None,
            binding: None,
        };
        one_problem(&nothing, "not there");
        one_problem(&installed(&policy(&json!({})), &json!(null)), "no binding");
        let deny = json!(["Deny"]);
        let other = json!({"policyName": "other", "validationActions": deny});
        one_problem(&bound(&other), "no binding");
        let audit = json!({"policyName": NAME, "validationActions": ["Audit", "Warn"]});
        one_problem(&bound(&audit), "[Audit, Warn]");
        one_problem(&bound(&json!({"policyName": NAME})), "denies nothing");
        let narrowed = json!({
            "policyName": NAME,
            "validationActions": deny,
            "matchResources": {"objectSelector": {"matchLabels": {"a": "b"}}}
        });
        one_problem(&bound(&narrowed), "matchResources");
        let with_parameters = json!({
            "policyName": NAME,
            "validationActions": deny,
            "paramRef": {"name": "n", "parameterNotFoundAction": "Allow"}
        });
        one_problem(&bound(&with_parameters), "paramRef");
    }

    #[test]
    fn a_policy_that_fails_open_or_does_not_compile_is_told() {
        let binding = json!({
            "metadata": {"name": NAME},
            "spec": {"policyName": NAME, "validationActions": ["Deny"]}
        });
        let open = policy(&json!({"failurePolicy": "Ignore"}));
        one_problem(&installed(&open, &binding), "failurePolicy is Ignore");
        let warned = json!({
            "metadata": {"name": NAME},
            "status": {"typeChecking": {"expressionWarnings": [{
                "fieldRef": "spec.validations[0].expression",
                "warning": "\nERROR: <input>:1:7: undefined field 'spce'\n | object.spce"
            }]}}
        });
        one_problem(
            &installed(&warned, &binding),
            "spec.validations[0].expression: ERROR: <input>:1:7: undefined field 'spce'",
        );
    }
}
