//! The text of the key file. No buffer with keys in it ever grows, because growing leaves a copy
//! behind.

use podwire_core::key::{InvalidKey, PrivateKey};
use podwire_core::rotation::{Phase, Rotation};
use zeroize::Zeroizing;

use super::{KeySet, Keys, LANES_MAX, SIZE_MAX, VERSION};

/// What is wrong with a key file. No text of it is repeated: it may be a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum KeyFileDamage {
    #[error("it is larger than {SIZE_MAX} bytes")]
    TooLarge,
    #[error("it is not text")]
    NotText,
    #[error("it ends before {0}")]
    Truncated(&'static str),
    #[error("{0} is not what it should be")]
    Invalid(&'static str),
    #[error("the private key of lane {lane} is damaged")]
    PrivateKey {
        lane: usize,
        #[source]
        source: InvalidKey,
    },
    #[error("the public key of lane {lane} does not belong to its private key")]
    Mismatch { lane: usize },
    #[error("something follows the last lane")]
    TrailingText,
}

/// What the keys beside the current ones are called; none if there are none.
const fn beside(phase: Phase) -> Option<&'static str> {
    match phase {
        Phase::Settled | Phase::Revoked => None,
        Phase::Announced => Some("next"),
        Phase::Promoted(_) => Some("previous"),
        Phase::Withdrawn => Some("withdrawn"),
    }
}

/// The file that holds these keys.
pub(super) fn text(keys: &Keys) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(SIZE_MAX));
    let Rotation {
        key_generation,
        phase,
    } = keys.rotation;
    let lanes = keys.current.lanes.len();
    text.push_str(&format!(
        "podwire-keys {VERSION}\ngeneration={key_generation}\nphase={phase}\nlanes={lanes}\n"
    ));
    let besides = beside(phase).zip(keys.beside.as_ref());
    for (name, set) in [("current", &keys.current)].into_iter().chain(besides) {
        text.push_str(&format!("{name}={}\n", set.created));
        for (lane, key) in set.lanes.iter().enumerate() {
            text.push_str(&format!("{name}-{lane}="));
            text.push_str(&key.to_base64());
            text.push_str(&format!(" {}\n", key.public_key()));
        }
    }
    text
}

/// The version of the file that has this text.
pub(super) fn version(text: &str) -> Result<u64, KeyFileDamage> {
    let (first, _) = text
        .split_once('\n')
        .ok_or(KeyFileDamage::Truncated("its first line's end"))?;
    first
        .strip_prefix("podwire-keys ")
        .and_then(|version| version.parse().ok())
        .filter(|version| *version >= 1)
        .ok_or(KeyFileDamage::Invalid("the first line"))
}

/// The keys in the text of a file of a version that is known.
pub(super) fn parse(version: u64, text: &str) -> Result<Keys, KeyFileDamage> {
    // Each line is whole only with its end: a cut in the last one must not pass.
    let lines = text
        .split_inclusive('\n')
        .map(|line| line.strip_suffix('\n'))
        .skip(1);
    let mut lines = Lines(lines);
    let keys = if version == 1 {
        parse_first_version(&mut lines)
    } else {
        parse_keys(&mut lines)
    }?;
    match lines.0.next() {
        None => Ok(keys),
        Some(_) => Err(KeyFileDamage::TrailingText),
    }
}

/// The lines after the first; `None` in place of one without its end.
struct Lines<I>(I);

impl<'a, I: Iterator<Item = Option<&'a str>>> Lines<I> {
    /// The value in the next line, which must have this name.
    fn value(&mut self, name: &'static str) -> Result<&'a str, KeyFileDamage> {
        let line = self.0.next().flatten();
        let line = line.ok_or(KeyFileDamage::Truncated(name))?;
        line.strip_prefix(name)
            .and_then(|rest| rest.strip_prefix('='))
            .ok_or(KeyFileDamage::Invalid(name))
    }

    fn generation(&mut self) -> Result<u64, KeyFileDamage> {
        let name = "generation";
        let generation = self.value(name)?.parse().ok();
        generation
            .filter(|generation| *generation > 0)
            .ok_or(KeyFileDamage::Invalid(name))
    }

    fn lanes(&mut self) -> Result<usize, KeyFileDamage> {
        let name = "lanes";
        let lanes = self.value(name)?.parse().ok();
        lanes
            .filter(|lanes| (1..=LANES_MAX).contains(lanes))
            .ok_or(KeyFileDamage::Invalid(name))
    }

    fn time(&mut self, name: &'static str) -> Result<String, KeyFileDamage> {
        let time = self.value(name)?;
        match time.parse::<jiff::Timestamp>() {
            Ok(_) => Ok(time.to_owned()),
            Err(_) => Err(KeyFileDamage::Invalid(name)),
        }
    }

    fn keys(&mut self, name: &str, lanes: usize) -> Result<Vec<PrivateKey>, KeyFileDamage> {
        (0..lanes)
            .map(|lane| parse_lane(name, lane, self.0.next().flatten()))
            .collect()
    }
}

fn parse_keys<'a>(
    lines: &mut Lines<impl Iterator<Item = Option<&'a str>>>,
) -> Result<Keys, KeyFileDamage> {
    let key_generation = lines.generation()?;
    let phase: Phase = lines
        .value("phase")?
        .parse()
        .map_err(|_| KeyFileDamage::Invalid("phase"))?;
    let count = lines.lanes()?;
    let mut set = |name| {
        let created = lines.time(name)?;
        let lanes = lines.keys(name, count)?;
        Ok(KeySet { created, lanes })
    };
    Ok(Keys {
        rotation: Rotation {
            key_generation,
            phase,
        },
        current: set("current")?,
        beside: beside(phase).map(set).transpose()?,
    })
}

/// Version 1 knew no rotation.
fn parse_first_version<'a>(
    lines: &mut Lines<impl Iterator<Item = Option<&'a str>>>,
) -> Result<Keys, KeyFileDamage> {
    let key_generation = lines.generation()?;
    let created = lines.time("created")?;
    let count = lines.lanes()?;
    let lanes = lines.keys("lane", count)?;
    Ok(Keys {
        rotation: Rotation {
            key_generation,
            ..Rotation::FIRST
        },
        current: KeySet { created, lanes },
        beside: None,
    })
}

fn parse_lane(name: &str, lane: usize, line: Option<&str>) -> Result<PrivateKey, KeyFileDamage> {
    let line = line.ok_or(KeyFileDamage::Truncated("the last lane"))?;
    let (private, public) = line
        .strip_prefix(&format!("{name}-{lane}="))
        .and_then(|keys| keys.split_once(' '))
        .ok_or(KeyFileDamage::Invalid("the line of a lane"))?;
    let key = PrivateKey::from_base64(private)
        .map_err(|source| KeyFileDamage::PrivateKey { lane, source })?;
    if public.parse() == Ok(key.public_key()) {
        Ok(key)
    } else {
        Err(KeyFileDamage::Mismatch { lane })
    }
}
