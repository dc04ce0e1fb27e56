//! Dates, timestamps and bytes as text and back, over the whole range of their Arrow types. Pure; knows neither Arrow nor JSON.

const SECONDS_A_DAY: i64 = 86_400;

/// `1915-02-08`. Years outside 0 to 9999 carry a sign and at least six digits, as ISO 8601 has it.
pub(crate) fn date(days: i64) -> String {
    let (year, month, day) = civil(days);
    if (0..=9999).contains(&year) {
        return format!("{year:04}-{month:02}-{day:02}");
    }
    let sign = if year < 0 { '-' } else { '+' };
    format!("{sign}{:06}-{month:02}-{day:02}", year.unsigned_abs())
}

/// The days since 1970 of a text that [`date`] wrote.
pub(crate) fn parse_date(text: &str) -> Option<i64> {
    let (sign, rest) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    let mut parts = rest.splitn(3, '-');
    let year: i64 = digits(parts.next()?)?;
    let month: i64 = digits(parts.next()?)?;
    let day: i64 = digits(parts.next()?)?;
    // Days of a month that has fewer would not be read as they were written.
    ((1..=12).contains(&month) && (1..=31).contains(&day) && year <= 400_000_000)
        .then(|| days(sign * year, month, day))
        .filter(|number| civil(*number) == (sign * year, month, day))
}

/// RFC 3339 with as many digits as the unit has; `Z` when `zoned`.
pub(crate) fn timestamp(value: i64, per_second: i64, zoned: bool) -> String {
    let (seconds, fraction) = (value.div_euclid(per_second), value.rem_euclid(per_second));
    let (day, second) = (seconds.div_euclid(SECONDS_A_DAY), seconds.rem_euclid(SECONDS_A_DAY));
    let mut text = format!("{}T{:02}:{:02}:{:02}", date(day), second / 3600, second / 60 % 60, second % 60);
    let width = per_second.ilog10() as usize;
    if width > 0 {
        text.push_str(&format!(".{fraction:0width$}"));
    }
    if zoned {
        text.push('Z');
    }
    text
}

/// The number of a text that [`timestamp`] wrote.
pub(crate) fn parse_timestamp(text: &str, per_second: i64) -> Option<i64> {
    let (day, time) = text.trim_end_matches('Z').split_once('T')?;
    let (clock, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut parts = clock.splitn(3, ':');
    let (hour, minute, second) = (digits(parts.next()?)?, digits(parts.next()?)?, digits(parts.next()?)?);
    let width = per_second.ilog10() as usize;
    if fraction.len() != width || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let fraction = if width == 0 { 0 } else { digits(fraction)? };
    let seconds = i128::from(parse_date(day)?) * i128::from(SECONDS_A_DAY) + i128::from(hour * 3600 + minute * 60 + second);
    i64::try_from(seconds * i128::from(per_second) + i128::from(fraction)).ok()
}

fn digits(text: &str) -> Option<i64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Year, month and day of a count of days since 1970 in the proleptic Gregorian calendar.
/// (Hinnant, "chrono-compatible low-level date algorithms", `civil_from_days`.)
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The inverse of [`civil`] (Hinnant, `days_from_civil`).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let shifted_month = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Standard base64 with padding (RFC 4648, section 4).
pub(crate) fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().enumerate().fold(0_u32, |word, (i, byte)| word | u32::from(*byte) << (16 - 8 * i));
        for i in 0..4 {
            let symbol = ALPHABET[(word >> (18 - 6 * i) & 63) as usize];
            text.push(if i <= chunk.len() { char::from(symbol) } else { '=' });
        }
    }
    text
}

/// The bytes of a text that [`base64`] wrote.
pub(crate) fn parse_base64(text: &str) -> Option<Vec<u8>> {
    let body = text.trim_end_matches('=').as_bytes();
    if !text.len().is_multiple_of(4) || text.len() - body.len() > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(body.len() * 3 / 4);
    let (mut word, mut bits) = (0_u32, 0_u32);
    for symbol in body {
        let six = match symbol {
            b'A'..=b'Z' => symbol - b'A',
            b'a'..=b'z' => symbol - b'a' + 26,
            b'0'..=b'9' => symbol - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        word = word << 6 | u32::from(six);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((word >> bits & 255) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_over_the_whole_range_are_read_as_they_were_written() {
        for (number, expected) in [
            (0, "1970-01-01"),
            (-1, "1969-12-31"),
            (11_016, "2000-02-29"),
            (-20_051, "1915-02-08"),
            (-719_528, "0000-01-01"),
            (-719_529, "-000001-12-31"),
            (2_932_897, "+010000-01-01"),
        ] {
            assert_eq!(date(number), expected);
            assert_eq!(parse_date(expected), Some(number));
        }
        for number in [i64::from(i32::MIN), i64::from(i32::MAX)] {
            assert_eq!(parse_date(&date(number)), Some(number));
        }
        for number in (-1_000_000..1_000_000).step_by(97) {
            assert_eq!(parse_date(&date(number)), Some(number));
        }
        for wrong in ["", "1970", "1970-02-30", "1970-13-01", "x", "1970-1-1-1", "é-01-01"] {
            assert_eq!(parse_date(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn timestamps_over_the_whole_range_are_read_as_they_were_written() {
        assert_eq!(timestamp(1, 1_000_000, true), "1970-01-01T00:00:00.000001Z");
        assert_eq!(timestamp(-1, 1_000_000, false), "1969-12-31T23:59:59.999999");
        assert_eq!(timestamp(86_399, 1, true), "1970-01-01T23:59:59Z");
        for per_second in [1, 1_000, 1_000_000, 1_000_000_000] {
            for value in [0, 1, -1, 1_700_000_000_123_456, -2_208_988_800_000_001] {
                for zoned in [true, false] {
                    assert_eq!(parse_timestamp(&timestamp(value, per_second, zoned), per_second), Some(value));
                }
            }
        }
        for value in [i64::MIN, i64::MAX] {
            assert_eq!(parse_timestamp(&timestamp(value, 1_000_000, true), 1_000_000), Some(value));
        }
        for wrong in
            ["", "T", "1970-01-01", "1970-01-01T24:00:00.000000Z", "1970-01-01T00:00:00Z", "1970-01-01T00:00:00.0000001Z"]
        {
            assert_eq!(parse_timestamp(wrong, 1_000_000), None, "{wrong}");
        }
    }

    #[test]
    fn bytes_are_read_as_they_were_written() {
        for (bytes, expected) in [(&b""[..], ""), (b"f", "Zg=="), (b"fo", "Zm8="), (b"foo", "Zm9v"), (b"\x00\xff\xfe", "AP/+")] {
            assert_eq!(base64(bytes), expected);
            assert_eq!(parse_base64(expected).as_deref(), Some(bytes));
        }
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(parse_base64(&base64(&all)), Some(all));
        for wrong in ["A", "AAA", "====", "A===", "AA!A"] {
            assert_eq!(parse_base64(wrong), None, "{wrong}");
        }
    }
}
