//! How long a lane pauses between two rounds, so that many small packets are few batches.
//!
//! A lane that wakes for each packet keeps pace with them one by one, and each costs a train of its
//! own on both nodes, three times the work of a packet in a full one. Network cards have the same
//! choice to make for their interrupts, and this is their answer, dynamic interrupt moderation
//! (Linux, `net_dim`): try a longer pause, and keep it unless fewer packets come. Who only sends
//! when an answer came (a closed loop) sends less for each pause, and is not made to wait; who
//! sends anyway loses no more than the pause.

use std::time::{Duration, Instant};

/// The pauses, by level. The longest is a small part of what a busy node's scheduler takes.
const PAUSES: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_micros(200),
];
const LEVEL_MAX: usize = PAUSES.len() - 1;

/// Time over which a level is judged: dozens of rounds.
const WINDOW: Duration = Duration::from_millis(10);

/// A window that took so much longer was one of silence.
const SILENCE: Duration = Duration::from_millis(50);

/// Packets a second below which a lane does not pause: there is nothing to wait for.
const RATE_MIN: f64 = 20_000.0;

/// Packets that are a batch: half of the longest train. With so many there is no pause.
const BATCH: usize = 32;

/// Datagrams for each packet above which a lane mostly receives: others wait for what it sends.
const RECEIVED_MAX: usize = 2;

/// A rate that differs by this share is another one: on a busy node they differ anyway.
const DIFFERENCE: f64 = 0.2;

/// Share of a window in the average of rates.
const WEIGHT: f64 = 0.25;

/// Windows before the next level is tried: a try that fails costs one of so many.
const PATIENCE: u32 = 20;

/// What is being tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trial {
    /// The next longer pause.
    Longer,
    /// No pause, in place of that of this level. One step would tell nothing: a loop's round trip
    /// is a whole number of pauses.
    Without { level: usize },
}

/// The pauses of one lane.
#[derive(Clone, Debug)]
pub(super) struct Moderation {
    level: usize,
    trial: Option<Trial>,
    /// Windows until something is tried.
    patience: u32,
    /// Whether the next trial is one without a pause.
    without_next: bool,
    /// Packets a second, averaged over the windows that were no trials; none after a silence.
    rate: Option<f64>,
    start: Instant,
    packets: usize,
    datagrams: usize,
    rounds: usize,
}

impl Moderation {
    /// Of a lane that has been silent.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            level: 0,
            trial: None,
            patience: 0,
            without_next: false,
            rate: None,
            start: now,
            packets: 0,
            datagrams: 0,
            rounds: 0,
        }
    }

    /// How long to pause after a round that began at `now` and handled so many packets of the pods,
    /// and so many datagrams of peers.
    pub(super) fn after_round(
        &mut self,
        now: Instant,
        packets: usize,
        datagrams: usize,
    ) -> Duration {
        self.datagrams += datagrams;
        if packets == 0 {
            return Duration::ZERO;
        }
        self.packets += packets;
        self.rounds += 1;
        let elapsed = now.saturating_duration_since(self.start);
        if elapsed >= WINDOW {
            self.judge(elapsed);
            self.start = now;
            (self.packets, self.datagrams, self.rounds) = (0, 0, 0);
        }
        if packets < BATCH {
            PAUSES[self.level]
        } else {
            Duration::ZERO
        }
    }

    /// Sets the next window's level.
    fn judge(&mut self, elapsed: Duration) {
        #[expect(clippy::cast_precision_loss, reason = "packets of milliseconds")]
        let rate = self.packets as f64 / elapsed.as_secs_f64();
        // The packets of a lane that mostly receives are acknowledgements.
        let mostly_receives = self.datagrams > RECEIVED_MAX * self.packets;
        if elapsed >= SILENCE || rate < RATE_MIN || mostly_receives {
            (self.level, self.trial, self.patience, self.rate) = (0, None, 0, None);
            return;
        }
        let usual = self.rate.unwrap_or(rate);
        let is_less = rate < usual * (1.0 - DIFFERENCE);
        let is_more = rate > usual * (1.0 + DIFFERENCE);
        match self.trial.take() {
            Some(Trial::Longer) if is_less => self.level -= 1,
            Some(Trial::Without { level }) if !is_more => self.level = level,
            trial => {
                self.rate = Some(usual + WEIGHT * (rate - usual));
                match trial {
                    // What went well is tried again.
                    Some(Trial::Longer) => return self.try_longer(),
                    Some(Trial::Without { .. }) => {}
                    None if self.patience > 0 => {
                        self.patience -= 1;
                        return;
                    }
                    None if self.without_next && self.level > 0 => return self.try_without(),
                    None => return self.try_longer(),
                }
            }
        }
        self.patience = PATIENCE;
    }

    fn try_longer(&mut self) {
        self.without_next = true;
        let is_full = self.packets >= BATCH * self.rounds;
        if is_full || self.level == LEVEL_MAX {
            self.patience = PATIENCE;
        } else {
            self.trial = Some(Trial::Longer);
            self.level += 1;
        }
    }

    fn try_without(&mut self) {
        self.without_next = false;
        self.trial = Some(Trial::Without { level: self.level });
        self.level = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a round costs beside what its packets cost.
    const ROUND: Duration = Duration::from_micros(10);

    /// What came of rounds.
    #[derive(Debug, Default)]
    struct Came {
        packets: usize,
        /// Rounds that had one.
        rounds: usize,
        longest: Duration,
    }

    /// Runs rounds for so long, each with the packets that came since the one before.
    fn run(
        start: Instant,
        duration: Duration,
        mut coming: impl FnMut(Duration) -> usize,
        mut after_round: impl FnMut(Instant, usize) -> Duration,
    ) -> Came {
        let (mut now, mut came, mut since) = (start, Came::default(), ROUND);
        while now < start + duration {
            let packets = coming(since);
            let pause = after_round(now, packets);
            came.packets += packets;
            came.rounds += usize::from(packets > 0);
            came.longest = came.longest.max(pause);
            since = ROUND + pause;
            now += since;
        }
        came
    }

    fn run_moderated(
        moderation: &mut Moderation,
        start: Instant,
        duration: Duration,
        coming: impl FnMut(Duration) -> usize,
    ) -> Came {
        run(start, duration, coming, |now, packets| {
            moderation.after_round(now, packets, 0)
        })
    }

    /// So many packets a second, whatever becomes of them.
    fn flood(rate: f64) -> impl FnMut(Duration) -> usize {
        let mut due = 0.0;
        move |since| {
            due += since.as_secs_f64() * rate;
            let packets = f64::floor(due);
            due -= packets;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "few"
            )]
            let packets = packets as usize;
            packets
        }
    }

    /// Connections, each of which asks again a round trip after its packet was handled.
    fn closed_loop() -> impl FnMut(Duration) -> usize {
        const ROUND_TRIPS: [u64; 16] = [
            40, 47, 52, 58, 61, 66, 71, 77, 83, 88, 94, 101, 111, 118, 127, 139,
        ];
        let mut waiting = ROUND_TRIPS.map(Duration::from_micros);
        move |since| {
            let mut packets = 0;
            for (left, round_trip) in waiting.iter_mut().zip(ROUND_TRIPS) {
                *left = left.saturating_sub(since);
                if left.is_zero() {
                    packets += 1;
                    *left = Duration::from_micros(round_trip);
                }
            }
            packets
        }
    }

    const LONG: Duration = Duration::from_secs(2);

    #[test]
    fn many_small_packets_that_come_anyway_are_gathered() {
        let start = Instant::now();
        let mut moderation = Moderation::new(start);
        let came = run_moderated(&mut moderation, start, LONG, flood(100_000.0));
        assert_eq!(came.longest, PAUSES[LEVEL_MAX]);
        assert!(came.packets > 10 * came.rounds, "{came:?}");
    }

    #[test]
    fn few_packets_never_wait() {
        let start = Instant::now();
        let mut moderation = Moderation::new(start);
        let came = run_moderated(&mut moderation, start, LONG, flood(15_000.0));
        assert_eq!(came.longest, Duration::ZERO);
    }

    #[test]
    fn a_lane_that_mostly_receives_never_waits() {
        let start = Instant::now();
        let mut moderation = Moderation::new(start);
        let came = run(start, LONG, flood(100_000.0), |now, packets| {
            moderation.after_round(now, packets, 3 * packets)
        });
        assert_eq!(came.longest, Duration::ZERO);
    }

    #[test]
    fn full_batches_never_wait() {
        let start = Instant::now();
        let mut moderation = Moderation::new(start);
        let came = run_moderated(&mut moderation, start, LONG, flood(5_000_000.0));
        assert_eq!(came.longest, Duration::ZERO);
    }

    /// Where there is an answer to wait for, pauses cost a part of a few trials, and no more.
    fn assert_hardly_slower(moderation: &mut Moderation, start: Instant) {
        let came = run_moderated(moderation, start, LONG, closed_loop());
        let without = run(start, LONG, closed_loop(), |_, _| Duration::ZERO);
        assert!(
            came.packets * 100 > without.packets * 80,
            "{came:?} of {without:?}"
        );
        assert!(came.longest > Duration::ZERO, "it was tried");
    }

    #[test]
    fn who_waits_for_answers_is_hardly_slower() {
        let start = Instant::now();
        assert_hardly_slower(&mut Moderation::new(start), start);
    }

    #[test]
    fn who_waits_for_answers_is_hardly_slower_after_a_flood_either() {
        let start = Instant::now();
        let mut moderation = Moderation::new(start);
        run_moderated(&mut moderation, start, LONG, flood(100_000.0));
        assert_ne!(moderation.level, 0, "the flood is gathered");
        assert_hardly_slower(&mut moderation, start + LONG);
    }

    #[test]
    fn the_first_packet_after_a_flood_does_not_wait() {
        let start = Instant::now();
        let mut moderation = Moderation::new(start);
        run_moderated(&mut moderation, start, LONG, flood(100_000.0));
        assert_ne!(moderation.level, 0, "the flood is gathered");
        let later = start + LONG + Duration::from_millis(60);
        assert_eq!(moderation.after_round(later, 1, 0), Duration::ZERO);
    }

    #[test]
    fn rounds_without_a_packet_neither_pause_nor_count() {
        let start = Instant::now();
        let mut moderation = Moderation::new(start);
        assert_eq!(moderation.after_round(start, 0, 0), Duration::ZERO);
        assert_eq!(moderation.rounds, 0);
    }
}
