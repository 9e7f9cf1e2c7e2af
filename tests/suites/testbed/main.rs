//! The testbed's own tests: its checks must be able to fail before anything else relies on them.
//!
//! Nodes have no real agents here.

mod agent_process;
mod host_routes;
mod impairment;
mod lifetime;
mod plaintext_check;
mod traffic;

use std::process::ExitCode;

use podwire_testbed::suite;

fn main() -> ExitCode {
    if std::env::var_os(lifetime::VICTIM_VARIABLE).is_some() {
        return lifetime::victim().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    suite::run_without_agents(vec![
        (
            "plain_host_routes_reach_every_pod_and_the_capture_sees_plaintext",
            host_routes::plain_routes,
        ),
        (
            "plain_host_routes_cross_the_router_between_two_lans",
            host_routes::two_lans,
        ),
        (
            "one_version_alone_reaches_every_pod",
            host_routes::single_versions,
        ),
        ("pods_without_routes_reach_nobody", host_routes::no_routes),
        (
            "a_capture_of_the_wrong_network_sees_nothing",
            plaintext_check::wrong_capture,
        ),
        (
            "a_recorded_capture_is_a_pcap_file",
            plaintext_check::pcap_file,
        ),
        (
            "a_translated_payload_is_found_by_its_cookie",
            plaintext_check::translated_payload,
        ),
        (
            "undeclared_plaintext_fails_the_check",
            plaintext_check::check_can_fail,
        ),
        (
            "wireguard_messages_are_counted_by_type",
            plaintext_check::message_types,
        ),
        ("a_loss_rule_drops_its_share", impairment::loss),
        ("a_black_hole_is_one_way_and_heals", impairment::black_hole),
        (
            "a_narrow_path_between_lans_answers_too_big",
            impairment::narrow_path,
        ),
        (
            "counters_lose_nothing_on_a_good_path",
            traffic::counters_on_a_good_path,
        ),
        (
            "counters_see_gaps_losses_and_resets",
            traffic::counters_on_a_bad_path,
        ),
        ("iperf3_is_run_and_read", traffic::iperf),
        (
            "a_userspace_link_delays_reorders_and_duplicates",
            traffic::link_quality,
        ),
        ("the_mtu_changes_while_running", traffic::mtu_change),
        ("twenty_nodes_come_up", host_routes::twenty_nodes),
        ("a_hidden_tun_device_is_missing", agent_process::hidden_tun),
        (
            "an_agent_is_started_watched_and_ended",
            agent_process::agent_process,
        ),
        ("everything_is_gone_after_a_drop", lifetime::gone_after_drop),
        (
            "everything_is_gone_after_a_kill",
            lifetime::gone_after_a_kill,
        ),
    ])
}
