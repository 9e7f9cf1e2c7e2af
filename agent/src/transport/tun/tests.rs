//! Against the kernel's TUN driver, in network namespaces of their own.

use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use super::*;
use crate::netlink::tests::namespace::{Namespace, ip};
use crate::transport::Offloads;

const NAME: &str = "podwire0";

fn open(queues: usize) -> Result<TunDevice, TunError> {
    TunDevice::open(NAME, queues, &OffloadsInUse::new(Offloads::default()))
}

fn index() -> String {
    let line = ip(&format!("-oneline link show {NAME}"));
    line.split(':').next().expect("an index").to_owned()
}

#[test]
fn the_device_of_a_predecessor_is_attached_to_and_keeps_its_index() {
    Namespace::new().run(|| {
        let device = open(2).expect("a device");
        assert_eq!(device.queue_count(), 2);
        let before = index();
        drop(device);
        assert_eq!(index(), before, "the device outlives its queues");
        let device = open(1).expect("the same device with another lane count");
        assert_eq!(index(), before);
        drop(device);
    });
}

#[test]
fn the_probe_leaves_nothing_behind() {
    Namespace::new().run(|| {
        let links = ip("-oneline link show");
        TunDevice::probe().expect("a TUN device can be had where these tests can run");
        assert_eq!(ip("-oneline link show"), links);
    });
}

#[test]
fn a_foreign_device_of_the_name_is_told_apart_and_left_alone() {
    for (add, what) in [
        (
            format!("tuntap add dev {NAME} mode tun"),
            "a TUN without multi_queue",
        ),
        (
            format!("tuntap add dev {NAME} mode tap multi_queue"),
            "a TAP",
        ),
        (
            format!("link add {NAME} type veth peer name other"),
            "another kind",
        ),
    ] {
        Namespace::new().run(|| {
            ip(&add);
            let before = index();
            let error = open(1).expect_err(what);
            assert!(
                matches!(error, TunError::NameTaken { .. }),
                "{what}: {error:?}"
            );
            assert!(error.to_string().contains(NAME), "{error}");
            assert_eq!(index(), before, "{what}");
        });
    }
}

#[test]
fn the_drivers_limit_of_queues_is_told_apart() {
    Namespace::new().run(|| {
        let _most = open(256).expect("the driver's limit");
        let error = open(1).expect_err("one more");
        assert!(matches!(error, TunError::Queues { .. }), "{error:?}");
    });
}

#[test]
fn the_missing_capability_is_told_apart() {
    Namespace::new().run(|| {
        let mut sets = capabilities(None).expect("own capabilities");
        sets.effective.remove(CapabilitySet::NET_ADMIN);
        // Of this thread alone, which ends with the test.
        set_capabilities(None, sets).expect("giving up is allowed");
        let error = TunDevice::probe().expect_err("no capability");
        assert!(matches!(error, TunError::Capability { .. }), "{error:?}");
        let error = open(1).expect_err("no capability");
        assert!(matches!(error, TunError::Capability { .. }), "{error:?}");
    });
}

#[test]
fn what_keeps_the_device_file_closed_is_told_apart() {
    let error = |errno| open_error(NAME, errno);
    assert!(matches!(error(Errno::NOENT), TunError::Missing(_)));
    assert!(matches!(error(Errno::NODEV), TunError::NoDriver(_)));
    assert!(matches!(error(Errno::NXIO), TunError::NoDriver(_)));
    assert!(matches!(error(Errno::ACCESS), TunError::Permission(_)));
    // The device cgroup answers EPERM, file permissions EACCES.
    assert!(matches!(error(Errno::PERM), TunError::DeviceCgroup(_)));
    assert!(matches!(error(Errno::MFILE), TunError::Kernel { .. }));
}

#[test]
fn a_deleted_device_shows_at_the_next_read_and_write() {
    Namespace::new().run(|| {
        let device = open(1).expect("a device");
        let queue = &device.queues[0];
        let mut room = [0; 100];
        assert_eq!(queue.read(&mut room), Err(Errno::AGAIN));
        assert_eq!(
            queue.write(&VnetHeader::default(), std::iter::once(&[0x45; 20][..])),
            Err(Errno::IO),
            "the device is down"
        );
        ip(&format!("link delete {NAME}"));
        assert_eq!(queue.read(&mut room), Err(Errno::BADFD));
        assert_eq!(
            queue.write(&VnetHeader::default(), std::iter::once(&[0x45; 20][..])),
            Err(Errno::BADFD)
        );
    });
}
