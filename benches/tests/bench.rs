//! The benchmarks, as a user runs them: what they write, what they refuse to measure, and that
//! nothing is lost or left when they end early.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use podwire_testbed::leftovers::Leftovers;
use podwire_testbed::whole_program::{agent, one_at_a_time, said, signal};
use podwire_testbed::{binaries, until};
use rustix::process::Signal;
use serde_json::Value;

/// Meshes come up and a first measure is taken, on a busy machine.
const FIRST_SAMPLE: Duration = Duration::from_secs(120);

/// A run's command, its folders, and what watches that nothing of it is left.
struct Bench {
    leftovers: Leftovers,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new(name: &str) -> Self {
        Self {
            leftovers: Leftovers::watch(name),
            folder: tempfile::tempdir().expect("a folder for temporary files"),
        }
    }

    fn results(&self) -> PathBuf {
        self.folder.path().join("results")
    }

    /// Measures round trips of plain routes and of another implementation.
    fn command(&self, other: &str, arguments: &[&str]) -> Command {
        self.command_of(other, "rtt", arguments)
    }

    fn command_of(&self, other: &str, measures: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_podwire-benches"));
        let (variable, mark) = self.leftovers.mark();
        command
            .args(["--impl", &format!("plain,{other}"), "--measure", measures])
            .args(arguments)
            .arg("--output")
            .arg(self.results())
            .env(variable, mark)
            .env(binaries::AGENT_VARIABLE, agent())
            .env("PODWIRE_BENCH_CACHE", self.folder.path().join("cache"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// To its end, with what it exits.
    fn run(&self, command: &mut Command, code: i32) -> Output {
        let output = command.output().expect("the benchmarks start");
        assert_eq!(output.status.code(), Some(code), "{}", said(&output));
        self.leftovers.wait_gone().expect("nothing is left");
        output
    }

    fn read(&self, name: &str) -> anyhow::Result<Value> {
        let path = self.results().join(name);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(serde_json::from_str(&text)?)
    }

    fn samples(&self) -> Results {
        Results(self.read("samples.json").expect("samples"))
    }

    fn page(&self) -> String {
        fs::read_to_string(self.results().join("README.md")).expect("a page")
    }

    /// A run that has begun and kept a sample of Podwire.
    fn begin(&self, measures: &str, arguments: &[&str]) -> Child {
        let child = self.command_of("podwire", measures, arguments).spawn();
        let child = child.expect("the benchmarks start");
        until(FIRST_SAMPLE, "a sample", || {
            let kept = Results(self.read("samples.json")?).samples("podwire");
            ensure!(kept >= 1, "no sample yet");
            Ok(())
        })
        .expect("samples are kept as they come");
        child
    }

    /// A program in a folder of its own.
    fn script(&self, name: &str, text: &str) -> PathBuf {
        let folder = self.folder.path().join("programs");
        fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join(name);
        fs::write(&path, format!("#!/bin/bash\n{text}\n")).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
        path
    }
}

/// `samples.json`.
#[derive(Debug)]
struct Results(Value);

impl Results {
    fn of(&self, list: &str, implementation: &str) -> Vec<&Value> {
        let all = self.0[list].as_array().expect("a list");
        let of_it = all
            .iter()
            .filter(|one| one["implementation"] == implementation);
        of_it.collect()
    }

    fn samples(&self, implementation: &str) -> usize {
        self.of("samples", implementation).len()
    }

    fn is_told(&self, implementation: &str, reason: &str) -> bool {
        let absences = self.of("absences", implementation);
        let mut reasons = absences
            .iter()
            .filter_map(|absence| absence["reason"].as_str());
        reasons.any(|told| told.contains(reason))
    }
}

#[test]
fn a_run_writes_samples_a_summary_a_page_and_plots_and_compares_with_itself() {
    let _one = one_at_a_time();
    let bench = Bench::new("bench-run");
    let mut command = bench.command_of("podwire", "rtt,start", &["--rounds", "2"]);
    let output = bench.run(&mut command, 0);
    let results = bench.samples();
    assert_eq!(results.0["interrupted"], false);
    // Two rounds of an idle and of a loaded path; only Podwire can be started.
    assert_eq!(results.samples("plain"), 4, "{results:?}");
    assert_eq!(results.samples("podwire"), 6, "{results:?}");
    for sample in results.0["samples"].as_array().expect("samples") {
        assert!(sample["value"].as_f64() > Some(0.0), "{sample}");
    }
    let summary = bench.read("summary.json").expect("a summary");
    for name in [
        "privileged",
        "socket_buffer_bytes",
        "ratio_tcp1",
        "ratio_cpu_floor",
    ] {
        assert!(summary.get(name).is_some(), "no {name} in {summary}");
    }
    let page = String::from_utf8_lossy(&output.stdout);
    for part in [
        "| Podwire ",
        "round trip, idle",
        "## Floors",
        "start to first packet",
    ] {
        assert!(page.contains(part), "{part} is not in:\n{page}");
    }
    let plot = fs::read_to_string(bench.results().join("rtt.svg")).expect("a plot");
    assert!(plot.contains("plain routes"), "{plot}");

    let folder = bench.results();
    let compared = Command::new(env!("CARGO_BIN_EXE_podwire-benches"))
        .args([Path::new("compare"), &folder, &folder])
        .output()
        .expect("it starts");
    assert!(compared.status.success(), "{}", said(&compared));
    let text = String::from_utf8_lossy(&compared.stdout);
    // Values of five, and the processor time of Podwire beside a TCP stream.
    assert!(text.contains("6 of 6 figures did not change"), "{text}");
}

#[test]
fn every_measure_of_every_kind_finds_something_and_what_it_cost() {
    let _one = one_at_a_time();
    let bench = Bench::new("bench-measures");
    let quick = ["--quick", "--rounds", "1"];
    let output = bench.run(
        &mut bench.command_of("podwire", "tcp,udp,connect,many", &quick),
        0,
    );
    let results = bench.samples();
    // TCP of one and four streams, UDP of 64 bytes, connections, two nodes to one.
    assert_eq!(results.samples("plain"), 5, "{}", said(&output));
    assert_eq!(results.samples("podwire"), 5, "{}", said(&output));
    for sample in results.of("samples", "podwire") {
        assert!(sample["value"].as_f64() > Some(0.0), "{sample}");
        let processes = sample["costs"]["processes"].as_object().expect("processes");
        assert!(processes.len() >= 2, "{sample}");
        let spent = |process: &Value| process["user"].as_f64() > Some(0.0);
        let system = |process: &Value| process["system"].as_f64() > Some(0.0);
        assert!(
            processes.values().any(|one| spent(one) || system(one)),
            "{sample}"
        );
    }
    let page = String::from_utf8_lossy(&output.stdout);
    for part in [
        "TCP, 4 streams",
        "UDP, 64 B",
        "CPU to AEAD floor",
        "machine busy",
    ] {
        assert!(page.contains(part), "{part} is not in:\n{page}");
    }
}

#[test]
fn an_interrupted_run_keeps_what_it_has_measured_and_leaves_nothing() {
    let _one = one_at_a_time();
    for ending in [Signal::INT, Signal::TERM] {
        let bench = Bench::new("bench-interrupted");
        let child = bench.begin("rtt", &["--rounds", "99"]);
        signal(child.id(), ending).expect("it runs");
        let output = child.wait_with_output().expect("it is a child");
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        bench.leftovers.wait_gone().expect("nothing is left");
        let results = bench.samples();
        assert_eq!(results.0["interrupted"], true);
        assert!(results.samples("podwire") >= 1, "{results:?}");
        let summary = bench.read("summary.json").expect("a summary");
        assert_eq!(summary["interrupted"], true);
        let page = bench.page();
        assert!(page.contains("The run was interrupted"), "{page}");
    }
}

#[test]
fn what_a_killed_run_has_measured_is_there_and_nothing_else_is_left() {
    let _one = one_at_a_time();
    let bench = Bench::new("bench-killed");
    let mut child = bench.begin("rtt", &["--rounds", "99"]);
    signal(child.id(), Signal::KILL).expect("it runs");
    let _ = child.wait();
    bench.leftovers.wait_gone().expect("nothing is left");
    let results = bench.samples();
    assert!(results.samples("podwire") >= 1);
    assert_eq!(results.0["interrupted"], true, "what is not whole says so");
}

#[test]
fn an_implementation_that_dies_is_told_and_the_others_go_on() {
    let _one = one_at_a_time();
    // Each of these has ways of its own to wait for an end that does not answer any more.
    for (measures, of_all) in [("rtt", 8), ("connect", 4), ("tcp", 8)] {
        let bench = Bench::new("bench-crash");
        let child = bench.begin(measures, &["--quick", "--rounds", "4"]);
        kill_an_agent(&bench);
        let output = child.wait_with_output().expect("it is a child");
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        bench.leftovers.wait_gone().expect("nothing is left");
        let results = bench.samples();
        assert_eq!(results.samples("plain"), of_all, "{}", said(&output));
        let left = results.samples("podwire");
        assert!((1..of_all).contains(&left), "{results:?}");
        assert!(!results.of("absences", "podwire").is_empty(), "{results:?}");
        let page = bench.page();
        assert!(page.contains("## What is not here"), "{page}");
    }
}

fn kill_an_agent(bench: &Bench) {
    let agent = agent().file_name().expect("a program has a name");
    let processes = bench.leftovers.processes();
    let mut agents = processes
        .iter()
        .filter(|process| *process.program == *agent);
    let running = agents.next();
    let running = running.unwrap_or_else(|| panic!("no agent among {processes:?}"));
    signal(running.id, Signal::KILL).expect("it runs");
}

#[test]
fn traffic_that_goes_another_way_is_not_measured() {
    let _one = one_at_a_time();
    let bench = Bench::new("bench-wrong-way");
    // An agent that takes another mode than it was told: what it carries arrives, in plaintext.
    let text = format!(
        "exec {} \"${{@/#encrypted/host-network}}\"",
        agent().display()
    );
    let wrong = bench.script("podwire-agent", &text);
    let mut command = bench.command("podwire", &["--rounds", "1"]);
    let output = bench.run(command.env(binaries::AGENT_VARIABLE, wrong), 1);
    let results = bench.samples();
    assert_eq!(results.samples("podwire"), 0, "{results:?}");
    let is_told = results.is_told("podwire", "the traffic took another way");
    assert!(is_told, "{}", said(&output));
    assert_eq!(results.samples("plain"), 2, "{results:?}");
}

#[test]
fn a_peer_that_cannot_be_built_is_named_and_not_left_out_silently() {
    let _one = one_at_a_time();
    let bench = Bench::new("bench-no-peer");
    let go = bench.script("go", "echo 'no network here' >&2; exit 1");
    let path = std::env::var("PATH").unwrap_or_default();
    let folder = go.parent().expect("a folder").display();
    let mut command = bench.command("wireguard-go", &["--rounds", "1"]);
    let output = bench.run(command.env("PATH", format!("{folder}:{path}")), 1);
    let results = bench.samples();
    assert!(
        results.is_told("wireguard-go", "no network here"),
        "{results:?}"
    );
    let summary = bench.read("summary.json").expect("a summary");
    assert_eq!(summary["absences"][0]["implementation"], "wireguard-go");
    let plot = fs::read_to_string(bench.results().join("rtt.svg")).expect("a plot");
    assert!(plot.contains("not here: wireguard-go"), "{plot}");
    for text in [&output.stdout, &output.stderr] {
        let text = String::from_utf8_lossy(text);
        assert!(text.contains("no network here"), "{text}");
    }
    assert_eq!(results.samples("plain"), 2, "{results:?}");
}

#[test]
fn flags_that_mean_nothing_are_refused() {
    for arguments in [
        &["--impl", "nothing"][..],
        &["--rounds", "0"],
        &["--congestion", "no-such-algorithm"],
        &["--measure", "tcp", "compare", "a", "b"],
        &["compare", "/nonexistent/a", "/nonexistent/b"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_podwire-benches"))
            .args(arguments)
            .output()
            .expect("it starts");
        assert!(!output.status.success(), "{arguments:?}: {}", said(&output));
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
}
