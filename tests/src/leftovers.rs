//! What a program under test could leave behind: processes of its own, and things of the host.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::until;

/// In the environment of a program under test and so of everything that it starts; agents, whose
/// own variables begin with their name, are given none of those.
const MARK_VARIABLE: &str = "TEST_MARK";

/// The kernel's last work on a killed process, on a busy machine.
const GONE_DEADLINE: Duration = Duration::from_secs(20);

/// Folders of the host in which a program could leave something.
const FOLDERS: [&str; 5] = [
    "/sys/class/net",
    "/run/netns",
    "/run/wireguard",
    "/var/lib/podwire",
    "/run/podwire",
];

/// Watches one program, from before it starts.
#[derive(Debug)]
pub struct Leftovers {
    mark: String,
    host: BTreeSet<String>,
}

/// A process of the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marked {
    /// Its id.
    pub id: u32,
    /// The inode of its network namespace; 0 when it has just ended.
    pub namespace: u64,
    /// The file name of its program.
    pub program: OsString,
}

impl Leftovers {
    /// Takes note of what the host has. `name` and this process's id tell the program apart.
    #[must_use]
    pub fn watch(name: &str) -> Self {
        Self {
            mark: format!("{name}-{}", std::process::id()),
            host: things_of_the_host(),
        }
    }

    /// Name and value of the variable that the program has to be started with.
    #[must_use]
    pub fn mark(&self) -> (&'static str, &str) {
        (MARK_VARIABLE, &self.mark)
    }

    /// The processes of the program.
    #[must_use]
    pub fn processes(&self) -> Vec<Marked> {
        let wanted = format!("{MARK_VARIABLE}={}", self.mark);
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let of_it = |path: &Path| {
            // A process may end while it is looked at; a zombie's environment is empty.
            let environment = fs::read(path.join("environ")).unwrap_or_default();
            environment
                .split(|byte| *byte == 0)
                .any(|entry| entry == wanted.as_bytes())
        };
        processes
            .filter(|process| of_it(&process.path()))
            .filter_map(|process| {
                let namespace = fs::metadata(process.path().join("ns/net"));
                // Not its name, which is that of its first thread.
                let program = fs::read_link(process.path().join("exe")).unwrap_or_default();
                Some(Marked {
                    id: process.file_name().to_str()?.parse().ok()?,
                    namespace: namespace.map_or(0, |namespace| namespace.ino()),
                    program: program.file_name()?.to_owned(),
                })
            })
            .collect()
    }

    /// Waits until nothing of it runs any more and the host has nothing that it did not have.
    ///
    /// # Errors
    /// With what is left.
    pub fn wait_gone(&self) -> Result<()> {
        until(GONE_DEADLINE, "everything of it to be gone", || {
            let left = self.processes();
            ensure!(left.is_empty(), "processes are left: {left:?}");
            // Others may take down what is theirs meanwhile, or have it for a moment.
            let host = things_of_the_host();
            let new: Vec<_> = host.difference(&self.host).collect();
            ensure!(new.is_empty(), "the host has what it did not have: {new:?}");
            Ok(())
        })
    }
}

/// What a program could leave on the host: interfaces, named namespaces, mounts, folders.
fn things_of_the_host() -> BTreeSet<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut things: BTreeSet<_> = mounts
        .lines()
        .map(|mount| format!("mount {mount}"))
        .collect();
    for folder in FOLDERS {
        if Path::new(folder).exists() {
            things.insert(folder.to_owned());
        }
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        things.extend(entries.map(|entry| entry.path().to_string_lossy().into_owned()));
    }
    things
}
