//! The kernel's packet ring (`TPACKET_V3`, packet(7)): frames without a copy or a call each.
//!
//! A plain packet socket would do, but its buffer is bounded by `net.core.rmem_max`, which a user
//! namespace cannot change, and a few super-frames fill that.

use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use socket2::{Domain, SockFilter, Socket, Type};

use crate::interface::{length_of, link_address, set_packet_option};

/// A block holds fifteen super-frames of 64 KiB; one frame never crosses blocks.
const BLOCK_BYTES: u32 = 1 << 20;

/// 64 MiB: what two busy cores send encrypted in a tenth of a second. Unencrypted bulk needs
/// [`Control::take_whole_frames`] to be false.
const BLOCKS: u32 = 64;

/// The kernel wants a frame size that divides the block, and ignores it otherwise.
const FRAME_BYTES: u32 = 2048;

/// A block that is not full is handed over after this, so that a report is never far behind.
const RETIRE_AFTER_MILLIS: u32 = 5;

/// All of a frame: more than any has.
const WHOLE_FRAME: u32 = 0x0004_0000;

/// Ethernet, VLAN, two IP headers and a message's type: what counting needs.
const HEADERS_ONLY: u32 = 256;

/// A frame in the ring.
#[derive(Debug)]
pub(super) struct Captured<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) wire_bytes: usize,
    /// Since the epoch, by the kernel's clock.
    pub(super) time: Duration,
}

/// A packet socket that sees what enters any interface of its namespace.
#[derive(Debug)]
pub(super) struct Ring {
    socket: Socket,
    memory: *mut u8,
    next_block: u32,
}

#[expect(unsafe_code, reason = "a raw pointer is not Send by itself")]
// SAFETY: the mapping belongs to this value alone and is not tied to a thread.
unsafe impl Send for Ring {}

impl Ring {
    /// Opens it in the calling thread's namespace. Frames that come in by an interface in
    /// `excluded` are left out.
    pub(super) fn open(excluded: &[u32]) -> io::Result<Self> {
        // Protocol 0: nothing arrives until the ring and the filter are there.
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        socket.attach_filter(&filter(excluded, WHOLE_FRAME))?;
        let version: libc::c_uint = libc::tpacket_versions::TPACKET_V3 as libc::c_uint;
        set_packet_option(&socket, libc::PACKET_VERSION, &version)?;
        let request = libc::tpacket_req3 {
            tp_block_size: BLOCK_BYTES,
            tp_block_nr: BLOCKS,
            tp_frame_size: FRAME_BYTES,
            tp_frame_nr: BLOCK_BYTES / FRAME_BYTES * BLOCKS,
            tp_retire_blk_tov: RETIRE_AFTER_MILLIS,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        set_packet_option(&socket, libc::PACKET_RX_RING, &request)?;
        let ignore: libc::c_int = 1;
        set_packet_option(&socket, libc::PACKET_IGNORE_OUTGOING, &ignore)?;
        let memory = map(&socket)?;
        let ring = Self {
            socket,
            memory,
            next_block: 0,
        };
        ring.socket.bind(&link_address(libc::ETH_P_ALL, 0))?;
        Ok(ring)
    }

    /// A second handle to the socket, for its statistics and its filter.
    pub(super) fn control(&self) -> io::Result<Control> {
        Ok(Control {
            socket: self.socket.try_clone()?,
        })
    }

    /// Waits until a block is ready or `deadline` has passed.
    pub(super) fn wait(&self, deadline: Duration) -> io::Result<()> {
        let timeout = Timespec::try_from(deadline).ok();
        let mut ready = [PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN)];
        match poll(&mut ready, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Shows every frame of the next block to `visit` and gives the block back. False when the
    /// kernel still has it.
    #[expect(unsafe_code, reason = "the ring is memory that the kernel writes")]
    pub(super) fn visit_block(&mut self, mut visit: impl FnMut(Captured<'_>)) -> bool {
        let offset = self.next_block as usize * BLOCK_BYTES as usize;
        let status_offset = offset_of!(libc::tpacket_block_desc, hdr)
            + offset_of!(libc::tpacket_hdr_v1, block_status);
        // SAFETY: the block lies inside the mapping, which lives as long as `self`; the status
        // word is aligned and shared with the kernel by atomic access only.
        let (block, status) = unsafe {
            let block = self.memory.add(offset);
            (block, AtomicU32::from_ptr(block.add(status_offset).cast()))
        };
        if status.load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
            return false;
        }
        // SAFETY: with TP_STATUS_USER set the kernel leaves the block alone until the status is
        // written; it lies within BLOCK_BYTES of initialised memory.
        let bytes = unsafe { std::slice::from_raw_parts(block, BLOCK_BYTES as usize) };
        visit_frames(bytes, &mut visit);
        status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.next_block = (self.next_block + 1) % BLOCKS;
        true
    }
}

impl Drop for Ring {
    #[expect(unsafe_code, reason = "the mapping is ours to end")]
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length; no reference into it outlives a visit.
        let _ = unsafe { munmap(self.memory.cast(), (BLOCK_BYTES * BLOCKS) as usize) };
    }
}

/// The socket's knobs, usable while another thread drains the ring.
#[derive(Debug)]
pub(super) struct Control {
    socket: Socket,
}

impl Control {
    /// Frames lost since the last call, for want of room.
    #[expect(unsafe_code, reason = "socket2 and rustix do not know this option")]
    pub(super) fn take_lost(&self) -> io::Result<u64> {
        let mut statistics = libc::tpacket_stats_v3 {
            tp_packets: 0,
            tp_drops: 0,
            tp_freeze_q_cnt: 0,
        };
        let mut length = length_of(&statistics);
        // SAFETY: the pointers are to live values of the length that is given.
        let outcome = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                ptr::from_mut(&mut statistics).cast(),
                &raw mut length,
            )
        };
        if outcome != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(u64::from(statistics.tp_drops))
    }

    /// Hears every frame, or none: protocol 0 takes the socket out of the kernel's way.
    pub(super) fn listen(&self, listens: bool) -> io::Result<()> {
        let protocol = if listens { libc::ETH_P_ALL } else { 0 };
        self.socket.bind(&link_address(protocol, 0))
    }

    /// Takes whole frames, or their headers only.
    pub(super) fn take_whole_frames(&self, whole: bool, excluded: &[u32]) -> io::Result<()> {
        let bytes = if whole { WHOLE_FRAME } else { HEADERS_ONLY };
        self.socket.attach_filter(&filter(excluded, bytes))
    }
}

/// Walks the packet headers of a block that the kernel handed over.
fn visit_frames(block: &[u8], visit: &mut impl FnMut(Captured<'_>)) {
    let header = offset_of!(libc::tpacket_block_desc, hdr);
    let field = |offset| u32_at(block, header + offset);
    let packets = field(offset_of!(libc::tpacket_hdr_v1, num_pkts));
    let mut offset = field(offset_of!(libc::tpacket_hdr_v1, offset_to_first_pkt)) as usize;
    for _ in 0..packets {
        let packet = &block[offset..];
        let field = |at| u32_at(packet, at);
        let start = offset_of!(libc::tpacket3_hdr, tp_mac);
        let start = usize::from(u16::from_ne_bytes([packet[start], packet[start + 1]]));
        let length = field(offset_of!(libc::tpacket3_hdr, tp_snaplen)) as usize;
        let seconds = field(offset_of!(libc::tpacket3_hdr, tp_sec));
        let nanoseconds = field(offset_of!(libc::tpacket3_hdr, tp_nsec));
        visit(Captured {
            bytes: &packet[start..start + length],
            wire_bytes: field(offset_of!(libc::tpacket3_hdr, tp_len)) as usize,
            time: Duration::new(u64::from(seconds), nanoseconds),
        });
        offset += field(offset_of!(libc::tpacket3_hdr, tp_next_offset)) as usize;
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let word = bytes[offset..offset + 4]
        .try_into()
        .expect("the range has four bytes");
    u32::from_ne_bytes(word)
}

/// A classic BPF program: nothing from the excluded interfaces, `bytes` of every other frame.
fn filter(excluded: &[u32], bytes: u32) -> Vec<SockFilter> {
    /// Load a word, here one of the kernel's ancillary values.
    const LOAD: u16 = 0x20;
    /// Jump if equal.
    const JUMP_EQUAL: u16 = 0x15;
    /// Return a constant.
    const RETURN: u16 = 0x06;
    let ancillary = (libc::SKF_AD_OFF + libc::SKF_AD_IFINDEX).cast_unsigned();
    let mut program = vec![SockFilter::new(LOAD, 0, 0, ancillary)];
    for (index, interface) in excluded.iter().enumerate() {
        let to_drop = u8::try_from(excluded.len() - index).expect("a router has few bridges");
        program.push(SockFilter::new(JUMP_EQUAL, to_drop, 0, *interface));
    }
    program.push(SockFilter::new(RETURN, 0, 0, bytes));
    program.push(SockFilter::new(RETURN, 0, 0, 0));
    program
}

#[expect(
    unsafe_code,
    reason = "rustix has mmap, whose result is memory shared with the kernel"
)]
fn map(socket: &Socket) -> io::Result<*mut u8> {
    // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
    let memory = unsafe {
        mmap(
            ptr::null_mut(),
            (BLOCK_BYTES * BLOCKS) as usize,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED,
            socket,
            0,
        )
    }?;
    Ok(memory.cast())
}
