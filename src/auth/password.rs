//! What a password must be, before anybody hashes it.

use std::fmt;

/// Longest password in bytes. Hashing takes as long whatever the length, but each has to be carried there, and nobody types more.
pub const PASSWORD_BYTES_MAX: usize = 1024;

/// Why a password is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PasswordError {
    /// It is too short.
    TooShort {
        /// How many bytes it needs.
        bytes_min: usize,
    },
    /// It is too long.
    TooLong,
}

impl fmt::Display for PasswordError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort { bytes_min } => write!(out, "a password has at least {bytes_min} bytes"),
            Self::TooLong => write!(out, "a password has at most {PASSWORD_BYTES_MAX} bytes"),
        }
    }
}

impl std::error::Error for PasswordError {}

/// Checks what somebody chose as a password. Only its length: rules about characters make passwords worse (NIST SP 800-63B
/// section 3.1.1).
///
/// # Errors
/// When it is too short or too long.
pub fn check_password(password: &str, bytes_min: usize) -> Result<(), PasswordError> {
    match password.len() {
        length if length > PASSWORD_BYTES_MAX => Err(PasswordError::TooLong),
        length if length < bytes_min => Err(PasswordError::TooShort { bytes_min }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_have_bounds() {
        assert_eq!(check_password("1234567", 8), Err(PasswordError::TooShort { bytes_min: 8 }));
        assert_eq!(check_password("12345678", 8), Ok(()));
        assert_eq!(check_password(&"x".repeat(PASSWORD_BYTES_MAX), 8), Ok(()));
        assert_eq!(check_password(&"x".repeat(PASSWORD_BYTES_MAX + 1), 8), Err(PasswordError::TooLong));
    }
}
