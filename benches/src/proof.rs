//! That traffic really goes through the implementation under test, before it is measured.

use anyhow::{Result, ensure};
use podwire_testbed::{IpVersion, Iperf};

use crate::contestant::Contestant;

/// Of what arrived, the implementation's own count must show so much.
const CARRIED_MIN: f64 = 0.9;

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
    let before = contestant.carried_bytes(2)?;
    let from = contestant.pod(1);
    let found = Iperf::new(from, contestant.pod(2))
        .version(IpVersion::V4)
        .seconds(1)
        .run()?;
    let carried = contestant.carried_bytes(2)? - before;
    let report = capture.take_report()?;
    #[expect(clippy::cast_precision_loss, reason = "a share of gigabytes")]
    let share = carried as f64 / found.bytes.max(1) as f64;
    ensure!(
        share >= CARRIED_MIN,
        "{} bytes arrived, and it says that it carried {carried}: the traffic took another way",
        found.bytes
    );
    let plaintext = report.plaintext_frames();
    if contestant.implementation.is_encrypted() {
        ensure!(plaintext == 0, "{plaintext} frames of pods were plaintext");
    } else if contestant.implementation != crate::implementation::Implementation::Vxlan {
        ensure!(plaintext > 0, "no frame of pods was seen on the underlay");
    }
    capture.suspend(true)
}
