//! Matches of iptables' own that stand in every rule set.

use super::walk::STATE_NEW;

/// Whether a packet without mark that begins a connection goes on; none where it is not known.
pub(super) fn goes_on(name: &str, data: &[u8]) -> Option<bool> {
    let half = |at: usize| {
        data.get(at..)?
            .first_chunk()
            .map(|n| u16::from_ne_bytes(*n))
    };
    let word = |at: usize| {
        data.get(at..)?
            .first_chunk()
            .map(|n| u32::from_ne_bytes(*n))
    };
    match name {
        "comment" => Some(true),
        // `struct xt_mark_mtinfo1`: mark, mask, invert.
        "mark" => Some((word(0)? == 0) != (*data.get(8)? != 0)),
        // `struct xt_conntrack_mtinfo3`: what is asked for, what of that is inverted, the states.
        "conntrack" => {
            const STATE: u16 = 1;
            let (asked, inverted) = (half(146)?, half(148)?);
            let is_new = u32::from(half(150)?) & STATE_NEW != 0;
            let is_as_asked = is_new != (inverted & STATE != 0);
            match asked {
                STATE => Some(is_as_asked),
                _ if asked & STATE != 0 && !is_as_asked => Some(false),
                _ => None,
            }
        }
        _ => None,
    }
}
