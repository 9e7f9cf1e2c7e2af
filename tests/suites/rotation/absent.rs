//! A peer that is switched off for a whole rotation finds an ordinary new key.

use std::time::Instant;

use anyhow::{Result, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, peer};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{IpVersion, Protocol, until};

use crate::beside::{announce, is_next, loses_nothing_beside, mesh};
use crate::scene::{RETIRED_DEADLINE, annotation, settled, wait_phase};

pub(crate) const TESTS: &[Test] = &[(
    "a_peer_that_is_off_for_a_whole_rotation_comes_back_to_an_ordinary_new_key",
    comes_back,
)];

/// The one that is off.
const OFF: u8 = 5;

fn comes_back(context: &Context) -> Result<()> {
    let bed = mesh(context, OFF, |_| Ok(()))?;
    let off = bed.node(OFF);
    loses_nothing_beside(&bed, "another peer is off for the whole rotation", |_| {
        let key = annotation(&bed, 1, "public-key")?;
        off.kill_agent()?;
        bed.underlay().set_plugged(OFF, false)?;
        let began = Instant::now();
        let before = announce(&bed)?;
        // Its session may be new, and is waited for as long as it lives.
        wait_phase(&bed, 1, "promoted", RETIRED_DEADLINE)?;
        let promoted = began.elapsed().as_secs_f64();
        settled(&bed, &[1])?;
        is_next(&bed, before)?;
        bed.underlay().set_plugged(OFF, true)?;
        off.start_agent()?;
        let back = Instant::now();
        off.wait_ready()?;
        for version in [IpVersion::V4, IpVersion::V6] {
            let target = bed.pod(1, 1).host().address(version)?;
            let probe = bed.probe(bed.pod(OFF, 1).host(), Protocol::Udp, target);
            until(
                CONVERGENCE,
                "its pod to reach node 1's",
                || Ok(probe.ask()?),
            )?;
        }
        let reached = back.elapsed().as_secs_f64();
        let known = peer(off, bed.node(1).name())?.public_key;
        let told = annotation(&bed, 1, "public-key")?;
        ensure!(known.as_ref() == Some(&told) && told != key, "{known:?}");
        Ok(format!(
            "promoted {promoted:.0} s after the peer went off; it reached the node {reached:.1} s \
             after its start"
        ))
    })
}
