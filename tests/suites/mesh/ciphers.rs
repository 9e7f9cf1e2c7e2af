//! Two ways to compute one cipher: AVX-512 and AWS-LC understand each other.

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{sample, wait_peers};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{IpVersion, Topology};

use crate::bulk::Bulk;

pub(crate) const TESTS: &[Test] = &[(
    "nodes_with_and_without_avx512_exchange_every_byte",
    both_ways,
)];

/// Full packets, and a last one that is not.
const BYTES: usize = 3_000_001;

fn both_ways(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(2).pods_per_node(1))?;
    bed.node(1).set_agent_arguments(&["--cipher", "aws-lc"]);
    bed.node(2).set_agent_arguments(&["--cipher", "auto"]);
    bed.start_agents()?;
    wait_peers(&bed)?;
    let uses = |node: u8, cipher: &str| -> Result<bool> {
        let metric = format!("podwire_cipher{{cipher=\"{cipher}\"}}");
        Ok(sample(bed.node(node), &metric)? == 1)
    };
    ensure!(uses(1, "aws-lc")?, "--cipher aws-lc has no effect");
    let has_avx512 = has_avx512();
    let expected = if has_avx512 { "avx512" } else { "aws-lc" };
    ensure!(uses(2, expected)?, "node-2 does not use {expected}");
    for version in [IpVersion::V4, IpVersion::V6] {
        let target = bed.pod(2, 1).host().address(version)?;
        Bulk::connect(&bed, bed.pod(1, 1).host(), target, BYTES)?
            .exchange()
            .with_context(|| format!("over {version}"))?;
    }
    Ok(())
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512ifma")
}

#[cfg(not(target_arch = "x86_64"))]
const fn has_avx512() -> bool {
    false
}
