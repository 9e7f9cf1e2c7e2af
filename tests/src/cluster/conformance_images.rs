//! The images that Kubernetes' own tests of networks ask for, made of its `agnhost` and of this
//! machine's programs: there is no registry to pull them from.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::archive::Archive;
use super::image::{self, Image};
use super::images::add_busybox;
use crate::control_plane::program;
use crate::sandbox::find_program;

/// The variable by which Kubernetes' tests are told where their images are said to be.
pub const IMAGE_REGISTRIES_VARIABLE: &str = "KUBE_TEST_REPO_LIST";

/// The file for it beside the images.
pub const IMAGE_REGISTRIES: &str = "registries.yaml";

/// What it says.
const REGISTRIES: &str = "promoterE2eRegistry: podwire.test/e2e\ngcRegistry: podwire.test/e2e\n";

/// What `agnhost` has beside it in its own image, under the names there. Busybox's `nc` does no
/// UDP, and its `nslookup` is not BIND's.
const PROGRAMS: [(&str, &str); 6] = [
    ("curl", "curl"),
    ("dash", "sh"),
    ("dig", "dig"),
    ("getent", "getent"),
    ("nc.openbsd", "nc"),
    ("nslookup", "nslookup"),
];

/// A folder in which every loader looks for shared libraries.
const LIBRARIES: &str = "lib";

/// Writes the images into a folder, named as the suite's program names them, and returns the file.
/// All are one: `agnhost` with what it has beside it, and it stands for nginx, too, of which the
/// tests only want that it runs.
///
/// # Errors
/// When a program is missing, and the file system's.
pub fn conformance_images(folder: &Path) -> Result<PathBuf> {
    let registries = folder.join(IMAGE_REGISTRIES);
    fs::write(&registries, REGISTRIES)?;
    let listed = Command::new(program("e2e.test")?)
        .arg("--list-images")
        .env(IMAGE_REGISTRIES_VARIABLE, &registries)
        .output()
        .context("asking Kubernetes' tests for the images that they use")?;
    ensure!(
        listed.status.success(),
        "Kubernetes' tests name no images: {}",
        String::from_utf8_lossy(&listed.stderr)
    );
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let images: Vec<_> = listed.lines().filter_map(image_called).collect();
    ensure!(
        !images.is_empty(),
        "Kubernetes' tests use none of our images"
    );
    let file = folder.join("conformance.tar");
    image::write_all(&file, layer()?, &images)?;
    Ok(file)
}

/// The image of a name such as `registry/agnhost:2.63.0`, if it is one of ours.
fn image_called(name: &str) -> Option<Image<'_>> {
    let (entrypoint, arguments): (&[_], &[_]) = match name.rsplit('/').next()?.split(':').next()? {
        "agnhost" => (&["/agnhost"], &["pause"]),
        "glibc-dns-testing" => (&["/bin/sh"], &[]),
        "busybox" => (&[], &["sh"]),
        "nginx" | "pause" => (&["/agnhost", "pause"], &[]),
        _ => return None,
    };
    Some(Image {
        name,
        entrypoint,
        arguments,
    })
}

fn layer() -> Result<Archive> {
    let mut layer = Archive::default();
    for (folder, mode) in [
        ("bin", 0o755),
        ("etc", 0o755),
        (LIBRARIES, 0o755),
        ("tmp", 0o1777),
        ("uploads", 0o1777),
    ] {
        layer.folder(folder, mode)?;
    }
    layer.file("etc/passwd", 0o644, b"root:x:0:0:root:/:/bin/sh\n")?;
    layer.file("etc/nsswitch.conf", 0o644, b"hosts: files dns\n")?;
    layer.file("agnhost", 0o755, &fs::read(program("agnhost")?)?)?;
    for file in ["localhost.crt", "localhost.key"] {
        layer.file(file, 0o644, &fs::read(program(file)?)?)?;
    }
    add_busybox(&mut layer, &PROGRAMS.map(|(_, name)| name))?;
    let mut libraries = BTreeSet::new();
    for (name, in_image) in PROGRAMS {
        let path = find_program(name)
            .with_context(|| format!("{name} is missing: tests/setup conformance installs it"))?;
        layer.file(&format!("bin/{in_image}"), 0o755, &fs::read(&path)?)?;
        libraries.extend(needed_libraries(&path)?);
    }
    for library in libraries {
        // The loader is asked for by its path, all others by their names.
        let place = if is_loader(&library) {
            library.strip_prefix("/")?.to_path_buf()
        } else {
            Path::new(LIBRARIES).join(library.file_name().context("a library has a name")?)
        };
        let contents = fs::read(&library)?;
        layer.file(&place.to_string_lossy(), 0o755, &contents)?;
    }
    Ok(layer)
}

/// The files that a program is loaded with, and its loader.
fn needed_libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let said = Command::new("ldd").arg(program).output().context("ldd")?;
    ensure!(
        said.status.success(),
        "ldd knows nothing of {}",
        program.display()
    );
    // `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)`, and `/lib64/ld-linux... (0x...)`.
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let words = said.lines().flat_map(str::split_whitespace);
    Ok(words
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect())
}

fn is_loader(library: &Path) -> bool {
    let name = library.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("ld-linux")
}
