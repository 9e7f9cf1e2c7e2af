//! That traffic really goes through the implementation under test, before it is measured.

use anyhow::{Result, ensure};
use podwire_testbed::{IpVersion, Iperf};

use crate::contestant::Contestant;
use crate::implementation::Implementation;

/// Sends for a second under the capture: what is encrypted shows no pod's packet on the underlay,
/// what is not shows them, and the implementation itself has counted them. Then the capture is
/// suspended: its time would be everybody's.
///
/// # Errors
/// With what was seen in place of that.
pub(crate) fn carries(contestant: &Contestant) -> Result<()> {
    let capture = contestant.bed.capture();
    capture.search_payloads(false)?;
    capture.take_report()?;
    let before = contestant.carried_bytes()?;
    let from = contestant.pod(1);
    let found = Iperf::new(from, contestant.pod(2))
        .version(IpVersion::V4)
        .seconds(1)
        .run()?;
    contestant.check_carried(before, found.bytes)?;
    let report = capture.take_report()?;
    let plaintext = report.plaintext_frames();
    if contestant.implementation.is_wireguard() {
        ensure!(plaintext == 0, "{plaintext} frames of pods were plaintext");
    } else if contestant.implementation != Implementation::Vxlan {
        ensure!(plaintext > 0, "no frame of pods was seen on the underlay");
    }
    capture.suspend(true)
}
