use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use podwire_testbed::capture::Count;
use podwire_testbed::{Answer, CaptureReport, IpVersion, IperfResult, PodId, Protocol};

use super::*;

fn count(frames: u64) -> Count {
    Count {
        frames,
        bytes: frames * 1000,
    }
}

/// One pair of pods on two nodes, each way.
fn results() -> Vec<PairResult> {
    let source = IpAddr::V4(Ipv4Addr::new(10, 244, 1, 2));
    [(1, 2), (2, 1)]
        .map(|(from, to)| PairResult {
            from: PodId { node: from, pod: 1 },
            to: PodId { node: to, pod: 1 },
            protocol: Protocol::Udp,
            version: IpVersion::V4,
            attempts: 1,
            outcome: Ok(Answer {
                source,
                source_seen: source,
                round_trip: Duration::ZERO,
            }),
        })
        .to_vec()
}

fn measurement(mode: Mode) -> Measurement {
    let mut seen = CaptureReport::default();
    match mode {
        Mode::Encrypted => seen.wireguard.transport = count(4),
        Mode::HostNetwork => (seen.plaintext, seen.cookies) = (count(4), count(4)),
    }
    Measurement {
        mode,
        results: results(),
        underlay: seen.clone(),
        underlay_during_iperf3: seen,
        iperf3: IperfResult {
            gbits_per_second: 1.0,
            bytes: 4000,
            retransmits: 0,
            cpu_seconds: 0.5,
        },
        iperf3_version: IpVersion::V4,
        status: String::new(),
        lanes: 2,
        at_the_end: None,
    }
}

/// The one fault of a measurement that was whole before `change`.
fn fault_after(mode: Mode, change: impl FnOnce(&mut Measurement)) -> String {
    let mut measurement = measurement(mode);
    assert_eq!(faults(&measurement), [""; 0]);
    change(&mut measurement);
    let faults = faults(&measurement);
    assert_eq!(faults.len(), 1, "{faults:?}");
    faults[0].clone()
}

#[test]
fn plaintext_of_any_kind_is_a_fault_of_the_encrypted_mesh() {
    let by_address = fault_after(Mode::Encrypted, |it| it.underlay.plaintext = count(1));
    assert!(by_address.contains("1 frames of plaintext"), "{by_address}");
    let by_cookie = fault_after(Mode::Encrypted, |it| it.underlay.cookies = count(1));
    assert!(by_cookie.contains("cookie"), "{by_cookie}");
    let later = fault_after(Mode::Encrypted, |it| {
        it.underlay_during_iperf3.plaintext = count(1);
    });
    assert!(later.contains("during iperf3"), "{later}");
    fault_after(Mode::Encrypted, |it| it.underlay.one_sided = count(1));
    fault_after(Mode::Encrypted, |it| {
        it.underlay.wireguard.malformed = count(1)
    });
}

#[test]
fn a_capture_that_saw_too_little_is_a_fault() {
    let blind = fault_after(Mode::Encrypted, |it| {
        it.underlay.wireguard.transport = count(0)
    });
    assert!(blind.contains("blind"), "{blind}");
    fault_after(Mode::Encrypted, |it| {
        it.underlay.wireguard.transport = Count {
            frames: 4,
            bytes: 383,
        };
    });
    fault_after(Mode::Encrypted, |it| it.iperf3.bytes = 1 << 30);
    let blind = fault_after(Mode::HostNetwork, |it| it.underlay.plaintext = count(0));
    assert!(blind.contains("saw no plaintext"), "{blind}");
    let blind = fault_after(Mode::HostNetwork, |it| it.underlay.cookies = count(0));
    assert!(
        blind.contains("no frame with the probes' cookie"),
        "{blind}"
    );
    fault_after(Mode::HostNetwork, |it| it.underlay.plaintext = count(3));
    fault_after(Mode::HostNetwork, |it| it.underlay.cookies = count(3));
    fault_after(Mode::HostNetwork, |it| it.iperf3.bytes = 1 << 30);
}

#[test]
fn an_encrypted_control_is_no_control() {
    let fault = fault_after(Mode::HostNetwork, |it| {
        it.underlay.wireguard.transport = count(1)
    });
    assert!(fault.contains("no control"), "{fault}");
}

#[test]
fn a_pair_that_fails_or_is_translated_is_a_fault() {
    for mode in [Mode::Encrypted, Mode::HostNetwork] {
        let translated = fault_after(mode, |it| {
            let Ok(answer) = &mut it.results[0].outcome else {
                unreachable!()
            };
            answer.source_seen = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 11));
        });
        assert!(translated.contains("1 of 2 pairs"), "{translated}");
        assert!(translated.contains("seen as 192.0.2.11"), "{translated}");
        fault_after(mode, |it| it.results[1].outcome = Err("refused".to_owned()));
    }
}

#[test]
fn no_question_and_no_byte_are_faults() {
    let mut measurement = measurement(Mode::Encrypted);
    measurement.results.clear();
    measurement.iperf3.bytes = 0;
    measurement.at_the_end = Some("the agent of node-1 ended".to_owned());
    let faults = faults(&measurement);
    assert_eq!(faults.len(), 3, "{faults:?}");
    assert!(
        faults.iter().all(|fault| fault.starts_with("encrypted: ")),
        "{faults:?}"
    );
}
