//! What must be true of a testbed at the end of every test.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::{MutexGuard, PoisonError};

use anyhow::{Result, bail, ensure};

use super::Testbed;
use crate::capture::CaptureReport;
use crate::cluster::pods;

/// What the underlay may have carried at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plaintext {
    Forbidden,
    Allowed,
    Expected,
}

/// What a test declared.
#[derive(Debug)]
pub(super) struct Expectations {
    plaintext: Plaintext,
    one_sided: bool,
    errors: Vec<String>,
}

impl Expectations {
    /// Nothing but what every test wants.
    pub(super) fn none() -> Self {
        Self {
            plaintext: Plaintext::Forbidden,
            one_sided: false,
            errors: Vec::new(),
        }
    }
}

impl Testbed {
    /// Declares that plaintext between pods must have been seen at the end: host-network mode.
    pub fn expect_plaintext(&self) {
        self.expectations().plaintext = Plaintext::Expected;
    }

    /// Declares that plaintext between pods may have been seen at the end.
    pub fn allow_plaintext(&self) {
        self.expectations().plaintext = Plaintext::Allowed;
    }

    /// Declares that pods' addresses may have been seen alone: hosts to pods in the clear.
    pub fn allow_one_sided(&self) {
        self.expectations().one_sided = true;
    }

    /// Declares that these hosts send to pods, and are answered, in the clear.
    pub fn allow_one_sided_with(&self, hosts: &[IpAddr]) {
        self.capture.excuse(hosts);
    }

    /// Declares that agents may log errors that contain `text`.
    pub fn expect_error(&self, text: &str) {
        self.expectations().errors.push(text.to_owned());
    }

    /// What must hold at the end of every test: agents alive, no undeclared ERROR in their logs,
    /// a complete capture, and nothing in it that was not declared.
    ///
    /// # Errors
    /// Everything that does not hold.
    pub fn check(&self) -> Result<CaptureReport> {
        let mut faults = String::new();
        let mut logged = pods::error_lines(&self.folder().join("logs"));
        for node in &self.nodes {
            if let Err(error) = node.check_agent_alive() {
                let _ = writeln!(faults, "{error:#}");
            }
            let lines = node.error_lines().into_iter();
            logged.extend(lines.map(|line| (node.name().to_owned(), line)));
        }
        for (who, line) in logged {
            let expected = &self.expectations().errors;
            if !expected.iter().any(|text| line.contains(text)) {
                let _ = writeln!(faults, "{who} logged: {line}");
            }
        }
        let report = self.capture.report();
        match &report {
            Ok(report) => {
                if let Err(error) = self.check_report(report) {
                    let _ = writeln!(faults, "{error:#}");
                }
            }
            Err(error) => {
                let _ = writeln!(faults, "{error:#}");
            }
        }
        ensure!(faults.is_empty(), "{}", faults.trim_end());
        report
    }

    /// Whether a report of the capture is as declared.
    fn check_report(&self, report: &CaptureReport) -> Result<()> {
        let expectations = self.expectations();
        let mut faults = Vec::new();
        let plaintext = report.plaintext_frames();
        match expectations.plaintext {
            Plaintext::Forbidden if plaintext > 0 => faults.push(format!(
                "the underlay carried plaintext between pods: {} frames by address, {} by cookie",
                report.plaintext.frames, report.cookies.frames
            )),
            Plaintext::Expected if plaintext == 0 => faults.push(
                "the underlay carried no plaintext, which this test declared: is the capture blind?"
                    .to_owned(),
            ),
            Plaintext::Forbidden | Plaintext::Allowed | Plaintext::Expected => {}
        }
        if report.one_sided.frames > 0 && !expectations.one_sided {
            faults.push(format!(
                "{} frames carried one pod address, neither masqueraded nor encrypted",
                report.one_sided.frames
            ));
        }
        if faults.is_empty() {
            return Ok(());
        }
        for offender in &report.offenders {
            faults.push(format!("  {:?}: {}", offender.offence, offender.summary));
            faults.push(format!("  {}", offender.hex));
        }
        bail!("{}", faults.join("\n"));
    }

    fn expectations(&self) -> MutexGuard<'_, Expectations> {
        self.expectations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
