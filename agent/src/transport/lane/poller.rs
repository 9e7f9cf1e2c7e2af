//! What a lane waits for.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

use crate::transport::udp::Family;

/// Something that a lane can wait for. At most one descriptor of each is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The control plane's bell.
    Bell,
    /// The TUN queue.
    Tun,
    /// The lane's own socket of a family.
    Udp(Family),
}

const SOURCES: usize = 4;

impl Source {
    fn position(self) -> usize {
        match self {
            Self::Bell => 0,
            Self::Tun => 1,
            Self::Udp(Family::V4) => 2,
            Self::Udp(Family::V6) => 3,
        }
    }
}

/// The sources that have something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ready([bool; SOURCES]);

impl Ready {
    pub(super) fn has(self, source: Source) -> bool {
        self.0[source.position()]
    }
}

/// Level-triggered epoll over the sources of a lane.
#[derive(Debug)]
pub(super) struct Poller {
    epoll: OwnedFd,
    watched: [EventFlags; SOURCES],
}

impl Poller {
    pub(super) fn new() -> Result<Self, Errno> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        Ok(Self {
            epoll,
            watched: [EventFlags::empty(); SOURCES],
        })
    }

    /// Watches a source for these events and no others. Free when it already does.
    pub(super) fn watch(
        &mut self,
        source: Source,
        file: BorrowedFd<'_>,
        wanted: EventFlags,
    ) -> Result<(), Errno> {
        let position = source.position();
        if self.watched[position] == wanted {
            return Ok(());
        }
        let data = EventData::new_u64(position as u64);
        match epoll::modify(&self.epoll, file, data, wanted) {
            Err(Errno::NOENT) => epoll::add(&self.epoll, file, data, wanted)?,
            done => done?,
        }
        self.watched[position] = wanted;
        Ok(())
    }

    /// The source's descriptor was closed, at which the kernel forgets it.
    pub(super) fn forget(&mut self, source: Source) {
        self.watched[source.position()] = EventFlags::empty();
    }

    /// Waits until a source has something, or for `timeout`, rounded up to milliseconds.
    pub(super) fn wait(&self, timeout: Duration) -> Result<Ready, Errno> {
        // Longer than the kernel can count is as good as for ever.
        let timeout = Timespec::try_from(timeout).ok();
        let nothing = Event {
            flags: EventFlags::empty(),
            data: EventData::new_u64(0),
        };
        let mut events = [nothing; SOURCES];
        let count = match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
            // A signal, or a debugger: the caller looks at its clock and waits again.
            Err(Errno::INTR) => 0,
            count => count?,
        };
        let mut ready = Ready::default();
        for event in &events[..count] {
            let source = usize::try_from(event.data.u64()).ok();
            if let Some(flag) = source.and_then(|position| ready.0.get_mut(position)) {
                *flag = true;
            }
        }
        Ok(ready)
    }
}
