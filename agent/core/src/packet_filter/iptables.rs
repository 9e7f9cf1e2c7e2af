//! Matches of iptables' own that stand in every rule set.

/// Whether a packet goes on with this mark and this state of its connection, of which each may not
/// be known; none where it is not known.
pub(super) fn goes_on(
    name: &str,
    data: &[u8],
    mark: Option<u32>,
    state: Option<u32>,
) -> Option<bool> {
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
        "mark" => Some((mark? & word(4)? == word(0)?) != (*data.get(8)? != 0)),
        // `struct xt_conntrack_mtinfo3`: what is asked for, what of that is inverted, the states.
        "conntrack" => {
            const STATE: u16 = 1;
            let (asked, inverted) = (half(146)?, half(148)?);
            let is_in_it = u32::from(half(150)?) & state? != 0;
            let is_as_asked = is_in_it != (inverted & STATE != 0);
            match asked {
                STATE => Some(is_as_asked),
                _ if asked & STATE != 0 && !is_as_asked => Some(false),
                _ => None,
            }
        }
        _ => None,
    }
}
