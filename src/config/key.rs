//! What a key is: a name, its documentation and range, and how its value moves between TOML, text and [`Config`].
//!
//! The macros turn one declaration a key into a struct field with that documentation and a row of the key table.
//! Structs derived for serde alone were turned down: they know neither where a value came from nor its range, and
//! their comments cannot be printed.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use toml::Value;

use super::Config;

/// One key of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The dotted name: `cores`, `limits.content_bytes`.
    pub name: &'static str,
    /// Its meaning, line by line.
    pub doc: &'static [&'static str],
    /// The least and the greatest value, where it is a number.
    pub range: Option<(u64, u64)>,
    /// Whether messages must not show its value.
    pub is_secret: bool,
    /// Its value in a configuration; `None` where it is not set.
    pub value: fn(&Config) -> Option<Value>,
    /// Reads the text of a flag or of an environment variable; the error says what the value must be.
    pub(super) parse: fn(&str) -> Result<Value, String>,
    /// Puts a value into a configuration; the error says what it must be.
    pub(super) store: fn(&mut Config, &Value) -> Result<(), String>,
}

impl Key {
    /// The environment variable: section and key in upper case, `STARLING_LIMITS_CONTENT_BYTES`.
    pub fn env_name(&self) -> String {
        format!("{}{}", super::ENV_PREFIX, self.name.replace('.', "_").to_uppercase())
    }

    /// Sets the value after a look at the range.
    pub(super) fn set(&self, config: &mut Config, value: &Value) -> Result<(), String> {
        if let (Some((low, high)), Some(number)) = (self.range, value.as_integer())
            && !u64::try_from(number).is_ok_and(|number| (low..=high).contains(&number))
        {
            return Err(format!("must be from {low} to {high}"));
        }
        (self.store)(config, value)
    }
}

/// A type that a key can have.
pub(super) trait Setting: Sized {
    /// Whether messages must not show values of this type.
    const IS_SECRET: bool = false;
    /// Reads a TOML value; the error says what it must be.
    fn from_toml(value: &Value) -> Result<Self, String>;
    /// The value as TOML; `None` where there is none.
    fn to_toml(&self) -> Option<Value>;
    /// Turns the text of a flag or of a variable into TOML.
    fn text_to_toml(text: &str) -> Result<Value, String> {
        Ok(Value::String(text.to_owned()))
    }
}

/// Declares a section: its struct, defaults and key table.
macro_rules! section {
    ($(#[doc = $about:literal])+ $Section:ident in $section:ident {
        $($(#[doc = $doc:literal])+ $key:ident: $kind:ty = $default:expr $(, $low:literal ..= $high:literal)?;)+
    }) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $Section {
            $($(#[doc = $doc])+ pub $key: $kind,)+
        }

        impl Default for $Section {
            fn default() -> Self {
                Self { $($key: $default,)+ }
            }
        }

        impl $Section {
            pub(super) const ABOUT: &[&str] = &[$($about),+];
            pub(super) const KEYS: &[$crate::config::Key] = &[$($crate::config::key::row! {
                concat!(stringify!($section), ".", stringify!($key)),
                [$($doc),+], $kind, [$($low, $high)?], [$section.$key]
            }),+];
        }
    };
}

/// Declares the configuration itself: the keys that stand before any section, then the sections.
macro_rules! config {
    ($(#[doc = $about:literal])+ $Config:ident {
        $($(#[doc = $doc:literal])+ $key:ident: $kind:ty = $default:expr $(, $low:literal ..= $high:literal)?;)+
    } sections {
        $($section:ident: $Section:ident,)+
    }) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $Config {
            $($(#[doc = $doc])+ pub $key: $kind,)+
            $(#[doc = concat!("`[", stringify!($section), "]`")] pub $section: $Section,)+
        }

        impl Default for $Config {
            fn default() -> Self {
                Self { $($key: $default,)+ $($section: $Section::default(),)+ }
            }
        }

        impl $Config {
            const KEYS: &[$crate::config::Key] = &[$($crate::config::key::row! {
                stringify!($key), [$($doc),+], $kind, [$($low, $high)?], [$key]
            }),+];

            /// Name, meaning and keys of each section, in the order in which they are printed.
            const SECTIONS: &[(&str, &[&str], &[$crate::config::Key])] =
                &[$((stringify!($section), $Section::ABOUT, $Section::KEYS)),+];

            /// Every key that there is.
            pub fn keys() -> impl Iterator<Item = &'static $crate::config::Key> {
                Self::KEYS.iter().chain(Self::SECTIONS.iter().flat_map(|(_, _, keys)| keys.iter()))
            }
        }
    };
}

/// One row of a key table.
macro_rules! row {
    (@range) => { None };
    (@range $low:literal, $high:literal) => { Some(($low, $high)) };
    ($name:expr, [$($doc:literal),+], $kind:ty, [$($range:tt)*], [$($field:tt)+]) => {
        $crate::config::Key {
            name: $name,
            doc: &[$($doc),+],
            range: $crate::config::key::row!(@range $($range)*),
            is_secret: <$kind as $crate::config::key::Setting>::IS_SECRET,
            value: |config| $crate::config::key::Setting::to_toml(&config.$($field)+),
            parse: <$kind as $crate::config::key::Setting>::text_to_toml,
            store: |config, value| {
                config.$($field)+ = $crate::config::key::Setting::from_toml(value)?;
                Ok(())
            },
        }
    };
}

/// Declares a choice between words.
macro_rules! choice {
    ($(#[doc = $about:literal])+ $Choice:ident { $($(#[doc = $doc:literal])+ $Word:ident = $word:literal,)+ }) => {
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        pub enum $Choice {
            $($(#[doc = $doc])+ #[serde(rename = $word)] $Word,)+
        }

        impl $Choice {
            /// The word for it.
            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$Word => $word,)+
                }
            }
        }

        impl $crate::config::key::Setting for $Choice {
            fn from_toml(value: &toml::Value) -> Result<Self, String> {
                match value.as_str() {
                    $(Some($word) => Ok(Self::$Word),)+
                    _ => Err(format!("must be one of {}", [$($word),+].join(", "))),
                }
            }

            fn to_toml(&self) -> Option<toml::Value> {
                Some(toml::Value::String(self.word().to_owned()))
            }
        }
    };
}

pub(super) use {choice, config, row, section};

impl Setting for u64 {
    fn from_toml(value: &Value) -> Result<Self, String> {
        value.as_integer().and_then(|number| Self::try_from(number).ok()).ok_or_else(not_a_number)
    }

    fn to_toml(&self) -> Option<Value> {
        Some(Value::Integer(i64::try_from(*self).unwrap_or(i64::MAX)))
    }

    fn text_to_toml(text: &str) -> Result<Value, String> {
        // Underscores as in TOML, so that a value can be moved from the file to a flag as it stands.
        text.replace('_', "").parse().map(Value::Integer).map_err(|_| not_a_number())
    }
}

fn not_a_number() -> String {
    "must be a whole number".to_owned()
}

impl Setting for usize {
    fn from_toml(value: &Value) -> Result<Self, String> {
        u64::from_toml(value).and_then(|number| Self::try_from(number).map_err(|_| not_a_number()))
    }

    fn to_toml(&self) -> Option<Value> {
        Some(Value::Integer(i64::try_from(*self).unwrap_or(i64::MAX)))
    }

    fn text_to_toml(text: &str) -> Result<Value, String> {
        u64::text_to_toml(text)
    }
}

impl Setting for bool {
    fn from_toml(value: &Value) -> Result<Self, String> {
        value.as_bool().ok_or_else(|| "must be true or false".to_owned())
    }

    fn to_toml(&self) -> Option<Value> {
        Some(Value::Boolean(*self))
    }

    fn text_to_toml(text: &str) -> Result<Value, String> {
        match text {
            "true" | "1" => Ok(Value::Boolean(true)),
            "false" | "0" => Ok(Value::Boolean(false)),
            _ => Err("must be true or false".to_owned()),
        }
    }
}

impl Setting for String {
    fn from_toml(value: &Value) -> Result<Self, String> {
        match value.as_str() {
            Some("") => Err("must not be empty".to_owned()),
            Some(text) => Ok(text.to_owned()),
            None => Err("must be a text in quotes".to_owned()),
        }
    }

    fn to_toml(&self) -> Option<Value> {
        Some(Value::String(self.clone()))
    }
}

impl Setting for PathBuf {
    fn from_toml(value: &Value) -> Result<Self, String> {
        let text = String::from_toml(value)?;
        if text.contains('\0') { Err("must be a path".to_owned()) } else { Ok(text.into()) }
    }

    fn to_toml(&self) -> Option<Value> {
        // Never lossy: paths get in as UTF-8 only.
        Some(Value::String(self.to_string_lossy().into_owned()))
    }
}

impl<T: Setting> Setting for Option<T> {
    const IS_SECRET: bool = T::IS_SECRET;

    fn from_toml(value: &Value) -> Result<Self, String> {
        T::from_toml(value).map(Some)
    }

    fn to_toml(&self) -> Option<Value> {
        self.as_ref().and_then(T::to_toml)
    }

    fn text_to_toml(text: &str) -> Result<Value, String> {
        T::text_to_toml(text)
    }
}

/// A text that must not show up in logs and messages, `{:?}` of the whole configuration included.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Secret(..)")
    }
}

impl Setting for Secret {
    const IS_SECRET: bool = true;

    fn from_toml(value: &Value) -> Result<Self, String> {
        String::from_toml(value).map(Self)
    }

    fn to_toml(&self) -> Option<Value> {
        self.0.to_toml()
    }
}
