//! Dates and moments as ISO 8601 text and back, for every value that Arrow can hold. Knows neither columns nor engines.
//!
//! Days are turned into years by the algorithm of Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".

const DAY_MICROS: i64 = 86_400_000_000;

/// `days` since 1970-01-01 as `YYYY-MM-DD`; years beyond four digits carry a sign.
pub(crate) fn date_text(days: i64) -> String {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    if (0..=9_999).contains(&year) { format!("{year:04}-{month:02}-{day:02}") } else { format!("{year:+05}-{month:02}-{day:02}") }
}

/// The days since 1970-01-01 of a text made by [`date_text`]; none for another text.
pub(crate) fn parse_date(text: &str) -> Option<i64> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    let mut parts = digits.split('-');
    let year = sign * parts.next()?.parse::<i64>().ok()?;
    let month = parts.next()?.parse::<i64>().ok()?;
    let day = parts.next()?.parse::<i64>().ok()?;
    if parts.next().is_some() || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_index = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * month_index + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

/// `micros` since 1970-01-01 as `YYYY-MM-DDThh:mm:ss.ffffff`, with `Z` when it is a moment and not a local time.
pub(crate) fn timestamp_text(micros: i64, utc: bool) -> String {
    let (days, rest) = (micros.div_euclid(DAY_MICROS), micros.rem_euclid(DAY_MICROS));
    let (seconds, fraction) = (rest / 1_000_000, rest % 1_000_000);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    let zone = if utc { "Z" } else { "" };
    format!("{}T{hour:02}:{minute:02}:{second:02}.{fraction:06}{zone}", date_text(days))
}

/// The microseconds since 1970-01-01 of a text made by [`timestamp_text`]; none for another text.
pub(crate) fn parse_timestamp(text: &str) -> Option<i64> {
    let (date, time) = text.trim_end_matches('Z').split_once('T')?;
    let (clock, fraction) = time.split_once('.')?;
    let mut parts = clock.split(':').map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
    let micros = ((hour * 60 + minute) * 60 + second) * 1_000_000 + fraction.parse::<i64>().ok()?;
    // The first day of all is only half in range: add in 128 bits.
    i64::try_from(i128::from(parse_date(date)?) * i128::from(DAY_MICROS) + i128::from(micros)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_days_have_their_names() {
        for (days, text) in [
            (0, "1970-01-01"),
            (-1, "1969-12-31"),
            (-20_051, "1915-02-08"),
            (11_016, "2000-02-29"),
            (-719_528, "0000-01-01"),
            (-719_529, "-0001-12-31"),
            (2_932_897, "+10000-01-01"),
        ] {
            assert_eq!(date_text(days), text);
            assert_eq!(parse_date(text), Some(days), "{text}");
        }
        assert_eq!(timestamp_text(-1, true), "1969-12-31T23:59:59.999999Z");
        assert_eq!(timestamp_text(1, false), "1970-01-01T00:00:00.000001");
    }

    #[test]
    fn every_value_comes_back() {
        for days in [i32::MIN, i32::MIN + 1, -146_097, -1, 0, 59, 60, 146_096, i32::MAX] {
            assert_eq!(parse_date(&date_text(days.into())), Some(days.into()));
        }
        for micros in [i64::MIN, i64::MIN + 1, -DAY_MICROS, -1, 0, 1, DAY_MICROS, i64::MAX] {
            assert_eq!(parse_timestamp(&timestamp_text(micros, true)), Some(micros));
        }
        assert_eq!(parse_date("1915-2"), None);
        assert_eq!(parse_date(""), None);
        assert_eq!(parse_timestamp("1915-02-08"), None);
    }
}
