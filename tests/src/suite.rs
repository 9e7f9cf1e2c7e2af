//! Running tests that have a `main` of their own: `harness = false`.
//!
//! ```no_run
//! use podwire_testbed::{Topology, matrix, suite};
//!
//! fn main() -> std::process::ExitCode {
//!     suite::run(vec![("every_pod_reaches_every_pod", |context| {
//!         let bed = context.mesh(&Topology::new().nodes(3))?;
//!         matrix::all_reached(&bed.matrix().run())
//!     })])
//! }
//! ```

use std::any::Any;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, anyhow};
use libtest_mimic::{Arguments, Failed, Trial};

use crate::testbed::Testbed;
use crate::topology::Topology;
use crate::{binaries, cluster, sandbox};

/// Set to any value, a failed test waits for Enter before its testbed goes.
const HOLD_VARIABLE: &str = "PODWIRE_TESTBED_HOLD";

/// Tests at a time: each has several busy processes already.
const TEST_THREADS: usize = 2;

/// Set by `make soak` and `make conformance`: a suite runs its long cases in place of its short
/// ones.
const SOAK_VARIABLE: &str = "PODWIRE_SOAK";

/// Whether this run is for the cases that take longer than `make test` may.
#[must_use]
pub fn is_soak() -> bool {
    std::env::var_os(SOAK_VARIABLE).is_some()
}

/// A sentence, and what it says as code.
pub type Test = (&'static str, fn(&Context) -> Result<()>);

/// A test that knows more than its function: a seed, a bound.
#[allow(missing_debug_implementations, reason = "a closure")]
pub struct Case {
    /// A sentence.
    pub name: String,
    /// What it says as code.
    pub test: Body,
}

/// A test's code.
pub type Body = Box<dyn FnOnce(&Context) -> Result<()> + Send>;

/// What a test is given.
#[derive(Debug)]
pub struct Context {
    name: String,
    agent: Option<PathBuf>,
    testbeds: Mutex<Vec<Arc<Testbed>>>,
}

impl Context {
    /// Starts a testbed without running agents. It is checked when the test ends
    /// ([`Testbed::check`]), and explained when the test fails.
    ///
    /// # Errors
    /// As [`Topology::start`].
    pub fn testbed(&self, topology: &Topology) -> Result<Arc<Testbed>> {
        let mut topology = topology.clone();
        if topology.agent_program.is_none() {
            topology.agent_program.clone_from(&self.agent);
        }
        let testbed = Arc::new(topology.start(&self.name)?);
        let mut testbeds = self.testbeds.lock().unwrap_or_else(PoisonError::into_inner);
        testbeds.push(Arc::clone(&testbed));
        Ok(testbed)
    }

    /// Starts a testbed and all its agents, which are ready when this returns.
    ///
    /// # Errors
    /// As [`Self::testbed`] and [`Testbed::start_agents`].
    pub fn mesh(&self, topology: &Topology) -> Result<Arc<Testbed>> {
        let testbed = self.testbed(topology)?;
        testbed.start_agents()?;
        Ok(testbed)
    }

    /// Checks every testbed of the test.
    fn check(&self) -> Result<()> {
        self.started()
            .iter()
            .try_for_each(|testbed| testbed.check().map(drop))
    }

    fn started(&self) -> Vec<Arc<Testbed>> {
        self.testbeds
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Runs tests with the real agent, which is built first, in a sandbox. Takes libtest's arguments.
#[must_use]
pub fn run(tests: Vec<Test>) -> ExitCode {
    run_cases(cases(tests), TEST_THREADS)
}

/// As [`run`], so many at a time.
#[must_use]
pub fn run_cases(cases: Vec<Case>, at_a_time: usize) -> ExitCode {
    run_with(cases, at_a_time, || {
        // Before the sandbox: a build may need the host's network.
        let agent = binaries::agent()?;
        sandbox::enter()?;
        sandbox::require_tun()?;
        Ok(Some(agent))
    })
}

fn cases(tests: Vec<Test>) -> Vec<Case> {
    let case = |(name, test): Test| Case {
        name: name.to_owned(),
        test: Box::new(test),
    };
    tests.into_iter().map(case).collect()
}

/// Runs tests of whole clusters, one at a time: each keeps a machine busy. Everything that real
/// nodes run is built first.
#[must_use]
pub fn run_on_real_nodes(tests: Vec<Test>) -> ExitCode {
    run_with(cases(tests), 1, || {
        cluster::enter_with_policy_engine()?;
        Ok(None)
    })
}

/// As [`run_on_real_nodes`], with Kubernetes' own tests.
#[must_use]
pub fn run_conformance(tests: Vec<Test>) -> ExitCode {
    run_with(cases(tests), 1, || {
        cluster::enter_with_conformance()?;
        Ok(None)
    })
}

/// Runs tests that start no agent.
#[must_use]
pub fn run_without_agents(tests: Vec<Test>) -> ExitCode {
    run_with(cases(tests), TEST_THREADS, || {
        sandbox::enter()?;
        Ok(None)
    })
}

fn run_with(
    cases: Vec<Case>,
    at_a_time: usize,
    prepare: impl FnOnce() -> Result<Option<PathBuf>>,
) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(at_a_time);
    let agent = if arguments.list {
        None
    } else {
        match prepare() {
            Ok(agent) => agent,
            Err(error) => {
                complain(&error);
                return ExitCode::FAILURE;
            }
        }
    };
    let trials = cases
        .into_iter()
        .map(|case| {
            let agent = agent.clone();
            Trial::test(case.name.clone(), move || run_one(case, agent))
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

#[expect(
    clippy::print_stderr,
    reason = "there is no harness yet that could say it"
)]
fn complain(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}

fn run_one(case: Case, agent: Option<PathBuf>) -> Result<(), Failed> {
    let context = Context {
        name: case.name,
        agent,
        testbeds: Mutex::default(),
    };
    let outcome = catch_unwind(AssertUnwindSafe(|| (case.test)(&context)))
        .unwrap_or_else(|panic| Err(anyhow!("panicked: {}", panic_text(panic.as_ref()))));
    let checked = context.check();
    let Err(error) = outcome.and_then(|()| checked.context("at the end of the test")) else {
        return Ok(());
    };
    let testbeds = context.started();
    let mut text: String = testbeds.iter().map(|bed| bed.explain()).collect();
    // Last, where a terminal stands and what a record of a run keeps.
    let _ = write!(text, "\n{}: {error:#}", context.name);
    if std::env::var_os(HOLD_VARIABLE).is_some() {
        hold(&text);
    }
    Err(text.into())
}

#[expect(clippy::print_stderr, reason = "asked for, at a terminal")]
fn hold(text: &str) {
    eprintln!("{text}\n{HOLD_VARIABLE} is set: press Enter to take it down");
    let _ = std::io::stdin().read_line(&mut String::new());
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}
