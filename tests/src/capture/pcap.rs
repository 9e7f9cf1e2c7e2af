//! Writing captured frames for tcpdump and Wireshark: the classic pcap format, nanoseconds.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;
use std::time::Duration;

/// Says "nanoseconds, in this machine's byte order".
const MAGIC: u32 = 0xa1b2_3c4d;
const VERSION: [u16; 2] = [2, 4];
const LINK_TYPE_ETHERNET: u32 = 1;
/// What readers may expect at most of one frame.
const FRAME_BYTES_MAX: u32 = 0x0004_0000;

/// A file that frames are appended to.
#[derive(Debug)]
pub(super) struct Pcap {
    file: BufWriter<File>,
}

impl Pcap {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let mut file = BufWriter::new(File::create(path)?);
        file.write_all(&MAGIC.to_ne_bytes())?;
        for number in VERSION {
            file.write_all(&number.to_ne_bytes())?;
        }
        for word in [0, 0, FRAME_BYTES_MAX, LINK_TYPE_ETHERNET] {
            file.write_all(&word.to_ne_bytes())?;
        }
        Ok(Self { file })
    }

    pub(super) fn write(
        &mut self,
        time: Duration,
        bytes: &[u8],
        wire_bytes: usize,
    ) -> io::Result<()> {
        let words = [
            u32::try_from(time.as_secs()).unwrap_or(u32::MAX),
            time.subsec_nanos(),
            u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            u32::try_from(wire_bytes).unwrap_or(u32::MAX),
        ];
        for word in words {
            self.file.write_all(&word.to_ne_bytes())?;
        }
        self.file.write_all(bytes)
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
