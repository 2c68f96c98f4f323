//! Durations of the Gateway API (GEP-2257): up to four numbers of up to five digits, each with `h`, `m`, `s` or `ms`.

use std::time::Duration;

use crate::manifest::fields::{Fields, shortened};

/// A duration; none when absent or malformed, which is a finding.
pub(super) fn read(fields: &mut Fields<'_, '_>, name: &'static str) -> Option<Duration> {
    let text = fields.text(name)?;
    let time = parse(text);
    if time.is_none() {
        let message = format!("\"{}\" is no duration such as 500ms, 10s or 1m30s", shortened(text));
        fields.error_at(name, message);
    }
    time
}

fn parse(text: &str) -> Option<Duration> {
    let (mut rest, mut total, mut parts) = (text, Duration::ZERO, 0);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest.get(..digits).filter(|digits| (1..=5).contains(&digits.len()))?.parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let millis = match &rest[..unit] {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1_000,
            "ms" => 1,
            _ => return None,
        };
        rest = &rest[unit..];
        total += Duration::from_millis(number * millis);
        parts += 1;
    }
    (1..=4).contains(&parts).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_the_gateway_api_has_them() {
        for (text, millis) in
            [("0s", 0), ("500ms", 500), ("1m30s", 90_000), ("1h2m3s4ms", 3_723_004), ("99999s", 99_999_000)]
        {
            assert_eq!(parse(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "s", "1.5s", "-1s", "123456s", "1s1s1s1s1s", "1 s", "1d", "1sm"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
