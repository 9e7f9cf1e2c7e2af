//! The agent's image, as `make image` makes it: what it holds, and that this is enough.
//!
//! `make test-image` runs it; plain `cargo test` does not (`test = false` in the manifest): it needs
//! the image, which is built by itself.

use std::fs::{self, Permissions};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use podwire_testbed::agent_view::CONVERGENCE;
use podwire_testbed::suite::{self, Context};
use podwire_testbed::{Namespace, Topology, matrix, until};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Names the image.
const IMAGE_VARIABLE: &str = "PODWIRE_IMAGE";

/// More than the code needs: a mistake in the build shows.
const BYTES_MAX: u64 = 15 << 20;

fn main() -> ExitCode {
    suite::run_without_agents(vec![
        ("the_image_is_one_binary_and_says_what_it_is", contents),
        ("the_same_files_make_the_same_image", reproducible),
        (
            "a_host_name_is_found_by_hosts_and_by_dns_with_no_library_at_hand",
            host_names,
        ),
        ("agents_of_the_image_make_a_mesh", mesh),
    ])
}

/// An image whose files are in a folder.
struct Image {
    folder: TempDir,
    manifest: Value,
    config: Value,
    name: String,
}

fn image_file() -> Result<PathBuf> {
    let path = std::env::var_os(IMAGE_VARIABLE);
    let path = path.with_context(|| format!("{IMAGE_VARIABLE} names no image: make test-image"))?;
    Ok(path.into())
}

fn tar(arguments: &[&str], file: &Path) -> Result<String> {
    let mut command = Command::new("tar");
    command.args(arguments).arg("-f").arg(file);
    let output = command.output().context("tar")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "tar: {said}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn directory(folder: &Path) -> Result<&str> {
    folder.to_str().context("a path that is text")
}

impl Image {
    /// Unpacks it, and follows it from its index to its parts.
    fn open() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        tar(&["-x", "-C", directory(folder.path())?], &image_file()?)?;
        let index = json_file(&folder.path().join("index.json"))?;
        let entry = &index["manifests"][0];
        let name = entry["annotations"]["io.containerd.image.name"].as_str();
        let name = name.context("no name")?.to_owned();
        let manifest = json_file(&blob(folder.path(), entry)?)?;
        let config = json_file(&blob(folder.path(), &manifest["config"])?)?;
        Ok(Self {
            folder,
            manifest,
            config,
            name,
        })
    }

    /// Its only layer.
    fn layer(&self) -> Result<PathBuf> {
        let layers = self.manifest["layers"].as_array().context("layers")?;
        ensure!(layers.len() == 1, "{layers:?}");
        blob(self.folder.path(), &layers[0])
    }

    /// Its files.
    fn root(&self) -> Result<PathBuf> {
        let root = self.folder.path().join("root");
        fs::create_dir_all(&root)?;
        tar(&["-x", "-C", directory(&root)?], &self.layer()?)?;
        Ok(root)
    }
}

fn json_file(path: &Path) -> Result<Value> {
    let text = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(serde_json::from_slice(&text)?)
}

/// Where what a descriptor names is.
fn blob(folder: &Path, descriptor: &Value) -> Result<PathBuf> {
    let digest = descriptor["digest"].as_str().context("a digest")?;
    let digest = digest.strip_prefix("sha256:").context("another digest")?;
    let path = folder.join("blobs/sha256").join(digest);
    let size = fs::metadata(&path)?.len();
    ensure!(descriptor["size"] == size, "{descriptor} has {size} bytes");
    Ok(path)
}

fn contents(_context: &Context) -> Result<()> {
    let size = fs::metadata(image_file()?)?.len();
    ensure!(size <= BYTES_MAX, "{size} bytes");
    let image = Image::open()?;
    let deployed = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../deploy/agent/kustomization.yaml"
    );
    let deployed = fs::read_to_string(deployed)?;
    let (repository, tag) = image.name.rsplit_once(':').context("a tag")?;
    ensure!(
        deployed.contains(&format!("newName: {repository}\n"))
            && deployed.contains(&format!("newTag: {tag}\n")),
        "deploy/ runs another image than {}",
        image.name
    );
    let listing = tar(&["-t"], &image.layer()?)?;
    ensure!(listing == "podwire-agent\n", "{listing}");
    let config = &image.config["config"];
    ensure!(
        config["Entrypoint"] == json!(["/podwire-agent"]),
        "{config}"
    );
    let labels = config["Labels"].as_object().context("labels")?;
    ensure!(
        image.manifest["annotations"] == config["Labels"],
        "{labels:?}"
    );
    for label in ["title", "description", "version", "licenses", "created"] {
        let value = &labels[&format!("org.opencontainers.image.{label}")];
        let value = value.as_str().unwrap_or_default();
        ensure!(
            !value.is_empty() && !value.contains('@'),
            "{label}: {value}"
        );
    }
    let binary = image.root()?.join("podwire-agent");
    let version = Command::new(&binary).arg("--version").output()?;
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    ensure!(
        version.trim() == format!("podwire-agent {tag}"),
        "{version}"
    );
    // Where it was built is nobody's business, and would make other bytes elsewhere.
    let bytes = fs::read(&binary)?;
    let here = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("a parent")?;
    let here = directory(here)?.as_bytes();
    ensure!(
        !bytes.windows(here.len()).any(|part| part == here),
        "it has the path of this folder in it"
    );
    Ok(())
}

/// Whoever made them, with whatever umask, and when.
fn reproducible(_context: &Context) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut images = Vec::new();
    for (number, mode) in [(1, 0o600), (2, 0o644)] {
        let root = folder.path().join(format!("root{number}"));
        fs::create_dir_all(root.join("etc"))?;
        for name in ["b", "a"] {
            let file = root.join("etc").join(name);
            fs::write(&file, name)?;
            fs::set_permissions(&file, Permissions::from_mode(mode))?;
        }
        let config = folder.path().join("config.json");
        fs::write(&config, "{}")?;
        let tarball = folder.path().join(format!("{number}.tar"));
        let packed = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/image/pack"))
            .arg(&root)
            .arg("localhost/test:1")
            .arg(&config)
            .arg(&tarball)
            .status()?;
        ensure!(packed.success(), "pack: {packed}");
        images.push(fs::read(&tarball)?);
    }
    ensure!(images[0] == images[1], "their bytes differ");
    Ok(())
}

/// The binary alone in a root folder of its own, as in a container, where the kubelet puts the two
/// files beside it.
fn host_names(_context: &Context) -> Result<()> {
    let image = Image::open()?;
    let root = image.root()?;
    fs::create_dir(root.join("etc"))?;
    fs::create_dir(root.join("state"))?;
    fs::write(root.join("etc/hosts"), "127.0.0.2 by-hosts.example\n")?;
    fs::write(root.join("etc/resolv.conf"), "nameserver 127.0.0.3\n")?;
    let namespace = Namespace::new("a container")?;
    namespace.ip(&["link set lo up".to_owned()])?;
    let dns = namespace.run(|| UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 3), 53)))?;
    thread::spawn(move || answer_dns(&dns, Ipv4Addr::new(127, 0, 0, 4)));
    // There is no system here that would know any. Nobody gets as far as to look at it.
    let authority = rcgen::generate_simple_self_signed(["nobody".to_owned()])?;
    let authority = STANDARD.encode(authority.cert.pem());
    for (name, address) in [
        ("by-hosts.example", Ipv4Addr::new(127, 0, 0, 2)),
        ("by-dns.example", Ipv4Addr::new(127, 0, 0, 4)),
    ] {
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "a",
            "clusters": [{"name": "a", "cluster": {
                "server": format!("https://{name}:6443"), "certificate-authority-data": authority,
            }}],
            "users": [{"name": "a", "user": {"token": "a"}}],
            "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        });
        fs::write(root.join("kubeconfig"), kubeconfig.to_string())?;
        let server = namespace.run(|| TcpListener::bind(SocketAddr::from((address, 6443))))?;
        server.set_nonblocking(true)?;
        let mut command = Command::new("chroot");
        command
            .arg(&root)
            .args(["/podwire-agent", "cleanup", "--state-dir", "/state"])
            .args(["--node-name", "node-1", "--kubeconfig", "/kubeconfig"])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = namespace.spawn(command)?;
        let asked = until(CONVERGENCE, &format!("{name} to be found"), || {
            Ok(server.accept().map(drop)?)
        });
        // Whoever asked is told nothing: the connection is closed.
        drop(server);
        let output = child.wait_with_output()?;
        asked.with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    }
    Ok(())
}

/// Answers every question for an IPv4 address with this one, every other with nothing, until the
/// process ends.
fn answer_dns(socket: &UdpSocket, address: Ipv4Addr) -> io::Result<()> {
    // Of a question with one name: the last four bytes are type and class.
    const TYPE_A: [u8; 2] = [0, 1];
    let mut buffer = [0; 512];
    loop {
        let (length, from) = socket.recv_from(&mut buffer)?;
        let question = &buffer[..length];
        let is_a = question.len() > 16 && question[length - 4..length - 2] == TYPE_A;
        let mut answer = question[..2].to_vec();
        // An answer, with recursion; one question, and one or no answer (RFC 1035 §4.1.1).
        answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
        answer.extend(&question[12..]);
        if is_a {
            // The question's name, type A, class IN, a minute, four bytes.
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
            answer.extend(address.octets());
        }
        socket.send_to(&answer, from)?;
    }
}

fn mesh(context: &Context) -> Result<()> {
    let image = Image::open()?;
    let agent = image.root()?.join("podwire-agent");
    let topology = Topology::new().nodes(2).pods_per_node(1);
    let bed = context.mesh(&topology.agent(agent))?;
    matrix::all_reached(&bed.matrix().run())
}
