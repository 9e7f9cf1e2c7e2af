//! In which order this node tries a peer's endpoints: the record's, as far as they can be reached.

use std::net::SocketAddr;

use crate::kernel::Underlay;

/// The endpoint in use first, then those to which the underlay has a path, then the others; each in
/// the record's order. So a node without IPv6 does not try IPv6 first, and one that loses a family
/// under a session leaves it at once.
#[must_use]
pub fn in_order(endpoints: &[SocketAddr], underlay: &Underlay) -> Vec<SocketAddr> {
    let mut ordered = endpoints.to_vec();
    ordered.sort_by_key(|endpoint| match underlay.get(&endpoint.ip()) {
        Some(path) if path.in_use => 0,
        Some(_) => 1,
        None => 2,
    });
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Path;

    #[test]
    fn what_is_in_use_and_what_has_a_path_comes_first() {
        let endpoints: Vec<SocketAddr> = ["[2001:db8::2]:1", "192.0.2.2:1", "192.0.2.3:1"]
            .map(|text| text.parse().expect("an endpoint"))
            .to_vec();
        let order = |paths: &[(&str, bool)]| -> Vec<usize> {
            let underlay = paths.iter().map(|(address, in_use)| {
                let path = Path {
                    link: "eth0".to_owned(),
                    link_index: 2,
                    on_link: true,
                    mtu: 1500,
                    in_use: *in_use,
                };
                (address.parse().expect("an address"), path)
            });
            let ordered = in_order(&endpoints, &underlay.collect());
            let place = |endpoint| endpoints.iter().position(|other| other == endpoint);
            ordered.iter().filter_map(place).collect()
        };
        let (v6, first, second) = ("2001:db8::2", "192.0.2.2", "192.0.2.3");
        assert_eq!(order(&[]), [0, 1, 2]);
        assert_eq!(order(&[(v6, false), (first, false)]), [0, 1, 2]);
        assert_eq!(order(&[(first, false), (second, false)]), [1, 2, 0]);
        assert_eq!(order(&[(v6, false), (second, true)]), [2, 0, 1]);
        assert_eq!(order(&[(v6, true), (second, true)]), [0, 2, 1]);
    }
}
