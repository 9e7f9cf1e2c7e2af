//! Who reaches whom, as a table.

use std::collections::{BTreeMap, BTreeSet};

use podwire_testbed::{IpVersion, PairResult, PodId};

/// More columns than this do not fit a terminal: then a row is a node, not a pod.
const PODS_SHOWN: usize = 12;

/// One direction between two pods, or all directions between the pods of two nodes.
type Cell<'a> = Vec<&'a PairResult>;

/// How many pairs of pods reach each other, each direction counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reachability {
    /// Ordered pairs of pods that asked.
    pub(crate) pairs: usize,
    /// Those of which every question was answered with the source kept.
    pub(crate) pairs_reachable: usize,
}

impl Reachability {
    pub(crate) fn of(results: &[PairResult]) -> Self {
        let mut pairs: BTreeMap<(PodId, PodId), bool> = BTreeMap::new();
        for result in results {
            *pairs.entry((result.from, result.to)).or_insert(true) &= result.source_kept();
        }
        Self {
            pairs: pairs.len(),
            pairs_reachable: pairs.values().filter(|reachable| **reachable).count(),
        }
    }
}

/// A header and a row for each pod, or for each node where there are many pods.
pub(crate) fn table(results: &[PairResult]) -> (Vec<String>, Vec<Vec<String>>) {
    let pods: BTreeSet<PodId> = results.iter().map(|result| result.from).collect();
    let by_node = pods.len() > PODS_SHOWN;
    let label = |pod: PodId| {
        if by_node {
            format!("node-{}", pod.node)
        } else {
            pod.to_string()
        }
    };
    // A pod's number 0 stands for all of them.
    let place = |pod: PodId| PodId {
        pod: if by_node { 0 } else { pod.pod },
        ..pod
    };
    let mut cells: BTreeMap<(PodId, PodId), Cell<'_>> = BTreeMap::new();
    for result in results {
        cells
            .entry((place(result.from), place(result.to)))
            .or_default()
            .push(result);
    }
    let places: BTreeSet<PodId> = pods.into_iter().map(place).collect();
    let mut header = vec!["from \\ to".to_owned()];
    header.extend(places.iter().map(|to| {
        if by_node {
            to.node.to_string()
        } else {
            label(*to)
        }
    }));
    let rows = places
        .iter()
        .map(|from| {
            let mut row = vec![label(*from)];
            row.extend(places.iter().map(|to| {
                cells
                    .get(&(*from, *to))
                    .map_or_else(|| "-".to_owned(), |results| cell(results))
            }));
            row
        })
        .collect();
    (header, rows)
}

/// "ok", or what did not work in words.
fn cell(results: &[&PairResult]) -> String {
    let unanswered = kinds(results, |result| !result.reached());
    let translated = kinds(results, |result| result.reached() && !result.source_kept());
    let mut words = Vec::new();
    if results.iter().all(|result| !result.reached()) {
        words.push("nothing".to_owned());
    } else if !unanswered.is_empty() {
        words.push(format!("no {unanswered}"));
    }
    if !translated.is_empty() {
        words.push(format!("translated {translated}"));
    }
    if words.is_empty() {
        "ok".to_owned()
    } else {
        words.join(", ")
    }
}

/// Protocols and versions, such as `TCP4 UDP6`.
fn kinds(results: &[&PairResult], wanted: impl Fn(&PairResult) -> bool) -> String {
    let kinds: BTreeSet<_> = results
        .iter()
        .filter(|result| wanted(result))
        .map(|result| (result.protocol, result.version))
        .collect();
    let words: Vec<_> = kinds
        .iter()
        .map(|(protocol, version)| match version {
            IpVersion::V4 => format!("{protocol}4"),
            IpVersion::V6 => format!("{protocol}6"),
        })
        .collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    use podwire_testbed::{Answer, Protocol};

    use super::*;

    fn results(nodes: u8, pods: u8) -> Vec<PairResult> {
        let all: Vec<PodId> = (1..=nodes)
            .flat_map(|node| (1..=pods).map(move |pod| PodId { node, pod }))
            .collect();
        let source = IpAddr::V4(Ipv4Addr::new(10, 244, 1, 2));
        let mut results = Vec::new();
        for from in &all {
            for to in all.iter().filter(|to| *to != from) {
                results.extend(Protocol::ALL.map(|protocol| PairResult {
                    from: *from,
                    to: *to,
                    protocol,
                    version: IpVersion::V4,
                    attempts: 1,
                    outcome: Ok(Answer {
                        source,
                        source_seen: source,
                        round_trip: Duration::ZERO,
                    }),
                }));
            }
        }
        results
    }

    #[test]
    fn a_cell_says_in_words_what_did_not_work() {
        let mut results = results(2, 1);
        results[0].outcome = Err("refused".to_owned());
        let Ok(answer) = &mut results[1].outcome else {
            unreachable!()
        };
        answer.source_seen = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 11));
        for result in &mut results[3..] {
            result.outcome = Err("no answer in time".to_owned());
        }
        let (header, rows) = table(&results);
        assert_eq!(header, ["from \\ to", "pod-1-1", "pod-2-1"]);
        assert_eq!(rows[0], ["pod-1-1", "-", "no TCP4, translated UDP4"]);
        assert_eq!(rows[1], ["pod-2-1", "nothing", "-"]);
        assert_eq!(
            Reachability::of(&results),
            Reachability {
                pairs: 2,
                pairs_reachable: 0
            }
        );
    }

    #[test]
    fn many_pods_are_shown_by_node() {
        let (header, rows) = table(&results(7, 2));
        assert_eq!(header.len(), 8);
        assert_eq!(rows[6][0], "node-7");
        assert!(
            rows.iter()
                .flat_map(|row| &row[1..])
                .all(|cell| cell == "ok")
        );
        let (_, rows) = table(&results(14, 1));
        assert_eq!(rows[3][4], "-");
    }
}
