//! One table takes the place of another under traffic.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use netlink_packet_netfilter::nftables::{NfTablesMessage, TableAttribute, TableMessage};

use super::super::super::nftables::Nftables;
use super::super::ruleset::{self, InForce, STANDBY};
use super::super::{InstallError, carry_out};
use super::*;

/// Each let about one packet of a flood out where one transaction was all of it.
const REPLACEMENTS: usize = 200;

type Traffic<'a> = (&'a Namespace, &'a (dyn Fn() + Sync));

/// Replaces one table by another again and again while all of this happens again and again, now
/// and then from where an agent was killed.
fn while_replaced(lab: &Lab, tables: [&GuardTable; 2], traffic: &[Traffic<'_>]) {
    /// The standby is alone in force.
    const KILLED_AFTER: usize = 3;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for (namespace, once) in traffic {
            scope.spawn(|| {
                namespace.run(|| {
                    while !over.load(Ordering::Relaxed) {
                        once();
                    }
                });
            });
        }
        let _ended = Ended(&over);
        for (number, table) in tables.into_iter().cycle().take(REPLACEMENTS).enumerate() {
            if number % 4 == 3 {
                begin(lab, table, KILLED_AFTER);
            }
            lab.install(table);
        }
    });
}

/// Also when what it waits for panics.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Carries out as much of a replacement as an agent did before it was killed.
fn begin(lab: &Lab, table: &GuardTable, done: usize) {
    let replacement = ruleset::replace(table, GuardCounters::default(), InForce::Guard);
    let steps = replacement.into_iter().chain(ruleset::remove(STANDBY));
    lab.node.run(|| {
        let mut nftables = Nftables::open().expect("a socket");
        carry_out(&mut nftables, steps.take(done)).expect("carried out");
    });
}

/// Another table that admits the same.
fn another(mut table: GuardTable) -> GuardTable {
    table.underlay_links.insert("eth9".to_owned());
    table
}

/// What sends to a peer's pod, where a foreign route leads in plaintext, and what would see it.
struct Leak {
    lab: Lab,
    family: Addresses,
    senders: [UdpSocket; 2],
    peer: UdpSocket,
}

impl Leak {
    /// Its guard is [`table`].
    fn new(family: Addresses) -> Self {
        let lab = Lab::new();
        let peer = socket(&lab.peer, any(family.peer), PORT);
        let node = socket(&lab.node, any(family.node), 0);
        let pod = socket(&lab.pod, family.pod, 0);
        let senders = [node, pod];
        for sender in &senders {
            send(sender, family.peer_pod, "unguarded").expect("sent");
            assert_eq!(receive(&peer).0, "unguarded");
        }
        lab.install(&table());
        Self {
            lab,
            family,
            senders,
            peer,
        }
    }

    fn send(&self, sender: usize) {
        let _ = send(&self.senders[sender], self.family.peer_pod, "plaintext");
    }

    fn nothing_left(&self) {
        assert!(self.lab.counted().egress_refused > 0, "nothing was sent");
        // What arrives first is what was sent last: nothing else had arrived.
        send(&self.senders[1], self.family.peer, "marker").expect("sent");
        assert_eq!(receive(&self.peer).0, "marker");
    }
}

#[test]
fn nothing_leaves_while_the_table_is_replaced() {
    for family in families() {
        let leak = Leak::new(family);
        while_replaced(
            &leak.lab,
            [&another(table()), &table()],
            &[
                (&leak.lab.node, &|| leak.send(0)),
                (&leak.lab.pod, &|| leak.send(1)),
            ],
        );
        leak.nothing_left();
    }
}

#[test]
fn a_standby_that_was_about_to_admit_more_is_not_trusted() {
    for family in families() {
        let leak = Leak::new(family);
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    leak.send(0);
                }
            });
            let _ended = Ended(&over);
            for _ in 0..10 {
                // The standby is in force, and nothing else is changed.
                begin(&leak.lab, &with_host_network(), 2);
                leak.lab.install(&another(table()));
                leak.lab.install(&table());
            }
        });
        leak.nothing_left();
    }
}

#[test]
fn nothing_is_lost_or_translated_wrongly_while_the_table_is_replaced() {
    for family in families() {
        let lab = Lab::new();
        lab.install(&with_host_network());
        let peer = socket(&lab.peer, family.peer, PORT);
        let peer_pod = socket(&lab.peer, family.peer_pod, PORT);
        let remote_pod = socket(&lab.far_end, family.remote_pod, PORT);
        // Each packet is the first of its flow, for which a translation is chosen.
        let arrives = |from: &str, to: &str, at: &UdpSocket| {
            let from = UdpSocket::bind((from, 0)).expect("a port");
            send(&from, to, to).expect("nothing refuses it");
            let (what, source) = receive(at);
            assert_eq!(what, to);
            source
        };
        let from_pod = || {
            let source = arrives(family.pod, family.peer, &peer);
            assert_eq!(source.to_string(), family.node, "to the outside");
            let source = arrives(family.pod, family.peer_pod, &peer_pod);
            assert_eq!(source.to_string(), family.pod, "to a host-network peer");
        };
        let from_node = || {
            let source = arrives(family.node, family.remote_pod, &remote_pod);
            let is_own = family.own_pods.iter().any(|own| own.contains(&source));
            assert!(is_own, "by the device: {source}");
        };
        while_replaced(
            &lab,
            [&another(with_host_network()), &with_host_network()],
            &[(&lab.pod, &from_pod), (&lab.node, &from_node)],
        );
        assert_eq!(lab.counted(), GuardCounters::default());
    }
}

#[test]
fn an_agent_that_is_killed_while_it_replaces_the_table_leaves_its_node_closed() {
    const STEPS: usize = 7;
    let lab = Lab::new();
    lab.node.run(|| {
        set("ipv4/icmp_ratelimit", "0");
        set("ipv6/icmp/ratelimit", "0");
    });
    let replacement = ruleset::replace(&table(), GuardCounters::default(), InForce::Guard);
    assert_eq!(STEPS, replacement.len() + ruleset::remove(STANDBY).len());
    for done in 0..=STEPS {
        lab.install(&table());
        begin(&lab, &another(table()), done);
        for family in families() {
            for from in [&lab.node, &lab.pod] {
                let error = refusal(from, family.peer_pod);
                assert!(is_refusal(&error), "after {done}: {error}");
            }
        }
        lab.node.run(|| {
            let after = observe(None).expect("observed");
            assert_eq!(after, Guard::Altered, "after {done}");
            let mut installed = install(&table()).expect("installed");
            let after = observe(Some(&mut installed)).expect("observed");
            assert_eq!(after, Guard::Installed(table()));
            assert_eq!(nft("list tables").trim(), "table inet podwire");
        });
    }
}

#[test]
fn a_standby_that_was_left_is_noticed_and_removed() {
    let mut watched = Watched::new();
    let left = "add table inet podwire_standby";
    watched.node.run(|| nft(left));
    assert_eq!(watched.observe(), Guard::Altered);
    watched.node.run(|| {
        assert!(remove().expect("removed"));
        assert_eq!(nft("list tables"), "");
        nft(left);
        assert!(remove().expect("removed"));
        assert_eq!(nft("list tables"), "");
    });
}

#[test]
fn a_table_without_rules_is_none() {
    Namespace::new().run(|| {
        install(&table()).expect("installed");
        nft("flush table inet podwire");
        assert_eq!(observe(None).expect("observed"), Guard::Missing);
    });
}

#[test]
fn a_table_that_is_refused_where_nothing_guards_leaves_nothing_and_tells_nobody() {
    Namespace::new().run(|| {
        let replacement = ruleset::replace(&table(), GuardCounters::default(), InForce::Nothing);
        let [mut all] = <[_; 1]>::try_from(replacement).expect("one transaction");
        let attributes = vec![TableAttribute::Name("nobody".to_owned())];
        all.push(NfTablesMessage::DeleteTable(TableMessage { attributes }));
        let mut nftables = Nftables::open().expect("a socket");
        let before = nftables.generation().expect("asked");
        carry_out(&mut nftables, [all]).expect_err("refused");
        assert_eq!(nft("list tables"), "");
        let mut nftables = Nftables::open().expect("a socket");
        assert_eq!(nftables.generation().expect("asked"), before);
    });
}

#[test]
fn who_flushes_all_tables_meanwhile_hinders_no_replacement() {
    // One less than would do.
    const FLUSHES: usize = 4;
    let node = Namespace::new();
    let install = || install(&table());
    for _ in 0..50 {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let _ended = Ended(&over);
                node.run(|| {
                    for _ in 0..FLUSHES {
                        nft("flush ruleset");
                    }
                });
            });
            while !over.load(Ordering::Relaxed) {
                match node.run(install) {
                    // Nothing else was changed.
                    Ok(_) | Err(InstallError::Unread(_)) => {}
                    Err(error) => panic!("a flush is no refusal: {error:?}"),
                }
            }
        });
    }
}
