//! Questions to the servers of pods: who asks, who answers, and whom the server sees.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context as _, Result, bail, ensure};
use podwire_testbed::control_plane::program;
use podwire_testbed::{Cluster, Host, IpVersion, address};

use crate::scene::{self, NAMESPACE, PORT};

/// What the tests' own servers answer over.
pub(crate) const PROTOCOLS: [&str; 2] = ["tcp", "udp"];

const TOOLS: &str = "pod-tools";

/// What they say when nobody answers.
const PROBE_FAILED: &str = "pod-tools probe: ";

/// Long for an answer, as a busy machine gives it.
const PATIENCE: &str = "5s";

/// Long enough for an answer to come that should not.
const IMPATIENCE: &str = "1s";

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Asker<'a> {
    /// A pod's first container.
    Pod(&'a str),
    /// One of a pod's containers.
    Container(&'a str, &'a str),
    /// A node itself.
    Node(u8),
    /// A host outside the cluster.
    Outside(&'a Host),
}

/// What a server says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Who it is: a pod's name, or a node's.
    pub(crate) by: String,
    /// Whom it sees.
    pub(crate) seen: IpAddr,
}

impl Answer {
    fn parse(line: &str) -> Result<Self> {
        let mut words = line.split_whitespace();
        let (Some(seen), Some(by), Some(_)) = (words.next(), words.next(), words.next()) else {
            bail!("this is no answer: {line:?}");
        };
        let (by, seen) = (by.to_owned(), seen.parse()?);
        Ok(Self { by, seen })
    }
}

/// Runs a command of the tests' own tools.
pub(crate) fn tools(cluster: &Cluster, asker: Asker<'_>, arguments: &[&str]) -> Result<String> {
    let command = [&[TOOLS], arguments].concat();
    match asker {
        Asker::Pod(pod) => cluster.exec(NAMESPACE, pod, &command),
        Asker::Container(pod, container) => scene::exec_in(cluster, (pod, container), &command),
        Asker::Node(number) => cluster.node(number).run(TOOLS, arguments, ""),
        Asker::Outside(host) => {
            let tools = program(TOOLS)?.display().to_string();
            host.namespace().output(&tools, arguments, "")
        }
    }
}

/// What is asked: between pods what nobody on the way may read.
fn text<'a>(cluster: &'a Cluster, asker: Asker<'_>, target: &str) -> &'a str {
    let is_pods = |address: IpAddr| {
        let cidr = address::cluster_cidr(IpVersion::of(address));
        cidr.contains(&address)
    };
    let is_from_pod = matches!(asker, Asker::Pod(_) | Asker::Container(..));
    if is_from_pod && target.parse().is_ok_and(is_pods) {
        cluster.secret()
    } else {
        "hello"
    }
}

/// Asks once.
pub(crate) fn ask(
    cluster: &Cluster,
    asker: Asker<'_>,
    protocol: &str,
    (target, port): (&str, &str),
) -> Result<Answer> {
    let text = text(cluster, asker, target);
    let question = ["probe", "-for", PATIENCE, protocol, target, port, text];
    Answer::parse(&tools(cluster, asker, &question)?)
}

/// At each of these addresses, over TCP and UDP, the asker is answered by this server, which sees
/// it under the address of the same place in `seen`.
pub(crate) fn answered(
    cluster: &Cluster,
    asker: Asker<'_>,
    (targets, port): (&[IpAddr], &str),
    by: &str,
    seen: &[IpAddr],
) -> Result<()> {
    // One in each family.
    ensure!(
        targets.len() == 2 && seen.len() == 2,
        "{targets:?} {seen:?}"
    );
    for protocol in PROTOCOLS {
        for (target, seen) in targets.iter().zip(seen) {
            let question = || format!("{asker:?} asks {target} port {port} over {protocol}");
            let target = target.to_string();
            let answer = ask(cluster, asker, protocol, (&target, port));
            let answer = answer.with_context(question)?;
            let (by, seen) = (by.to_owned(), *seen);
            let expected = Answer { by, seen };
            ensure!(
                answer == expected,
                "{}: {answer:?}, not {expected:?}",
                question()
            );
        }
    }
    Ok(())
}

/// At none of these addresses, neither over TCP nor over UDP, the asker is answered; what it hears
/// instead.
pub(crate) fn unanswered(
    cluster: &Cluster,
    asker: Asker<'_>,
    (targets, port): (&[IpAddr], &str),
) -> Result<Vec<String>> {
    ensure!(targets.len() == 2, "{targets:?}");
    let mut heard = Vec::new();
    for protocol in PROTOCOLS {
        for target in targets.iter().map(IpAddr::to_string) {
            let question = || format!("{asker:?} asks {target} port {port} over {protocol}");
            let options = ["probe", "-for", IMPATIENCE];
            let text = text(cluster, asker, &target);
            let probe = [&options[..], &[protocol, &target, port, text]].concat();
            match tools(cluster, asker, &probe) {
                Ok(answer) => bail!("{}: {answer}", question()),
                Err(error) => {
                    let error = format!("{}: {error:#}", question());
                    // It has asked: nothing before that has failed.
                    ensure!(error.contains(PROBE_FAILED), "{error}");
                    heard.push(error);
                }
            }
        }
    }
    Ok(heard)
}

/// As [`unanswered`], and it hears nothing, not even that nobody is there.
pub(crate) fn unheard(cluster: &Cluster, asker: Asker<'_>, at: (&[IpAddr], &str)) -> Result<()> {
    for heard in unanswered(cluster, asker, at)? {
        ensure!(heard.contains("i/o timeout"), "{heard}");
    }
    Ok(())
}

/// A pod reaches another one, or itself, at each of its addresses, and is seen there by its own.
pub(crate) fn reached(cluster: &Cluster, from: &str, to: &str) -> Result<()> {
    let seen = cluster.pod_addresses(NAMESPACE, from)?;
    let targets = cluster.pod_addresses(NAMESPACE, to)?;
    answered(cluster, Asker::Pod(from), (&targets, PORT), to, &seen)
}

/// A pod is answered at no address of another one.
pub(crate) fn unreached(cluster: &Cluster, from: &str, to: &str) -> Result<()> {
    let targets = cluster.pod_addresses(NAMESPACE, to)?;
    unanswered(cluster, Asker::Pod(from), (&targets, PORT)).map(drop)
}

/// Who answers ten connections of a pod, one after the other.
pub(crate) fn answering_ten(
    cluster: &Cluster,
    pod: &str,
    (target, port): (IpAddr, &str),
) -> Result<BTreeSet<String>> {
    let ask = format!("{TOOLS} probe tcp {target} {port} hello || exit 1");
    let ten = format!("for i in 0 1 2 3 4 5 6 7 8 9; do {ask}; done");
    let said = cluster.exec(NAMESPACE, pod, &["sh", "-c", &ten])?;
    let answers: Vec<_> = said.lines().map(Answer::parse).collect::<Result<_>>()?;
    ensure!(answers.len() == 10, "{said}");
    Ok(answers.into_iter().map(|answer| answer.by).collect())
}

/// What a name stands for.
pub(crate) fn resolve(cluster: &Cluster, pod: &str, name: &str) -> Result<BTreeSet<IpAddr>> {
    let said = tools(cluster, Asker::Pod(pod), &["resolve", name])?;
    let parsed = said.lines().map(str::parse);
    parsed.collect::<Result<_, _>>().context(said.clone())
}
