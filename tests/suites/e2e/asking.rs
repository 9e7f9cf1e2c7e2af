//! Questions to the servers of pods: who asks, who answers, and whom the server sees.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context as _, Result, bail, ensure};
use podwire_testbed::control_plane::program;
use podwire_testbed::{Cluster, Testbed};

use crate::scene::{self, NAMESPACE};

/// What the tests' own servers answer over.
pub(crate) const PROTOCOLS: [&str; 2] = ["tcp", "udp"];

const TOOLS: &str = "pod-tools";

/// Long for an answer, as a busy machine gives it.
const PATIENCE: &str = "5s";

/// Long enough for an answer to come that should not.
const IMPATIENCE: &str = "1s";

/// A whole cluster, and the network around it.
pub(crate) struct Place<'a> {
    pub(crate) bed: &'a Testbed,
    pub(crate) cluster: &'a Cluster,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Asker<'a> {
    /// A pod's first container.
    Pod(&'a str),
    /// One of a pod's containers.
    Container(&'a str, &'a str),
    /// A node itself.
    Node(u8),
    /// The host outside the cluster.
    Outside,
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

impl Place<'_> {
    /// Runs a command of the tests' own tools.
    pub(crate) fn tools(&self, asker: Asker<'_>, arguments: &[&str]) -> Result<String> {
        let command = [&[TOOLS], arguments].concat();
        match asker {
            Asker::Pod(pod) => self.cluster.exec(NAMESPACE, pod, &command),
            Asker::Container(pod, container) => {
                scene::exec_in(self.cluster, (pod, container), &command)
            }
            Asker::Node(number) => self.cluster.node(number).run(TOOLS, arguments, ""),
            Asker::Outside => {
                let tools = program(TOOLS)?.display().to_string();
                let outside = self.bed.outside().namespace();
                outside.output(&tools, arguments, "")
            }
        }
    }

    /// Asks once.
    pub(crate) fn ask(
        &self,
        asker: Asker<'_>,
        protocol: &str,
        (target, port): (&str, &str),
    ) -> Result<Answer> {
        let question = ["probe", "-for", PATIENCE, protocol, target, port, "hello"];
        Answer::parse(&self.tools(asker, &question)?)
    }

    /// At each of these addresses, over TCP and UDP, the asker is answered by this server, which
    /// sees it under the address of the same place in `seen`.
    pub(crate) fn answered(
        &self,
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
                let answer = self.ask(asker, protocol, (&target, port));
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

    /// At none of these addresses, neither over TCP nor over UDP, the asker hears anything, not
    /// even that nobody is there.
    pub(crate) fn unheard(
        &self,
        asker: Asker<'_>,
        (targets, port): (&[IpAddr], &str),
    ) -> Result<()> {
        for protocol in PROTOCOLS {
            for target in targets {
                let question = || format!("{asker:?} asks {target} port {port} over {protocol}");
                let target = target.to_string();
                let probe = [
                    "probe", "-for", IMPATIENCE, protocol, &target, port, "hello",
                ];
                match self.tools(asker, &probe) {
                    Ok(answer) => bail!("{}: {answer}", question()),
                    Err(error) => {
                        let error = format!("{error:#}");
                        ensure!(error.contains("i/o timeout"), "{}: {error}", question());
                    }
                }
            }
        }
        Ok(())
    }

    /// Who answers ten connections of a pod, one after the other.
    pub(crate) fn answering_ten(
        &self,
        pod: &str,
        (target, port): (IpAddr, &str),
    ) -> Result<BTreeSet<String>> {
        let ask = format!("{TOOLS} probe tcp {target} {port} hello || exit 1");
        let ten = format!("for i in 0 1 2 3 4 5 6 7 8 9; do {ask}; done");
        let said = self.cluster.exec(NAMESPACE, pod, &["sh", "-c", &ten])?;
        let answers: Vec<_> = said.lines().map(Answer::parse).collect::<Result<_>>()?;
        ensure!(answers.len() == 10, "{said}");
        Ok(answers.into_iter().map(|answer| answer.by).collect())
    }

    /// What a name stands for.
    pub(crate) fn resolve(&self, pod: &str, name: &str) -> Result<BTreeSet<IpAddr>> {
        let said = self.tools(Asker::Pod(pod), &["resolve", name])?;
        let parsed = said.lines().map(str::parse);
        parsed.collect::<Result<_, _>>().context(said.clone())
    }
}
