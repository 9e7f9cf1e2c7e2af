use super::*;

const GENERATION: u64 = 4;

fn at(phase: Phase) -> Rotation {
    Rotation {
        key_generation: GENERATION,
        phase,
    }
}

fn counts(confirmed: usize, live: usize) -> Confirmations {
    Confirmations { confirmed, live }
}

const PROMOTED: Phase = Phase::Promoted(Confirmations {
    confirmed: 2,
    live: 3,
});

const PHASES: [Phase; 5] = [
    Phase::Settled,
    Phase::Announced,
    PROMOTED,
    Phase::Withdrawn,
    Phase::Revoked,
];

/// Everything that could be waited for has come.
fn ripe(asked: Option<Verb>) -> Situation {
    Situation {
        is_in_force: true,
        published_for: Some(CONFIRM_DEADLINE),
        confirmations: counts(3, 3),
        asked,
    }
}

#[test]
fn a_rotation_that_is_asked_for_goes_through_its_three_steps_and_ends() {
    let confirmations = counts(3, 3);
    let mut rotation = at(Phase::Settled);
    let mut steps = Vec::new();
    let asked =
        |rotation: Rotation| (rotation.key_generation == GENERATION).then_some(Verb::Rotate);
    while let Some(step) = rotation.step(&ripe(asked(rotation))) {
        steps.push(step);
        rotation = rotation.after(step);
    }
    let expected = [Step::Prepare, Step::Promote(confirmations), Step::Retire];
    assert_eq!(steps, expected);
    assert_eq!(rotation.key_generation, GENERATION + 1);
    assert_eq!(rotation.phase, Phase::Settled);
}

#[test]
fn nothing_but_what_an_operator_demands_is_done_before_record_and_data_plane_have_the_phase() {
    for phase in PHASES {
        for asked in [None, Some(Verb::Rotate)] {
            let unpublished = Situation {
                published_for: None,
                ..ripe(asked)
            };
            let not_in_force = Situation {
                is_in_force: false,
                ..ripe(asked)
            };
            assert_eq!(at(phase).step(&unpublished), None, "{phase}");
            assert_eq!(at(phase).step(&not_in_force), None, "{phase}");
        }
    }
}

#[test]
fn a_peer_that_does_not_confirm_is_waited_for_until_the_deadline() {
    let second = Duration::from_secs(1);
    let waiting = |published_for| Situation {
        published_for: Some(published_for),
        confirmations: counts(2, 3),
        ..ripe(None)
    };
    let announced = at(Phase::Announced);
    assert_eq!(announced.step(&waiting(CONFIRM_DEADLINE - second)), None);
    let late = announced.step(&waiting(CONFIRM_DEADLINE));
    assert_eq!(late, Some(Step::Promote(counts(2, 3))));
}

#[test]
fn an_agent_that_was_started_again_waits_for_its_sessions() {
    let without = |published_for| Situation {
        published_for: Some(published_for),
        confirmations: counts(0, 0),
        ..ripe(None)
    };
    let announced = at(Phase::Announced);
    assert_eq!(announced.step(&without(Duration::ZERO)), None);
    let lone = announced.step(&without(SESSIONS_RETURN));
    assert_eq!(lone, Some(Step::Promote(counts(0, 0))));
}

#[test]
fn keys_that_were_given_up_receive_for_as_long_as_a_session_lives() {
    let second = Duration::from_secs(1);
    for (phase, step) in [(PROMOTED, Step::Retire), (Phase::Withdrawn, Step::Forget)] {
        let after = |published_for| {
            let published_for = Some(published_for);
            let situation = Situation {
                published_for,
                ..ripe(None)
            };
            at(phase).step(&situation)
        };
        assert_eq!(after(RETIRE_AFTER - second), None);
        assert_eq!(after(RETIRE_AFTER), Some(step));
    }
}

#[test]
fn an_abort_withdraws_what_is_announced_and_nothing_else() {
    let unpublished = Situation {
        published_for: None,
        ..ripe(Some(Verb::Abort))
    };
    for situation in [ripe(Some(Verb::Abort)), unpublished] {
        let step = at(Phase::Announced).step(&situation);
        assert_eq!(step, Some(Step::Withdraw));
    }
    let withdrawn = at(Phase::Announced).after(Step::Withdraw);
    assert_eq!(withdrawn, at(Phase::Withdrawn));
    assert_eq!(withdrawn.after(Step::Forget), at(Phase::Settled));
    // The request stays where it is, and harms no later phase.
    assert_eq!(at(Phase::Settled).step(&ripe(Some(Verb::Abort))), None);
    let promoted = at(PROMOTED).step(&ripe(Some(Verb::Abort)));
    assert_eq!(promoted, Some(Step::Retire));
}

#[test]
fn a_revocation_waits_for_nothing_and_is_done_once() {
    for phase in PHASES {
        let situation = Situation {
            is_in_force: false,
            published_for: None,
            ..ripe(Some(Verb::Revoke))
        };
        assert_eq!(at(phase).step(&situation), Some(Step::Replace));
        let after = at(phase).after(Step::Replace);
        assert_eq!(after.key_generation, GENERATION + 1);
        assert_eq!(after.phase, Phase::Revoked);
        assert_eq!(after.step(&ripe(None)), None);
    }
}

#[test]
fn a_request_is_answered_for_each_phase() {
    let answers = |verb| PHASES.map(|phase| at(phase).answer(verb));
    use Answer::{NothingToAbort, Underway, Waits};
    let rotate = [Underway, Underway, Waits, Waits, Waits];
    assert_eq!(answers(Verb::Rotate), rotate);
    let abort = [
        NothingToAbort,
        Underway,
        NothingToAbort,
        Underway,
        NothingToAbort,
    ];
    assert_eq!(answers(Verb::Abort), abort);
    assert_eq!(answers(Verb::Revoke), [Underway; 5]);
}

#[test]
fn a_revocation_of_keys_that_still_receive_counts_and_no_other_late_request_does() {
    let request = |verb, if_key_generation| crate::request::Request {
        verb,
        if_key_generation,
        by: "alice".to_owned(),
    };
    for phase in PHASES {
        let rotation = at(phase);
        let before = rotation.key_generation - 1;
        for verb in Verb::ALL {
            assert!(rotation.holds(&request(verb, before + 1)));
            let counts = verb == Verb::Revoke && matches!(phase, Phase::Promoted(_));
            assert_eq!(rotation.holds(&request(verb, before)), counts);
            assert!(!rotation.holds(&request(verb, before + 2)));
            assert!(!rotation.holds(&request(verb, u64::MAX)));
        }
    }
}

#[test]
fn revoked_keys_are_told_for_a_while_before_others_are_announced() {
    let revoked = at(Phase::Revoked);
    let mut situation = ripe(Some(Verb::Rotate));
    situation.published_for = Some(REVOCATION_TOLD - Duration::from_secs(1));
    assert_eq!(revoked.step(&situation), None);
    situation.published_for = Some(REVOCATION_TOLD);
    assert_eq!(revoked.step(&situation), Some(Step::Prepare));
}

#[test]
fn a_request_of_the_last_generation_of_all_is_never_done() {
    for phase in [Phase::Settled, Phase::Revoked] {
        let last = Rotation {
            key_generation: u64::MAX,
            phase,
        };
        for verb in Verb::ALL {
            assert_eq!(last.step(&ripe(Some(verb))), None);
            assert_eq!(last.answer(verb), Answer::NoGenerationLeft);
        }
    }
}

#[test]
fn a_phase_is_written_as_it_is_read_and_nothing_else_is_one() {
    for phase in PHASES {
        assert_eq!(phase.to_string().parse(), Ok(phase));
        assert!(Phase::NAMES.contains(&phase.name()));
    }
    assert_eq!(Phase::Settled.told(), None);
    let told = PROMOTED.told();
    assert_eq!(told.as_deref(), Some("promoted confirmed=2/3"));
    for text in [
        "",
        "Settled",
        "promoted",
        "promoted confirmed=",
        "promoted confirmed=1",
        "promoted confirmed=-1/2",
        "announced ",
    ] {
        assert_eq!(text.parse::<Phase>(), Err(InvalidPhase), "{text}");
    }
}

mod fleet;
mod model;
mod world;
