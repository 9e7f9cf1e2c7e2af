//! A container image as one file: an OCI image layout of one layer, in a tar archive.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};

use super::archive::Archive;

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What containerd calls an image that it imports.
const NAME_ANNOTATION: &str = "io.containerd.image.name";

/// Writes an image: its name, its one layer, and what its containers start.
pub(super) fn write(path: &Path, name: &str, layer: Archive, entrypoint: &[&str]) -> Result<()> {
    let image = Image {
        name,
        entrypoint,
        arguments: &[],
    };
    write_all(path, layer, &[image])
}

/// One of the images that share a layer.
pub(super) struct Image<'a> {
    pub(super) name: &'a str,
    /// What its containers start.
    pub(super) entrypoint: &'a [&'a str],
    /// With what, unless a pod says.
    pub(super) arguments: &'a [&'a str],
}

/// Writes images of the same one layer.
pub(super) fn write_all(path: &Path, layer: Archive, images: &[Image<'_>]) -> Result<()> {
    let mut layout = Layout::default();
    let layer = layout.add(LAYER, &layer.finish())?;
    let mut manifests = Vec::new();
    for image in images {
        manifests.push(layout.add_image(image, &layer)?);
    }
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
    let mut archive = layout.0;
    archive.file("index.json", 0o644, index.to_string().as_bytes())?;
    archive.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    fs::write(path, archive.finish()).with_context(|| format!("writing {}", path.display()))
}

/// The archive of a layout's blobs.
#[derive(Default)]
struct Layout(Archive);

impl Layout {
    /// Adds an image and returns the descriptor of its manifest.
    fn add_image(&mut self, image: &Image<'_>, layer: &Value) -> Result<Value> {
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "Entrypoint": image.entrypoint,
                "Cmd": image.arguments,
                "Env": ["PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            },
            // Not compressed: the digest is the layer's own.
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
        });
        let config = self.add(CONFIG, config.to_string().as_bytes())?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config,
            "layers": [layer],
        });
        let mut manifest = self.add(MANIFEST, manifest.to_string().as_bytes())?;
        manifest["annotations"] = json!({NAME_ANNOTATION: image.name});
        manifest["platform"] = json!({"architecture": architecture(), "os": "linux"});
        Ok(manifest)
    }

    /// Adds a blob and returns its descriptor.
    fn add(&mut self, media_type: &str, blob: &[u8]) -> Result<Value> {
        let mut sum = String::new();
        for byte in digest(&SHA256, blob).as_ref() {
            let _ = write!(sum, "{byte:02x}");
        }
        self.0.file(&format!("blobs/sha256/{sum}"), 0o644, blob)?;
        Ok(json!({
            "mediaType": media_type,
            "digest": format!("sha256:{sum}"),
            "size": blob.len(),
        }))
    }
}

/// This machine's, in Go's words.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
