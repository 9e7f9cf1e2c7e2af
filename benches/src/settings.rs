//! How a run is made: what a reader must know to make it again.

use std::fs;
use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use podwire_testbed::sandbox;

use crate::args::RunArgs;
use crate::programs::Programs;
use crate::sample::Settings;
use crate::socket_buffer;

/// Reads them.
///
/// # Errors
/// The kernel's.
pub(crate) fn read(args: &RunArgs, programs: &Programs, now: jiff::Timestamp) -> Result<Settings> {
    let mut versions = programs.versions.clone();
    for (name, program, argument) in [
        ("iperf3", "iperf3", "--version"),
        ("rustc", "rustc", "--version"),
        ("go", "go", "version"),
    ] {
        if let Some(version) = first_line(program, &[argument]) {
            versions.insert(name.to_owned(), version);
        }
    }
    Ok(Settings {
        started: now.strftime("%Y-%m-%dT%H:%MZ").to_string(),
        commit: commit().unwrap_or_else(|| "an unknown commit".to_owned()),
        rounds: args.rounds(),
        seconds: args.seconds(),
        congestion: args.congestion.clone(),
        privileged: sandbox::is_real_root(),
        socket_buffer_bytes: socket_buffer()?,
        load_before: load()?,
        versions,
    })
}

/// proc(5): the first field is the last minute's.
fn load() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg").context("reading /proc/loadavg")?;
    let minute = text.split_whitespace().next().unwrap_or_default();
    minute.parse().context("reading /proc/loadavg")
}

fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output
        .status
        .success()
        .then(|| text.lines().next().unwrap_or_default().to_owned())
}

fn commit() -> Option<String> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = workspace.to_str()?;
    first_line("git", &["-C", folder, "describe", "--always", "--dirty"])
}

/// What Podwire's request gets.
fn socket_buffer() -> Result<u64> {
    let socket = UdpSocket::bind("0.0.0.0:0").context("opening a socket")?;
    socket_buffer::raise(&socket).context("raising its buffer")
}
