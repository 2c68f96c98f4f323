//! The floods of each row.

use std::time::Duration;

use super::flood::Flood;
use super::rounds::{self, BOMBS, CONTROL, MADE_RESETS, request, stream};
use crate::attacks::h2spec::Target;
use crate::frames::{Frame, flag, hpack, setting};
use crate::yardstick::count;

const MIB: u64 = 1 << 10;
/// No matter how many.
const ANY: usize = usize::MAX;
/// Rounds in one write.
const BATCH: usize = 200;
/// One piece of a head without end.
const PIECE: usize = 1 << 10;
/// How many such pieces may get through: four times the largest head, 64 KiB.
const PIECES: usize = 4 * 64;
/// What else may be on its way until a busy machine has read it.
const ON_ITS_WAY: usize = 2048;

fn flood<'a>(row: u8, name: impl Into<String>, rounds: usize, round: impl Fn(usize) -> Vec<u8> + 'a) -> Flood<'a> {
    Flood {
        row,
        name: name.into(),
        rounds,
        resets: ANY,
        must_end: true,
        most: ANY,
        memory: 8 * MIB,
        cpu: Duration::MAX,
        within: Duration::MAX,
        settings: &[],
        first: Vec::new(),
        batch: BATCH,
        deaf: false,
        round: Box::new(round),
    }
}

/// R1: streams that are begun and reset at once.
#[must_use]
pub fn resets<'a>(target: &'a Target) -> Vec<Flood<'a>> {
    let (rounds, within) = count((20_000, Duration::MAX), (200_000, Duration::from_secs(1)));
    let fields = || target.request("/hold");
    let rapid = |batch, name| {
        let fields = fields();
        Flood { batch, within, ..flood(1, name, rounds, move |nth| rounds::rapid_reset(nth, &fields)) }
    };
    let malformed = fields();
    vec![
        rapid(BATCH, "rapid reset"),
        // Each stream is accepted before its reset comes.
        rapid(10, "paced reset"),
        Flood { within, ..flood(1, "malformed heads", rounds, move |nth| rounds::malformed(nth, &malformed)) },
    ]
}

/// R2: streams that the far end is made to reset, in six ways; it may do that so often.
#[must_use]
pub fn made_resets<'a>(target: &'a Target, rounds: usize, resets: usize) -> Vec<Flood<'a>> {
    let made = |way| {
        let fields = target.request("/hold");
        Flood { resets, ..flood(2, way, rounds, move |nth| rounds::made_reset(way, nth, &fields)) }
    };
    MADE_RESETS.into_iter().map(made).collect()
}

/// R3: a head without end, in pieces of 1 KiB.
#[must_use]
pub fn continuation<'a>(target: &Target) -> Flood<'a> {
    let first = Frame::headers(1, flag::END_STREAM, &hpack::literal(&target.request("/hold"))).bytes();
    let field = hpack::literal(&[("x-more", &"x".repeat(PIECE - 16))]);
    let round = move |_| Frame::continuation(1, 0, &field).bytes();
    let cpu = Duration::from_secs(count(5, 1));
    let most = count(PIECES + ON_ITS_WAY, PIECES);
    Flood { first, batch: 4, most, cpu, ..flood(3, "CONTINUATION", count(16 << 10, 1 << 20), round) }
}

/// R4: heads that are larger than they look, on 100 streams whose answers may not come; just under the limit of a head that proxies
/// have by default (60 KiB), and far above it.
#[must_use]
pub fn bombs<'a>(target: &'a Target) -> Vec<Flood<'a>> {
    const SIZES: [usize; 2] = [56 << 10, 4 << 20];
    let bomb = |name, size| {
        let round = move |nth| rounds::bomb(name, nth, size, &target.request("/hold"));
        let (settings, name) = (&[(setting::INITIAL_WINDOW_SIZE, 0)], format!("{name} of {} KiB", size >> 10));
        Flood { settings, batch: 10, must_end: false, ..flood(4, name, super::STREAMS, round) }
    };
    BOMBS.into_iter().flat_map(|name| SIZES.map(|size| bomb(name, size))).collect()
}

/// R5: frames without a request, from a peer that does not read.
#[must_use]
pub fn control<'a>() -> Vec<Flood<'a>> {
    let one = |name| {
        let frame = rounds::control(name);
        let flood = flood(5, name, count(100_000, 1_000_000), move |_| frame.clone());
        // A debug build's buffers are larger.
        Flood { batch: 1000, deaf: true, must_end: false, memory: count(3, 2) * MIB, ..flood }
    };
    CONTROL.into_iter().map(one).collect()
}

/// R6: a body in pieces of nothing and of one byte. What is handed on as it comes is no flood: then nothing may gather.
#[must_use]
pub fn tiny<'a>(target: &Target) -> Vec<Flood<'a>> {
    let mut fields = target.request("/deaf");
    fields[0] = (":method", "POST");
    let first = request(0, 0, &fields).bytes();
    let one = |(name, bytes): (&str, &'static [u8])| {
        // More than a window's worth, so that what is not read comes to an end.
        let flood = flood(6, name, count(400_000, 1_000_000), move |_| Frame::data(stream(0), 0, bytes).bytes());
        // Frames that nobody reads take memory of which their bytes are the least; 8 MiB is what any connection may cost.
        let (batch, must_end) = (1000, bytes.is_empty());
        let memory = if must_end { count(3, 1) } else { 8 } * MIB;
        Flood { first: first.clone(), batch, must_end, memory, ..flood }
    };
    [("empty DATA", &b""[..]), ("DATA of one byte", b"x")].map(one).into()
}
