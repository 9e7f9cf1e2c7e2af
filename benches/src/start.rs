//! From a start to the first packet that arrives.

use std::time::{Duration, Instant};

use anyhow::Result;
use podwire_testbed::IpVersion;

use crate::contestant::Contestant;
use crate::implementation::Implementation;
use crate::load::round_trips::Answerer;
use crate::programs::Programs;
use crate::sample::Costs;
use crate::take::Taken;

/// What has not begun to carry by then does not.
const DEADLINE: Duration = Duration::from_secs(30);

/// Ends what runs on node 1 of a mesh of two and starts it again, with all that an operator does
/// for it, until a pod's question is answered.
///
/// # Errors
/// When it does not come up, or nothing is answered.
pub(crate) fn measure(implementation: Implementation, programs: &Programs) -> Result<Taken> {
    let mut contestant = Contestant::bring_up(implementation, 2, programs)?;
    contestant.bed.capture().suspend(true)?;
    let target = contestant.pod(2).address(IpVersion::V4)?;
    let answerer = Answerer::start(contestant.pod(2), target)?;
    answerer.first_answer(contestant.pod(1), DEADLINE)?;
    contestant.end(1)?;
    let start = Instant::now();
    contestant.start_again(1, programs)?;
    answerer.first_answer(contestant.pod(1), DEADLINE)?;
    let elapsed = start.elapsed();
    Ok(Taken {
        value: elapsed.as_secs_f64() * 1e3,
        percentiles: None,
        carried_bytes: 0,
        costs: Costs {
            seconds: elapsed.as_secs_f64(),
            ..Costs::default()
        },
    })
}
