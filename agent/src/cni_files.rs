//! The CNI configuration on disk: a file in the run folder, which a reboot empties, and a symbolic
//! link to it in the folder that the container runtime reads. So a boot starts without one, and no
//! pod starts before the agent has made it anew.
//!
//! A runtime that is told of a link whose target is not there finds no network, and does not notice
//! when the target comes: the link is made again each time after its target. What is half written
//! is read at once and fails: both get their names when they are whole.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use podwire_registry::atomic_file::{self, ReplaceError};

use crate::admin::RUN_DIR_MODE;

/// Name of the file in the run folder.
const FILE: &str = "cni.conflist";

/// Name of the link: before what other networks call theirs, `10-` and later.
pub(crate) const LINK: &str = "05-podwire.conflist";

/// Name under which the link is made: no runtime reads it.
const LINK_IN_THE_MAKING: &str = ".05-podwire.conflist.new";

/// What the names of CNI configurations end with, for whoever reads the folder by the reference
/// library.
const EXTENSIONS: [&str; 3] = ["conf", "conflist", "json"];

/// Mode of the file: it names addresses, as every pod can see them.
const FILE_MODE: u32 = 0o644;

/// Permission to run a program, for anybody.
const EXECUTABLE: u32 = 0o111;

/// Where the configuration is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CniFiles {
    run_dir: PathBuf,
    file: PathBuf,
    folder: PathBuf,
    link: PathBuf,
}

/// What was not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Differs {
    pub(crate) file: bool,
    pub(crate) link: bool,
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RemovedFiles {
    pub(crate) file: bool,
    pub(crate) link: bool,
}

/// Why the configuration is not in place, or not gone.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CniFilesError {
    #[error(transparent)]
    File(#[from] ReplaceError),
    #[error("cannot use {}: is the run folder writable, or --run-dir wrong?", .path.display())]
    RunDir { path: PathBuf, source: io::Error },
    #[error(
        "cannot write {}: its folder must be there and writable, and the name no folder's; is it \
         mounted, or --cni-configuration-directory wrong?", .path.display()
    )]
    Link { path: PathBuf, source: io::Error },
    #[error(
        "{} is there, and no link to it in {}: the link is in another folder: name the one that \
         the container runtime reads with --cni-configuration-directory; if there is no link \
         anywhere, remove that file first", .file.display(), .folder.display()
    )]
    LinkElsewhere { file: PathBuf, folder: PathBuf },
    #[error("cannot remove {}", .path.display())]
    Remove { path: PathBuf, source: io::Error },
}

impl CniFiles {
    /// The paths, which must be the same for whoever reads the link: in a pod, both folders are
    /// mounted where the host has them.
    pub(crate) fn new(run_dir: PathBuf, folder: PathBuf) -> Self {
        Self {
            file: run_dir.join(FILE),
            link: folder.join(LINK),
            run_dir,
            folder,
        }
    }

    /// The link's path.
    pub(crate) fn link(&self) -> &Path {
        &self.link
    }

    /// The folder that the runtime reads.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Puts the configuration in place; the link is made anew where `renews` wants it, too. Nothing
    /// is written where nothing differs.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn keep(&self, text: &str, renews: bool) -> Result<Differs, CniFilesError> {
        let differs = self.differs(text);
        if differs.file {
            self.make_run_dir()?;
            atomic_file::replace(&self.file, text.as_bytes(), FILE_MODE)?;
        }
        if differs.file || differs.link || renews {
            self.make_link().map_err(|source| CniFilesError::Link {
                path: self.link.clone(),
                source,
            })?;
        }
        Ok(differs)
    }

    /// What is not as it should be.
    pub(crate) fn differs(&self, text: &str) -> Differs {
        let found = fs::read(&self.file);
        Differs {
            file: !found.is_ok_and(|found| found == text.as_bytes()),
            link: !self.is_ours(&self.link),
        }
    }

    /// Whether it is a link to our file.
    fn is_ours(&self, link: &Path) -> bool {
        fs::read_link(link).is_ok_and(|target| target == self.file)
    }

    fn make_run_dir(&self) -> Result<(), CniFilesError> {
        let refused = |source| CniFilesError::RunDir {
            path: self.run_dir.clone(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(RUN_DIR_MODE)
            .create(&self.run_dir)
            .map_err(refused)?;
        atomic_file::remove_leftovers(&self.file).map_err(refused)
    }

    fn make_link(&self) -> io::Result<()> {
        let made = self.folder.join(LINK_IN_THE_MAKING);
        // Of an agent that was killed in between.
        remove_if_there(&made)?;
        symlink(&self.file, &made)?;
        let renamed = fs::rename(&made, &self.link);
        if renamed.is_err() {
            // The first error is the one to tell.
            let _ = fs::remove_file(&made);
        }
        renamed
    }

    /// Removes the link, if it leads to our file, and the file, and what a killed agent left of
    /// either.
    ///
    /// # Errors
    /// [`CniFilesError::LinkElsewhere`], with nothing removed: a link that leads nowhere keeps the
    /// runtime from reading any other configuration, too. The file system's.
    pub(crate) fn remove(&self) -> Result<RemovedFiles, CniFilesError> {
        let remove = |path: &Path| {
            remove_if_there(path).map_err(|source| CniFilesError::Remove {
                path: path.to_owned(),
                source,
            })
        };
        let is_linked = self.is_ours(&self.link);
        if !is_linked && self.file.symlink_metadata().is_ok() {
            return Err(CniFilesError::LinkElsewhere {
                file: self.file.clone(),
                folder: self.folder.clone(),
            });
        }
        let removed = RemovedFiles {
            link: is_linked && remove(&self.link)?,
            file: remove(&self.file)?,
        };
        let made = self.folder.join(LINK_IN_THE_MAKING);
        if self.is_ours(&made) {
            remove(&made)?;
        }
        match atomic_file::remove_leftovers(&self.file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(CniFilesError::RunDir {
                path: self.run_dir.clone(),
                source: error,
            }),
            Ok(()) | Err(_) => Ok(removed),
        }
    }

    /// The name of the configuration that the runtime takes instead of ours: it goes by the first
    /// name in the order of bytes.
    pub(crate) fn other_first(&self) -> Option<String> {
        // A folder that cannot be read cannot be written either, which is told.
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let others = entries.filter(|entry| {
            let path = entry.path();
            let extension = path.extension().and_then(|extension| extension.to_str());
            extension.is_some_and(|it| EXTENSIONS.contains(&it)) && !path.is_dir()
        });
        let names = others.map(|entry| entry.file_name());
        let first = names
            .filter(|name| name.as_os_str() < OsStr::new(LINK))
            .min()?;
        Some(first.to_string_lossy().into_owned())
    }
}

/// Whether there was one.
fn remove_if_there(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Which of these programs are not in a folder, or cannot be run.
pub(crate) fn missing(folder: &Path, programs: &[&'static str]) -> Vec<&'static str> {
    let can_run = |program: &&'static str| {
        fs::metadata(folder.join(program))
            .is_ok_and(|found| found.is_file() && found.permissions().mode() & EXECUTABLE != 0)
    };
    let programs = programs.iter().copied();
    programs.filter(|program| !can_run(program)).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use tempfile::TempDir;

    use super::*;

    fn files() -> (TempDir, CniFiles) {
        let root = tempfile::tempdir().expect("folder");
        let folder = root.path().join("net.d");
        fs::create_dir(&folder).expect("folder");
        let files = CniFiles::new(root.path().join("run/podwire"), folder);
        (root, files)
    }

    const BOTH: Differs = Differs {
        file: true,
        link: true,
    };
    const NONE: Differs = Differs {
        file: false,
        link: false,
    };

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("list");
        let mut names: Vec<_> = entries
            .map(|entry| {
                entry
                    .expect("entry")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        names.sort();
        names
    }

    fn inode(path: &Path) -> u64 {
        fs::symlink_metadata(path).expect("there").ino()
    }

    #[test]
    fn what_is_in_place_is_written_once_and_read_by_the_link() {
        let (_root, files) = files();
        assert_eq!(files.keep("one", true).expect("kept"), BOTH);
        assert_eq!(fs::read_to_string(files.link()).expect("read"), "one");
        assert_eq!(names(files.folder()), [LINK]);
        let before = (inode(files.link()), inode(&files.file));
        assert_eq!(files.keep("one", false).expect("kept"), NONE);
        assert_eq!(before, (inode(files.link()), inode(&files.file)));
    }

    #[test]
    fn the_link_is_made_again_after_its_target_and_when_it_is_asked_for() {
        let (_root, files) = files();
        files.keep("one", true).expect("kept");
        // A reboot.
        fs::remove_dir_all(&files.run_dir).expect("removed");
        let dangling = inode(files.link());
        let kept = files.keep("one", false).expect("kept");
        assert_eq!((kept.file, kept.link), (true, false));
        assert_ne!(inode(files.link()), dangling);
        let link = inode(files.link());
        files.keep("two", false).expect("kept");
        assert_ne!(inode(files.link()), link);
        let link = inode(files.link());
        assert_eq!(files.keep("two", true).expect("kept"), NONE);
        assert_ne!(inode(files.link()), link);
    }

    #[test]
    fn what_somebody_else_puts_in_the_place_of_the_link_is_replaced() {
        let (_root, files) = files();
        files.keep("one", true).expect("kept");
        let in_place = |what: &str| {
            let kept = files.keep("one", false).expect("kept");
            assert!(kept.link && !kept.file, "{what}");
            assert_eq!(
                fs::read_link(files.link()).expect("a link"),
                files.file,
                "{what}"
            );
        };
        fs::remove_file(files.link()).expect("removed");
        in_place("nothing");
        fs::remove_file(files.link()).expect("removed");
        fs::write(files.link(), "one").expect("written");
        in_place("a file");
        fs::remove_file(files.link()).expect("removed");
        symlink("/dev/null", files.link()).expect("linked");
        in_place("another link");
        // A killed agent's.
        symlink("/dev/null", files.folder().join(LINK_IN_THE_MAKING)).expect("linked");
        fs::remove_file(files.link()).expect("removed");
        in_place("half a link");
        assert_eq!(names(files.folder()), [LINK]);
    }

    #[test]
    fn what_cannot_be_written_names_the_path_and_leaves_nothing_behind() {
        let (_root, files) = files();
        fs::create_dir(files.link()).expect("a folder in the link's place");
        let error = files.keep("one", true).expect_err("a folder is in the way");
        assert!(error.to_string().contains(LINK), "{error}");
        assert_eq!(names(files.folder()), [LINK]);
        let elsewhere = CniFiles::new(files.run_dir.clone(), "/nowhere/net.d".into());
        let error = elsewhere.keep("one", true).expect_err("no folder");
        assert!(
            error.to_string().contains("--cni-configuration-directory"),
            "{error}"
        );
    }

    #[test]
    fn removal_takes_our_link_and_file_and_nothing_else() {
        let (_root, files) = files();
        files.keep("one", true).expect("kept");
        for name in ["10-other.conflist", "05-podwire.conflist.bak"] {
            fs::write(files.folder().join(name), "").expect("written");
        }
        let both = RemovedFiles {
            file: true,
            link: true,
        };
        assert_eq!(files.remove().expect("removed"), both);
        assert_eq!(
            files.remove().expect("nothing to do"),
            RemovedFiles::default()
        );
        let left = ["05-podwire.conflist.bak", "10-other.conflist"];
        assert_eq!(names(files.folder()), left);
        // Another program's, or an operator's.
        symlink("/dev/null", files.link()).expect("linked");
        assert_eq!(
            files.remove().expect("nothing to do"),
            RemovedFiles::default()
        );
        files.link().symlink_metadata().expect("still there");
    }

    #[test]
    fn a_file_whose_link_is_in_another_folder_is_not_removed() {
        let (root, files) = files();
        files.keep("one", true).expect("kept");
        let other = root.path().join("other");
        fs::create_dir(&other).expect("folder");
        let wrong = CniFiles::new(files.run_dir.clone(), other);
        let error = wrong.remove().expect_err("the link is elsewhere");
        let told = error.to_string();
        assert!(told.contains("--cni-configuration-directory"), "{told}");
        assert_eq!(fs::read_to_string(files.link()).expect("whole"), "one");
    }

    #[test]
    fn removal_takes_what_a_killed_agent_left_half_done() {
        let (_root, files) = files();
        files.keep("one", true).expect("kept");
        symlink(&files.file, files.folder().join(LINK_IN_THE_MAKING)).expect("linked");
        fs::write(files.run_dir.join(".cni.conflist.abc"), "on").expect("written");
        files.remove().expect("removed");
        assert!(names(files.folder()).is_empty());
        assert!(names(&files.run_dir).is_empty());
    }

    #[test]
    fn only_a_configuration_that_sorts_before_ours_comes_first() {
        let (_root, files) = files();
        files.keep("one", true).expect("kept");
        let put = |name: &str| fs::write(files.folder().join(name), "").expect("written");
        for harmless in [
            "10-flannel.conflist",
            "00-readme",
            "00-old.conflist.bak",
            "87.conf",
        ] {
            put(harmless);
        }
        fs::create_dir(files.folder().join("00.conf")).expect("a folder");
        assert_eq!(files.other_first(), None);
        put("04-late.json");
        assert_eq!(files.other_first().as_deref(), Some("04-late.json"));
        put(".hidden.conf");
        assert_eq!(files.other_first().as_deref(), Some(".hidden.conf"));
    }

    #[test]
    fn a_program_that_cannot_be_run_is_missing() {
        let root = tempfile::tempdir().expect("folder");
        let put = |name: &str, mode| {
            let path = root.path().join(name);
            fs::write(&path, "").expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
        };
        put("bridge", 0o755);
        put("portmap", 0o644);
        fs::create_dir(root.path().join("loopback")).expect("a folder");
        let programs = ["bridge", "host-local", "portmap", "loopback"];
        assert_eq!(missing(root.path(), &programs), programs[1..]);
        assert_eq!(missing(Path::new("/nowhere"), &programs), programs);
    }
}
