//! The folder of results: raw samples, and what is made of them, kept as they come.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::report;
use crate::sample::Results;
use crate::summary::Summary;

/// Names of its files.
pub(crate) const SAMPLES: &str = "samples.json";
const SUMMARY: &str = "summary.json";
const TABLE: &str = "README.md";

/// A folder of results.
#[derive(Debug)]
pub(crate) struct Output {
    folder: PathBuf,
}

impl Output {
    /// Takes a folder, without what another run has left there.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn new(folder: PathBuf) -> Result<Self> {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let is_plot = path.extension().is_some_and(|extension| extension == "svg");
            let is_text = [SAMPLES, SUMMARY, TABLE]
                .iter()
                .any(|name| path.ends_with(name));
            if is_plot || is_text {
                fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
            }
        }
        Ok(Self { folder })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes the raw samples, after each measure: whatever ends the run, they are there.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn keep(&self, results: &Results) -> Result<()> {
        self.write_json(SAMPLES, results)
    }

    /// Writes all that is made of the samples.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn finish(&self, results: &Results) -> Result<()> {
        self.keep(results)?;
        self.write_json(SUMMARY, &Summary::of(results))?;
        self.write(TABLE, &report::markdown(results))?;
        for (name, plot) in report::plots(results)? {
            self.write(&format!("{name}.svg"), &plot)?;
        }
        Ok(())
    }

    fn write_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_string_pretty(value)?;
        text.push('\n');
        self.write(name, &text)
    }

    /// In one step: a reader never sees half a file.
    fn write(&self, name: &str, text: &str) -> Result<()> {
        let (path, temporary) = (self.folder.join(name), self.folder.join(format!(".{name}")));
        fs::write(&temporary, text)
            .and_then(|()| fs::rename(&temporary, &path))
            .with_context(|| format!("writing {}", path.display()))
    }
}

/// Reads a folder's raw samples.
///
/// # Errors
/// When there are none, or another version's.
pub(crate) fn read(folder: &Path) -> Result<Results> {
    let path = folder.join(SAMPLES);
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))
}
