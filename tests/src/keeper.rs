//! A thread that stays in namespaces of its own and starts processes there.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;

/// The thread only forks: a small stack lets a machine hold hundreds of them.
const STACK_BYTES: usize = 256 * 1024;

/// A request to the thread: the command, and where its child goes.
type Request = (Command, mpsc::SyncSender<io::Result<Child>>);

/// The thread. It ends with this value, and its children are killed then.
#[derive(Debug)]
pub(crate) struct Keeper {
    name: String,
    requests: Option<mpsc::SyncSender<Request>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts a thread that first does `enter`, and returns what that has made. `name` is for
    /// messages.
    pub(crate) fn start<T: Send + 'static>(
        name: &str,
        enter: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<(Self, T)> {
        let (ready, made) = mpsc::sync_channel(1);
        let (requests, receiver) = mpsc::sync_channel(1);
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || keep(enter, &ready, &receiver))
            .context("starting a namespace's thread")?;
        let made = made
            .recv()
            .context("a namespace's thread ended at its start")??;
        let keeper = Self {
            name: name.to_owned(),
            requests: Some(requests),
            thread: Some(thread),
        };
        Ok((keeper, made))
    }

    /// Starts a child in the thread's namespaces. It is killed (SIGKILL) when this value is dropped
    /// and when this process ends in any way.
    pub(crate) fn spawn(&self, mut command: Command) -> Result<Child> {
        die_with_the_spawning_thread(&mut command);
        let program = command.get_program().to_os_string();
        let (reply, child) = mpsc::sync_channel(1);
        self.requests
            .as_ref()
            .expect("only dropping takes it")
            .send((command, reply))
            .ok()
            .with_context(|| format!("the thread of {} ended", self.name))?;
        child
            .recv()
            .with_context(|| format!("the thread of {} ended", self.name))?
            .with_context(|| format!("starting {} in {}", program.display(), self.name))
    }

    /// Runs a command to its end, with `input` as its standard input, and returns its standard
    /// output. When it fails, its standard error is in the message.
    pub(crate) fn output(&self, mut command: Command, input: &str) -> Result<String> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let said = said(&command);
        let mut child = self.spawn(command)?;
        let mut stdin = child.stdin.take().expect("standard input was asked for");
        let output = thread::scope(|scope| {
            // A program that fails early closes its input: its message says more than EPIPE.
            scope.spawn(move || stdin.write_all(input.as_bytes()));
            child.wait_with_output()
        })?;
        if !output.status.success() {
            let mut message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            if !input.is_empty() {
                let _ = write!(message, "\ninput:\n{input}");
            }
            bail!("`{said}` in {}: {message}", self.name);
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            // Joined, so that the children have been told to die when this returns.
            let _ = thread.join();
        }
    }
}

/// The thread: enters its namespaces, then starts children until its requests end.
fn keep<T>(
    enter: impl FnOnce() -> Result<T>,
    ready: &mpsc::SyncSender<Result<T>>,
    requests: &mpsc::Receiver<Request>,
) {
    let made = enter();
    let failed = made.is_err();
    if ready.send(made).is_err() || failed {
        return;
    }
    while let Ok((mut command, reply)) = requests.recv() {
        let _ = reply.send(command.spawn());
    }
}

/// A command as somebody would type it.
fn said(command: &Command) -> String {
    let program = command.get_program();
    let words: Vec<_> = std::iter::once(program)
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect();
    words.join(" ")
}

#[expect(
    unsafe_code,
    reason = "std offers no other way to act between fork and exec"
)]
fn die_with_the_spawning_thread(command: &mut Command) {
    // SAFETY: prctl(2) is async-signal-safe and touches no memory of the parent.
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
                .map_err(io::Error::from)
        });
    }
}
