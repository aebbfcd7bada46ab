//! Quantities of resources, such as `100m` or `64Mi`, and values that are an integer or a text.

use serde_json::Value;

/// The thousandths of a quantity, none if the text is no quantity or too large to count so.
pub fn parse(text: &str) -> Option<i128> {
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let end =
        unsigned.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let (multiplier, divisor) = scale(suffix)?;
    let mut digits = 0_i128;
    for byte in whole.bytes().chain(fraction.bytes()) {
        digits = digits.checked_mul(10)?.checked_add(i128::from(byte - b'0'))?;
    }
    let places = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let scaled = digits.checked_mul(multiplier)?.checked_mul(1000)?;
    let divisor = places.checked_mul(divisor)?;
    // Rounded up, as Kubernetes does: a request is never less than what was asked for.
    let thousandths = scaled.checked_add(divisor - 1)?.checked_div(divisor)?;
    Some(if negative { -thousandths } else { thousandths })
}

fn scale(suffix: &str) -> Option<(i128, i128)> {
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let scale = 10_i128.checked_pow(power.unsigned_abs())?;
            if power < 0 { (1, scale) } else { (scale, 1) }
        }
    })
}

/// A count that may be given as a percentage of a total, as `maxSurge: 25%`.
pub fn of_total(value: &Value, total: u32, round_up: bool) -> Option<u32> {
    if let Some(count) = value.as_u64() {
        return u32::try_from(count).ok();
    }
    let percent: u64 = value.as_str()?.strip_suffix('%')?.parse().ok()?;
    let hundredfold = u64::from(total).checked_mul(percent)?;
    u32::try_from(if round_up { hundredfold.div_ceil(100) } else { hundredfold / 100 }).ok()
}

#[cfg(test)]
mod tests {
    use super::{of_total, parse};
    use serde_json::json;

    #[test]
    fn quantities() {
        for (text, thousandths) in [
            ("1", Some(1000)),
            ("100m", Some(100)),
            ("1.5", Some(1500)),
            (".5", Some(500)),
            ("2k", Some(2_000_000)),
            ("64Mi", Some(64 * 1024 * 1024 * 1000)),
            ("1e3", Some(1_000_000)),
            ("1E-3", Some(1)),
            ("1n", Some(1)),
            ("-1", Some(-1000)),
            ("", None),
            (".", None),
            ("1.2.3", None),
            ("1x", None),
            ("Mi", None),
            ("1e", None),
            ("1e999", None),
            ("99999999999999999999999999999999999999999", None),
        ] {
            assert_eq!(parse(text), thousandths, "{text}");
        }
    }

    #[test]
    fn parts_of_a_total() {
        assert_eq!(of_total(&json!("25%"), 10, true), Some(3));
        assert_eq!(of_total(&json!("25%"), 10, false), Some(2));
        assert_eq!(of_total(&json!(4), 10, false), Some(4));
        assert_eq!(of_total(&json!("4"), 10, false), None);
        assert_eq!(of_total(&json!(-1), 10, false), None);
    }
}
