//! The scripts: what is decided where the data is, in one step.

use std::sync::OnceLock;

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Script {
    Open,
    Publish,
    Append,
    CatchUp,
    Renew,
    Keep,
    Touch,
    Page,
    Claim,
    Replace,
    Find,
    PutOut,
    KeepSession,
    RenewSession,
    ForgetSession,
    TakeSession,
    FreeSession,
    Beat,
    BeginLine,
    Send,
}

/// What stands before each.
const COMMON: &str = include_str!("common.lua");

/// In the order of [`Script`].
const SOURCES: [&str; 20] = [
    include_str!("open.lua"),
    include_str!("publish.lua"),
    include_str!("append.lua"),
    include_str!("catch_up.lua"),
    include_str!("renew.lua"),
    include_str!("keep.lua"),
    include_str!("touch.lua"),
    include_str!("page.lua"),
    include_str!("claim.lua"),
    include_str!("replace.lua"),
    include_str!("find.lua"),
    include_str!("put_out.lua"),
    include_str!("keep_session.lua"),
    include_str!("renew_session.lua"),
    include_str!("forget_session.lua"),
    include_str!("take_session.lua"),
    include_str!("free_session.lua"),
    include_str!("beat.lua"),
    include_str!("begin_line.lua"),
    include_str!("send.lua"),
];

/// The texts of all of them.
pub(super) fn sources() -> impl Iterator<Item = String> {
    SOURCES.iter().map(|source| format!("{COMMON}\n{source}"))
}

impl Script {
    /// What a server that has the script calls it: SHA-1 of its text.
    pub(super) fn digest(self) -> &'static str {
        static DIGESTS: OnceLock<Vec<String>> = OnceLock::new();
        let of = |source: String| sha1_smol::Sha1::from(source).digest().to_string();
        &DIGESTS.get_or_init(|| sources().map(of).collect())[self as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_what_they_are_called() {
        assert!(SOURCES[Script::Send as usize].contains("inbox"));
        assert!(SOURCES[Script::Claim as usize].contains("Claims a nickname"));
        assert_eq!(Script::Send as usize + 1, SOURCES.len());
        assert_eq!(Script::Beat.digest().len(), 40);
    }
}
