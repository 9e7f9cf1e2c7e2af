//! Who may change what of a Node, asked of a real API server by every way that it knows, with real
//! tokens: `deploy/base` and its overlays.

mod agent;
mod api;
mod change;
mod key_requests;
mod kubelets;
pub(crate) mod kustomizations;
mod others;
mod people;
pub(crate) mod scene;
mod values;

use podwire_testbed::suite::Test;

pub(crate) const TESTS: &[Test] = &[
    (
        "an_agent_writes_its_own_record_and_nothing_else_of_any_node",
        agent::writes_its_own_record_and_nothing_else,
    ),
    (
        "an_agent_has_no_right_but_to_what_it_needs",
        agent::has_no_right_but_to_what_it_needs,
    ),
    (
        "an_agent_mends_what_somebody_else_broke_in_its_record",
        agent::mends_what_somebody_else_broke,
    ),
    (
        "an_agent_loses_its_token_with_its_pod",
        agent::loses_its_token_with_its_pod,
    ),
    (
        "nobody_but_the_agent_writes_records",
        others::nobody_but_the_agent_writes_records,
    ),
    (
        "who_may_write_nodes_goes_on_as_ever_and_makes_no_requests",
        others::who_may_write_nodes_goes_on_as_ever,
    ),
    (
        "an_operator_writes_requests_in_its_own_name",
        others::an_operator_writes_requests_in_its_own_name,
    ),
    (
        "an_operator_writes_nothing_else_and_not_in_anothers_name",
        others::an_operator_writes_nothing_else,
    ),
    (
        "keyctl_rotates_aborts_and_revokes_with_the_operators_role_alone",
        key_requests::an_operator_rotates_aborts_and_revokes,
    ),
    (
        "keyctl_of_anybody_else_is_denied_and_changes_nothing",
        key_requests::anybody_else_is_denied,
    ),
    (
        "heartbeats_of_kubelets_are_never_blocked",
        kubelets::heartbeats_are_never_blocked,
    ),
    (
        "no_kubelet_writes_a_record_or_a_request",
        kubelets::no_kubelet_writes_a_record_or_a_request,
    ),
    (
        "a_compromised_node_takes_nothing_of_another",
        kubelets::a_compromised_node_takes_nothing_of_another,
    ),
    (
        "each_kustomization_is_accepted_strictly_and_its_expressions_have_no_type_error",
        kustomizations::are_accepted_strictly_and_their_types_are_right,
    ),
    (
        "the_overlay_network_available_allows_one_condition_and_nothing_else",
        kustomizations::the_overlay_network_available_allows_that_alone,
    ),
];
