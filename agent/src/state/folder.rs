//! The folder itself: made, locked, tidied, its files read.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use podwire_registry::atomic_file;
use tracing::debug;

use super::error::StateError;

/// Mode of the folder: its files are nobody else's business.
const FOLDER_MODE: u32 = 0o700;

/// Mode of every file in it.
pub(super) const FILE_MODE: u32 = 0o600;

/// Locked for as long as an agent lives; holds its process id.
const LOCK_FILE: &str = "lock";

/// All other files of a node.
const FILES: [&str; 3] = [
    super::keys::FILE,
    super::history::FILE,
    super::snapshot::FILE,
];

/// Makes the folder if need be, takes its lock, and removes what a crash left half-written.
pub(super) fn open(path: &Path) -> Result<File, StateError> {
    let refused = |source| StateError::Folder {
        path: path.to_owned(),
        source,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(FOLDER_MODE)
        .create(path)
        .map_err(refused)?;
    let mode = fs::metadata(path).map_err(refused)?.permissions().mode() & 0o777;
    // A kubelet makes the folders that a pod asks for with mode 755.
    if mode != FOLDER_MODE {
        fs::set_permissions(path, Permissions::from_mode(FOLDER_MODE)).map_err(refused)?;
    }
    let lock = lock(path)?;
    remove_leftovers(path).map_err(refused)?;
    Ok(lock)
}

/// Takes the lock of a state folder if the folder is there; held until the file is dropped.
pub(crate) fn lock_if_there(path: &Path) -> Result<Option<File>, StateError> {
    if path.is_dir() {
        lock(path).map(Some)
    } else {
        Ok(None)
    }
}

fn lock(folder: &Path) -> Result<File, StateError> {
    let path = folder.join(LOCK_FILE);
    let refused = |source| StateError::Folder {
        path: folder.to_owned(),
        source,
    };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(FILE_MODE)
        .open(&path)
        .map_err(refused)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // The process id is a help only: whoever holds the lock holds it.
            let _ = file.take(16).read_to_string(&mut holder);
            let pid = holder.trim().parse().ok();
            return Err(StateError::Locked {
                path: folder.to_owned(),
                pid,
            });
        }
        Err(TryLockError::Error(source)) => return Err(refused(source)),
    }
    let told = file
        .set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    if let Err(error) = told {
        debug!(%error, path = %path.display(), "cannot note the process id");
    }
    Ok(file)
}

/// Temporary files of a process that was killed while it wrote: they may hold keys.
fn remove_leftovers(folder: &Path) -> io::Result<()> {
    FILES
        .iter()
        .try_for_each(|file| atomic_file::remove_leftovers(&folder.join(file)))
}

/// Removes every file of the node, the lock last, which the caller holds. What else is in the
/// folder stays, and so does the folder then, or if it is mounted.
pub(crate) fn remove(folder: &Path) -> Result<(), StateError> {
    let refused = |source| StateError::Folder {
        path: folder.to_owned(),
        source,
    };
    if !folder.is_dir() {
        return Ok(());
    }
    remove_leftovers(folder).map_err(refused)?;
    for file in FILES.into_iter().chain([LOCK_FILE]) {
        match fs::remove_file(folder.join(file)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(refused(error)),
            Ok(()) | Err(_) => {}
        }
    }
    if let Err(error) = fs::remove_dir(folder) {
        debug!(%error, path = %folder.display(), "the folder stays");
    }
    Ok(())
}

/// Reads a file of at most `size_max` bytes; `None` when it is not there.
pub(super) fn read(path: &Path, size_max: u64) -> Result<Option<Vec<u8>>, StateError> {
    let refused = |source| StateError::Read {
        path: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refused(error)),
    };
    let mut bytes = Vec::new();
    let read = file
        .take(size_max.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(refused)?;
    if u64::try_from(read).is_ok_and(|read| read <= size_max) {
        Ok(Some(bytes))
    } else {
        Err(StateError::damaged(
            path,
            format!("larger than {size_max} bytes"),
        ))
    }
}

/// Parses a JSON file whose `version` field says how it is to be read.
pub(super) fn parse<T: serde::de::DeserializeOwned>(
    path: &Path,
    bytes: &[u8],
    known: u64,
) -> Result<T, StateError> {
    #[derive(serde::Deserialize)]
    struct Versioned {
        version: u64,
    }
    let damaged = |error: serde_json::Error| StateError::damaged(path, error);
    let Versioned { version } = serde_json::from_slice(bytes).map_err(damaged)?;
    if version > known {
        return Err(StateError::FutureVersion {
            path: path.to_owned(),
            found: version,
            known,
        });
    }
    serde_json::from_slice(bytes).map_err(damaged)
}
