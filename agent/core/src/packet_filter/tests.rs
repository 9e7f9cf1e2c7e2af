use super::*;

const CLUSTER4: [u8; 2] = [10, 244];

fn name(chain: &str) -> ChainName {
    ChainName {
        family: TableFamily::Ip,
        table: "filter".to_owned(),
        chain: chain.to_owned(),
    }
}

/// Name, hook, whether the policy drops, rules.
type Written<'a> = (&'a str, Option<Hook>, bool, Vec<Vec<Expression>>);

fn ruleset(chains: &[Written<'_>]) -> Ruleset {
    let chains = chains.iter().cloned();
    chains
        .map(|(chain, hook, drops_by_policy, rules)| {
            let chain_name = name(chain);
            (
                chain_name,
                Chain {
                    hook,
                    is_before_tracking: hook == Some(Hook::Prerouting),
                    drops_by_policy,
                    rules,
                },
            )
        })
        .collect()
}

fn sample() -> Sample {
    Sample {
        hooks: vec![Hook::Prerouting, Hook::Forward, Hook::Postrouting],
        incoming: Some("podwire-bridge".to_owned()),
        outgoing: Some("podwire0".to_owned()),
        source: "10.244.1.254".parse().expect("address"),
        destination: "10.244.2.254".parse().expect("address"),
        protocol: Protocol::Tcp,
        source_port: 32768,
        destination_port: 9,
    }
}

/// What drops the sample, each as its rule or as the policy.
fn found(ruleset: &Ruleset) -> Vec<String> {
    let dropped = dropping(ruleset, &sample()).into_iter();
    let words = |dropped: Dropped| match dropped.rule {
        Some((chain, number)) => format!("{}: {chain} {number}", dropped.base.chain),
        None => format!("{}: policy", dropped.base.chain),
    };
    dropped.map(words).collect()
}

fn forward(drops: bool, rules: Vec<Vec<Expression>>) -> Ruleset {
    ruleset(&[("FORWARD", Some(Hook::Forward), drops, rules)])
}

fn decide(verdict: Verdict) -> Expression {
    Expression::Verdict(verdict)
}

fn incoming(name: &[u8]) -> [Expression; 2] {
    [
        Expression::Load(1, Property::IncomingLink),
        Expression::Compare(1, Comparison::Equal, name.to_vec()),
    ]
}

fn source_is(prefix: &[u8]) -> [Expression; 2] {
    [
        Expression::Load(1, Property::NetworkHeader(12, prefix.len())),
        Expression::Compare(1, Comparison::Equal, prefix.to_vec()),
    ]
}

/// iptables' `-m conntrack --ctstate`.
fn conntrack(states: u16) -> Expression {
    let mut data = vec![0; 162];
    data[146..148].copy_from_slice(&1_u16.to_ne_bytes());
    data[150..152].copy_from_slice(&states.to_ne_bytes());
    Expression::Match("conntrack".to_owned(), data)
}

const ESTABLISHED_OR_RELATED: u16 = 6;
const NEW: u16 = 8;

fn rule(parts: &[&[Expression]], verdict: Verdict) -> Vec<Expression> {
    let parts = parts.iter().flat_map(|part| part.iter().cloned());
    parts.chain([decide(verdict)]).collect()
}

#[test]
fn an_empty_rule_set_and_a_policy_that_accepts_drop_nothing() {
    assert!(found(&Ruleset::new()).is_empty());
    assert!(found(&forward(false, vec![])).is_empty());
}

#[test]
fn a_policy_that_drops_is_found_unless_a_rule_accepts_first() {
    assert_eq!(found(&forward(true, vec![])), ["FORWARD: policy"]);
    let accept = rule(&[&source_is(&CLUSTER4)], Verdict::Accept);
    assert!(found(&forward(true, vec![accept])).is_empty());
    let other = rule(&[&source_is(&[10, 245])], Verdict::Accept);
    assert_eq!(found(&forward(true, vec![other])), ["FORWARD: policy"]);
}

#[test]
fn the_rules_of_docker_and_kube_proxy_let_no_new_connection_of_a_pod_pass() {
    let jump = |chain: &str| vec![decide(Verdict::Jump(chain.to_owned()))];
    let unclear = Expression::Match("set".to_owned(), vec![0; 8]);
    let mark = {
        let mut data = [0x4000_u32.to_ne_bytes(), 0x4000_u32.to_ne_bytes()].concat();
        data.push(0);
        Expression::Match("mark".to_owned(), data)
    };
    let rules = ruleset(&[
        (
            "FORWARD",
            Some(Hook::Forward),
            true,
            vec![
                rule(
                    &[&[conntrack(NEW)]],
                    Verdict::Jump("KUBE-SERVICES".to_owned()),
                ),
                jump("KUBE-FORWARD"),
                jump("DOCKER-USER"),
                // -m set --match-set docker-ext-bridges-v4 dst --ctstate RELATED,ESTABLISHED
                rule(
                    &[&[unclear, conntrack(ESTABLISHED_OR_RELATED)]],
                    Verdict::Accept,
                ),
                rule(&[&incoming(b"docker0\0")], Verdict::Accept),
                jump("DOCKER"),
            ],
        ),
        ("KUBE-SERVICES", None, false, vec![]),
        (
            "KUBE-FORWARD",
            None,
            false,
            vec![
                rule(&[&[mark]], Verdict::Accept),
                rule(&[&[conntrack(ESTABLISHED_OR_RELATED)]], Verdict::Accept),
            ],
        ),
        (
            "DOCKER-USER",
            None,
            false,
            vec![vec![Expression::Nothing, decide(Verdict::Return)]],
        ),
        (
            "DOCKER",
            None,
            false,
            vec![rule(&[&incoming(b"docker0\0")], Verdict::Drop)],
        ),
    ]);
    assert_eq!(found(&rules), ["FORWARD: policy"]);
}

#[test]
fn a_rule_of_a_chain_that_is_led_to_is_found_by_its_number() {
    let rules = ruleset(&[
        (
            "FORWARD",
            Some(Hook::Forward),
            false,
            vec![rule(
                &[&incoming(b"podwire-")],
                Verdict::Goto("ZONE".to_owned()),
            )],
        ),
        (
            "ZONE",
            None,
            false,
            vec![
                rule(&[&[conntrack(ESTABLISHED_OR_RELATED)]], Verdict::Accept),
                vec![Expression::Nothing, decide(Verdict::Drop)],
            ],
        ),
    ]);
    assert_eq!(found(&rules), ["FORWARD: ZONE 2"]);
}

#[test]
fn what_is_not_understood_is_reported_only_where_it_makes_no_difference() {
    let unclear = || vec![Expression::Unclear];
    let may = |verdict| rule(&[&unclear()], verdict);
    for (rules, expected) in [
        (vec![may(Verdict::Accept)], vec![]),
        (vec![may(Verdict::Return)], vec![]),
        (vec![may(Verdict::Elsewhere)], vec![]),
        (vec![may(Verdict::Jump("NOT-READ".to_owned()))], vec![]),
        (
            vec![vec![decide(Verdict::Jump("NOT-READ".to_owned()))]],
            vec![],
        ),
        (vec![may(Verdict::Drop)], vec!["FORWARD: policy"]),
        (vec![unclear()], vec!["FORWARD: policy"]),
        (
            vec![rule(&[&unclear(), &incoming(b"eth0\0")], Verdict::Accept)],
            vec!["FORWARD: policy"],
        ),
    ] {
        assert_eq!(found(&forward(true, rules.clone())), expected, "{rules:?}");
        assert!(found(&forward(false, rules)).is_empty());
    }
    // A register that something unclear has written says nothing.
    let stale = rule(
        &[
            &source_is(&CLUSTER4)[..1],
            &unclear(),
            &[Expression::Compare(1, Comparison::Equal, vec![1; 2])],
        ],
        Verdict::Accept,
    );
    assert!(found(&forward(true, vec![stale])).is_empty());
}

#[test]
fn what_is_not_known_at_all_may_have_let_it_pass() {
    let unknown = [Expression::Unknown];
    let never = incoming(b"eth0\0");
    for rules in [
        vec![unknown.to_vec()],
        vec![rule(&[&unknown], Verdict::Drop)],
        // It is asked before that.
        vec![rule(&[&unknown, &never], Verdict::Drop)],
    ] {
        assert!(found(&forward(true, rules.clone())).is_empty(), "{rules:?}");
        assert!(found(&forward(false, rules)).is_empty());
    }
    let after = rule(&[&never, &unknown], Verdict::Accept);
    assert_eq!(found(&forward(true, vec![after])), ["FORWARD: policy"]);
}

/// nft's `meta mark & BITS == BITS`, and iptables' own.
fn marked(bits: u32) -> [Vec<Expression>; 2] {
    let bytes = bits.to_ne_bytes();
    let native = vec![
        Expression::Load(1, Property::Mark),
        Expression::Bitwise {
            from: 1,
            to: 1,
            mask: bytes.to_vec(),
            flips: vec![0; 4],
        },
        Expression::Compare(1, Comparison::Equal, bytes.to_vec()),
    ];
    let data = [bytes.as_slice(), &bytes, &[0]].concat();
    let own = vec![Expression::Match("mark".to_owned(), data)];
    [native, own]
}

#[test]
fn whether_a_mark_is_set_is_not_known_but_for_kube_proxys_own() {
    for condition in marked(0x4000) {
        let accept = rule(&[&condition], Verdict::Accept);
        assert!(found(&forward(true, vec![accept.clone()])).is_empty());
        let drop = rule(&[&condition], Verdict::Drop);
        assert!(found(&forward(false, vec![drop])).is_empty());
        let jump = vec![decide(Verdict::Jump("KUBE-FORWARD".to_owned()))];
        let with = |first: Vec<Vec<Expression>>| {
            found(&ruleset(&[
                ("EARLIER", Some(Hook::Prerouting), false, first),
                ("FORWARD", Some(Hook::Forward), true, vec![jump.clone()]),
                ("KUBE-FORWARD", None, false, vec![accept.clone()]),
            ]))
        };
        assert_eq!(with(vec![]), ["FORWARD: policy"]);
        let sets = [Expression::Sets(Property::Mark)];
        let unclear = [Expression::Unclear];
        let never = incoming(b"eth0\0");
        let part = |parts: &[&[Expression]]| vec![parts.concat()];
        for first in [
            part(&[&sets]),
            part(&[&unclear, &sets]),
            part(&[&[Expression::Unknown]]),
            part(&[&[decide(Verdict::Elsewhere)]]),
            // It would not come there if the state of its connection were known.
            vec![
                rule(&[&[conntrack(NEW)]], Verdict::Accept),
                vec![Expression::Sets(Property::ConnectionState)],
                sets.to_vec(),
            ],
        ] {
            assert_eq!(with(first.clone()), [""; 0], "{first:?}");
        }
        assert_eq!(with(part(&[&never, &sets])), ["FORWARD: policy"]);
    }
}

#[test]
fn the_state_of_a_connection_is_not_known_where_a_rule_may_have_set_it() {
    let accepted = vec![rule(
        &[&[conntrack(ESTABLISHED_OR_RELATED)]],
        Verdict::Accept,
    )];
    let with = |first: Expression, hook| {
        found(&ruleset(&[
            ("EARLIER", Some(hook), false, vec![vec![first]]),
            ("FORWARD", Some(Hook::Forward), true, accepted.clone()),
        ]))
    };
    let before = Hook::Prerouting;
    assert_eq!(with(Expression::Nothing, before), ["FORWARD: policy"]);
    let elsewhere = decide(Verdict::Elsewhere);
    for sets in [Expression::Sets(Property::ConnectionState), elsewhere] {
        assert_eq!(with(sets.clone(), before), [""; 0]);
        // Too late.
        assert_eq!(with(sets, Hook::Postrouting), ["FORWARD: policy"]);
    }
}

#[test]
fn masks_ranges_and_orders_are_computed_as_the_kernel_does() {
    let masked = |mask: [u8; 4], value: [u8; 4]| {
        vec![
            Expression::Load(1, Property::NetworkHeader(16, 4)),
            Expression::Bitwise {
                from: 1,
                to: 2,
                mask: mask.to_vec(),
                flips: vec![0; 4],
            },
            Expression::Compare(2, Comparison::Equal, value.to_vec()),
        ]
    };
    let port = |is_inverted, from: u16, to: u16| {
        vec![
            Expression::Load(1, Property::TransportHeader(2, 2)),
            Expression::Range {
                register: 1,
                is_inverted,
                from: from.to_be_bytes().to_vec(),
                to: to.to_be_bytes().to_vec(),
            },
        ]
    };
    let ordered = |less, or_equal, operand: u16| {
        vec![
            Expression::Load(1, Property::TransportHeader(2, 2)),
            Expression::Compare(
                1,
                Comparison::Ordered { less, or_equal },
                operand.to_be_bytes().to_vec(),
            ),
        ]
    };
    for (condition, holds) in [
        (masked([255, 255, 254, 0], [10, 244, 2, 0]), true),
        (masked([255, 255, 254, 0], [10, 244, 4, 0]), false),
        (port(false, 1, 9), true),
        (port(false, 10, 20), false),
        (port(true, 10, 20), true),
        (ordered(true, false, 9), false),
        (ordered(true, true, 9), true),
        (ordered(false, false, 8), true),
    ] {
        let rules = forward(false, vec![rule(&[&condition], Verdict::Drop)]);
        let expected: &[&str] = if holds { &["FORWARD: FORWARD 1"] } else { &[] };
        assert_eq!(found(&rules), expected, "{condition:?}");
    }
}

#[test]
fn a_value_is_found_in_a_set_and_in_ranges_and_may_be_decided_there() {
    let element = |key: &[u8], is_end, verdict| Element {
        key: key.to_vec(),
        is_end,
        verdict,
    };
    let source_in = |is_inverted, elements: Vec<Element>| {
        vec![
            Expression::Load(1, Property::NetworkHeader(12, 4)),
            Expression::Lookup {
                register: 1,
                is_inverted,
                elements,
            },
        ]
    };
    let ranges = |verdict: Option<Verdict>| {
        vec![
            element(&[0, 0, 0, 0], true, None),
            element(&[10, 244, 0, 0], false, verdict),
            element(&[10, 245, 0, 0], true, None),
            element(&[10, 245, 0, 0], false, None),
            element(&[10, 246, 0, 0], true, None),
        ]
    };
    let other = vec![element(&[10, 244, 1, 7], false, None)];
    let same = vec![element(&[10, 244, 1, 254], false, None)];
    let beyond = ranges(None).split_off(3);
    for (is_inverted, elements, holds) in [
        (false, ranges(None), true),
        (true, ranges(None), false),
        (false, beyond.clone(), false),
        (true, beyond, true),
        (false, other.clone(), false),
        (true, other, true),
        (false, same, true),
    ] {
        let condition = source_in(is_inverted, elements);
        let rules = forward(false, vec![rule(&[&condition], Verdict::Drop)]);
        let expected: &[&str] = if holds { &["FORWARD: FORWARD 1"] } else { &[] };
        assert_eq!(found(&rules), expected, "{condition:?}");
    }
    let decided = source_in(false, ranges(Some(Verdict::Accept)));
    assert!(found(&forward(true, vec![decided])).is_empty());
    let undecided = source_in(false, ranges(None));
    assert_eq!(found(&forward(true, vec![undecided])), ["FORWARD: policy"]);
}

#[test]
fn before_routing_nobody_knows_by_which_link_a_packet_leaves() {
    let by_device = vec![
        Expression::Load(1, Property::OutgoingLink),
        Expression::Compare(1, Comparison::Equal, b"podwire0\0".to_vec()),
    ];
    let drops = vec![rule(&[&by_device], Verdict::Drop)];
    for (hook, expected) in [
        (Hook::Prerouting, vec![]),
        (Hook::Forward, vec!["X: X 1"]),
        (Hook::Input, vec![]),
    ] {
        let rules = ruleset(&[("X", Some(hook), false, drops.clone())]);
        assert_eq!(found(&rules), expected, "{hook:?}");
    }
}

#[test]
fn by_which_link_a_packet_of_this_node_came_in_is_not_known() {
    let sample = Sample {
        hooks: vec![Hook::Output],
        incoming: None,
        ..sample()
    };
    let dropped = |rules: Vec<Vec<Expression>>, policy| {
        let rules = ruleset(&[("OUTPUT", Some(Hook::Output), policy, rules)]);
        dropping(&rules, &sample).len()
    };
    assert_eq!(dropped(vec![], true), 1);
    let by_link = incoming(b"lo\0");
    for (verdict, policy) in [(Verdict::Accept, true), (Verdict::Drop, false)] {
        assert_eq!(dropped(vec![rule(&[&by_link], verdict)], policy), 0);
    }
}

#[test]
fn chains_of_the_other_version_are_not_met_and_loops_end() {
    let mut rules = forward(
        true,
        vec![vec![decide(Verdict::Jump("FORWARD".to_owned()))]],
    );
    assert!(found(&rules).is_empty());
    let (_, chain) = rules.pop_first().expect("one chain");
    let of_family = |family| {
        let name = ChainName {
            family,
            ..name("FORWARD")
        };
        let chain = Chain {
            rules: Vec::new(),
            ..chain.clone()
        };
        found(&Ruleset::from([(name, chain)])).len()
    };
    let families = [TableFamily::Ip, TableFamily::Ip6, TableFamily::Inet];
    assert_eq!(families.map(of_family), [1, 0, 1]);
}

#[test]
fn whether_a_value_is_in_a_set_of_several_values_in_one_is_not_known() {
    // Of address and port, the register has the address.
    let elements = vec![Element {
        key: vec![10, 244, 1, 254, 0, 9, 0, 0],
        is_end: false,
        verdict: None,
    }];
    for is_inverted in [false, true] {
        let condition = [
            Expression::Load(1, Property::NetworkHeader(12, 4)),
            Expression::Lookup {
                register: 1,
                is_inverted,
                elements: elements.clone(),
            },
        ];
        for (verdict, drops) in [(Verdict::Accept, true), (Verdict::Drop, false)] {
            let rules = forward(drops, vec![rule(&[&condition], verdict)]);
            assert!(found(&rules).is_empty(), "{rules:?}");
        }
    }
}

#[test]
fn chains_to_which_many_rules_lead_are_walked_once() {
    const CHAINS: usize = 12;
    const RULES: usize = 400;
    let names: Vec<String> = (0..CHAINS).map(|number| format!("C{number}")).collect();
    let chains = names.iter().enumerate().map(|(number, chain)| {
        let next = names.get(number + 1);
        let jump = next.map(|next| vec![decide(Verdict::Jump(next.clone()))]);
        let hook = (number == 0).then_some(Hook::Forward);
        let rules = jump.map_or_else(Vec::new, |jump| vec![jump; RULES]);
        (chain.as_str(), hook, true, rules)
    });
    // 400 to the power of 11 ways would not end.
    let rules = ruleset(&chains.collect::<Vec<_>>());
    assert_eq!(found(&rules), ["C0: policy"]);
}

#[test]
fn an_ipv6_packet_shows_its_own_header() {
    let sample = Sample {
        source: "fd00:10:244:1::7".parse().expect("address"),
        destination: "fd00:10:244:2::7".parse().expect("address"),
        ..sample()
    };
    let condition = [
        Expression::Load(1, Property::NetworkHeader(24, 6)),
        Expression::Compare(1, Comparison::Equal, vec![0xfd, 0, 0, 0x10, 2, 0x44]),
        Expression::Load(1, Property::Protocol),
        Expression::Compare(1, Comparison::Equal, vec![6]),
        Expression::Load(1, Property::Version),
        Expression::Compare(1, Comparison::Equal, vec![10]),
    ];
    let name = ChainName {
        family: TableFamily::Ip6,
        ..name("FORWARD")
    };
    let chain = Chain {
        hook: Some(Hook::Forward),
        rules: vec![rule(&[&condition], Verdict::Drop)],
        ..Chain::default()
    };
    assert_eq!(dropping(&Ruleset::from([(name, chain)]), &sample).len(), 1);
}
