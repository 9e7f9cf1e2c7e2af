//! The images that every node has: there is no registry to pull from.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use memchr::memmem;

use super::archive::Archive;
use super::image;
use super::root::MERGED;
use crate::control_plane::program;
use crate::sandbox::find_program;

/// What holds a pod's namespaces.
pub(super) const PAUSE: &str = "podwire.test/pause:1";

/// What resolves names.
pub(super) const COREDNS: &str = "podwire.test/coredns:1";

/// The image of pods of tests: busybox with all its names, and `pod-tools`
/// (`tests/servers/pod-tools`). Its containers sleep unless they are told otherwise.
pub const POD_IMAGE: &str = "podwire.test/pod:1";

/// The image of [`policy_engine_image`].
pub const POLICY_ENGINE_IMAGE: &str = "podwire.test/kube-router:1";

/// Busybox's own that a static build crashes in.
const BROKEN_APPLETS: [&str; 1] = ["wget"];

/// Writes all images into a folder and returns their files.
pub(super) fn write_all(folder: &Path) -> Result<Vec<PathBuf>> {
    let files = ["pause", "coredns", "pod"].map(|name| folder.join(format!("{name}.tar")));
    let tools = fs::read(program("pod-tools")?)?;

    let mut pause = Archive::default();
    pause.file("pod-tools", 0o755, &tools)?;
    image::write(&files[0], PAUSE, pause, &["/pod-tools", "pause"])?;

    let mut coredns = Archive::default();
    coredns.file("coredns", 0o755, &fs::read(program("coredns")?)?)?;
    image::write(&files[1], COREDNS, coredns, &["/coredns"])?;

    let mut pod = Archive::default();
    pod.folder("bin", 0o755)?;
    pod.folder("tmp", 0o1777)?;
    pod.folder("etc", 0o755)?;
    pod.file("etc/passwd", 0o644, b"root:x:0:0:root:/:/bin/sh\n")?;
    pod.file("bin/pod-tools", 0o755, &tools)?;
    add_busybox(&mut pod, &BROKEN_APPLETS)?;
    image::write(&files[2], POD_IMAGE, pod, &["/bin/pod-tools", "pause"])?;
    Ok(files.into())
}

/// Writes the image of what enforces network policies into a folder and returns its file. It has no
/// `/usr`: a pod mounts its node's, with iptables and ipset, and `/etc/alternatives`.
///
/// # Errors
/// When the program was not built, and the file system's.
pub fn policy_engine_image(folder: &Path) -> Result<PathBuf> {
    let file = folder.join("kube-router.tar");
    let mut engine = Archive::default();
    engine.file("kube-router", 0o755, &fs::read(program("kube-router")?)?)?;
    for name in MERGED {
        engine.link(name, &format!("usr/{name}"))?;
    }
    image::write(&file, POLICY_ENGINE_IMAGE, engine, &["/kube-router"])?;
    Ok(file)
}

/// Adds busybox under all its names in `bin` but these.
pub(super) fn add_busybox(archive: &mut Archive, without: &[&str]) -> Result<()> {
    let path = find_program("busybox").context("busybox is missing: make setup installs it")?;
    let busybox = fs::read(&path)?;
    // Of a dynamic one an image has no loader.
    ensure!(
        memmem::find(&busybox, b"/ld-linux").is_none(),
        "{} is not static: install busybox-static in place of busybox",
        path.display()
    );
    archive.file("bin/busybox", 0o755, &busybox)?;
    let applets = Command::new(&path).arg("--list").output()?;
    for applet in String::from_utf8_lossy(&applets.stdout).lines() {
        if applet != "busybox" && !without.contains(&applet) {
            archive.link(&format!("bin/{applet}"), "busybox")?;
        }
    }
    Ok(())
}
