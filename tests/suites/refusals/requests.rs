//! Requests to the admin socket and the metrics port: what is none is told so, and nobody who asks
//! slowly, much or not at all keeps others from being answered.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, METRICS, get, status};
use podwire_testbed::kernel_state::guard_table;
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Node, Topology, until};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

pub(crate) const TESTS: &[Test] = &[(
    "requests_of_any_kind_are_answered_or_ended_and_others_go_on",
    requests,
)];

/// Longer than any connection may last.
const READ_DEADLINE: Duration = Duration::from_secs(30);

/// Connections of somebody who means no good: many times what a server keeps.
const FLOOD: usize = 400;

/// Connections at a time of each server.
const CONNECTIONS_MAX: usize = 32;

/// Descriptors that an agent may have beyond those that it had: all connections of each server, and
/// room for what opens and closes at any time.
const DESCRIPTORS_MORE: usize = 2 * CONNECTIONS_MAX + 16;

/// Shorter than a connection may last: what heals by then heals in the flood.
const HEALING: Duration = Duration::from_secs(8);

/// A request, and how its answer begins; an empty one where the connection is just closed.
const REQUESTS: [(&str, &str); 14] = [
    ("GET /status HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200"),
    ("GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 404"),
    (
        "GET /../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n",
        "HTTP/1.1 404",
    ),
    (
        "POST /status HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}",
        "HTTP/1.1 405",
    ),
    (
        "POST /requests/explode HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nnow",
        "HTTP/1.1 404",
    ),
    (
        "POST /requests/rotate HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nnow",
        "HTTP/1.1 400",
    ),
    ("DELETE /peers HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 405"),
    ("BREW /status HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 405"),
    ("GET /status HTTP/9.9\r\nHost: a\r\n\r\n", "HTTP/1.1 400"),
    ("GET\r\n\r\n", "HTTP/1.1 400"),
    ("\u{0}\u{1}\u{2}\r\n\r\n", "HTTP/1.1 400"),
    ("GET /status HTTP/1.1\r\nHost : a\r\n\r\n", "HTTP/1.1 400"),
    (
        "GET /status HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "HTTP/1.1 400",
    ),
    ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ""),
];

fn admin(node: &Node) -> Result<UnixStream> {
    let path = node.run_dir().join("admin.sock");
    let stream = UnixStream::connect(&path).with_context(|| path.display().to_string())?;
    stream.set_read_timeout(Some(READ_DEADLINE))?;
    Ok(stream)
}

fn metrics(node: &Node) -> Result<TcpStream> {
    let stream = node.namespace().run(|| TcpStream::connect(METRICS))?;
    stream.set_read_timeout(Some(READ_DEADLINE))?;
    Ok(stream)
}

/// Sends a request, and returns all that comes until the agent ends the connection.
fn exchange(mut stream: impl Read + Write, request: &[u8]) -> Result<String> {
    // An agent that has had enough does not read to the end.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        // What it did not read, it resets.
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => return Err(error).context("the connection is not ended"),
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn requests(context: &Context) -> Result<()> {
    let bed = context.mesh(&Topology::new().nodes(1).pods_per_node(0))?;
    let node = bed.node(1);
    let (process, changes) = (node.agent_pid()?, status(node)?.reconcile.kernel_changes);
    let mode = std::fs::metadata(node.run_dir().join("admin.sock"))?
        .permissions()
        .mode();
    ensure!(mode & 0o777 == 0o600, "the socket has mode {mode:o}");
    let descriptors = descriptors(process)?;

    for (request, answer) in REQUESTS {
        let said = exchange(admin(node)?, request.as_bytes())?;
        let expected = said.starts_with(answer) && said.is_empty() == answer.is_empty();
        ensure!(expected, "{request:?} was answered {said:?}");
    }
    tells_what_is_allowed(node)?;
    let longest = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(15 << 10));
    let said = exchange(admin(node)?, longest.as_bytes())?;
    ensure!(
        said.starts_with("HTTP/1.1 404"),
        "15 KiB were answered {said:?}"
    );
    // Read in pieces of 16 KiB at most, and no further than the first that has no end in it.
    for length in [32 << 10, 8 << 20] {
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(length));
        for said in [
            exchange(admin(node)?, long.as_bytes())?,
            exchange(metrics(node)?, long.as_bytes())?,
        ] {
            let refused = said.is_empty() || said.starts_with("HTTP/1.1 4");
            ensure!(refused, "{length} bytes were answered {said:?}");
        }
    }
    slow(node)?;
    let after = status(node)?;
    ensure!(
        after.ready && after.reconcile.kernel_changes == changes,
        "{after:?}"
    );
    flood(node, process, descriptors)?;
    ensure!(node.agent_pid()? == process, "another agent runs");
    until(CONVERGENCE, "the descriptors to be closed", || {
        let now = self::descriptors(process)?;
        ensure!(now <= descriptors + 8, "{descriptors} at first, now {now}");
        Ok(())
    })
}

fn tells_what_is_allowed(node: &Node) -> Result<()> {
    for (request, words) in [
        (
            "GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n",
            "/status, /peers, /drops, /healthz, /livez and /requests/VERB",
        ),
        ("PUT /status HTTP/1.1\r\nHost: a\r\n\r\n", "asked with GET"),
    ] {
        let said = exchange(admin(node)?, request.as_bytes())?;
        ensure!(said.contains(words), "{request:?} was answered {said:?}");
    }
    let (line, said) = get(node, "/status")?;
    ensure!(
        line.contains("404") && said.contains("/metrics and /healthz"),
        "{line} {said}"
    );
    Ok(())
}

/// A question that never ends is ended, and others are answered meanwhile.
fn slow(node: &Node) -> Result<()> {
    let (mut asker, mut scraper) = (admin(node)?, metrics(node)?);
    asker.write_all(b"GET /status HT")?;
    scraper.write_all(b"GET /metrics HTTP/1.1\r\nHost:")?;
    ensure!(status(node)?.ready, "not ready");
    for said in [exchange(asker, b"")?, exchange(scraper, b"")?] {
        ensure!(
            !said.contains("200"),
            "half a question was answered {said:?}"
        );
    }
    Ok(())
}

/// Connections that ask nothing take neither the descriptors nor the turn of those that ask, nor
/// those that healing needs.
fn flood(node: &Node, process: u32, before: usize) -> Result<()> {
    let most = before + DESCRIPTORS_MORE;
    let limit = Some(u64::try_from(most)?);
    let limit = Rlimit {
        current: limit,
        maximum: limit,
    };
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw);
    prlimit(pid, Resource::Nofile, limit)?;
    let askers = (0..FLOOD)
        .map(|_| admin(node))
        .collect::<Result<Vec<_>>>()?;
    let scrapers = (0..FLOOD)
        .map(|_| metrics(node))
        .collect::<Result<Vec<_>>>()?;
    ensure!(status(node)?.ready, "not ready in a flood");
    ensure!(
        get(node, "/metrics")?.0.contains("200"),
        "no metrics in a flood"
    );
    for open in [open(&askers)?, open(&scrapers)?] {
        ensure!(
            (1..=CONNECTIONS_MAX).contains(&open),
            "{open} connections of a flood of {FLOOD} are open"
        );
    }
    node.namespace().nft("delete table inet podwire\n")?;
    until(HEALING, "the guard table in a flood", || guard_table(node))?;
    let now = descriptors(process)?;
    ensure!(
        now < most,
        "{before} descriptors at first, {now} in a flood of {FLOOD}"
    );
    drop((askers, scrapers));
    Ok(())
}

/// How many of these connections the agent has not ended.
fn open(connections: &[impl AsFd]) -> Result<usize> {
    let mut open = 0;
    for connection in connections {
        // An end, and what comes before it, can be read; nothing can from one that is asked to
        // wait.
        let mut ready = [PollFd::new(connection, PollFlags::IN)];
        open += usize::from(poll(&mut ready, Some(&Timespec::default()))? == 0);
    }
    Ok(open)
}

/// How many descriptors a process has.
fn descriptors(process: u32) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{process}/fd"))?.count())
}
