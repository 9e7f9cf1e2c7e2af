use proptest::prelude::*;

use super::super::*;
use super::world::{Kind, Point, Time, World};

/// Long enough for a rotation whose deadline passes, and for one that waits for it.
const REST: Time = 2 * (600 + 180) + 600;

#[derive(Clone, Copy, Debug)]
enum Event {
    Pass(Time),
    Request(usize, Verb, i64),
    ForgetRequests(usize),
    Crash(usize, Option<Point>),
    Start(usize),
    CutOff(usize, bool),
    Part(usize, usize, bool),
}

fn event() -> impl Strategy<Value = Event> {
    let node = 0_usize..6;
    let verb = prop_oneof![
        6 => Just(Verb::Rotate),
        2 => Just(Verb::Abort),
        1 => Just(Verb::Revoke),
    ];
    let offset = prop_oneof![8 => Just(0_i64), 1 => Just(-1), 1 => Just(1)];
    let point = prop_oneof![
        Just(None),
        Just(Some(Point::BeforeWrite)),
        Just(Some(Point::AfterWrite)),
        Just(Some(Point::AfterDataPlane)),
        Just(Some(Point::AfterRecord)),
    ];
    prop_oneof![
        8 => (5_u64..240).prop_map(Event::Pass),
        6 => (node.clone(), verb, offset).prop_map(|(node, verb, offset)| {
            Event::Request(node, verb, offset)
        }),
        1 => node.clone().prop_map(Event::ForgetRequests),
        4 => (node.clone(), point).prop_map(|(node, point)| Event::Crash(node, point)),
        3 => node.clone().prop_map(Event::Start),
        3 => (node.clone(), any::<bool>()).prop_map(|(node, is)| Event::CutOff(node, is)),
        3 => (node.clone(), node, any::<bool>()).prop_map(|(one, other, is)| {
            Event::Part(one, other, is)
        }),
    ]
}

fn happen(world: &mut World, event: Event) {
    let count = world.nodes.len();
    match event {
        Event::Pass(seconds) => world.pass(seconds),
        Event::Request(node, verb, offset) => world.request(node % count, verb, offset),
        Event::ForgetRequests(node) => world.forget_requests(node % count),
        Event::Crash(node, point) => world.crash(node % count, point),
        Event::Start(node) => world.start(node % count),
        Event::CutOff(node, is_cut_off) => world.cut_off(node % count, is_cut_off),
        Event::Part(one, other, is_parted) => world.part(one % count, other % count, is_parted),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_crash_partition_or_request_parts_two_nodes_or_leaves_a_rotation_stuck(
        agents in 2_usize..5,
        plain in proptest::sample::subsequence(vec![Kind::CurrentOnly, Kind::Frozen], 0..=2),
        dice: u64,
        history in proptest::collection::vec(event(), 1..40),
    ) {
        let kinds: Vec<Kind> = std::iter::repeat_n(Kind::Agent, agents).chain(plain).collect();
        let mut world = World::new(&kinds, dice);
        world.pass(60);
        for event in history {
            happen(&mut world, event);
        }
        world.mend();
        world.pass(REST);
        world.check_rest();
    }
}

#[test]
fn both_ends_of_a_pair_rotate_at_once_with_three_writes_each() {
    let mut world = World::new(&[Kind::Agent; 3], 1);
    world.pass(60);
    for node in 0..3 {
        world.request(node, Verb::Rotate, 0);
    }
    world.pass(400);
    world.check_rest();
    assert_eq!([0, 1, 2].map(|node| world.key_generation(node)), [2; 3]);
    assert_eq!(world.writes(), 9);
}

#[test]
fn a_peer_that_knows_nothing_of_rotation_delays_it_and_is_lost_only_when_the_old_key_goes() {
    for (kind, deadline) in [(Kind::CurrentOnly, 600), (Kind::Frozen, 600)] {
        let mut world = World::new(&[Kind::Agent, Kind::Agent, kind], 7);
        world.pass(60);
        world.request(0, Verb::Rotate, 0);
        world.pass(deadline - 60);
        assert_eq!(world.key_generation(0), 1, "{kind:?} has not confirmed");
        world.pass(600);
        world.check_rest();
        assert_eq!(world.key_generation(0), 2);
        assert_eq!(world.writes(), 3);
    }
}

#[test]
fn an_aborted_rotation_is_back_where_it_was_and_may_be_asked_again() {
    let mut world = World::new(&[Kind::Agent, Kind::Agent, Kind::Frozen], 3);
    world.pass(60);
    world.request(0, Verb::Rotate, 0);
    world.pass(200);
    world.request(0, Verb::Abort, 0);
    world.pass(400);
    world.check_rest();
    assert_eq!(world.key_generation(0), 1);
    assert_eq!(world.writes(), 3);
    world.forget_requests(0);
    world.request(0, Verb::Rotate, 0);
    world.pass(1_000);
    world.check_rest();
    assert_eq!(world.key_generation(0), 2);
}
