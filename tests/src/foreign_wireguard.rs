//! Other people's WireGuard in user space, at pinned versions, each built once into a cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::binaries;

/// Names a folder to build them into, and to find them in the next time.
const CACHE_VARIABLE: &str = "PODWIRE_BENCH_CACHE";

/// One program: what is asked for is what is built, and what results are told with.
#[derive(Debug)]
pub struct ForeignWireguard {
    builder: Builder,
    package: &'static str,
    version: &'static str,
    binary: &'static str,
}

#[derive(Debug, Clone, Copy)]
enum Builder {
    Go,
    Cargo,
}

// The newest of each on the day that this was written; another day's are another file in the cache.

/// The reference, in Go.
pub const WIREGUARD_GO: ForeignWireguard = ForeignWireguard {
    builder: Builder::Go,
    package: "golang.zx2c4.com/wireguard",
    version: "v0.0.0-20260522210424-ecfc5a8d5446",
    binary: "wireguard",
};

/// Cloudflare's, of Podwire's own protocol engine.
pub const BORINGTUN_CLI: ForeignWireguard = ForeignWireguard {
    builder: Builder::Cargo,
    package: "boringtun-cli",
    version: "0.7.1",
    binary: "boringtun-cli",
};

/// Mullvad's.
pub const GOTATUN: ForeignWireguard = ForeignWireguard {
    builder: Builder::Cargo,
    package: "gotatun-cli",
    version: "0.10.2",
    binary: "gotatun",
};

impl ForeignWireguard {
    /// Package and version.
    #[must_use]
    pub fn version(&self) -> String {
        format!("{} {}", self.package, self.version)
    }

    /// The program, built if the cache does not have it; `tell` is called before. To be called
    /// before [`crate::sandbox::enter`]: a build needs the host's network.
    ///
    /// # Errors
    /// When it cannot be built here.
    pub fn program(&self, tell: impl FnOnce()) -> Result<PathBuf> {
        let folder = cache()?.join(format!("{}-{}", self.binary, self.version));
        let program = match self.builder {
            Builder::Go => folder.join(self.binary),
            Builder::Cargo => folder.join("bin").join(self.binary),
        };
        if !program.is_file() {
            tell();
            self.build(&folder)
                .with_context(|| format!("{} cannot be built here", self.version()))?;
        }
        ensure!(program.is_file(), "its build made no {}", program.display());
        Ok(program)
    }

    fn build(&self, folder: &Path) -> Result<()> {
        let mut command = match self.builder {
            Builder::Go => {
                let mut go = Command::new("go");
                go.arg("install")
                    .arg(format!("{}@{}", self.package, self.version))
                    .env("GOBIN", folder);
                go
            }
            Builder::Cargo => {
                let mut cargo = Command::new("cargo");
                cargo
                    .args(["install", "--locked", "--quiet", self.package])
                    .args(["--version", self.version, "--root"])
                    .arg(folder);
                cargo
            }
        };
        run(&mut command)
    }
}

/// Runs a build to its end.
///
/// # Errors
/// With the last line that it said.
pub fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{program} is not installed"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rev().find(|line| !line.trim().is_empty());
    bail!("{program}: {}", last.unwrap_or("it failed without a word"))
}

/// [`CACHE_VARIABLE`]'s, else `bench-cache` beside the build.
///
/// # Errors
/// When it cannot be made.
pub fn cache() -> Result<PathBuf> {
    let folder = std::env::var_os(CACHE_VARIABLE).map_or_else(
        || binaries::build_folder().join("bench-cache"),
        PathBuf::from,
    );
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    std::path::absolute(&folder).with_context(|| format!("finding {}", folder.display()))
}
