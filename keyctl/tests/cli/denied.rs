//! API servers that say no, and those that say nothing.

use std::path::Path;

use crate::api_server::{forbidden, kubeconfig, nobody, start};
use crate::invocation::{Ran, keyctl, run};

/// Nobody may do anything.
fn nothing(_: &str) -> (u16, String) {
    forbidden("nodes")
}

/// Nodes may be listed, of which there is one; all else is forbidden.
fn nodes_alone(path: &str) -> (u16, String) {
    if !path.starts_with("/api/v1/nodes") {
        return forbidden("validatingadmissionpolicies");
    }
    let list = r#"{"kind": "NodeList", "apiVersion": "v1", "metadata": {"resourceVersion": "7"},
        "items": [{"metadata": {"name": "node-1", "uid": "u", "resourceVersion": "6",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "annotations": {"podwire.dev/mode": "encrypted",
                "podwire.dev/pod-cidrs": "10.244.1.0/24",
                "podwire.dev/endpoints": "192.0.2.11:51880",
                "podwire.dev/public-key": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="}},
            "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"]},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.11"}]}}]}"#;
    (200, list.to_owned())
}

/// Nodes may be listed, and there is no policy.
fn no_policies(path: &str) -> (u16, String) {
    if path.starts_with("/api/v1/nodes") {
        return nodes_alone(path);
    }
    let body = r#"{"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "not found", "reason": "NotFound", "code": 404}"#;
    (404, body.to_owned())
}

fn with(arguments: &[&str], kubeconfig: &Path) -> Ran {
    run(keyctl(arguments).arg("--kubeconfig").arg(kubeconfig))
}

#[test]
fn who_may_not_list_nodes_is_told_so_in_one_sentence_and_exit_code_5() {
    let file = kubeconfig(start(nothing), nobody());
    for arguments in [
        &["status"] as &[&str],
        &["peers", "node-1"],
        &["verify", "--watch"],
    ] {
        let ran = with(arguments, file.path());
        assert_eq!((ran.code, &*ran.output), (5, ""), "{ran:?}");
        assert_eq!(ran.complaint.lines().count(), 1, "{ran:?}");
        assert!(
            ran.complaint.contains("nodes is forbidden: User \"eve\""),
            "{ran:?}"
        );
        assert!(ran.complaint.contains("RBAC"), "{ran:?}");
    }
}

#[test]
fn who_may_not_read_the_policies_is_told_all_else_and_exit_code_5() {
    let file = kubeconfig(start(nodes_alone), nobody());
    let ran = with(&["status"], file.path());
    assert_eq!((ran.code, &*ran.complaint), (0, ""), "{ran:?}");
    assert!(ran.output.contains("node-1   ok"), "{ran:?}");
    let ran = with(&["verify"], file.path());
    assert_eq!(ran.code, 5, "{ran:?}");
    let row = ran.output.lines().find(|line| line.starts_with("policies"));
    let row = row.expect("a row");
    assert!(row.contains("denied") && row.contains("forbidden"), "{row}");
    assert!(ran.output.contains("claims      ok"), "{ran:?}");
}

#[test]
fn policies_that_are_not_there_are_exit_code_3() {
    let file = kubeconfig(start(no_policies), nobody());
    let ran = with(&["verify", "-o", "name"], file.path());
    assert_eq!(ran.code, 3, "{ran:?}");
    let names = "validatingadmissionpolicy/podwire-agent-own-node\n\
                 validatingadmissionpolicy/podwire-annotations\n\
                 validatingadmissionpolicy/podwire-kubelet\n\
                 validatingadmissionpolicy/podwire-operator\n";
    assert_eq!(ran.output, names);
}

#[test]
fn an_api_server_that_does_not_answer_is_one_sentence_and_exit_code_1() {
    let file = kubeconfig(nobody(), nobody());
    let ran = with(&["status"], file.path());
    assert_eq!((ran.code, &*ran.output), (1, ""), "{ran:?}");
    assert_eq!(ran.complaint.lines().count(), 1, "{ran:?}");
    assert!(ran.complaint.contains("does not answer"), "{ran:?}");
}

#[test]
fn the_kubeconfig_is_the_flags_or_the_variables_and_the_context_the_flags() {
    let (here, there) = (start(nodes_alone), start(nothing));
    let file = kubeconfig(there, here);
    assert_eq!(with(&["status", "--context", "other"], file.path()).code, 0);
    let ran = run(keyctl(&["status", "--context", "other"]).env("KUBECONFIG", file.path()));
    assert_eq!(ran.code, 0, "{ran:?}");
    let ran = run(keyctl(&["status"]).env("KUBECONFIG", file.path()));
    assert_eq!(ran.code, 5, "{ran:?}");
    let home = tempfile::tempdir().expect("a home folder");
    std::fs::create_dir(home.path().join(".kube")).expect("a folder");
    std::fs::copy(file.path(), home.path().join(".kube/config")).expect("copy");
    let ran = run(keyctl(&["status"]).env("HOME", home.path()));
    assert_eq!(ran.code, 5, "{ran:?}");
}

#[test]
fn a_kubeconfig_that_cannot_be_used_is_one_sentence_and_exit_code_1() {
    let folder = tempfile::tempdir().expect("a folder");
    let gone = with(&["status"], &folder.path().join("gone"));
    let file = kubeconfig(nobody(), nobody());
    let context = with(&["status", "--context", "third"], file.path());
    let none = run(keyctl(&["status"]).env("HOME", folder.path()));
    let of_none = run(keyctl(&["status", "--context", "c"]).env("HOME", folder.path()));
    for ran in [gone, context, none, of_none] {
        assert_eq!((ran.code, &*ran.output), (1, ""), "{ran:?}");
        assert_eq!(ran.complaint.lines().count(), 1, "{ran:?}");
        assert!(ran.complaint.contains("kubeconfig"), "{ran:?}");
    }
}
