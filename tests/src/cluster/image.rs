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
    let mut layout = Layout::default();
    let layer = layout.add(LAYER, &layer.finish())?;
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {
            "Entrypoint": entrypoint,
            "Env": ["PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        },
        // Not compressed: the digest is the layer's own.
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    });
    let config = layout.add(CONFIG, config.to_string().as_bytes())?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config,
        "layers": [layer],
    });
    let mut manifest = layout.add(MANIFEST, manifest.to_string().as_bytes())?;
    manifest["annotations"] = json!({NAME_ANNOTATION: name});
    manifest["platform"] = json!({"architecture": architecture(), "os": "linux"});
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [manifest]});
    let mut archive = layout.0;
    archive.file("index.json", 0o644, index.to_string().as_bytes())?;
    archive.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    fs::write(path, archive.finish()).with_context(|| format!("writing {}", path.display()))
}

/// The archive of a layout's blobs.
#[derive(Default)]
struct Layout(Archive);

impl Layout {
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
