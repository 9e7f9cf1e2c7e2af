//! A mesh of nodes that rotate their keys: disks, memories, a registry with its watches, sessions.
//! What a node does with its own keys is the core's; what its data plane does with a peer's is told
//! here once more, as plainly as can be.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::Duration;

use super::super::*;

/// Seconds.
pub(super) type Time = u64;
pub(super) type Key = u32;

/// A tick of the world, in seconds: every agent has its turn.
pub(super) const TICK: Time = 5;

/// A watch of a registry that is in reach is late by no more.
const DELAY_MAX: Time = 60;

/// For how long a node may have heard nothing from the registry without losing a peer.
const LAG_MAX: Time = 120;

/// For how long the two of a pair must have been up and in reach of each other.
const WARM_UP: Time = 4 * TICK;

const SESSION_LIFE: Time = 180;
/// A session is renewed when it is as old.
const SESSION_RENEWAL: Time = 120;

/// How a node treats the keys of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Agent,
    /// Plain WireGuard, configured from records by somebody who knows of `public-key` alone.
    CurrentOnly,
    /// Plain WireGuard that was configured once.
    Frozen,
}

/// Where a crash hits the next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Point {
    BeforeWrite,
    AfterWrite,
    AfterDataPlane,
    AfterRecord,
}

/// A record in the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    rotation: Rotation,
    told: Told<Key>,
}

impl Record {
    fn of(keys: Generations<Key>) -> Self {
        Self {
            rotation: keys.rotation,
            told: keys.told(),
        }
    }

    fn is_revoked(self) -> bool {
        self.rotation.phase == Phase::Revoked
    }

    fn names(self, key: Key) -> bool {
        let Told {
            current,
            next,
            previous,
        } = self.told;
        [Some(current), next, previous].contains(&Some(key))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Session {
    own: Key,
    other: Key,
    since: Time,
}

/// What a crash takes.
#[derive(Clone, Debug)]
struct Memory {
    since: Time,
    /// The keys of the data plane, and of which phase they are.
    in_use: InUse<Key>,
    of: Rotation,
    published: Option<(Rotation, Time)>,
    /// By peer: which of its records was heard last, in the order of their writes.
    heard: Vec<usize>,
    requests: Requests,
    is_synchronised: bool,
    /// By peer: whether it was seen on the newer keys.
    is_seen: Vec<bool>,
    sessions: Vec<Vec<Session>>,
}

/// The request of each verb, by its generation.
type Requests = [Option<u64>; 3];

#[derive(Clone, Debug)]
pub(super) struct Node {
    kind: Kind,
    keys: Generations<Key>,
    /// Of the disk's snapshot of the mesh.
    snapshot: Vec<usize>,
    memory: Option<Memory>,
    /// Keys that are of no use any more, and those of them that others know.
    gone: BTreeSet<Key>,
    revoked: BTreeSet<Key>,
    is_cut_off: bool,
    crash: Option<Point>,
    /// When it last had all that the registry has.
    caught_up: Time,
    /// What the registry holds of it: every record that was ever written.
    records: Vec<Record>,
    /// When the last record that revokes was written, or since when one should be.
    replaced: Option<Time>,
    requests: Requests,
    /// Plain WireGuard, configured once: by node.
    frozen: Vec<Key>,
}

pub(super) struct World {
    pub(super) now: Time,
    pub(super) nodes: Vec<Node>,
    /// Pairs out of each other's reach, and until when the others were.
    cut: BTreeSet<(usize, usize)>,
    mended: Vec<Vec<Time>>,
    next_key: Key,
    dice: u64,
}

fn pair(one: usize, other: usize) -> (usize, usize) {
    (one.min(other), one.max(other))
}

impl World {
    pub(super) fn new(kinds: &[Kind], dice: u64) -> Self {
        let count = kinds.len();
        let first = |number: usize| Key::try_from(number).expect("few") + 1;
        let frozen: Vec<Key> = (0..count).map(first).collect();
        let node = |(number, kind): (usize, &Kind)| {
            let keys = Generations::first(first(number));
            Node {
                kind: *kind,
                keys,
                snapshot: vec![0; count],
                memory: None,
                gone: BTreeSet::new(),
                revoked: BTreeSet::new(),
                is_cut_off: false,
                crash: None,
                caught_up: 0,
                records: vec![Record::of(keys)],
                replaced: None,
                requests: [None; 3],
                frozen: frozen.clone(),
            }
        };
        let mut world = Self {
            now: 0,
            nodes: kinds.iter().enumerate().map(node).collect(),
            cut: BTreeSet::new(),
            mended: vec![vec![0; count]; count],
            next_key: first(count),
            dice: dice | 1,
        };
        (0..count).for_each(|number| world.start(number));
        world
    }

    /// A number below `bound`.
    fn roll(&mut self, bound: usize) -> usize {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        usize::try_from(self.dice % bound as u64).expect("below a usize")
    }

    fn others(&self, number: usize) -> impl Iterator<Item = usize> + use<> {
        (0..self.nodes.len()).filter(move |other| *other != number)
    }

    pub(super) fn start(&mut self, number: usize) {
        let count = self.nodes.len();
        let node = &mut self.nodes[number];
        if node.memory.is_some() {
            return;
        }
        node.crash = None;
        node.memory = Some(Memory {
            since: self.now,
            in_use: node.keys.in_use(),
            of: node.keys.rotation,
            published: None,
            heard: node.snapshot.clone(),
            requests: [None; 3],
            is_synchronised: false,
            is_seen: vec![false; count],
            sessions: vec![Vec::new(); count],
        });
    }

    /// At once, or at that point of its next step.
    pub(super) fn crash(&mut self, number: usize, at: Option<Point>) {
        let node = &mut self.nodes[number];
        if node.kind != Kind::Agent {
            return;
        }
        match at {
            Some(_) => node.crash = at,
            None => node.memory = None,
        }
    }

    pub(super) fn cut_off(&mut self, number: usize, is_cut_off: bool) {
        self.nodes[number].is_cut_off = is_cut_off;
    }

    pub(super) fn part(&mut self, one: usize, other: usize, is_parted: bool) {
        let pair = pair(one, other);
        if one != other && is_parted {
            self.cut.insert(pair);
        } else if self.cut.remove(&pair) {
            self.mended[pair.0][pair.1] = self.now;
        }
    }

    pub(super) fn mend(&mut self) {
        for (one, other) in self.cut.clone() {
            self.part(one, other, false);
        }
        for number in 0..self.nodes.len() {
            self.cut_off(number, false);
            self.nodes[number].crash = None;
            self.start(number);
        }
    }

    /// Writes a request for the generation in the registry, or one that far from it.
    pub(super) fn request(&mut self, number: usize, verb: Verb, offset: i64) {
        let node = &mut self.nodes[number];
        if node.kind != Kind::Agent {
            return;
        }
        let known = node
            .records
            .last()
            .map_or(1, |it| it.rotation.key_generation);
        node.requests[verb as usize] = Some(known.saturating_add_signed(offset));
    }

    pub(super) fn forget_requests(&mut self, number: usize) {
        self.nodes[number].requests = [None; 3];
    }

    pub(super) fn pass(&mut self, seconds: Time) {
        for _ in 0..seconds.div_ceil(TICK) {
            self.now += TICK;
            (0..self.nodes.len()).for_each(|number| self.hear(number));
            (0..self.nodes.len()).for_each(|number| self.turn(number));
            (0..self.nodes.len()).for_each(|number| self.tidy_sessions(number));
            for number in 0..self.nodes.len() {
                self.others(number)
                    .for_each(|other| self.handshake(number, other));
            }
            self.check();
        }
    }

    /// The watch: some of what was written since, and all that is old enough.
    fn hear(&mut self, number: usize) {
        let latest: Vec<usize> = self
            .nodes
            .iter()
            .map(|node| node.records.len() - 1)
            .collect();
        let is_all = self.now.is_multiple_of(DELAY_MAX) || self.roll(3) == 0;
        let kept = self.roll(2) == 0;
        let jumps: Vec<usize> = latest.iter().map(|latest| self.roll(latest + 1)).collect();
        let node = &mut self.nodes[number];
        let Some(memory) = &mut node.memory else {
            return;
        };
        memory.is_synchronised &= !node.is_cut_off;
        if node.is_cut_off {
            return;
        }
        memory.is_synchronised = true;
        for (heard, (latest, jump)) in memory.heard.iter_mut().zip(latest.iter().zip(jumps)) {
            // One that is older than what was heard does not count: see core::generation.
            *heard = if is_all { *latest } else { jump.max(*heard) };
        }
        if is_all {
            memory.requests = node.requests;
            node.caught_up = self.now;
        }
        if kept {
            node.snapshot.clone_from(&memory.heard);
        }
    }

    /// What the agent does twice a second.
    fn turn(&mut self, number: usize) {
        let fresh = self.next_key;
        let now = self.now;
        let node = &mut self.nodes[number];
        if node.kind != Kind::Agent || node.memory.is_none() {
            return;
        }
        node.put_keys_in_force();
        if let Some(step) = node.due(now) {
            self.next_key += 1;
            if node.hits(Point::BeforeWrite) {
                return;
            }
            node.make(step, fresh, now);
            if node.hits(Point::AfterWrite) {
                return;
            }
            node.put_keys_in_force();
            if node.hits(Point::AfterDataPlane) {
                return;
            }
        }
        if node.publish(now) {
            node.hits(Point::AfterRecord);
        }
    }

    /// Sessions end with their time, and with a key that is revoked or not named any more for long.
    fn tidy_sessions(&mut self, number: usize) {
        let others: Vec<Option<Record>> = (0..self.nodes.len())
            .map(|other| self.view(number, other))
            .collect();
        let now = self.now;
        let Some(memory) = &mut self.nodes[number].memory else {
            return;
        };
        for (sessions, view) in memory.sessions.iter_mut().zip(others) {
            let is_refused = |session: &Session| {
                view.is_some_and(|view| view.is_revoked() && !view.names(session.other))
            };
            sessions.retain(|it| now < it.since + SESSION_LIFE && !is_refused(it));
        }
    }

    /// What a node knows of another; none if it cannot know that anything of it changed.
    fn view(&self, number: usize, other: usize) -> Option<Record> {
        let node = &self.nodes[number];
        let heard = node.memory.as_ref()?.heard[other];
        let record = self.nodes[other].records[heard];
        (node.kind != Kind::Frozen).then_some(record)
    }

    /// The key by which a node asks another.
    fn asks_for(&self, number: usize, other: usize) -> Key {
        let view = self.view(number, other);
        match (self.nodes[number].kind, view) {
            (Kind::Agent, Some(view)) => view.told.next.unwrap_or(view.told.current),
            (_, Some(view)) => view.told.current,
            (_, None) => self.nodes[number].frozen[other],
        }
    }

    fn accepts(&self, number: usize, other: usize, key: Key) -> bool {
        match (self.nodes[number].kind, self.view(number, other)) {
            (Kind::Agent, Some(view)) => view.names(key),
            _ => self.asks_for(number, other) == key,
        }
    }

    /// Whether a node answers when another asks for this key of it.
    fn answers(&self, number: usize, key: Key) -> bool {
        let memory = self.nodes[number].memory.as_ref();
        memory.is_some_and(|memory| {
            let InUse {
                base,
                newer,
                fading,
            } = memory.in_use;
            [Some(base), newer, fading].contains(&Some(key))
        })
    }

    /// The keys of a handshake that `number` would start with `other`, and whether it succeeds.
    fn attempt(&self, number: usize, other: usize) -> Option<(Key, Key, bool)> {
        let asking = self.nodes[number].memory.as_ref()?;
        let newer = asking.in_use.newer.filter(|_| asking.is_seen[other]);
        let own = newer.unwrap_or(asking.in_use.base);
        let key = self.asks_for(number, other);
        let works = self.answers(other, key) && self.accepts(other, number, own);
        Some((own, key, works))
    }

    fn handshake(&mut self, number: usize, other: usize) {
        let Some((own, key, true)) = self.attempt(number, other) else {
            return;
        };
        let since = self.now;
        let is_fresh =
            |it: &Session| it.own == own && it.other == key && since < it.since + SESSION_RENEWAL;
        let memory = self.nodes[number].memory.as_ref();
        let has = memory.is_some_and(|memory| memory.sessions[other].iter().any(is_fresh));
        if has || self.cut.contains(&pair(number, other)) {
            return;
        }
        for (one, another, session) in [
            (
                number,
                other,
                Session {
                    own,
                    other: key,
                    since,
                },
            ),
            (
                other,
                number,
                Session {
                    own: key,
                    other: own,
                    since,
                },
            ),
        ] {
            if let Some(memory) = &mut self.nodes[one].memory {
                memory.is_seen[another] |= memory.in_use.newer == Some(session.own);
                memory.sessions[another].push(session);
            }
        }
    }

    fn is_current(&self, number: usize, other: usize) -> bool {
        let known = &self.nodes[other];
        match self.nodes[number].kind {
            Kind::Frozen => !known.gone.contains(&self.nodes[number].frozen[other]),
            Kind::Agent | Kind::CurrentOnly => {
                self.view(number, other) == Some(Record::of(known.keys))
            }
        }
    }

    /// Whether a node has heard lately enough to know the other by a key that is in use.
    fn is_in_time(&self, number: usize, other: usize) -> bool {
        let node = &self.nodes[number];
        let known = &self.nodes[other];
        let is_up = |node: &Node| {
            let memory = node.memory.as_ref();
            memory.is_some_and(|memory| self.now >= memory.since + WARM_UP)
        };
        let has_heard = match node.kind {
            Kind::Frozen => self.is_current(number, other),
            Kind::Agent | Kind::CurrentOnly => self.now <= node.caught_up + LAG_MAX,
        };
        let is_replaced = known
            .replaced
            .is_some_and(|at| self.now <= at + LAG_MAX + DELAY_MAX);
        is_up(node) && has_heard && !is_replaced
    }

    /// What must hold at every moment.
    fn check(&self) {
        for (number, node) in self.nodes.iter().enumerate() {
            node.check();
            self.others(number)
                .for_each(|other| self.check_pair(number, other));
        }
    }

    fn check_pair(&self, one: usize, other: usize) {
        let works = |one, other| self.attempt(one, other).is_some_and(|(_, _, works)| works);
        let are = |is: &dyn Fn(usize, usize) -> bool| is(one, other) && is(other, one);
        let are_up = self.nodes[one].memory.is_some() && self.nodes[other].memory.is_some();
        if are_up && are(&|one, other| self.is_current(one, other)) {
            let is_agent = |number: usize| self.nodes[number].kind == Kind::Agent;
            if is_agent(one) && is_agent(other) {
                assert!(works(one, other), "at {}: {one} asks {other}", self.now);
            } else {
                assert!(
                    works(one, other) || works(other, one),
                    "at {}: {one} {other}",
                    self.now
                );
            }
        }
        if are(&|one, other| self.is_in_time(one, other)) {
            let key = self.asks_for(one, other);
            assert!(
                self.answers(other, key),
                "at {}: {other} refuses {key} to {one}",
                self.now
            );
            assert!(
                works(one, other) || works(other, one),
                "at {}: {one} {other}",
                self.now
            );
            let (first, second) = pair(one, other);
            let is_mended = self.now >= self.mended[first][second] + WARM_UP;
            if is_mended && !self.cut.contains(&(first, second)) {
                assert!(
                    self.is_connected(one, other),
                    "at {}: {one} {other}",
                    self.now
                );
            }
        }
    }

    /// Whether the two have a session in common, under whatever keys.
    fn is_connected(&self, one: usize, other: usize) -> bool {
        let sessions = |one: usize, other: usize| {
            let memory = self.nodes[one].memory.as_ref();
            memory.map_or(&[][..], |memory| &memory.sessions[other])
        };
        sessions(one, other).iter().any(|it| {
            let mut others = sessions(other, one).iter();
            others.any(|other| other.own == it.other && other.other == it.own)
        })
    }

    /// What must hold once nothing was wrong for long.
    pub(super) fn check_rest(&self) {
        for (number, node) in self.nodes.iter().enumerate() {
            let phase = node.keys.rotation.phase;
            let is_settled = matches!(phase, Phase::Settled | Phase::Revoked);
            assert!(is_settled, "node {number} is stuck: {phase}");
            assert_eq!(node.records.last(), Some(&Record::of(node.keys)));
            let asked = |verb: Verb| {
                node.requests[verb as usize] == Some(node.keys.rotation.key_generation)
            };
            assert!(!asked(Verb::Revoke), "node {number} did not revoke");
            let is_rotating = asked(Verb::Rotate) && !asked(Verb::Abort);
            assert!(!is_rotating, "node {number} did not rotate");
            for other in self.others(number) {
                let is_frozen_out =
                    !self.is_current(number, other) || !self.is_current(other, number);
                assert!(
                    is_frozen_out || self.is_connected(number, other),
                    "{number} {other}"
                );
                let is_agent = node.kind == Kind::Agent && self.nodes[other].kind == Kind::Agent;
                assert!(
                    !is_agent || !is_frozen_out,
                    "{number} does not know {other}"
                );
            }
        }
    }

    pub(super) fn key_generation(&self, number: usize) -> u64 {
        self.nodes[number].keys.rotation.key_generation
    }

    /// Records that were written, but for the first of each node.
    pub(super) fn writes(&self) -> usize {
        self.nodes.iter().map(|node| node.records.len() - 1).sum()
    }
}

impl Node {
    fn memory(&self) -> &Memory {
        self.memory.as_ref().expect("it is up")
    }

    /// Whether a crash was to hit it here: its memory is gone then.
    fn hits(&mut self, point: Point) -> bool {
        let is_hit = self.crash == Some(point);
        if is_hit {
            (self.memory, self.crash) = (None, None);
        }
        is_hit
    }

    fn confirmations(&self) -> Confirmations {
        let memory = self.memory();
        let newer = memory.in_use.newer;
        let live = memory
            .sessions
            .iter()
            .filter(|sessions| !sessions.is_empty());
        let is_on_newer =
            |sessions: &&Vec<Session>| sessions.iter().any(|it| Some(it.own) == newer);
        Confirmations {
            live: live.clone().count(),
            confirmed: live.filter(is_on_newer).count(),
        }
    }

    fn due(&mut self, now: Time) -> Option<Step> {
        let confirmations = self.confirmations();
        let (keys, records) = (self.keys, &self.records);
        let own = records.len() - 1;
        let memory = self.memory.as_mut()?;
        let known = memory.published.filter(|(of, _)| *of == keys.rotation);
        memory.published = if !memory.is_synchronised {
            known
        } else if records[own] == Record::of(keys) {
            known.or(Some((keys.rotation, now)))
        } else {
            None
        };
        let generation = Some(keys.rotation.key_generation);
        let asked = Verb::ALL
            .into_iter()
            .filter(|verb| memory.is_synchronised && memory.requests[*verb as usize] == generation);
        let published = memory.published;
        keys.rotation.step(&Situation {
            is_in_force: memory.of == keys.rotation,
            published_for: published.map(|(_, since)| Duration::from_secs(now - since)),
            confirmations,
            asked: asked.max(),
        })
    }

    /// The disk has it when this returns.
    fn make(&mut self, step: Step, fresh: Key, now: Time) {
        let before = self.keys;
        let Ok(after) = before.after(step, || Ok::<_, Infallible>(fresh));
        let gone = before.all().filter(|key| !after.all().any(|it| it == *key));
        let gone: Vec<Key> = gone.copied().collect();
        self.gone.extend(&gone);
        if step == Step::Replace {
            self.revoked.extend(self.gone.clone());
            self.replaced = Some(now);
        }
        self.keys = after;
    }

    fn put_keys_in_force(&mut self) {
        let keys = self.keys;
        let Some(memory) = &mut self.memory else {
            return;
        };
        if memory.of == keys.rotation {
            return;
        }
        let in_use = keys.in_use();
        if memory.in_use.newer != in_use.newer {
            memory.is_seen.fill(false);
        }
        if keys.rotation.phase == Phase::Revoked {
            let is_known = |it: &Session| keys.all().any(|key| *key == it.own);
            memory
                .sessions
                .iter_mut()
                .for_each(|it| it.retain(is_known));
        }
        (memory.in_use, memory.of) = (in_use, keys.rotation);
    }

    /// Whether the record was written.
    fn publish(&mut self, now: Time) -> bool {
        let record = Record::of(self.keys);
        let is_due = self.records.last() != Some(&record);
        let may = self.memory().is_synchronised && self.memory().of == self.keys.rotation;
        if !is_due || !may {
            // A revocation that nobody can hear of goes on to part this node from the others.
            if is_due && self.replaced.is_some() {
                self.replaced = Some(now);
            }
            return false;
        }
        let known = self
            .records
            .last()
            .map_or(0, |it| it.rotation.key_generation);
        assert!(record.rotation.key_generation >= known, "it went back");
        let told = record.told;
        for key in [Some(told.current), told.next, told.previous]
            .into_iter()
            .flatten()
        {
            assert!(self.keys.all().any(|it| *it == key), "{key} is not durable");
        }
        self.records.push(record);
        if self.replaced.is_some() && record.is_revoked() {
            self.replaced = Some(now);
        }
        true
    }

    /// Nothing but what is on disk is used, and nothing that was given up.
    fn check(&self) {
        let Some(memory) = &self.memory else {
            return;
        };
        let InUse {
            base,
            newer,
            fading,
        } = memory.in_use;
        for key in [Some(base), newer, fading].into_iter().flatten() {
            assert!(
                self.keys.all().any(|it| *it == key),
                "{key} is used and not on disk"
            );
            assert!(!self.gone.contains(&key), "{key} is used and was given up");
        }
        let sessions = memory.sessions.iter().flatten();
        for session in sessions {
            let is_revoked = self.revoked.contains(&session.own);
            assert!(
                !is_revoked,
                "a session goes on under {}, which is revoked",
                session.own
            );
        }
    }
}
