//! WireGuard's cross-platform user space interface: how the peers of Podwire are configured, and
//! how they tell what they carried. <https://www.wireguard.com/xplatform/>

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ipnet::IpNet;

/// Where every implementation puts its socket.
const FOLDER: &str = "/var/run/wireguard";

/// An answer takes milliseconds; without one the daemon hangs.
const DEADLINE: Duration = Duration::from_secs(10);

/// A peer to be configured.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its public key.
    pub public_key: [u8; 32],
    /// Where it is; none for one that is to come by itself.
    pub endpoint: Option<SocketAddr>,
    /// What it may be the source of.
    pub allowed_ips: Vec<IpNet>,
}

/// The socket of one interface.
#[derive(Debug, Clone)]
pub struct Uapi {
    path: PathBuf,
}

impl Uapi {
    /// That of an interface by its name.
    pub fn of(interface: &str) -> Self {
        Self {
            path: Path::new(FOLDER).join(format!("{interface}.sock")),
        }
    }

    /// Sets the key, the port and the peers.
    ///
    /// # Errors
    /// When nobody answers, or the answer is an error number.
    pub fn configure(&self, private_key: &[u8; 32], port: u16, peers: &[Peer]) -> Result<()> {
        let mut request = format!(
            "set=1\nprivate_key={}\nlisten_port={port}\nreplace_peers=true\n",
            hex(private_key)
        );
        for peer in peers {
            let _ = writeln!(request, "public_key={}", hex(&peer.public_key));
            if let Some(endpoint) = peer.endpoint {
                let _ = writeln!(request, "endpoint={endpoint}");
            }
            for network in &peer.allowed_ips {
                let _ = writeln!(request, "allowed_ip={network}");
            }
        }
        self.ask(&request).map(drop)
    }

    /// Bytes that all peers together sent to it, by its own count.
    ///
    /// # Errors
    /// When nobody answers.
    pub fn received_bytes(&self) -> Result<u64> {
        Ok(received_bytes(&self.ask("get=1\n")?))
    }

    /// Whether a handshake with any peer has been completed since it was configured.
    ///
    /// # Errors
    /// When nobody answers.
    pub fn has_handshake(&self) -> Result<bool> {
        Ok(has_handshake(&self.ask("get=1\n")?))
    }

    fn ask(&self, request: &str) -> Result<String> {
        let name = self.path.display();
        let mut stream = UnixStream::connect(&self.path)
            .with_context(|| format!("connecting to {name}: does the daemon run?"))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream
            .write_all(format!("{request}\n").as_bytes())
            .with_context(|| format!("asking {name}"))?;
        let mut answer = String::new();
        let mut buffer = [0; 4096];
        // The daemon may keep the connection open: an empty line ends the answer.
        while !answer.ends_with("\n\n") {
            let length = stream
                .read(&mut buffer)
                .with_context(|| format!("reading the answer of {name}"))?;
            ensure!(length > 0, "{name} closed in the middle of an answer");
            answer.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        let refused = answer
            .lines()
            .find_map(|line| line.strip_prefix("errno="))
            .filter(|number| *number != "0");
        ensure!(refused.is_none(), "{name} refused with {answer:?}");
        Ok(answer)
    }
}

fn received_bytes(answer: &str) -> u64 {
    answer
        .lines()
        .filter_map(|line| line.strip_prefix("rx_bytes="))
        .filter_map(|count| count.parse::<u64>().ok())
        .sum()
}

fn has_handshake(answer: &str) -> bool {
    let mut times = answer
        .lines()
        .filter_map(|line| line.strip_prefix("last_handshake_time_sec="));
    times.any(|seconds| seconds != "0")
}

fn hex(key: &[u8; 32]) -> String {
    key.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn received_bytes_are_summed_over_peers() {
        let answer = "listen_port=1\npublic_key=aa\nrx_bytes=5\ntx_bytes=9\npublic_key=bb\n\
                      rx_bytes=7\nerrno=0\n\n";
        assert_eq!(received_bytes(answer), 12);
    }

    #[test]
    fn a_handshake_of_any_peer_counts_once_it_has_a_time() {
        let never = "public_key=aa\nlast_handshake_time_sec=0\nlast_handshake_time_nsec=0\n";
        assert!(!has_handshake(never));
        let once = format!("{never}public_key=bb\nlast_handshake_time_sec=1767225600\n");
        assert!(has_handshake(&once));
    }

    #[test]
    fn a_key_is_written_in_lower_case_with_leading_zeros() {
        let mut key = [0; 32];
        key[31] = 0xAB;
        assert_eq!(hex(&key), format!("{}ab", "00".repeat(31)));
    }
}
