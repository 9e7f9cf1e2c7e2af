//! Anonymous network namespaces, and `ip` and `nft` as independent witnesses inside them.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::Command;
use std::thread;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// A network namespace that lives as long as this value.
pub(crate) struct Namespace {
    net: OwnedFd,
}

impl Namespace {
    /// A new namespace whose loopback link is up.
    pub(crate) fn new() -> Self {
        let made = thread::spawn(|| {
            #[expect(
                unsafe_code,
                reason = "rustix marks unshare unsafe for CLONE_FILES only"
            )]
            // SAFETY: descriptors stay shared; only this thread's network namespace changes.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect(
                "these tests make network namespaces: run them as root, or in \
                 `unshare --user --map-root-user`",
            );
            ip("link set lo up");
            File::open("/proc/thread-self/ns/net").expect("proc is mounted")
        });
        Self {
            net: made.join().expect("the namespace's first thread").into(),
        }
    }

    /// Runs `action` inside, on a thread of its own. Sockets made there stay there.
    pub(crate) fn run<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        let outcome = thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(self.net.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("whoever made a namespace may enter it");
                action()
            });
            inside.join()
        });
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// The same for a future, on a runtime of one thread as in the agent.
    pub(crate) fn block_on<T: Send>(&self, action: impl AsyncFnOnce() -> T + Send) -> T {
        self.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.expect("a runtime").block_on(action())
        })
    }

    /// Lays a cable from here to `other`, both ends up.
    pub(crate) fn connect(&self, link: &str, other: &Self, other_link: &str) {
        use std::os::fd::AsRawFd as _;
        let (there, process) = (other.net.as_raw_fd(), std::process::id());
        self.run(|| {
            ip(&format!(
                "link add {link} type veth peer name {other_link} netns /proc/{process}/fd/{there}"
            ));
            up(link);
        });
        other.run(|| {
            up(other_link);
        });
    }
}

/// Brings a link up, with addresses that are usable at once: nobody else has them.
pub(crate) fn up(link: &str) {
    set(&format!("ipv6/conf/{link}/accept_dad"), "0");
    ip(&format!("link set {link} up"));
}

/// Runs `ip` with these arguments in the calling thread's namespace and returns what it prints.
pub(crate) fn ip(arguments: &str) -> String {
    witness("ip", &arguments.split_whitespace().collect::<Vec<_>>())
}

/// Runs `nft` with this command in the calling thread's namespace and returns what it prints.
pub(crate) fn nft(command: &str) -> String {
    // The parser wants a line's end after each block.
    let command = format!("{}\n", command.replace("; }", ";\n}\n"));
    match command.strip_prefix("--handle ") {
        Some(command) => witness("nft", &["--handle", command]),
        None => witness("nft", &[&command]),
    }
}

fn witness(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program} is not installed: {error}"));
    let (out, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    out.into_owned()
}

/// Writes a network setting of the calling thread's namespace.
pub(crate) fn set(setting: &str, value: &str) {
    let path = format!("/proc/sys/net/{setting}");
    std::fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
}

/// Reads a network setting of the calling thread's namespace.
pub(crate) fn setting(setting: &str) -> String {
    let path = format!("/proc/sys/net/{setting}");
    let value = std::fs::read_to_string(&path);
    value
        .unwrap_or_else(|error| panic!("{path}: {error}"))
        .trim()
        .to_owned()
}
