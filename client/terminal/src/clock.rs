//! What the clock on the wall says.

/// A time as it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Local {
    /// The year.
    pub year: i32,
    /// From 1.
    pub month: u32,
    /// From 1.
    pub day: u32,
    /// From 0.
    pub hour: u32,
    /// From 0.
    pub minute: u32,
}

impl Local {
    /// The day, to tell days apart.
    pub fn date(&self) -> (i32, u32, u32) {
        (self.year, self.month, self.day)
    }
}

/// Makes a time of the wall of milliseconds since the Unix epoch.
pub type ToLocal = fn(u64) -> Local;

/// By the time zone of the system, or of `TZ`.
pub fn local(millis: u64) -> Local {
    let Ok(seconds) = libc::time_t::try_from(millis / 1000) else { return Local::default() };
    // SAFETY: all of its fields are numbers or a pointer, for which zero is a value.
    let mut parts: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both point to initialised values of the right type.
    if unsafe { libc::localtime_r(&seconds, &mut parts) }.is_null() {
        return Local::default();
    }
    let number = |value: libc::c_int| u32::try_from(value).unwrap_or_default();
    Local {
        year: parts.tm_year + 1900,
        month: number(parts.tm_mon) + 1,
        day: number(parts.tm_mday),
        hour: number(parts.tm_hour),
        minute: number(parts.tm_min),
    }
}

/// Now, in milliseconds since the Unix epoch.
pub fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or_default()
}

/// By Universal Time, for tests: it is the same everywhere.
#[cfg(test)]
pub fn utc(millis: u64) -> Local {
    let minutes = millis / 60_000;
    // Days of January 1970 go on counting: enough to tell days apart.
    let day = u32::try_from(minutes / 1440).unwrap_or_default() + 1;
    let number = |value: u64| u32::try_from(value).unwrap_or_default();
    Local { year: 1970, month: 1, day, hour: number(minutes / 60 % 24), minute: number(minutes % 60) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wall_knows_the_minute() {
        // Zones differ by quarters of an hour at the least.
        let time = local(1_700_000_000_000);
        assert_eq!((time.year, time.month, time.minute % 15), (2023, 11, 13));
    }
}
