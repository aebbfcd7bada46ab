//! Times as Kubernetes writes and shows them. The clock is the caller's: `now` is always a parameter.

use jiff::Timestamp;

/// The text of `metadata.creationTimestamp` and the like: whole seconds in UTC.
pub fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The text of fields with microseconds, such as those of leases and events.
pub fn micros(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Reads an RFC 3339 time.
pub fn parse(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

/// How long ago a time is, as kubectl shows ages; `<unknown>` if there is no time.
pub fn age(text: &str, now: Timestamp) -> String {
    parse(text)
        .map_or_else(|| "<unknown>".to_owned(), |then| short_duration(now.as_second().saturating_sub(then.as_second())))
}

/// A span of seconds in at most two units, coarser the longer it is.
pub fn short_duration(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let (days, years) = (hours / 24, hours / 24 / 365);
    let two = |big: i64, big_unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{big}{big_unit}") } else { format!("{big}{big_unit}{small}{small_unit}") }
    };
    match () {
        // One second of slack: the clocks of client and server may differ by so much.
        () if seconds < -1 => "<invalid>".to_owned(),
        () if seconds < 0 => "0s".to_owned(),
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 192 => two(days, "d", hours % 24, "h"),
        () if years < 2 => format!("{days}d"),
        () if years < 8 => two(years, "y", days % 365, "d"),
        () => format!("{years}y"),
    }
}

#[cfg(test)]
mod tests {
    use super::{age, micros, parse, seconds, short_duration};

    #[test]
    fn durations_are_as_kubectl_shows_them() {
        let (m, h, d, y) = (60, 3600, 86400, 365 * 86400);
        for (seconds, shown) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (82, "82s"),
            (119, "119s"),
            (120, "2m"),
            (133, "2m13s"),
            (9 * m + 59, "9m59s"),
            (10 * m + 5, "10m"),
            (179 * m, "179m"),
            (3 * h, "3h"),
            (5 * h + 2 * m, "5h2m"),
            (8 * h + 59 * m, "8h"),
            (47 * h, "47h"),
            (2 * d, "2d"),
            (3 * d + 4 * h, "3d4h"),
            (8 * d + 5 * h, "8d"),
            (729 * d, "729d"),
            (2 * y, "2y"),
            (3 * y + 4 * d, "3y4d"),
            (9 * y + 4 * d, "9y"),
        ] {
            assert_eq!(short_duration(seconds), shown, "{seconds}");
        }
    }

    #[test]
    fn times_are_written_in_utc() {
        let time = parse("2026-03-01T10:20:30.123456789+02:00").unwrap();
        assert_eq!(seconds(time), "2026-03-01T08:20:30Z");
        assert_eq!(micros(time), "2026-03-01T08:20:30.123456Z");
        assert_eq!(age("2026-03-01T08:19:30Z", time), "60s");
        assert_eq!(age("", time), "<unknown>");
    }
}
