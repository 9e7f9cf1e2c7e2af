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
use crate::config::CniConfig;

/// How far this process has come with it.
#[derive(Debug, Default)]
pub(super) struct Cni {
    /// What it should be; none before this node is ready.
    wanted: Option<Wanted>,
    /// The text that is in place, and to which the link was made.
    in_place: Option<String>,
    /// Whether somebody has changed it, and it is not put back yet.
    is_changed: bool,
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

impl Cni {
    /// Makes it, or puts it back.
    fn put(&mut self, config: &CniConfig, now: Instant) -> anyhow::Result<()> {
        let Some(plugin) = config.plugin else {
            // Of an agent that wrote one: it would come before the one that counts from now on.
            if !self.is_removed {
                config.files.remove()?;
                self.is_removed = true;
            }
            return Ok(());
        };
        let Some(wanted) = &self.wanted else {
            return Ok(());
        };
        let is_known = self.in_place.as_ref() == Some(&wanted.text);
        if is_known {
            let Differs { file, link } = config.files.differs(&wanted.text);
            self.is_changed = file || link;
            if !self.put_backs.is_due(self.is_changed, now) {
                return Ok(());
            }
        }
        // Until it is done, the link may be one that the runtime has seen without its target.
        self.in_place = None;
        let differs = config.files.keep(&wanted.text, !is_known)?;
        self.in_place = Some(wanted.text.clone());
        self.is_changed = false;
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
        if !wrong.is_empty() && self.log.is_news(&wrong, now) {
            let wrong = in_one_line(&wrong);
            warn!(%link, wrong, "put back the CNI configuration that somebody else changed");
        }
        Ok(())
    }

    /// Whether the runtime reads what it should.
    const fn is_in_place(&self) -> bool {
        self.in_place.is_some() && !self.is_changed
    }
}

impl Agent {
    /// Makes the configuration, or puts it back.
    pub(super) fn keep_cni_configuration(&mut self) {
        let wanted = self.want_cni_configuration();
        // What is in place is kept, whatever is wrong with what should be.
        let files = self.config.cni.as_ref();
        let put = files.map_or(Ok(()), |config| self.cni.put(config, Instant::now()));
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
            in_place: self.cni.is_in_place(),
            plugin: plugin.as_str().to_owned(),
            mtu: self.cni.wanted.as_ref().map(|wanted| wanted.mtu),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;
    use crate::cni_files::CniFiles;

    /// Folders, and what is wanted in them by that plugin.
    fn wanted(plugin: Option<Plugin>) -> (tempfile::TempDir, CniConfig, Cni) {
        let root = tempfile::tempdir().expect("folder");
        let folder = root.path().join("net.d");
        fs::create_dir(&folder).expect("folder");
        let config = CniConfig {
            files: CniFiles::new(root.path().join("run"), folder),
            plugin,
            plugin_dir: None,
        };
        let wanted = Wanted {
            text: "one".to_owned(),
            mtu: 1440,
        };
        let cni = Cni {
            wanted: Some(wanted),
            ..Cni::default()
        };
        (root, config, cni)
    }

    fn is_whole(config: &CniConfig) -> bool {
        fs::read_to_string(config.files.link()).is_ok_and(|text| text == "one")
    }

    #[test]
    fn what_somebody_changes_is_put_back_and_in_a_fight_it_is_told_while_it_is_not() {
        let (_root, config, mut cni) = wanted(Some(Plugin::Bridge));
        let start = Instant::now();
        assert!(!cni.is_in_place());
        cni.put(&config, start).expect("made");
        assert!(cni.is_in_place() && is_whole(&config));
        let spoil = |number: u64| {
            if number.is_multiple_of(2) {
                fs::remove_file(config.files.link()).expect("removed");
            } else {
                fs::write(config.files.link(), "another's").expect("written");
            }
        };
        for second in 1..=3 {
            spoil(second);
            cni.put(&config, start + Duration::from_secs(second))
                .expect("put back");
            assert!(cni.is_in_place() && is_whole(&config), "{second}");
        }
        spoil(4);
        cni.put(&config, start + Duration::from_secs(4))
            .expect("left");
        assert!(cni.put_backs.is_fight());
        assert!(!cni.is_in_place() && !is_whole(&config));
        cni.put(&config, start + Duration::from_secs(63))
            .expect("put back");
        assert!(cni.is_in_place() && is_whole(&config));
    }

    #[test]
    fn somebody_who_puts_it_back_by_himself_is_seen() {
        let (_root, config, mut cni) = wanted(Some(Plugin::Bridge));
        let start = Instant::now();
        cni.put(&config, start).expect("made");
        let target = fs::read_link(config.files.link()).expect("a link");
        for second in 1..=4 {
            fs::remove_file(config.files.link()).expect("removed");
            cni.put(&config, start + Duration::from_secs(second))
                .expect("put back, or left");
        }
        assert!(!cni.is_in_place());
        std::os::unix::fs::symlink(target, config.files.link()).expect("linked");
        cni.put(&config, start + Duration::from_secs(5))
            .expect("seen");
        assert!(cni.is_in_place());
    }

    #[test]
    fn a_new_text_is_in_place_only_once_it_is_written() {
        let (_root, config, mut cni) = wanted(Some(Plugin::Bridge));
        let now = Instant::now();
        cni.put(&config, now).expect("made");
        fs::remove_file(config.files.link()).expect("removed");
        fs::create_dir(config.files.link()).expect("a folder in its place");
        let other = Wanted {
            text: "two".to_owned(),
            mtu: 1420,
        };
        cni.wanted = Some(other);
        cni.put(&config, now).expect_err("a folder is in the way");
        assert!(!cni.is_in_place());
        fs::remove_dir(config.files.link()).expect("removed");
        cni.put(&config, now).expect("made");
        assert!(cni.is_in_place() && !is_whole(&config));
    }

    #[test]
    fn one_of_before_is_removed_once_where_none_is_wanted() {
        let (_root, config, mut cni) = wanted(Some(Plugin::Bridge));
        let now = Instant::now();
        cni.put(&config, now).expect("made");
        let config = CniConfig {
            plugin: None,
            ..config
        };
        let mut next = Cni::default();
        next.put(&config, now).expect("removed");
        assert!(config.files.link().symlink_metadata().is_err());
        assert!(!next.is_in_place());
        // An operator's, by the same name.
        fs::write(config.files.link(), "another's").expect("written");
        next.put(&config, now).expect("nothing to do");
        assert!(!is_whole(&config));
        config.files.link().symlink_metadata().expect("still there");
    }
}
