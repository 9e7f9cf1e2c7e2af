//! What people read: sentences, tables and plots, all made of the raw samples.

mod plot;
mod sentences;
mod table;

use anyhow::Result;

use crate::sample::Results;

/// The page of a folder of results.
pub(crate) fn markdown(results: &Results) -> String {
    let mut text = format!("# {}\n\n", title(results));
    text.push_str(&sentences::of(results));
    text.push_str(&table::of(results));
    text
}

/// Every plot, by the name of its file.
///
/// # Errors
/// The plotting library's.
pub(crate) fn plots(results: &Results) -> Result<Vec<(&'static str, String)>> {
    plot::all(results)
}

/// The live table: medians so far.
pub(crate) fn so_far(results: &Results) -> String {
    table::medians(results)
}

fn title(results: &Results) -> String {
    let machine = &results.machine;
    format!(
        "{} on {} with {} processors, kernel {}",
        results.settings.started, machine.cpu_model, machine.cpus, machine.kernel
    )
}
