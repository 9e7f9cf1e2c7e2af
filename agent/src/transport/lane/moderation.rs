//! When a lane pauses between two rounds, so that many small packets are few batches.
//!
//! A lane that wakes for each packet keeps pace with them one by one, and each costs a train of its
//! own on both nodes, three times the work of a packet in a full one. Network cards have the same
//! choice to make for their interrupts, and moderate them while the rate is high. Who waits for
//! answers would send less for each pause, and shows itself: answers come. So only what is sent
//! without any to speak of is gathered.

use std::time::{Duration, Instant};

/// Less than a busy node's scheduler takes, and enough for a dozen packets at the rates where a
/// packet's cost matters.
const PAUSE: Duration = Duration::from_micros(200);

/// Time by which the next one is judged: dozens of rounds, and longer than a thread that others
/// hold up is away.
const WINDOW: Duration = Duration::from_millis(10);

/// Packets of one pause below which there is nothing to wait for: 20,000 a second.
const GATHERED_MIN: u32 = 4;

/// Packets that are a batch, half of the longest train. With so many there is no pause.
const BATCH: u32 = 32;

/// Packets to each answer above which nobody waits for answers. TCP acknowledges each second
/// segment, QUIC at the latest about each tenth packet.
const PACKETS_OF_AN_ANSWER: u32 = 16;

/// What one round has done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    /// Packets of pods that were read.
    pub(super) packets: u32,
    /// Packets for pods that were written, joined ones as one.
    pub(super) answers: u32,
    /// Whether something is left that can be done at once.
    pub(super) has_more: bool,
}

/// The pauses of one lane.
#[derive(Clone, Debug)]
pub(super) struct Moderation {
    gathers: bool,
    start: Instant,
    packets: u32,
    answers: u32,
}

impl Moderation {
    /// Of a lane that has been silent.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            gathers: false,
            start: now,
            packets: 0,
            answers: 0,
        }
    }

    /// How long to pause after a round that began at `now`; none for not at all.
    pub(super) fn after_round(&mut self, now: Instant, round: Round) -> Option<Duration> {
        self.packets = self.packets.saturating_add(round.packets);
        self.answers = self.answers.saturating_add(round.answers);
        let elapsed = now.saturating_duration_since(self.start);
        if elapsed >= WINDOW {
            let is_fast = PAUSE.saturating_mul(self.packets) >= elapsed * GATHERED_MIN;
            let is_answered = self.answers.saturating_mul(PACKETS_OF_AN_ANSWER) > self.packets;
            self.gathers = is_fast && !is_answered;
            (self.start, self.packets, self.answers) = (now, 0, 0);
        }
        let is_partial = (1..BATCH).contains(&round.packets);
        (self.gathers && is_partial && !round.has_more).then_some(PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a round costs beside what its packets cost.
    const ROUND: Duration = Duration::from_micros(10);

    const LONG: Duration = Duration::from_secs(1);

    /// What came of rounds.
    #[derive(Debug, Default, PartialEq, Eq)]
    struct Came {
        packets: u32,
        /// Rounds that had one.
        rounds: u32,
        pauses: u32,
    }

    /// Runs rounds for so long, each with the packets and answers that came since the one before.
    fn run(
        moderation: &mut Moderation,
        start: Instant,
        duration: Duration,
        mut coming: impl FnMut(Duration) -> (u32, u32),
    ) -> Came {
        let (mut now, mut came, mut since) = (start, Came::default(), ROUND);
        while now < start + duration {
            let (packets, answers) = coming(since);
            let round = Round {
                packets,
                answers,
                has_more: false,
            };
            let pause = moderation.after_round(now, round);
            came.packets += packets;
            came.rounds += u32::from(packets > 0);
            came.pauses += u32::from(pause.is_some());
            since = ROUND + pause.unwrap_or_default();
            now += since;
        }
        came
    }

    /// So many packets in ten milliseconds, whatever becomes of them, and no answer.
    fn flood(rate: u32) -> impl FnMut(Duration) -> (u32, u32) {
        let mut due = Duration::ZERO;
        move |since| {
            due += since * rate;
            let packets = u32::try_from(due.as_millis() / 10).expect("few");
            due -= Duration::from_millis(10) * packets;
            (packets, 0)
        }
    }

    /// So many connections, each of which asks again when its answer has come.
    fn closed_loop(round_trips: &[u64]) -> impl FnMut(Duration) -> (u32, u32) {
        let round_trips: Vec<_> = round_trips
            .iter()
            .copied()
            .map(Duration::from_micros)
            .collect();
        let mut waiting = round_trips.clone();
        move |since| {
            let mut packets = 0;
            for (left, round_trip) in waiting.iter_mut().zip(&round_trips) {
                *left = left.saturating_sub(since);
                if left.is_zero() {
                    packets += 1;
                    *left = *round_trip;
                }
            }
            (packets, packets)
        }
    }

    #[test]
    fn many_small_packets_without_answers_are_gathered() {
        let start = Instant::now();
        for rate in [300, 1_000, 1_400] {
            let came = run(&mut Moderation::new(start), start, LONG, flood(rate));
            let gathered = came.packets / came.rounds;
            let of_a_pause = rate * 2 / 100;
            assert!(gathered * 10 >= of_a_pause * 8, "{rate}: {came:?}");
        }
    }

    #[test]
    fn few_packets_never_wait() {
        let start = Instant::now();
        let came = run(&mut Moderation::new(start), start, LONG, flood(190));
        assert_eq!(came.pauses, 0);
    }

    #[test]
    fn full_batches_never_wait() {
        let start = Instant::now();
        let came = run(&mut Moderation::new(start), start, LONG, flood(50_000));
        assert!(came.packets >= BATCH * came.rounds);
        assert_eq!(came.pauses, 0);
    }

    #[test]
    fn a_full_batch_does_not_wait_where_others_do() {
        let (mut moderation, now) = flooded();
        let round = |packets, has_more| Round {
            packets,
            answers: 0,
            has_more,
        };
        let now = now + ROUND;
        assert_eq!(moderation.after_round(now, round(5, false)), Some(PAUSE));
        assert_eq!(moderation.after_round(now, round(BATCH, false)), None);
        assert_eq!(moderation.after_round(now, round(5, true)), None);
        assert_eq!(moderation.after_round(now, round(0, false)), None);
    }

    #[test]
    fn who_waits_for_answers_never_waits_for_a_pause() {
        let start = Instant::now();
        let long: Vec<u64> = (0..64).map(|number| 250 + 7 * number).collect();
        for round_trips in [&[40, 58, 61, 77, 94, 111, 127, 139][..], &long] {
            let came = run(
                &mut Moderation::new(start),
                start,
                LONG,
                closed_loop(round_trips),
            );
            assert!(came.packets > 60_000, "it is fast: {came:?}");
            assert_eq!(came.pauses, 0);
        }
    }

    #[test]
    fn who_waits_for_answers_beside_a_flood_never_waits_for_a_pause() {
        let start = Instant::now();
        let (mut flood, mut loops) = (flood(400), closed_loop(&[150, 310]));
        let both = |since| {
            let ((packets, _), (asked, answers)) = (flood(since), loops(since));
            (packets + asked, answers)
        };
        let came = run(&mut Moderation::new(start), start, LONG, both);
        assert_eq!(came.pauses, 0);
    }

    /// One that gathers, at the end of a window.
    fn flooded() -> (Moderation, Instant) {
        let start = Instant::now();
        let mut moderation = Moderation::new(start);
        run(&mut moderation, start, LONG, flood(1_000));
        assert!(moderation.gathers);
        (moderation, start + LONG)
    }

    #[test]
    fn who_waits_for_answers_after_a_flood_waits_for_two_windows_at_most() {
        let (mut moderation, now) = flooded();
        run(&mut moderation, now, 2 * WINDOW, closed_loop(&[100; 8]));
        let came = run(
            &mut moderation,
            now + 2 * WINDOW + PAUSE,
            LONG,
            closed_loop(&[100; 8]),
        );
        assert_eq!(came.pauses, 0);
    }

    #[test]
    fn the_first_packet_after_a_flood_does_not_wait() {
        let (mut moderation, now) = flooded();
        let round = Round {
            packets: 1,
            answers: 0,
            has_more: false,
        };
        assert_eq!(moderation.after_round(now + 6 * WINDOW, round), None);
    }
}
