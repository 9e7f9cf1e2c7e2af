//! nftables over netlink: transactions, dumps and the generation counter.
//!
//! The kernel does the work and queues its answers within the system call that asks, so nothing
//! here waits.

use std::io;

use netlink_packet_netfilter::nftables::{GenMessage, NfTablesMessage};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use rtnetlink::packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST,
    NetlinkBuffer, NetlinkMessage, Nla as _, NlasIterator, Parseable as _,
};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use rustix::io::Errno;

/// The subsystem number of nftables, which the head of a batch names
/// (`linux/netfilter/nfnetlink.h`).
const SUBSYSTEM_NFTABLES: u16 = 10;

/// `NLMSG_ERROR` and `NLMSG_DONE` (`linux/netlink.h`).
const MESSAGE_ERROR: u16 = 2;
const MESSAGE_DONE: u16 = 3;

/// `NFTA_GEN_ID` (`linux/netfilter/nf_tables.h`).
const GENERATION_ID: u16 = 1;

/// Length of `struct nfgenmsg`, which precedes the attributes.
const NETFILTER_HEADER_LENGTH: usize = 4;

/// Messages to a netlink socket are aligned to this many bytes.
const ALIGNMENT: usize = 4;

/// A transaction is one datagram; a table for 5,000 host-network peers takes under 2 MiB.
const SEND_BUFFER: usize = 8 << 20;

/// A dump that the rule set changed under is repeated this often before it is an error.
const DUMP_ATTEMPTS: usize = 5;

/// One message of a dump.
#[derive(Debug)]
pub(super) struct Dumped {
    /// The family of its table.
    pub(super) family: NetfilterProtoFamily,
    /// The attributes of the object.
    pub(super) attributes: Vec<DefaultNla>,
}

/// How a dump ended.
enum Dump {
    Whole,
    /// The rule set changed under it.
    Interrupted,
    /// No more was wanted.
    Left,
}

/// A netfilter netlink socket.
pub(super) struct Nftables {
    socket: Socket,
    sequence: u32,
}

impl Nftables {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        // Refused without NET_ADMIN, and then so is what is sent.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size_force(&socket, SEND_BUFFER);
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Carries out all messages, or none.
    pub(super) fn transaction(&mut self, messages: Vec<NfTablesMessage>) -> io::Result<()> {
        let last = messages.len();
        let control = |message| NetfilterMessageInner::None(message);
        let inner = std::iter::once(control(ControlMessage::BatchBegin))
            .chain(messages.into_iter().map(NetfilterMessageInner::NfTables))
            .chain(std::iter::once(control(ControlMessage::BatchEnd)));
        let mut batch = Vec::new();
        let mut acknowledged = 0;
        for (position, inner) in inner.enumerate() {
            let mut flags = NLM_F_REQUEST;
            let (family, resource) = if let NetfilterMessageInner::NfTables(_) = &inner {
                flags |= NLM_F_CREATE | NLM_F_APPEND;
                (NetfilterProtoFamily::Inet, 0)
            } else {
                (NetfilterProtoFamily::Unspec, SUBSYSTEM_NFTABLES)
            };
            // Errors come for every message, the acknowledgement for this one.
            if position == last {
                flags |= NLM_F_ACK;
                acknowledged = self.sequence + 1;
            }
            let message = NetfilterMessage::new(NetfilterHeader::new(family, 0, resource), inner);
            self.append(&mut batch, message, flags);
        }
        self.socket.send(&batch, 0)?;
        self.acknowledgement(acknowledged)
    }

    fn acknowledgement(&self, sequence: u32) -> io::Result<()> {
        loop {
            for message in self.receive()?.iter() {
                if message.kind == MESSAGE_ERROR {
                    error(&message.payload)?;
                    if message.sequence == sequence {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Asks for one object; `None` if there is none.
    pub(super) fn get(&mut self, message: NfTablesMessage) -> io::Result<Option<Dumped>> {
        self.request(NetfilterProtoFamily::Inet, message, 0)?;
        match self.receive()?.into_iter().next() {
            Some(message) if message.kind == MESSAGE_ERROR => match error(&message.payload) {
                Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => Ok(None),
                Err(error) => Err(error),
                Ok(()) => Ok(None),
            },
            Some(message) => message.dumped().map(Some),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Asks for all objects of a kind in the family of our table.
    pub(super) fn dump(&mut self, message: &NfTablesMessage) -> io::Result<Vec<Dumped>> {
        let family = NetfilterProtoFamily::Inet;
        let all = self.dump_bounded(family, message, usize::MAX, |dumped| Ok((1, Some(dumped))))?;
        all.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Asks for all objects of a kind in one family, or in all of them (unspecified). `take` tells
    /// how much each message is and what is kept of it. None where all that comes is more than
    /// `most`: the rest is not received.
    pub(super) fn dump_bounded<T>(
        &mut self,
        family: NetfilterProtoFamily,
        message: &NfTablesMessage,
        most: usize,
        mut take: impl FnMut(Dumped) -> io::Result<(usize, Option<T>)>,
    ) -> io::Result<Option<Vec<T>>> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut left = most;
            let mut kept = Vec::new();
            let dump = self.dump_once(family, message.clone(), |dumped| {
                let (size, part) = take(dumped)?;
                let rest = left.checked_sub(size);
                left = rest.unwrap_or(0);
                kept.extend(part);
                Ok(rest.is_some())
            })?;
            match dump {
                Dump::Whole => return Ok(Some(kept)),
                Dump::Left => {
                    // The kernel takes no other question until it has sent all answers to this one.
                    *self = Self::open()?;
                    return Ok(None);
                }
                Dump::Interrupted => {}
            }
        }
        Err(Errno::AGAIN.into())
    }

    /// Dumps until `take` wants no more.
    fn dump_once(
        &mut self,
        family: NetfilterProtoFamily,
        message: NfTablesMessage,
        mut take: impl FnMut(Dumped) -> io::Result<bool>,
    ) -> io::Result<Dump> {
        self.request(family, message, NLM_F_DUMP)?;
        let mut end = Dump::Whole;
        loop {
            for message in self.receive()? {
                if message.flags & NLM_F_DUMP_INTR != 0 {
                    end = Dump::Interrupted;
                }
                match message.kind {
                    MESSAGE_ERROR => error(&message.payload)?,
                    MESSAGE_DONE => {
                        error(&message.payload)?;
                        return Ok(end);
                    }
                    _ if take(message.dumped()?)? => {}
                    _ => return Ok(Dump::Left),
                }
            }
        }
    }

    /// The number that every change of any table raises.
    pub(super) fn generation(&mut self) -> io::Result<u32> {
        let message = NfTablesMessage::GetGen(GenMessage {
            attributes: Vec::new(),
        });
        let dumped = self.get(message)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let id = dumped
            .value(GENERATION_ID)
            .and_then(|bytes| bytes.try_into().ok());
        id.map(u32::from_be_bytes)
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn request(
        &mut self,
        family: NetfilterProtoFamily,
        message: NfTablesMessage,
        flags: u16,
    ) -> io::Result<()> {
        let header = NetfilterHeader::new(family, 0, 0);
        let mut buffer = Vec::new();
        self.append(
            &mut buffer,
            NetfilterMessage::new(header, message),
            NLM_F_REQUEST | flags,
        );
        self.socket.send(&buffer, 0).map(|_| ())
    }

    fn append(&mut self, buffer: &mut Vec<u8>, message: NetfilterMessage, flags: u16) {
        self.sequence += 1;
        let mut message = NetlinkMessage::from(message);
        message.header.flags = flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let start = buffer.len();
        buffer.resize(start + message.buffer_len().next_multiple_of(ALIGNMENT), 0);
        message.serialize(&mut buffer[start..]);
    }

    fn receive(&self) -> io::Result<Vec<Raw>> {
        let (datagram, _) = self.socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        let mut messages = Vec::new();
        while !rest.is_empty() {
            let message = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?;
            messages.push(Raw {
                kind: message.message_type(),
                flags: message.flags(),
                sequence: message.sequence_number(),
                payload: message.payload().to_vec(),
            });
            let length = usize::try_from(message.length()).map_err(io::Error::other)?;
            rest = rest
                .get(length.next_multiple_of(ALIGNMENT)..)
                .unwrap_or_default();
        }
        Ok(messages)
    }
}

/// A netlink message, not looked into: what is compared is what the kernel said, also where a
/// parser would know less.
struct Raw {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: Vec<u8>,
}

impl Raw {
    fn dumped(&self) -> io::Result<Dumped> {
        let attributes = self
            .payload
            .get(NETFILTER_HEADER_LENGTH..)
            .unwrap_or_default();
        let family = self.payload.first().copied().unwrap_or_default();
        Ok(Dumped {
            family: family.into(),
            attributes: attributes_in(attributes)?,
        })
    }
}

impl Dumped {
    /// The value of an attribute.
    pub(super) fn value(&self, kind: u16) -> Option<Vec<u8>> {
        self.attributes
            .iter()
            .find(|attribute| attribute.kind() == kind)
            .map(value)
    }
}

/// The attributes that a message or another attribute consists of.
pub(super) fn attributes_in(bytes: &[u8]) -> io::Result<Vec<DefaultNla>> {
    NlasIterator::new(bytes)
        .map(|attribute| attribute.and_then(|attribute| DefaultNla::parse(&attribute)))
        .collect::<Result<_, _>>()
        .map_err(io::Error::other)
}

/// The bytes of an attribute.
pub(super) fn value(attribute: &DefaultNla) -> Vec<u8> {
    let mut bytes = vec![0; attribute.value_len()];
    attribute.emit_value(&mut bytes);
    bytes
}

/// The error number at the start of an acknowledgement or of the end of a dump.
fn error(payload: &[u8]) -> io::Result<()> {
    let code = payload
        .first_chunk()
        .map_or(0, |code| i32::from_ne_bytes(*code));
    if code < 0 {
        Err(io::Error::from_raw_os_error(-code))
    } else {
        Ok(())
    }
}
