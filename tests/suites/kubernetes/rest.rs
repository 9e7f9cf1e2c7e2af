//! What agents write while nothing changes, and when something does.

use anyhow::{Result, ensure};
use podwire_testbed::suite::{Context, Test};

use crate::scene::{Flows, agents_writes, mesh, move_node_3, wait_records};

pub(crate) const TESTS: &[Test] = &[(
    "three_agents_write_nothing_in_three_minutes_at_rest_and_once_for_a_change",
    at_rest,
)];

/// As long as the promise says.
const REST_SECONDS: u32 = 180;

/// Seconds between two heartbeats of each kubelet: many more than there are.
const HEARTBEAT_SECONDS: u32 = 10;

fn at_rest(context: &Context) -> Result<()> {
    let (bed, cluster) = mesh(context)?;
    wait_records(&cluster, 3)?;
    let before = agents_writes(&cluster)?.len();
    let flows = Flows::start(&bed, &[(1, 2), (2, 3)])?;
    for _ in 0..REST_SECONDS / HEARTBEAT_SECONDS {
        for node in bed.nodes() {
            cluster.heartbeat(node.name())?;
        }
        flows.go_on(HEARTBEAT_SECONDS)?;
    }
    let writes = agents_writes(&cluster)?;
    ensure!(writes.len() == before, "at rest: {:?}", &writes[before..]);
    flows.lost_nothing()?;
    move_node_3(&bed, &cluster, 50)?;
    wait_records(&cluster, 4)
}
