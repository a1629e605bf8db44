//! How names are compared.

use std::borrow::Cow;

/// Folds upper and lower case together, as the server does (simple case folding, C and S of Unicode's CaseFolding.txt): names that
/// are folded to the same are one room, or one person.
pub fn fold(name: &str) -> Cow<'_, str> {
    if name.chars().all(|c| fold_char(c) == c) {
        return Cow::Borrowed(name);
    }
    Cow::Owned(name.chars().map(fold_char).collect())
}

fn fold_char(c: char) -> char {
    if c.is_ascii() {
        return c.to_ascii_lowercase();
    }
    unicode_case_mapping::case_folded(c).and_then(|folded| char::from_u32(folded.get())).unwrap_or(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_whatever_their_case() {
        assert_eq!(fold("LoBBy"), "lobby");
        assert!(matches!(fold("lobby"), Cow::Borrowed("lobby")));
        assert_eq!(fold("ΟΔΟΣ"), fold("οδος"));
        assert_eq!(fold("ẞ"), "ß");
        assert_ne!(fold("straße"), fold("STRASSE"));
        assert_ne!(fold("İ"), fold("i"));
    }
}
