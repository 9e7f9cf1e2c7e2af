//! The results for people, as plain text that also fits a document.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use podwire_testbed::capture::Count;
use podwire_testbed::{CaptureReport, IpVersion};

use crate::args::MeshArgs;
use crate::reachability;
use crate::report::Report;

/// One count of a report.
type Kind = fn(&CaptureReport) -> Count;

/// Everything, as the lab prints it.
pub(crate) fn text(report: &Report, mesh: &MeshArgs) -> String {
    let mut text = format!(
        "Podwire lab: {mesh}\nLinux {}, {}, {} cores\n",
        report.machine.kernel, report.machine.cpu_model, report.machine.cpus
    );
    for section in [
        who_reaches_whom(report),
        underlay(report),
        speed(report),
        status(report),
    ] {
        text.push('\n');
        text.push_str(&section);
    }
    text.push('\n');
    text.push_str(&verdict(report));
    text
}

fn who_reaches_whom(report: &Report) -> String {
    let (header, rows) = reachability::table(&report.encrypted.results);
    let versions: Vec<_> = report
        .family
        .versions()
        .iter()
        .map(IpVersion::to_string)
        .collect();
    format!(
        "1. Every pod to every pod, encrypted\n\n{}\n\
         \x20 ok: TCP, UDP and ICMP over {} were answered, and the pod that answered saw the\n\
         \x20 address of the pod that asked. {} of {} pairs are ok: {} questions, {} asked again.\n",
        table(&header, &rows, CellAlignment::Left),
        versions.join(" and "),
        report.pairs_reachable,
        report.pairs,
        report.questions,
        report.questions_repeated,
    )
}

fn underlay(report: &Report) -> String {
    let header = ["", "encrypted", "", "host-network", ""].map(str::to_owned);
    let kinds: [(&str, Kind); 9] = [
        ("all frames", |seen| seen.total),
        ("WireGuard handshake initiation", |seen| {
            seen.wireguard.initiation
        }),
        ("WireGuard handshake response", |seen| {
            seen.wireguard.response
        }),
        ("WireGuard cookie reply", |seen| seen.wireguard.cookie_reply),
        ("WireGuard transport data", |seen| seen.wireguard.transport),
        ("on WireGuard's ports, but not WireGuard", |seen| {
            seen.wireguard.malformed
        }),
        ("neighbour discovery and the like", |seen| seen.other),
        ("plaintext between pods", |seen| seen.plaintext),
        ("with the probes' cookie", |seen| seen.cookies),
    ];
    let mut rows = Vec::new();
    for (name, count) in kinds {
        let mut row = vec![name.to_owned()];
        for seen in [&report.encrypted.underlay, &report.host_network.underlay] {
            let count = count(seen);
            row.extend([count.frames.to_string(), bytes(count.bytes)]);
        }
        rows.push(row);
    }
    format!(
        "2. What the network between the nodes carried meanwhile, in frames\n\n{}\n\
         \x20 Every question and answer is full of a random cookie, and each frame was searched for\n\
         \x20 it. The nodes in host-network mode were asked the same: they are the positive control,\n\
         \x20 which shows that plaintext would have been seen.\n",
        table(&header, &rows, CellAlignment::Right)
    )
}

fn speed(report: &Report) -> String {
    let header = ["", "encrypted", "host-network"].map(str::to_owned);
    let (encrypted, host_network) = (&report.encrypted, &report.host_network);
    let row = |name: &str, value: fn(&crate::measurement::Measurement) -> String| {
        vec![name.to_owned(), value(encrypted), value(host_network)]
    };
    let rows = [
        row("Gbit/s", |it| format!("{:.2}", it.iperf3.gbits_per_second)),
        row("segments sent again", |it| {
            it.iperf3.retransmits.to_string()
        }),
        row("CPU seconds of the agents per GiB", |it| {
            format!("{:.2}", it.iperf3.cpu_seconds_per_gib())
        }),
        row("frames of plaintext between pods", |it| {
            it.underlay_during_iperf3.plaintext.frames.to_string()
        }),
    ];
    format!(
        "3. iperf3 from pod-1-1 to pod-2-1, one TCP stream over {}, {} lanes\n\n{}",
        encrypted.iperf3_version,
        report.lanes,
        table(&header, &rows, CellAlignment::Right)
    )
}

fn status(report: &Report) -> String {
    let mut text = "4. podwire-agent status on node-1, encrypted\n\n".to_owned();
    for line in report.encrypted.status.lines() {
        let _ = writeln!(text, "  {line}");
    }
    text
}

fn verdict(report: &Report) -> String {
    if report.passed {
        return format!(
            "PASSED: {} of {} pairs of pods reach each other, and no frame of it was plaintext\n",
            report.pairs_reachable, report.pairs
        );
    }
    format!("FAILED for {} reasons\n", report.faults.len())
}

/// Aligned columns without lines, indented; all but the first are aligned as told.
fn table(header: &[String], rows: &[Vec<String>], alignment: CellAlignment) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    table.add_rows(rows);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if index > 0 {
            column.set_cell_alignment(alignment);
        }
    }
    let mut text = String::new();
    for line in table.to_string().lines() {
        let _ = writeln!(text, "  {}", line.trim_end());
    }
    text
}

/// Bytes with a binary unit, as `wg show` prints them.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "two decimals for people")]
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.2} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_read_as_wg_prints_them() {
        let shown = [0, 1023, 1536, 5 << 30].map(bytes);
        assert_eq!(shown, ["0 B", "1023 B", "1.50 KiB", "5.00 GiB"]);
    }
}
