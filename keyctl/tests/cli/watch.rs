//! `--watch`.

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use crate::invocation::{healthy, keyctl, mesh};

/// Far more than the two seconds between two looks.
const DEADLINE: Duration = Duration::from_secs(60);

/// Passes lines on until either end is gone.
fn pass_on(from: impl Read + Send + 'static, to: Sender<String>) {
    std::thread::spawn(move || {
        let lines = BufReader::new(from).lines().map_while(Result::ok);
        lines
            .map(|line| to.send(line))
            .take_while(Result::is_ok)
            .count()
    });
}

/// A run that goes on, ended when dropped.
struct Running {
    child: Child,
    /// Of both outputs.
    lines: Receiver<String>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn start(arguments: &[&str], folder: &std::path::Path) -> Self {
        let mut command = keyctl(arguments);
        command.arg("--directory").arg(folder);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it runs");
        let (tell, lines) = channel();
        pass_on(child.stdout.take().expect("piped"), tell.clone());
        pass_on(child.stderr.take().expect("piped"), tell);
        Self { child, lines }
    }

    fn until(&self, is_it: impl Fn(&str) -> bool) -> String {
        loop {
            let line = self.lines.recv_timeout(DEADLINE).expect("the line comes");
            if is_it(&line) {
                return line;
            }
        }
    }
}

#[test]
fn a_watch_prints_all_again_when_something_has_changed() {
    let folder = healthy();
    let running = Running::start(&["status", "--watch"], folder.path());
    running.until(|line| line.starts_with("node-4"));
    let half = folder.path().join(".half-written");
    std::fs::copy(mesh().join("node-5.yaml"), &half).expect("copy");
    std::fs::rename(&half, folder.path().join("node-5.yaml")).expect("rename");
    running.until(str::is_empty);
    running.until(|line| line.starts_with("NAME"));
    let row = running.until(|line| line.starts_with("node-5"));
    assert!(row.contains("no-record"), "{row}");
}

#[test]
fn a_watch_goes_on_when_the_folder_comes_back() {
    let folder = healthy();
    let nodes = folder.path().join("nodes");
    let aside = folder.path().join("aside");
    std::fs::create_dir(&nodes).expect("a folder");
    for name in ["node-1.yaml", "node-1.podwire.yaml"] {
        std::fs::copy(folder.path().join(name), nodes.join(name)).expect("copy");
    }
    let arguments = ["status", "--watch", "-o", "name"];
    let running = Running::start(&arguments, &nodes);
    running.until(|line| line == "node/node-1");
    std::fs::rename(&nodes, &aside).expect("move away");
    running.until(|line| line.contains("the folder is not there"));
    let name = "node-2.yaml";
    std::fs::copy(folder.path().join(name), aside.join(name)).expect("copy");
    std::fs::rename(&aside, &nodes).expect("move back");
    running.until(|line| line == "node/node-2");
}
