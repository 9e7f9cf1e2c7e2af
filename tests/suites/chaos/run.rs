//! One seed: its mesh, its faults, its recovery, and what must be true at its end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, wait_peers};
use podwire_testbed::fault_plan::{self, Fault, FaultPlan};
use podwire_testbed::kernel_state::KernelState;
use podwire_testbed::pulse::{IN_TIME, Pulse, Question, recovery};
use podwire_testbed::suite::{self, Context};
use podwire_testbed::{Protocol, Testbed, Topology, matrix, until};

use crate::strike::{self, End, LANES};
use crate::table::{self, Row};
use crate::wellbeing::is_well;

/// The promise: everything is reachable again within this of the last fault. Asserted where it is
/// measured, in `make soak`; `make test` gives a machine that does ten other things more.
const RECOVERY_MAX: Duration = Duration::from_secs(15);
const RECOVERY_DEADLINE: Duration = Duration::from_secs(60);

/// Nothing is lost for this long: then it is over. Longer than the pauses between the steps of a
/// recovery: two looks at the registry, half a second of doubt, a second for a returned folder.
const QUIET: Duration = Duration::from_secs(3);

/// Runs a seed and enters it into the table.
pub(crate) fn seed(context: &Context, seed: u64) -> Result<()> {
    let plan = FaultPlan::of(seed);
    let outcome = run(context, &plan).with_context(|| {
        format!(
            "{plan}replay it with: PODWIRE_CHAOS_SEED={seed} cargo test -p podwire-testbed \
             --test chaos\n"
        )
    });
    table::enter(Row::new(&plan, outcome.as_ref().ok().copied()));
    outcome.map(drop)
}

/// What came of a seed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outcome {
    pub(crate) recovery: Duration,
    pub(crate) asked: usize,
    pub(crate) answered: usize,
    /// Questions between nodes that no fault hit which nobody answered, if there are such nodes.
    pub(crate) bystanders_lost: Option<usize>,
}

fn run(context: &Context, plan: &FaultPlan) -> Result<Outcome> {
    let bed = mesh(context, plan)?;
    let kept = bed
        .nodes()
        .iter()
        .map(KernelState::of)
        .collect::<Result<Vec<_>>>()?;
    let pulse = Pulse::start(&bed)?;
    strike_all(&bed, plan)?;
    let recovery = recover(&bed, &pulse)?;
    for (node, kept) in bed.nodes().iter().zip(&kept) {
        until(CONVERGENCE, "the node to be as it was", || {
            kept.with_endpoints_of(node)?.is_that_of(node)?;
            is_well(&bed, node)
        })?;
    }
    let settled = pulse.now().saturating_sub(IN_TIME);
    let mut questions = pulse.questions();
    // The youngest may still be answered.
    questions.retain(|question| question.asked < settled);
    drop(pulse);
    matrix::all_reached(&bed.matrix().run()).context("at the end")?;
    // Here too, so that what the capture saw is told with the plan.
    bed.check()?;
    let allowed = if suite::is_soak() {
        RECOVERY_MAX
    } else {
        RECOVERY_DEADLINE
    };
    ensure!(
        recovery <= allowed,
        "reachable again only after {:.1} s",
        recovery.as_secs_f64()
    );
    Ok(outcome(plan, &questions, recovery))
}

fn mesh(context: &Context, plan: &FaultPlan) -> Result<Arc<Testbed>> {
    let lanes = LANES.to_string();
    let topology = Topology::new()
        .nodes(fault_plan::NODES)
        .pods_per_node(1)
        .agent_arguments(&["--lanes", &lanes]);
    let bed = context.testbed(&topology)?;
    for planned in plan.faults.iter().filter(|p| p.fault == Fault::ClockSet) {
        // From its start on: one whose clock is the machine's cannot be told another one.
        bed.node(planned.node).set_clock(0)?;
    }
    bed.start_agents()?;
    wait_peers(&bed)?;
    until(CONVERGENCE, "the mesh to be whole", || {
        matrix::all_reached(&bed.matrix().protocols(&[Protocol::Udp]).run())
    })?;
    if plan.faults.iter().any(|p| p.fault == Fault::KeysLost) {
        bed.expect_error("keys");
    }
    Ok(bed)
}

/// How long it takes from now until every way is answered.
fn recover(bed: &Testbed, pulse: &Pulse) -> Result<Duration> {
    let ended = pulse.now();
    let pods = bed.pods().count();
    let ways = pods * (pods - 1) * bed.pod(1, 1).addresses().len();
    until(RECOVERY_DEADLINE, "every way to be answered", || {
        let questions = pulse.questions();
        recovery(&questions, ways, ended, pulse.now(), QUIET)
            .with_context(|| unanswered(&questions, ended))
    })
}

/// Begins and ends every fault at its time.
fn strike_all(bed: &Arc<Testbed>, plan: &FaultPlan) -> Result<()> {
    let mut due: Vec<(Duration, bool, usize)> = plan
        .faults
        .iter()
        .enumerate()
        .flat_map(|(index, p)| [(p.at, false, index), (p.end(), true, index)])
        .collect();
    due.sort_by_key(|(at, ..)| *at);
    let mut under_way = BTreeMap::new();
    let start = Instant::now();
    for (at, is_end, index) in due {
        until(at + CONVERGENCE, "the time of the next fault", || {
            ensure!(start.elapsed() >= at, "it comes at {at:?}");
            Ok(())
        })?;
        let planned = &plan.faults[index];
        if !is_end {
            let begun = strike::begin(bed, planned);
            let begun = begun.with_context(|| format!("beginning{planned}"))?;
            table::struck(planned.fault, !matches!(begun, End::Void));
            under_way.insert(index, begun);
        } else if let Some(end) = under_way.remove(&index) {
            let ended = strike::end(bed, planned, end);
            ended.with_context(|| format!("ending{planned}"))?;
        }
    }
    Ok(())
}

/// What is not answered yet, for a message.
fn unanswered(questions: &[Question], since: Duration) -> String {
    let mut ways: BTreeMap<_, u32> = BTreeMap::new();
    for question in questions
        .iter()
        .filter(|q| q.asked >= since && !q.in_time())
    {
        *ways.entry(question.way).or_default() += 1;
    }
    let lines: Vec<_> = ways
        .iter()
        .map(|(way, lost)| format!("{} > {} {}: {lost}", way.from, way.to, way.version))
        .collect();
    format!(
        "not answered in time since the last fault: {}",
        lines.join(", ")
    )
}

fn outcome(plan: &FaultPlan, questions: &[Question], recovery: Duration) -> Outcome {
    let bystanders = plan.bystanders();
    let lost = questions.iter().filter(|question| {
        question.answered.is_none()
            && bystanders.contains(&question.way.from.node)
            && bystanders.contains(&question.way.to.node)
    });
    Outcome {
        recovery,
        asked: questions.len(),
        answered: questions.iter().filter(|q| q.answered.is_some()).count(),
        bystanders_lost: (bystanders.len() > 1).then(|| lost.count()),
    }
}
