//! The folder as it is: its files' names, and the content of those that changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use inotify::{WatchDescriptor, WatchMask, Watches};
use podwire_core::node::{Node, NodeName};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::manifest::{self, Annotated, MANIFEST_SIZE_MAX, ManifestError};
use crate::nodes::{Loss, Part};

/// Most files that are looked at: three for each of 20,000 nodes, and some.
const FILES_MAX: usize = 65_536;

/// One byte more than allowed tells a file that is too large from one that just fits.
const READ_SIZE_MAX: u64 = MANIFEST_SIZE_MAX as u64 + 1;

/// How the files of a Node end. The plain manifest's ending ends the others too, so it comes last.
const ENDINGS: [(&str, Part); 3] = [
    (".podwire.yaml", Part::Record),
    (".request.yaml", Part::Requests),
    (".yaml", Part::Manifest),
];

/// One file of one Node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileKey {
    pub(super) node: NodeName,
    pub(super) part: Part,
}

/// What changes when a file's content does: device, inode, size, times of change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp([i128; 5]);

/// Which folder it is: device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FolderId(u64, u64);

/// What a file says.
#[derive(Debug)]
pub(super) enum Document {
    Manifest(Node),
    Annotated(Annotated),
}

/// What a file says, or why it says nothing. Shared between the looks at the folder.
pub(super) type Content = Result<Arc<Document>, Arc<ManifestError>>;

/// A file as it was read.
#[derive(Clone, Debug)]
pub(super) struct ReadFile {
    pub(super) stamp: Stamp,
    pub(super) content: Content,
}

/// All files of all Nodes.
pub(super) type Files = BTreeMap<FileKey, ReadFile>;

/// The whole folder at one moment.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) files: Files,
    pub(super) misnamed: BTreeSet<String>,
}

/// Names that the kernel reported: they are read again even where their stamp is the same, because
/// two changes within one tick of the file system's clock share it.
#[derive(Debug)]
pub(super) enum Suspects {
    All,
    Some(BTreeSet<String>),
}

impl Suspects {
    fn contains(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Some(names) => names.contains(name),
        }
    }
}

/// The name of a Node's file.
pub(super) fn file_name(node: &NodeName, part: Part) -> String {
    let ending = match part {
        Part::Manifest => ".yaml",
        Part::Record => ".podwire.yaml",
        Part::Requests => ".request.yaml",
    };
    format!("{node}{ending}")
}

/// Opens the folder.
pub(super) fn open(path: &Path) -> Result<(OwnedFd, FolderId), Loss> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(path, flags, Mode::empty()).map_err(loss)?;
    let stat = rustix::fs::fstat(&folder).map_err(loss)?;
    Ok((folder, FolderId(stat.st_dev, stat.st_ino)))
}

/// Lists the folder and reads what is new or changed against `known`.
///
/// # Errors
/// Only where the folder as a whole cannot be read; a file that cannot is content of its own.
pub(super) fn list(folder: &OwnedFd, known: &Files, suspects: &Suspects) -> Result<Listing, Loss> {
    let mut listing = Listing {
        files: Files::new(),
        misnamed: BTreeSet::new(),
    };
    for (count, entry) in Dir::read_from(folder).map_err(loss)?.enumerate() {
        if count > FILES_MAX {
            return Err(Loss::TooManyFiles(FILES_MAX));
        }
        let entry = entry.map_err(loss)?;
        let name = entry.file_name().to_string_lossy();
        match key(&name) {
            Name::OfNode(key) => {
                let known = known.get(&key).filter(|_| !suspects.contains(&name));
                if let Some(file) = look(folder, &name, &key, known)? {
                    listing.files.insert(key, file);
                }
            }
            Name::Misnamed => {
                listing.misnamed.insert(name.into_owned());
            }
            Name::Other => {}
        }
    }
    Ok(listing)
}

/// Reads a whole file of at most the size of a manifest.
pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, ManifestError> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|error| ManifestError::Unreadable(error.into()))?;
    read(file)
}

enum Name {
    OfNode(FileKey),
    /// It would be a Node's, were its stem a Node's name.
    Misnamed,
    Other,
}

fn key(name: &str) -> Name {
    let of = |(ending, part)| name.strip_suffix(ending).map(|stem| (stem, part));
    match ENDINGS.into_iter().find_map(of) {
        _ if name.starts_with('.') => Name::Other,
        None => Name::Other,
        Some((stem, part)) => match stem.parse() {
            Ok(node) => Name::OfNode(FileKey { node, part }),
            Err(_) => Name::Misnamed,
        },
    }
}

/// One file; `None` when it is gone by now.
fn look(
    folder: &OwnedFd,
    name: &str,
    key: &FileKey,
    known: Option<&ReadFile>,
) -> Result<Option<ReadFile>, Loss> {
    let stat = match rustix::fs::statat(folder, name, AtFlags::empty()) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) if is_shortage(error) => return Err(loss(error)),
        Err(error) => return unfollowed(folder, name, known, error),
    };
    let stamp = stamp(&stat);
    if let Some(known) = known.filter(|known| known.stamp == stamp) {
        return Ok(Some(known.clone()));
    }
    let refused = |error| {
        Some(ReadFile {
            stamp,
            content: Err(Arc::new(error)),
        })
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(refused(ManifestError::NotAFile));
    }
    // Never waits for a writer, should a pipe have taken the file's place since.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(folder, name, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) if is_shortage(error) => return Err(loss(error)),
        Err(error) => return Ok(refused(ManifestError::Unreadable(error.into()))),
    };
    // The file may be another by now; what was read is what the stamp must belong to.
    let stamp = rustix::fs::fstat(&file).map_or(stamp, |stat| self::stamp(&stat));
    let content = read(file)
        .and_then(|bytes| parse(key, &bytes))
        .map(Arc::new)
        .map_err(Arc::new);
    Ok(Some(ReadFile { stamp, content }))
}

/// A name that cannot be looked up: a link whose trouble is its own, as the entry itself can be
/// seen. Else the trouble is the folder's, and says nothing about the file.
fn unfollowed(
    folder: &OwnedFd,
    name: &str,
    known: Option<&ReadFile>,
    error: Errno,
) -> Result<Option<ReadFile>, Loss> {
    let stamp = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(link) => stamp(&link),
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(loss(error)),
    };
    // The same refusal again, so that nothing looks changed.
    let known = known.filter(|known| known.stamp == stamp).cloned();
    Ok(Some(known.unwrap_or_else(|| ReadFile {
        stamp,
        content: Err(Arc::new(ManifestError::Unreadable(error.into()))),
    })))
}

/// Out of descriptors or memory: that says nothing about a file.
const fn is_shortage(error: Errno) -> bool {
    matches!(error, Errno::MFILE | Errno::NFILE | Errno::NOMEM)
}

fn read(file: OwnedFd) -> Result<Vec<u8>, ManifestError> {
    let file = File::from(file);
    if !file
        .metadata()
        .map_err(ManifestError::Unreadable)?
        .is_file()
    {
        return Err(ManifestError::NotAFile);
    }
    let mut bytes = Vec::new();
    file.take(READ_SIZE_MAX)
        .read_to_end(&mut bytes)
        .map_err(ManifestError::Unreadable)?;
    if bytes.len() > MANIFEST_SIZE_MAX {
        Err(ManifestError::TooLarge)
    } else {
        Ok(bytes)
    }
}

fn parse(key: &FileKey, bytes: &[u8]) -> Result<Document, ManifestError> {
    match key.part {
        Part::Manifest => manifest::parse_node(&key.node, bytes).map(Document::Manifest),
        Part::Record | Part::Requests => {
            manifest::parse_annotated(&key.node, bytes).map(Document::Annotated)
        }
    }
}

fn stamp(stat: &rustix::fs::Stat) -> Stamp {
    const NANOS: i128 = 1_000_000_000;
    let time = |seconds: i64, nanos: u64| i128::from(seconds) * NANOS + i128::from(nanos);
    Stamp([
        i128::from(stat.st_dev),
        i128::from(stat.st_ino),
        i128::from(stat.st_size),
        time(stat.st_mtime, stat.st_mtime_nsec),
        time(stat.st_ctime, stat.st_ctime_nsec),
    ])
}

fn loss(error: Errno) -> Loss {
    match error {
        Errno::NOENT => Loss::Missing,
        error => Loss::Unreadable(io::Error::from(error).to_string()),
    }
}

/// Watches the folder's entries, so that their names come with every change.
pub(super) fn watch(mut watches: Watches, path: &Path) -> Result<WatchDescriptor, Loss> {
    // A writer's end, not each of its writes: what is half-written is nobody's business.
    let events = WatchMask::CLOSE_WRITE
        | WatchMask::CREATE
        | WatchMask::MOVE
        | WatchMask::DELETE
        | WatchMask::ATTRIB
        | WatchMask::DELETE_SELF
        | WatchMask::MOVE_SELF
        | WatchMask::ONLYDIR;
    watches.add(path, events).map_err(|error| {
        if error.kind() == io::ErrorKind::StorageFull {
            let remedy = "no inotify watch left: raise fs.inotify.max_user_watches";
            Loss::Unreadable(remedy.to_owned())
        } else if error.kind() == io::ErrorKind::NotFound {
            Loss::Missing
        } else {
            Loss::Unreadable(error.to_string())
        }
    })
}
