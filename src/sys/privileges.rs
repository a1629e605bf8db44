//! Becoming another user, once what only root may do is done.

use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::fs::chown;
use std::path::Path;

/// A user of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    name: CString,
    uid: libc::uid_t,
    gid: libc::gid_t,
}

/// Bytes of an entry of the user database: more is looked for no further.
const ENTRY_BYTES: usize = 65_536;

/// Finds a user by name, or else by number (getpwnam_r(3), getpwuid_r(3)). `None`: there is none.
///
/// # Errors
/// When the database cannot be read.
pub fn find(user: &str) -> io::Result<Option<User>> {
    let Ok(name) = CString::new(user) else { return Ok(None) };
    let mut entry = std::mem::MaybeUninit::<libc::passwd>::uninit();
    let mut text = vec![0; ENTRY_BYTES];
    let mut found = std::ptr::null_mut();
    // SAFETY: the name ends with a zero; the entry and its text are as large as is said, and outlive the call.
    let mut error = unsafe {
        libc::getpwnam_r(name.as_ptr(), entry.as_mut_ptr(), text.as_mut_ptr(), text.len(), &mut found)
    };
    if found.is_null()
        && let Ok(uid) = user.parse::<libc::uid_t>()
    {
        // SAFETY: as above.
        error =
            unsafe { libc::getpwuid_r(uid, entry.as_mut_ptr(), text.as_mut_ptr(), text.len(), &mut found) };
    }
    if !found.is_null() {
        // SAFETY: an entry was found, so it has been filled in, and its name points into `text`.
        let (entry, name) = unsafe {
            let entry = entry.assume_init();
            (entry, CStr::from_ptr(entry.pw_name).to_owned())
        };
        return Ok(Some(User { name, uid: entry.pw_uid, gid: entry.pw_gid }));
    }
    // Some systems say so of a user that there is not (getpwnam_r(3)).
    let is_missing = matches!(error, 0 | libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM);
    if is_missing { Ok(None) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// Whether this process runs as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

impl User {
    /// Whether this process runs as this user already.
    pub fn is_current(&self) -> bool {
        rustix::process::geteuid().as_raw() == self.uid
    }

    /// Gives a file or directory to the user.
    ///
    /// # Errors
    /// When that is not permitted, or it is not there.
    pub fn own(&self, path: &Path) -> io::Result<()> {
        chown(path, Some(self.uid), Some(self.gid))
    }

    /// Has this process run as the user, in the user's groups and no others, for good: all of its threads, and with no capability left
    /// (credentials(7), capabilities(7)).
    ///
    /// # Errors
    /// When this process is not root's. What has been done by then is not taken back: the process is to end.
    pub fn become_for_good(&self) -> io::Result<()> {
        let check = |result: libc::c_int| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
        // Groups first: they are root's to choose.
        // SAFETY: plain calls, and a name that ends with a zero.
        unsafe {
            check(libc::initgroups(self.name.as_ptr(), self.gid as _))?;
            check(libc::setgid(self.gid))?;
            check(libc::setuid(self.uid))?;
        }
        // SAFETY: a plain call.
        if self.uid != 0 && unsafe { libc::setuid(0) } == 0 {
            return Err(io::Error::other("the process could become root again"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_by_number() {
        let root = find("root").unwrap().unwrap();
        assert_eq!((root.uid, root.name.to_str()), (0, Ok("root")));
        assert_eq!(find("0").unwrap(), Some(root.clone()));
        assert_eq!(root.is_current(), is_root());
        for nobody in ["no-such-user-here", "", "4294967290", "-1", "a\0b"] {
            assert_eq!(find(nobody).unwrap(), None, "{nobody:?}");
        }
    }
}
