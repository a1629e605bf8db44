//! A journal between one core and the storage thread: a bounded queue of bytes in shared memory.
//!
//! It lies in a file of a memory file system (shm_overview(7)), not on a disk: a core that writes to it copies bytes and nothing else, whatever
//! the disk does. And it outlives the process: what a core has written down is found there by the next one, though the storage
//! thread had not got to it when the process was killed. Nothing else is needed for that: no system call, no flush. Only the end of the
//! machine takes it along.
//!
//! One thread pushes, one reads. Positions count bytes from the beginning of the run and only grow.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

/// Says that a file is a ring of this version.
const MAGIC: u64 = 0x5354_524c_5249_4e31; // STRLRIN1

/// The header: a page, so that the bytes begin on one.
const HEADER_BYTES: usize = 4096;

/// Before each frame: its length and its checksum, four bytes each.
const FRAME_HEADER_BYTES: usize = 8;

/// The head and tail stand in cache lines of their own, because two threads write them.
#[repr(C)]
struct Header {
    magic: AtomicU64,
    run: AtomicU64,
    capacity: AtomicU64,
    _pad1: [u64; 13],
    tail: AtomicU64,
    /// Not 0: something that should be in the ring had no place.
    is_behind: AtomicU64,
    _pad2: [u64; 14],
    head: AtomicU64,
}

/// The ring.
pub struct Ring {
    base: NonNull<u8>,
    capacity: usize,
    /// Locked as long as the ring is in use, so that a server on a copy of the store does not take it for one that was left behind.
    _file: Option<File>,
}

// SAFETY: all shared words are atomics, and the bytes between head and tail are written by the one pusher before it moves the tail, and
// read by the one reader after it has seen that.
unsafe impl Send for Ring {}
// SAFETY: as above; `push` and `read` are each called by one thread, which the types that hold a ring see to.
unsafe impl Sync for Ring {}

impl std::fmt::Debug for Ring {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Ring({}..{} of {})", self.head(), self.tail(), self.capacity)
    }
}

impl Ring {
    /// An empty ring of `capacity` bytes, in the file at `path` if one is given, which is made or begun anew; otherwise it ends
    /// with the process.
    ///
    /// # Errors
    /// When there is not so much memory, or the file is somebody else's.
    pub fn create(path: Option<&Path>, capacity: usize, run: u64) -> io::Result<Self> {
        let capacity = capacity.next_power_of_two().max(HEADER_BYTES);
        let bytes = HEADER_BYTES + capacity;
        let ring = match path {
            Some(path) => {
                let _ = std::fs::remove_file(path);
                let file = open(path, true)?;
                // Taken now: a write to a page that cannot be had would end the process.
                // SAFETY: a plain call on a descriptor that is open.
                let error = unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, bytes as libc::off_t) };
                if error != 0 {
                    let _ = std::fs::remove_file(path);
                    return Err(io::Error::from_raw_os_error(error));
                }
                lock(&file)?;
                Self::map(Some(file), capacity)?
            }
            None => Self::map(None, capacity)?,
        };
        let header = ring.header();
        header.capacity.store(capacity as u64, Ordering::Relaxed);
        header.run.store(run, Ordering::Relaxed);
        header.tail.store(0, Ordering::Relaxed);
        header.head.store(0, Ordering::Relaxed);
        header.is_behind.store(0, Ordering::Relaxed);
        header.magic.store(MAGIC, Ordering::Release);
        Ok(ring)
    }

    /// The ring that an earlier run has left in a file, if it is the ring of that run.
    ///
    /// # Errors
    /// When the file cannot be read, or is somebody else's.
    pub fn find(path: &Path, run: u64) -> io::Result<Option<Self>> {
        let file = match open(path, false) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        lock(&file)?;
        let bytes = file.metadata()?.len() as usize;
        let Some(capacity) = bytes.checked_sub(HEADER_BYTES).filter(|n| n.is_power_of_two()) else {
            return Ok(None);
        };
        let ring = Self::map(Some(file), capacity)?;
        let header = ring.header();
        let is_it = header.magic.load(Ordering::Acquire) == MAGIC
            && header.run.load(Ordering::Relaxed) == run
            && header.capacity.load(Ordering::Relaxed) == capacity as u64
            && ring.tail().wrapping_sub(ring.head()) <= capacity as u64;
        Ok(is_it.then_some(ring))
    }

    fn map(file: Option<File>, capacity: usize) -> io::Result<Self> {
        let bytes = HEADER_BYTES + capacity;
        let (descriptor, flags) = match &file {
            Some(file) => (file.as_raw_fd(), libc::MAP_SHARED),
            None => (-1, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS),
        };
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, descriptor, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).expect("a mapping is not at address 0");
        Ok(Ring { base, capacity, _file: file })
    }

    fn header(&self) -> &Header {
        // SAFETY: the mapping begins with a page for the header, lives as long as `self`, and all its words are atomics.
        unsafe { &*self.base.as_ptr().cast::<Header>() }
    }

    /// How many bytes it can hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Up to where has been written.
    pub fn tail(&self) -> u64 {
        self.header().tail.load(Ordering::Acquire)
    }

    /// Up to where the reader has no more use for it.
    pub fn head(&self) -> u64 {
        self.header().head.load(Ordering::Acquire)
    }

    /// How many bytes of one more frame have place.
    pub fn room(&self) -> usize {
        let used = self.tail().wrapping_sub(self.head()) as usize;
        self.capacity.saturating_sub(used + FRAME_HEADER_BYTES)
    }

    /// Appends a frame, and returns the position behind it; `None` if it has no place. Called by one thread.
    pub fn push(&self, frame: &[u8]) -> Option<u64> {
        let tail = self.header().tail.load(Ordering::Relaxed);
        // An empty frame has a header too.
        let used = tail.wrapping_sub(self.head()) as usize;
        if used + FRAME_HEADER_BYTES + frame.len() > self.capacity {
            return None;
        }
        let mut header = [0; FRAME_HEADER_BYTES];
        header[..4].copy_from_slice(&(frame.len() as u32).to_le_bytes());
        header[4..].copy_from_slice(&crc32fast::hash(frame).to_le_bytes());
        self.copy_in(tail, &header);
        self.copy_in(tail + FRAME_HEADER_BYTES as u64, frame);
        let end = tail + (FRAME_HEADER_BYTES + frame.len()) as u64;
        self.header().tail.store(end, Ordering::Release);
        Some(end)
    }

    /// Notes whether something that should be in the ring had no place. Called by the thread that pushes.
    pub fn set_behind(&self, is_behind: bool) {
        self.header().is_behind.store(u64::from(is_behind), Ordering::Release);
    }

    /// Whether something that should be in the ring had no place, when it was last pushed to.
    pub fn is_behind(&self) -> bool {
        self.header().is_behind.load(Ordering::Acquire) != 0
    }

    /// Appends whole frames from position `from` on to `frames`, at least one if there is one, until they are `bytes_max` bytes together, and
    /// returns the position behind them. Called by one thread.
    ///
    /// # Errors
    /// When what is at `from` is no frame: somebody else has written to the memory. What is before such a place is read.
    pub fn read(&self, from: u64, bytes_max: usize, frames: &mut Vec<Vec<u8>>) -> io::Result<u64> {
        let (tail, mut at, mut bytes) = (self.tail(), from, 0);
        // A store of an earlier moment, as a backup is, knows an earlier position: what stood there is no more, and what stands there now
        // could say that it is longer than the memory.
        if tail.saturating_sub(from) > self.capacity as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it has been written over"));
        }
        while at < tail && bytes < bytes_max {
            let mut header = [0; FRAME_HEADER_BYTES];
            self.copy_out(at, &mut header);
            let length = u32::from_le_bytes(header[..4].try_into().expect("four bytes")) as usize;
            let sum = u32::from_le_bytes(header[4..].try_into().expect("four bytes"));
            let mut frame = Vec::new();
            let is_whole = (tail - at) >= (FRAME_HEADER_BYTES + length) as u64;
            if is_whole {
                frame.resize(length, 0);
                self.copy_out(at + FRAME_HEADER_BYTES as u64, &mut frame);
            }
            if !is_whole || crc32fast::hash(&frame) != sum {
                if at > from {
                    return Ok(at);
                }
                let why = if is_whole { "a frame is damaged" } else { "a frame is cut off" };
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
            at += (FRAME_HEADER_BYTES + length) as u64;
            bytes += length;
            frames.push(frame);
        }
        Ok(at)
    }

    /// The reader has no more use for what is before `position`.
    pub fn release(&self, position: u64) {
        self.header().head.store(position, Ordering::Release);
    }

    fn copy_in(&self, position: u64, bytes: &[u8]) {
        let at = position as usize & (self.capacity - 1);
        let first = bytes.len().min(self.capacity - at);
        // SAFETY: `at` and `first` stay within the mapping, which nobody else reads here: it is not before the tail yet.
        unsafe {
            let ring = self.base.as_ptr().add(HEADER_BYTES);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), ring.add(at), first);
            std::ptr::copy_nonoverlapping(bytes.as_ptr().add(first), ring, bytes.len() - first);
        }
    }

    fn copy_out(&self, position: u64, bytes: &mut [u8]) {
        let at = position as usize & (self.capacity - 1);
        let first = bytes.len().min(self.capacity - at);
        // SAFETY: as above; the pusher does not write here before the head has passed it.
        unsafe {
            let ring = self.base.as_ptr().add(HEADER_BYTES);
            std::ptr::copy_nonoverlapping(ring.add(at), bytes.as_mut_ptr(), first);
            std::ptr::copy_nonoverlapping(ring, bytes.as_mut_ptr().add(first), bytes.len() - first);
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this length, and nothing borrows from it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), HEADER_BYTES + self.capacity) };
    }
}

/// Takes a file for this process alone.
fn lock(file: &File) -> io::Result<()> {
    file.try_lock().map_err(|_| io::Error::new(io::ErrorKind::ResourceBusy, "it is in use by another server"))
}

/// Opens a file that only its owner can use, and that is ours: the directory is open to everybody.
fn open(path: &Path, is_new: bool) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(is_new)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)?;
    // SAFETY: a plain call that cannot fail.
    let user = unsafe { libc::geteuid() };
    let facts = file.metadata()?;
    if facts.uid() != user {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is another user's"));
    }
    if facts.mode() & 0o077 != 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "others than its owner may use it"));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in(sizes in prop::collection::vec(0usize..1500, 1..200), takes in prop::collection::vec(0usize..4, 1..50)) {
            let ring = Ring::create(None, 4096, 1).unwrap();
            let (mut pushed, mut read, mut at, mut takes) = (Vec::new(), Vec::new(), 0, takes.into_iter().cycle());
            for (index, size) in sizes.into_iter().enumerate() {
                let frame: Vec<u8> = (0..size).map(|byte| (byte * 7 + index) as u8).collect();
                while ring.push(&frame).is_none() {
                    at = ring.read(at, 1000 * takes.next().unwrap() + 1, &mut read).unwrap();
                    ring.release(at);
                }
                pushed.push(frame);
            }
            while at < ring.tail() { at = ring.read(at, 1, &mut read).unwrap(); }
            prop_assert_eq!(read, pushed);
        }
    }

    #[test]
    fn it_is_found_again_by_its_run_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ring");
        let ring = Ring::create(Some(&path), 5000, 7).unwrap();
        let end = ring.push(b"hello").unwrap();
        drop(ring);
        assert!(Ring::find(&path, 8).unwrap().is_none());
        let used = Ring::find(&path, 7).unwrap();
        assert!(used.is_some() && Ring::find(&path, 7).is_err(), "in use");
        drop(used);
        let ring = Ring::find(&path, 7).unwrap().unwrap();
        let mut frames = Vec::new();
        assert_eq!(ring.read(0, usize::MAX, &mut frames).unwrap(), end);
        assert_eq!(frames, [b"hello"]);
        drop(ring);
        let ring = Ring::create(Some(&path), 5000, 9).unwrap();
        assert_eq!((ring.tail(), ring.head()), (0, 0));
        assert!(Ring::find(&directory.path().join("other"), 7).unwrap().is_none());
    }

    #[test]
    fn what_is_before_a_damaged_frame_is_read() {
        for (damaged, what) in
            [(0, "damaged"), (2, "damaged"), (4, "damaged"), (0, "cut off"), (4, "cut off")]
        {
            let ring = Ring::create(None, 4096, 1).unwrap();
            let mut at = vec![0];
            at.extend((0..5u8).map(|number| ring.push(&[number; 100]).unwrap()));
            // Its last byte is another one, or it says that it is longer than what has been written.
            let (place, byte) =
                if what == "cut off" { (at[damaged] + 1, 0xFF) } else { (at[damaged + 1] - 1, 0xFF) };
            ring.copy_in(place, &[byte]);
            let mut frames = Vec::new();
            if damaged > 0 {
                assert_eq!(ring.read(0, usize::MAX, &mut frames).unwrap(), at[damaged]);
            }
            assert_eq!(frames, (0..damaged as u8).map(|number| vec![number; 100]).collect::<Vec<_>>());
            let why = ring.read(at[damaged], usize::MAX, &mut frames).unwrap_err();
            assert!(why.to_string().contains(what), "{why}");
            assert_eq!(frames.len(), damaged);
        }
    }

    #[test]
    fn a_file_that_others_may_use_is_told_from_one_that_is_theirs() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ring");
        drop(Ring::create(Some(&path), 4096, 7).unwrap());
        for mode in [0o666, 0o620, 0o604] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let Err(error) = Ring::find(&path, 7) else { panic!("it may have been written to") };
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
            assert!(error.to_string().contains("others than its owner"), "{error}");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(Ring::find(&path, 7).unwrap().is_some());
    }

    #[test]
    fn what_has_been_written_over_is_not_read() {
        let ring = Ring::create(None, 4096, 1).unwrap();
        // Wherever a frame is looked for in it, it is 64 KiB long: more than all of the memory.
        let frame = [0, 0, 1, 0].repeat(250);
        while ring.tail() < 100_000 {
            let end = ring.push(&frame).unwrap();
            ring.release(end);
        }
        let error = ring.read(0, usize::MAX, &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("written over"), "{error}");
        // What is still there may be read again.
        let at = ring.tail() - (FRAME_HEADER_BYTES + frame.len()) as u64;
        let mut frames = Vec::new();
        assert_eq!(ring.read(at, usize::MAX, &mut frames).unwrap(), ring.tail());
        assert_eq!(frames, [frame]);
    }

    #[test]
    fn bytes_that_somebody_else_wrote_are_no_frame() {
        let ring = Ring::create(None, 4096, 1).unwrap();
        ring.push(b"hello").unwrap();
        ring.copy_in(9, b"E");
        assert!(ring.read(0, 100, &mut Vec::new()).is_err());
        ring.copy_in(0, &[255; 4]);
        assert!(ring.read(0, 100, &mut Vec::new()).is_err());
    }
}
