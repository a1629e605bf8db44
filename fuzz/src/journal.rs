//! The server's journal: what a server that was killed has left in its shared memory, and the next one takes into its store.

use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;

use starling::base::census::Census;
use starling::base::time::Now;
use starling::config::Config;
use starling::record::{Frame, HistoryPage};
use starling::shard::restore::share_out;
use starling::shard::{Flock, Shard};
use starling::store::directory::replay_ring;
use starling::store::engine::Engine;
use starling::store::load::load;
use starling::store::read::read_page;
use starling::sys::ring::Ring;

const CAPACITY: usize = 4096;
const HEADER_BYTES: usize = 4096;
const FRAME_HEADER_BYTES: usize = 8;
const RUN: u64 = 7;

/// Ends a frame, where frames are given.
const MARK: [u8; 3] = [0xFF, 0x00, 0xFF];

/// The first byte says whether the rest are frames (even), which are pushed as a core does, or the memory itself, behind its positions.
///
/// Whatever has been left, it is taken or refused without a panic and without a look beyond the memory; what was taken once is not taken again; and
/// with what the store then says a core begins and has its rooms read.
pub fn run(input: &[u8]) {
    let Some((how, rest)) = input.split_first() else { return };
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("journal");
    let ring = if how % 2 == 0 {
        let ring = Ring::create(Some(&path), CAPACITY, RUN).expect("memory");
        for frame in frames(rest) {
            let read = Frame::records(frame).collect::<Vec<_>>();
            assert!(read.iter().rev().skip(1).all(Result::is_ok), "something behind what is no record");
            if ring.push(frame).is_none() {
                break;
            }
        }
        drop(ring);
        Ring::find(&path, RUN).expect("a file").expect("our own ring")
    } else {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&path).expect("a file");
        std::io::Write::write_all(&mut file, &memory(rest, how & 2 != 0)).expect("a file");
        drop(file);
        match Ring::find(&path, RUN).expect("a file") {
            Some(ring) => ring,
            None => return,
        }
    };
    let mut engine = Engine::in_memory();
    let (taken, is_sound) = replay_ring(&mut engine, 0, &ring).expect("a database in memory");
    if is_sound {
        assert_eq!(replay_ring(&mut engine, 0, &ring), Ok((0, true)), "{taken} frames are taken again");
    }
    let mut engine = engine.restarted().expect("what was committed");
    let Ok(restored) = load(&mut engine, 0, 1000) else { return };
    for room in &restored.rooms {
        let page = HistoryPage {
            room: room.number,
            after: 0,
            before: u64::MAX,
            is_ascending: true,
            limit: 100,
            bytes_max: 10_000,
        };
        if let Ok(entries) = read_page(engine.connection(), &page) {
            assert!(entries.is_sorted_by(|a, b| a.offset < b.offset), "messages are not in order");
            assert!(entries.iter().all(|entry| entry.offset <= room.offset), "a message beyond the last");
        }
    }
    let census = Arc::new(Census::new(0, 0));
    let flock = Flock { has_store: true, ..Flock::of_one(Arc::new(Config::default()), census) };
    let now = Now::of_ms(1000, 1_700_000_000_000);
    let mut shard = Shard::new(0, &flock, Arc::default(), 1, now);
    for share in share_out(restored, &flock) {
        shard.restore(share);
    }
    shard.inventory();
}

fn frames(mut rest: &[u8]) -> Vec<&[u8]> {
    let mut frames = Vec::new();
    while let Some(at) = rest.windows(3).position(|three| three == MARK) {
        frames.push(&rest[..at]);
        rest = &rest[at + 3..];
    }
    frames.push(rest);
    frames
}

/// The file of a ring with these positions and bytes. `sums`: the checksums of the frames in it are made right.
fn memory(rest: &[u8], sums: bool) -> Vec<u8> {
    let mut file = vec![0; HEADER_BYTES + CAPACITY];
    let mut put = |at: usize, number: u64| file[at..at + 8].copy_from_slice(&number.to_le_bytes());
    let word = |at: usize| {
        let mut word = [0; 8];
        rest.iter().skip(at).take(8).zip(&mut word).for_each(|(byte, place)| *place = *byte);
        u64::from_le_bytes(word)
    };
    put(0, 0x5354_524c_5249_4e31);
    put(8, RUN);
    put(16, CAPACITY as u64);
    put(128, word(0));
    put(136, word(16) & 1);
    put(256, word(8));
    let bytes = rest.get(17..).unwrap_or_default();
    let bytes = &bytes[..bytes.len().min(CAPACITY)];
    let ring = &mut file[HEADER_BYTES..];
    ring[..bytes.len()].copy_from_slice(bytes);
    let mut at = 0;
    while sums && at + FRAME_HEADER_BYTES < CAPACITY {
        let length = u32::from_le_bytes(ring[at..at + 4].try_into().expect("four bytes")) as usize;
        let end = at + FRAME_HEADER_BYTES + length;
        if end > CAPACITY {
            break;
        }
        let sum = crc32fast::hash(&ring[at + FRAME_HEADER_BYTES..end]);
        ring[at + 4..at + 8].copy_from_slice(&sum.to_le_bytes());
        at = end;
    }
    file
}
