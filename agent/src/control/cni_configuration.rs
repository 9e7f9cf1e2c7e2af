//! The CNI configuration of this node (`--cni-configuration-directory`): made once guards and
//! routes of this boot are there and the record is published, kept as it is from then on, never
//! removed.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::Context as _;
use podwire_core::cni_configuration::{CniConfiguration, Plugin};
use podwire_core::finding::Finding;
use podwire_core::pod_mtu::{other_mtu, pod_mtu};
use tracing::{info, warn};

use super::agent::Agent;
use super::bridge_netfilter;
use super::put_backs::PutBacks;
use super::repeat_log::{RepeatLog, Summary, in_one_line};
use super::status::CniStatus;
use crate::cni_files::{self, Differs, LINK};

/// How far this process has come with it.
#[derive(Debug, Default)]
pub(super) struct Cni {
    /// What it should be; none before this node is ready.
    wanted: Option<Wanted>,
    /// The text that is in place, and to which the link was made.
    in_place: Option<String>,
    put_backs: PutBacks,
    /// Whether one of before is gone, where none is wanted.
    is_removed: bool,
    log: RepeatLog,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    text: String,
    mtu: u32,
}

impl Agent {
    /// Makes the configuration, or puts it back.
    pub(super) fn keep_cni_configuration(&mut self) {
        let wanted = self.want_cni_configuration();
        // What is in place is kept, whatever is wrong with what should be.
        let put = self.put_cni(Instant::now());
        let kept = wanted.and(put);
        let what = "cannot keep the CNI configuration, without which no pod starts";
        // A pass in which nothing could be decided mends nothing.
        if kept.is_err() || self.cni.in_place.is_some() || self.cni.is_removed {
            self.problems.cni.set(what, kept);
        }
        if let Some(Summary { times, named: what }) = self.cni.log.sum_up(Instant::now()) {
            warn!(
                times,
                what, "put back, within a minute, what somebody else keeps changing"
            );
        }
    }

    /// What it should be changes only while all is as it should be: a node that has lost its
    /// registry or an address for a moment keeps what it has.
    fn want_cni_configuration(&mut self) -> anyhow::Result<()> {
        let (Some(cni), Some(mesh)) = (&self.config.cni, &self.mesh) else {
            return Ok(());
        };
        let Some(plugin) = cni.plugin.filter(|_| self.converged) else {
            return Ok(());
        };
        let mtu = pod_mtu(&mesh.own, &self.links, &self.underlay_links.uplinks);
        let mtu = mtu.context(
            "no link has an address of this Node, a default route, or a way to a peer, so that the \
             MTU of pods is not known: give the node a route to the others, or its Node the \
             address of a link",
        )?;
        let text = CniConfiguration::new(plugin, mtu, &mesh.own.pod_cidrs)?.to_json();
        self.cni.wanted = Some(Wanted { text, mtu });
        Ok(())
    }

    fn put_cni(&mut self, now: Instant) -> anyhow::Result<()> {
        let Some(config) = &self.config.cni else {
            return Ok(());
        };
        let Some(plugin) = config.plugin else {
            // Of an agent that wrote one: it would come before the one that counts from now on.
            if !self.cni.is_removed {
                config.files.remove()?;
                self.cni.is_removed = true;
            }
            return Ok(());
        };
        let Some(wanted) = &self.cni.wanted else {
            return Ok(());
        };
        let is_known = self.cni.in_place.as_ref() == Some(&wanted.text);
        if is_known {
            let differs = config.files.differs(&wanted.text);
            if !self.cni.put_backs.is_due(differs.file || differs.link, now) {
                return Ok(());
            }
        }
        // Until it is done, the link may be one that the runtime has seen without its target.
        self.cni.in_place = None;
        let differs = config.files.keep(&wanted.text, !is_known)?;
        self.cni.in_place = Some(wanted.text.clone());
        let link = config.files.link().display();
        if !is_known {
            let (plugin, mtu) = (plugin.as_str(), wanted.mtu);
            info!(%link, plugin, mtu, "CNI configuration in place: pods can start");
            return Ok(());
        }
        let Differs { file, link: linked } = differs;
        let wrong = [(file, "its file"), (linked, "its link")].into_iter();
        let wrong = wrong.filter(|(is_wrong, _)| *is_wrong);
        let wrong: Vec<String> = wrong.map(|(_, what)| what.to_owned()).collect();
        if !wrong.is_empty() && self.cni.log.is_news(&wrong, now) {
            let wrong = in_one_line(&wrong);
            warn!(%link, wrong, "put back the CNI configuration that somebody else changed");
        }
        Ok(())
    }

    /// What keeps pods from starting, or from working, with this configuration.
    pub(super) fn cni_findings(&self) -> BTreeSet<Finding> {
        let (Some(config), Some(mesh)) = (&self.config.cni, &self.mesh) else {
            return BTreeSet::new();
        };
        let Some(plugin) = config.plugin else {
            return BTreeSet::new();
        };
        let other = config.files.other_first();
        let other = other.map(|file| Finding::OtherConfigurationFirst {
            folder: config.files.folder().display().to_string(),
            file,
            own: LINK,
        });
        let is_fought = self.cni.put_backs.is_fight();
        let fought = is_fought.then(|| Finding::ConfigurationFought {
            link: config.files.link().display().to_string(),
        });
        let missing = config.plugin_dir.as_ref().and_then(|folder| {
            let programs = cni_files::missing(folder, &plugin.programs());
            (!programs.is_empty()).then(|| Finding::PluginsMissing {
                folder: folder.display().to_string(),
                programs,
            })
        });
        let own_cidrs = &mesh.own.pod_cidrs;
        let mtu = self.cni.wanted.as_ref().map(|wanted| wanted.mtu);
        let pods = mtu.and_then(|mtu| other_mtu(&self.links, own_cidrs, mtu));
        let is_bridge = plugin == Plugin::Bridge;
        let netfilter = is_bridge.then(|| bridge_netfilter::finding(own_cidrs));
        [
            other,
            fought,
            missing,
            pods.map(Finding::PodMtu),
            netfilter.flatten(),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// What is shown of it; nothing where none is asked for.
    pub(super) fn cni_status(&self) -> Option<CniStatus> {
        let config = self.config.cni.as_ref()?;
        let plugin = config.plugin?;
        Some(CniStatus {
            configuration: config.files.link().display().to_string(),
            in_place: self.cni.in_place.is_some(),
            plugin: plugin.as_str().to_owned(),
            mtu: self.cni.wanted.as_ref().map(|wanted| wanted.mtu),
        })
    }
}
