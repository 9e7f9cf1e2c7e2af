//! Both ends of a pair rotate over an underlay that loses and reorders.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use podwire_testbed::agent_view::{drops, wait_whole};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Impairment, ImpairmentId, LinkQuality, Messages, Testbed, Topology};

use crate::report::{self, Try};
use crate::scene::{Streams, TRIES, lost, rotate, sent, settled};

pub(crate) const TESTS: &[Test] = &[(
    "a_rotation_of_both_ends_over_loss_and_jitter_loses_what_the_underlay_loses_and_no_more",
    rotate_over,
)];

const CASE: &str = "both ends rotate over 5 % loss and 50 ms jitter";

const LOSS_PERCENT: f64 = 5.0;
const JITTER: Duration = Duration::from_millis(50);

/// Seconds of each control.
const CONTROL_SECONDS: u64 = 20;

/// What the underlay loses, packets of pods apart.
struct Losses {
    packets: ImpairmentId,
    others: ImpairmentId,
}

/// What was counted while something happened.
#[derive(Debug)]
struct Counted {
    sent: u64,
    by_underlay: u64,
    others_by_underlay: u64,
    /// Beyond what the underlay has dropped.
    lost: i64,
    reordered: u64,
    /// By the agents' own counters, but for handshakes.
    drops: BTreeMap<String, u64>,
}

fn impaired(context: &Context) -> Result<(Arc<Testbed>, Losses)> {
    // Each datagram leaves by itself, as on a wire: the rule would count a train as one.
    let topology = Topology::new()
        .nodes(2)
        .pods_per_node(1)
        .userspace_link(2)
        .agent_arguments(&["--lanes", "1", "--offload", "udp-gso=off"]);
    let bed = context.mesh(&topology)?;
    wait_whole(&bed)?;
    bed.capture().search_payloads(false)?;
    bed.node(2).link()?.set_quality(LinkQuality {
        jitter: JITTER,
        ..LinkQuality::default()
    });
    let loses = |messages| bed.impair(&Impairment::loss(LOSS_PERCENT).messages(messages));
    let losses = Losses {
        packets: loses(Messages::Packets)?,
        others: loses(Messages::Others)?,
    };
    Ok((bed, losses))
}

/// Drops of both agents but for those of handshakes, which are retried.
fn all_drops(bed: &Testbed) -> Result<BTreeMap<String, u64>> {
    let mut all = BTreeMap::new();
    for node in bed.nodes() {
        for (reason, packets) in drops(node)? {
            if !reason.starts_with("handshake-") {
                *all.entry(reason).or_default() += packets;
            }
        }
    }
    Ok(all)
}

fn counted(
    bed: &Testbed,
    losses: &Losses,
    happens: impl FnOnce(&Streams) -> Result<()>,
) -> Result<Counted> {
    let before = (
        bed.dropped_by(losses.packets)?,
        bed.dropped_by(losses.others)?,
        all_drops(bed)?,
    );
    let streams = Streams::start(bed, &[(1, 2)])?;
    happens(&streams)?;
    streams.flow()?;
    let counts = streams.stop()?;
    let by_underlay = bed.dropped_by(losses.packets)? - before.0;
    let mut drops = all_drops(bed)?;
    for (reason, packets) in before.2 {
        drops.entry(reason).and_modify(|now| *now -= packets);
    }
    drops.retain(|_, packets| *packets > 0);
    Ok(Counted {
        sent: sent(&counts),
        by_underlay,
        others_by_underlay: bed.dropped_by(losses.others)? - before.1,
        lost: i64::try_from(lost(&counts))? - i64::try_from(by_underlay)?,
        reordered: counts.iter().map(|(_, count)| count.reordered).sum(),
        drops,
    })
}

fn rotate_over(context: &Context) -> Result<()> {
    let (bed, losses) = impaired(context)?;
    let control = || counted(&bed, &losses, |streams| streams.flow_for(CONTROL_SECONDS));
    let mut tries = Vec::new();
    for _ in 0..TRIES {
        let before = control()?;
        let rotated = counted(&bed, &losses, |_| {
            rotate(&bed, &[1, 2])?;
            settled(&bed, &[1, 2])
        })?;
        let after = control()?;
        for it in [&before, &rotated, &after] {
            ensure!(
                it.by_underlay > 0 && it.reordered > 0,
                "no disorder: {it:?}"
            );
        }
        tries.push(Try {
            sent: rotated.sent,
            lost: rotated.lost,
            control_lost: before.lost + after.lost,
            remarks: format!(
                "beyond {} packets that the underlay lost, and {} handshakes and keepalives; {} \
                 came out of turn; drops of the agents: {:?}, in the controls of {CONTROL_SECONDS} \
                 s before and after {:?} and {:?}",
                rotated.by_underlay,
                rotated.others_by_underlay,
                rotated.reordered,
                rotated.drops,
                before.drops,
                after.drops
            ),
        });
        report::tell(CASE, &tries)?;
        if (before.lost, after.lost) == (0, 0) {
            ensure!(rotated.lost == 0, "{rotated:?}");
            ensure!(
                rotated.others_by_underlay > 0,
                "every handshake came through"
            );
            return Ok(());
        }
    }
    bail!("inconclusive: {tries:?}")
}
