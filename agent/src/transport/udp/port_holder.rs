//! Who holds a UDP port: for the message of the error that it is taken.

use std::fs;

/// Names the holder of a UDP port in the current network namespace, as far as this process may see.
pub(super) fn port_holder(port: u16) -> String {
    let inode = ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .find_map(|table| inode(&table, port));
    match inode {
        // A socket of the kernel itself has no inode.
        Some(0) => "a socket of the kernel, such as another WireGuard device's".to_owned(),
        Some(inode) => {
            process(inode).unwrap_or_else(|| "a process that cannot be seen from here".to_owned())
        }
        None => "an unknown process".to_owned(),
    }
}

/// The inode of the first socket with this local port in a table such as `/proc/net/udp`.
fn inode(table: &str, port: u16) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let local = fields.nth(1)?.rsplit(':').next()?;
        // After the local address: remote, state, queues, timer, retransmits, uid, timeout.
        let inode = fields.nth(7)?;
        (u16::from_str_radix(local, 16) == Ok(port)).then(|| inode.parse().ok())?
    })
}

/// The process that holds the socket of this inode.
fn process(inode: u64) -> Option<String> {
    let socket = format!("socket:[{inode}]");
    let numbered = |name: &std::ffi::OsStr| name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let holder = processes
        .filter(|entry| numbered(&entry.file_name()))
        .find(|process| {
            // Those of other users are not ours to read.
            fs::read_dir(process.path().join("fd")).is_ok_and(|files| {
                files.flatten().any(|file| {
                    fs::read_link(file.path()).is_ok_and(|to| *to.as_os_str() == *socket)
                })
            })
        })?;
    let command = fs::read_to_string(holder.path().join("comm")).ok()?;
    Some(format!(
        "{} (process {})",
        command.trim(),
        holder.file_name().display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   \
        uid  timeout inode ref pointer drops\n\
        \x20 100: 0100007F:CAA8 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        \
        0 4242 2 0000000000000000 0\n\
        \x20 101: 00000000:CAA9 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        \
        0 0 2 0000000000000000 0\n";

    #[test]
    fn the_inode_of_a_port_is_found_in_the_kernels_table() {
        assert_eq!(inode(TABLE, 51880), Some(4242));
        assert_eq!(inode(TABLE, 51881), Some(0));
        assert_eq!(inode(TABLE, 51882), None);
    }
}
