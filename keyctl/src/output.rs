//! How reports look: aligned columns as kubectl prints them, JSON, YAML, names.

use std::collections::BTreeSet;

use anyhow::Context as _;
use comfy_table::{ContentArrangement, Table, presets};
use jiff::Timestamp;
use serde::Serialize;

use crate::args::{Data, Output, ReadArgs};
use crate::outcome::Outcome;

/// Version of the JSON and YAML forms.
const API_VERSION: &str = "podwire.dev/v1";

/// What a column says where there is nothing, as kubectl does.
const NONE: &str = "<none>";

/// What a command found, at one moment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Report<R> {
    pub(crate) rows: Vec<R>,
    pub(crate) outcome: Outcome,
    /// A sentence for people, which is no part of the data.
    pub(crate) note: Option<String>,
}

/// One row of a report. It holds no ages, so that time alone changes no report.
pub(crate) trait Row: Serialize + PartialEq {
    /// `kind` in JSON and YAML.
    const KIND: &'static str;
    /// The table's headers.
    const COLUMNS: &'static [&'static str];
    /// Those that `-o wide` adds.
    const WIDE_COLUMNS: &'static [&'static str];

    /// What stands under [`Self::COLUMNS`].
    fn cells(&self, now: Timestamp) -> Vec<String>;
    /// What stands under [`Self::WIDE_COLUMNS`].
    fn wide_cells(&self, now: Timestamp) -> Vec<String>;
    /// What `-o name` prints, such as `node/node-1`.
    fn object(&self) -> Option<String>;
}

/// A list as JSON and YAML have it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List<'a, R> {
    api_version: &'static str,
    kind: &'static str,
    items: &'a [R],
}

/// The text of a report in the format that is asked for. It ends with a line feed, or is empty.
///
/// # Errors
/// None that the rows of this program can cause.
pub(crate) fn render<R: Row>(
    rows: &[R],
    args: &ReadArgs,
    now: Timestamp,
) -> anyhow::Result<String> {
    match args.output {
        None => Ok(table(rows, false, args.no_headers, now)),
        Some(Output::Wide) => Ok(table(rows, true, args.no_headers, now)),
        Some(Output::Json) => data(R::KIND, rows, Data::Json),
        Some(Output::Yaml) => data(R::KIND, rows, Data::Yaml),
        Some(Output::Name) => {
            let names: BTreeSet<String> = rows.iter().filter_map(Row::object).collect();
            Ok(names.into_iter().map(|name| name + "\n").collect())
        }
    }
}

/// The same for programs.
///
/// # Errors
/// None that the items of this program can cause.
pub(crate) fn data<R: Serialize>(
    kind: &'static str,
    items: &[R],
    format: Data,
) -> anyhow::Result<String> {
    let list = List {
        api_version: API_VERSION,
        kind,
        items,
    };
    match format {
        Data::Json => {
            let text = serde_json::to_string_pretty(&list).context("cannot write JSON")?;
            Ok(text + "\n")
        }
        Data::Yaml => serde_saphyr::to_string(&list).context("cannot write YAML"),
    }
}

/// Between this report and the next one of `--watch`.
pub(crate) const fn separator(output: Option<Output>) -> &'static str {
    match output {
        None | Some(Output::Wide | Output::Name) => "\n",
        Some(Output::Json) => "",
        Some(Output::Yaml) => "---\n",
    }
}

/// What stands in a cell: the texts, or that there are none.
pub(crate) fn list(texts: &[String]) -> String {
    if texts.is_empty() {
        NONE.to_owned()
    } else {
        texts.join(",")
    }
}

/// What stands in a cell: the text, or that there is none.
pub(crate) fn cell(text: Option<impl ToString>) -> String {
    text.map_or_else(|| NONE.to_owned(), |text| text.to_string())
}

fn table<R: Row>(rows: &[R], is_wide: bool, no_headers: bool, now: Timestamp) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let wide = |columns: &'static [&'static str]| if is_wide { columns } else { &[] };
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    if !no_headers {
        table.set_header(R::COLUMNS.iter().chain(wide(R::WIDE_COLUMNS)));
    }
    for row in rows {
        let more = if is_wide {
            row.wide_cells(now)
        } else {
            Vec::new()
        };
        table.add_row(row.cells(now).into_iter().chain(more));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    let text = table.to_string();
    text.lines()
        .map(|line| line.trim_end().to_owned() + "\n")
        .collect()
}
