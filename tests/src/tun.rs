//! A node without a TUN device.

use std::process::Command;

use crate::empty_folder::empty_folder;

/// Makes the child see an empty `/dev/net`.
pub(crate) fn hide_tun_device(command: &mut Command) {
    empty_folder(command, c"/dev/net");
}
