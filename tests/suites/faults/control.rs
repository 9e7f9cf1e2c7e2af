//! The senders of these tests are not blind spots of its capture.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::CONVERGENCE;
use podwire_testbed::suite::Context;
use podwire_testbed::{IpVersion, Protocol, Topology, until};

use crate::scene::Site;

/// Rounds a second: this is over soon.
const RATE: u32 = 1000;

/// Rounds of each sender: three connections are among them.
const ROUNDS: u64 = 25;

/// Without a guard every sender's packets leave by the default route, and each is counted; all of
/// them, so that none could hide behind another.
pub(crate) fn test(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(2).pods_per_node(2))?;
    bed.allow_plaintext();
    bed.allow_one_sided();
    for site in Site::ALL {
        for target in site.targets(&bed) {
            for protocol in [Protocol::Udp, Protocol::Tcp] {
                let version = IpVersion::of(target);
                let what = format!("{site:?}, {protocol} over {version}");
                bed.capture().take_report()?;
                let sender = bed.sender(site.host(&bed), &[target], &[protocol], RATE)?;
                sender
                    .wait_for_more(ROUNDS, CONVERGENCE)
                    .context(what.clone())?;
                let taken = sender.taken();
                drop(sender);
                ensure!(taken > 0, "{what}: nothing was sent");
                until(Duration::from_secs(10), &what, || {
                    let leaked = bed.capture().report()?.leaked_frames();
                    ensure!(leaked >= taken, "{leaked} of {taken} packets were counted");
                    Ok(())
                })?;
            }
        }
    }
    Ok(())
}
