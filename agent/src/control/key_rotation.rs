//! What this process knows of the rotation of the own keys beside the disk: since when the registry
//! has its record, who has confirmed, what is asked, what is to be told.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use podwire_core::node::NodeName;
use podwire_core::request::{Request, RequestError, Verb};
use podwire_core::rotation::{Answer, Confirmations, Phase, Rotation, Step};
use podwire_dataplane::PeerStatus;

use super::repeat_log::in_one_line;

/// The next keys are in the record.
const KEYS_ANNOUNCED: &str = "KeysAnnounced";
/// They are the current ones.
const KEYS_PROMOTED: &str = "KeysPromoted";
/// Those before are refused.
const KEYS_RETIRED: &str = "KeysRetired";
/// The announced keys are withdrawn.
const ROTATION_ABORTED: &str = "RotationAborted";
/// All keys of before are refused, as others may know them.
const KEYS_REVOKED: &str = "KeysRevoked";
/// Keys were promoted although peers have not confirmed them.
const DEADLINE_PASSED: &str = "RotationDeadlinePassed";
/// A request that cannot be read, or that this node cannot do.
const REQUEST_REFUSED: &str = "RequestRefused";

/// What is only told because it was asked for.
pub(super) const NORMAL: [&str; 5] = [
    KEYS_ANNOUNCED,
    KEYS_PROMOTED,
    KEYS_RETIRED,
    ROTATION_ABORTED,
    KEYS_REVOKED,
];

/// See the module.
#[derive(Debug, Default)]
pub(super) struct KeyRotation {
    /// Which phase's record the registry has, and since when this process knows it.
    published: Option<(Rotation, Instant)>,
    /// When this process announced keys.
    announced: Option<Instant>,
    /// How long the last rotation took from its announcement to the end of the keys before.
    pub(super) lasted: Option<Duration>,
    pub(super) peers: Peers,
    /// The request that counts, and what it comes to.
    pub(super) request: Option<(Request, Answer)>,
    /// What the Node asks for.
    pub(super) asked_at_node: Option<Verb>,
    /// Why requests are not done.
    pub(super) refused: Option<String>,
    /// What happened last, by the reason of its Event.
    told: BTreeMap<&'static str, String>,
}

/// Peers with a session while newer keys are to be confirmed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Peers {
    pub(super) confirmed: usize,
    /// Those that still use the keys which every peer knows.
    pub(super) waiting: Vec<NodeName>,
}

impl Peers {
    pub(super) fn of(in_use: &[PeerStatus]) -> Self {
        let is_live = |peer: &&PeerStatus| peer.lanes.iter().any(|lane| lane.confirmed);
        let (confirmed, waiting): (Vec<_>, Vec<_>) = in_use
            .iter()
            .filter(is_live)
            .partition(|peer| peer.is_on_newer());
        Self {
            confirmed: confirmed.len(),
            waiting: waiting.iter().map(|peer| peer.name.clone()).collect(),
        }
    }

    pub(super) const fn confirmations(&self) -> Confirmations {
        Confirmations {
            confirmed: self.confirmed,
            live: self.confirmed + self.waiting.len(),
        }
    }
}

/// Whether peers have newer keys to confirm in this phase.
pub(super) const fn is_confirmed_by_peers(phase: Phase) -> bool {
    matches!(phase, Phase::Announced | Phase::Promoted(_))
}

impl KeyRotation {
    /// How long the registry has had the record of this phase. `is_told` says whether it has;
    /// `None` while the registry says nothing, so that what it said last counts.
    pub(super) fn published_for(
        &mut self,
        rotation: Rotation,
        is_told: Option<bool>,
        now: Instant,
    ) -> Option<Duration> {
        let known = self.published.filter(|(of, _)| *of == rotation);
        self.published = match is_told {
            None => known,
            Some(false) => None,
            Some(true) => known.or(Some((rotation, now))),
        };
        let (_, since) = self.published?;
        Some(now.saturating_duration_since(since))
    }

    /// Takes the requests that there are; returns what is asked. `local` came over the admin
    /// socket: it counts where the Node asks for nothing, as a restart forgets it and the Node's
    /// goes on. A revocation always counts.
    pub(super) fn ask(
        &mut self,
        rotation: Rotation,
        (told, errors): (Option<Request>, Vec<RequestError>),
        local: Option<&Request>,
    ) -> Option<Verb> {
        self.asked_at_node = told.as_ref().map(|request| request.verb);
        let local = local.filter(|request| {
            let counts = told.is_none() || request.verb == Verb::Revoke;
            counts && rotation.holds(request)
        });
        let request = local.cloned().or(told);
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        self.refused = (!errors.is_empty()).then(|| in_one_line(&errors));
        let verb = request.as_ref().map(|request| request.verb);
        self.request = request.map(|request| {
            let answer = rotation.answer(request.verb);
            (request, answer)
        });
        verb
    }

    /// Whether a request over the admin socket is still to be done, or being done.
    pub(super) fn keeps(&self, rotation: Rotation, local: &Request) -> bool {
        let counts = self.request.as_ref().is_some_and(|(it, _)| it == local);
        // What is aborted stays so.
        let is_over = local.verb == Verb::Abort && rotation.phase != Phase::Announced;
        counts && !is_over && rotation.holds(local)
    }

    /// Requests to a node without keys in use come to nothing.
    pub(super) fn refuse(
        &mut self,
        (told, errors): (Option<Request>, Vec<RequestError>),
        local: Option<Request>,
        why: &str,
    ) {
        let request = told.into_iter().chain(local).next();
        let refused = request.map(|it| format!("{} by {}: {why}", it.verb.name(), it.by));
        let errors = errors.iter().map(ToString::to_string);
        let refused: Vec<String> = refused.into_iter().chain(errors).collect();
        self.refused = (!refused.is_empty()).then(|| in_one_line(&refused));
        self.request = None;
        self.peers = Peers::default();
    }

    /// Takes note of a step that is on disk, and of what `after` it is to be told.
    pub(super) fn made(&mut self, step: Step, after: Rotation, now: Instant) {
        let generation = after.key_generation;
        let by = match &self.request {
            Some((request, _)) => format!(", as {} asks", request.by),
            None => String::new(),
        };
        let (reason, note) = match step {
            Step::Prepare => {
                self.announced = Some(now);
                // The same may come again in this generation, and is news then.
                self.told.remove(ROTATION_ABORTED);
                let note = format!("key generation {generation}: next keys are announced{by}");
                (KEYS_ANNOUNCED, note)
            }
            Step::Promote(Confirmations { confirmed, live }) => {
                self.tell_late_peers(generation);
                let note = format!(
                    "key generation {generation} is in force, confirmed by {confirmed} of {live} peers"
                );
                (KEYS_PROMOTED, note)
            }
            Step::Retire => {
                let began = self.announced.take();
                self.lasted = began.map(|began| now.saturating_duration_since(began));
                let note = format!("key generation {generation}: the keys before are refused");
                (KEYS_RETIRED, note)
            }
            Step::Withdraw => {
                self.announced = None;
                self.told.remove(KEYS_ANNOUNCED);
                let note = format!("key generation {generation} stays in force{by}");
                (ROTATION_ABORTED, note)
            }
            Step::Replace => {
                self.announced = None;
                let note = format!("key generation {generation}: all keys before are refused{by}");
                (KEYS_REVOKED, note)
            }
            Step::Forget => return,
        };
        self.told.insert(reason, note);
    }

    fn tell_late_peers(&mut self, generation: u64) {
        if self.peers.waiting.is_empty() {
            return;
        }
        let names: Vec<String> = self.peers.waiting.iter().map(ToString::to_string).collect();
        let note = format!(
            "key generation {generation} is in force without {} of {} peers: {}; a peer without an agent \
             needs this node's public key of now before the previous one is refused",
            names.len(),
            self.peers.confirmations().live,
            in_one_line(&names)
        );
        self.told.insert(DEADLINE_PASSED, note);
    }

    /// What there is to say at the Node.
    pub(super) fn says(&self) -> impl Iterator<Item = (&'static str, String)> {
        let refused = self.refused.clone().map(|why| (REQUEST_REFUSED, why));
        self.told.clone().into_iter().chain(refused)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use podwire_core::key::PublicKey;
    use podwire_dataplane::{LaneStatus, PeerState, Traffic};

    use super::*;

    const ANNOUNCED: Rotation = Rotation {
        key_generation: 4,
        phase: Phase::Announced,
    };

    fn second(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn request(verb: Verb, if_key_generation: u64) -> Request {
        Request {
            verb,
            if_key_generation,
            by: "alice".to_owned(),
        }
    }

    fn peer(name: &str, lanes: &[(bool, bool)]) -> PeerStatus {
        let lane = |(confirmed, is_on_newer): &(bool, bool)| LaneStatus {
            last_handshake: None,
            confirmed: *confirmed,
            confirmed_key: PublicKey::from_bytes([9; 32]).ok(),
            is_on_newer: *is_on_newer,
            handshaking: false,
            endpoint: None::<SocketAddr>,
            sessions: 0,
            queued: 0,
            traffic: Traffic::default(),
        };
        PeerStatus {
            name: name.parse().expect("name"),
            state: PeerState::Idle,
            lanes: lanes.iter().map(lane).collect(),
        }
    }

    #[test]
    fn time_is_counted_from_when_the_registry_has_the_record_of_this_very_phase() {
        let start = Instant::now();
        let at = |count| start + second(count);
        let mut rotation = KeyRotation::default();
        assert_eq!(rotation.published_for(ANNOUNCED, None, at(0)), None);
        assert_eq!(rotation.published_for(ANNOUNCED, Some(false), at(1)), None);
        let counted = rotation.published_for(ANNOUNCED, Some(true), at(2));
        assert_eq!(counted, Some(Duration::ZERO));
        // A registry that is lost says nothing, and time goes on.
        for (told, now) in [(Some(true), 5), (None, 7)] {
            let counted = rotation.published_for(ANNOUNCED, told, at(now));
            assert_eq!(counted, Some(second(now - 2)));
        }
        let promoted = ANNOUNCED.after(Step::Promote(Confirmations::default()));
        assert_eq!(rotation.published_for(promoted, None, at(8)), None);
        // Somebody else has put another record in its place.
        rotation.published_for(promoted, Some(true), at(9));
        assert_eq!(rotation.published_for(promoted, Some(false), at(10)), None);
        let again = rotation.published_for(promoted, Some(true), at(20));
        assert_eq!(again, Some(Duration::ZERO));
    }

    #[test]
    fn a_peer_has_confirmed_when_every_lane_that_it_uses_has() {
        let peers = Peers::of(&[
            peer("node-1", &[(true, true), (true, true)]),
            peer("node-2", &[(true, true), (true, false)]),
            peer("node-3", &[(true, true), (false, false)]),
            peer("node-4", &[(false, false), (false, false)]),
            peer("node-5", &[(true, false)]),
        ]);
        let waiting: Vec<&str> = peers.waiting.iter().map(NodeName::as_str).collect();
        assert_eq!(waiting, ["node-2", "node-5"]);
        let expected = Confirmations {
            confirmed: 2,
            live: 4,
        };
        assert_eq!(peers.confirmations(), expected);
    }

    #[test]
    fn a_request_over_the_socket_counts_where_the_node_asks_for_nothing_and_a_revocation_always() {
        let mut rotation = KeyRotation::default();
        let mut ask = |told: Option<Verb>, local: Option<(Verb, u64)>| {
            let told = (told.map(|verb| request(verb, 4)), Vec::new());
            let local = local.map(|(verb, generation)| request(verb, generation));
            rotation.ask(ANNOUNCED, told, local.as_ref())
        };
        assert_eq!(ask(None, None), None);
        assert_eq!(ask(Some(Verb::Rotate), None), Some(Verb::Rotate));
        let (rotate, abort) = (Some(Verb::Rotate), (Verb::Abort, 4));
        assert_eq!(ask(None, Some(abort)), Some(Verb::Abort));
        // It would be forgotten by a restart, and the rotation go on.
        assert_eq!(ask(rotate, Some(abort)), rotate);
        assert_eq!(ask(rotate, Some((Verb::Revoke, 4))), Some(Verb::Revoke));
        assert_eq!(ask(rotate, Some((Verb::Revoke, 3))), rotate);
        assert_eq!(
            ask(Some(Verb::Abort), Some((Verb::Rotate, 4))),
            Some(Verb::Abort)
        );
    }

    #[test]
    fn an_abort_over_the_socket_is_over_once_the_keys_are_withdrawn() {
        let mut driver = KeyRotation::default();
        let (abort, nothing) = (request(Verb::Abort, 4), || (None, Vec::new()));
        driver.ask(ANNOUNCED, nothing(), Some(&abort));
        assert!(driver.keeps(ANNOUNCED, &abort));
        let withdrawn = ANNOUNCED.after(Step::Withdraw);
        assert!(!driver.keeps(withdrawn, &abort));
        let asked = (Some(request(Verb::Rotate, 4)), Vec::new());
        driver.ask(ANNOUNCED, asked, Some(&abort));
        assert!(!driver.keeps(ANNOUNCED, &abort));
    }

    #[test]
    fn a_request_that_cannot_be_read_or_done_is_told_and_one_that_is_stale_is_not() {
        let mut rotation = KeyRotation::default();
        let garbage = || Request::parse(Verb::Rotate, "now").expect_err("garbage");
        rotation.ask(ANNOUNCED, (None, vec![garbage()]), None);
        let said: Vec<_> = rotation.says().collect();
        assert_eq!(said.len(), 1);
        assert_eq!(said[0].0, REQUEST_REFUSED);
        assert!(said[0].1.contains("\"now\""), "{}", said[0].1);
        rotation.ask(
            ANNOUNCED,
            (None, Vec::new()),
            Some(&request(Verb::Revoke, 3)),
        );
        assert_eq!(rotation.says().count(), 0);
        let told = (Some(request(Verb::Rotate, 4)), Vec::new());
        rotation.refuse(told, None, "it has no keys");
        let said: Vec<_> = rotation.says().collect();
        let expected = (
            REQUEST_REFUSED,
            "rotate by alice: it has no keys".to_owned(),
        );
        assert_eq!(said, [expected]);
    }

    #[test]
    fn each_step_is_told_with_who_asks_and_who_has_not_confirmed() {
        let start = Instant::now();
        let mut driver = KeyRotation::default();
        let asked = (Some(request(Verb::Rotate, 4)), Vec::new());
        let mut rotation = Rotation {
            phase: Phase::Settled,
            ..ANNOUNCED
        };
        driver.ask(rotation, asked, None);
        let mut make = |driver: &mut KeyRotation, step, at| {
            rotation = rotation.after(step);
            driver.made(step, rotation, start + second(at));
            let said: BTreeMap<_, _> = driver.says().collect();
            said
        };
        let said = make(&mut driver, Step::Prepare, 0);
        let announced = "key generation 4: next keys are announced, as alice asks";
        assert_eq!(said[KEYS_ANNOUNCED], announced);
        driver.peers = Peers::of(&[
            peer("node-1", &[(true, true)]),
            peer("node-2", &[(true, false)]),
        ]);
        let promote = Step::Promote(driver.peers.confirmations());
        let said = make(&mut driver, promote, 600);
        let promoted = "key generation 5 is in force, confirmed by 1 of 2 peers";
        assert_eq!(said[KEYS_PROMOTED], promoted);
        assert!(said[DEADLINE_PASSED].contains("1 of 2 peers: node-2;"));
        let said = make(&mut driver, Step::Retire, 790);
        assert!(said[KEYS_RETIRED].contains("key generation 5"));
        assert_eq!(driver.lasted, Some(second(790)));
    }

    #[test]
    fn a_second_announcement_in_one_generation_is_news_and_so_is_its_end() {
        let mut driver = KeyRotation::default();
        let mut rotation = Rotation {
            phase: Phase::Settled,
            ..ANNOUNCED
        };
        let mut reasons = Vec::new();
        for step in [Step::Prepare, Step::Withdraw, Step::Forget, Step::Prepare] {
            rotation = rotation.after(step);
            driver.made(step, rotation, Instant::now());
            let said = driver.says().map(|(reason, _)| reason);
            reasons.push(said.collect::<Vec<_>>().join(" "));
        }
        let (announced, aborted) = (KEYS_ANNOUNCED, ROTATION_ABORTED);
        assert_eq!(reasons, [announced, aborted, aborted, announced]);
    }

    #[test]
    fn an_event_that_names_every_late_peer_stays_short() {
        let mut driver = KeyRotation::default();
        let late: Vec<PeerStatus> = (0..5_000)
            .map(|number| peer(&format!("node-{number}"), &[(true, false)]))
            .collect();
        driver.peers = Peers::of(&late);
        let promote = Step::Promote(driver.peers.confirmations());
        driver.made(promote, ANNOUNCED.after(promote), Instant::now());
        let said: BTreeMap<_, _> = driver.says().collect();
        assert!(
            said[DEADLINE_PASSED].len() < 500,
            "{}",
            said[DEADLINE_PASSED]
        );
    }
}
