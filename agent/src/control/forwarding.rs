//! Whether this node forwards the packets of its pods at all. The agent cannot turn it on itself:
//! in a pod, /proc/sys is read-only.

use ipnet::IpNet;

/// The settings of the kernel, as files below `/proc/sys`, by family.
const IPV4: &str = "net/ipv4/ip_forward";
const IPV6: &str = "net/ipv6/conf/all/forwarding";

/// Which setting keeps packets of these pods from passing, in words.
pub(super) fn problem(own_cidrs: &[IpNet]) -> Option<String> {
    problem_with(own_cidrs, |setting| {
        std::fs::read_to_string(format!("/proc/sys/{setting}")).ok()
    })
}

/// What cannot be read is not off: a kernel without IPv6 has no such file.
fn problem_with(own_cidrs: &[IpNet], read: impl Fn(&str) -> Option<String>) -> Option<String> {
    let has = |is_family: fn(&IpNet) -> bool| own_cidrs.iter().any(is_family);
    let families = [
        (IPV4, has(|cidr| matches!(cidr, IpNet::V4(_)))),
        (IPV6, has(|cidr| matches!(cidr, IpNet::V6(_)))),
    ];
    let off: Vec<String> = families
        .into_iter()
        .filter(|(setting, is_used)| *is_used && read(setting).is_some_and(|on| on.trim() == "0"))
        .map(|(setting, _)| format!("{}=1", setting.replace('/', ".")))
        .collect();
    (!off.is_empty()).then(|| {
        format!(
            "this node forwards no packets of its pods: set {} with `sysctl -w`, and in \
             /etc/sysctl.d for the next boot",
            off.join(" and ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_families_of_own_pods_count() {
        let cidrs = ["10.244.1.0/24", "fd00:10:244:1::/64"].map(|c| c.parse().expect("cidr"));
        let off = |_: &str| Some("0\n".to_owned());
        let both = problem_with(&cidrs, off).expect("off");
        assert!(both.contains("net.ipv4.ip_forward=1 and net.ipv6.conf.all.forwarding=1"));
        let one = problem_with(&cidrs[..1], off).expect("off");
        assert!(one.contains("net.ipv4.ip_forward=1") && !one.contains("ipv6"));
        assert_eq!(problem_with(&[], off), None);
        assert_eq!(problem_with(&cidrs, |_| Some("1\n".to_owned())), None);
        assert_eq!(problem_with(&cidrs, |_| None), None);
    }
}
