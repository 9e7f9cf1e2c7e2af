//! Files that a reader, or a crash at any moment, sees whole: the old one or the new one.

use std::ffi::OsString;
use std::fs::{File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Why a file could not be replaced. The file that was there before is unharmed, except after
/// [`ReplaceError::SyncFolder`], where the new one may be in place already.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceError {
    /// The folder is not there.
    #[error("cannot write {}: its folder is not there", .path.display())]
    NoFolder {
        /// The file that was to be written.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("cannot write {}: its folder must be writable and its file system have room", .path.display())]
    Write {
        /// The file that was to be written.
        path: PathBuf,
        /// The file system's reason.
        #[source]
        source: io::Error,
    },
    /// The folder's new entry may not survive a power failure.
    #[error("cannot make sure that {} is on disk", .path.display())]
    SyncFolder {
        /// The file that was written.
        path: PathBuf,
        /// The file system's reason.
        #[source]
        source: io::Error,
    },
}

/// Replaces `path` by a file of this content and mode (permission bits): a temporary file with a
/// leading dot in the same folder, written and synced to disk, renamed over `path`, the folder
/// synced.
///
/// # Errors
/// The file system's. No temporary file is left behind.
pub fn replace(path: &Path, contents: &[u8], mode: u32) -> Result<(), ReplaceError> {
    let folder = folder_of(path);
    write_and_rename(folder, path, contents, mode).map_err(|source| {
        if source.kind() == io::ErrorKind::NotFound {
            ReplaceError::NoFolder {
                path: path.to_owned(),
            }
        } else {
            ReplaceError::Write {
                path: path.to_owned(),
                source,
            }
        }
    })?;
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|source| ReplaceError::SyncFolder {
            path: path.to_owned(),
            source,
        })
}

/// Removes what a process that was killed within [`replace`] left of `path`; whoever calls this is
/// the only one that writes it.
///
/// # Errors
/// The file system's.
pub fn remove_leftovers(path: &Path) -> io::Result<()> {
    let prefix = temporary_prefix(path)?;
    for entry in std::fs::read_dir(folder_of(path))? {
        let entry = entry?;
        let name = entry.file_name();
        if name.as_bytes().starts_with(prefix.as_bytes()) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    }
}

fn temporary_prefix(path: &Path) -> io::Result<OsString> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut prefix = OsString::from(".");
    prefix.push(name);
    prefix.push(".");
    Ok(prefix)
}

fn write_and_rename(folder: &Path, path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let prefix = temporary_prefix(path)?;
    // Made with mode 0600: a secret is never readable by others, not even while it is written.
    let mut file = tempfile::Builder::new()
        .prefix(&prefix)
        .tempfile_in(folder)?;
    file.write_all(contents)?;
    file.as_file()
        .set_permissions(Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|failed| failed.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_new_file_has_the_content_and_the_mode_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("file");
        fs::write(&path, "before, and longer than what follows").expect("write");
        replace(&path, b"after", 0o640).expect("replace");
        assert_eq!(fs::read(&path).expect("read"), b"after");
        assert_eq!(
            fs::metadata(&path).expect("stat").permissions().mode() & 0o7777,
            0o640
        );
        assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 1);
    }

    #[test]
    fn what_a_killed_process_left_of_this_file_goes_and_nothing_else() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("file");
        for name in [".file.aB3dE6", "file", ".file2.aB3dE6", ".files", "file.x"] {
            fs::write(folder.path().join(name), "").expect("write");
        }
        remove_leftovers(&path).expect("removed");
        let mut left: Vec<_> = fs::read_dir(folder.path())
            .expect("list")
            .map(|entry| entry.expect("entry").file_name())
            .collect();
        left.sort();
        assert_eq!(left, [".file2.aB3dE6", ".files", "file", "file.x"]);
        remove_leftovers(&folder.path().join("no/file")).expect_err("no folder");
    }

    #[test]
    fn a_missing_folder_is_told_apart() {
        let folder = tempfile::tempdir().expect("folder");
        let error = replace(&folder.path().join("no/file"), b"", 0o600).expect_err("no folder");
        assert!(matches!(error, ReplaceError::NoFolder { .. }), "{error:?}");
    }

    #[test]
    fn a_refused_rename_keeps_what_was_there_and_leaves_no_temporary_file() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("taken");
        fs::create_dir(&path).expect("a folder in the file's place");
        let error = replace(&path, b"", 0o600).expect_err("a folder cannot be replaced");
        assert!(matches!(error, ReplaceError::Write { .. }), "{error:?}");
        assert!(path.is_dir());
        assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 1);
    }
}
