//! A network namespace without a name: one thread and one descriptor hold it.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;

use anyhow::{Context as _, Result};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use tokio::runtime::{self, Runtime};

use crate::keeper::Keeper;
use crate::sandbox::{self, Privilege};

/// Of a runtime inside: its tasks wait for the network, all but a few at a time.
const RUNTIME_THREADS: usize = 2;

/// A network namespace, kept by a thread of its own until this value is dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    kept: RwLock<Arc<Kept>>,
}

/// One namespace of the kernel, and the thread that keeps it.
#[derive(Debug)]
struct Kept {
    net: OwnedFd,
    keeper: Keeper,
}

impl Namespace {
    /// A new namespace with nothing in it but a loopback device that is down. `name` is for
    /// messages only.
    ///
    /// # Errors
    /// The kernel's, when the sandbox was not entered.
    pub fn new(name: &str) -> Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            kept: RwLock::new(Arc::new(Kept::new(name)?)),
        })
    }

    /// Puts another namespace, as empty as a new one, in the place of the one that there was, whose
    /// children are killed. Sockets that were made in the old one stay there.
    pub(crate) fn renew(&self) -> Result<()> {
        let next = Arc::new(Kept::new(&self.name)?);
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        *kept = next;
        Ok(())
    }

    /// What this namespace stands for.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A path to the namespace, for `nsenter` and `ip link ... netns`.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.kept().net.as_raw_fd()
        ))
    }

    /// The command line that opens a shell inside, from outside this process.
    #[must_use]
    pub fn enter_command(&self) -> String {
        let user = match sandbox::privilege() {
            Some(Privilege::UserNamespace) => {
                format!(
                    "--user=/proc/{}/ns/user --preserve-credentials ",
                    std::process::id()
                )
            }
            Some(Privilege::Inherited) | None => String::new(),
        };
        format!("nsenter {user}--net={}", self.path().display())
    }

    /// Runs `action` on a short-lived thread inside the namespace and returns its result.
    ///
    /// A socket made inside stays in the namespace wherever it is used later. A panic inside
    /// goes on in the caller.
    ///
    /// # Panics
    /// When `action` panics, or the kernel refuses the thread.
    pub fn run<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        let kept = self.kept();
        let outcome = thread::scope(|scope| {
            scope
                .spawn(|| {
                    kept.enter();
                    action()
                })
                .join()
        });
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// A runtime whose threads are inside: so is every socket that its tasks make.
    ///
    /// # Errors
    /// The kernel's, when it refuses a thread.
    pub(crate) fn runtime(&self) -> io::Result<Runtime> {
        let kept = self.kept();
        runtime::Builder::new_multi_thread()
            .worker_threads(RUNTIME_THREADS)
            .thread_name(&self.name)
            .on_thread_start(move || kept.enter())
            .enable_all()
            .build()
    }

    /// Starts a child inside. It is killed (SIGKILL) when this value is dropped and when this
    /// process ends in any way.
    ///
    /// # Errors
    /// As [`Command::spawn`].
    pub fn spawn(&self, command: Command) -> Result<Child> {
        self.kept().keeper.spawn(command)
    }

    /// Runs a program to its end inside, with `input` as its standard input, and returns its
    /// standard output.
    ///
    /// # Errors
    /// When it cannot start or fails; its standard error is in the message.
    pub fn output(&self, program: &str, arguments: &[&str], input: &str) -> Result<String> {
        let path = sandbox::find_program(program)
            .with_context(|| format!("{program} is not installed"))?;
        let mut command = Command::new(path);
        command.args(arguments);
        self.kept().keeper.output(command, input)
    }

    /// Runs lines of ip(8), each without the leading `ip`, in one process.
    ///
    /// # Errors
    /// At the first line that fails, with ip's message and all lines.
    pub fn ip(&self, lines: &[String]) -> Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        self.output("ip", &["-batch", "-"], &(lines.join("\n") + "\n"))
            .map(drop)
    }

    /// Applies one nft(8) script, whole or not at all.
    ///
    /// # Errors
    /// nft's message and the script.
    pub fn nft(&self, script: &str) -> Result<()> {
        self.output("nft", &["-f", "-"], script).map(drop)
    }

    /// Writes settings below `/proc/sys/net`, such as `("ipv4/ip_forward", "1")`.
    ///
    /// # Errors
    /// The first setting that the kernel refuses or does not have.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            for (key, value) in settings {
                fs::write(format!("/proc/sys/net/{key}"), value)
                    .with_context(|| format!("setting net/{key} to {value} in {}", self.name))?;
            }
            Ok(())
        })
    }

    /// What moves the thread that calls it inside, for good.
    pub(crate) fn entrance(&self) -> impl FnOnce() + Send + 'static {
        let kept = self.kept();
        move || kept.enter()
    }

    fn kept(&self) -> Arc<Kept> {
        Arc::clone(&self.kept.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Kept {
    fn new(name: &str) -> Result<Self> {
        let (keeper, net) = Keeper::start(name, || {
            sandbox::unshare(UnshareFlags::NEWNET)?;
            Ok(OwnedFd::from(File::open("/proc/thread-self/ns/net")?))
        })
        .with_context(|| format!("making the network namespace of {name}"))?;
        Ok(Self { net, keeper })
    }

    /// Moves the calling thread inside, for good.
    fn enter(&self) {
        move_into_link_name_space(self.net.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("a namespace that this process made can be entered by it");
    }
}
