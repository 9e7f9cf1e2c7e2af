//! The programs that are compared, at pinned versions, built once into a cache.
//!
//! All of it happens before the sandbox: a build needs the host's network.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use crate::implementation::Implementation;
use crate::null_cipher;

/// Names a folder to build the peers into, and to find them in the next time.
const CACHE_VARIABLE: &str = "PODWIRE_BENCH_CACHE";

/// A peer's sources: what is asked for is what is built, and what results are told with.
struct Source {
    implementation: Implementation,
    builder: Builder,
    package: &'static str,
    version: &'static str,
    binary: &'static str,
}

#[derive(Clone, Copy)]
enum Builder {
    Go,
    Cargo,
}

/// The newest of each on the day that this was written; another day's are another file in the
/// cache.
const SOURCES: [Source; 3] = [
    Source {
        implementation: Implementation::WireguardGo,
        builder: Builder::Go,
        package: "golang.zx2c4.com/wireguard",
        version: "v0.0.0-20260522210424-ecfc5a8d5446",
        binary: "wireguard",
    },
    Source {
        implementation: Implementation::BoringtunCli,
        builder: Builder::Cargo,
        package: "boringtun-cli",
        version: "0.7.1",
        binary: "boringtun-cli",
    },
    Source {
        implementation: Implementation::Gotatun,
        builder: Builder::Cargo,
        package: "gotatun-cli",
        version: "0.10.2",
        binary: "gotatun",
    },
];

/// Where each program is, and why others are not.
#[derive(Debug, Default)]
pub(crate) struct Programs {
    found: BTreeMap<Implementation, PathBuf>,
    pub(crate) missing: BTreeMap<Implementation, String>,
    /// What was compared, as results tell it.
    pub(crate) versions: BTreeMap<String, String>,
}

impl Programs {
    /// Builds what these implementations need and the cache does not have. What cannot be had is
    /// [`Self::missing`].
    ///
    /// # Errors
    /// When Podwire itself cannot be built.
    pub(crate) fn prepare(wanted: &[Implementation], tell: impl Fn(&str)) -> Result<Self> {
        let cache = cache()?;
        let mut programs = Self::default();
        if wanted
            .iter()
            .any(|one| one.is_podwire() && *one != Implementation::NullCipher)
        {
            tell("building podwire-agent");
            let agent = podwire_testbed::binaries::agent()?;
            let agent = std::path::absolute(agent)?;
            let shipped =
                |one: &&Implementation| one.is_podwire() && **one != Implementation::NullCipher;
            for implementation in wanted.iter().filter(shipped) {
                programs.found.insert(*implementation, agent.clone());
            }
        }
        if wanted.contains(&Implementation::NullCipher) {
            tell("building podwire-agent with a cipher that does nothing");
            programs.put(Implementation::NullCipher, null_cipher::build(&cache));
        }
        for source in SOURCES
            .iter()
            .filter(|source| wanted.contains(&source.implementation))
        {
            let name = format!("{} {}", source.package, source.version);
            let built = source.program(&cache, || tell(&format!("building {name}")));
            if built.is_ok() {
                let key = source.implementation.to_string();
                programs.versions.insert(key, name);
            }
            programs.put(source.implementation, built);
        }
        Ok(programs)
    }

    /// The program of an implementation.
    ///
    /// # Errors
    /// When it could not be had.
    pub(crate) fn of(&self, implementation: Implementation) -> Result<&Path> {
        self.found
            .get(&implementation)
            .map(PathBuf::as_path)
            .ok_or_else(|| {
                let reason = self.missing.get(&implementation);
                anyhow!("{}", reason.map_or("it was not prepared", String::as_str))
            })
    }

    fn put(&mut self, implementation: Implementation, built: Result<PathBuf>) {
        match built {
            Ok(path) => drop(self.found.insert(implementation, path)),
            Err(error) => drop(self.missing.insert(implementation, format!("{error:#}"))),
        }
    }
}

impl Source {
    fn program(&self, cache: &Path, tell: impl FnOnce()) -> Result<PathBuf> {
        let folder = cache.join(format!("{}-{}", self.binary, self.version));
        let program = match self.builder {
            Builder::Go => folder.join(self.binary),
            Builder::Cargo => folder.join("bin").join(self.binary),
        };
        if !program.is_file() {
            tell();
            self.build(&folder).with_context(|| {
                format!("{} {} cannot be built here", self.package, self.version)
            })?;
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
pub(crate) fn run(command: &mut Command) -> Result<()> {
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
fn cache() -> Result<PathBuf> {
    let folder = std::env::var_os(CACHE_VARIABLE).map_or_else(
        || podwire_testbed::binaries::build_folder().join("bench-cache"),
        PathBuf::from,
    );
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    std::path::absolute(&folder).with_context(|| format!("finding {}", folder.display()))
}
