//! A run of the program that goes on, line by line.

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use crate::invocation::keyctl;

/// Far more than the time between two looks.
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
pub(crate) struct Running {
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
    /// Starts it on a folder.
    pub(crate) fn start(arguments: &[&str], folder: &std::path::Path) -> Self {
        let mut command = keyctl(arguments);
        command.arg("--directory").arg(folder).env("USER", "alice");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it runs");
        let (tell, lines) = channel();
        pass_on(child.stdout.take().expect("piped"), tell.clone());
        pass_on(child.stderr.take().expect("piped"), tell);
        Self { child, lines }
    }

    /// The next line that is such.
    pub(crate) fn until(&self, is_it: impl Fn(&str) -> bool) -> String {
        loop {
            let line = self.lines.recv_timeout(DEADLINE).expect("the line comes");
            if is_it(&line) {
                return line;
            }
        }
    }

    /// Waits for its end, and returns its exit code.
    pub(crate) fn end(&mut self) -> i32 {
        while self.lines.recv_timeout(DEADLINE).is_ok() {}
        self.child.wait().expect("it ends").code().expect("a code")
    }
}
