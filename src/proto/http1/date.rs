//! Dates as HTTP writes them.

/// A moment in the form of RFC 9110, 5.6.7: `Sun, 06 Nov 1994 08:49:37 GMT`.
pub fn date(unix_s: u64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (days, second) = (unix_s / 86_400, unix_s % 86_400);
    // Days from the 1st of March of the year 0, so that the leap day is the last of its year; 400 years are one era.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12;
    let year = year_of_era + era * 400 + u64::from(month < 2);
    format!(
        "{}, {day:02} {} {year:04} {:02}:{:02}:{:02} GMT",
        DAYS[(days % 7) as usize],
        MONTHS[month as usize],
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn dates_as_the_rfc_writes_them() {
        assert_eq!(date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(date(951_782_400), "Tue, 29 Feb 2000 00:00:00 GMT");
        assert_eq!(date(1_798_761_599), "Thu, 31 Dec 2026 23:59:59 GMT");
    }

    #[test]
    fn every_day_of_a_calendar_has_its_date() {
        let names = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
        let mut days = 0;
        for year in 1970..2420 {
            let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            for (month, length) in [
                ("Jan", 31),
                ("Feb", if is_leap { 29 } else { 28 }),
                ("Mar", 31),
                ("Apr", 30),
                ("May", 31),
                ("Jun", 30),
                ("Jul", 31),
                ("Aug", 31),
                ("Sep", 30),
                ("Oct", 31),
                ("Nov", 30),
                ("Dec", 31),
            ] {
                for day in 1..=length {
                    let name = names[days as usize % 7];
                    assert_eq!(
                        date(days * 86_400 + 43_200),
                        format!("{name}, {day:02} {month} {year} 12:00:00 GMT")
                    );
                    days += 1;
                }
            }
        }
    }

    #[test]
    fn every_second_of_a_day_has_its_time() {
        for second in 0..86_400_u64 {
            let (hours, minutes, seconds) = (second / 3600, second % 3600 / 60, second % 60);
            assert_eq!(date(second)[17..25], format!("{hours:02}:{minutes:02}:{seconds:02}"));
        }
    }
}
