//! Whether what bridged pods send each other meets the packet filter, in which Services are
//! translated back: without it, the answer of a Service's pod to one on the same bridge has a
//! stranger's address. The agent cannot turn it on itself: in a pod, /proc/sys is read-only.

use ipnet::IpNet;
use podwire_core::finding::Finding;
use podwire_core::needed_traffic::FiltersBridged;

/// The settings of the kernel by family, as sysctl(8) names them.
const IPV4: &str = "net.bridge.bridge-nf-call-iptables";
const IPV6: &str = "net.bridge.bridge-nf-call-ip6tables";

/// What is off for pods of these CIDRs behind a bridge.
pub(super) fn finding(own_cidrs: &[IpNet]) -> Option<Finding> {
    finding_with(own_cidrs, read)
}

/// For which family it is on for all that is known.
pub(super) fn filters_bridged() -> FiltersBridged {
    let is_on = |setting| !is_off(setting, read);
    FiltersBridged {
        ipv4: is_on(IPV4),
        ipv6: is_on(IPV6),
    }
}

fn read(setting: &str) -> Option<String> {
    let path = format!("/proc/sys/{}", setting.replace('.', "/"));
    std::fs::read_to_string(path).ok()
}

/// Without the module there is no such file.
fn is_off(setting: &str, read: impl Fn(&str) -> Option<String>) -> bool {
    read(setting).is_none_or(|on| on.trim() == "0")
}

fn finding_with(own_cidrs: &[IpNet], read: impl Fn(&str) -> Option<String>) -> Option<Finding> {
    let has = |is_ipv6| {
        own_cidrs
            .iter()
            .any(|cidr| cidr.addr().is_ipv6() == is_ipv6)
    };
    let settings: Vec<&str> = [(IPV4, has(false)), (IPV6, has(true))]
        .into_iter()
        .filter(|(setting, is_used)| *is_used && is_off(setting, &read))
        .map(|(setting, _)| setting)
        .collect();
    (!settings.is_empty()).then_some(Finding::BridgeNetfilterOff { settings })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_is_off_or_not_there_is_named_for_families_that_pods_have() {
        let cidrs = ["10.244.1.0/24", "fd00:10:244:1::/64"].map(|c| c.parse().expect("cidr"));
        let found = |cidrs: &[IpNet], value: Option<&str>| {
            let found = finding_with(cidrs, |_| value.map(str::to_owned));
            found.map(|finding| finding.to_string()).unwrap_or_default()
        };
        assert_eq!(found(&cidrs, Some("1\n")), "");
        for value in [None, Some("0\n")] {
            let text = found(&cidrs, value);
            assert!(text.contains(&format!("{IPV4}=1 {IPV6}=1")), "{text}");
            let text = found(&cidrs[..1], value);
            assert!(text.contains(IPV4) && !text.contains(IPV6), "{text}");
        }
        assert_eq!(found(&[], None), "");
    }
}
