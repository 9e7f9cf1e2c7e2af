//! Runs over nodes that behave in every way that a node can.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::select;

use podwire_core::rotation::Phase;

use super::*;

/// Between two looks.
const STEP: Duration = Duration::from_secs(20);

/// What an agent does once it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behaviour {
    Rotates,
    /// Nobody is there.
    IsSilent,
    /// Its agent ends while its keys are announced, or promoted.
    EndsAt(Stage),
    /// Somebody aborts its rotation.
    IsAborted,
    /// Its Node is deleted within its rotation.
    Leaves,
}

/// One node, with its clock in steps.
#[derive(Clone, Debug)]
struct Model {
    behaviour: Behaviour,
    /// Steps that each thing takes.
    pace: u32,
    generation: u64,
    stage: Stage,
    asked: Option<Verb>,
    left: u32,
    is_there: bool,
    /// Whether it has made keys since the run began.
    is_new: bool,
}

impl Model {
    fn new(behaviour: Behaviour, pace: u32, stage: Stage) -> Self {
        Self {
            behaviour,
            pace,
            generation: 4,
            stage,
            asked: None,
            left: pace,
            is_there: true,
            is_new: false,
        }
    }

    fn seen(&self) -> Seen {
        Seen {
            uid: "u".to_owned(),
            keys: Ok(Keys {
                generation: self.generation,
                stage: self.stage,
                phase: Phase::Settled,
                created: None,
            }),
            asked: self.asked,
        }
    }

    /// What takes a part of the share.
    fn is_rotating(&self) -> bool {
        self.is_there && (self.stage.is_rotating() || self.asked == Some(Verb::Rotate))
    }

    /// Goes on by one step.
    fn step(&mut self) {
        let is_asleep = match self.behaviour {
            Behaviour::IsSilent => true,
            Behaviour::EndsAt(stage) => self.stage == stage,
            Behaviour::Rotates | Behaviour::IsAborted | Behaviour::Leaves => false,
        };
        let is_idle = self.stage == Stage::Settled && self.asked != Some(Verb::Rotate);
        if is_asleep || is_idle || !self.is_there {
            self.left = self.pace;
            return;
        }
        if self.left > 0 {
            self.left -= 1;
            return;
        }
        self.left = self.pace;
        match (self.stage, self.behaviour) {
            (Stage::Announced, Behaviour::Leaves) => self.is_there = false,
            (Stage::Settled, _) => self.stage = Stage::Announced,
            (Stage::Announced, Behaviour::IsAborted) => {
                self.stage = Stage::Withdrawn;
                self.asked = Some(Verb::Abort);
            }
            (Stage::Announced, _) => {
                self.stage = Stage::Promoted;
                self.generation += 1;
                // It is of another generation.
                self.asked = None;
                self.is_new = true;
            }
            (Stage::Promoted | Stage::Withdrawn, _) => self.stage = Stage::Settled,
        }
    }
}

fn name(number: usize) -> NodeName {
    format!("node-{number}").parse().expect("a name")
}

fn number(name: &NodeName) -> usize {
    let number = name.as_str().strip_prefix("node-").expect("one of ours");
    number.parse().expect("a number")
}

/// All of them, with their clock.
struct World {
    nodes: Vec<Model>,
    now: Instant,
    /// By run: whom it asked.
    asked: Vec<BTreeSet<NodeName>>,
}

impl World {
    fn look(&self) -> Look {
        let nodes = self.nodes.iter().enumerate();
        nodes
            .filter(|(_, node)| node.is_there)
            .map(|(number, node)| (name(number), node.seen()))
            .collect()
    }

    /// A run over those whose keys are older than the first run.
    fn run(&mut self, share: Share) -> Fleet {
        self.asked.push(BTreeSet::new());
        let look = self.look();
        let old = look.keys().filter(|name| !self.nodes[number(name)].is_new);
        Fleet::new(share, old.cloned(), &look, self.now)
    }

    /// One look of a run, and a step of all nodes. Returns what was told.
    fn step(&mut self, fleet: &mut Fleet) -> Vec<News> {
        let look = self.look();
        let news = fleet.look(&look, self.now);
        for it in &news {
            if it.what == What::Skipped(Why::NoAnswer) {
                self.nodes[number(&it.node)].asked = None;
            }
        }
        let room = fleet.room(&look);
        for (name, target) in fleet.to_ask(&look) {
            let node = &mut self.nodes[number(&name)];
            assert_eq!(target.generation, node.generation, "of the present keys");
            node.asked = Some(Verb::Rotate);
            fleet.asked(&name, self.now);
            let run = self.asked.last_mut().expect("a run");
            assert!(run.insert(name), "asked once");
            let rotating = self.nodes.iter().filter(|node| node.is_rotating());
            assert!(rotating.count() <= room, "within the share");
        }
        self.nodes.iter_mut().for_each(Model::step);
        self.now += STEP;
        news
    }
}

fn behaviour() -> impl Strategy<Value = Behaviour> {
    // Most are well.
    select(vec![
        Behaviour::Rotates,
        Behaviour::Rotates,
        Behaviour::Rotates,
        Behaviour::Rotates,
        Behaviour::IsSilent,
        Behaviour::EndsAt(Stage::Announced),
        Behaviour::EndsAt(Stage::Promoted),
        Behaviour::IsAborted,
        Behaviour::Leaves,
    ])
}

fn node() -> impl Strategy<Value = Model> {
    let stages = vec![
        Stage::Settled,
        Stage::Settled,
        Stage::Settled,
        Stage::Announced,
        Stage::Promoted,
        Stage::Withdrawn,
    ];
    (behaviour(), 0_u32..5, select(stages))
        .prop_map(|(behaviour, pace, stage)| Model::new(behaviour, pace, stage))
}

fn share() -> impl Strategy<Value = Share> {
    prop_oneof![
        (1_usize..6).prop_map(Share::Nodes),
        (1_usize..=100).prop_map(Share::Percent),
    ]
}

/// No run takes longer: each node is waited for so long at most, one after another.
fn steps_max(nodes: usize) -> usize {
    let longest = ANSWER_WITHIN + ANNOUNCED_AT_MOST + 2 * GIVEN_UP_AT_MOST + 20 * STEP;
    let steps = longest.as_secs() / STEP.as_secs();
    (nodes + 1) * usize::try_from(steps).expect("a small number")
}

proptest! {
    #[test]
    fn a_run_asks_within_the_share_and_once_and_ends_also_after_interruptions(
        nodes in proptest::collection::vec(node(), 1..25),
        share in share(),
        interruptions in proptest::collection::vec(0_usize..60, 0..3),
    ) {
        let before = nodes.clone();
        let mut world = World { nodes, now: Instant::now(), asked: Vec::new() };
        for steps in interruptions {
            let mut fleet = world.run(share);
            for _ in 0..steps {
                world.step(&mut fleet);
            }
        }
        let mut fleet = world.run(share);
        let mut steps = 0;
        while !fleet.is_over() {
            world.step(&mut fleet);
            steps += 1;
            prop_assert!(steps < steps_max(world.nodes.len()), "it ends");
        }
        for (number, (node, before)) in world.nodes.iter().zip(&before).enumerate() {
            prop_assert!(node.generation <= before.generation + 1, "rotated once");
            let Some(target) = fleet.targets().get(&name(number)) else {
                continue;
            };
            let is_blocked = target.state == State::Skipped(Why::NoRoom);
            let is_well = node.behaviour == Behaviour::Rotates;
            prop_assert!(
                !is_well || is_blocked || target.state == State::Done,
                "{:?}", target.state
            );
            prop_assert!(target.state != State::Done || node.stage == Stage::Settled);
        }
    }
}

/// A run over nodes that behave so.
fn world(behaviours: &[Behaviour]) -> World {
    let settled = |behaviour: &Behaviour| Model::new(*behaviour, 0, Stage::Settled);
    World {
        nodes: behaviours.iter().map(settled).collect(),
        now: Instant::now(),
        asked: Vec::new(),
    }
}

/// What is told of a run to its end, as words.
fn told(world: &mut World, fleet: &mut Fleet) -> Vec<String> {
    let mut told = Vec::new();
    for _ in 0..1_000 {
        told.extend(world.step(fleet).into_iter().map(|news| {
            let what = match news.what {
                What::Announced => "announced".to_owned(),
                What::Promoted(keys) => format!("promoted {}", keys.generation),
                What::Retired(keys) => format!("retired {}", keys.generation),
                What::Skipped(why) => why.as_str().to_owned(),
            };
            format!("{} {what}", news.node)
        }));
        if fleet.is_over() {
            return told;
        }
    }
    panic!("it does not end: {told:?}");
}

#[test]
fn one_after_another_is_told_step_by_step() {
    let mut world = world(&[Behaviour::Rotates, Behaviour::IsSilent, Behaviour::Rotates]);
    let mut fleet = world.run(Share::Nodes(1));
    let told = told(&mut world, &mut fleet);
    let expected = [
        "node-0 announced",
        "node-0 promoted 5",
        "node-0 retired 5",
        "node-1 no-answer",
        "node-2 announced",
        "node-2 promoted 5",
        "node-2 retired 5",
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_node_that_does_not_go_on_keeps_its_part_of_the_share() {
    let stalls = Behaviour::EndsAt(Stage::Announced);
    let mut world = world(&[stalls, Behaviour::Rotates]);
    let mut fleet = world.run(Share::Nodes(1));
    let expected = ["node-0 announced", "node-0 stalled", "node-1 no-room"];
    assert_eq!(told(&mut world, &mut fleet), expected);
    assert_eq!(world.nodes[1].asked, None);
    // With more room the next run goes on.
    let mut fleet = world.run(Share::Nodes(2));
    let told = told(&mut world, &mut fleet);
    assert!(told.contains(&"node-1 retired 5".to_owned()), "{told:?}");
}

#[test]
fn whoever_rotates_already_is_waited_for_and_not_asked() {
    let mut world = world(&[Behaviour::Rotates, Behaviour::Rotates, Behaviour::Rotates]);
    world.nodes[0].stage = Stage::Promoted;
    world.nodes[1].asked = Some(Verb::Rotate);
    let mut fleet = world.run(Share::Nodes(3));
    let told = told(&mut world, &mut fleet);
    assert_eq!(world.asked, [BTreeSet::from([name(2)])]);
    assert!(told.contains(&"node-0 retired 4".to_owned()), "{told:?}");
    assert!(told.contains(&"node-1 retired 5".to_owned()), "{told:?}");
}

#[test]
fn nodes_of_no_run_count_against_the_share_too() {
    let mut world = world(&[Behaviour::Rotates, Behaviour::Rotates]);
    world.nodes[0].stage = Stage::Announced;
    let look = world.look();
    let mut fleet = Fleet::new(Share::Nodes(1), [name(1)], &look, world.now);
    assert_eq!(fleet.look(&look, world.now), []);
    assert!(fleet.to_ask(&look).is_empty());
    world.nodes[0].stage = Stage::Settled;
    assert_eq!(fleet.to_ask(&world.look()).len(), 1);
}

#[test]
fn a_node_that_is_created_again_is_another_one() {
    let world = world(&[Behaviour::Rotates]);
    let mut look = world.look();
    let mut fleet = Fleet::new(Share::Nodes(1), [name(0)], &look, world.now);
    look.get_mut(&name(0)).expect("it is there").uid = "v".to_owned();
    let news = fleet.look(&look, world.now);
    assert_eq!(news[0].what, What::Skipped(Why::Gone));
    assert!(fleet.is_over());
}
