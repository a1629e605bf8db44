//! The client's journal: any bytes in its file.

use std::path::Path;

use starling_client::fuzzing::{Left, journal};
use starling_client::machine::{Record, Saved};

const HEADER: &[u8] = b"starling journal 1\n";
const MARK: [u8; 4] = [0xF5, b's', b'j', 0xFF];

/// The first byte says whether the rest is the file as it is (odd), or lines to be written as records, whose sums are right.
///
/// Whatever is in the file, the journal is opened or refused, and what is refused stays as it is; what is read from it is read again, without
/// damage; and what is written then is behind it.
pub fn run(input: &[u8]) {
    let Some((how, rest)) = input.split_first() else { return };
    let mut file = if how % 4 == 3 { Vec::new() } else { HEADER.to_vec() };
    if how % 2 == 1 {
        file.extend_from_slice(rest);
    } else {
        for record in rest.split(|byte| *byte == b'\n') {
            file.extend_from_slice(&MARK);
            file.extend_from_slice(&(record.len() as u32).to_le_bytes());
            file.extend_from_slice(&crc32fast::hash(record).to_le_bytes());
            file.extend_from_slice(record);
        }
    }
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("journal");
    std::fs::write(&path, &file).expect("a file");
    let Ok(first) = journal(&path, Vec::new()) else {
        assert_eq!(std::fs::read(&path).expect("a file"), file, "what is no journal is changed");
        return;
    };
    assert!(first.damaged_bytes <= rest.len() as u64 + 12 * rest.len() as u64 + 12);
    let copies = || std::fs::read_dir(directory.path()).expect("a directory").count();
    assert_eq!(copies() > 1, first.damaged_bytes > 0, "a damaged file is kept, and no other");
    let is_new = first.saved.iter().all(|saved| saved.id != "new");
    let second = read(&path, Vec::new());
    assert_eq!(told(&second), told(&first), "the second reading says something else");
    let record = Saved {
        id: "new".to_owned(),
        to: "lobby".to_owned(),
        private: false,
        content: "hello".to_owned(),
        level: None,
        written: None,
    };
    read(&path, vec![Record::Queued(record)]);
    let last = read(&path, vec![Record::Done { id: "new".to_owned() }]);
    let (resume, mut saved) = told(&second);
    saved.push(("new".to_owned(), "hello".to_owned(), false));
    assert_eq!(told(&last), (resume.clone(), saved.clone()), "what is written is behind what was there");
    if is_new {
        saved.pop();
        assert_eq!(told(&read(&path, Vec::new())), (resume, saved), "what is done is done");
    }
}

fn read(path: &Path, records: Vec<Record>) -> Left {
    let left = journal(path, records).expect("a journal that was opened before");
    assert_eq!(left.damaged_bytes, 0, "what was written anew is damaged");
    left
}

/// What it says, without the time that has passed.
fn told(left: &Left) -> (Option<String>, Vec<(String, String, bool)>) {
    let saved = left.saved.iter();
    let saved = saved.map(|saved| (saved.id.clone(), saved.content.clone(), saved.written.is_some()));
    (left.resume.clone(), saved.collect())
}
