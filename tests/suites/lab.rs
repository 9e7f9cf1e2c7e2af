//! The lab, as a user runs it: what it promises, that its check is not blind, and that nothing
//! of it is left.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, PipeReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use podwire_testbed::binaries;
use podwire_testbed::leftovers::Leftovers;
use podwire_testbed::whole_program::{self, agent, one_at_a_time, said};
use rustix::process::Signal;
use serde_json::Value;

/// A lab's command, and what watches that nothing of it is left.
struct Lab {
    leftovers: Leftovers,
    agent: &'static Path,
    json: PathBuf,
}

impl Lab {
    fn new(name: &str) -> Self {
        let json = format!("podwire-{name}-{}.json", std::process::id());
        Self {
            agent: agent(),
            leftovers: Leftovers::watch(name),
            json: std::env::temp_dir().join(json),
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
        let (variable, mark) = self.leftovers.mark();
        command
            .args(arguments)
            .env(variable, mark)
            .env(binaries::AGENT_VARIABLE, self.agent)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        command
    }

    /// Two nodes of one pod each, for one second.
    fn run(&self, arguments: &[&str]) -> (Output, Value) {
        let least = ["--nodes", "2", "--pods", "1", "--seconds", "1", "--json"];
        let output = self
            .command(&least)
            .arg(&self.json)
            .args(arguments)
            .stderr(Stdio::piped())
            .output()
            .expect("the lab starts");
        let text = fs::read(&self.json).expect("the lab writes its file");
        fs::remove_file(&self.json).expect("it is there");
        (output, serde_json::from_slice(&text).unwrap_or(Value::Null))
    }

    fn assert_nothing_is_left(&self) {
        self.leftovers.wait_gone().expect("nothing is left");
    }
}

#[test]
fn the_lab_passes_and_writes_what_it_found() {
    let _one = one_at_a_time();
    let lab = Lab::new("passes");
    let (output, data) = lab.run(&[]);
    assert!(output.status.success(), "{}", said(&output));
    lab.assert_nothing_is_left();

    let number = |key: &str| {
        data[key]
            .as_f64()
            .unwrap_or_else(|| panic!("no number {key}"))
    };
    assert_eq!(data["passed"], true);
    assert_eq!(data["faults"], serde_json::json!([]));
    assert_eq!(number("pairs"), 2.0);
    assert_eq!(number("pairs_reachable"), 2.0);
    // Two pairs, three protocols, two versions.
    assert_eq!(number("questions"), 12.0);
    assert_eq!(number("plaintext_frames"), 0.0);
    assert_eq!(number("cookie_frames"), 0.0);
    assert!(number("control_plaintext_frames") >= 24.0);
    assert!(number("control_cookie_frames") >= 24.0);
    assert!(number("gbits_encrypted") > 0.0);
    assert!(number("gbits_host_network") > 0.0);
    assert!(number("cpu_seconds_per_gib") > 0.0);
    assert!(number("lanes") >= 1.0);
    let wireguard = &data["wireguard"];
    assert!(
        wireguard["transport"]["frames"].as_u64() > Some(0),
        "{wireguard}"
    );
    assert!(
        wireguard["initiation"]["frames"].as_u64() > Some(0),
        "{wireguard}"
    );
    assert!(
        wireguard["response"]["frames"].as_u64() > Some(0),
        "{wireguard}"
    );
    assert_eq!(wireguard["malformed"]["frames"], 0);
    for key in ["date", "kernel", "cpu_model"] {
        assert!(
            data[key].as_str().is_some_and(|text| !text.is_empty()),
            "no text {key}"
        );
    }

    let text = String::from_utf8_lossy(&output.stdout);
    for part in [
        "pod-1-1",
        "WireGuard transport data",
        "iperf3",
        "node-1",
        "PASSED",
    ] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
    assert!(
        !text.contains('\u{1b}'),
        "control sequences outside a terminal:\n{text}"
    );
}

#[test]
fn a_capture_on_the_wrong_device_fails_the_lab() {
    let _one = one_at_a_time();
    let lab = Lab::new("wrong-capture");
    let (output, data) = lab.run(&["--tamper", "capture"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    lab.assert_nothing_is_left();
    let reasons = String::from_utf8_lossy(&output.stderr);
    assert!(
        reasons.contains("the capture saw no WireGuard transport data"),
        "{reasons}"
    );
    assert!(
        reasons.contains("the control saw no plaintext"),
        "{reasons}"
    );
    assert_eq!(data["passed"], false);
    // It is the check that fails, not the mesh.
    assert_eq!(data["pairs"], data["pairs_reachable"]);
}

#[test]
fn probes_without_a_cookie_fail_the_lab() {
    let _one = one_at_a_time();
    let lab = Lab::new("no-cookie");
    let (output, data) = lab.run(&["--tamper", "cookie"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    lab.assert_nothing_is_left();
    let reasons = String::from_utf8_lossy(&output.stderr);
    assert!(
        reasons.contains("no frame with the probes' cookie"),
        "{reasons}"
    );
    assert_eq!(data["passed"], false);
    assert_eq!(data["pairs"], data["pairs_reachable"]);
}

/// A lab that is up, killed at the latest with this value.
struct Up {
    child: Child,
    output: BufReader<PipeReader>,
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Up {
    fn start(lab: &Lab) -> Self {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        // Both outputs in one, so that a failure shows what was wrong.
        let child = lab
            .command(&["up", "--nodes", "2", "--pods", "1", "--family", "4"])
            .stderr(writer.try_clone().expect("one more descriptor"))
            .stdout(writer)
            .spawn()
            .expect("the lab starts");
        Self {
            child,
            output: BufReader::new(reader),
        }
    }

    /// Reads until a line contains `wanted`, and returns everything until there.
    fn read_until(&mut self, wanted: &str) -> String {
        let mut text = String::new();
        while !text
            .lines()
            .last()
            .is_some_and(|line| line.contains(wanted))
        {
            let read = self.output.read_line(&mut text).expect("text");
            assert!(
                read > 0,
                "the lab ended before it wrote {wanted:?}:\n{text}"
            );
        }
        text
    }

    fn end(&mut self, signal: Signal) -> ExitStatus {
        whole_program::signal(self.child.id(), signal).expect("it runs");
        self.child.wait().expect("it is a child")
    }
}

#[test]
fn a_mesh_that_is_up_can_be_entered_and_asked_and_ends_at_an_interrupt() {
    let _one = one_at_a_time();
    for signal in [Signal::INT, Signal::TERM] {
        let lab = Lab::new("up");
        let mut up = Up::start(&lab);
        let text = up.read_until("peers 2 of 2 up");
        let running = lab.leftovers.processes();
        let namespaces: BTreeSet<u64> = running.iter().map(|process| process.namespace).collect();
        assert!(running.len() >= 3, "the lab and two agents: {running:?}");
        assert!(
            namespaces.len() >= 3,
            "each in its own namespace: {running:?}"
        );

        // Every command that it prints is one that works.
        let entered = command_of(&text, "pod-1-1 ", "nsenter");
        let entered = shell(&format!("{entered} ip address"));
        assert!(
            String::from_utf8_lossy(&entered.stdout).contains("10.244.1.2"),
            "{}",
            said(&entered)
        );
        let asked = shell(&command_of(&text, "node-2 ", "podwire-agent"));
        assert!(asked.status.success(), "{}", said(&asked));
        assert!(
            String::from_utf8_lossy(&asked.stdout).contains("node-2"),
            "{}",
            said(&asked)
        );

        assert_eq!(up.end(signal).code(), Some(0));
        lab.assert_nothing_is_left();
    }
}

#[test]
fn nothing_is_left_of_a_lab_that_was_killed() {
    let _one = one_at_a_time();
    let lab = Lab::new("killed");
    let mut up = Up::start(&lab);
    up.read_until("peers");
    assert_eq!(up.end(Signal::KILL).code(), None);
    lab.assert_nothing_is_left();
}

/// The command after a name in the lab's instructions.
fn command_of(instructions: &str, name: &str, program: &str) -> String {
    let line = instructions
        .lines()
        .find(|line| line.starts_with(name) && line.contains(program))
        .unwrap_or_else(|| panic!("no {program} for {name}in:\n{instructions}"));
    line[name.len()..].trim().to_owned()
}

fn shell(command: &str) -> Output {
    Command::new("sh")
        .args(["-c", command])
        .output()
        .expect("sh is everywhere")
}
