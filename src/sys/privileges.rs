//! Becoming another user, once what only root may do is done; and files that root opens for them.

use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::fs::lchown;
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

/// Has no program that this thread starts, nor those that it makes from here on, get rights that it has not (PR_SET_NO_NEW_PRIVS,
/// prctl(2)): what is given up stays given up. Elsewhere than on Linux nothing is done.
///
/// # Errors
/// When the kernel does not know of it.
pub fn gain_no_more() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    // SAFETY: a plain call.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    Ok(())
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The groups that this process is in beside its own.
fn groups() -> io::Result<Vec<libc::gid_t>> {
    // SAFETY: with no room, nothing is written.
    let count = unsafe { libc::getgroups(0, std::ptr::null_mut()) };
    let mut groups = vec![0; usize::try_from(count).map_err(|_| io::Error::last_os_error())?];
    // SAFETY: there is room for as many as are said.
    let count = unsafe { libc::getgroups(count, groups.as_mut_ptr()) };
    groups.truncate(usize::try_from(count).map_err(|_| io::Error::last_os_error())?);
    Ok(groups)
}

impl User {
    /// Its name, or whatever the user database has for one.
    pub fn name(&self) -> std::borrow::Cow<'_, str> {
        self.name.to_string_lossy()
    }

    /// Whether this process runs as this user already.
    pub fn is_current(&self) -> bool {
        [rustix::process::geteuid(), rustix::process::getuid()].iter().all(|uid| uid.as_raw() == self.uid)
    }

    /// Gives a file or directory to the user. Of a link it is the link that is given, and not what it leads to.
    ///
    /// # Errors
    /// When that is not permitted, or it is not there.
    pub fn own(&self, path: &Path) -> io::Result<()> {
        lchown(path, Some(self.uid), Some(self.gid))
    }

    /// Does something with the user's rights and no others, and is root again: for what the user may have prepared, so that root finds there
    /// what is not the user's to find. All threads of the process are the user meanwhile (credentials(7)).
    ///
    /// # Errors
    /// What `work` says; or when this process is not root's, or cannot be root's again.
    pub fn act<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let (own_group, before) = (rustix::process::getegid().as_raw(), groups()?);
        self.join_groups()?;
        // SAFETY: a plain call.
        check(unsafe { libc::setegid(self.gid) })?;
        // SAFETY: a plain call.
        check(unsafe { libc::seteuid(self.uid) })?;
        let done = work();
        // SAFETY: plain calls, and as many groups as are said.
        unsafe {
            check(libc::seteuid(0))?;
            check(libc::setegid(own_group))?;
            check(libc::setgroups(before.len() as _, before.as_ptr()))?;
        }
        done
    }

    fn join_groups(&self) -> io::Result<()> {
        // SAFETY: the name ends with a zero.
        check(unsafe { libc::initgroups(self.name.as_ptr(), self.gid as _) })
    }

    /// Has this process run as the user, in the user's groups and no others, for good: all of its threads, and with no capability left
    /// (credentials(7), capabilities(7)).
    ///
    /// # Errors
    /// When this process is not root's. What has been done by then is not taken back: the process is to end.
    pub fn become_for_good(&self) -> io::Result<()> {
        // Groups first: they are root's to choose.
        self.join_groups()?;
        // SAFETY: plain calls.
        unsafe {
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
